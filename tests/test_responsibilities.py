r"""Whose a datum is, beside scikit-learn, Bayes' rule written out, and enumeration by hand."""

import math
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoDelta, AutoNormal, init_to_value
from sklearn.mixture import GaussianMixture
from torch import Tensor
from zoo import ZOO

import pyro_vae
from pyro_vae import responsibilities
from pyro_vae.models import BayesianGaussianMixture
from pyro_vae.pair import Pair


def nothing(*_: Tensor) -> None:
    r"""A guide for models without other latents."""


def mixture(x: Tensor) -> tuple[BayesianGaussianMixture, GaussianMixture, dict[str, Tensor]]:
    theirs = GaussianMixture(3, covariance_type="diag", random_state=0).fit(x.numpy())
    values = {
        "weights": torch.from_numpy(theirs.weights_),
        "means": torch.from_numpy(theirs.means_),
        "variances": torch.from_numpy(theirs.covariances_),
    }
    return BayesianGaussianMixture(x.shape[1], 3), theirs, values


@pytest.mark.parametrize("batch_size", [256, 7])
def test_equals_predict_proba_of_scikit_learn(batch_size: int) -> None:
    x = torch.randn(40, 2) + 2 * torch.randint(3, (40, 1))
    model, theirs, values = mixture(x)
    hidden = poutine.block(model, hide=["component"])
    guide = AutoDelta(hidden, init_loc_fn=init_to_value(values=values))

    found = responsibilities(model, guide, x, batch_size=batch_size)
    np.testing.assert_allclose(found, theirs.predict_proba(x.numpy()), rtol=0, atol=1e-12)
    assert found.shape == (40, 3)
    assert not found.requires_grad


def test_a_guide_that_draws_nothing_is_enough() -> None:
    x = torch.randn(9, 2)
    model, theirs, values = mixture(x)
    found = responsibilities(poutine.condition(model, data=values), nothing, x)
    np.testing.assert_allclose(found, theirs.predict_proba(x.numpy()), rtol=0, atol=1e-12)


def test_averages_over_what_the_guide_draws() -> None:
    r"""Exactly, where the draws are known: those of the same seed, each by Bayes' rule."""
    x = torch.randn(6, 2)
    model, _, values = mixture(x)
    hidden = poutine.block(model, hide=["component"])
    guide = AutoNormal(hidden, init_loc_fn=init_to_value(values=values))
    pair, drawn = Pair(model, guide), []
    layout = pair.plan((x,), {}).layout

    def noted(*batch: Tensor) -> Any:
        found = guide(*batch)
        drawn.append({name: value.detach() for name, value in found.items()})
        return found

    found = responsibilities(model, noted, x, particles=5)
    assert layout.enumerated == {"component"}
    # the first passes see how the pair is built; then one particle, and four at once
    one, four = drawn[-2:]
    assert four["means"].shape == (4, 3, 2)
    parts = [{n: v[None] if v.dim() < four[n].dim() else v for n, v in one.items()}, four]
    each = []
    for part in parts:
        for s in range(part["means"].shape[0]):
            weights = part["weights"][s].reshape(3)
            normal = dist.Normal(part["means"][s], part["variances"][s].sqrt()).to_event(1)
            each.append((weights.log() + normal.log_prob(x[:, None])).softmax(1))
    torch.testing.assert_close(found, torch.stack(each[:5]).mean(0), rtol=0, atol=1e-12)
    assert len(each) == 5


