r"""Metrics, called as ``evaluate`` calls them."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import stats
from torch import Tensor

from pyro_vae.evaluation import Estimate
from pyro_vae.evaluation.setting import evaluating
from pyro_vae.pair import Pair

Metric = Callable[..., dict[str, Estimate]]


def measure(
    metric: Metric, model: Any, guide: Any, *fields: Tensor, seed: int = 1, **options: Any
) -> dict[str, Estimate]:
    r"""Its seed is not that of the tests: noise would be the very numbers that made the data."""
    size = fields[0].shape[0]
    chosen = {"particles": 10, "batch_size": None, "data_size": size, "capture": False, **options}
    with evaluating(model, guide, rows=fields, seed=seed) as place:
        return metric(Pair(model, guide), fields, place, seed=seed, **chosen)


def check_errors(found: Sequence[Estimate], exact: float) -> None:
    r"""Squared z-scores are chi-square but for 1 in 1000 on each side, their mean is about 0."""
    z, count = np.array([(each.value - exact) / each.stderr for each in found]), len(found)
    assert stats.chi2(count).ppf(0.001) < (z**2).sum() < stats.chi2(count).ppf(0.999)
    assert abs(z.mean()) < 4 / np.sqrt(count)
