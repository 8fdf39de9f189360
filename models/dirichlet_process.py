r"""The Dirichlet-process mixture, truncated: as many components as the data ask for."""

__all__ = ["DirichletProcessMixture", "StickBreakingWeights"]

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor

from pyro_vae.counts import check_counts
from pyro_vae.distributions import StickBreaking
from pyro_vae.models.components import Components
from pyro_vae.models.mixture import BayesianMixture


class StickBreakingWeights(PyroModule):
    r"""Weights of a Dirichlet process of unknown concentration, truncated.

    .. math::
        \alpha \sim \text{Gamma}(a, b), \qquad
        \pi \mid \alpha \sim \text{StickBreaking}(\alpha)

    Sites: ``concentration``, a number, and ``weights``, with event shape :math:`(K)`.

    Arguments:
        n_components: The number of components :math:`K` at which it is truncated.
        concentration_prior: The shape :math:`a > 0` and the rate :math:`b > 0`.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> StickBreakingWeights(5)().shape
        torch.Size([5])
    """

    def __init__(
        self, n_components: int = 20, concentration_prior: tuple[float, float] = (1.0, 1.0)
    ) -> None:
        super().__init__()
        check_counts(n_components=n_components)
        prior = torch.as_tensor(concentration_prior, dtype=torch.get_default_dtype())
        if prior.shape != (2,) or not ((prior > 0) & prior.isfinite()).all():
            raise ValueError(
                f"expected concentration_prior to be two positive numbers, a shape and a rate, got "
                f"{concentration_prior!r}"
            )
        self.n_components = n_components
        self.register_buffer("concentration_prior", prior)

    def forward(self) -> Tensor:
        r"""Draws the weights."""
        concentration = pyro.sample("concentration", dist.Gamma(*self.concentration_prior))
        return pyro.sample("weights", StickBreaking(concentration, self.n_components))


class DirichletProcessMixture(PyroModule):
    r"""A mixture whose data say how many of its components they need.

    .. math::
        \alpha & \sim \text{Gamma}(a, b), \qquad \pi \sim \text{StickBreaking}(\alpha), \qquad
        \theta_k \sim p(\theta) \\
        c_n & \sim \text{Categorical}(\pi), \qquad x_n \mid c_n \sim p(x_n \mid \theta_{c_n})

    It is the :class:`BayesianMixture` of any family and :class:`StickBreakingWeights`. The
    component of each datum is summed out. With a number of components :math:`K` far above what
    :math:`N` data need, about :math:`\alpha \log(1 + N / \alpha)`, it is the Dirichlet-process
    mixture whose partitions :func:`pyro_vae.gibbs.collapsed_gibbs` draws, without truncation and
    without a guide, where components are conjugate. A concentration that is known is
    ``pyro.condition(model, data={"concentration": torch.tensor(1.0)})``.

    Sites: ``concentration`` and ``weights``, the latter with event shape :math:`(K)`, outside all
    plates; those of ``components`` in plate ``components``, of size :math:`K`, at dim -1;
    ``component``, which is enumerated, and ``x``, with event shape :math:`(D)`, in plate ``data``,
    of size :math:`N`, at dim -1.

    Arguments:
        components: The family, with the priors of its parameters
            (:mod:`pyro_vae.models.components`).
        n_components: The number of components :math:`K` at which it is truncated.
        concentration_prior: The shape :math:`a > 0` and the rate :math:`b > 0`.

    Raises:
        TypeError: If ``components`` are no such family.
        ValueError: If another argument is out of range.

    References:
        | Variational Inference for Dirichlet Process Mixtures (Blei & Jordan, 2006)
        | https://doi.org/10.1214/06-BA104

    Example:
        >>> from pyro_vae.models.components import PoissonComponents
        >>> model = DirichletProcessMixture(PoissonComponents(features=2))
        >>> model(n=5).shape
        torch.Size([5, 2])
    """

    def __init__(
        self,
        components: Components,
        n_components: int = 20,
        concentration_prior: tuple[float, float] = (1.0, 1.0),
    ) -> None:
        super().__init__()
        weights = StickBreakingWeights(n_components, concentration_prior)
        self.mixture = BayesianMixture(components, weights)

    def forward(self, x: Tensor | None = None, n: int = 1) -> Tensor:
        r"""Observes ``x``, with shape :math:`(N, D)`, or else draws ``n`` samples of it.

        Raises:
            ValueError: If the shape of ``x`` does not end in :math:`N` and :math:`D`.
        """
        return self.mixture(x, n)
