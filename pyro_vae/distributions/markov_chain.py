r"""A chain of states, each of which depends on the one before: one site for all steps."""

__all__ = ["MarkovChain"]

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from pyro.poutine.messenger import Messenger
from torch import Size, Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from pyro_vae.counts import check_counts
from pyro_vae.recurrence import recur

Transition = Callable[..., TorchDistribution]


class MarkovChain(TorchDistribution):
    r"""A sequence of states :math:`z_1, \dots, z_T`, each of which depends on the one before.

    .. math:: p(z_{1:T} \mid u_{2:T}) = p(z_1) \prod_{t=2}^T p(z_t \mid z_{t-1}, u_t)

    The log-density of states that are given is one evaluation of the transition, on all steps at
    once; only drawing runs over time. One site holds the whole chain, in a model as a prior, in
    a guide over what a network, as a backward RNN, made of the data.

    Where sequences have other lengths, :math:`z_t` counts nothing once its sequence is over, and
    a draw stays at the last state: what is observed there must be masked, too. The lengths must
    be the same in model and guide.

    Arguments:
        initial: The distribution of :math:`z_1`, with batch shape :math:`(*)` and event shape
            :math:`(D)`.
        transition: Called as ``transition(z, u)``, or as ``transition(z)`` without inputs, with
            the states before :math:`S` steps, :math:`(*, S, D)`, and the inputs of these steps,
            :math:`(*, S, I)`; returns the distribution of the states after them, with batch shape
            :math:`(*, S)` and event shape :math:`(D)`. :math:`S` is :math:`T - 1` for a density,
            and 1 while states are drawn. It treats every step alike, and holds no sites: what it
            depends on is drawn before.
        inputs: What steps depend on besides, with shape :math:`(*, T - 1, I)`, from
            :math:`u_2` on.
        steps: The number of states :math:`T`; with inputs it is known.
        lengths: The number of states of each sequence, :math:`1, \dots, T`, with shape
            :math:`(*)`; by default all have :math:`T`.

    Raises:
        TypeError: If ``lengths`` are no integers.
        ValueError: If the initial state is no vector, if ``steps`` and ``inputs`` disagree or
            both are missing, or if a length is not in :math:`1, \dots, T`. Later, if states or
            the transition's distributions have another shape, if draws of the transition have no
            gradient, though those of the initial state have, or if it holds a site.

    References:
        | Structured Inference Networks for Nonlinear State Space Models (Krishnan et al., 2017)
        | https://arxiv.org/abs/1609.09869

    Example:
        >>> import pyro.distributions as dist
        >>> start = dist.Normal(torch.zeros(3, 2), 1.0).to_event(1)
        >>> walk = MarkovChain(start, lambda z: dist.Normal(z, 0.1).to_event(1), steps=20)
        >>> walk.rsample().shape
        torch.Size([3, 20, 2])
        >>> walk.log_prob(torch.zeros(5, 3, 20, 2)).shape
        torch.Size([5, 3])

        A deep Markov model is a chain in the model, whose transition is a network, and one in the
        guide, whose transition depends on the data, too: on those that are still to come, which
        a network reads backwards by :func:`pyro_vae.recurrence.recur`.

        >>> import pyro
        >>> from functools import partial
        >>> from pyro.nn import PyroModule
        >>> from pyro_vae import SVI
        >>> from pyro_vae.nn import mlp, positive
        >>> class Transition(torch.nn.Module):
        ...     def __init__(self, inputs):
        ...         super().__init__()
        ...         self.network = mlp(2 + inputs, 4, (16,))
        ...     def forward(self, z, *u):
        ...         loc, raw = self.network(torch.cat([z, *u], -1)).chunk(2, -1)
        ...         return dist.Normal(loc, positive(raw)).to_event(1)
        >>> class Model(PyroModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.transition, self.decoder = Transition(0), mlp(2, 5, (16,))
        ...     def forward(self, x):  # (N, T, 5)
        ...         start = dist.Normal(x.new_zeros(2), 1.0).to_event(1)
        ...         with pyro.plate("data", x.shape[0], dim=-1):
        ...             chain = MarkovChain(start, self.transition, steps=x.shape[1])
        ...             z = pyro.sample("z", chain)  # (N, T, 2)
        ...             pyro.sample("x", dist.Normal(self.decoder(z), 0.5).to_event(2), obs=x)
        >>> class Guide(PyroModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.transition, self.network = Transition(8), mlp(8 + 5, 8, ())
        ...     def read(self, h, x):
        ...         return self.network(torch.cat([h, x], -1)).tanh()
        ...     def forward(self, x):
        ...         h = recur(self.read, x.new_zeros(x.shape[0], 1, 8), [x.flip(1)], x.shape[1])
        ...         h = h.flip(1)  # of each step, what comes from it on
        ...         first = self.transition(x.new_zeros(x.shape[0], 2), h[:, 0])
        ...         with pyro.plate("data", x.shape[0], dim=-1):
        ...             pyro.sample("z", MarkovChain(first, self.transition, h[:, 1:]))
        >>> _ = torch.manual_seed(0)
        >>> x = torch.linspace(0, 6, 12).sin()[:, None].expand(20, 12, 5)
        >>> svi = SVI(Model(), Guide(), partial(torch.optim.Adam, lr=1e-2))
        >>> losses = [svi.step(x).item() for _ in range(30)]
        >>> losses[-1] < 0.9 * losses[0]
        True
    """

    arg_constraints: ClassVar[dict[str, Constraint]] = {}

    def __init__(
        self,
        initial: TorchDistribution,
        transition: Transition,
        inputs: Tensor | None = None,
        *,
        steps: int | None = None,
        lengths: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        if len(initial.event_shape) != 1:
            raise ValueError(
                "expected the initial state to be a vector, got event shape "
                f"{tuple(initial.event_shape)}: use .to_event to make one dimension of it"
            )
        self.steps = _steps(inputs, steps)
        parts = [part.shape for part in (lengths,) if part is not None]
        parts += [part.shape[:-2] for part in (inputs,) if part is not None]
        batch_shape = torch.broadcast_shapes(initial.batch_shape, *parts)
        self.initial = initial.expand(batch_shape)
        self.transition, self.inputs, self.lengths = transition, inputs, lengths
        self.has_rsample = initial.has_rsample
        event_shape = Size([self.steps, *initial.event_shape])
        super().__init__(batch_shape, event_shape, validate_args=validate_args)
        if lengths is not None:
            _check_lengths(lengths, self.steps, self._validate_args)

    @constraints.dependent_property(event_dim=2)
    def support(self) -> Constraint:
        return constraints.independent(self.initial.support, 1)

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> "MarkovChain":
        r"""Returns the same distribution with batch shape ``batch_shape``."""
        expanded = MarkovChain(
            self.initial.expand(Size(batch_shape)),
            self.transition,
            self.inputs,
            steps=self.steps,
            lengths=self.lengths,
            validate_args=self._validate_args,
        )
        expanded.has_rsample = self.has_rsample  # which may have been set
        return expanded

    def log_prob(self, value: Tensor) -> Tensor:
        r"""Returns :math:`\log p(z_{1:T})` of states with shape :math:`(*, T, D)`."""
        if value.shape[-2:] != self.event_shape:
            raise ValueError(
                f"expected states with shape (*, {', '.join(map(str, self.event_shape))}), got "
                f"{tuple(value.shape)}: one for each step, all of them vectors"
            )
        exists = self._exists()
        if exists is not None:  # what is there otherwise may have no density, or be missing
            value = torch.where(exists[..., None], value, value[..., :1, :])
        if self._validate_args:
            self._validate_sample(value)

        shape = torch.broadcast_shapes(value.shape[:-2], self.batch_shape)
        z = value.expand(*shape, *self.event_shape)
        first = self.initial.log_prob(z[..., 0, :])
        if self.steps == 1:
            return first
        inputs = [] if self.inputs is None else [self.inputs]
        later = self._following(z[..., :-1, :], inputs).log_prob(z[..., 1:, :])  # (*, T - 1)
        if exists is not None:
            later = torch.where(exists[..., 1:], later, 0.0)
        return first + later.sum(-1)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        r"""Draws states one after the other."""
        return self._draw(Size(sample_shape), _pathwise)

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        r"""Draws states one after the other, without a gradient."""
        return self._draw(Size(sample_shape), _drawn)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        r"""Refuses: all sequences are too many."""
        raise NotImplementedError(
            "expected a chain that is drawn, got one to be summed out: of discrete states, that "
            "is what pyro.distributions.DiscreteHMM does"
        )

    def _draw(self, sample_shape: Size, draw: Callable[[Any, Size], Tensor]) -> Tensor:
        exists = self._exists()
        first = draw(self.initial, sample_shape).unsqueeze(-2)  # (*, 1, D)
        inputs = [] if self.inputs is None else [self.inputs]
        ends = [] if exists is None else [exists[..., 1:, None]]

        def step(z: Tensor, *rows: Tensor) -> Tensor:
            after = draw(self._following(z, rows[: len(inputs)]), Size())
            return torch.where(rows[-1], after, z) if ends else after

        if self.steps == 1:
            return first
        return torch.cat([first, recur(step, first, [*inputs, *ends], self.steps - 1)], -2)

    def _following(self, z: Tensor, inputs: Sequence[Tensor]) -> TorchDistribution:
        r"""The distribution of the states that follow ``z``, with batch shape :math:`(*, S)`."""
        shape = z.shape[:-1]
        with _NoSites():
            found = self.transition(z, *(u.expand(*shape, u.shape[-1]) for u in inputs))
        if found.event_shape != z.shape[-1:]:
            raise ValueError(
                "expected the transition to return a distribution with event shape "
                f"{tuple(z.shape[-1:])}, as the initial state has, got {type(found).__name__} with "
                f"{tuple(found.event_shape)}: add .to_event(1), or make its network as wide"
            )
        return found if found.batch_shape == shape else found.expand(shape)

    def _exists(self) -> Tensor | None:
        r"""Which states are part of their sequence, with shape :math:`(*, T)`."""
        if self.lengths is None:
            return None
        return torch.arange(self.steps, device=self.lengths.device) < self.lengths[..., None]


class _NoSites(Messenger):
    r"""Refuses sites where each step would be another, and a density comes too late for any."""

    def _pyro_sample(self, message: Any) -> None:
        raise ValueError(
            f"expected a transition without sites, got one that holds {message['name']!r}: draw "
            "it before the chain is made"
        )


def _pathwise(fn: Any, shape: Size) -> Tensor:
    if not fn.has_rsample:
        raise ValueError(
            "expected a transition to distributions whose draws have gradients, as those of the "
            f"initial state have, got {type(fn).__name__}: draw without, by "
            "MarkovChain(...).has_rsample_(False)"
        )
    drawn: Tensor = fn.rsample(shape)
    return drawn


def _drawn(fn: Any, shape: Size) -> Tensor:
    draw = fn.rsample if fn.has_rsample else fn.sample  # a graph can take the first apart
    drawn: Tensor = draw(shape)
    return drawn


def _steps(inputs: Tensor | None, steps: int | None) -> int:
    check_counts(steps=steps)
    if inputs is None:
        if steps is None:
            raise ValueError("expected the number of steps, or inputs that tell it, got neither")
        return steps
    if inputs.dim() < 2:
        raise ValueError(
            f"expected inputs with shape (*, T - 1, I), got {tuple(inputs.shape)}: a single "
            "feature is a dimension, too"
        )
    found = inputs.shape[-2] + 1
    if steps not in (None, found):
        raise ValueError(
            f"expected inputs of one step less than the {steps} states, from the second state on, "
            f"got those of {found - 1}: leave out what the initial state depends on"
        )
    return found


def _check_lengths(lengths: Tensor, steps: int, looks: bool) -> None:
    if lengths.is_floating_point() or lengths.is_complex() or lengths.dtype == torch.bool:
        raise TypeError(
            f"expected lengths to be integers, got {lengths.dtype}: of a mask, give mask.sum(-1)"
        )
    if looks and not ((lengths >= 1) & (lengths <= steps)).all():
        raise ValueError(f"expected lengths from 1 to the number of steps, {steps}, got others")