class Chain(pyro.nn.PyroModule):
    r"""a -> b -> x <- a, with b once more in a plate of features, and z of each datum."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("prior", torch.tensor([0.2, 0.5, 0.3]))
        self.register_buffer("turn", torch.tensor([[0.9, 0.1], [0.3, 0.7], [0.5, 0.5]]))
        self.register_buffer("locs", torch.randn(3, 2))

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-2):
            a = pyro.sample("a", dist.Categorical(self.prior), infer={"enumerate": "parallel"})
            with pyro.plate("features", x.shape[1], dim=-1):
                b = pyro.sample(
                    "b", dist.Categorical(self.turn[a]), infer={"enumerate": "parallel"}
                )
                pyro.sample("x", dist.Normal(self.locs[a, b], 1.0), obs=x)


def enumerated(model: Chain, x: Tensor) -> tuple[Tensor, Tensor]:
    r"""p(a | x) and p(b_f | x), every a and b written out."""
    log_b = model.turn.log() + dist.Normal(model.locs, 1.0).log_prob(x[..., None, None])
    each = log_b.logsumexp(-1)  # (N, F, 3)
    p_a = (model.prior.log() + each.sum(1)).softmax(-1)
    return p_a, (p_a[:, None, :, None] * log_b.softmax(-1)).sum(2)


def test_other_sites_are_summed_out_and_other_plates_stay() -> None:
    model, x = Chain(), torch.randn(5, 4)
    p_a, p_b = enumerated(model, x)
    found_a = responsibilities(model, nothing, x, site="a")
    found_b = responsibilities(model, nothing, x, site="b", batch_size=2)

    torch.testing.assert_close(found_a.squeeze(1), p_a, rtol=0, atol=1e-12)
    torch.testing.assert_close(found_b, p_b, rtol=0, atol=1e-12)


def test_latents_of_each_datum_are_given() -> None:
    r"""The zoo's mixture, whose likelihood and latent depend on the component."""
    model, guide, (x,) = ZOO["mixture"]()
    found = responsibilities(model, guide, x, particles=1, seed=3)

    pyro.set_rng_seed(3)
    guide(x)  # the pass that shows the layout keeps the random state
    pyro.set_rng_seed(3)
    z = poutine.trace(guide).get_trace(x).nodes["z"]["value"]
    with torch.no_grad():
        log_joint = model.weights.log_softmax(0) + torch.stack(
            [
                dist.Normal(model.locs[c], 1.0).to_event(1).log_prob(z)
                + dist.Bernoulli(logits=model.decoder(z) + model.shifts[c]).to_event(1).log_prob(x)
                for c in range(3)
            ],
            1,
        )
    torch.testing.assert_close(found, log_joint.softmax(1), rtol=0, atol=1e-12)


def test_a_datum_whose_likelihood_is_masked_has_the_prior() -> None:
    known = torch.tensor([True, False])

    def model(x: Tensor) -> None:
        with pyro.plate("data", 2):
            c = pyro.sample(
                "c", dist.Bernoulli(x.new_tensor(0.25)), infer={"enumerate": "parallel"}
            )
            with poutine.mask(mask=known):
                pyro.sample("x", dist.Normal(c, 1.0), obs=x)

    found = responsibilities(model, nothing, torch.tensor([0.5, 3.0]))
    torch.testing.assert_close(found, torch.tensor([[0.75, 0.25]] * 2), rtol=0, atol=1e-12)


def test_components_that_are_impossible_have_probability_zero() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            c = pyro.sample(
                "c",
                dist.Categorical(x.new_tensor([0.0, 0.4, 0.6])),
                infer={"enumerate": "parallel"},
            )
            pyro.sample("x", dist.Normal(c.to(x), 1.0), obs=x)

    found = responsibilities(model, nothing, torch.tensor([0.5, 1.5]))
    expected = 1 / (1 + 1.5 * math.exp(-1.0))  # p(x | 2) / p(x | 1) = exp(x - 3/2)
    assert found[0].tolist() == pytest.approx([0, expected, 1 - expected], abs=1e-12)
    assert found[1].tolist() == pytest.approx([0, 0.4, 0.6], abs=1e-12)


def impossible(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        c = pyro.sample("c", dist.Bernoulli(x.new_tensor(0.5)), infer={"enumerate": "parallel"})
        inside = dist.Uniform(c, c + 1, validate_args=False)
        pyro.sample("x", inside, obs=x)


def test_errors_say_what_to_do() -> None:
    model, x = Chain(), torch.randn(5, 4)
    vae, guide, batch = ZOO["vae"]()
    with pytest.raises(ValueError, match=r"expected site=… to be one of them, .* got \['a', 'b'\]"):
        responsibilities(model, nothing, x)
    with pytest.raises(ValueError, match=r"expected site='c' .* got \['a', 'b'\]: mark a"):
        responsibilities(model, nothing, x, site="c")
    with pytest.raises(ValueError, match=r"that the model sums out, got none: mark a"):
        responsibilities(vae, guide, *batch)
    with pytest.raises(ValueError, match="density above zero for some value of site 'c'"):
        responsibilities(impossible, nothing, torch.tensor([0.5, 3.5]))
    with pytest.raises(ValueError, match="expected particles of at least 1, got 0"):
        responsibilities(model, nothing, x, site="a", particles=0)


def test_is_exported() -> None:
    assert pyro_vae.responsibilities is pyro_vae.evaluation.responsibilities
