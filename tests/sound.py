r"""Sound pairs besides those of the zoo, of which the checker must say nothing.

A new case is one row.
"""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from broken import Guide, Model, amortised, batch, bernoulli, sound
from pyro import poutine
from pyro.distributions import constraints
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from pyro.infer.autoguide import AutoGuideList, AutoNormal
from pyro.nn import PyroModule, PyroParam
from suspect import marked, marks
from torch import Tensor, nn
from torch.nn import functional
from zoo import ZOO, D, F, N, Pair, local_and_global, normal, standard

from pyro_vae.nn import mlp, positive
from pyro_vae.objectives import ELBO


def sequential(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0], dim=-1):
        z = pyro.sample("z", standard(x, D))
        for f in pyro.plate("features", F):
            pyro.sample(f"x{f}", dist.Normal(z.sum(-1), 1.0), obs=x[:, f])


def draws_its_rows(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0], subsample_size=3, dim=-1) as rows:
        z = pyro.sample("z", standard(x, D))
        pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x[rows, 0])


def draws_its_rows_too(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0], subsample_size=3, dim=-1):
        pyro.sample("z", standard(x, D))


def constant(x: Tensor) -> None:
    sound(x)
    with pyro.plate("more", N, dim=-1):
        pyro.sample("event", dist.Bernoulli(0.3), obs=x.new_ones(()))


def rows_like_features(x: Tensor) -> None:
    r"""A plate that happens to have as many elements as the batch."""
    with pyro.plate("factors", N, dim=-1):
        w = pyro.sample("w", dist.Normal(x.new_zeros(F), 1.0).to_event(1))
    with pyro.plate("data", x.shape[0], dim=-1):
        pyro.sample("x", dist.Normal(w.sum(0), 1.0).to_event(1), obs=x)


def factors(x: Tensor) -> None:
    with pyro.plate("factors", N, dim=-1):
        pyro.sample("w", dist.Normal(x.new_zeros(F), 1.0).to_event(1))


def labelled(x: Tensor, *, y: Tensor) -> None:
    sound(x)
    with pyro.plate("labels", x.shape[0], dim=-1):
        pyro.sample("y", dist.Categorical(logits=x.new_zeros(3)), obs=y)


def improper(x: Tensor) -> None:
    r"""A prior that has a density but no sampler."""
    z = pyro.sample("z", dist.ImproperUniform(dist.constraints.real, (), (D,)))
    with pyro.plate("data", x.shape[0], dim=-1):
        pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True), 1.0), obs=x[:, 0])


def spread_factor(x: Tensor) -> None:
    sound(x)
    with pyro.plate("rows", x.shape[0], dim=-2), pyro.plate("columns", F, dim=-1):
        pyro.factor("penalty", -(x[:, :1] ** 2))


def only_factor(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0], dim=-1):
        z = pyro.sample("z", standard(x, D))
        pyro.factor("x", -((x.sum(-1) - z.sum(-1)) ** 2))


def with_factor(x: Tensor) -> None:
    pyro.deterministic("total", x.sum())
    with pyro.plate("data", x.shape[0], dim=-1):
        pyro.sample("z", standard(x, D))
        pyro.factor("jacobian", x[:, 0], has_rsample=True)


def leading_one(x: Tensor) -> None:
    z = pyro.sample("z", dist.Normal(x.new_zeros(1, D), 1.0).to_event(1))
    with pyro.plate("data", x.shape[0], dim=-1):
        pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x[:, 0])


def masked(x: Tensor) -> None:
    r"""A density of zero that does not count."""
    sound(x)
    with pyro.plate("rows", x.shape[0], dim=-1), poutine.mask(mask=x[:, 0].isnan()):
        pyro.sample("y", dist.Normal(x[:, 0], torch.finfo(x.dtype).tiny), obs=x[:, 0] + 1)


