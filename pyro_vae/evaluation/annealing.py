r"""Annealed importance sampling with Hamiltonian transitions, for all data and chains at once."""

__all__ = ["anneal", "step_sizes", "temperatures"]

from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_vae.evaluation.joint import Joint

_RATE = 0.65  # of proposals that are accepted: what is best for many latents (Beskos et al., 2013)
_VISITED, _LEAST = 100, 30  # temperatures that step sizes are found at, and transitions in all
_WARMUP = 20  # more transitions at the first


def temperatures(count: int) -> Tensor:
    r"""The inverse temperatures :math:`0 = \beta_0 < \dots < \beta_T = 1`, close at both ends.

    They are those of a logistic function between -4 and 4 (Grosse et al., 2015).

    Example:
        >>> temperatures(2)
        tensor([0.0000, 0.5000, 1.0000])
    """
    curve = torch.linspace(-4, 4, count + 1).sigmoid()
    return (curve - curve[0]) / (curve[-1] - curve[0])


@dataclass(frozen=True)
class _State:
    r"""Where chains are, with shape :math:`(K, N, D)`, and the densities there."""

    u: Tensor
    log_prior: Tensor
    log_likelihood: Tensor

    def log_target(self, beta: Tensor) -> Tensor:
        r"""The density at an inverse temperature, with shape :math:`(K, N)`."""
        return self.log_prior + beta * self.log_likelihood


def anneal(
    joint: Joint, u: Tensor, betas: Tensor, steps: Tensor, *, reverse: bool = False
) -> Tensor:
    r"""Moves latents from the prior to the posterior, or back, and weighs them on the way.

    .. math::
        \log w = \sum_{t=1}^T (\beta_t - \beta_{t-1}) \log p(x \mid z_{t-1})

    Between :math:`z_{t-1}` and :math:`z_t` lies a transition that leaves
    :math:`f_t(z) = p(z) p(x \mid z)^{\beta_t}` as it is. Upwards, from draws of the prior,
    :math:`\mathbb{E}[w] = p(x)`; in reverse, from draws of the posterior,
    :math:`\mathbb{E}[w^{-1}] = p(x)^{-1}`. Both hold for any step sizes that were fixed before.

    Arguments:
        joint: The density.
        u: Where chains begin, with shape :math:`(K, N, D)`.
        betas: The inverse temperatures, with shape :math:`(T + 1)`.
        steps: The step sizes at those between the first and the last, with shape
            :math:`(T - 1, N)`.
        reverse: Whether it begins at the posterior.

    Returns:
        The logarithms of the weights, with shape :math:`(K, N)`, in double precision.
    """
    gaps, between = betas.diff(), betas[1:-1]
    if reverse:
        gaps, between, steps = gaps.flip(0), between.flip(0), steps.flip(0)
    state = _State(u, *joint(u))
    total = gaps[0] * state.log_likelihood.double()
    for gap, beta, step in zip(gaps[1:], between, steps, strict=True):
        state, _ = _transition(joint, state, beta, step)
        total = total + gap * state.log_likelihood.double()
    return total


def step_sizes(joint: Joint, betas: Tensor) -> Tensor:
    r"""Step sizes for each datum at each temperature, from chains that are not weighted.

    Chains of their own pass through at most 100 of the temperatures, and those of a datum change
    its step size by how many proposals they accept. Thereby no chain that counts has an
    influence on how it moves.

    Returns:
        A tensor with shape :math:`(T - 1, N)`.
    """
    count = len(betas) - 2
    visited = torch.linspace(0, max(count - 1, 0), min(count, _VISITED)).round().long()
    u = joint.draw_prior()
    state = _State(u, *joint(u))
    log_step, found = u.new_full(u.shape[1:2], -2.0), []
    for i, index in enumerate(visited.tolist()):
        for _ in range(max(1, _LEAST // len(visited)) + (0 if i else _WARMUP)):
            state, rate = _transition(joint, state, betas[1 + index], log_step.exp())
            log_step = log_step + 0.5 * (rate.mean(0) - _RATE)
        found.append(log_step.exp())
    nearest = (torch.arange(count)[:, None] - visited).abs().argmin(1) if count else visited
    return torch.stack(found)[nearest] if found else u.new_zeros(0, u.shape[1])


def _transition(
    joint: Joint, state: _State, beta: Tensor, step: Tensor, leaps: int = 10
) -> tuple[_State, Tensor]:
    r"""A step of Hamiltonian Monte Carlo, of which the momentum is new.

    Arguments:
        joint: The density.
        state: Where chains are.
        beta: The inverse temperature.
        step: The step size of each datum, with shape :math:`(N)`; a chain's is up to a fifth
            longer or shorter, since an orbit of one length may end where it began.
        leaps: The number of steps.

    Returns:
        Where chains are then, and the probabilities with which they went there.
    """
    step = (step * torch.empty_like(state.log_prior).uniform_(0.8, 1.2))[..., None]
    momentum = torch.randn_like(state.u)
    energy = state.log_target(beta) - _kinetic(momentum)

    new, gradient = _slope(joint, state.u, beta)
    for _ in range(leaps):
        momentum = momentum + step / 2 * gradient
        new, gradient = _slope(joint, new.u + step * momentum, beta)
        momentum = momentum + step / 2 * gradient

    change = new.log_target(beta) - _kinetic(momentum) - energy
    rate = change.exp().clamp(max=1).nan_to_num(nan=0.0)  # where it diverged, none goes there
    accepted = torch.rand_like(rate) < rate
    return _State(
        torch.where(accepted[..., None], new.u, state.u),
        torch.where(accepted, new.log_prior, state.log_prior),
        torch.where(accepted, new.log_likelihood, state.log_likelihood),
    ), rate


def _kinetic(momentum: Tensor) -> Tensor:
    return momentum.square().sum(-1) / 2


def _slope(joint: Joint, u: Tensor, beta: Tensor) -> tuple[_State, Tensor]:
    r"""The densities at a place, and the gradient of the target there."""
    with torch.enable_grad():
        leaf = u.detach().requires_grad_()
        log_prior, log_likelihood = joint(leaf)
        target = log_prior + beta * log_likelihood
        (gradient,) = torch.autograd.grad(target.sum(), leaf, materialize_grads=True)
    return _State(u, log_prior.detach(), log_likelihood.detach()), gradient
