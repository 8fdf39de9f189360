r"""Pairs whose parameters each datum has for itself: one draw gives N gradients of one estimator.

Their bounds for two particles are integrals over two noises, known by quadrature.
"""

from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_vae.objectives import Objective
from pyro_vae.pair import Pair

LOC, SCALE, X = 0.3, 0.7, 1.2  # of the guide, which is not the posterior
LOGITS, LOCS = [0.2, -0.4, 0.5], [-1.5, 0.0, 2.0]


class Normal1d(PyroModule):
    r"""q(z) = N(loc, scale²)."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.full((rows,), LOC))
        self.scale = nn.Parameter(torch.full((rows,), SCALE))

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", dist.Normal(self.loc, self.scale))


class Slope(PyroModule):
    r"""z ~ N(0, 1), x ~ N(slope z, 1)."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.full((rows,), 1.5))

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(self.slope * z, 1.0), obs=x)

    @staticmethod
    def log_joint(z: Tensor, slope: Tensor) -> Tensor:
        r"""log p(X, z), by hand."""
        return -(z.square() + (X - slope * z).square()) / 2 - np.log(2 * np.pi)


class Components(PyroModule):
    r"""c ~ Cat(logits), summed out, z ~ N(locs[c], 1), x ~ N(z, 1)."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(LOGITS).repeat(rows, 1))
        self.register_buffer("locs", torch.tensor(LOCS))

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            prior = dist.Categorical(logits=self.logits)
            c = pyro.sample("c", prior, infer={"enumerate": "parallel"})
            z = pyro.sample("z", dist.Normal(self.locs[c], 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    @staticmethod
    def log_joint(z: Tensor, logits: Tensor) -> Tensor:
        r"""log p(X, z), by hand."""
        parts = logits.log_softmax(-1) - (z.unsqueeze(-1) - torch.tensor(LOCS)).square() / 2
        return parts.logsumexp(-1) - (X - z).square() / 2 - np.log(2 * np.pi)


MODELS: dict[str, tuple[Any, Any]] = {
    "linear": (Slope, torch.tensor(1.5, dtype=torch.float64)),
    "mixture": (Components, torch.tensor(LOGITS, dtype=torch.float64)),
}


def row_gradients(
    model: Any, objective: Objective, rows: int
) -> tuple[Tensor, Tensor, list[Tensor]]:
    r"""Of each row of one draw: the bound, the model's gradient, and the guide's two."""
    guide, x = Normal1d(rows), torch.full((rows,), X)
    model = model(rows)
    pair = Pair(model, guide)
    draw = pair.draw((x,), {}, objective.particles)
    if not objective.pathwise:
        plan = pair.plan((x,), {})
        draw = type(draw)(
            pair.model, pair.guide, (x,), {}, plan.layout, objective.particles, pathwise=False
        )
    bound = objective(draw)
    (theirs,) = torch.autograd.grad(rows * bound.model, list(model.parameters()), retain_graph=True)
    ours = torch.autograd.grad(rows * bound.guide, [guide.loc, guide.scale])
    return bound.value.detach(), theirs, list(ours)


def check_mean(draws: Tensor, exact: Tensor) -> None:
    r"""The mean over rows is exact within 4 standard errors: a number fails for 6e-5 of seeds."""
    error = draws.std(0) / len(draws) ** 0.5
    assert ((draws.mean(0) - exact).abs() <= 4 * error + 1e-12).all(), (draws.mean(0), exact)


class Quadrature:
    r"""Expectations over two particles' noises, by a product of Gauss–Hermite rules.

    Arguments:
        name: A row of ``MODELS``.
        points: How many points each rule has.
    """

    def __init__(self, name: str, points: int = 80) -> None:
        nodes, weights = map(torch.tensor, np.polynomial.hermite_e.hermegauss(points))
        weights = weights / weights.sum()
        self.noise = torch.stack(torch.meshgrid(nodes, nodes, indexing="ij"))  # (2, P, P)
        self.weights = torch.outer(weights, weights)
        model, parameter = MODELS[name]
        self.log_joint = model.log_joint
        self.parameter = parameter.clone().requires_grad_()
        self.loc = torch.tensor(LOC, requires_grad=True)
        self.scale = torch.tensor(SCALE, requires_grad=True)
        self.z = self.loc + self.scale * self.noise

    def log_guide(self, z: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
        return -((z - loc) / scale).square() / 2 - scale.log() - np.log(2 * np.pi) / 2

    @property
    def log_weights(self) -> Tensor:
        r"""As functions of parameters and noise, with shape (2, P, P)."""
        return self.log_joint(self.z, self.parameter) - self.log_guide(self.z, self.loc, self.scale)

    def gradients(self, bound: Tensor) -> list[Tensor]:
        r"""Of an expectation over the noise, for the model's parameter and the guide's two."""
        total = (self.weights * bound).sum()
        wanted = [self.parameter, self.loc, self.scale]
        return list(torch.autograd.grad(total, wanted, retain_graph=True, allow_unused=True))
