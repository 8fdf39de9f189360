r"""Evaluation where the evidence, the posterior or the density is known."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from scipy import stats
from test_ppca import affine, inverse_positive
from torch import Tensor
from torch.distributions import kl_divergence
from zoo import ZOO

from pyro_vae.draws import Draw
from pyro_vae.evaluation import Estimate, chunks, evaluate
from pyro_vae.guides import AmortizedNormal
from pyro_vae.likelihoods import (
    Normal,
)
from pyro_vae.models import VAE

N, F, D, VAR = 7, 5, 2, 0.3


Exact = tuple[VAE, AmortizedNormal, Tensor, Tensor]


@pytest.fixture
def ppca() -> Exact:
    r"""Draws x ~ N(b, W W^T + v I) and, as W^T W = I, the guide that is the posterior."""
    W, b = torch.linalg.qr(torch.randn(F, D)).Q, torch.randn(F)
    A, scale = W.T / (1 + VAR), torch.full((D,), math.sqrt(VAR / (1 + VAR)))
    model = VAE((F,), D, Normal(math.sqrt(VAR)), decoder=affine(W, b))
    bias = torch.cat([-A @ b, inverse_positive(scale)])
    guide = AmortizedNormal((F,), {"z": D}, affine(torch.cat([A, torch.zeros(D, F)]), bias))
    x = model(n=N).detach()
    evidence = dist.MultivariateNormal(b, W @ W.T + VAR * torch.eye(F)).log_prob(x)
    return model, guide, x, evidence


def perturb(guide: AmortizedNormal) -> None:
    guide.encoder.bias.data += torch.tensor([0.2, -0.2, 0.1, 0.1])


def nothing(*_: Any) -> None:
    r"""A guide for models without latents."""


def test_bound_and_evidence_are_exact_at_the_posterior(ppca: Exact) -> None:
    model, guide, x, evidence = ppca
    found = evaluate(model, guide, x, particles=30)

    torch.testing.assert_close(found["elbo"].per_datum, evidence, rtol=0, atol=1e-10)
    torch.testing.assert_close(found["nll"].per_datum, -evidence, rtol=0, atol=1e-10)
    assert found["elbo"].stderr < 1e-14
    assert found["nll"].stderr < 1e-7
    assert found["nll"].data_stderr == pytest.approx(stats.sem(evidence.numpy()))
    assert found["ess"].value == pytest.approx(30)
    assert found["khat"].value == 0
    assert (found["khat"].per_datum == -math.inf).all()
    assert "bpd" not in found


def test_functions_are_metrics(ppca: Exact) -> None:
    model, guide, x, _ = ppca

    def first(pair: Any, fields: Any, place: Any, **setting: Any) -> dict[str, Estimate]:
        assert not torch.is_grad_enabled()
        assert set(setting) == {"particles", "batch_size", "data_size", "seed", "capture"}
        return {"first": Estimate.of(fields[0][:, 0] + torch.rand(N), 0.0)}

    both = evaluate(model, guide, x, ("nll", first, "elbo"), particles=25, seed=3)
    alone = evaluate(model, guide, x, (first,), seed=3)
    assert both["first"].per_datum.equal(alone["first"].per_datum)
    expected = evaluate(model, guide, x, particles=25, seed=3)
    assert all(both[name] == estimate for name, estimate in expected.items())


def test_bound_is_split_by_site() -> None:
    model, guide, batch = ZOO["top_down"]()
    found = evaluate(model, guide, batch[0], ("elbo",), particles=9)

    total = found["kl.z1"].per_datum + found["kl.z2"].per_datum
    torch.testing.assert_close(found["kl"].per_datum, total)
    split = found["log_likelihood"].per_datum - total
    torch.testing.assert_close(found["elbo"].per_datum, split)
    assert set(found) == {"elbo", "log_likelihood", "kl", "kl.z1", "kl.z2"}


def test_standard_errors_cover_the_exact_answer(ppca: Exact) -> None:
    r"""50 seeds: squared z-scores are chi-square but for 1 in 1000 on each side."""
    model, guide, x, evidence = ppca
    p = poutine.trace(guide).get_trace(x).nodes["z"]["fn"]
    perturb(guide)
    q = poutine.trace(guide).get_trace(x).nodes["z"]["fn"]
    exact = {
        "elbo": (evidence - kl_divergence(q, p)).mean().item(),
        "kl": kl_divergence(q, dist.Normal(torch.zeros(D), 1).to_event(1)).mean().item(),
        "nll": -evidence.mean().item(),
    }
    found = [evaluate(model, guide, x, particles=300, seed=seed) for seed in range(50)]

    for name, value in exact.items():
        z = np.array([(each[name].value - value) / each[name].stderr for each in found])
        assert stats.chi2(50).ppf(0.001) < (z**2).sum() < stats.chi2(50).ppf(0.999), name
        assert abs(z.mean()) < 4 / math.sqrt(50), name
    assert not any(each["khat"].per_datum.isnan().any() for each in found)


def test_analytic_terms_of_a_point_estimate() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", dist.Delta(x / 2))

    x = torch.randn(N)
    found = evaluate(model, guide, x, ("elbo",), particles=2)
    joint = dist.Normal(0, 1).log_prob(x / 2) + dist.Normal(x / 2, 1).log_prob(x)
    torch.testing.assert_close(found["elbo"].per_datum, joint)

    with pytest.raises(ValueError, match=r"point estimates at \['z'\]"):
        evaluate(model, guide, x, ("nll",))


def test_auxiliary_site_is_no_point_estimate() -> None:
    r"""log z ~ N(0, 1) and x ~ N(log z, v), with z a function of a helper."""
    scale = math.sqrt(VAR)

    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            z = pyro.sample("z", dist.LogNormal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z.log(), scale), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            posterior = dist.Normal(x / (1 + VAR), scale / math.sqrt(1 + VAR))
            u = pyro.sample("u", posterior, infer={"is_auxiliary": True})
            pyro.sample("z", dist.Delta(u.exp(), -u))

    x = torch.randn(N)
    evidence = dist.Normal(0, math.sqrt(1 + VAR)).log_prob(x)
    found = evaluate(model, guide, x, particles=5)
    torch.testing.assert_close(found["nll"].per_datum, -evidence, rtol=0, atol=1e-10)


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    r"""The numbers of particles and data that are drawn at once."""
    seen = []
    init = Draw.__init__

    def record(draw: Draw, *args: Any, **kwargs: Any) -> None:
        init(draw, *args, **kwargs)
        seen.append((draw.particles, draw.batch_size))

    monkeypatch.setattr(Draw, "__init__", record)
    return seen


def test_thousands_of_particles_in_bounded_memory(
    ppca: Exact, sizes: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, guide, x, evidence = ppca
    perturb(guide)
    whole = evaluate(model, guide, x, particles=5000)
    assert sizes[1:] == [(5000, N)]

    sizes.clear()
    monkeypatch.setitem(chunks._BUDGET, "cpu", 5000)  # x and the decoder's output have 5 elements
    chunked = evaluate(model, guide, x, particles=5000)
    assert all(k * n * F <= 5000 for k, n in sizes[1:])
    assert sum(k for k, _ in sizes[1:]) == 5000

    for found in (whole, chunked):
        assert abs(found["nll"].value + evidence.mean()) < 4 * found["nll"].stderr
    for name in ("elbo", "nll", "ess"):
        error = 4 * math.sqrt(2) * whole[name].stderr if name != "ess" else 50
        assert abs(whole[name].value - chunked[name].value) < error
        assert chunked[name].stderr == pytest.approx(whole[name].stderr, rel=0.1, nan_ok=True)


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_batches_do_not_matter(ppca: Exact, sizes: list[tuple[int, int]], batch_size: int) -> None:
    model, guide, x, evidence = ppca
    found = evaluate(model, guide, x, particles=4, batch_size=batch_size)

    assert max(n for _, n in sizes) == min(batch_size, N)
    torch.testing.assert_close(found["elbo"].per_datum, evidence, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ((1, 10, 1, None, "cpu"), (10, 1)),
        ((784, 10_000, 5000, None, "cpu"), (64, 83)),
        ((784, 10_000, 1, None, "cpu"), (5349, 1)),
        ((2**23, 10, 5, None, "cpu"), (1, 1)),
        ((784, 10_000, 5000, 8, "cpu"), (8, 668)),
        ((784, 10_000, 10, None, "cuda"), (8559, 10)),
    ],
)
def test_chunk_sizes(arguments: tuple, expected: tuple[int, int]) -> None:
    *numbers, device = arguments
    assert chunks.chunk_sizes(*numbers, torch.device(device)) == expected


def global_mean(x: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(x.new_zeros(()), 1.0))
    with pyro.plate("data", x.shape[0], dim=-1):
        pyro.sample("x", dist.Normal(mu, 1.0), obs=x)


def test_bound_with_a_global_latent() -> None:
    r"""Its errors are shared by all data: at the posterior they cancel in the sum."""
    x = 1.5 + torch.randn(N)

    def guide(_: Tensor) -> None:
        pyro.sample("mu", dist.Normal(x.sum() / (N + 1), (N + 1) ** -0.5))

    covariance = torch.eye(N) + torch.ones(N, N)
    evidence = dist.MultivariateNormal(torch.zeros(N), covariance).log_prob(x)
    found = evaluate(global_mean, guide, x, ("elbo",), particles=10)
    assert N * found["elbo"].value == pytest.approx(evidence.item(), abs=1e-10)
    assert found["elbo"].stderr < 1e-12
    assert found["kl.mu"].stderr > 0.01

    larger = evaluate(global_mean, guide, x, ("elbo",), particles=10, data_size=10 * N)
    assert larger["kl.mu"].value == pytest.approx(found["kl.mu"].value / 10)


def test_error_with_a_global_latent_covers_the_exact_answer() -> None:
    r"""40 seeds, two batches each; treating data as independent gives a ratio of about 0.5."""
    x = 1.5 + torch.randn(N)

    def guide(_: Tensor) -> None:
        pyro.sample("mu", dist.Normal(0.5, 0.8))

    q, p = dist.Normal(0.5, 0.8), dist.Normal(0.0, 1.0)
    likelihood = dist.Normal(0.5, 1.0).log_prob(x).mean() - 0.8**2 / 2
    exact = (likelihood - kl_divergence(q, p) / N).item()
    arguments: dict[str, Any] = {"metrics": ("elbo",), "particles": 100, "batch_size": 4}
    found = [evaluate(global_mean, guide, x, **arguments, seed=seed)["elbo"] for seed in range(40)]

    z = np.array([(each.value - exact) / each.stderr for each in found])
    assert stats.chi2(40).ppf(0.001) < (z**2).sum() < stats.chi2(40).ppf(0.999)


def test_whole_batch_is_one_datum_without_a_plate() -> None:
    def model(x: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(x.new_zeros(()), 1.0))
        fn = dist.Normal(mu.unsqueeze(-1), 1.0).expand((*mu.shape, N)).to_event(1)
        pyro.sample("x", fn, obs=x)

    x = torch.randn(N)

    def guide(_: Tensor) -> None:
        pyro.sample("mu", dist.Normal(x.sum() / (N + 1), (N + 1) ** -0.5))

    covariance = torch.eye(N) + torch.ones(N, N)
    evidence = dist.MultivariateNormal(torch.zeros(N), covariance).log_prob(x)
    nll = evaluate(model, guide, x, particles=3)["nll"]
    assert nll.value == pytest.approx(-evidence.item(), abs=1e-10)
    assert nll.per_datum is not None
    assert nll.per_datum.shape == (1,)
    assert nll.unit == "nats (all data)"
    assert math.isnan(nll.data_stderr)


def test_enumerated_mixture() -> None:
    weights, locs = torch.tensor([0.2, 0.5, 0.3]), torch.tensor([-2.0, 0.0, 1.0])

    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            c = pyro.sample("c", dist.Categorical(weights), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(locs[c], 1.0), obs=x)

    x = torch.randn(N)
    expected = dist.MixtureSameFamily(dist.Categorical(weights), dist.Normal(locs, 1.0))
    found = evaluate(model, nothing, x, particles=3)
    torch.testing.assert_close(found["nll"].per_datum, -expected.log_prob(x))
    torch.testing.assert_close(found["elbo"].per_datum, expected.log_prob(x))


def observed(fn: Callable[[], dist.TorchDistribution]) -> Callable[[Tensor], None]:
    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("x", fn(), obs=x)

    return model


def test_bits_of_uniform_levels() -> None:
    uniform = observed(lambda: dist.Categorical(torch.ones(256)).expand([3, 2]).to_event(2))
    x = torch.randint(256, (N, 3, 2)).double()
    bpd = evaluate(uniform, nothing, x, particles=2)["bpd"]

    assert bpd.value == pytest.approx(8)
    assert bpd.unit == "bits/dim"


def test_bits_only_of_mass_functions() -> None:
    uniform = observed(lambda: dist.Uniform(0, 1).expand([2]).to_event(1))
    assert "bpd" not in evaluate(uniform, nothing, torch.rand(N, 2), particles=2)

    def masked(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1), poutine.mask(mask=x[:, 0] > 0):
            pyro.sample("x", dist.Bernoulli(0.5).expand([2]).to_event(1), obs=x)

    assert "bpd" not in evaluate(masked, nothing, torch.ones(N, 2), particles=2)


def test_rows_are_read_as_they_come_and_become_what_the_parameters_are(ppca: Exact) -> None:
    model, guide, x, evidence = ppca
    for data in (x.numpy(), {"x": x.numpy()}, x.float()):
        found = evaluate(model, guide, data, particles=2)["elbo"]
        torch.testing.assert_close(found.per_datum, evidence, rtol=0, atol=1e-5)
    found = evaluate(model.float(), guide.float(), x, particles=2)["elbo"]
    torch.testing.assert_close(found.per_datum, evidence, rtol=0, atol=1e-4)


def test_shapes_of_tails_take_21_particles(ppca: Exact) -> None:
    model, guide, x, _ = ppca
    few, enough = (evaluate(model, guide, x, ("nll",), count)["khat"] for count in (20, 21))
    assert math.isnan(few.value)
    assert enough.value == 0
