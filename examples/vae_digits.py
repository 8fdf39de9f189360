r"""A VAE on real digits: trained, evaluated with error bars, sampled."""

import torch

import pyro_vae
from pyro_vae.data import load
from pyro_vae.guides import AmortizedNormal
from pyro_vae.models import VAE

torch.manual_seed(0)

# 1,797 images of 8 x 8 pixels that count from 0 to 16: the natural likelihood is binomial
data = load("digits")
print(data)

model = VAE(data.event_shape, latents=8, likelihood=data.likelihood)
guide = AmortizedNormal(data.event_shape, sites={"z": 8})

run = pyro_vae.fit(model, guide, data, epochs=40, progress=False)
first, last = run.history[0], run.history[-1]
print(f"ELBO after epoch 1: {first['elbo']:.1f}, after epoch 40: {last['elbo']:.1f} nats")

# on test images; the evidence is importance sampled, and has errors
for name, estimate in pyro_vae.evaluate(model, guide, data, particles=200).items():
    print(f"{name:15}", estimate)

codes = pyro_vae.encode(model, guide, data.test["x"])["z"]
print("codes", tuple(codes.shape), "samples", tuple(pyro_vae.sample(model, guide, n=16).shape))
