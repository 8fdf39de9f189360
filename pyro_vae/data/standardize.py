r"""Standardisation: features with mean 0 and standard deviation 1, and the way back."""

__all__ = ["Standardization"]

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from pyro_vae.data.lazy import chunks
from pyro_vae.data.survey import observed_extremes


@dataclass(frozen=True, eq=False)
class Standardization:
    r"""An affine map of each feature that keeps densities comparable.

    .. math::
        x' = \frac{x - \mu}{\sigma} \qquad
        \log p(x) = \log p'(x') - \sum_f \log \sigma_f

    Arguments:
        loc: The means :math:`\mu`, with shape ``event_shape``.
        scale: The standard deviations :math:`\sigma > 0`, with shape ``event_shape``.

    Example:
        >>> standardization = Standardization(torch.tensor([3.0]), torch.tensor([2.0]))
        >>> standardization(torch.tensor([[7.0]]))
        tensor([[2.]])
        >>> standardization.undo(torch.tensor([[2.0]]))
        tensor([[7.]])
    """

    loc: Tensor
    scale: Tensor

    @classmethod
    def of(cls, x: Tensor, which: Tensor) -> Self:
        r"""The standardisation of rows, which leaves some features as they are.

        Arguments:
            x: The rows, with shape :math:`(N, \text{event\_shape})`; NaN does not count.
            which: The features to standardise, with shape ``event_shape``.

        Raises:
            ValueError: If one of them is constant.

        References:
            | Updating Formulae and a Pairwise Algorithm for Computing Sample Variances
              (Chan, Golub & LeVeque, 1979)
            | http://i.stanford.edu/pub/cstr/reports/cs/tr/79/773/CS-TR-79-773.pdf
        """
        count = mean = squares = torch.zeros((), dtype=torch.float64, device=x.device)
        low, high = count + torch.inf, count - torch.inf
        for part in map(Tensor.double, chunks(x)):
            holes = part.isnan()
            rows = (~holes).sum(dim=0)
            average = part.masked_fill(holes, 0.0).sum(dim=0) / rows.clamp(min=1)
            change = average - mean
            within = (part - average).masked_fill(holes, 0.0).square().sum(dim=0)
            share = rows / (count + rows).clamp(min=1)
            squares = squares + within + change.square() * count * share
            mean = mean + change * share
            count = count + rows
            least, greatest = observed_extremes(part)
            low, high = low.minimum(least), high.maximum(greatest)
        # equal numbers may deviate from their mean by rounding
        constant = which & (low >= high)
        if constant.any():
            index = tuple(constant.nonzero()[0].tolist())
            raise ValueError(
                f"expected features that vary among the training rows, got {int(constant.sum())} "
                f"constant ones, the first at {index}; remove them or give standardize=False"
            )

        scale = (squares / count).sqrt()
        if bool((which & ~(scale.isfinite() & (scale > 0))).any()):
            raise ValueError(
                "expected features whose squares are numbers of double precision, got some that "
                "overflow or vanish; rescale them or give standardize=False"
            )
        return cls(
            mean.where(which, torch.zeros_like(mean)), scale.where(which, torch.ones_like(scale))
        )

    def __call__(self, x: Tensor) -> Tensor:
        r"""Standardises ``x``, with shape :math:`(*, \text{event\_shape})`."""
        return (x - self.loc.to(x)) / self.scale.to(x)

    def undo(self, x: Tensor) -> Tensor:
        r"""Maps standardised ``x``, with shape :math:`(*, \text{event\_shape})`, back."""
        return x * self.scale.to(x) + self.loc.to(x)

    def log_jacobians(self, x: Tensor) -> Tensor:
        r"""What is added to each log-density of :math:`x'` to make it one of :math:`x`, in nats.

        Only features that are not missing have a density.

        Arguments:
            x: Rows in either units, with shape :math:`(N, \text{event\_shape})`.

        Returns:
            A tensor with shape :math:`(N)`, in memory.
        """
        scale = self.scale.log().cpu()
        features = (-1, scale.numel())
        parts = [(~part.cpu().isnan() * scale).reshape(features).sum(1) for part in chunks(x)]
        return -torch.cat(parts)
