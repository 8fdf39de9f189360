r"""Values outside a support, and values and densities that are not finite."""

__all__ = ["check_batch", "check_densities", "check_support", "outside"]

from collections.abc import Iterator
from typing import Any

import pyro.distributions as dist
from pyro.distributions.util import scale_and_mask
from torch import Tensor
from torch.utils._pytree import keystr, tree_flatten_with_path

from pyro_vae import likelihoods
from pyro_vae.checks.finding import Finding
from pyro_vae.checks.graph import parts
from pyro_vae.checks.trial import Trial, explain
from pyro_vae.checks.words import value_range
from pyro_vae.distributions import innermost, missing_values
from pyro_vae.layout import Site, sample_sites
from pyro_vae.nonfinite import MEND_DATA, bad


def check_batch(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Finding]:
    r"""Finds arguments of the programs that are not finite."""
    for name, tree in (*((f"argument {i}", arg) for i, arg in enumerate(args)), *kwargs.items()):
        for path, leaf in tree_flatten_with_path(tree)[0]:
            if isinstance(leaf, Tensor) and not leaf.isfinite().all():
                yield Finding(
                    None,
                    "error",
                    f"expected finite data, got {bad(leaf)} in {name}{keystr(path)} of the batch",
                    MEND_DATA,
                )


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
        said, _, advice = str(error).removeprefix(f"{name}: ").rpartition("; ")
        if not site["is_observed"]:  # the advice is for data
            said = f"{said} from the guide"
            advice = (
                "choose a guide distribution with this support, such as LogNormal for positive "
                "latents or Delta of a transform"
            )
        elif _is_grey(site["fn"], value):
            advice = (
                "these look like grey levels: binarise them (binarization= of pyro_vae.data.load), "
                "take ContinuousBernoulli() or Normal() for numbers, or Binomial(total_count=255) "
                "for the levels 0, 1, …, 255 themselves"
            )
        lenient = site["is_observed"] and not innermost(site["fn"])._validate_args
        return trial.finding(name, said, advice, "warning" if lenient else "error")
    return None


def check_densities(trial: Trial) -> Iterator[Finding]:
    r"""Finds sites whose value or log-density is not finite, in their order."""
    for name, site in sample_sites(trial.trace).items():
        if not (site["value"].isfinite() | missing_values(site["fn"], site["value"])).all():
            yield trial.finding(name, f"expected a finite value, got {bad(site['value'])}", _MEND)
            continue
        try:
            log_prob = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
        except Exception as error:
            found = explain(error, "log-density")
            yield trial.finding(name, found.message, found.advice)
            continue
        log_prob = scale_and_mask(log_prob, mask=site["mask"])
        if not log_prob.isfinite().all():
            said = f"expected a finite log-density, got {bad(log_prob)}{_given(site)}"
            yield trial.finding(name, said, _MEND)


_MEND = (
    "look for log or division by zero, exp of large numbers, or scales of zero in what gives "
    "this distribution its parameters"
)


def _given(site: Site) -> str:
    r"""What the distribution was made of, in words."""
    found = [f"{name} has {value_range(tensor)}" for name, tensor in parts(site["fn"]).items()]
    return (
        f" from {type(innermost(site['fn'])).__name__}, whose {', '.join(found)}" if found else ""
    )


def _is_grey(fn: Any, value: Tensor) -> bool:
    unit = bool(((value >= 0) & (value <= 1)).all())
    return unit and isinstance(innermost(fn), dist.Bernoulli)
