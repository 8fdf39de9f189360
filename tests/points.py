r"""Points for latents, as a guide has them, and the log posterior there."""

from typing import Any

import torch
from pyro import poutine
from pyro.infer.autoguide import AutoDelta, init_to_value
from torch import Tensor

from pyro_vae.pair import Pair


def hidden(model: Any) -> Any:
    return poutine.block(model, hide=["component"])


def at(model: Any, values: dict[str, Tensor], kind: Any = AutoDelta, **options: Any) -> Any:
    r"""A guide that begins at copies of values, since its steps change them in place."""
    values = {name: value.clone() for name, value in values.items()}
    return kind(hidden(model), init_loc_fn=init_to_value(values=values), **options)


def log_posterior(model: Any, values: dict[str, Tensor], x: Tensor) -> float:
    r"""That of the values, up to the evidence, in nats per datum."""
    with torch.no_grad():
        return Pair(model, at(model, values)).draw((x,), {}).log_weights.mean().item()
