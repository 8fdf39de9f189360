r"""Networks given as modules, or as functions that make them."""

__all__ = ["FACTS", "Network", "make_decoder", "make_network"]

from collections.abc import Callable, Sequence
from functools import partial
from inspect import Parameter, signature
from typing import Any

from torch import Size, nn

from pyro_vae.nn.perceptron import mlp

Network = nn.Module | Callable[..., nn.Module]

FACTS = ("inputs", "outputs", "event_shape", "parameters")


def make_network(
    network: Network | None,
    *,
    inputs: int,
    outputs: int,
    event_shape: Sequence[int] | None = None,
    parameters: int | None = None,
) -> nn.Module:
    r"""Returns a network as it is, or makes it from the facts that its maker asks for.

    A maker is called by keyword with those facts that its signature names and that
    :func:`functools.partial` has not bound.

    Arguments:
        network: The network or its maker, by default :func:`mlp`.
        inputs: The number of input features.
        outputs: The number of output features.
        event_shape: The shape of one datum.
        parameters: The number of parameters per feature of the likelihood.

    Raises:
        TypeError: If ``network`` is neither, if the maker needs something else, or if what it
            makes is no network.

    Example:
        >>> make_network(partial(mlp, hidden=()), inputs=2, outputs=64)
        Sequential(
          (0): Linear(in_features=2, out_features=64, bias=True)
        )
    """
    if isinstance(network, nn.Module):
        return network
    if network is not None and not callable(network):
        raise TypeError(
            f"expected a network (an nn.Module) or a function that makes one, got {network!r}"
        )

    maker = mlp if network is None else network
    values = (inputs, outputs, event_shape, parameters)
    facts = {name: value for name, value in zip(FACTS, values, strict=True) if value is not None}
    made = maker(**_wanted(maker, facts))
    if not isinstance(made, nn.Module):
        raise TypeError(
            f"expected {_name(maker)} to make a network (an nn.Module), got {type(made).__name__}"
        )

    return made


def make_decoder(
    network: Network | None, latents: int, event_shape: Size, parameters: int
) -> nn.Module:
    r"""Returns a network from latents to a likelihood's parameters, as :func:`make_network` does.

    Arguments:
        network: The network or its maker, by default :func:`mlp`.
        latents: The number of latent features :math:`D`.
        event_shape: The shape of one datum, with :math:`F` features in all.
        parameters: The number of parameters per feature :math:`P` of the likelihood.

    Raises:
        TypeError: As :func:`make_network` does.

    Example:
        >>> make_decoder(partial(mlp, hidden=()), 2, Size([1, 8, 8]), 3)
        Sequential(
          (0): Linear(in_features=2, out_features=192, bias=True)
        )
    """
    return make_network(
        network,
        inputs=latents,
        outputs=parameters * event_shape.numel(),
        event_shape=event_shape,
        parameters=parameters,
    )


def _wanted(maker: Callable[..., object], facts: dict[str, Any]) -> dict[str, Any]:
    r"""Those of the facts that a maker asks for."""
    bound = maker.keywords if isinstance(maker, partial) else {}
    named = {
        name: parameter
        for name, parameter in signature(maker).parameters.items()
        if parameter.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
    }
    needed = [name for name, parameter in named.items() if parameter.default is Parameter.empty]
    if missing := [name for name in needed if name not in facts]:
        raise TypeError(
            f"expected a maker of networks that needs no more than {', '.join(facts)}, got "
            f"{_name(maker)}, which also needs {', '.join(missing)}: bind that with "
            f"functools.partial({_name(maker)}, {missing[0]}=…)"
        )

    return {name: value for name, value in facts.items() if name in named and name not in bound}


def _name(maker: Callable[..., object]) -> str:
    while isinstance(maker, partial):
        maker = maker.func
    return getattr(maker, "__name__", type(maker).__name__)
