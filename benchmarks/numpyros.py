r"""The same VAEs in NumPyro: ``svi.update`` compiled, and many steps under ``lax.scan``."""

import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
import torch
from contenders import SCAN
from jax import lax
from numpyro.infer import SVI, RenyiELBO, TraceMeanField_ELBO
from sizes import RATE, Contender, Makers, Size
from torch import Tensor, nn

UPDATE = "NumPyro, svi.update"

Weights = dict[str, list[Any]]


def jaxed(network: nn.Module) -> tuple[list[Any], Callable[[list[Any], Any], Any]]:
    r"""A network's weights, and the network as a function of such and inputs."""
    layers = [layer for layer in network.modules() if not list(layer.children())]
    weights = [arrays(layer) for layer in layers]

    def apply(weights: list[Any], x: Any) -> Any:
        for layer, own in zip(layers, weights, strict=True):
            x = applied(layer, own, x)
        return x

    return weights, apply


def arrays(layer: nn.Module) -> list[Any]:
    r"""The weights of a layer, laid out as JAX's own libraries have them."""
    found = [p.detach() for p in layer.parameters()]
    if isinstance(layer, nn.Linear):
        found[0] = found[0].T
    if isinstance(layer, nn.ConvTranspose2d):  # a convolution of what is spread out
        found[0] = found[0].flip(2, 3).transpose(0, 1)
    return [jnp.array(p.contiguous().numpy()) for p in found]


def applied(layer: nn.Module, weights: list[Any], x: Any) -> Any:
    r"""What torch's layer gives."""
    match layer:
        case nn.Linear():
            return x @ weights[0] + weights[1]
        case nn.ReLU():
            return jax.nn.relu(x)
        case nn.Tanh():
            return jnp.tanh(x)
        case nn.Flatten():
            return x.reshape(x.shape[0], -1)
        case nn.Unflatten():
            return x.reshape(x.shape[0], *layer.unflattened_size)
        case nn.Conv2d() | nn.ConvTranspose2d():
            back = isinstance(layer, nn.ConvTranspose2d)
            edge = layer.kernel_size[0] - 1 - layer.padding[0] if back else layer.padding[0]
            found = lax.conv_general_dilated(
                x,
                weights[0],
                window_strides=(1, 1) if back else layer.stride,
                padding=[(edge, edge + extra) for extra in layer.output_padding],
                lhs_dilation=layer.stride if back else None,
            )
            return found + weights[1][:, None, None]
    raise TypeError(f"expected a layer that is known here, got {layer}: add it")


def programs(size: Size) -> tuple[Callable[[Any], None], Callable[[Any], None]]:
    r"""Model and guide."""
    networks = size.networks()
    (decoder, decode), (encoder, encode) = map(jaxed, networks)

    def model(x: Any) -> None:
        weights = numpyro.param("decoder", decoder)
        loc, scale = jnp.zeros(size.latents), jnp.ones(size.latents)
        if size.functions:
            loc = numpyro.param("loc", loc)
            scale = numpyro.param("scale", scale, constraint=dist.constraints.positive)
        with numpyro.plate("data", x.shape[0]):
            z = numpyro.sample("z", dist.Normal(loc, scale).to_event(1))
            logits = decode(weights, z)
            numpyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(x: Any) -> None:
        weights = numpyro.param("encoder", encoder)
        loc, raw = jnp.split(encode(weights, x), 2, -1)
        with numpyro.plate("data", x.shape[0]):
            numpyro.sample("z", dist.Normal(loc, jax.nn.softplus(raw) + 1e-6).to_event(1))

    return model, guide


def begun(size: Size) -> tuple[SVI, Any]:
    r"""The inference and its state at the start, with as many threads as torch has."""
    if os.environ.get("NPROC") != str(torch.get_num_threads()):
        os.environ["NPROC"] = str(torch.get_num_threads())  # which XLA reads when it begins
        jax.extend.backend.clear_backends()
    many = size.particles > 1
    loss = RenyiELBO(0, num_particles=size.particles) if many else TraceMeanField_ELBO()
    svi = SVI(*programs(size), numpyro.optim.Adam(RATE), loss)
    return svi, svi.init(jax.random.key(0), jnp.zeros((size.batch, size.features)))


def update(size: Size) -> Contender:
    r"""A compiled call for each step; nobody waits but for the last."""
    svi, state = begun(size)
    compiled = jax.jit(svi.update)

    def step(data: list[Any]) -> list[float]:
        nonlocal state
        losses = []
        for x in data:
            state, loss = compiled(state, x)
            losses.append(loss)
        jax.block_until_ready(state)
        return losses

    def prepare(data: list[Tensor]) -> list[Any]:
        found = [jnp.array(x.numpy()) for x in data]
        jax.block_until_ready(compiled(state, found[0]))
        return found

    return Contender(step, exact=0, prepare=prepare)


def scan(size: Size) -> Contender:
    r"""All steps of a block in one compiled call."""
    svi, state = begun(size)
    compiled: dict[int, Any] = {}

    def step(data: Any) -> Any:
        nonlocal state
        state, losses = compiled[len(data)](state, data)
        jax.block_until_ready(state)
        return losses

    def prepare(data: list[Tensor]) -> Any:
        found = jnp.array(torch.stack(data).numpy())
        if len(data) not in compiled:
            run = jax.jit(lambda state, data: lax.scan(svi.update, state, data))
            compiled[len(data)] = run.lower(state, found).compile()
        return found

    return Contender(step, exact=0, prepare=prepare)


def makers(size: Size) -> Makers:
    return {UPDATE: lambda: update(size), SCAN: lambda: scan(size)}
