r"""Pictures and arrays of a run."""

__all__ = ["MANY", "OF_PAIRS", "Artist", "write_arrays"]

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from pyro_vae import report
from pyro_vae.capturable import Mode
from pyro_vae.data import Data
from pyro_vae.evaluation import Traversal, encode, reconstruct, sample, traverse
from pyro_vae.evaluation.features import Feature
from pyro_vae.runs import Run
from pyro_vae.runs.files import write_file

ROWS = 16  # latent features in a picture
COMPONENTS = 100  # of a mixture, the most that are drawn
OF_PAIRS = ("samples", "reconstructions", "latents", "traversals", "curves")
MANY = 2000  # data whose latents are drawn, or give latent features their order

Found = Tensor | dict[str, Tensor]


class Artist:
    r"""What there is to see of a run, on rows of a split of data in random order.

    Arguments:
        run: The run.
        data: The data.
        split: The split that rows are taken from.
        inputs: The fields that the programs are called with, in order.
        device: Where it is computed.
        seed: The seed of the rows and of what is drawn.
        capture: Whether batches run as a compiled graph.
    """

    def __init__(
        self,
        run: Run,
        data: Data,
        split: Any,
        inputs: Sequence[str],
        device: str,
        seed: int,
        capture: Mode = "auto",
    ) -> None:
        self.run, self.data, self.inputs = run, data, tuple(inputs)
        self.fields = data.epoch(split, torch.Generator().manual_seed(seed))
        rows = self.fields["x"].shape[0]
        # the first rows of a test set may be all of one class
        self.order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed))
        self.how: dict[str, Any] = {
            "data_plate": run.config.get("data_plate"),
            "device": device,
            "seed": seed,
        }
        self.capture = capture

    def rows(self, count: int | None = None) -> tuple[Tensor, ...]:
        r"""The first rows in random order, or all in their own, as programs are called."""
        if count is None:
            return tuple(self.fields[name] for name in self.inputs)
        return tuple(self.fields[name][self.order[:count]] for name in self.inputs)

    def field(self, name: str, count: int) -> Tensor | None:
        r"""A field of those rows, if the data have it."""
        found = self.fields.get(name)
        return None if found is None else found[self.order[:count]]

    def samples(self, count: int, mean: bool) -> Found:
        r"""Draws of the model, or their means given the latents, in the user's units."""
        batch = self.rows(count)
        how = {"mean": mean, "batch": batch, "capture": self.capture, **self.how}
        return self._restored(sample(self.run.model, self.run.guide, count, **how))

    def reconstructions(self, count: int) -> tuple[Found, Found]:
        r"""Data, and what the model makes of their latents, in the user's units."""
        batch = self.rows(count)
        how = {"capture": self.capture, **self.how}
        found = reconstruct(self.run.model, self.run.guide, *batch, **how)
        return self._restored(batch[0]), self._restored(found)

    def codes(self, count: int | None = None) -> dict[str, Tensor]:
        r"""The latents of data by site, with shape :math:`(N, *)`."""
        how = {"capture": self.capture, **self.how}
        return encode(self.run.model, self.run.guide, *self.rows(count), **how)

    def traversal(self, **arguments: Any) -> Traversal:
        r"""Moved latents, decoded."""
        batch = self.rows(MANY)
        return traverse(self.run.model, self.run.guide, *batch, **arguments, **self.how)

    def draw_samples(self, found: Found, mean: bool) -> Figure:
        r"""A picture of samples."""
        title = "Samples: means given z" if mean else "Samples"
        return report.samples(_only(found), self.scale, title=title)

    def draw_reconstructions(self, data: Found, found: Found) -> Figure:
        r"""A picture of data and their reconstructions."""
        return report.reconstructions(_only(data), _only(found), self.scale, 8)

    def draw_latents(self, codes: Mapping[str, Tensor], labels: Tensor | None) -> Figure:
        r"""A picture of latents by class."""
        rows = max((code.shape[0] for code in codes.values() if code.dim()), default=0)
        local = {n: c.flatten(1) for n, c in codes.items() if c.dim() > 1 and c.shape[0] == rows}
        if not local:
            raise ValueError("expected latents that are vectors, got none to be drawn")
        whole = None if labels is not None and labels.dim() > 1 else labels
        names = [str(Feature(n, k, 0.0)) for n, c in local.items() for k in range(c.shape[1])]
        means = torch.cat(list(local.values()), dim=1)
        return report.latents(means, whole, self.data.classes, names=names)

    def draw_traversal(self, found: Traversal) -> dict[str, Figure]:
        r"""Pictures of the rows with the greatest divergence, and of the plane."""
        names = [f"{feature}  {feature.kl:.2f} nats" for feature in found.features[:ROWS]]
        means = _only(self._restored(found.means))[:ROWS]
        figures = {"traversals": report.traversals(means, found.values[:ROWS], names, self.scale)}
        if found.plane is not None:
            axes = (str(found.plane.features[0]), str(found.plane.features[1]))
            plane = _only(self._restored(found.plane.means))
            figures["plane"] = report.latent_plane(plane, found.plane.values, axes, self.scale)
        return figures

    def draw_means(self) -> Figure:
        r"""A picture of the means of a mixture's components."""
        model: Any = self.run.model
        order = model.logits.argsort(descending=True)[:COMPONENTS]
        means = self.data.restore(model.means[order].detach().cpu())
        return report.samples(means, self.scale, title="Means, the most probable component first")

    def draw_all(self, folder: Path, names: Sequence[str] = OF_PAIRS) -> list[str]:
        r"""Draws pictures into a folder; returns why, where something could not be."""
        refused = []
        steps: dict[str, Callable[[], dict[str, Figure]]] = {
            "samples": lambda: self._samples(self.image),
            "draws": lambda: self._samples(False),
            "means": lambda: {"means": self.draw_means()},
            "reconstructions": lambda: {
                "reconstructions": self.draw_reconstructions(*self.reconstructions(16))
            },
            "latents": lambda: {
                "latents": self.draw_latents(self.codes(MANY), self.field("y", MANY))
            },
            "traversals": lambda: self.draw_traversal(self.traversal()),
            "curves": lambda: {"curves": report.curves(self.run.history)},
        }
        for name in names:
            try:
                for key, figure in steps[name]().items():
                    report.save(figure, folder / f"{key}.png")
            except ValueError as error:
                refused.append(f"no {name}.png: {error}")
        return refused

    def _samples(self, mean: bool) -> dict[str, Figure]:
        return {"samples": self.draw_samples(self.samples(64, mean), mean)}

    @property
    def image(self) -> bool:
        r"""Whether a datum is an image."""
        return len(self.data.event_shape) == 3

    @property
    def scale(self) -> tuple[float, float] | None:
        r"""What is drawn black and white."""
        return self.data.value_range if self.image else None

    def _restored(self, found: Found) -> Found:
        r"""The field ``x`` in the user's units; what other fields are, they stay."""
        if isinstance(found, dict):
            return {n: self.data.restore(t) if n == "x" else t for n, t in found.items()}
        whole = found.shape[-len(self.data.event_shape) :] == self.data.event_shape
        return self.data.restore(found) if whole and self.inputs[0] == "x" else found


def _only(found: Found) -> Tensor:
    r"""What there is of ``x`` where a model observes several sites."""
    if isinstance(found, dict):
        return found["x"] if "x" in found else next(iter(found.values()))
    return found


def write_arrays(path: Path, arrays: Mapping[str, Found | NDArray[Any]]) -> Path:
    r"""Writes arrays into an ``.npz``, whole or not at all; a dictionary becomes one for each."""
    flat: dict[str, Any] = {}
    for name, found in arrays.items():
        several = found if isinstance(found, dict) else {"": found}
        for key, value in several.items():
            whole = f"{name}.{key}" if key and name else name or key
            flat[whole] = value.detach().cpu().numpy() if isinstance(value, Tensor) else value
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **flat)
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_file(path, buffer.getvalue())
