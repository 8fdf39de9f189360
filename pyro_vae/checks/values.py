r"""Values outside a support, and values and densities that are not finite."""

__all__ = ["check_batch", "check_densities", "check_parameters", "check_support", "outside"]

from collections.abc import Iterator
from typing import Any

import pyro
from pyro.distributions.util import scale_and_mask
from torch import Tensor
from torch.nn.parameter import is_lazy
from torch.utils._pytree import keystr, tree_flatten_with_path

from pyro_vae import likelihoods
from pyro_vae.checks.finding import Finding
from pyro_vae.checks.trial import Trial, explain
from pyro_vae.layout import sample_sites
from pyro_vae.programs import Program, modules


def check_parameters(model: Program, guide: Program) -> Iterator[Finding]:
    r"""Finds parameters that are not finite, by name."""
    seen: set[int] = set()
    for name, parameter in _parameters(model, guide):
        lazy = is_lazy(parameter)  # of a program that stopped before it came there
        if not lazy and id(parameter) not in seen and not parameter.isfinite().all():
            seen.add(id(parameter))
            yield Finding(
                None,
                "error",
                f"expected finite parameters, got {_bad(parameter)} in {name}: build the program "
                "anew or load other weights; training that ends so wants a smaller learning rate",
            )


def check_batch(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Finding]:
    r"""Finds arguments of the programs that are not finite."""
    for name, tree in (*((f"argument {i}", arg) for i, arg in enumerate(args)), *kwargs.items()):
        for path, leaf in tree_flatten_with_path(tree)[0]:
            if isinstance(leaf, Tensor) and not leaf.isfinite().all():
                message = (
                    f"expected finite data, got {_bad(leaf)} in {name}{keystr(path)} of the batch: "
                    "remove, impute or mask them"
                )
                yield Finding(None, "error", message)


def check_support(trial: Trial) -> Iterator[Finding]:
    r"""Finds values to which their distribution gives no density."""
    for name, site in sample_sites(trial.trace).items():
        if finding := outside(trial, name, site["value"]):
            yield finding


def outside(trial: Trial, name: str, value: Tensor) -> Finding | None:
    r"""That a site's distribution gives a value no density; ``None`` if it gives one."""
    site = sample_sites(trial.trace)[name]
    try:
        likelihoods.check_support(site["fn"], value, name)
    except ValueError as error:
        said = str(error).removeprefix(f"{name}: ")
        if not site["is_observed"]:  # the advice is for data
            said = (
                f"{said.rpartition('; ')[0]} from the guide; choose a guide distribution with "
                "this support, such as LogNormal for positive latents or Delta of a transform"
            )
        lenient = site["is_observed"] and _is_lenient(site["fn"])
        return trial.finding(name, said, "warning" if lenient else "error")
    return None


def check_densities(trial: Trial) -> Iterator[Finding]:
    r"""Finds sites whose value or log-density is not finite, in their order."""
    for name, site in sample_sites(trial.trace).items():
        if not site["value"].isfinite().all():
            yield trial.finding(name, f"expected a finite value, got {_bad(site['value'])}" + _MEND)
            continue
        try:
            log_prob = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
        except Exception as error:
            yield trial.finding(name, explain(error, "log-density").message)
            continue
        log_prob = scale_and_mask(log_prob, mask=site["mask"])
        if not log_prob.isfinite().all():
            said = f"expected a finite log-density, got {_bad(log_prob)}"
            yield trial.finding(name, said + _MEND)


_MEND = (
    ": look for log or division by zero, exp of large numbers, or scales of zero in what gives "
    "this distribution its parameters"
)


def _parameters(*programs: Program) -> Iterator[tuple[str, Tensor]]:
    for role, program in zip(("model", "guide"), programs, strict=True):
        for prefix, module in modules(program).items():
            for name, parameter in module.named_parameters():
                yield ".".join(filter(None, (role, prefix, name))), parameter
    for name, stored in pyro.get_param_store().named_parameters():
        yield name.replace("$$$", "."), stored


def _is_lenient(fn: Any) -> bool:
    r"""Whether the user said that values outside the support are meant."""
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return not fn._validate_args


def _bad(tensor: Tensor) -> str:
    counts = {"NaN": int(tensor.isnan().sum()), "infinite": int(tensor.isinf().sum())}
    found = " and ".join(f"{count} {word}" for word, count in counts.items() if count)
    return f"{found} of {tensor.numel()} values"
