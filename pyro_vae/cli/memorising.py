r"""What a run repeats of its training data."""

__all__ = ["Pairs", "compare"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vae import report
from pyro_vae.data import Data
from pyro_vae.evaluation import Estimate, nearest_neighbours
from pyro_vae.runs import Run

_SAMPLES = 1000
_SHOWN = 16


@dataclass(frozen=True)
class Pairs:
    r"""How near samples are to training data, and those that are nearest.

    Arguments:
        estimates: ``memorisation.ratio`` and ``memorisation.closer``.
        samples: The samples nearest to training data, in the user's units.
        nearest: The training rows that they are nearest to.
        extent: What is drawn black and white.
    """

    estimates: dict[str, Estimate]
    samples: Tensor
    nearest: Tensor
    extent: tuple[float, float] | None

    def draw(self) -> Figure:
        r"""A picture of samples and what they are nearest to."""
        title = "Samples (above) and the nearest training data (below)"
        return report.reconstructions(self.samples, self.nearest, self.extent, 8, title)


def compare(run: Run, data: Data, inputs: Sequence[str], how: Mapping[str, Any]) -> Pairs:
    r"""Compares samples of a run with its training data, as far as test data are from these.

    Arguments:
        run: The run.
        data: Its data, with the rows to compare with as the test split.
        inputs: The fields that the programs are called with.
        how: Seed, device, data plate and capture.

    Raises:
        ValueError: As :func:`pyro_vae.evaluation.nearest_neighbours` does.
    """
    generator = torch.Generator().manual_seed(how["seed"])
    train, test = (data.epoch(split, generator) for split in ("train", "test"))
    count = min(_SAMPLES, len(test["x"]))
    batch = tuple(test[name][:count] for name in inputs)
    found = nearest_neighbours(
        run.model, run.guide, train["x"], test["x"], n=count, batch=batch, **how
    )
    order = found.distances[:, 0].argsort()[:_SHOWN].cpu()
    samples = data.restore(found.samples.cpu()[order])
    nearest = data.restore(train["x"][found.indices[:, 0].cpu()[order]])
    figures = {"memorisation.ratio": found.ratio, "memorisation.closer": found.closer}
    extent = data.value_range if len(data.event_shape) == 3 else None
    return Pairs(figures, samples, nearest, extent)
