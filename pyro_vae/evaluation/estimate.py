r"""A figure with its errors."""

__all__ = ["Estimate", "digits"]

import math
from dataclasses import dataclass, replace
from functools import total_ordering
from typing import SupportsFloat

from torch import Tensor


@total_ordering
@dataclass(frozen=True, eq=False, repr=False)
class Estimate:
    r"""An average over data of what was estimated with particles, and its two errors.

    .. math::
        \bar f = \frac{1}{N} \sum_{n=1}^N \hat f_n \qquad
        \text{stderr}^2 = \text{Var}[\bar f \mid x_1, \dots, x_N] \qquad
        \text{data\_stderr}^2 = \frac{1}{N (N - 1)} \sum_{n=1}^N (\hat f_n - \bar f)^2

    It compares, and formats under a specification such as ``.2f``, as its value does;
    ``float(estimate)`` is the value, and ``-estimate`` the same with the other sign.

    Arguments:
        value: The average :math:`\bar f`.
        stderr: The Monte Carlo error given the data; NaN where it is not known.
        data_stderr: The error over the data, as a sample of what they come from; NaN for one.
        per_datum: The estimates :math:`\hat f_n`, with shape :math:`(N)`, on the CPU.
        unit: What the value is measured in.
        seed: The seed that it was drawn with.

    Example:
        >>> elbo = Estimate(-31.2417, 0.021, 0.312, unit="nats")
        >>> print(elbo)
        -31.24 ± 0.02 (Monte Carlo) ± 0.31 (data) nats
        >>> f"{elbo:.1f}", elbo < -30
        ('-31.2', True)
    """

    value: float
    stderr: float
    data_stderr: float
    per_datum: Tensor | None = None
    unit: str = "nats"
    seed: int | None = None

    @classmethod
    def of(
        cls, per_datum: Tensor, stderr: float, unit: str = "nats", seed: int | None = None
    ) -> "Estimate":
        r"""The average of estimates with shape :math:`(N)`, with its error over the data."""
        per_datum = per_datum.detach().cpu()
        return cls(*average(per_datum, stderr), per_datum, unit, seed)

    def shifted(self, amounts: Tensor) -> "Estimate":
        r"""The estimate of the same figure with an amount added to that of each datum.

        Arguments:
            amounts: The amounts, with shape :math:`(N)`; where all data are one datum, which has
                a single figure, their sum is added to it.

        Example:
            >>> import torch
            >>> estimate = Estimate.of(torch.tensor([-31.0, -33.0]), 0.02)
            >>> print(estimate.shifted(torch.tensor([1.0, 2.0])))
            -30.50 ± 0.02 (Monte Carlo) ± 0.50 (data) nats
        """
        assert self.per_datum is not None  # that of a density
        amounts = amounts if len(self.per_datum) == len(amounts) else amounts.sum().unsqueeze(0)
        return replace(
            Estimate.of(self.per_datum + amounts, self.stderr, self.unit), seed=self.seed
        )

    def to_dict(self) -> dict[str, float | str | int | None]:
        r"""Its figures as JSON has them: ``None`` is what is not finite; without ``per_datum``.

        Example:
            >>> Estimate(-31.24, 0.02, math.nan, seed=3).to_dict()
            {'value': -31.24, 'stderr': 0.02, 'data_stderr': None, 'unit': 'nats', 'seed': 3}
        """
        figures = {"value": self.value, "stderr": self.stderr, "data_stderr": self.data_stderr}
        known = {name: x if math.isfinite(x) else None for name, x in figures.items()}
        return {**known, "unit": self.unit, "seed": self.seed}

    def __float__(self) -> float:
        return float(self.value)

    def __neg__(self) -> "Estimate":
        per_datum = None if self.per_datum is None else -self.per_datum
        return replace(self, value=-self.value, per_datum=per_datum)

    def __eq__(self, other: object) -> bool:
        return self.value == float(other) if isinstance(other, SupportsFloat) else NotImplemented

    def __lt__(self, other: SupportsFloat) -> bool:
        return self.value < float(other) if isinstance(other, SupportsFloat) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.value)

    def __format__(self, specification: str) -> str:
        return format(self.value, specification) if specification else str(self)

    def __str__(self) -> str:
        value, *errors = digits(self.value, self.stderr, self.data_stderr)
        sources = zip(errors, ("Monte Carlo", "data"), strict=True)
        known = [f"± {error} ({source})" for error, source in sources if error]
        return " ".join([value, *known, self.unit]).rstrip()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self})"


def average(per_datum: Tensor, stderr: float) -> tuple[float, float, float]:
    r"""The mean of values with shape :math:`(N)`, the error given, and that over the data."""
    size = per_datum.shape[0]
    spread = float(per_datum.std()) / math.sqrt(size) if size > 1 else math.nan
    return float(per_datum.mean()), stderr, spread


def digits(value: float, *errors: float | None) -> list[str]:
    r"""Rounds a value and its errors where the greatest error has two significant digits.

    A smaller error that would round to zero keeps one digit.

    Arguments:
        value: The value.
        errors: Its errors. One that is ``None`` or NaN becomes an empty string.

    Example:
        >>> digits(1234.5678, 4.32, 0.1)
        ['1234.6', '4.3', '0.1']
        >>> digits(0.125, None)
        ['0.125', '']
    """
    bounds = [math.nan if error is None else error for error in errors]
    # what only rounding has left is no error
    bounds = [0.0 if error < 1e-12 * abs(value) else error for error in bounds]
    greatest = max((error for error in bounds if math.isfinite(error)), default=0)

    form = ".4g"
    if greatest > 0:
        # rounded first: at three places 0.0996 would have three digits, 0.100
        exponent = math.floor(math.log10(float(f"{greatest:.1e}")))
        form = f".{max(0, 1 - exponent)}f"

    def cell(error: float) -> str:
        vanishes = error > 0 and float(f"{error:{form}}") == 0
        return "" if math.isnan(error) else f"{error:{'.1g' if vanishes else form}}"

    return [f"{value:{form}}", *map(cell, bounds)]
