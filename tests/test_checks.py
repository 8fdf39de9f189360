r"""The checker: broken pairs get the words they need, sound ones none, and nothing is changed."""

import inspect
import os
import random
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from broken import (
    BROKEN,
    Guide,
    Model,
    amortised,
    batch,
    grey,
    sound,
)
from misplaced import MISPLACED
from pyro import poutine
from pyro.infer.autoguide import AutoNormal
from refused import REFUSED
from sound import SOUND, improper, labelled, point
from spoiled import SPOILED, nan_weights
from suspect import SUSPECT
from torch import Tensor
from zoo import ZOO, D, F, N, Pair, binary, local_and_global, standard

from pyro_vae import SVI
from pyro_vae.checks import Finding, check, render, require, warn
from pyro_vae.guides import AmortizedNormal
from pyro_vae.models import VAE
from pyro_vae.objectives import ELBO

WRONG = {**BROKEN, **MISPLACED, **SPOILED}


@pytest.mark.parametrize("name", WRONG)
def test_broken_pairs_are_explained(name: str) -> None:
    make, site, match = WRONG[name]
    model, guide, batch = make()

    findings = check(model, guide, *batch)

    assert (findings[0].site, findings[0].severity) == (site, "error")
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
    make, objective, site, match = SUSPECT[name]
    model, guide, batch = make()

    findings = check(model, guide, *batch, objective=objective)

    assert [(finding.site, finding.severity) for finding in findings] == [(site, "warning")]
    require(findings)
    with pytest.warns(UserWarning, match=match):
        warn(findings)


@pytest.mark.parametrize("name", REFUSED)
def test_objectives_refuse(name: str) -> None:
    make, objective, match = REFUSED[name]
    model, guide, batch = make()

    require(check(model, guide, *batch))
    with pytest.raises(ValueError, match=match):
        require(check(model, guide, *batch, objective=objective, data_size=3 * N))


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize("objective", [None, ELBO(particles=3)], ids=["draw", "elbo"])
def test_the_zoo_is_sound(name: str, objective: ELBO | None) -> None:
    model, guide, batch = ZOO[name]()

    assert check(model, guide, *batch, objective=objective) == []


@pytest.mark.parametrize(
    "objective", [None, ELBO(), ELBO(particles=3)], ids=["draw", "one", "three"]
)
@pytest.mark.parametrize("name", ZOO)
def test_the_zoo_is_sound_when_it_was_trained(name: str, objective: ELBO | None) -> None:
    model, guide, batch = ZOO[name]()
    svi = SVI(model, guide, partial(torch.optim.Adam, lr=1e-2))
    for _ in range(3):
        svi.step(*batch)

    assert check(model, guide, *batch, objective=objective) == []


@pytest.mark.parametrize("name", SOUND)
def test_sound_pairs_get_no_finding(name: str) -> None:
    make, objective = SOUND[name]
    model, guide, batch = make()

    assert check(model, guide, *batch, objective=objective) == []


def test_what_other_programs_left_in_the_store_is_none_of_the_pairs() -> None:
    x = torch.eye(4)
    others = VAE((4,), 2), AmortizedNormal((4,), {"z": 2})
    # Pyro's own puts modules into the store
    pyro.infer.SVI(*others, pyro.optim.Adam({"lr": 0.1}), pyro.infer.Trace_ELBO()).step(x)
    names = dict(pyro.get_param_store().named_parameters())
    assert "encoder$$$0.weight" in names
    with torch.no_grad():
        for parameter in names.values():
            parameter.fill_(torch.nan)
    assert check(VAE((4,), 2), AmortizedNormal((4,), {"z": 2}), x) == []


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


def test_findings_are_printed_as_by_a_compiler() -> None:
    model, guide, batch = WRONG["two plates of one name"][0]()
    (finding,) = check(model, guide, *batch)
    assert finding.line is not None

    head, place, source, *mend = render([finding, finding]).split("\n\n")[1].splitlines()

    assert head == "error[data] in the model: expected one plate of the name 'data', got two"
    assert place == f"  --> {os.path.relpath(finding.line)}"
    assert source == '    | with pyro.plate("data", x.shape[0], dim=-1):'
    assert mend[0].startswith("  mend: make it once, as data = pyro.plate('data', …), and enter it")
    assert mend[1].startswith("        ")
    assert render([]) == ""


