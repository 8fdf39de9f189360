r"""Whether a model repeats its training data: their distances from what it generates."""

__all__ = ["Neighbours", "nearest", "nearest_neighbours"]

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_vae.capturable import Mode
from pyro_vae.counts import check_counts
from pyro_vae.evaluation.estimate import Estimate
from pyro_vae.evaluation.fields import Batch, Rows, column
from pyro_vae.evaluation.generation import Device, sample
from pyro_vae.programs import Program

_ELEMENTS = 2**24  # of a chunk of distances


@dataclass(frozen=True)
class Neighbours:
    r"""What a model generated, with the training rows that are nearest.

    Arguments:
        samples: What it generated, with shape :math:`(M, *)`.
        indices: The nearest training rows of each sample, nearest first, :math:`(M, k)`.
        distances: Their Euclidean distances, with shape :math:`(M, k)`.
        test_distances: The distances of test rows from the nearest training row, :math:`(T)`.
        ratio: The mean distance of samples by that of test rows.
        closer: The probability that a sample is closer to its nearest training row than a test
            row is to its own, where half of the ties count.
    """

    samples: Tensor
    indices: Tensor
    distances: Tensor
    test_distances: Tensor
    ratio: Estimate
    closer: Estimate


def nearest_neighbours(
    model: Program,
    guide: Program,
    train: Rows,
    test: Rows,
    *,
    n: int = 1000,
    neighbours: int = 1,
    mean: bool = False,
    batch: Batch | None = None,
    batch_size: int = 256,
    data_plate: str | None = None,
    device: Device = None,
    seed: int = 0,
    capture: Mode = "auto",
) -> Neighbours:
    r"""Finds the training rows that are nearest to what a model generates.

    .. math::
        d(x) = \min_j \lVert x - x^\text{train}_j \rVert \qquad
        \text{ratio} = \frac{\overline{d(\tilde x)}}{\overline{d(x^\text{test})}} \qquad
        \text{closer} = P(d(\tilde x) < d(x^\text{test}))

    A model that generates what test data are has a ratio of 1, and is closer in half of all
    cases; one that repeats training data has a ratio towards 0, and is closer in all. Test data
    stand for what is new: draws that are farther than these are not of the data, or blurred, or
    noisy, which hides repetition. With ``mean`` there is no noise; then samples may well be
    closer than test data, which have some.

    Of ``ratio`` and ``closer`` the Monte Carlo error is that of the samples, the error over the
    data that of test rows.

    Arguments:
        model, guide: As for :func:`sample`.
        train: The training rows, with shape :math:`(N, *)`.
        test: Rows from the same source that were not trained on, with shape :math:`(T, *)`.
        n: The number of samples :math:`M`.
        neighbours: The number of training rows :math:`k` to name for each.
        mean, batch, batch_size, data_plate, device, seed, capture: As for :func:`sample`.

    Raises:
        TypeError: If rows are neither tensors nor arrays.
        ValueError: If the model generates several sites, or rows of another shape than the data;
            if there are fewer training rows than neighbours, or no test rows.

    References:
        | A Non-Parametric Test to Detect Data-Copying in Generative Models (Meehan et al., 2020)
        | https://arxiv.org/abs/2004.05675

    Example:
        >>> from pyro_vae.guides import AmortizedNormal
        >>> from pyro_vae.models import VAE
        >>> model, guide = VAE((4,), latents=2), AmortizedNormal((4,), {"z": 2})
        >>> found = nearest_neighbours(model, guide, torch.eye(4), torch.ones(2, 4), n=3)
        >>> found.indices.shape, found.samples.shape
        (torch.Size([3, 1]), torch.Size([3, 4]))
    """
    check_counts(neighbours=neighbours)
    drawn = sample(
        model, guide, n, mean=mean, batch=batch, batch_size=batch_size, data_plate=data_plate,
        device=device, seed=seed, capture=capture,
    )  # fmt: skip
    if not isinstance(drawn, Tensor):
        raise ValueError(
            f"expected a model that generates one site, whose rows have distances, got {[*drawn]}"
        )
    known, new = (
        column(rows, name, drawn.dtype) for rows, name in ((train, "train"), (test, "test"))
    )
    _check_rows(drawn, known, new, neighbours)
    known, new = known.to(drawn.device, drawn.dtype), new.to(drawn.device, drawn.dtype)
    distances, indices = nearest(drawn, known, neighbours)
    test_distances = nearest(new, known, 1)[0][:, 0]
    ours = distances[:, 0].double()
    return Neighbours(
        drawn, indices, distances, test_distances,
        _ratio(ours, test_distances.double(), seed), _closer(ours, test_distances.double(), seed),
    )  # fmt: skip


