r"""Steps: optimisers, what is trained and seen outside, Pyro's own objects, saved states."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import pyro.optim
import pytest
import torch
from pyro import poutine
from pyro.infer import (
    Predictive,
    RenyiELBO,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
)
from pyro.infer.autoguide import AutoNormalMessenger
from pyro.nn import PyroModule
from torch import Tensor, nn
from zoo import ZOO

from pyro_vae import SVI
from pyro_vae.draws import Draw
from pyro_vae.guides import AmortizedNormal
from pyro_vae.models import VAE
from pyro_vae.objectives import ELBO, Bound

N, F, D = 7, 5, 2
sgd = partial(torch.optim.SGD, lr=0.1)
adam = partial(torch.optim.Adam, lr=1e-2)


def pair() -> tuple[VAE, AmortizedNormal, Tensor]:
    x = (torch.rand(N, F) < 0.4).to(torch.get_default_dtype())
    return VAE((F,), D), AmortizedNormal((F,), {"z": D}), x


def trained(optim: Any, loss: Any = None, steps: int = 4, **options: Any) -> list[Tensor]:
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    model, guide, x = pair()
    svi = SVI(model, guide, optim, loss, **options)
    pyro.set_rng_seed(1)
    for _ in range(steps):
        svi.step(x)
    return [p.detach().clone() for p in (*model.parameters(), *guide.parameters())]


def trained_by_pyro(optim: Any, loss: Any, steps: int = 4) -> list[Tensor]:
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    model, guide, x = pair()
    svi = pyro.infer.SVI(model, guide, optim, loss)
    pyro.set_rng_seed(1)
    for _ in range(steps):
        svi.step(x)
    return [p.detach().clone() for p in (*model.parameters(), *guide.parameters())]


def assert_equal(ours: list[Tensor], theirs: list[Tensor]) -> None:
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-10, atol=1e-12)


def by_name(named: Any) -> torch.optim.Optimizer:
    r"""The encoder learns slower than the decoder."""
    slow = [p for name, p in named if name.startswith("guide.encoder.")]
    fast = [p for name, p in named if name.startswith("model.decoder.")]
    assert len(slow) == len(fast) == 4
    return torch.optim.SGD([{"params": slow, "lr": 0.01}, {"params": fast, "lr": 0.1}])


def per_parameter(name: str) -> dict[str, float]:
    return {"lr": 0.1 if name.startswith("decoder.") else 0.01}


def per_module(module: str, name: str) -> dict[str, float]:
    return {"lr": 0.1 if module == "decoder" else 0.01}


OPTIMIZERS: dict[str, tuple[Any, Callable[[], pyro.optim.PyroOptim]]] = {
    "class": (torch.optim.Adam, lambda: pyro.optim.Adam({})),
    "partial": (adam, lambda: pyro.optim.Adam({"lr": 1e-2})),
    "pairs": (by_name, lambda: pyro.optim.SGD(per_parameter)),
    "pyro": (pyro.optim.Adam({"lr": 1e-2}), lambda: pyro.optim.Adam({"lr": 1e-2})),
    "pyro by name": (pyro.optim.SGD(per_parameter), lambda: pyro.optim.SGD(per_parameter)),
    "pyro by module": (pyro.optim.SGD(per_module), lambda: pyro.optim.SGD(per_module)),
    "clipped norm": (
        pyro.optim.SGD({"lr": 0.1}, {"clip_norm": 0.1}),
        lambda: pyro.optim.SGD({"lr": 0.1}, {"clip_norm": 0.1}),
    ),
    "clipped value": (
        pyro.optim.SGD({"lr": 0.1}, {"clip_value": 0.01}),
        lambda: pyro.optim.SGD({"lr": 0.1}, {"clip_value": 0.01}),
    ),
    "ClippedAdam": (
        pyro.optim.ClippedAdam({"lr": 1e-2, "lrd": 0.9, "clip_norm": 0.1}),
        lambda: pyro.optim.ClippedAdam({"lr": 1e-2, "lrd": 0.9, "clip_norm": 0.1}),
    ),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_equals_pyros(name: str) -> None:
    ours, theirs = OPTIMIZERS[name]
    assert_equal(trained(ours, ELBO("sampled")), trained_by_pyro(theirs(), Trace_ELBO()))


LOSSES = {
    "Trace_ELBO": Trace_ELBO,
    "Trace_ELBO of 3": partial(
        Trace_ELBO, num_particles=3, vectorize_particles=True, max_plate_nesting=1
    ),
    "TraceMeanField_ELBO": TraceMeanField_ELBO,
    "TraceEnum_ELBO": partial(
        TraceEnum_ELBO, max_plate_nesting=1, strict_enumeration_warning=False
    ),
    "TraceGraph_ELBO": TraceGraph_ELBO,
    "RenyiELBO": partial(RenyiELBO, alpha=0.0, num_particles=3),
}


@pytest.mark.parametrize("name", LOSSES)
def test_pyros_objects_train_as_in_pyro(name: str) -> None:
    make = LOSSES[name]
    ours, theirs = trained(adam, make()), trained_by_pyro(pyro.optim.Adam({"lr": 1e-2}), make())
    assert_equal(ours, theirs)


def test_particles_train_as_vectorised_ones_in_pyro() -> None:
    theirs = Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1)
    ours = ELBO("sampled", particles=3)
    assert_equal(trained(adam, ours), trained_by_pyro(pyro.optim.Adam({"lr": 1e-2}), theirs))


def test_a_pyro_schedule_steps_the_one_optimizer() -> None:
    def make() -> Any:
        options = {"optimizer": torch.optim.SGD, "optim_args": {"lr": 0.1}, "gamma": 0.5}
        return pyro.optim.ExponentialLR(options)

    results = []
    for kind in (SVI, pyro.infer.SVI):
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        (model, guide, x), scheduler = pair(), make()
        svi = kind(model, guide, scheduler, Trace_ELBO())
        pyro.set_rng_seed(1)
        for _ in range(3):
            svi.step(x)
            scheduler.step()
        results.append([p.detach().clone() for p in model.parameters()])
    assert_equal(*results)


def test_one_fused_optimizer() -> None:
    model, guide, x = pair()
    svi = SVI(model, guide, torch.optim.Adam)
    svi.step(x)
    groups = svi.optimizer.param_groups
    assert [len(group["params"]) for group in groups] == [8]
    assert groups[0]["fused"]


@pytest.mark.parametrize("optim", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
def test_fused_kernels_see_gradients_of_any_strides(optim: Any) -> None:
    r"""That of a sum is one number, expanded, that of a transpose lies transposed."""

    class Sums(PyroModule):
        def __init__(self) -> None:
            super().__init__()
            self.summed = nn.Parameter(torch.zeros(2, 3))
            self.turned = nn.Parameter(torch.zeros(2, 3))

        def forward(self, x: Tensor) -> None:
            loc = self.summed.sum() + (self.turned.t() * torch.arange(6.0).view(3, 2)).sum()
            with pyro.plate("data", x.shape[0], dim=-1):
                pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    def guide(x: Tensor) -> None: ...

    results = []
    for options in ({}, {"foreach": False}):
        model = Sums()
        svi = SVI(model, guide, partial(optim, lr=0.1, **options))
        svi.step(torch.ones(N))
        assert svi.optimizer.param_groups[0]["fused"] is (None if options else True)
        results.append([p.detach() for p in model.parameters()])
    assert_equal(*results)


@pytest.mark.parametrize("optim", [torch.optim.Adam([torch.ones(1)]), "Adam", lambda pairs: None])
def test_what_is_no_optimizer(optim: Any) -> None:
    model, guide, x = pair()
    with pytest.raises(TypeError, match=r"expected a torch\.optim class"):
        SVI(model, guide, optim).step(x)


@pytest.mark.parametrize(
    "optim, match",
    [
        (torch.optim.LBFGS, r"LBFGS, which needs a closure .* first-order"),
        (torch.optim.SparseAdam, r"for dense gradients, .* got SparseAdam: use torch.optim.Adam"),
    ],
)
def test_an_optimizer_that_needs_what_a_step_lacks_is_refused(optim: Any, match: str) -> None:
    model, guide, x = pair()
    with pytest.raises(TypeError, match=match):
        SVI(model, guide, optim).step(x)


def test_reduction_and_size_scale_the_loss() -> None:
    model, guide, x = pair()
    losses = {}
    for reduction, size in (("sum", None), ("mean", None), ("sum", 100), ("mean", 100)):
        svi = SVI(model, guide, adam, data_size=size, reduction=reduction)  # type: ignore[arg-type]
        svi.evaluate_loss(x)
        pyro.set_rng_seed(0)
        losses[reduction, size] = svi.evaluate_loss(x).item()

    mean = losses["mean", None]
    assert losses["sum", None] == pytest.approx(N * mean)
    assert losses["sum", 100] == pytest.approx(100 * mean)
    assert losses["mean", 100] == pytest.approx(mean)


@pytest.mark.parametrize("name", ["Trace_ELBO", "RenyiELBO", "TraceMeanField_ELBO"])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_size_scales_pyros_objects_too(name: str, reduction: Any) -> None:
    model, guide, x = pair()
    plain = SVI(model, guide, adam, LOSSES[name]())
    scaled = SVI(model, guide, adam, LOSSES[name](), data_size=100, reduction=reduction)
    results = []
    for svi in (plain, scaled):
        svi.evaluate_loss(x)
        plan = svi.pair.plan((x,), {})
        pyro.set_rng_seed(0)
        loss, gradients, _ = svi.gradients(plan, (x,), {})
        results.append([loss, *gradients])

    factor = (100 if reduction == "sum" else 1) / N
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(theirs, factor * ours)


def test_renyi_refuses_global_latents_of_a_minibatch() -> None:
    model, guide, (x,) = ZOO["global_latent"]()
    with pytest.raises(ValueError, match=r"global latents \['mu'\] and a batch of 7 of 100"):
        SVI(model, guide, adam, RenyiELBO(num_particles=2), data_size=100).step(x)


@pytest.mark.parametrize("name", ["Trace_ELBO", "RenyiELBO"])
@pytest.mark.parametrize("first", [4, 20])
def test_pyros_objects_see_at_each_batch_whether_it_is_a_part(name: str, first: int) -> None:
    r"""The data plate of 20 says what data_size says: a batch of 4 counts five times."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", 20, subsample=torch.arange(x.shape[0]), dim=-1):
            pyro.sample("x", dist.Normal(x.new_zeros(()), 1.0), obs=x)

    def guide(x: Tensor) -> None: ...

    x = torch.randn(20)
    svi = SVI(model, guide, adam, LOSSES[name](), data_size=20)
    svi.evaluate_loss(x[:first])
    expected = -5 * dist.Normal(0.0, 1.0).log_prob(x[:4]).sum().item()
    assert svi.evaluate_loss(x[:4]).item() == pytest.approx(expected)