@pytest.mark.parametrize("name", WRONG)
def test_what_is_printed_fits_a_terminal_and_leaves_nothing_out(name: str) -> None:
    model, guide, batch = WRONG[name][0]()
    findings = check(model, guide, *batch)

    printed = render(findings)

    paths = {line for line in printed.splitlines() if line.startswith("  --> ")}
    assert all(len(line) <= 100 for line in printed.splitlines() if line not in paths)
    words = "".join(printed.split())
    assert all(
        "".join((f.message + f.advice).split()) in words.replace("mend:", "")
        or "".join(f.message.split()) in words
        for f in findings
    )


def test_warnings_are_given_once_and_errors_are_none() -> None:
    findings = [Finding("z", s, "odd", "mend it") for s in ("warning", "warning", "error")]

    with pytest.warns(UserWarning, match="^site 'z': odd: mend it$") as caught:
        warn(findings)

    assert len(caught) == 1
    assert caught[0].filename == __file__


@pytest.mark.parametrize("training", [True, False])
def test_modes_are_what_they_were(training: bool) -> None:
    model, guide, batch = ZOO["batch_norm_and_dropout"]()
    model.decoder.network[1].train(not training)
    before = [module.training for module in model.modules()]

    check(model, guide, *batch, objective=ELBO())

    assert [module.training for module in model.modules()] == before


def wide_prior(x: Tensor) -> dist.TorchDistribution:
    return dist.Normal(torch.zeros(D, dtype=torch.float64), 1.0).to_event(1)


@pytest.mark.parametrize("learned", [True, False])
def test_a_prior_of_another_precision_is_found_before_it_generates(learned: bool) -> None:
    torch.set_default_dtype(torch.float32)

    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            z = pyro.sample("z", wide_prior(x))
            pyro.sample("x", dist.Normal(z.new_zeros(len(x), F), 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", dist.Normal(x[:, :D], 1.0).to_event(1))

    programs: Any = (Model(wide_prior), Guide()) if learned else (model, guide)
    (finding,) = check(*programs, *batch())

    home = "parameters" if learned else "data"
    said = f"a prior of torch.float32, as the {home} are, got loc of torch.float64, in which"
    assert (finding.site, finding.severity) == ("z", "warning")
    assert said in finding.message
    assert check(Model(), Guide(), *batch()) == []


def test_the_precision_of_a_prior_over_integers_does_not_matter() -> None:
    torch.set_default_dtype(torch.float32)

    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            c = pyro.sample("c", dist.Categorical(torch.ones(3, dtype=torch.float64)))
            pyro.sample("x", dist.Normal(c[..., None].expand(len(x), F), 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("c", dist.Categorical(logits=x[:, :3]))

    assert check(model, guide, *batch()) == []


def reconstructing(x: Tensor) -> None:
    with pyro.plate("data", N, dim=-1):
        pyro.sample("z", standard(x, D))
        pyro.sample("x", dist.Normal(x, 1.0).to_event(1), obs=x)


@pytest.mark.parametrize(
    "size, severities",
    [(N, []), (None, ["warning"]), (3 * N, ["warning"]), (3 * N + 1, ["error"])],
)
@pytest.mark.parametrize("fixed", ["model", "guide", "both", "guided", "silent"])
def test_a_plate_of_the_size_of_a_batch_must_fit_the_last_one(
    fixed: str, size: int | None, severities: list[str]
) -> None:
    model: Any = Model(size=N if fixed in ("model", "both") else None)
    guide = Guide(size=N) if fixed in ("guide", "both") else Guide()
    if fixed == "guided":  # where no data are reached
        model, guide = reconstructing, Guide(size=N)
    if fixed == "silent":
        guide = Guide(lambda h: standard(h, D), size=N)
        guide.encoder.requires_grad_(False)  # of which nothing is computed

    found = check(model, guide, *batch(), data_size=size)

    assert [finding.severity for finding in found if finding.site == "data"] == severities
    assert all("got 7 in a batch of 7 and in one of 6" in finding.message for finding in found)


def test_an_event_may_hold_all_the_data_but_not_a_batch() -> None:
    model, guide, batch = SOUND["function drawn for all data"][0]()

    assert check(model, guide, *batch, data_size=N) == []
    (finding,) = check(model, guide, *batch, data_size=10 * N)
    assert "move the site into the data plate, or give the whole data" in finding.advice