def point(x: Tensor) -> None:
    loc = pyro.param("loc", lambda: torch.zeros(D))
    pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))


def halves() -> Pair:
    guide = AutoGuideList(local_and_global)
    guide.append(AutoNormal(poutine.block(local_and_global, expose=["mu", "scale"])))
    guide.append(AutoNormal(poutine.block(local_and_global, expose=["z"])))
    return local_and_global, guide, (torch.randn(N),)


def binary_latents() -> Pair:
    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            z = pyro.sample("z", dist.Bernoulli(x.new_full((D,), 0.5)).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x[:, 0])

    return model, Guide(bernoulli), batch()


class Shared(PyroModule):
    r"""One learnt posterior for all data, without a network."""

    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(D))
        self.scale = PyroParam(torch.ones(D), constraints.positive)

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", dist.Normal(self.loc, self.scale).to_event(1))


def mean_field(x: Tensor) -> None:
    loc = pyro.param("locs", lambda: x.new_zeros(x.shape[0], D))
    with pyro.plate("data", x.shape[0], dim=-1):
        pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))


def starts_at_zero() -> Pair:
    guide = Guide()
    nn.init.zeros_(guide.encoder[-1].weight)
    return Model(), guide, batch()


def frozen() -> Pair:
    guide = Guide()
    guide.head = nn.Linear(F, D).requires_grad_(False)
    guide.encoder[0].requires_grad_(False)
    return Model(), guide, batch()


class Denoising(Guide):
    def forward(self, x: Tensor) -> None:
        noisy = x + torch.randn_like(x) if self.training else x
        outputs = functional.dropout(self.encoder(noisy), 0.3, self.training)
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", normal(outputs))


class PlainModule(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = mlp(F, 2 * D, (8,))

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", normal(self.encoder(x)))


def closures() -> Pair:
    raw, others = nn.Parameter(torch.zeros(D)), {"loc": torch.zeros(D, requires_grad=True)}

    def guide(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", dist.Normal(others["loc"], positive(raw)).to_event(1))

    return Model(), guide, batch()


def halves_and_quarters(x: Tensor) -> None:
    r"""The scale of x is the square of that of z, by chance."""
    with pyro.plate("data", x.shape[0], dim=-1):
        z = pyro.sample("z", dist.Normal(x.new_zeros(D), 0.5).to_event(1))
        pyro.sample("x", dist.Normal(z, 0.25).to_event(1), obs=x[:, :D])


class Squares(PyroModule):
    r"""What may be negative is squared to be positive; unit scales are their own squares."""

    def __init__(self) -> None:
        super().__init__()
        self.raw, self.log_scale = nn.Parameter(torch.randn(D)), nn.Parameter(torch.zeros(D))

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            z = pyro.sample("z", dist.Normal(self.log_scale, self.log_scale.exp()).to_event(1))
            pyro.sample("x", dist.Normal(z, self.raw**2).to_event(1), obs=x[:, :D])


def squared_latent(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0], dim=-1):
        z = pyro.sample("z", standard(x, D))
        pyro.sample("x", dist.Normal(0 * z, z**2).to_event(1), obs=x[:, :D])


def imputed(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0], dim=-1):
        z = pyro.sample("z", standard(x, D))
        y = pyro.sample("y", dist.Normal(z.sum(-1), 1.0), obs=x[:, 0], obs_mask=x[:, 0] > 0)
        pyro.sample("x", dist.Normal(y, 1.0), obs=x[:, 1])


def process(x: Tensor) -> None:
    r"""A function's values at all data, which are no batch."""
    eye = torch.eye(x.shape[0])
    f = pyro.sample("f", dist.MultivariateNormal(x.new_zeros(x.shape[0]), eye))
    with pyro.plate("data", x.shape[0], dim=-1):
        pyro.sample("x", dist.Normal(f, 1.0), obs=x[:, 0])


