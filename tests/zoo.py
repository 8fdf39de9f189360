r"""The test zoo: pairs of model and guide that every part of the library must do right by.

A new model is one row. Each row makes a model, a guide and a batch; what every row must keep is
in ``test_zoo.py``.
"""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.infer.autoguide import AutoDelta, AutoMultivariateNormal, AutoNormal
from pyro.nn import PyroModule, PyroParam
from torch import Tensor, nn

from pyro_vae.distributions import MarkovChain
from pyro_vae.guides import AmortizedMultivariateNormal, AmortizedNormal, Empty
from pyro_vae.likelihoods import (
    Binomial,
    Categorical,
    Masked,
    Normal,
    NormalLearnedScale,
    NormalPredictedScale,
)
from pyro_vae.models import (
    VAE,
    BayesianGaussianMixture,
    DirichletProcessMixture,
    FiniteMixture,
    MixtureVAE,
)
from pyro_vae.models.components import BernoulliComponents
from pyro_vae.nn import conv_decoder, conv_encoder, masked_mlp, mlp, positive
from pyro_vae.recurrence import recur

Pair = tuple[Callable[..., Any], Callable[..., Any], tuple[Any, ...]]

N, F, D = 7, 5, 2


def binary(*shape: int) -> Tensor:
    return (torch.rand(shape) < 0.4).to(torch.get_default_dtype())


def normal(outputs: Tensor) -> dist.TorchDistribution:
    loc, raw = outputs.chunk(2, dim=-1)
    return dist.Normal(loc, positive(raw)).to_event(1)


def standard(like: Tensor, features: int) -> dist.TorchDistribution:
    return dist.Normal(like.new_zeros(features), like.new_ones(features)).to_event(1)


def vae() -> Pair:
    return VAE((F,), D), AmortizedNormal((F,), {"z": D}), (binary(N, F),)


def full_covariance() -> Pair:
    return VAE((F,), D), AmortizedMultivariateNormal((F,), {"z": D}), (binary(N, F),)


def learned_scale() -> Pair:
    model = VAE((F,), D, NormalLearnedScale())
    return model, AmortizedNormal((F,), {"z": D}), (torch.randn(N, F),)


def predicted_scale() -> Pair:
    model = VAE((F,), D, NormalPredictedScale())
    return model, AmortizedNormal((F,), {"z": D}), (torch.randn(N, F),)


def counts() -> Pair:
    x = torch.randint(17, (N, F)).to(torch.get_default_dtype())
    return VAE((F,), D, Binomial(16)), AmortizedNormal((F,), {"z": D}), (x,)


def levels() -> Pair:
    x = torch.randint(4, (N, 1, 2, 3)).to(torch.get_default_dtype())
    return VAE((1, 2, 3), D, Categorical(4)), AmortizedNormal((1, 2, 3), {"z": D}), (x,)


def missing_features() -> Pair:
    x = torch.randn(N, F).where(torch.rand(N, F) < 0.7, torch.nan)
    return VAE((F,), D, Masked(Normal())), AmortizedNormal((F,), {"z": D}, masked_mlp), (x,)


def convolutional() -> Pair:
    shape = (1, 8, 9)
    model = VAE(shape, D, decoder=conv_decoder(D, shape, channels=(4,), hidden=8))
    encoder = conv_encoder(shape, 2 * D, channels=(4,), hidden=8)
    return model, AmortizedNormal(shape, {"z": D}, encoder), (binary(N, *shape),)


def plain_functions() -> Pair:
    decoder, encoder = mlp(D, F, (8,)), mlp(F, 2 * D, (8,))

    def model(x: Tensor) -> None:
        pyro.module("decoder", decoder)
        scale = pyro.param(
            "prior_scale", lambda: torch.tensor([0.7, 1.3]), constraint=constraints.positive
        )
        noise = pyro.param(
            "noise", lambda: torch.tensor(0.8), constraint=constraints.interval(0.1, 2.0)
        )
        with pyro.plate("data", x.shape[0], dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(D), scale).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), noise).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encoder)
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", normal(encoder(x)))

    return model, guide, (torch.randn(N, F),)


