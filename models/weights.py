r"""Weights of mixtures, with priors or without."""

__all__ = ["DirichletWeights", "FixedWeights", "Weights"]

from collections.abc import Sequence
from typing import Protocol

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor

from pyro_vae.counts import check_counts, check_positive


class Weights(Protocol):
    r"""A program that draws the weights of :math:`K` components, outside all plates."""

    @property
    def n_components(self) -> int: ...

    def __call__(self) -> Tensor:
        r"""Draws the weights, with shape :math:`(*, K)`."""
        ...


class DirichletWeights(PyroModule):
    r"""Weights with a symmetric Dirichlet prior.

    .. math:: \pi \sim \text{Dirichlet}(\alpha, \dots, \alpha)

    Site: ``weights``, with event shape :math:`(K)`.

    Arguments:
        n_components: The number of components :math:`K`.
        weight_concentration_prior: The :math:`\alpha > 0`; 1 is a uniform prior.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> DirichletWeights(3)().shape
        torch.Size([3])
    """

    def __init__(self, n_components: int, weight_concentration_prior: float = 1.0) -> None:
        super().__init__()
        check_counts(n_components=n_components)
        check_positive(weight_concentration_prior=weight_concentration_prior)
        self.n_components = n_components
        alpha = torch.as_tensor(weight_concentration_prior, dtype=torch.get_default_dtype())
        self.register_buffer("weight_concentration_prior", alpha.repeat(n_components))

    def forward(self) -> Tensor:
        r"""Draws the weights."""
        return pyro.sample("weights", dist.Dirichlet(self.weight_concentration_prior))


class FixedWeights(PyroModule):
    r"""Weights that are known.

    Arguments:
        weights: The :math:`K` positive weights, which are divided by their sum.

    Raises:
        ValueError: If they are not positive numbers.

    Example:
        >>> FixedWeights([1, 1, 2])()
        tensor([0.2500, 0.2500, 0.5000])
    """

    def __init__(self, weights: Sequence[float] | Tensor) -> None:
        super().__init__()
        numbers = torch.as_tensor(weights, dtype=torch.get_default_dtype())
        positive = (numbers > 0) & numbers.isfinite()
        if numbers.dim() != 1 or not len(numbers) or not positive.all():
            raise ValueError(f"expected a list of positive weights, got {weights}")
        self.n_components = len(numbers)
        self.register_buffer("weights", numbers / numbers.sum())

    def forward(self) -> Tensor:
        r"""Returns the weights."""
        return self.weights