def values_of_process(x: Tensor) -> None:
    loc = pyro.param("values", lambda: x.new_zeros(x.shape[0]))
    pyro.sample("f", dist.Normal(loc, 1.0).to_event(1))


def components(x: Tensor) -> None:
    with pyro.plate("components", 3, dim=-1):
        locs = pyro.sample("locs", dist.Normal(x.new_zeros(()), 1.0))
    with pyro.plate("data", x.shape[0], dim=-1):
        pyro.sample("x", dist.Normal(locs.sum(-1, keepdim=True), 1.0), obs=x[:, 0])


def other_components(x: Tensor) -> None:
    loc = pyro.param("loc", lambda: torch.zeros(3))
    with pyro.plate("comps", 3, dim=-1):
        pyro.sample("locs", dist.Normal(loc, 1.0))


def of_labels() -> Pair:
    encoder = nn.Embedding(3, 2 * D)

    def guide(x: Tensor, y: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", normal(encoder(y)))

    def model(x: Tensor, y: Tensor) -> None:
        sound(x)

    return model, guide, (*batch(), torch.arange(N) % 3)


# name -> (model, guide and batch, objective)
SOUND: dict[str, tuple[Callable[[], Pair], Any]] = {
    "sequential plate": (lambda: (sequential, amortised, batch()), ELBO(particles=2)),
    "rows drawn": (lambda: (draws_its_rows, draws_its_rows_too, batch()), ELBO()),
    "as many factors as rows": (lambda: (rows_like_features, factors, batch()), None),
    "constant observed": (lambda: (constant, amortised, batch()), ELBO(particles=2)),
    "factor in two plates": (lambda: (spread_factor, amortised, batch()), ELBO(particles=2)),
    "factors in place of data": (lambda: (only_factor, amortised, batch()), ELBO()),
    "factors in the guide": (lambda: (sound, with_factor, batch()), None),
    "batch dimension of one": (lambda: (leading_one, point, batch()), ELBO()),
    "density masked": (lambda: (masked, amortised, batch()), ELBO(particles=2)),
    "autoguides in a list": (halves, ELBO()),
    "discrete guide": (binary_latents, Trace_ELBO()),
    "enumerated in the guide": (
        lambda: (marked, marks, batch()),
        TraceEnum_ELBO(max_plate_nesting=1),
    ),
    "enumerated": (ZOO["mixture"], TraceEnum_ELBO(max_plate_nesting=1)),
    "bound methods": (lambda: (sound, Guide().forward, batch()), ELBO(particles=2)),
    "handlers": (lambda: (poutine.scale(sound, 2.0), amortised, batch()), ELBO(particles=2)),
    "one datum": (lambda: (sound, amortised, batch(1, F)), ELBO(particles=2)),
    "one posterior, learnt": (lambda: (Model(), Shared(), batch()), ELBO()),
    "one posterior a datum": (lambda: (Model(), mean_field, batch()), ELBO()),
    "encoder that starts at zero": (starts_at_zero, ELBO()),
    "data that are all alike": (lambda: (Model(), Guide(), (torch.ones(N, F),)), ELBO()),
    "frozen parts": (frozen, ELBO()),
    "noise in training": (lambda: (Model(), Denoising(), batch()), ELBO()),
    "plain module": (lambda: (Model(), PlainModule(), batch()), ELBO()),
    "tensors of a closure": (closures, ELBO()),
    "square by chance": (lambda: (halves_and_quarters, amortised, batch()), ELBO()),
    "square of what may be negative": (lambda: (squared_latent, amortised, batch()), ELBO()),
    "values left to the model": (lambda: (imputed, amortised, batch()), ELBO()),
    "squares that are meant": (lambda: (Squares(), amortised, batch()), ELBO()),
    "function drawn for all data": (lambda: (process, values_of_process, batch()), None),
    "plates of components": (lambda: (components, other_components, batch()), ELBO()),
    "posterior of labels": (of_labels, ELBO()),
}
