r"""Numbers that change while training goes on."""

__all__ = ["Constant", "Cosine", "Cyclical", "Linear", "Schedule", "as_schedule", "ends"]

import math
from abc import ABC, abstractmethod
from typing import Literal, get_args

import torch
from torch import Tensor, nn

Unit = Literal["step", "epoch"]


class Schedule(nn.Module, ABC):
    r"""A number as a function of the time :math:`t` that training has taken.

    It is a tensor that is computed from another, the time, so that neither a compiled step nor a
    checkpoint has to know of it.

    Arguments:
        unit: Whether time is counted in steps, or in epochs, of which a batch is its part.
    """

    time: Tensor

    def __init__(self, unit: Unit = "step") -> None:
        super().__init__()
        if unit not in get_args(Unit):
            raise ValueError(f"expected a unit of 'step' or 'epoch', got {unit!r}")
        self.unit = unit
        self.register_buffer("time", torch.zeros((), dtype=torch.float64))

    def forward(self) -> Tensor:
        r"""The value now, with shape ``()``."""
        return self.at(self.time)

    @abstractmethod
    def at(self, time: Tensor) -> Tensor:
        r"""The value at a time, with the shape of the time."""

    def advance(self, part: float) -> None:
        r"""Lets time pass: a step, which is a part of an epoch."""
        self.time.add_(1.0 if self.unit == "step" else part)


class Constant(Schedule):
    r"""A number that stays, unless it is changed by hand: ``schedule.number.fill_(0.5)``.

    Arguments:
        number: The number, or a tensor of it, which is kept as it is.

    Example:
        >>> Constant(0.5)().item()
        0.5
    """

    number: Tensor

    def __init__(self, number: float | Tensor) -> None:
        super().__init__()
        self.register_buffer("time", None)  # nothing that a checkpoint would have to keep
        # of two widths, so that the number is the one that was given
        plain = torch.tensor(float(number), dtype=torch.float64)
        tensor = number if isinstance(number, Tensor) else plain
        self.register_buffer("number", tensor, persistent=False)

    def at(self, time: Tensor) -> Tensor:
        r"""The number."""
        return self.number

    def advance(self, part: float) -> None:
        r"""Nothing changes."""


class Linear(Schedule):
    r"""From one number to another at a constant pace.

    .. math:: v(t) = a + (b - a) \min(1, t / T)

    Arguments:
        start: The first value :math:`a`.
        end: The last value :math:`b`, at which it stays.
        length: How long it takes, :math:`T`.
        unit: The unit of time.

    References:
        | Generating Sentences from a Continuous Space (Bowman et al., 2016)
        | https://arxiv.org/abs/1511.06349

    Example:
        >>> Linear(0.0, 1.0, length=10).at(torch.tensor([0.0, 5.0, 20.0]))
        tensor([0.0000, 0.5000, 1.0000])
    """

    def __init__(
        self, start: float = 0.0, end: float = 1.0, length: float = 1000, unit: Unit = "step"
    ) -> None:
        super().__init__(unit)
        self.start, self.end, self.length = start, end, _positive(length)

    def at(self, time: Tensor) -> Tensor:
        r"""The value at a time."""
        return self.start + (self.end - self.start) * (time / self.length).clamp(max=1)


class Cosine(Schedule):
    r"""From one number to another along half a cosine, slowly at both ends.

    .. math:: v(t) = a + (b - a) \, \frac{1 - \cos(\pi \min(1, t / T))}{2}

    Arguments:
        start: The first value :math:`a`.
        end: The last value :math:`b`, at which it stays.
        length: How long it takes, :math:`T`.
        unit: The unit of time.

    Example:
        >>> Cosine(0.0, 1.0, length=10).at(torch.tensor([0.0, 5.0, 20.0]))
        tensor([0.0000, 0.5000, 1.0000])
    """

    def __init__(
        self, start: float = 0.0, end: float = 1.0, length: float = 1000, unit: Unit = "step"
    ) -> None:
        super().__init__(unit)
        self.start, self.end, self.length = start, end, _positive(length)

    def at(self, time: Tensor) -> Tensor:
        r"""The value at a time."""
        angle = math.pi * (time / self.length).clamp(max=1)
        return self.start + (self.end - self.start) * (1 - angle.cos()) / 2


