r"""Pairs with few Bernoulli latents, and all that can happen in them.

Densities of all states are written down by hand, so that expectations are sums. A guide can be made
to draw given values, so that the mean of an estimator is a sum, too.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import product
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.nn.functional import logsigmoid

from pyro_vae.draws import Draw
from pyro_vae.objectives import Bound
from pyro_vae.pair import Pair

N, F = 2, 2

State = dict[str, Tensor]


def mass(logits: Tensor, bit: Tensor) -> Tensor:
    r"""The log-probability of a bit."""
    return logsigmoid(torch.where(bit > 0, logits, -logits))


def parameter(*shape: int) -> Tensor:
    return torch.randn(shape).requires_grad_()


class Bits(ABC):
    r"""A pair, its parameters, and the densities of its states.

    Arguments:
        data_size: The number of data, of which the batch holds ``N``.
    """

    sites: ClassVar[dict[str, tuple[int, ...]]]  # the shape of each, the data plate's part included

    def __init__(self, data_size: int = N) -> None:
        self.data_size = data_size
        self.x = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
        self.theta = {"a": parameter(), "b": parameter(F), "c": parameter(F), "d": parameter()}
        self.phi = {"e": parameter(F), "f": parameter(), "g": parameter()}
        self.pair = Pair(self.model, self.guide)

    @abstractmethod
    def model(self, x: Tensor) -> None: ...

    @abstractmethod
    def guide(self, x: Tensor) -> None: ...

    @abstractmethod
    def densities(self, state: State) -> tuple[Tensor, Tensor]:
        r"""log p and log q of a state as the data's parts, with shape (N,), globals shared out."""

    def probability(self, state: State) -> Tensor:
        r"""log q of all that is drawn."""
        return self.densities(state)[1].sum()

    def states(self) -> list[State]:
        r"""All joint values of the latents of the batch."""
        sizes = [torch.Size(shape).numel() for shape in self.sites.values()]
        found = []
        for bits in product([0.0, 1.0], repeat=sum(sizes)):
            parts = torch.tensor(bits).split(sizes)
            shapes = self.sites.items()
            found.append({n: part.reshape(s) for (n, s), part in zip(shapes, parts, strict=True)})
        return found

    def table(self) -> tuple[Tensor, Tensor, Tensor]:
        r"""log p and log q, with shape (S, N), and log q of each state, (S,)."""
        p, q = zip(*map(self.densities, self.states()), strict=True)
        return torch.stack(p), torch.stack(q), torch.stack([*map(self.probability, self.states())])

    def tuples(self, particles: int) -> Tensor:
        r"""The numbers of the states of all particles, with shape (T, K)."""
        return torch.cartesian_prod(*[torch.arange(len(self.states()))] * particles).view(
            -1, particles
        )

    def gradients(self, objective: Any) -> tuple[list[Tensor], list[Tensor], Tensor]:
        r"""The means of an objective's gradients, by theta and by phi, and of its value."""
        theta, phi = [*self.theta.values()], [*self.phi.values()]
        found = [torch.zeros_like(p) for p in (*theta, *phi)]
        value = torch.zeros(N)
        for weight, bound in self.bounds(objective):
            parts = grad(bound.model, theta) + grad(bound.guide, phi)
            found = [f + weight * g for f, g in zip(found, parts, strict=True)]
            value = value + weight * bound.value.detach()
        return found[: len(theta)], found[len(theta) :], value

    def variance(self, objective: Any) -> float:
        r"""The variance of an objective's gradient by phi, summed over its components."""
        phi, means, squares = [*self.phi.values()], 0.0, 0.0
        for weight, bound in self.bounds(objective):
            gradient = torch.cat([g.flatten() for g in grad(bound.guide, phi)])
            means, squares = means + weight * gradient, squares + weight * gradient.square()
        return float((squares - torch.as_tensor(means).square()).sum())

    def bounds(self, objective: Any) -> Iterator[tuple[Tensor, Bound]]:
        r"""All that an objective may make of a draw, each with its probability."""
        states, log_q = self.states(), self.table()[2].detach()
        for indices in self.tuples(objective.particles):
            yield log_q[indices].sum().exp(), self.bound(objective, [states[i] for i in indices])

    def bound(self, objective: Any, states: list[State]) -> Bound:
        r"""An objective on a draw of these values."""
        values = {n: torch.stack([s[n] for s in states]) for n in self.sites}
        if len(states) == 1:
            values = {name: value[0] for name, value in values.items()}
        else:  # particles stand left of the data plate
            globals_ = {n for n, shape in self.sites.items() if not shape}
            values = {n: v.unsqueeze(-1) if n in globals_ else v for n, v in values.items()}
        layout = self.pair.plan((self.x,), {}).layout
        return objective(
            Draw(
                self.pair.model,
                Drawing(values)(self.guide),
                (self.x,),
                {},
                layout,
                objective.particles,
                self.data_size,
                objective.pathwise,
            )
        )


