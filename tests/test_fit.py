r"""The loop: it reaches known optima, repeats itself, writes what it did, refuses what is wrong."""

import math
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule
from torch import Tensor, nn
from zoo import ZOO, local_and_global

import pyro_vae
from pyro_vae import fit
from pyro_vae.data import load
from pyro_vae.devices import find_device
from pyro_vae.guides import AmortizedNormal
from pyro_vae.likelihoods import Normal
from pyro_vae.models import VAE
from pyro_vae.objectives import ELBO

N, F, D, VAR = 200, 5, 2, 0.3
quiet = partial(fit, progress=False)
still = partial(torch.optim.SGD, lr=0.0)


def nothing(*batch: Any) -> None:
    r"""The guide of a model without latents."""


class Rows(PyroModule):
    r"""x ~ N(loc, 1): the bound is the log-density, without noise."""

    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.tensor(0.3))

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("x", dist.Normal(self.loc, 1.0).expand([F]).to_event(1), obs=x)


def small() -> tuple[VAE, AmortizedNormal, Tensor]:
    x = (torch.rand(10, F) < 0.4).to(torch.get_default_dtype())
    return VAE((F,), D), AmortizedNormal((F,), {"z": D}), x


def linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.load_state_dict({"weight": weight, "bias": bias})
    return layer.requires_grad_(False)


def test_the_guide_of_probabilistic_pca_becomes_the_posterior() -> None:
    r"""With W^T W = I the posterior is a diagonal normal: the bound rises to log p, and stops."""
    W, b = torch.linalg.qr(torch.randn(F, D)).Q, torch.randn(F)
    model = VAE((F,), D, Normal(math.sqrt(VAR)), decoder=linear(W, b)).eval()
    guide = AmortizedNormal((F,), {"z": D}, nn.Linear(F, 2 * D))
    x = model(n=N).detach()
    evidence = dist.MultivariateNormal(b, W @ W.T + VAR * torch.eye(F)).log_prob(x).mean()

    class Frozen(PyroModule):  # fit puts modules into training mode, and Pyro would warn
        def forward(self, x: Tensor) -> Any:
            return model(x)

    # sampled: at the posterior its noise vanishes
    options = {"objective": ELBO("sampled"), "batch_size": 50}
    first, last = (
        quiet(Frozen(), guide, x, epochs=n, optimizer=partial(torch.optim.Adam, lr=rate), **options)
        for n, rate in ((150, 0.02), (50, 0.002))
    )
    assert first.history[0]["elbo"] < evidence - 0.5
    assert last.history[-1]["elbo"] == pytest.approx(evidence.item(), abs=0.02)
    found = pyro_vae.evaluate(model, guide, x, particles=100)
    assert float(-found["nll"]) == pytest.approx(evidence.item(), abs=0.005)


def test_rows_hold_means_over_data_of_uneven_batches() -> None:
    r"""10 data in batches of 4, 4 and 2, nothing trained: every epoch's mean is the exact one."""
    x, model = torch.randn(10, F), Rows()
    run = quiet(model, nothing, x, epochs=2, batch_size=4, optimizer=still)

    exact = dist.Normal(0.3, 1.0).log_prob(x).sum(-1).mean().item()
    for epoch, row in enumerate(run.history, start=1):
        assert row["elbo"] == pytest.approx(exact, rel=1e-12)
        assert row["objective"] == pytest.approx(exact, rel=1e-12)
        assert (row["epoch"], row["step"]) == (epoch, 3 * epoch)


def test_the_maximum_is_found() -> None:
    x, model = torch.randn(50, F) + 2.0, Rows()
    quiet(model, nothing, x, epochs=60, batch_size=50, optimizer=partial(torch.optim.SGD, lr=0.1))
    assert model.loc.item() == pytest.approx(x.mean().item(), abs=1e-6)


def weights(seed: int, **options: Any) -> list[Tensor]:
    pyro.set_rng_seed(0)
    model, guide, x = small()
    quiet(model, guide, x, epochs=2, batch_size=4, seed=seed, **options)
    return [p.detach() for p in (*model.parameters(), *guide.parameters())]


