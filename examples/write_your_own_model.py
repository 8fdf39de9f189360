r"""A model of one's own: a Pyro program, here a VAE whose latent says which digit it is.

    c ~ Categorical(w),    z | c ~ N(m_c, 1),    x | z ~ Binomial(16, f(z))

The class c is summed out, exactly, so that any guide that draws z will do.
"""

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

import pyro_vae
from pyro_vae.data import load
from pyro_vae.guides import AmortizedNormal
from pyro_vae.likelihoods import Binomial
from pyro_vae.nn import mlp


class ClusteredVAE(PyroModule):
    def __init__(self, event_shape: torch.Size, clusters: int, latents: int) -> None:
        super().__init__()
        self.event_shape = event_shape
        self.likelihood = Binomial(16)
        self.decoder = mlp(latents, event_shape.numel())
        self.weights = nn.Parameter(torch.zeros(clusters))
        self.locs = nn.Parameter(3 * torch.randn(clusters, latents))

    def forward(self, x: Tensor | None = None, n: int = 1) -> Tensor:
        with pyro.plate("data", n if x is None else x.shape[0], dim=-1):
            c = pyro.sample(
                "c", dist.Categorical(logits=self.weights), infer={"enumerate": "parallel"}
            )
            z = pyro.sample("z", dist.Normal(self.locs[c], 1.0).to_event(1))
            return pyro.sample("x", self.likelihood(self.decoder(z), self.event_shape), obs=x)


torch.manual_seed(0)
data = load("digits")
model = ClusteredVAE(data.event_shape, clusters=10, latents=4)
guide = AmortizedNormal(data.event_shape, sites={"z": 4})

# the checker says in words what is wrong with a program; here nothing is
print("findings:", pyro_vae.check(model, guide, data.train["x"][:8]))

pyro_vae.fit(model, guide, data, epochs=30, progress=False)
for name, estimate in pyro_vae.evaluate(model, guide, data, particles=200).items():
    print(f"{name:15}", estimate)
print("cluster weights", [round(w, 2) for w in model.weights.softmax(0).tolist()])
