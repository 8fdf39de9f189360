r"""Deep latent-variable models as Pyro programs, with numbers that can be trusted.

Names are imported when they are first used: ``import pyro_vae`` imports no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyro_vae.checks import check as check
    from pyro_vae.evaluation import Estimate as Estimate
    from pyro_vae.evaluation import decode as decode
    from pyro_vae.evaluation import diagnose as diagnose
    from pyro_vae.evaluation import encode as encode
    from pyro_vae.evaluation import evaluate as evaluate
    from pyro_vae.evaluation import impute as impute
    from pyro_vae.evaluation import reconstruct as reconstruct
    from pyro_vae.evaluation import responsibilities as responsibilities
    from pyro_vae.evaluation import sample as sample
    from pyro_vae.evaluation import traverse as traverse
    from pyro_vae.loop import fit as fit
    from pyro_vae.products import multiply_in as multiply_in
    from pyro_vae.runs import Run as Run
    from pyro_vae.svi import SVI as SVI

__version__ = "0.1.0"

_HOMES = {
    "SVI": "svi",
    "check": "checks",
    "fit": "loop",
    "multiply_in": "products",
    "Run": "runs",
    **dict.fromkeys(
        (
            *("Estimate", "decode", "diagnose", "encode", "evaluate", "impute", "reconstruct"),
            *("responsibilities", "sample", "traverse"),
        ),
        "evaluation",
    ),
}
_MODULES = (
    "data",
    "distributions",
    "em",
    "gibbs",
    "guides",
    "likelihoods",
    "mixtures",
    "models",
    "nn",
    "objectives",
    "report",
)

__all__ = [*sorted(_HOMES), *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