class Drawing(Messenger):
    r"""Has a program draw given values."""

    def __init__(self, values: State) -> None:
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.values:
            msg["value"] = self.values[msg["name"]]  # not done: plates still expand what draws


def grad(surrogate: Tensor, tensors: list[Tensor]) -> list[Tensor]:
    found = torch.autograd.grad(surrogate, tensors, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(t) if g is None else g for t, g in zip(tensors, found, strict=True)]


class OneLayer(Bits):
    r"""z -> x: one bit a datum."""

    sites: ClassVar = {"z": (N,)}

    def model(self, x: Tensor) -> None:
        a, b, c = self.theta["a"], self.theta["b"], self.theta["c"]
        with pyro.plate("data", x.shape[0], dim=-1):
            z = pyro.sample("z", dist.Bernoulli(logits=a))
            logits = z.unsqueeze(-1) * b + c
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", dist.Bernoulli(logits=x @ self.phi["e"] + self.phi["f"]))

    def densities(self, state: State) -> tuple[Tensor, Tensor]:
        z = state["z"]
        logits = z.unsqueeze(-1) * self.theta["b"] + self.theta["c"]
        p = mass(self.theta["a"], z) + mass(logits, self.x).sum(-1)
        return p, mass(self.x @ self.phi["e"] + self.phi["f"], z)


class TwoLayers(Bits):
    r"""u -> z -> x, with q(z | x) q(u | z)."""

    sites: ClassVar = {"z": (N,), "u": (N,)}

    def model(self, x: Tensor) -> None:
        a, b, c, d = self.theta.values()
        with pyro.plate("data", x.shape[0], dim=-1):
            u = pyro.sample("u", dist.Bernoulli(logits=a))
            z = pyro.sample("z", dist.Bernoulli(logits=d * u - 0.3))
            logits = z.unsqueeze(-1) * b + c
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        e, f, g = self.phi.values()
        with pyro.plate("data", x.shape[0], dim=-1):
            z = pyro.sample("z", dist.Bernoulli(logits=x @ e + f))
            pyro.sample("u", dist.Bernoulli(logits=g * z + 0.2))

    def densities(self, state: State) -> tuple[Tensor, Tensor]:
        u, z = state["u"], state["z"]
        a, b, c, d = self.theta.values()
        e, f, g = self.phi.values()
        x = mass(z.unsqueeze(-1) * b + c, self.x).sum(-1)
        return mass(a, u) + mass(d * u - 0.3, z) + x, mass(self.x @ e + f, z) + mass(g * z + 0.2, u)


