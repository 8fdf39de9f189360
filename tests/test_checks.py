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
from broken import (
    BROKEN,
    REFUSED,
    SUSPECT,
    Guide,
    Model,
    amortised,
    batch,
    bernoulli,
    grey,
    nan_weights,
    sound,
)
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from pyro.infer.autoguide import AutoGuideList, AutoNormal
from torch import Tensor
from zoo import ZOO, D, F, N, Pair, binary, local_and_global, standard

from pyro_vae.checks import Finding, check, check_rows, require
from pyro_vae.checks import rows as rows_module
from pyro_vae.guides import AmortizedNormal
from pyro_vae.models import VAE
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


def only_factor(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0], dim=-1):
        z = pyro.sample("z", standard(x, D))
        pyro.factor("x", -((x.sum(-1) - z.sum(-1)) ** 2))


def with_factor(x: Tensor) -> None:
    pyro.deterministic("total", x.sum())
    with pyro.plate("data", x.shape[0], dim=-1):
        pyro.sample("z", standard(x, D))
        pyro.factor("jacobian", x[:, 0], has_rsample=True)


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
    "factors in place of data": (lambda: (only_factor, amortised, batch()), ELBO()),
    "factors in the guide": (lambda: (sound, with_factor, batch()), None),
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


def infinite(likelihood: Any = None, guide: Any = None) -> Pair:
    x = torch.randn(N, F)
    x[1, 2] = torch.inf
    return Model(likelihood=likelihood) if likelihood else Model(), guide or Guide(), (x,)


def unit_uniform(outputs: Tensor) -> dist.TorchDistribution:
    low = torch.zeros_like(outputs)
    return dist.Uniform(low, low + 1, validate_args=False).to_event(1)


CONSEQUENCES: dict[str, tuple[Callable[[], Pair], str | None, str]] = {
    "data, encoded": (infinite, None, "expected finite data, got 1 infinite of 35 values"),
    "parameters": (nan_weights, "z", "expected finite parameters"),
    "data, not validated": (lambda: infinite(grey, amortised), "x", "expected the numbers 0 and 1"),
    "density": (
        lambda: (Model(likelihood=unit_uniform), amortised, (3 + binary(N, F),)),
        "x",
        r"expected real numbers from 0 to 1 \(Uniform\), got integers from 3 to 4",
    ),
}


@pytest.mark.parametrize("name", CONSEQUENCES)
def test_what_is_not_finite_is_found_where_it_comes_from(name: str) -> None:
    make, site, said = CONSEQUENCES[name]
    model, guide, batch = make()

    (finding,) = check(model, guide, *batch)

    assert (finding.site, finding.severity) == (site, "error")
    with pytest.raises(ValueError, match=said):
        raise ValueError(finding.said)


def test_another_error_is_not_hidden_by_data_that_are_not_finite() -> None:
    _, _, (x,) = infinite()

    found = check(Model(), Guide(features=F + 1), x)

    assert ["finite data" in found[0].message, "mat1 and mat2" in found[1].message] == [True, True]


def test_distributions_are_validated_while_they_are_checked() -> None:
    model = Model(likelihood=lambda h: dist.Normal(h, -1.0).to_event(1))

    with (
        pyro.validation_enabled(False),
        pytest.raises(
            ValueError,
            match=r"scale of Normal to satisfy GreaterThan\(lower_bound=0.0\), got the value -1",
        ),
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


def test_programs_without_data_need_observe_none() -> None:
    def model() -> None:
        pyro.sample("z", dist.Normal(torch.zeros(D), 1.0).to_event(1))

    assert check(model, model) == []


def test_priors_are_not_sampled() -> None:
    assert check(improper, point, *batch()) == []


def test_the_line_is_that_of_the_statement() -> None:
    lines, start = inspect.getsourcelines(sound)
    line = start + next(i for i, text in enumerate(lines) if 'pyro.sample("z"' in text)

    (finding,) = check(sound, lambda x: None, *batch())

    assert finding.line == f"{inspect.getsourcefile(sound)}:{line}"
    assert finding.source == 'z = pyro.sample("z", standard(x, D))'
    assert finding.said.endswith(f"(the model, {finding.line}, `{finding.source}`)")


def test_an_autoguide_without_lines_names_none() -> None:
    findings = check(sound, AutoNormal(local_and_global), torch.randn(N))

    assert findings[0].site == "mu"
    assert findings[0].said.endswith("(the guide)")


def test_the_data_plate_may_be_named() -> None:
    model, guide, x = ZOO["nested_plates"]()

    assert check(model, guide, *x, data_plate="data") == []
    with pytest.raises(ValueError, match=r"expected the data plate to be one of .*, got 'rows'"):
        require(check(model, guide, *x, data_plate="rows"))


def test_require_states_every_error_and_no_warning() -> None:
    findings = [Finding(s, "error", f"no {s}") for s in "ab"] + [Finding("c", "warning", "no c")]

    with pytest.raises(ValueError, match=r"^site 'a': no a\nsite 'b': no b$"):
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


def changed(x: Tensor, row: int, value: float) -> Tensor:
    x = x.clone()
    x[row, 0] = value
    return x


def totals(x: Tensor, n: Tensor) -> None:
    with pyro.plate("data", x.shape[0], dim=-1):
        pyro.sample("x", dist.Binomial(n, x.new_tensor(0.5)).to_event(1), obs=x)


def classes(x: Tensor, y: Tensor) -> None:
    sound(x)
    with pyro.plate("labels", x.shape[0], dim=-1):
        pyro.sample("y", dist.Categorical(logits=x.new_zeros(3)), obs=y)


def amortised_too(x: Tensor, y: Tensor) -> None:
    amortised(x)


def nothing(*_: Tensor) -> None:
    pass


def one_for_all(x: Tensor) -> None:
    with pyro.plate("data", N, dim=-1):
        z = pyro.sample("z", standard(x, D))
        pyro.sample(
            "x", dist.Bernoulli(logits=z.sum(-1, keepdim=True).expand(N, F)).to_event(1), obs=x
        )


def one_for_all_too(x: Tensor) -> None:
    with pyro.plate("data", N, dim=-1):
        pyro.sample("z", standard(x, D))


def in_pairs(x: Tensor) -> None:
    sound(x)
    if x.shape[0] < 2:
        raise ValueError("expected pairs")


def first_feature(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0], dim=-1):
        z = pyro.sample("z", standard(x, D))
        pyro.sample("x", dist.Bernoulli(logits=z.sum(-1)), obs=x[:, 0])