@pytest.mark.parametrize("objective", [ELBO(), Trace_ELBO(), RenyiELBO(num_particles=2)])
def test_a_batch_larger_than_the_data_is_refused(objective: Any) -> None:
    model, guide, x = pair()
    with pytest.raises(ValueError, match=r"at least the batch's 7 data, got 3"):
        SVI(model, guide, adam, objective, data_size=3).step(x)
    SVI(model, guide, adam, objective, data_size=3).evaluate_loss(x)  # of other data, it may be


def test_objects_that_do_not_enumerate_are_refused() -> None:
    model, guide, (x,) = ZOO["mixture"]()
    with pytest.raises(ValueError, match=r"sums out \['c'\], got Trace_ELBO"):
        SVI(model, guide, adam, Trace_ELBO()).step(x)


def test_trained_values_are_seen_outside() -> None:
    r"""Plain functions: pyro.param, Predictive and traces show what was trained."""

    def model(x: Tensor) -> None:
        loc = pyro.param("loc", lambda: torch.tensor(0.0))
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("x", dist.Normal(loc, 1e-6), obs=x)

    def guide(x: Tensor) -> None: ...

    x = torch.full((N,), 3.0)
    svi = SVI(model, guide, partial(torch.optim.SGD, lr=1e-13 / N))
    svi.step(x)  # the gradient of the sum is 3 N / 1e-12

    assert pyro.param("loc").item() == pytest.approx(0.3)
    trace = poutine.trace(model).get_trace(x)
    assert trace.nodes["x"]["fn"].mean[0].item() == pytest.approx(0.3)
    drawn = Predictive(poutine.uncondition(model), num_samples=2)(x)["x"]
    torch.testing.assert_close(drawn, torch.full((2, N), 0.3), rtol=1e-4, atol=0)


