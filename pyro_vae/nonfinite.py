r"""Where a bound stopped being finite."""

__all__ = ["MEND_DATA", "bad", "first_nonfinite"]

from collections.abc import Iterator, Mapping

from pyro.distributions.util import scale_and_mask
from pyro.poutine import Trace
from torch import Tensor

from pyro_vae.distributions import missing_values
from pyro_vae.draws import Draw
from pyro_vae.layout import sample_sites

# what to do about data that are not
MEND_DATA = (
    "remove or impute them; or, if NaN is what is missing, take a Masked likelihood and an encoder "
    "that knows of it (masked_mlp)"
)


def bad(tensor: Tensor) -> str:
    r"""How many values are not finite."""
    counts = {"NaN": int(tensor.isnan().sum()), "infinite": int(tensor.isinf().sum())}
    found = " and ".join(f"{count} {word}" for word, count in counts.items() if count)
    return f"{found} of {tensor.numel()} values"


def first_nonfinite(draw: Draw, parameters: Mapping[str, Tensor]) -> str | None:
    r"""Names the first parameter, value or log-density that is not finite, in words.

    Parameters come first, since all else follows from them, then the guide's sites and the
    model's, in the order of their statements.

    Returns:
        What was found, or ``None`` if all is finite.
    """
    for name, parameter in parameters.items():
        if not parameter.isfinite().all():
            return (
                f"parameter {name!r}, with shape {tuple(parameter.shape)}, holds {_bad(parameter)}"
            )
    found = [*_sites("guide", draw.guide_trace), *_sites("model", draw.model_trace)]
    return found[0] if found else None


def _sites(program: str, trace: Trace) -> Iterator[str]:
    for name, site in sample_sites(trace).items():
        family = type(site["fn"]).__name__
        if not (site["value"].isfinite() | missing_values(site["fn"], site["value"])).all():
            yield f"the {program}'s site {name!r} ({family}) has the value {_bad(site['value'])}"
        log_prob = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
        log_prob = scale_and_mask(log_prob, mask=site["mask"])
        if not log_prob.isfinite().all():
            yield f"the {program}'s site {name!r} ({family}) has the log-density {_bad(log_prob)}"


def _bad(tensor: Tensor) -> str:
    wrong = tensor[~tensor.isfinite()]
    return f"{wrong.flatten()[0].item()} at {wrong.numel()} of {tensor.numel()} places"
