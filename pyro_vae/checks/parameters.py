r"""Parameters that are not finite, that no gradient reaches, or that nobody keeps."""

__all__ = ["check_finite", "check_gradients", "refused"]

import inspect
import re
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import pyro
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from pyro_vae.checks.finding import Finding, Severity
from pyro_vae.checks.graph import leaves, parts
from pyro_vae.checks.trial import Trial
from pyro_vae.checks.witness import Witness
from pyro_vae.checks.words import listed, value_range
from pyro_vae.layout import sample_sites
from pyro_vae.lines import failure
from pyro_vae.nonfinite import bad
from pyro_vae.programs import Program, modules

Runs = Callable[[], tuple[Trial, Trial]]


def check_finite(model: Program, guide: Program, runs: Runs) -> Iterator[Finding]:
    r"""Finds parameters that are not finite, by name, with the first site that they spoil.

    Arguments:
        model: The generative program.
        guide: The program that draws its latents.
        runs: Runs the model and the guide.
    """
    stated = _stated(_unvalidated(runs)) if pyro.get_param_store() else {}
    wrong = [(n, p) for n, p in _parameters(model, guide, stated) if not p.isfinite().all()]
    trials = _unvalidated(runs) if wrong else ()
    for name, parameter in wrong:
        finding = Finding(
            None,
            "error",
            f"expected finite parameters, got {bad(parameter)} in {name}",
            "build the program anew or load other weights; training that ends so wants a smaller "
            "learning rate",
        )
        yield next((_at(finding, t, s) for t, s in _spoiled(trials, parameter)), finding)


def _unvalidated(runs: Runs) -> tuple[Trial, ...]:
    with pyro.validation_enabled(False):
        model, guide = runs()
    return guide, model


def _spoiled(trials: Iterable[Trial], parameter: Tensor) -> Iterator[tuple[Trial, str]]:
    r"""The sites whose distributions a parameter reaches and that are not finite."""
    for trial in trials:
        for name, site in sample_sites(trial.trace).items():
            given = parts(site["fn"]).values()
            if any(not t.isfinite().all() and id(parameter) in leaves([t]) for t in given):
                yield trial, name


def _at(finding: Finding, trial: Trial, site: str) -> Finding:
    message = f"{finding.message}, on which the site depends"
    line = trial.lines.get(site)
    return replace(finding, site=site, message=message, role=trial.role, line=line)


def refused(trial: Trial) -> Finding | None:
    r"""That a distribution refused its parameters, if that stopped a program."""
    error = trial.error
    frames = () if error is None else traceback.walk_tb(error.__traceback__)
    for frame, _ in frames:
        known = frame.f_locals
        inside = frame.f_globals.get("__name__") == "torch.distributions.distribution"
        if inside and frame.f_code.co_name == "__init__" and "constraint" in known:
            family, line = type(known["self"]).__name__, failure(error)[1]  # type: ignore[arg-type]
            found = Finding(
                None,
                "error",
                f"expected {known['param']} of {family} to satisfy {known['constraint']!r}, got "
                f"{value_range(known['value'])}",
                _mend(known["param"], known["value"]),
                trial.role,
                line,
            )
            named = re.search(r"sample\(\s*[\"'](\w+)[\"']", found.source)
            return replace(found, site=named and named[1])
    return None


def _mend(name: str, value: Tensor) -> str:
    if not value.isfinite().all():
        return "look for log or division by zero and exp of large numbers before this line"
    if name == "probs":
        return "give logits=… in place of probs=…, or let the network end in a sigmoid or softmax"
    return "make it positive, as by pyro_vae.nn.positive or torch.nn.functional.softplus"


def check_gradients(
    model: Program, guide: Program, runs: Runs, total: Callable[[], Tensor]
) -> Iterator[Finding]:
    r"""Finds parameters that no gradient reaches, and says why.

    Arguments:
        model: The generative program.
        guide: The program that draws its latents.
        runs: Runs the model and the guide, so that what they do can be watched.
        total: Draws and sums all log-densities.
    """
    reached = leaves([total()])
    yield from _made_anew(model, guide, reached, runs, total)
    watch = Witness()
    with watch:
        trials = runs()
    named = [
        (name, parameter)
        for name, parameter in _parameters(model, guide, _stated(trials))
        if parameter.requires_grad
    ]
    lost = [(name, parameter) for name, parameter in named if id(parameter) not in reached]
    severity: Severity = "warning" if reached else "error"
    groups: dict[tuple[str, str | None], list[str]] = defaultdict(list)
    for name, parameter in lost:
        line = watch.cutting(parameter)
        groups["" if line else _network(name), line].append(name)
    for (_, line), names in groups.items():
        yield _without_gradient(names, line, severity)


