r"""The checker: broken pairs get the words they need, sound ones none, and nothing is changed."""

import inspect
import random
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from broken import BROKEN, REFUSED, SUSPECT, Guide, Model, amortised, batch, bernoulli, sound
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from pyro.infer.autoguide import AutoGuideList, AutoNormal
from torch import Tensor
from zoo import ZOO, D, F, N, Pair, local_and_global, standard

from pyro_vae.checks import Finding, check, require
from pyro_vae.objectives import ELBO


def sequential(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0], dim=-1):
        z = pyro.sample("z", standard(x, D))
        for f in pyro.plate("features", F):
            pyro.sample(f"x{f}", dist.Normal(z.sum(-1), 1.0), obs=x[:, f])


def draws_its_rows(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0], subsample_size=3, dim=-1) as rows:
        z = pyro.sample("z", standard(x, D))
        pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x[rows, 0])


def draws_its_rows_too(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0], subsample_size=3, dim=-1):
        pyro.sample("z", standard(x, D))


def constant(x: Tensor) -> None:
    sound(x)
    with pyro.plate("more", N, dim=-1):
        pyro.sample("event", dist.Bernoulli(0.3), obs=x.new_ones(()))


def labelled(x: Tensor, *, y: Tensor) -> None:
    sound(x)
    with pyro.plate("labels", x.shape[0], dim=-1):
        pyro.sample("y", dist.Categorical(logits=x.new_zeros(3)), obs=y)


def improper(x: Tensor) -> None:
    r"""A prior that has a density but no sampler."""
    z = pyro.sample("z", dist.ImproperUniform(dist.constraints.real, (), (D,)))
    with pyro.plate("data", x.shape[0], dim=-1):
        pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True), 1.0), obs=x[:, 0])


def spread_factor(x: Tensor) -> None:
    sound(x)
    with pyro.plate("rows", x.shape[0], dim=-2), pyro.plate("columns", F, dim=-1):
        pyro.factor("penalty", -(x[:, :1] ** 2))


def leading_one(x: Tensor) -> None:
    z = pyro.sample("z", dist.Normal(x.new_zeros(1, D), 1.0).to_event(1))
    with pyro.plate("data", x.shape[0], dim=-1):
        pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x[:, 0])


def masked(x: Tensor) -> None:
    r"""A density of zero that does not count."""
    sound(x)
    with pyro.plate("rows", x.shape[0], dim=-1), poutine.mask(mask=x[:, 0].isnan()):
        pyro.sample("y", dist.Normal(x[:, 0], torch.finfo(x.dtype).tiny), obs=x[:, 0] + 1)


def point(x: Tensor) -> None:
    loc = pyro.param("loc", lambda: torch.zeros(D))
    pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))


def halves() -> Pair:
    guide = AutoGuideList(local_and_global)
    guide.append(AutoNormal(poutine.block(local_and_global, expose=["mu", "scale"])))
    guide.append(AutoNormal(poutine.block(local_and_global, expose=["z"])))
    return local_and_global, guide, (torch.randn(N),)


def binary_latents() -> Pair:
    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            z = pyro.sample("z", dist.Bernoulli(x.new_full((D,), 0.5)).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x[:, 0])

    return model, Guide(bernoulli), batch()