class TwoLayers(PyroModule):
    r"""z2 -> z1 -> x."""

    def __init__(self) -> None:
        super().__init__()
        self.prior, self.decoder = mlp(D, 6, (8,)), mlp(3, F, (8,))

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            z2 = pyro.sample("z2", standard(x, D))
            z1 = pyro.sample("z1", normal(self.prior(z2)))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z1)).to_event(1), obs=x)


class BottomUp(PyroModule):
    r"""q(z1 | x) q(z2 | z1)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = mlp(F, 6, (8,)), mlp(3, 2 * D, (8,))

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            z1 = pyro.sample("z1", normal(self.first(x)))
            pyro.sample("z2", normal(self.second(z1)))


class TopDown(PyroModule):
    r"""q(z2 | x) q(z1 | x, z2)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = mlp(F, 2 * D, (8,)), mlp(F + D, 6, (8,))

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            z2 = pyro.sample("z2", normal(self.first(x)))
            inputs = torch.cat([x.expand(*z2.shape[:-1], F), z2], dim=-1)
            pyro.sample("z1", normal(self.second(inputs)))


def bottom_up() -> Pair:
    return TwoLayers(), BottomUp(), (binary(N, F),)


def top_down() -> Pair:
    return TwoLayers(), TopDown(), (binary(N, F),)


class GlobalMean(PyroModule):
    def forward(self, x: Tensor) -> None:
        zero = x.new_zeros(())
        mu = pyro.sample("mu", dist.Normal(zero, 1.0))
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("x", dist.Normal(mu, 1.0), obs=x)


class MeanField(PyroModule):
    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.tensor(0.0))
        self.scale = PyroParam(torch.tensor(0.3), constraints.positive)

    def forward(self, x: Tensor) -> None:
        pyro.sample("mu", dist.Normal(self.loc, self.scale))


def global_latent() -> Pair:
    return GlobalMean(), MeanField(), (1.5 + torch.randn(N),)


class Subsampled(PyroModule):
    r"""The data plate itself says that the batch is one of 100."""

    def forward(self, x: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(x.new_zeros(()), 1.0))
        with pyro.plate("data", 100, subsample=torch.arange(x.shape[0]), dim=-1):
            pyro.sample("x", dist.Normal(mu, 1.0), obs=x)


def subsampled() -> Pair:
    return Subsampled(), MeanField(), (1.5 + torch.randn(N),)


class Mixture(PyroModule):
    r"""c -> z -> x <- c, with c summed out."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = mlp(D, F, (8,))
        self.weights = nn.Parameter(torch.randn(3))
        self.locs = nn.Parameter(torch.randn(3, D))
        self.shifts = nn.Parameter(torch.randn(3, F))

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            c = pyro.sample(
                "c", dist.Categorical(logits=self.weights), infer={"enumerate": "parallel"}
            )
            z = pyro.sample("z", dist.Normal(self.locs[c], 1.0).to_event(1))
            logits = self.decoder(z) + self.shifts[c]
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)


def mixture() -> Pair:
    return Mixture(), AmortizedNormal((F,), {"z": D}), (binary(N, F),)


def auto_normal_mixture() -> Pair:
    model = BayesianGaussianMixture(F, n_components=3)
    return model, AutoNormal(poutine.block(model, hide=["component"])), (torch.randn(N, F),)


def auto_normal_infinite_mixture() -> Pair:
    model = DirichletProcessMixture(BernoulliComponents(F), n_components=4)
    return model, AutoNormal(poutine.block(model, hide=["component"])), (binary(N, F),)


def finite_mixture() -> Pair:
    return FiniteMixture((F,), 3), Empty(), (binary(N, F),)


def mixture_vae() -> Pair:
    return MixtureVAE((F,), D, 3), AmortizedNormal((F,), {"z": D}), (binary(N, F),)


class Nested(PyroModule):
    r"""Groups of data: one latent a group, one an element, and a plate of features."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.randn(F))

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-2):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            with pyro.plate("features", F, dim=-1):
                w = pyro.sample("w", dist.Normal(z * self.slope, 1.0))
                pyro.sample("x", dist.Normal(w, 0.5), obs=x)


