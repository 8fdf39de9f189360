r"""Densities and moments of Gaussian components, for all of them at once where digits allow it."""

__all__ = ["GaussianKernel", "recentred"]

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_vae.em.coordinates import Coordinates
from pyro_vae.em.covariances import Covariances
from pyro_vae.em.family import Kernel, Sums


class Features(NamedTuple):
    r"""Data with shape :math:`(B, D)`, the same in coordinates, and what a form makes of these.

    The last two are there if a component takes them.
    """

    x: Tensor
    u: Tensor | None
    columns: Tensor | None


class GaussianKernel(Kernel):
    r"""Gaussian components, of which careful ones are treated one by one.

    Data are treated as they are, and so a few products of matrices do for all components:

    .. math::
        \log p(x_b \mid k) = c_k - \tfrac{1}{2} \| U_k^\top u_b - U_k^\top \mu_k \|^2, \qquad
        S_k = \sum_b r_{kb} \, (u_b, u_b u_b^\top)

    That loses digits where a component is much narrower than it is far from the origin. Such
    components are careful, and treated by differences from their means.

    Arguments:
        form: The form of the covariances.
        coordinates: Where the components are.
        means: With shape :math:`(K, D)`, in double precision.
        factors: The factors of the inverse covariances.
        careful: Which components are treated one by one, with shape :math:`(K)`.
        dtype: The type of the data.
    """

    def __init__(
        self,
        form: Covariances,
        coordinates: Coordinates,
        means: Tensor,
        factors: Tensor,
        careful: Tensor,
        dtype: torch.dtype,
    ) -> None:
        K, D = means.shape
        self.form, self.coordinates, self.means = form, coordinates, means
        self.careful = [k for k, slow in enumerate(careful.tolist()) if slow]
        self.fast = len(self.careful) < K
        normal = form.log_scale(factors, D) + coordinates.scale.log().sum() - 0.5 * _LOG_2PI * D
        self.prepared = form.prepared(means, factors, dtype)
        self.normal, self.factors = normal.expand(K).to(dtype)[:, None], factors.to(dtype)
        # close by a number of that type its difference from another is exact; the rest is added
        self.near, self.scale = coordinates.leave(means).to(dtype), coordinates.scale.to(dtype)
        self.about = torch.where(careful[:, None], coordinates.enter(self.near.double()), 0.0)
        apart = self.about - means
        white = [form.whitened(apart[k], factors, k) for k in range(K)]
        self.rest = torch.stack(white).to(dtype)

    def features(self, x: Tensor) -> Features:
        if not self.fast:
            return Features(x, None, None)
        u = self.coordinates.enter(x)
        return Features(x, u, self.form.columns(u))

    def log_density(self, features: Features) -> Tensor:
        x, _, columns = features
        if columns is None:
            squares = x.new_empty(len(self.means), len(x))
        else:
            squares = self.form.squares(columns, self.prepared)
        for k in self.careful:
            white = self.form.whitened(self._difference(x, k), self.factors, k) + self.rest[k]
            torch.linalg.vecdot(white, white, out=squares[k])
        return squares.mul_(-0.5).add_(self.normal)

    def statistics(self, features: Features, r: Tensor) -> Sums:
        x, u, columns = features
        sums: Sums = (r.sum(1).double(),)
        if u is not None and columns is not None:
            sums += self.form.moments(columns, u, r)
        if not self.careful:
            return sums
        first = torch.zeros_like(self.means)
        second = first.new_zeros(self.form.shape(*first.shape))
        for k in self.careful:
            difference = self._difference(x, k)
            first[k] = r[k] @ difference
            self.form.put(second, k, self.form.scatter(difference, r[k]))
        return (*sums, first, second)

    def _difference(self, x: Tensor, k: int) -> Tensor:
        return (x - self.near[k]).mul_(self.scale)

    def collect(self, sums: Sums) -> Sums | None:
        counts, *rest = sums
        if not self.fast:
            first, second = rest
        else:
            first, second = self.form.unpacked(
                tuple(rest[:-2] if self.careful else rest), self.means.shape[1]
            )
            shift = first / counts.clamp(min=_TINY)[:, None]
            within = second - self.form.outer(counts[:, None] * shift, shift)
            if self._lost(second, within):
                return None
            if self.careful:
                first[self.careful] = rest[-2][self.careful]
                second[self.careful] = rest[-1][self.careful]
        return recentred(self.form, (counts, first, second), self.means - self.about)

    def _lost(self, second: Tensor, within: Tensor) -> bool:
        r"""Whether too few digits are left of squares about the mean.

        That happens where a component has become much narrower than it was.
        """
        K, D = self.means.shape
        raw = self.form.dense(second, K, D).diagonal(dim1=1, dim2=2)
        left = self.form.dense(within, K, D).diagonal(dim1=1, dim2=2)
        lost = (left < raw * (_LOSS * torch.finfo(self.near.dtype).eps)).any(1)
        lost[self.careful] = False
        return bool(lost.any())


def recentred(form: Covariances, sums: Sums, by: Tensor) -> Sums:
    r"""Moments about points that lie ``by`` further, with shape :math:`(K, D)`."""
    counts, first, second = sums
    weighted = counts[:, None] * by
    moved = second - 2 * form.outer(first, by) + form.outer(weighted, by)
    return counts, first - weighted, moved


_LOG_2PI = math.log(2 * math.pi)
_TINY = torch.finfo(torch.float64).tiny
_LOSS = 1e4  # times the precision of the data: a variance is good to this part at least
