r"""Linear pairs that are ill in a known way, and a healthy one."""

import math

import torch
from linear import VAR, D, F, Linear
from test_ppca import inverse_positive
from torch import Tensor


def encode_by(linear: Linear, A: Tensor, scale: Tensor) -> None:
    raw = inverse_positive(scale)
    weight = torch.cat([A, torch.zeros(D, F)])
    state = {"weight": weight, "bias": torch.cat([-A @ linear.b, raw])}
    linear.guide.encoder.load_state_dict(state)


def weighted(beta: float) -> Linear:
    r"""The guide is the best for the divergence weighted by beta."""
    linear, noise = Linear(), beta * VAR
    encode_by(linear, linear.W.T / (1 + noise), torch.full((D,), noise / (1 + noise)).sqrt())
    return linear


def healthy() -> Linear:
    return weighted(1.0)


def lagging() -> Linear:
    r"""The guide is the prior, though the decoder is none that ignores latents."""
    linear = Linear()
    encode_by(linear, torch.zeros(D, F), torch.ones(D))
    return linear


def blind() -> Linear:
    r"""The guide tells data apart, the decoder does not look."""
    linear = Linear()
    linear.decoder.weight.data.zero_()
    return linear


def collapsed() -> Linear:
    linear = lagging()
    linear.decoder.weight.data.zero_()
    return linear


def dead_unit() -> Linear:
    linear = healthy()
    A, scale = linear.A.clone(), torch.tensor([linear.scale, 1.0])
    A[1] = 0
    linear.decoder.weight.data[:, 1] = 0
    encode_by(linear, A, scale)
    return linear


def far_from_the_prior() -> Linear:
    linear = healthy()
    linear.decoder.weight.data /= 6
    encode_by(linear, 6 * linear.A, torch.full((D,), 1.0))
    return linear


def bad_encoder() -> Linear:
    r"""The means are turned by 50 degrees, which changes neither rate nor aggregate posterior."""
    linear, angle = healthy(), math.radians(50)
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    encode_by(linear, turn @ linear.A, torch.full((D,), linear.scale))
    return linear


def small_family() -> Linear:
    r"""The posterior is correlated, and the guide the best without correlations."""
    linear = Linear()
    W = linear.W @ torch.tensor([[1.0, 1.0], [0.05, -0.05]])
    linear.decoder.weight.data.copy_(W)
    precision = W.T @ W / VAR + torch.eye(D)
    A = torch.linalg.solve(precision, W.T / VAR)
    encode_by(linear, A, precision.diagonal().rsqrt())
    return linear