def test_a_first_step_without_gradients_is_an_error() -> None:
    class Detached(PyroModule):
        def __init__(self) -> None:
            super().__init__()
            self.loc = nn.Parameter(torch.zeros(()))

        def forward(self, x: Tensor) -> None:
            with pyro.plate("data", x.shape[0], dim=-1):
                pyro.sample("x", dist.Normal(self.loc.detach(), 1.0), obs=x)

    class Constant(PyroModule):
        def forward(self, x: Tensor) -> None:
            with pyro.plate("data", x.shape[0], dim=-1):
                pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    def guide(x: Tensor) -> None: ...

    x = torch.randn(N)
    with pytest.raises(ValueError, match="none or zero for every parameter"):
        SVI(Detached(), guide, adam).step(x)
    with pytest.raises(ValueError, match="got none that requires a gradient"):
        SVI(Constant(), guide, adam).step(x)


def test_a_loss_that_is_not_finite_names_the_site_and_trains_nothing() -> None:
    model, guide, x = pair()
    before = [p.detach().clone() for p in model.parameters()]

    class Broken(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return (z.sum(-1, keepdim=True) * torch.nan).expand(*z.shape[:-1], F)

    broken = VAE((F,), D, decoder=Broken())
    with pyro.validation_enabled(False):
        with pytest.raises(ValueError, match=r"got nan: the model's site 'x' .* log-density nan"):
            SVI(broken, guide, adam).step(x)
        with torch.no_grad():
            model.decoder[0].weight[0, 0] = torch.inf
        with pytest.raises(ValueError, match=r"parameter 'model.decoder.0.weight'.* holds inf"):
            SVI(model, guide, adam).step(x)
    with torch.no_grad():
        model.decoder[0].weight[0, 0] = before[0][0, 0]
    assert_equal([*model.parameters()], before)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"reduction": "none"}, "'sum' or 'mean', got 'none'"),
        ({"data_size": 0}, "positive number of data, got data_size=0"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], match: str) -> None:
    model, guide, _ = pair()
    with pytest.raises(ValueError, match=match):
        SVI(model, guide, adam, **options)