class Global(Bits):
    r"""w -> z -> x, with one w for all data, and q(w) q(z | x, w)."""

    sites: ClassVar = {"w": (), "z": (N,)}

    def model(self, x: Tensor) -> None:
        a, b, c, d = self.theta.values()
        w = pyro.sample("w", dist.Bernoulli(logits=a))
        with pyro.plate("data", x.shape[0], dim=-1):
            z = pyro.sample("z", dist.Bernoulli(logits=d * (w + 1)))
            logits = z.unsqueeze(-1) * b + c
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        e, f, g = self.phi.values()
        w = pyro.sample("w", dist.Bernoulli(logits=f))
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", dist.Bernoulli(logits=x @ e + g * (w + 1)))

    def densities(self, state: State) -> tuple[Tensor, Tensor]:
        w, z = state["w"], state["z"]
        a, b, c, d = self.theta.values()
        p = mass(d * (w + 1), z) + mass(z.unsqueeze(-1) * b + c, self.x).sum(-1)
        q_z, q_w = self.guide_masses(state)
        return p + mass(a, w) / self.data_size, q_z + q_w / self.data_size

    def guide_masses(self, state: State) -> tuple[Tensor, Tensor]:
        e, f, g = self.phi.values()
        return mass(self.x @ e + g * (state["w"] + 1), state["z"]), mass(f, state["w"])

    def probability(self, state: State) -> Tensor:
        local, shared = self.guide_masses(state)
        return local.sum() + shared


class GlobalLast(Global):
    r"""The same with q(z | x) q(w | z): what is drawn for one datum moves the others' bound."""

    def guide(self, x: Tensor) -> None:
        e, f, g = self.phi.values()
        with pyro.plate("data", x.shape[0], dim=-1):
            z = pyro.sample("z", dist.Bernoulli(logits=x @ e))
        total = z.sum(-1, keepdim=z.dim() > 1)
        pyro.sample("w", dist.Bernoulli(logits=f + g * total))

    def guide_masses(self, state: State) -> tuple[Tensor, Tensor]:
        e, f, g = self.phi.values()
        return mass(self.x @ e, state["z"]), mass(f + g * state["z"].sum(), state["w"])


# What an objective should give: functions of theta and phi whose gradients are sums over states.


def elbo(bits: Bits) -> Tensor:
    p, q, log_q = bits.table()
    return (log_q.exp() @ (p - q)).mean()


def iwae(bits: Bits, k: int, whole: bool = False) -> Tensor:
    weights, log_w, _ = _particles(bits, k, whole)
    return (weights @ (log_w.logsumexp(1) - math.log(k))).mean() / (N if whole else 1)


def wake(bits: Bits, k: int, whole: bool = False) -> Tensor:
    r"""Its gradient by phi is that of reweighted wake-sleep with finitely many particles."""
    weights, log_w, log_q = _particles(bits, k, whole)
    w = log_w.softmax(1).detach()
    return (weights.detach() @ (w * log_q).sum(1)).mean() / (N if whole else 1)


def _particles(bits: Bits, k: int, whole: bool) -> tuple[Tensor, Tensor, Tensor]:
    r"""Probabilities (T,), log-weights and log q, (T, K, N), or (T, K, 1) of all data as one."""
    p, q, log_q = bits.table()
    indices = bits.tuples(k)
    w = p - q
    if whole:
        w, q = w.sum(1, keepdim=True), q.sum(1, keepdim=True)
    return log_q[indices].sum(1).exp(), w[indices], q[indices]


def exact(bits: Bits, function: Tensor, names: str) -> list[Tensor]:
    r"""A function's gradient by theta or phi."""
    return grad(function, [*getattr(bits, names).values()])


def sampled(
    pair: Pair, objective: Any, x: Tensor, tensors: list[Tensor], batches: int, part: str = "guide"
) -> tuple[Tensor, Tensor]:
    r"""The mean of the gradients of batches, and its standard error."""
    layout, found = pair.plan((x,), {}).layout, []
    for _ in range(batches):
        draw = Draw(
            pair.model,
            pair.guide,
            (x,),
            {},
            layout,
            objective.particles,
            None,
            objective.pathwise,
        )
        parts = grad(getattr(objective(draw), part), tensors)
        found.append(torch.cat([g.flatten() for g in parts]))
    all_ = torch.stack(found)
    return all_.mean(0), all_.std(0) / math.sqrt(batches)


def within(mean: Tensor, error: Tensor, exact: list[Tensor]) -> None:
    r"""Four standard errors: of 100 batches about 1 in 8,000 numbers fails."""
    expected = torch.cat([g.flatten() for g in exact])
    assert (error > 0).all()
    assert (error < 0.1 * expected.abs().max()).all()  # else it would see no mistake
    assert ((mean - expected).abs() <= 4 * error).all(), (mean - expected) / error