class Cyclical(Schedule):
    r"""From one number to another again and again, each time staying there for a while.

    .. math:: v(t) = a + (b - a) \min\left(1, \frac{(t \bmod T / M)}{R \, T / M}\right)
              \text{ for } t < T, \quad b \text{ afterwards}

    Arguments:
        start: The first value :math:`a` of each cycle.
        end: The last value :math:`b`.
        length: How long all cycles take, :math:`T`.
        cycles: Their number :math:`M`.
        rise: The part :math:`R` of each cycle in which the number grows.
        unit: The unit of time.

    References:
        | Cyclical Annealing Schedule (Fu et al., 2019)
        | https://arxiv.org/abs/1903.10145

    Example:
        >>> Cyclical(length=20, cycles=2).at(torch.tensor([0.0, 2.5, 5.0, 12.5, 30.0]))
        tensor([0.0000, 0.5000, 1.0000, 0.5000, 1.0000])
    """

    def __init__(
        self,
        start: float = 0.0,
        end: float = 1.0,
        length: float = 1000,
        cycles: int = 4,
        rise: float = 0.5,
        unit: Unit = "step",
    ) -> None:
        super().__init__(unit)
        if cycles < 1:
            raise ValueError(f"expected at least one cycle, got {cycles}")
        if not 0 < rise <= 1:
            raise ValueError(f"expected a rise in (0, 1], a part of a cycle, got {rise}")
        self.start, self.end, self.length = start, end, _positive(length)
        self.cycles, self.rise = cycles, rise

    def at(self, time: Tensor) -> Tensor:
        r"""The value at a time."""
        cycle = self.length / self.cycles
        part = ((time % cycle) / (self.rise * cycle)).clamp(max=1)
        part = torch.where(time < self.length, part, torch.ones_like(part))
        return self.start + (self.end - self.start) * part


def as_schedule(
    value: "float | Tensor | Schedule", name: str, least: float = -math.inf, most: float = math.inf
) -> Schedule:
    r"""A number as a schedule, and a schedule as it is, once their values are known to be in range.

    Arguments:
        value: A number, a tensor with shape ``()``, or a schedule.
        name: What messages call it.
        least, most: The range, ends included.

    Raises:
        TypeError: If it is none of the three, or a parameter.
        ValueError: If a value is out of range, or not finite, or if there are several.
    """
    if not isinstance(value, int | float | Tensor | Schedule):
        raise TypeError(
            f"expected {name} to be a number or a schedule of pyro_vae.schedules, got "
            f"{type(value).__name__}"
        )
    if isinstance(value, nn.Parameter):
        raise TypeError(
            f"expected {name} to be a number, got a parameter, which nothing would train"
        )
    if isinstance(value, Tensor) and value.dim():
        shape = tuple(value.shape)
        raise ValueError(f"expected {name} to be one number, got a tensor with shape {shape}")
    schedule = value if isinstance(value, Schedule) else Constant(value)
    for number in ends(schedule):
        if not (least <= number <= most and math.isfinite(number)):
            raise ValueError(f"expected {name} {_range(least, most)}, got {number}")
    return schedule


def ends(schedule: Schedule) -> list[float]:
    r"""The numbers that a schedule of ours lies between; none of one that is not ours.

    Example:
        >>> ends(Linear(0, 4)), ends(Constant(2))
        ([0.0, 4.0], [2.0])
    """
    known = ("number", "start", "end")
    return [float(getattr(schedule, end)) for end in known if hasattr(schedule, end)]


def _range(least: float, most: float) -> str:
    if math.isinf(least) and math.isinf(most):
        return "to be finite"
    if math.isinf(most):
        return f"to be finite and at least {least:g}"
    return f"to be between {least:g} and {most:g}"


def _positive(length: float) -> float:
    if not 0 < length < math.inf:
        raise ValueError(f"expected a positive length, got {length}")
    return length
