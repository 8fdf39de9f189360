r"""A linear model with normal noise, and a guide that is its posterior."""

import math

import pyro
import pyro.distributions as dist
import torch
from test_ppca import affine, inverse_positive
from torch import Tensor

from pyro_vae.guides import AmortizedNormal
from pyro_vae.likelihoods import Normal
from pyro_vae.models import VAE

N, F, D, VAR = 7, 5, 2, 0.3


class Linear:
    r"""x ~ N(W z + b, v I), and z ~ N(A (x - b), s^2 I) in the guide."""

    def __init__(self) -> None:
        self.W, self.b = torch.linalg.qr(torch.randn(F, D)).Q, torch.randn(F)
        self.A, self.scale = self.W.T / (1 + VAR), math.sqrt(VAR / (1 + VAR))
        self.decoder = affine(self.W, self.b)
        self.model = VAE((F,), D, Normal(math.sqrt(VAR)), decoder=self.decoder)
        raw = inverse_positive(torch.full((D,), self.scale))
        weight = torch.cat([self.A, torch.zeros(D, F)])
        encoder = affine(weight, torch.cat([-self.A @ self.b, raw]))
        self.guide = AmortizedNormal((F,), {"z": D}, encoder)
        self.x = torch.randn(N, F)
        self.means = (self.x - self.b) @ self.A.T
        self.reconstructions = self.means @ self.W.T + self.b

    def plain(self, x: Tensor) -> None:
        r"""The model as a plain function, which cannot be called without data."""
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", x.shape[0], dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(D), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), math.sqrt(VAR)).to_event(1), obs=x)


def check_moments(x: Tensor, loc: Tensor, covariance: Tensor) -> None:
    r"""Means and covariances of draws lie within 4.5 standard errors: 1 in 5,000 tests fails."""
    n, variance = len(x), covariance.diagonal()
    assert ((x.mean(0) - loc).abs() <= 4.5 * (variance / n).sqrt()).all()
    error = ((variance.outer(variance) + covariance.square()) / n).sqrt()
    assert ((x.T.cov() - covariance).abs() <= 4.5 * error + 1e-12).all()