def test_a_seed_repeats_a_fit_and_leaves_the_caller_alone() -> None:
    first, again, other = weights(1), weights(1), weights(2)
    assert all(torch.equal(p, q) for p, q in zip(first, again, strict=True))
    assert any((p != q).any() for p, q in zip(first, other, strict=True))

    model, guide, x = small()
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    quiet(model, guide, x, epochs=1)
    assert torch.equal(state, torch.get_rng_state())
    assert threads == torch.get_num_threads()


def test_validation_is_the_bound_of_its_split() -> None:
    r"""Exact without latents, and untouched by training: 30 data are held out."""
    x = torch.randn(100, F)
    data = load(x, validation=0.3, test=0.0)
    model = Rows()
    run = quiet(model, nothing, data, epochs=2, optimizer=still)
    exact = dist.Normal(0.3, 1.0).log_prob(data.validation["x"]).sum(-1).mean().item()

    assert len(data.validation["x"]) == 30
    assert run.history[1]["validation.elbo"] == pytest.approx(exact)
    assert not any("validation" in k for k in quiet(model, nothing, x, epochs=1).history[0])
    off = quiet(model, nothing, data, epochs=1, validation=False)
    assert not any("validation" in key for key in off.history[0])


def test_inputs_decide_what_programs_get() -> None:
    seen: list[tuple[Tensor, ...]] = []

    class Labelled(PyroModule):
        def __init__(self) -> None:
            super().__init__()
            self.loc = nn.Parameter(torch.zeros(()))

        def forward(self, *batch: Tensor) -> None:
            seen.append(batch)
            with pyro.plate("data", batch[0].shape[0], dim=-1):
                pyro.sample("x", dist.Normal(self.loc, 1.0).expand([F]).to_event(1), obs=batch[0])

    x, y = torch.arange(8.0).unsqueeze(1).expand(8, F), torch.arange(8)
    quiet(Labelled(), nothing, (x, y), epochs=1)
    assert {len(batch) for batch in seen} == {1}
    seen.clear()
    quiet(Labelled(), nothing, (x, y), inputs=("x", "y"), epochs=1, batch_size=4)
    assert {len(batch) for batch in seen} == {2}
    assert all(torch.equal(rows[:, 0], labels.double()) for rows, labels in seen)


def test_dynamic_binarization_draws_each_epoch_anew() -> None:
    seen: list[Tensor] = []

    class Watched(Rows):
        def forward(self, x: Tensor) -> None:
            seen.append(x)
            super().forward(x)

    data = load(torch.full((20, F), 0.5) + 1e-3 * torch.rand(20, F), binarization="dynamic")
    quiet(Watched(), nothing, data, epochs=2, batch_size=100, validation=False, optimizer=still)
    first, second = seen[-2:]
    assert set(first.unique().tolist()) == {0.0, 1.0}
    assert (first.sum(0) != second.sum(0)).any()


def test_the_bound_is_logged_whatever_the_objective() -> None:
    r"""Pyro's objects do not tell their parts: the bound is evaluated; here it has no noise."""
    x, model = torch.randn(10, F), Rows()
    run = quiet(model, nothing, x, epochs=2, objective=Trace_ELBO(), optimizer=still)
    exact = dist.Normal(0.3, 1.0).log_prob(x).sum(-1).mean().item()
    assert run.model is model
    assert run.guide is nothing
    assert run.history[-1]["objective"] == pytest.approx(exact)
    assert run.history[-1]["elbo"] == pytest.approx(exact)


def test_densities_are_in_the_units_of_the_data() -> None:
    r"""Standardised rows under N(0, 1): in their own units N(mean, sd), here with sd 100."""
    data = load(100 * torch.randn(40, F) + 7.0, standardize=True, validation=0.25, test=0.0)
    model = Rows()
    model.loc.data.zero_()
    run = quiet(model, nothing, data, epochs=1, optimizer=still)

    loc, scale = (
        data.restore(torch.zeros(F)),
        data.restore(torch.ones(F)) - data.restore(torch.zeros(F)),
    )
    for key, split in (("elbo", data.train), ("validation.elbo", data.validation)):
        rows = data.restore(split["x"])
        exact = dist.Normal(loc, scale).log_prob(rows).sum(-1).mean().item()
        assert run.history[0][key] == pytest.approx(exact, rel=1e-9)


