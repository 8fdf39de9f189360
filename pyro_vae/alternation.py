r"""How many steps the guide takes for each one of the model."""

__all__ = ["Alternation", "EncoderSteps", "only_guide"]

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from operator import index
from typing import Any, Literal

from torch import Tensor

from pyro_vae.pair import Pair, Plan

EncoderSteps = int | Literal["aggressive"]

# as in the code of the paper: how many losses make a mean that is compared, and how many steps
# of the guide there are at most
_WINDOW, _MOST = 10, 100


class Alternation:
    r"""Decides which steps train the guide alone, so that it does not lag behind the model.

    With a number :math:`k`, of every :math:`k` steps one trains the model, too. ``"aggressive"``
    trains the guide until the mean loss of ten steps is no better than that of the ten before
    (or for 100 steps), and then takes one step of both; once the mutual information of data and
    latents has not grown over as many steps of both as there are in an epoch, all train both.

    Arguments:
        encoder_steps: The number :math:`k`, or ``"aggressive"``.

    Raises:
        TypeError: If it is neither.
        ValueError: If the number is less than 1.

    References:
        | Lagging Inference Networks and Posterior Collapse (He et al., 2019)
        | https://arxiv.org/abs/1901.05534

    Example:
        >>> alternation = Alternation(3)
        >>> [alternation.next() for _ in range(6)]
        [False, False, True, False, False, True]
    """

    def __init__(self, encoder_steps: EncoderSteps = 1) -> None:
        self.aggressive = encoder_steps == "aggressive"
        if not self.aggressive:
            check_encoder_steps(encoder_steps)
        self.every = 1 if self.aggressive else int(encoder_steps)
        self.taken = 0  # steps of the guide alone since the model's last
        self.losses: list[Tensor | float] = []  # of them, since the last comparison
        self.before = math.inf
        self.both = 0  # steps since information was last compared
        self.information = -math.inf

    def next(self) -> bool:
        r"""Whether the step to come trains the model, too."""
        both = self._is_converged() if self.aggressive else self.taken + 1 >= self.every
        self.taken = 0 if both else self.taken + 1
        if both:
            self.losses, self.before = [], math.inf
            self.both += 1
        return both

    def took(self, loss: Tensor) -> None:
        r"""Notes the loss of a step."""
        if self.aggressive and self.taken:
            self.losses.append(loss)

    def is_due(self, steps: int) -> bool:
        r"""Whether to compare information: after so many steps of both, while it decides."""
        return self.aggressive and self.both >= steps

    def compare(self, information: float) -> None:
        r"""Ends the aggressive part of training once the mutual information stops growing."""
        self.aggressive &= information > self.information
        self.both, self.information = 0, information

    def state_dict(self) -> dict[str, Any]:
        r"""What must be kept to go on."""
        return {**vars(self), "losses": [float(loss) for loss in self.losses]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        r"""Takes up what :meth:`state_dict` returned."""
        vars(self).update(state)

    def _is_converged(self) -> bool:
        if self.taken >= _MOST:
            return True
        if len(self.losses) < _WINDOW:
            return False
        mean = math.fsum(map(float, self.losses)) / len(self.losses)
        converged, self.before, self.losses = mean >= self.before, mean, []
        return converged


def check_encoder_steps(encoder_steps: Any) -> None:
    r"""Raises unless it is a number of steps, or ``"aggressive"``."""
    if encoder_steps == "aggressive":
        return
    try:
        count = index(encoder_steps)
    except TypeError as error:
        raise TypeError(
            f"expected encoder_steps to be an integer or 'aggressive', got {encoder_steps!r}"
        ) from error
    if count < 1:
        raise ValueError(f"expected encoder_steps of at least 1, got {count}")


@contextmanager
def only_guide(pair: Pair, plan: Plan) -> Iterator[None]:
    r"""Freezes what only the model uses: a step taken meanwhile trains the guide alone.

    Raises:
        ValueError: If the guide has no parameters of its own.
    """
    if not plan.guide:
        raise ValueError(
            "expected a guide with parameters of its own for encoder_steps, got none: there is "
            "nothing to train apart from the model"
        )
    names = {id(tensor): name for name, tensor in pair.parameters.items()}
    frozen = [t for t in plan.model if names[id(t)] not in _shared(plan)]
    for tensor in frozen:
        tensor.requires_grad_(False)
    try:
        with warnings.catch_warnings():
            # Pyro's store is told of them at the next step of both
            warnings.filterwarnings("ignore", ".*was not registered in the param store")
            yield
    finally:
        for tensor in frozen:
            tensor.requires_grad_(True)


def _shared(plan: Plan) -> set[str]:
    return {f"model.{name}" for name in plan.shared}