def _without_gradient(names: list[str], line: str | None, severity: Severity) -> Finding:
    role = names[0].partition(".")[0] if names[0].startswith(("model.", "guide.")) else None
    if line is None:
        return Finding(
            None,
            severity,
            f"expected a gradient for every parameter, got none for {listed(names)}: no site is "
            "computed from it",
            "use it, or remove it; where it is meant to stay as it is, or only other batches use "
            "it, freeze it by requires_grad_(False) meanwhile",
            role,
        )
    return Finding(
        None,
        severity,
        f"expected a gradient for every parameter, got none for {listed(names)}: it is detached on "
        "the way to the sites",
        "remove .detach(), .data, .item(), .numpy() or torch.no_grad(); where it is meant to stay "
        "as it is, freeze it by requires_grad_(False)",
        role,
        line,
    )


def _made_anew(
    model: Program,
    guide: Program,
    reached: dict[int, Tensor],
    runs: Runs,
    total: Callable[[], Tensor],
) -> Iterator[Finding]:
    r"""Finds parameters that are made inside a program, or kept where nobody looks."""
    known = {id(p) for _, p in _parameters(model, guide, {})} | _visible(model, guide)
    known |= {id(p) for _, p in pyro.get_param_store().named_parameters()}
    unknown = {i: t for i, t in reached.items() if i not in known}
    if not unknown:
        return
    again = leaves([total()])
    fresh = [t for i, t in unknown.items() if i not in again]
    if fresh:
        watch = Witness()
        with watch:
            trials = runs()
        made = leaves([log for trial in trials for log in _log_densities(trial)])
        lines = [line for t in made.values() if id(t) not in known and (line := watch.making(t))]
        shapes = listed([str(tuple(tensor.shape)) for tensor in fresh])
        yield Finding(
            None,
            "error",
            f"expected parameters that stay from run to run, got {len(fresh)} made anew in each, "
            f"of shapes {shapes}, which are never trained",
            "make networks and parameters once, in __init__ or outside the function, or by "
            "pyro.param",
            None,
            lines[0] if lines else None,
        )
    hidden = [t for i, t in unknown.items() if i in again and isinstance(t, nn.Parameter)]
    if hidden:
        yield _unregistered(hidden)


def _unregistered(hidden: list[nn.Parameter]) -> Finding:
    shapes = listed([str(tuple(parameter.shape)) for parameter in hidden])
    return Finding(
        None,
        "warning",
        f"expected every network registered, got {len(hidden)} parameters, of shapes {shapes}, "
        "that belong to no module which a program names: pyro_vae.SVI trains them, pyro.infer.SVI "
        "does not, and their modules are neither moved to a device nor switched by eval() nor "
        "saved with their buffers",
        "keep networks in nn.ModuleList or nn.ModuleDict in place of list or dict, as attributes "
        "of a PyroModule, or state them by pyro.module(name, network)",
    )


def _log_densities(trial: Trial) -> Iterator[Tensor]:
    for site in sample_sites(trial.trace).values():
        yield site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])


def _visible(*programs: Program) -> set[int]:
    r"""Tensors that plain functions name themselves, in their closures or among globals."""
    found: set[int] = set()
    for program in programs:
        function = inspect.unwrap(getattr(program, "__func__", program))
        if inspect.isfunction(function):
            names = inspect.getclosurevars(function)
            values = (*names.globals.values(), *names.nonlocals.values())
            found |= {id(value) for value in values if isinstance(value, Tensor)}
    return found


def _stated(trials: Iterable[Trial]) -> dict[str, Any]:
    r"""What the programs' own statements named, ``pyro.param`` or ``pyro.module``."""
    sites = (site for trial in trials for site in trial.trace.nodes.items())
    return {name: site["value"] for name, site in sites if site["type"] == "param"}


def _parameters(
    model: Program, guide: Program, stated: Mapping[str, Any]
) -> Iterator[tuple[str, Tensor]]:
    r"""Parameters of the modules, and of Pyro's store those ``stated``, each once, by name."""
    seen: set[int] = set()
    for name, parameter in _named(model, guide, stated):
        lazy = is_lazy(parameter)  # of a program that stopped before it came there
        if not lazy and not parameter.is_meta and id(parameter) not in seen:
            seen.add(id(parameter))
            yield name, parameter


def _named(
    model: Program, guide: Program, stated: Mapping[str, Any]
) -> Iterator[tuple[str, Tensor]]:
    for role, program in (("model", model), ("guide", guide)):
        for prefix, module in modules(program).items():
            for name, parameter in module.named_parameters():
                yield ".".join(filter(None, (role, prefix, name))), parameter
    for name, stored in pyro.get_param_store().named_parameters():
        # a module's parameter may be one that another program left there under the same name
        if name in stated and (not isinstance(stored, nn.Parameter) or stated[name] is stored):
            yield name.replace("$$$", "."), stored


def _network(name: str) -> str:
    r"""The part of a program that a parameter belongs to."""
    return ".".join(name.split(".")[:2])