class NestedGuide(PyroModule):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = mlp(F, 2 + 2 * F, (8,))

    def forward(self, x: Tensor) -> None:
        loc, raw, locs, raws = self.encoder(x).split([1, 1, F, F], dim=-1)
        with pyro.plate("data", x.shape[0], dim=-2):
            pyro.sample("z", dist.Normal(loc, positive(raw)))
            with pyro.plate("features", F, dim=-1):
                pyro.sample("w", dist.Normal(locs, positive(raws)))


def nested_plates() -> Pair:
    return Nested(), NestedGuide(), (torch.randn(N, F),)


class Handled(PyroModule):
    r"""A VAE whose data are masked in part and whose latent counts half."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = mlp(D, F, (8,))

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            with poutine.scale(scale=0.5):
                z = pyro.sample("z", standard(x, D))
            with poutine.mask(mask=x[:, 0] > 0):
                pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)


class HandledGuide(PyroModule):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = mlp(F, 2 * D, (8,))

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1), poutine.scale(scale=0.5):
            pyro.sample("z", normal(self.encoder(x)))


def masked_and_scaled() -> Pair:
    return Handled(), HandledGuide(), (torch.randn(N, F),)


class Leading(nn.Module):
    r"""Lets a network of rows only take particles, too."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, z: Tensor) -> Tensor:
        return self.network(z.flatten(0, -2)).unflatten(0, z.shape[:-1])


def batch_norm_and_dropout() -> Pair:
    layers = (nn.Linear(D, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, F))
    model = VAE((F,), D, decoder=Leading(nn.Sequential(*layers)))
    return model, AmortizedNormal((F,), {"z": D}), (binary(N, F),)


def local_and_global(x: Tensor) -> None:
    zero = x.new_zeros(())
    mu = pyro.sample("mu", dist.Normal(zero, 5.0))
    scale = pyro.sample("scale", dist.LogNormal(zero, 1.0))
    with pyro.plate("data", x.shape[0], dim=-1):
        z = pyro.sample("z", dist.Normal(mu, scale))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def auto_normal() -> Pair:
    return local_and_global, AutoNormal(local_and_global), (1.5 + torch.randn(N),)


def gamma_rate(x: Tensor) -> None:
    rate = pyro.sample("rate", dist.Gamma(x.new_tensor(2.0), 1.0))
    concentration = pyro.sample("concentration", dist.Gamma(x.new_tensor(2.0), 1.0))
    with pyro.plate("data", x.shape[0], dim=-1):
        pyro.sample("x", dist.GammaPoisson(concentration, rate), obs=x)


def auto_multivariate_normal() -> Pair:
    x = torch.randint(5, (N,)).to(torch.get_default_dtype())
    return gamma_rate, AutoMultivariateNormal(gamma_rate), (x,)


def auto_delta() -> Pair:
    return local_and_global, AutoDelta(local_and_global), (1.5 + torch.randn(N),)


