r"""Covariances of Gaussian components whose features are independent."""

__all__ = ["Diagonal", "Spherical"]

import torch
from torch import Tensor

from pyro_vae.em.covariances import DISTANT, Covariances, Prepared


class _Variances(Covariances):
    r"""Covariances that are variances: squares of features are all that is needed."""

    def prepared(self, means: Tensor, factors: Tensor, dtype: torch.dtype) -> Prepared:
        precisions = factors.square().reshape(len(means), -1)
        linear = means * precisions
        slopes = torch.cat([-2 * linear, precisions], 1)
        return [(slopes.to(dtype), (linear * means).sum(1, keepdim=True).to(dtype))]

    def squares(self, columns: Tensor, prepared: Prepared) -> Tensor:
        ((slopes, constants),) = prepared
        return torch.addmm(constants, slopes, columns)

    def moments(self, columns: Tensor, u: Tensor, r: Tensor) -> tuple[Tensor, ...]:
        return ((r @ columns.T).double(),)

    def put(self, second: Tensor, k: int, scatter: Tensor) -> None:
        second[k] = scatter

    def factor(self, covariances: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return _factor(covariances)

    def of_precisions(self, precisions: Tensor) -> tuple[Tensor, Tensor]:
        return torch.where(precisions > 0, 1 / precisions, torch.nan), precisions.sqrt()

    def precisions(self, factors: Tensor) -> Tensor:
        return factors.square()

    def whitened(self, difference: Tensor, factors: Tensor, k: int) -> Tensor:
        return difference * factors[k]

    def log_factors(self, factors: Tensor) -> Tensor:
        return factors.log().sum()

    def narrow(self, means: Tensor, factors: Tensor, dtype: torch.dtype) -> Tensor:
        white = means * factors.reshape(len(means), -1)
        return white.square().sum(1) > DISTANT * means.shape[1]


class Diagonal(_Variances):
    r"""A variance for each component and feature, with shape :math:`(K, D)`."""

    def shape(self, components: int, features: int) -> tuple[int, ...]:
        return components, features

    def width(self, components: int, features: int) -> int:
        return 3 * features

    def parameters(self, components: int, features: int) -> int:
        return components * features

    def columns(self, u: Tensor) -> Tensor:
        return torch.cat([u, u.square()], 1).T

    def unpacked(self, moments: tuple[Tensor, ...], features: int) -> tuple[Tensor, Tensor]:
        first, second = moments[0].chunk(2, 1)
        return first, second

    def scatter(self, difference: Tensor, r: Tensor) -> Tensor:
        return (r @ difference.square()).double()

    def outer(self, a: Tensor, b: Tensor) -> Tensor:
        return a * b

    def mass(self, counts: Tensor, features: int) -> Tensor:
        return counts[:, None]

    def diagonal(self, variances: Tensor, components: int) -> Tensor:
        return variances.repeat(components, 1)

    def scaled(self, covariances: Tensor, by: Tensor) -> Tensor:
        return covariances * by.square()

    def scaled_factors(self, factors: Tensor, by: Tensor) -> Tensor:
        return factors * by

    def log_scale(self, factors: Tensor, features: int) -> Tensor:
        return factors.log().sum(1)

    def dimensions(self, components: int, features: int) -> tuple[int, int]:
        return 1, 1

    def dense(self, covariances: Tensor, components: int, features: int) -> Tensor:
        return torch.diag_embed(covariances)

    def of_dense(self, squares: Tensor) -> Tensor:
        return squares.diagonal(dim1=1, dim2=2)


class Spherical(_Variances):
    r"""A variance for each component, with shape :math:`(K)`."""

    common_scale = True

    def shape(self, components: int, features: int) -> tuple[int, ...]:
        return (components,)

    def width(self, components: int, features: int) -> int:
        return 2 * features

    def parameters(self, components: int, features: int) -> int:
        return components

    def columns(self, u: Tensor) -> Tensor:
        return torch.cat([u, torch.linalg.vecdot(u, u)[:, None]], 1).T

    def unpacked(self, moments: tuple[Tensor, ...], features: int) -> tuple[Tensor, Tensor]:
        return moments[0][:, :-1], moments[0][:, -1]

    def scatter(self, difference: Tensor, r: Tensor) -> Tensor:
        return (r @ difference.square()).sum().double()

    def outer(self, a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum(1)

    def mass(self, counts: Tensor, features: int) -> Tensor:
        return counts * features

    def diagonal(self, variances: Tensor, components: int) -> Tensor:
        return variances.mean().repeat(components)

    def scaled(self, covariances: Tensor, by: Tensor) -> Tensor:
        return covariances * by[0].square()

    def scaled_factors(self, factors: Tensor, by: Tensor) -> Tensor:
        return factors * by[0]

    def log_scale(self, factors: Tensor, features: int) -> Tensor:
        return features * factors.log()

    def dimensions(self, components: int, features: int) -> tuple[int, int]:
        return 1, features

    def dense(self, covariances: Tensor, components: int, features: int) -> Tensor:
        identity = torch.eye(features, dtype=covariances.dtype, device=covariances.device)
        return covariances[:, None, None] * identity

    def of_dense(self, squares: Tensor) -> Tensor:
        return squares.diagonal(dim1=1, dim2=2).sum(1)


def _factor(variances: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    least = torch.finfo(variances.dtype).eps  # of data whose own scale is about 1
    singular = ~(variances > least**2)
    if singular.any():  # rare
        variances = torch.where(singular, least, variances)
    return variances, variances.rsqrt(), singular.sum()
