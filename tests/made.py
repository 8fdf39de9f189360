r"""Small runs, and what is left of them."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor
from zoo import D, F

from pyro_vae import Run, fit
from pyro_vae.data import load
from pyro_vae.guides import AmortizedNormal
from pyro_vae.models import VAE

quiet = partial(fit, progress=False, device="cpu")


def programs() -> tuple[VAE, AmortizedNormal]:
    return VAE((F,), D), AmortizedNormal((F,), {"z": D})


def binary(rows: int = 30) -> Tensor:
    return (torch.rand(rows, F) < 0.4).to(torch.get_default_dtype())


def made(folder: Path, **options: Any) -> Run:
    return quiet(*programs(), load(binary()), **{"epochs": 2, **options}, run_dir=folder)


def scalars(folder: Path, tag: str) -> list[tuple[int, float]]:
    return [(e.step, e.value) for e in EventAccumulator(str(folder)).Reload().Scalars(tag)]
