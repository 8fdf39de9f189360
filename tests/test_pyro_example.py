r"""Pyro's VAE tutorial, with only the import of SVI changed."""

import pyro
import pyro.distributions as dist
import pyro.infer
import pytest
import torch
from pyro.infer import Trace_ELBO
from pyro.optim import Adam
from torch import nn

import pyro_vae


class Decoder(nn.Module):
    def __init__(self, z_dim, hidden_dim):
        super().__init__()
        self.fc1 = nn.Linear(z_dim, hidden_dim)
        self.fc21 = nn.Linear(hidden_dim, 784)
        self.softplus = nn.Softplus()
        self.sigmoid = nn.Sigmoid()

    def forward(self, z):
        hidden = self.softplus(self.fc1(z))
        return self.sigmoid(self.fc21(hidden))


class Encoder(nn.Module):
    def __init__(self, z_dim, hidden_dim):
        super().__init__()
        self.fc1 = nn.Linear(784, hidden_dim)
        self.fc21 = nn.Linear(hidden_dim, z_dim)
        self.fc22 = nn.Linear(hidden_dim, z_dim)
        self.softplus = nn.Softplus()

    def forward(self, x):
        x = x.reshape(-1, 784)
        hidden = self.softplus(self.fc1(x))
        return self.fc21(hidden), torch.exp(self.fc22(hidden))


class VAE(nn.Module):
    def __init__(self, z_dim=5, hidden_dim=16):
        super().__init__()
        self.encoder = Encoder(z_dim, hidden_dim)
        self.decoder = Decoder(z_dim, hidden_dim)
        self.z_dim = z_dim

    def model(self, x):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", x.shape[0]):
            z_loc = x.new_zeros(torch.Size((x.shape[0], self.z_dim)))
            z_scale = x.new_ones(torch.Size((x.shape[0], self.z_dim)))
            z = pyro.sample("latent", dist.Normal(z_loc, z_scale).to_event(1))
            loc_img = self.decoder(z)
            pyro.sample(
                "obs",
                dist.Bernoulli(loc_img, validate_args=False).to_event(1),
                obs=x.reshape(-1, 784),
            )
            return loc_img

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", x.shape[0]):
            z_loc, z_scale = self.encoder(x)
            pyro.sample("latent", dist.Normal(z_loc, z_scale).to_event(1))


def run(kind):
    r"""The tutorial's training and evaluation loops, over grey images."""
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    loader = torch.rand(4, 32, 1, 28, 28)
    vae = VAE()
    svi = kind(vae.model, vae.guide, Adam({"lr": 1.0e-3}), loss=Trace_ELBO())
    losses = []
    for _ in range(2):
        epoch_loss = 0.0
        for x in loader:
            epoch_loss += svi.step(x)
        test_loss = 0.0
        for x in loader:
            test_loss += svi.evaluate_loss(x)
        losses += [float(epoch_loss) / 128, float(test_loss) / 128]
    return vae, losses


def test_pyros_tutorial_gives_the_same_numbers() -> None:
    ours, our_losses = run(pyro_vae.SVI)
    theirs, their_losses = run(pyro.infer.SVI)

    assert our_losses == pytest.approx(their_losses, rel=1e-12)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-10, atol=1e-12)
