r"""Covariances of Gaussian components: full ones, one of each or one for all."""

__all__ = ["Covariances", "Full", "Tied"]

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor

# pairs of slopes and constants
Prepared = list[tuple[Tensor, Tensor]]


class Covariances(ABC):
    r"""A form of the covariances of :math:`K` components.

    A covariance is kept with the factor of its inverse, :math:`\Sigma^{-1} = U U^\top` with
    :math:`U` upper triangular, so that :math:`(x - \mu)^\top U` is white.
    """

    common_scale = False  # whether all features must keep their units

    @abstractmethod
    def shape(self, components: int, features: int) -> tuple[int, ...]:
        r"""The shape of the covariances."""

    @abstractmethod
    def width(self, components: int, features: int) -> int:
        r"""How many numbers are held of a datum at once."""

    @abstractmethod
    def parameters(self, components: int, features: int) -> int:
        r"""The number of free parameters."""

    @abstractmethod
    def prepared(self, means: Tensor, factors: Tensor, dtype: torch.dtype) -> Prepared:
        r"""What :meth:`squares` takes, in the numbers of the data."""

    @abstractmethod
    def columns(self, u: Tensor) -> Tensor:
        r"""What :meth:`squares` and :meth:`moments` take of data, with shape :math:`(F, B)`."""

    @abstractmethod
    def squares(self, columns: Tensor, prepared: Prepared) -> Tensor:
        r"""The squared Mahalanobis distance of each datum from each mean, :math:`(K, B)`."""

    @abstractmethod
    def moments(self, columns: Tensor, u: Tensor, r: Tensor) -> tuple[Tensor, ...]:
        r"""Sums of a block, weighted by ``r``, in double precision."""

    @abstractmethod
    def unpacked(self, moments: tuple[Tensor, ...], features: int) -> tuple[Tensor, Tensor]:
        r"""Sums of data and of their squares, about the origin, from those of all blocks."""

    @abstractmethod
    def scatter(self, difference: Tensor, r: Tensor) -> Tensor:
        r"""Squares of differences with shape :math:`(B, D)`, summed for one component."""

    @abstractmethod
    def put(self, second: Tensor, k: int, scatter: Tensor) -> None:
        r"""Writes a component's sum of squares into those of all, which lack it."""

    @abstractmethod
    def outer(self, a: Tensor, b: Tensor) -> Tensor:
        r"""The symmetric part of :math:`a_k b_k^\top` for vectors with shape :math:`(K, D)`."""

    @abstractmethod
    def mass(self, counts: Tensor, features: int) -> Tensor:
        r"""How many squares went into each entry, as broadcasts to the covariances."""

    @abstractmethod
    def diagonal(self, variances: Tensor, components: int) -> Tensor:
        r"""The covariances of independent features with those variances :math:`(D)`."""

    @abstractmethod
    def factor(self, covariances: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        r"""Covariances, their factors, and how many had to be regularised to have one."""

    @abstractmethod
    def of_precisions(self, precisions: Tensor) -> tuple[Tensor, Tensor]:
        r"""Covariances and factors of the precisions; the first is NaN where there are none."""

    @abstractmethod
    def precisions(self, factors: Tensor) -> Tensor:
        r"""The inverse covariances."""

    @abstractmethod
    def scaled(self, covariances: Tensor, by: Tensor) -> Tensor:
        r"""The covariances of features that are multiplied by those numbers :math:`(D)`."""

    @abstractmethod
    def scaled_factors(self, factors: Tensor, by: Tensor) -> Tensor:
        r"""The factors for features that are divided by those numbers :math:`(D)`."""

    @abstractmethod
    def whitened(self, difference: Tensor, factors: Tensor, k: int) -> Tensor:
        r"""Differences from the mean of component :math:`k`, as white ones."""

    @abstractmethod
    def log_scale(self, factors: Tensor, features: int) -> Tensor:
        r"""The :math:`\log |U|` of each component, or of all."""

    @abstractmethod
    def log_factors(self, factors: Tensor) -> Tensor:
        r"""The :math:`\log |U|` of all matrices that there are, summed."""

    @abstractmethod
    def dimensions(self, components: int, features: int) -> tuple[int, int]:
        r"""The dimension of each matrix, and to how many normals of that dimension it belongs."""

    @abstractmethod
    def dense(self, covariances: Tensor, components: int, features: int) -> Tensor:
        r"""The covariances as matrices with shape :math:`(K, D, D)`."""

    @abstractmethod
    def of_dense(self, squares: Tensor) -> Tensor:
        r"""Sums of squares of this form, of those with shape :math:`(K, D, D)`."""

    @abstractmethod
    def narrow(self, means: Tensor, factors: Tensor, dtype: torch.dtype) -> Tensor:
        r"""Which components are so far out for their width that squares lose too much of them."""

    def replaced(self, covariances: Tensor, seeds: Tensor, which: Tensor) -> Tensor:
        r"""The covariances, of which those at ``which`` are the seeds' first ones."""
        changed = covariances.clone()
        changed[which] = seeds[: len(which)]
        return changed


class _Matrices(Covariances):
    r"""Covariances that are matrices, with shape :math:`(*, D, D)`."""

    def scatter(self, difference: Tensor, r: Tensor) -> Tensor:
        return ((difference * r[:, None]).T @ difference).double()

    def precisions(self, factors: Tensor) -> Tensor:
        return factors @ factors.mT

    def scaled(self, covariances: Tensor, by: Tensor) -> Tensor:
        return covariances * by[:, None] * by

    def scaled_factors(self, factors: Tensor, by: Tensor) -> Tensor:
        return factors * by[:, None]

    def log_scale(self, factors: Tensor, features: int) -> Tensor:
        return factors.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def log_factors(self, factors: Tensor) -> Tensor:
        return factors.diagonal(dim1=-2, dim2=-1).log().sum()


class Full(_Matrices):
    r"""A matrix for each component, with shape :math:`(K, D, D)`."""

    def shape(self, components: int, features: int) -> tuple[int, ...]:
        return components, features, features

    def width(self, components: int, features: int) -> int:
        return 3 * features + components * _step(features)

    def parameters(self, components: int, features: int) -> int:
        return components * features * (features + 1) // 2

    def columns(self, u: Tensor) -> Tensor:
        return u.T.contiguous()

    def prepared(self, means: Tensor, factors: Tensor, dtype: torch.dtype) -> Prepared:
        white = _white(means, factors)
        return [
            (
                # columns end at the diagonal: in parts, most zeros are left out
                factors[:, :end, start:end].mT.reshape(-1, end).to(dtype),
                -white[:, start:end].reshape(-1, 1).to(dtype),
            )
            for start, end in _parts(means.shape[1])
        ]

    def squares(self, columns: Tensor, prepared: Prepared) -> Tensor:
        rows, width = prepared[0][0].shape  # of the first part, a square of each component
        total = columns.new_zeros(rows // width, columns.shape[1])
        for factors, shifts in prepared:
            white = torch.addmm(shifts, factors, columns[: factors.shape[1]])
            total += white.square_().view(len(total), -1, white.shape[1]).sum(1)
        return total

    def moments(self, columns: Tensor, u: Tensor, r: Tensor) -> tuple[Tensor, ...]:
        products = []
        for start, end in _parts(len(columns)):
            weighted = (r[:, None] * columns[start:end]).flatten(0, 1)
            products.append((columns[:end] @ weighted.T).double())
        return ((r @ u).double(), *products)

    def unpacked(self, moments: tuple[Tensor, ...], features: int) -> tuple[Tensor, Tensor]:
        first, *products = moments
        second = first.new_zeros(len(first), features, features)
        for (start, end), product in zip(_parts(features), products, strict=True):
            second[:, :end, start:end] = product.view(end, len(first), -1).transpose(0, 1)
        return first, second.triu() + second.triu(1).mT

    def put(self, second: Tensor, k: int, scatter: Tensor) -> None:
        second[k] = scatter

    def outer(self, a: Tensor, b: Tensor) -> Tensor:
        product = a[:, :, None] * b[:, None, :]
        return (product + product.mT) / 2

    def mass(self, counts: Tensor, features: int) -> Tensor:
        return counts[:, None, None]

    def diagonal(self, variances: Tensor, components: int) -> Tensor:
        return torch.diag(variances).repeat(components, 1, 1)

    def factor(self, covariances: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return _factor(covariances)

    def of_precisions(self, precisions: Tensor) -> tuple[Tensor, Tensor]:
        return _invert(precisions)

    def whitened(self, difference: Tensor, factors: Tensor, k: int) -> Tensor:
        return difference @ factors[k]

    def dimensions(self, components: int, features: int) -> tuple[int, int]:
        return features, 1

    def dense(self, covariances: Tensor, components: int, features: int) -> Tensor:
        return covariances

    def of_dense(self, squares: Tensor) -> Tensor:
        return squares

    def narrow(self, means: Tensor, factors: Tensor, dtype: torch.dtype) -> Tensor:
        white = _white(means, factors)
        return white.square().sum(1) > _FAR[dtype]


class Tied(_Matrices):
    r"""One matrix for all components, with shape :math:`(D, D)`."""

    def shape(self, components: int, features: int) -> tuple[int, ...]:
        return features, features

    def width(self, components: int, features: int) -> int:
        return 3 * features

    def parameters(self, components: int, features: int) -> int:
        return features * (features + 1) // 2

    def columns(self, u: Tensor) -> Tensor:
        return u.T

    def prepared(self, means: Tensor, factors: Tensor, dtype: torch.dtype) -> Prepared:
        return [(factors.T.to(dtype), (means @ factors).to(dtype))]

    def squares(self, columns: Tensor, prepared: Prepared) -> Tensor:
        ((factors, shifts),) = prepared
        white = factors @ columns
        total = white.new_empty(len(shifts), white.shape[1])
        for k, shift in enumerate(shifts):
            torch.sum((white - shift[:, None]).square_(), 0, out=total[k])
        return total

    def moments(self, columns: Tensor, u: Tensor, r: Tensor) -> tuple[Tensor, ...]:
        return (r @ u).double(), self.scatter(u, r.sum(0))

    def unpacked(self, moments: tuple[Tensor, ...], features: int) -> tuple[Tensor, Tensor]:
        first, second = moments
        return first, second

    def put(self, second: Tensor, k: int, scatter: Tensor) -> None:
        second.copy_(scatter) if k == 0 else second.add_(scatter)

    def outer(self, a: Tensor, b: Tensor) -> Tensor:
        product = a.T @ b
        return (product + product.T) / 2

    def mass(self, counts: Tensor, features: int) -> Tensor:
        return counts.sum()

    def diagonal(self, variances: Tensor, components: int) -> Tensor:
        return torch.diag(variances)

    def factor(self, covariances: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        covariances, factors, count = _factor(covariances[None])
        return covariances[0], factors[0], count

    def of_precisions(self, precisions: Tensor) -> tuple[Tensor, Tensor]:
        covariances, factors = _invert(precisions[None])
        return covariances[0], factors[0]

    def whitened(self, difference: Tensor, factors: Tensor, k: int) -> Tensor:
        return difference @ factors

    def dimensions(self, components: int, features: int) -> tuple[int, int]:
        return features, components

    def dense(self, covariances: Tensor, components: int, features: int) -> Tensor:
        return covariances.expand(components, -1, -1)

    def of_dense(self, squares: Tensor) -> Tensor:
        return squares.sum(0)

    def narrow(self, means: Tensor, factors: Tensor, dtype: torch.dtype) -> Tensor:
        white = (means @ factors).square().sum(1)
        return (white > _FAR[dtype]).any().expand(len(means))  # one sum of squares for all

    def replaced(self, covariances: Tensor, seeds: Tensor, which: Tensor) -> Tensor:
        return covariances


def _step(features: int) -> int:
    return max(_PART, -(-features // _PARTS))


def _parts(features: int) -> Iterator[tuple[int, int]]:
    r"""Features in a few parts: of a triangle, each needs but what lies before its end."""
    step = _step(features)
    return ((start, min(start + step, features)) for start in range(0, features, step))


def _factor(covariances: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    lower, info = torch.linalg.cholesky_ex(covariances)
    pivots = lower.diagonal(dim1=-2, dim2=-1).square()
    least = covariances.diagonal(dim1=-2, dim2=-1).clamp(min=0) * _EPS * covariances.shape[-1]
    # a pivot of nothing but rounding is no variance
    singular = (info > 0) | ~(pivots > least).all(-1)
    if singular.any():  # rare
        covariances = covariances.clone()
        covariances[singular] = _raised(covariances[singular])
        lower = torch.linalg.cholesky(covariances)
    identity = torch.eye(lower.shape[-1], dtype=lower.dtype, device=lower.device)
    factors = torch.linalg.solve_triangular(lower, identity.expand_as(lower), upper=False).mT
    return covariances, factors.contiguous(), singular.sum()


def _white(means: Tensor, factors: Tensor) -> Tensor:
    return (means[:, None] @ factors)[:, 0]


# squared distances, in standard deviations, up to which a variance that is left of a difference
# of squares is good to 1e-4 and 1e-10, before errors of many data average out
_FAR = {torch.float32: 1e3, torch.float64: 1e6}
_PARTS, _PART = 4, 8
DISTANT = 100.0  # the same for a feature where densities are sums of squares, as scikit-learn's
_EPS = torch.finfo(torch.float64).eps
_LEAST = math.sqrt(_EPS)  # of the variances that are kept, against the largest


def _raised(covariances: Tensor) -> Tensor:
    r"""Covariances of which the small eigenvalues are raised."""
    values, vectors = torch.linalg.eigh(covariances)
    # where nothing varies, the data's own scale, which is about 1, says what is little
    least = (values[..., -1:] * _LEAST).clamp(min=_LEAST**2)
    return vectors @ (torch.maximum(values, least)[..., None] * vectors.mT)


def _invert(precisions: Tensor) -> tuple[Tensor, Tensor]:
    r"""Covariances, NaN where precisions are not positive definite, and factors."""
    lower, info = torch.linalg.cholesky_ex(precisions.flip(-1, -2))
    covariances = torch.cholesky_inverse(lower).flip(-1, -2)
    bad = (info > 0)[..., None, None]
    return torch.where(bad, math.nan, covariances), lower.flip(-1, -2)