def test_steps_neither_move_the_noise_nor_the_caller() -> None:
    r"""The first step's inspection leaves the random state: both noises are those of the seed."""
    model, guide, x = pair()
    pyro.set_rng_seed(0)
    SVI(model, guide, adam).step(x)
    state = torch.get_rng_state()
    pyro.set_rng_seed(0)
    torch.randn(N, D)
    assert torch.equal(state, torch.get_rng_state())


def test_a_guide_that_runs_the_model_does_not_draw_its_data() -> None:
    r"""Otherwise the likelihood stands in the guide, too, and cancels."""
    model, _, batch = ZOO["auto_normal"]()
    guide = AutoNormalMessenger(model)
    guide(*batch)
    svi = SVI(model, guide, adam, ELBO("sampled"))
    svi.evaluate_loss(*batch)
    pyro.set_rng_seed(1)
    loss = svi.evaluate_loss(*batch).item()
    pyro.set_rng_seed(1)
    assert loss == pytest.approx(Trace_ELBO().loss(model, guide, *batch), rel=1e-12)


def test_an_objective_may_share_its_surrogate_with_the_programs() -> None:
    class Weighted(nn.Module):
        particles, pathwise = 1, True

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, draw: Draw) -> Bound:
            value = self.weight * draw.log_weights.mean(0)
            mean = value.mean()
            return Bound(value, mean, mean, mean)

    model, guide, x = pair()
    objective = Weighted()
    loss = SVI(model, guide, sgd, objective, reduction="mean").step(x)
    # the loss is -w times a mean that is the loss at w = 1
    assert objective.weight.item() == pytest.approx(1 - 0.1 * loss.item())


def test_a_small_step_uses_one_thread_and_a_large_one_those_there_are() -> None:
    seen: list[int] = []

    def model(x: Tensor) -> None:
        seen.append(torch.get_num_threads())
        with pyro.plate("data", x.shape[0], dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])

    def guide(x: Tensor) -> None:
        loc = pyro.param("loc", lambda: torch.zeros(2**12))
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", dist.Normal(loc[: x.shape[0]], 1.0))

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        svi = SVI(model, guide, adam)
        for rows in (2**11, 2**12):  # of 2^24 numbers together, or half of them
            svi.prepare(torch.zeros(rows, 1))
            seen.clear()
            svi.step(torch.zeros(rows, 1))
            assert set(seen) == ({1} if rows == 2**11 else {2})
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
