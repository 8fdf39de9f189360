r"""Posterior collapse, and what each remedy does: KL warm-up, free bits, more encoder steps.

The decoder sees the pixels before each one, and soon predicts it from them. The encoder has learned
little by then: a KL near zero is cheaper, and most of what latents could tell stays unused.
Each remedy has them tell more; "aggressive" does so at the price of evidence here.
"""

from functools import partial

import pyro
import pyro.distributions as dist
import torch
from matplotlib.figure import Figure
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.nn.functional import linear

import pyro_vae
from pyro_vae.data import load
from pyro_vae.guides import AmortizedNormal
from pyro_vae.nn import mlp
from pyro_vae.objectives import ELBO
from pyro_vae.schedules import Linear

PIXELS, LATENTS, HIDDEN, EPOCHS = 64, 32, 256, 15


class AutoregressiveVAE(PyroModule):
    r"""z ~ N(0, I),    x_i ~ Bernoulli(f_i(x_1, ..., x_{i-1}, z)): masks hide later pixels."""

    def __init__(self) -> None:
        super().__init__()
        seen = torch.arange(HIDDEN) % (PIXELS - 1) + 1  # so many pixels by each hidden unit
        number = torch.arange(PIXELS) + 1
        self.register_buffer("first", seen[:, None] >= number)
        self.register_buffer("middle", seen[:, None] >= seen)
        self.register_buffer("last", number[:, None] > seen)
        widths = (PIXELS, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, PIXELS)
        self.layers = nn.ModuleList(nn.Linear(*width) for width in widths)
        self.decoder = mlp(LATENTS, HIDDEN)

    def forward(self, x: Tensor) -> Tensor:
        first, middle, last = self.layers
        with pyro.plate("data", x.shape[0], dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(LATENTS), 1.0).to_event(1))
            h = linear(x, first.weight * self.first, first.bias).relu()
            h = linear(h, middle.weight * self.middle, middle.bias) + self.decoder(z)
            logits = linear(h.relu(), last.weight * self.last, last.bias)
            return pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)


x = (load("digits").train["x"].flatten(1) >= 8).float()  # black and white
ways = {  # objective, encoder_steps, and how many times the epochs, for as many steps of the model
    "no remedy": (ELBO(), 1, 1),
    "KL warm-up": (ELBO(beta=Linear(length=EPOCHS * 2 / 3, unit="epoch")), 1, 1),
    "free bits": (ELBO(free_bits=3.0), 1, 1),
    "encoder_steps=3": (ELBO(), 3, 3),
    '"aggressive"': (ELBO(), "aggressive", 15),
}
axes = Figure((7, 4.2), layout="constrained").subplots()
print(f"{'test data, nats':17}evidence      KL  active units  mutual information")
for name, (objective, steps, times) in ways.items():
    torch.manual_seed(0)
    model, guide = AutoregressiveVAE(), AmortizedNormal((PIXELS,), {"z": LATENTS})
    setting = {"optimizer": partial(torch.optim.Adam, lr=5e-3), "progress": False}
    setting |= {"objective": objective, "encoder_steps": steps, "epochs": EPOCHS * times}
    run = pyro_vae.fit(model, guide, x[:1000], **setting)
    metrics = ("elbo", "nll", "active_units", "mutual_information")
    found = pyro_vae.evaluate(model, guide, x[1000:], metrics, particles=100)
    evidence, kl, active, told = -found["nll"], *(found[n] for n in ("kl", *metrics[2:]))
    print(f"{name:17}{evidence:8.2f}{kl:8.2f}{active:8.0f} of {LATENTS}{told:20.2f}")

    shares = [100 * row["epoch"] / len(run.history) for row in run.history]
    axes.plot(shares, [row["kl"] for row in run.history], label=name)
axes.set(title="What latents hold while the model trains", ylim=(0, None))
axes.legend(frameon=False)
axes.set(xlabel="training, %", ylabel="KL, nats per image")
axes.figure.savefig("posterior_collapse.png", dpi=150)