def nearest(points: Tensor, rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    r"""The nearest rows of each point, in chunks of bounded memory.

    Arguments:
        points: The points, with shape :math:`(M, *)`.
        rows: The rows, with shape :math:`(N, *)`.
        count: How many of them, :math:`k`.

    Returns:
        Distances, the smallest first, and indices, with shapes :math:`(M, k)`.

    Raises:
        ValueError: If a value is not finite.

    Example:
        >>> nearest(torch.tensor([[0.9]]), torch.tensor([[0.0], [1.0], [3.0]]), 2)[1]
        tensor([[1, 0]])
    """
    points, rows = points.flatten(1), rows.flatten(1)
    for values in (points, rows):
        if bad := int((~values.isfinite()).sum()):
            raise ValueError(
                f"expected finite rows, which have distances, got {bad} of {values.numel()} values "
                "NaN or infinite: impute what is missing first (pyro_vae.evaluation.impute)"
            )
    centre = rows.mean(0)
    # products of rows lose digits, most where all are far from 0: what they find is measured anew
    kept, chunk = min(rows.shape[0], count + 4), max(1, _ELEMENTS // rows.shape[0])
    parts = []
    for part in points.split(chunk):
        found = torch.cdist(part - centre, rows - centre).topk(kept, largest=False).indices
        exact = torch.stack([(part - rows[column]).norm(dim=-1) for column in found.T], -1)
        distances, order = exact.sort(dim=-1, stable=True)
        parts.append((distances[:, :count], found.gather(-1, order)[:, :count]))
    return torch.cat([d for d, _ in parts]), torch.cat([i for _, i in parts])


def _check_rows(drawn: Tensor, train: Tensor, test: Tensor, neighbours: int) -> None:
    shapes = {tuple(rows.shape[1:]) for rows in (drawn, train, test)}
    if len(shapes) > 1 or train.shape[0] < neighbours or not test.shape[0]:
        raise ValueError(
            f"expected at least {neighbours} rows to train and one to test on, of the shape that "
            f"the model generates, {tuple(drawn.shape[1:])}, got {tuple(train.shape)} and "
            f"{tuple(test.shape)}"
        )


def _ratio(ours: Tensor, test: Tensor, seed: int) -> Estimate:
    value, mean = float(ours.mean() / test.mean()), float(test.mean())
    return Estimate(value, _sem(ours) / mean, value * _sem(test) / mean, None, "", seed)


def _closer(ours: Tensor, test: Tensor, seed: int) -> Estimate:
    r"""The Mann-Whitney statistic, with DeLong's errors."""
    by_sample = 1 - _share_below(test, ours)
    by_test = _share_below(ours, test)
    value = float(by_sample.mean())
    return Estimate(value, _sem(by_sample), _sem(by_test), None, "of the samples", seed)


def _share_below(values: Tensor, bounds: Tensor) -> Tensor:
    r"""The share of values below each bound, where half of those that equal it count."""
    ordered = values.sort().values
    left = torch.searchsorted(ordered, bounds.contiguous())
    right = torch.searchsorted(ordered, bounds.contiguous(), right=True)
    return (left + right).double() / (2 * len(values))


def _sem(values: Tensor) -> float:
    return float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else math.nan