def test_inputs_are_names() -> None:
    model, guide, x = small()
    with pytest.raises(TypeError, match="a sequence of names, got 'x'"):
        quiet(model, guide, x, inputs="x", epochs=1)


def test_global_latents_are_weighed_by_the_training_data() -> None:
    r"""AutoNormal on a normal mean: 200 data in batches of 20; sd 1/sqrt(201) within 10 %."""

    def model(x: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(x.new_zeros(()), 1.0))
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("x", dist.Normal(mu, 1.0), obs=x)

    x, guide = 1.0 + torch.randn(200), AutoNormal(model, init_scale=0.3)
    objective = ELBO(particles=30)
    for rate in (0.05, 0.005):
        quiet(
            model,
            guide,
            x,
            epochs=30,
            batch_size=20,
            objective=objective,
            optimizer=partial(torch.optim.Adam, lr=rate),
        )
    assert guide.scales.mu.item() == pytest.approx(1 / math.sqrt(201), rel=0.1)


class Exploding(nn.Module):
    r"""Overflows once its weight has moved."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(D, F))

    def forward(self, z: Tensor) -> Tensor:
        moved = (self.weight != 0).any()
        return z @ self.weight + torch.where(moved, torch.nan, 0.0)


def test_a_loss_that_is_not_finite_names_the_site() -> None:
    _, guide, x = small()
    match = r"got nan: the model's site 'x'"
    with pytest.raises(ValueError, match=match), pyro.validation_enabled(False):
        quiet(VAE((F,), D, decoder=Exploding()), guide, x, epochs=2)


ERRORS: dict[str, tuple[dict[str, Any], str]] = {
    "epochs": ({"epochs": 0}, "epochs to be a whole number of at least 1, got 0"),
    "batch size": ({"batch_size": 0}, "batch_size to be a whole number of at least 1, got 0"),
    "half an epoch": ({"epochs": 1.5}, "epochs to be a whole number of at least 1, got 1.5"),
    "inputs": ({"inputs": ("x", "label")}, r"fields of the data, \['x'\], got \['label'\]"),
    "device": ({"device": "gpu"}, "a device that is here .* got 'gpu'"),
    "plate": ({"data_plate": "images"}, r"got 'images'"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name: str) -> None:
    options, match = ERRORS[name]
    model, guide, x = small()
    with pytest.raises(ValueError, match=match):
        quiet(model, guide, x, **{"epochs": 1, **options})


def test_the_checker_runs_first() -> None:
    model, _, x = small()
    with pytest.raises(ValueError, match="expected the guide to draw 'z'"):
        quiet(model, nothing, x, epochs=1)


def test_rows_outside_the_support_are_found_before_training() -> None:
    model, guide, _ = small()
    x = (torch.rand(300, F) < 0.4).to(torch.get_default_dtype())
    x[250, 1] = 3.0  # not in the first batch
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(
        ValueError, match=r"'x'.* from 0 to 3, first in row 250: .*Binomial\(total_count=3\)"
    ):
        quiet(model, guide, x, batch_size=20, epochs=1)
    assert all(torch.equal(p, q) for p, q in zip(before, model.parameters(), strict=True))


def test_devices() -> None:
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert find_device().type == expected
    assert find_device("cpu") == torch.device("cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", ["vae", "batch_norm_and_dropout", "auto_normal"])
def test_fits_on_cuda(name: str) -> None:
    model, guide, batch = ZOO[name]()
    run = quiet(model, guide, batch[0], epochs=2, device="cuda")
    assert math.isfinite(run.history[-1]["elbo"])


def test_autoguides_and_functions_are_fitted() -> None:
    x = 1.5 + torch.randn(20)
    guide = AutoNormal(local_and_global)
    adam = partial(torch.optim.Adam, lr=0.02)
    run = quiet(local_and_global, guide, x, epochs=100, batch_size=20, optimizer=adam)
    bounds = torch.tensor([row["elbo"] for row in run.history])
    # the bound of one draw has a standard deviation of about 0.3 here, and rises by 1
    assert bounds[-20:].mean() > bounds[:20].mean() + 0.3