class Auxiliary(PyroModule):
    r"""A helper u, and z as an invertible function of it."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = mlp(F, 2 * D, (8,))

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            u = pyro.sample("u", normal(self.encoder(x)), infer={"is_auxiliary": True})
            log_density = -2 * u.sum(-1) - D * x.new_tensor(0.5).log()
            z = 0.25 * (2 * u).exp()  # dz/du = e^(2u) / 2
            pyro.sample("z", dist.Delta(z, log_density, event_dim=1))


class Positive(PyroModule):
    def __init__(self) -> None:
        super().__init__()
        self.decoder = mlp(D, F, (8,))

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            z = pyro.sample("z", dist.LogNormal(x.new_zeros(D), 1.0).to_event(1))
            logits = pyro.deterministic("logits", self.decoder(z), event_dim=1)
            pyro.factor("sparsity", -0.1 * z.sum(-1))
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)


def auxiliary() -> Pair:
    return Positive(), Auxiliary(), (binary(N, F),)


class Halves(PyroModule):
    r"""Some data have no label: the model draws those itself."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder, self.classifier = mlp(D, F, (8,)), mlp(D, 1, (8,))

    def forward(self, x: Tensor, y: Tensor, known: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            z = pyro.sample("z", standard(x, D))
            logits = self.classifier(z).squeeze(-1)
            pyro.sample("y", dist.Bernoulli(logits=logits), obs=y, obs_mask=known)
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)


class HalvesGuide(PyroModule):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = mlp(F, 2 * D, (8,))

    def forward(self, x: Tensor, y: Tensor, known: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", normal(self.encoder(x)))


def partly_observed() -> Pair:
    return Halves(), HalvesGuide(), (binary(N, F), binary(N), torch.arange(N) % 2 == 0)


def no_plate() -> Pair:
    def model(x: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(x.new_zeros(()), 1.0))
        pyro.sample(
            "x", dist.Normal(mu.unsqueeze(-1), 1.0).expand((*mu.shape, N)).to_event(1), obs=x
        )

    return model, MeanField(), (torch.randn(N),)


class Transition(nn.Module):
    r"""A state, given the one before and what else is known."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.network = mlp(D + inputs, 2 * D, (8,), nn.Tanh)

    def forward(self, z: Tensor, *u: Tensor) -> dist.TorchDistribution:
        return normal(self.network(torch.cat([z, *u], dim=-1)))


class States(PyroModule):
    r"""z_1 -> ... -> z_T, and x_t of each."""

    def __init__(self) -> None:
        super().__init__()
        self.transition, self.decoder = Transition(0), mlp(D, F, (8,))

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            chain = MarkovChain(standard(x, D), self.transition, steps=x.shape[1])
            z = pyro.sample("z", chain)
            pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(2), obs=x)


class Backwards(PyroModule):
    r"""States given all data after them, too."""

    def __init__(self) -> None:
        super().__init__()
        self.transition, self.read = Transition(F), nn.Linear(2 * F, F)

    def forward(self, x: Tensor) -> None:
        h = recur(self.step, x.new_zeros(x.shape[0], 1, F), [x.flip(1)], x.shape[1]).flip(1)
        first = self.transition(x.new_zeros(x.shape[0], D), h[:, 0])
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", MarkovChain(first, self.transition, h[:, 1:]))

    def step(self, h: Tensor, x: Tensor) -> Tensor:
        return self.read(torch.cat([h, x], dim=-1)).tanh()


def markov_chain() -> Pair:
    return States(), Backwards(), (torch.randn(N, 9, F),)


ZOO: dict[str, Callable[[], Pair]] = {
    row.__name__: row
    for row in (
        vae,
        full_covariance,
        learned_scale,
        predicted_scale,
        counts,
        levels,
        missing_features,
        convolutional,
        plain_functions,
        bottom_up,
        top_down,
        global_latent,
        subsampled,
        mixture,
        auto_normal_mixture,
        auto_normal_infinite_mixture,
        finite_mixture,
        mixture_vae,
        nested_plates,
        masked_and_scaled,
        batch_norm_and_dropout,
        auto_normal,
        auto_multivariate_normal,
        auto_delta,
        auxiliary,
        partly_observed,
        no_plate,
        markov_chain,
    )
}

# those that sum sites out, which of Pyro's objectives TraceEnum_ELBO does
ENUMERATED = (
    "mixture",
    "finite_mixture",
    "mixture_vae",
    "auto_normal_mixture",
    "auto_normal_infinite_mixture",
)