def global_rate(x: Tensor) -> None:
    rate = pyro.sample("z", dist.LogNormal(x.new_zeros(()), 1.0))
    with pyro.plate("data", x.shape[0], dim=-1):
        pyro.sample("x", dist.Poisson(rate).expand((x.shape[0], F)).to_event(1), obs=x)


def with_batch_norm(x: Tensor) -> Pair:
    model, guide, _ = ZOO["batch_norm_and_dropout"]()
    return model, guide, (x,)


def vae(x: Tensor) -> Pair:
    return VAE((F,), D), AmortizedNormal((F,), {"z": D}), (x,)


R = 40
counts = torch.arange(R * F).reshape(R, F).double()

# name -> (model, guide and all data, the name of the data plate, what the findings must say)
ROWS: dict[str, tuple[Callable[[], Pair], str | None, list[tuple[str, str, str]]]] = {
    "sound": (lambda: vae(binary(R, F)), None, []),
    "last row": (
        lambda: vae(changed(binary(R, F), R - 1, 255)),
        None,
        [
            (
                "x",
                "error",
                r"numbers 0 and 1 \(Bernoulli\), got integers from 0 to 255, first in row 39: like"
                r"lihoods that fit: Binomial\(total_count=255\), .*\(the model, .*vae.py:\d+, `return pyro",
            )
        ],
    ),
    "row that the guide does not take": (
        lambda: (Model(), Guide(), (changed(torch.randn(R, F), 17, torch.nan),)),
        None,
        [("x", "error", "finite real numbers .* 1 NaN, first in row 17: no likelihood fits")],
    ),
    "support of each row": (lambda: (totals, nothing, (counts, counts)), None, []),
    "support of each row, left": (
        lambda: (totals, nothing, (changed(counts, 7, 36), counts)),
        None,
        [],  # row 1, too, is outside the support of row 0, and stands for all
    ),
    "support of all rows": (
        lambda: (totals, nothing, (counts, torch.full_like(counts, R * F - 2))),
        None,
        [("x", "error", "integers from 0 to 198 .* from 0 to 199, first in row 39")],
    ),
    "second argument": (
        lambda: (classes, amortised_too, (torch.randn(R, F), torch.arange(R) // 10)),
        None,
        [("y", "error", "integers from 0 to 2 .* from 0 to 3, first in row 30")],
    ),
    "two": (
        lambda: (
            classes,
            amortised_too,
            (changed(torch.randn(R, F), 3, torch.inf), torch.arange(R) // 10),
        ),
        None,
        [("x", "error", "1 infinite, first in row 3"), ("y", "error", "first in row 30")],
    ),
    "plate that is not the data's": (
        lambda: (classes, amortised_too, (torch.randn(R, F), torch.arange(R) // 10)),
        "data",
        [],
    ),
    "support that is not enforced": (
        lambda: (Model(likelihood=grey), amortised, (changed(binary(R, F), 5, 0.5),)),
        None,
        [("x", "warning", "first in row 5: these look like grey levels: .* ContinuousBernoulli")],
    ),
    "autoguide": (
        lambda: (global_rate, AutoNormal(global_rate), (changed(binary(R, F), 5, -1),)),
        None,
        [("x", "error", "integers of at least 0 .* from -1 to 1, first in row 5")],
    ),
    "no run on one row": (lambda: with_batch_norm(changed(binary(R, F), 5, 3)), None, []),
    "no end on one row": (
        lambda: (in_pairs, amortised, (changed(torch.randn(R, F), 5, torch.nan),)),
        None,
        [],
    ),
    "plate of a fixed size": (
        lambda: (one_for_all, one_for_all_too, (3 + binary(R, F),)),
        None,
        [],
    ),
    "number": (lambda: (sound, amortised, (torch.tensor(torch.nan),)), None, []),
    "value that is no argument": (
        lambda: (first_feature, amortised, (3 + binary(R, F),)),
        None,
        [],
    ),
    "no rows": (lambda: vae(torch.ones(0, F)), None, []),
}


@pytest.mark.parametrize("chunk", [1, 64, 2**22])
@pytest.mark.parametrize("name", ROWS)
def test_rows_of_all_data(name: str, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    make, data_plate, expected = ROWS[name]
    model, guide, fields = make()
    monkeypatch.setattr(rows_module, "_CHUNK", chunk)
    before = torch.get_rng_state()

    found = check_rows(model, guide, *fields, data_plate=data_plate)

    assert [(f.site, f.severity) for f in found] == [(s, severity) for s, severity, _ in expected]
    for finding, (_, _, match) in zip(found, expected, strict=True):
        with pytest.raises(ValueError, match=match):
            raise ValueError(finding.said)
    assert torch.equal(before, torch.get_rng_state())


def test_rows_leave_an_autoguide_to_be_set_up_by_a_batch() -> None:
    guide = AutoNormal(global_rate)
    check_rows(global_rate, guide, binary(R, F))

    assert guide.prototype_trace is None