# name -> (model, guide and batch, objective)
SOUND: dict[str, tuple[Callable[[], Pair], Any]] = {
    "sequential plate": (lambda: (sequential, amortised, batch()), ELBO(particles=2)),
    "rows drawn": (lambda: (draws_its_rows, draws_its_rows_too, batch()), ELBO()),
    "constant observed": (lambda: (constant, amortised, batch()), ELBO(particles=2)),
    "factor in two plates": (lambda: (spread_factor, amortised, batch()), ELBO(particles=2)),
    "batch dimension of one": (lambda: (leading_one, point, batch()), ELBO()),
    "density masked": (lambda: (masked, amortised, batch()), ELBO(particles=2)),
    "autoguides in a list": (halves, ELBO()),
    "discrete guide": (binary_latents, Trace_ELBO()),
    "enumerated": (ZOO["mixture"], TraceEnum_ELBO(max_plate_nesting=1)),
    "bound methods": (lambda: (sound, Guide().forward, batch()), ELBO(particles=2)),
    "handlers": (lambda: (poutine.scale(sound, 2.0), amortised, batch()), ELBO(particles=2)),
    "one datum": (lambda: (sound, amortised, batch(1, F)), ELBO(particles=2)),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_pairs_are_explained(name: str) -> None:
    make, site, match = BROKEN[name]
    model, guide, batch = make()

    findings = check(model, guide, *batch)

    assert findings[0].site == site
    with pytest.raises(ValueError, match=match):
        require(findings[:1])


@pytest.mark.parametrize(
    "name",
    ["other number of latents", "plate of a fixed size in the guide, sites that do not tell"],
)
def test_consequences_are_left_out(name: str) -> None:
    model, guide, batch = BROKEN[name][0]()

    assert len(check(model, guide, *batch)) == 1


def test_distributions_are_validated_while_they_are_checked() -> None:
    model = Model(likelihood=lambda h: dist.Normal(h, -1.0).to_event(1))

    with (
        pyro.validation_enabled(False),
        pytest.raises(ValueError, match=r"Expected parameter scale .* constraint GreaterThan"),
    ):
        require(check(model, Guide(), *batch()))


@pytest.mark.parametrize("name", SUSPECT)
def test_suspect_pairs_get_a_warning(name: str) -> None:
    make, site, match = SUSPECT[name]
    model, guide, batch = make()

    findings = check(model, guide, *batch)
    require(findings)

    assert [(finding.site, finding.severity) for finding in findings] == [(site, "warning")]
    with pytest.raises(ValueError, match=match):
        raise ValueError(str(findings[0]))


@pytest.mark.parametrize("name", REFUSED)
def test_objectives_refuse(name: str) -> None:
    make, objective, match = REFUSED[name]
    model, guide, batch = make()

    assert check(model, guide, *batch) == []
    with pytest.raises(ValueError, match=match):
        require(check(model, guide, *batch, objective=objective, data_size=3 * N))


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize("objective", [None, ELBO(particles=3)], ids=["draw", "elbo"])
def test_the_zoo_is_sound(name: str, objective: ELBO | None) -> None:
    model, guide, batch = ZOO[name]()

    assert check(model, guide, *batch, objective=objective) == []


@pytest.mark.parametrize("name", SOUND)
def test_sound_pairs_get_no_finding(name: str) -> None:
    make, objective = SOUND[name]
    model, guide, batch = make()

    assert check(model, guide, *batch, objective=objective) == []


def test_keyword_arguments_reach_the_programs() -> None:
    (x,), y = batch(), torch.arange(N) % 3

    def guide(x: Tensor, *, y: Tensor) -> None:
        amortised(x)

    assert check(labelled, guide, x, y=y) == []
    assert [finding.site for finding in check(labelled, guide, x, y=y + 1)] == ["y"]
    assert "missing 1 required keyword-only" in str(check(labelled, guide, x)[0])


def test_priors_are_not_sampled() -> None:
    assert check(improper, point, *batch()) == []


def test_the_line_is_that_of_the_statement() -> None:
    lines, start = inspect.getsourcelines(sound)
    line = start + next(i for i, text in enumerate(lines) if 'pyro.sample("z"' in text)

    (finding,) = check(sound, lambda x: None, *batch())

    assert finding.message.endswith(f"(the model, {inspect.getsourcefile(sound)}:{line})")


def test_an_autoguide_without_lines_names_none() -> None:
    findings = check(sound, AutoNormal(local_and_global), torch.randn(N))

    assert findings[0].site == "mu"
    assert findings[0].message.endswith("(the guide)")


def test_the_data_plate_may_be_named() -> None:
    model, guide, x = ZOO["nested_plates"]()

    assert check(model, guide, *x, data_plate="data") == []
    with pytest.raises(ValueError, match=r"expected the data plate to be one of .*, got 'rows'"):
        require(check(model, guide, *x, data_plate="rows"))


def test_require_states_every_error_and_no_warning() -> None:
    findings = [Finding(s, "error", f"no {s}") for s in "ab"] + [Finding("c", "warning", "no c")]

    with pytest.raises(ValueError, match=r"^error at site 'a': no a\nerror at site 'b': no b$"):
        require(findings)


@pytest.mark.parametrize("name", ["batch_norm_and_dropout", "plain_functions", "auto_normal"])
def test_nothing_is_changed(name: str) -> None:
    model, guide, batch = ZOO[name]()
    check(model, guide, *batch)  # an autoguide sets itself up
    modules = [p for p in (model, guide) if isinstance(p, torch.nn.Module)]
    tensors = [t for module in modules for t in module.state_dict().values()]
    before, state = [t.clone() for t in tensors], torch.get_rng_state()
    stored, others = pyro.get_param_store().get_state(), (random.getstate(), np.random.rand())
    np.random.seed(0)
    expected = np.random.rand()
    np.random.seed(0)

    with pyro.validation_enabled(False):
        check(model, guide, *batch, objective=ELBO(particles=2))
        assert not dist.Normal(0.0, 1.0)._validate_args

    assert all(torch.equal(a, b) for a, b in zip(before, tensors, strict=True))
    assert torch.equal(state, torch.get_rng_state())
    assert random.getstate() == others[0]
    assert np.random.rand() == expected
    assert pyro.get_param_store().get_state() == stored


def test_programs_that_warn_or_stand_inside_handlers_are_checked_quietly() -> None:
    def warns(x: Tensor) -> None:
        warnings.warn("a user's own", UserWarning, stacklevel=1)
        sound(x)

    with poutine.trace() as tracer:
        assert check(warns, amortised, *batch()) == []
    assert not tracer.trace.nodes
