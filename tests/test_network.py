r"""Networks as makers: the facts that reach them, and what programs make of them."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from pyro_vae.guides import AmortizedMultivariateNormal, AmortizedNormal
from pyro_vae.likelihoods import NormalPredictedScale
from pyro_vae.models import VAE
from pyro_vae.nn import conv_decoder, conv_encoder, make_network, mlp

FACTS: dict[str, Any] = {"inputs": 3, "outputs": 5, "event_shape": (1, 8, 8), "parameters": 2}


def asks(**given: Any) -> nn.Module:
    r"""Makes a module that remembers what it was made with."""
    module = nn.Identity()
    module.given = given
    return module


MAKERS: dict[str, tuple[Callable[..., nn.Module], set[str]]] = {
    "nothing": (lambda: asks(), set()),
    "two": (lambda inputs, outputs: asks(inputs=inputs, outputs=outputs), {"inputs", "outputs"}),
    "a default": (lambda outputs=0: asks(outputs=outputs), {"outputs"}),
    "keyword only": (lambda *, event_shape: asks(event_shape=event_shape), {"event_shape"}),
    "parameters": (lambda parameters: asks(parameters=parameters), {"parameters"}),
    "others with a default": (lambda inputs, width=4: asks(inputs=inputs), {"inputs"}),
    "bound by keyword": (
        partial(lambda inputs, outputs: asks(outputs=outputs), inputs=7),
        {"outputs"},
    ),
    "bound by position": (partial(lambda inputs, outputs: asks(outputs=outputs), 7), {"outputs"}),
    "bound twice": (
        partial(partial(lambda width, inputs: asks(inputs=inputs), width=1)),
        {"inputs"},
    ),
}


@pytest.mark.parametrize("name", MAKERS)
def test_a_maker_gets_the_facts_it_names(name: str) -> None:
    maker, asked = MAKERS[name]
    assert make_network(maker, **FACTS).given == {fact: FACTS[fact] for fact in asked}


def test_what_is_bound_stays() -> None:
    made = make_network(partial(lambda inputs, outputs: asks(inputs=inputs), inputs=7), **FACTS)
    assert made.given == {"inputs": 7}


def test_a_module_is_itself_and_a_class_a_maker() -> None:
    module = nn.Linear(3, 5)
    assert make_network(module, **FACTS) is module
    assert isinstance(make_network(nn.Identity, **FACTS), nn.Identity)


def test_the_default_is_mlp() -> None:
    torch.manual_seed(0)
    made = make_network(None, **FACTS).state_dict()
    torch.manual_seed(0)
    expected = mlp(3, 5).state_dict()
    assert made.keys() == expected.keys()
    assert all(torch.equal(made[name], expected[name]) for name in made)


def test_programs_make_their_networks() -> None:
    shape, likelihood = (1, 9, 8), NormalPredictedScale()
    torch.manual_seed(0)
    model = VAE(shape, 2, likelihood, partial(conv_decoder, channels=(4,), hidden=6))
    guide = AmortizedNormal(shape, {"z": 2}, partial(conv_encoder, channels=(4,)))
    full = AmortizedMultivariateNormal(shape, {"z": 2, "y": 1}, partial(mlp, hidden=(7,)))
    torch.manual_seed(0)
    expected = [
        conv_decoder(2, shape, 2, (4,), 6),
        conv_encoder(shape, 4, (4,)),
        mlp(72, 2 + 1 + 3 + 1, (7,)),
    ]

    for network, same in zip((model.decoder, guide.encoder, full.encoder), expected, strict=True):
        assert repr(network) == repr(same)
        for parameter, other in zip(network.parameters(), same.parameters(), strict=True):
            assert torch.equal(parameter, other)
    assert guide(model(n=3))["z"].shape == (3, 2)


@pytest.mark.parametrize(
    "network, match",
    [
        (5, r"expected a network \(an nn.Module\) or a function that makes one, got 5"),
        ("mlp", "or a function that makes one, got 'mlp'"),
        (lambda: torch.zeros(3), r"expected <lambda> to make .* got Tensor"),
        (partial(sorted, ()), "expected sorted to make a network"),
        (
            partial(nn.Linear, in_features=2),
            r"no more than inputs, outputs, event_shape, parameters, got Linear, which also needs "
            r"out_features: bind that with functools.partial\(Linear, out_features=…\)",
        ),
    ],
)
def test_errors(network: Any, match: str) -> None:
    with pytest.raises(TypeError, match=match):
        make_network(network, **FACTS)


def test_a_fact_that_is_not_known_is_named() -> None:
    with pytest.raises(
        TypeError,
        match="outputs, event_shape, got <lambda>, which also needs parameters",
    ):
        AmortizedNormal((1, 8, 8), {"z": 2}, lambda parameters: None)
