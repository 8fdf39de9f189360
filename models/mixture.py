r"""Mixtures of any family, with priors of all parameters."""

__all__ = ["BayesianGaussianMixture", "BayesianMixture"]

import pyro
import pyro.distributions as dist
from pyro.nn import PyroModule
from torch import Size, Tensor

from pyro_vae.models.components import Components, GaussianComponents, Prior
from pyro_vae.models.weights import DirichletWeights, Weights
from pyro_vae.nn import plate_size


class BayesianMixture(PyroModule):
    r"""A mixture of components of one family, all of whose parameters have priors.

    .. math::
        \pi \sim p(\pi), \qquad \theta_k \sim p(\theta), \qquad
        c_n \sim \text{Categorical}(\pi), \qquad x_n \mid c_n \sim p(x_n \mid \theta_{c_n})

    The component of each datum is summed out, where it is not asked for. With a point for each
    parameter (:class:`pyro.infer.autoguide.AutoDelta`), what is maximised is the log posterior
    that :mod:`pyro_vae.em` maximises under the same priors. To begin a guide where EM has ended,
    give it ``init_loc_fn=pyro.infer.autoguide.init_to_value(values=…)``, the values by site:
    copies, since steps of the optimiser change them in place.

    Sites: those of ``weights``, outside all plates; those of ``components`` in plate
    ``components``, of size :math:`K`, at dim -1; ``component``, which is enumerated, and ``x``,
    with event shape :math:`(D)`, in plate ``data``, of size :math:`N`, at dim -1.

    Arguments:
        components: The family, with the priors of its parameters
            (:mod:`pyro_vae.models.components`).
        weights: What draws the weights of :math:`K` components, or knows them
            (:mod:`pyro_vae.models.weights`).

    Raises:
        TypeError: If they are something else.

    References:
        | Marginal Likelihood from the Gibbs Output (Chib, 1995)
        | https://doi.org/10.1080/01621459.1995.10476635

    Example:
        Three Gaussians with the same weights.

        >>> from pyro_vae.models.components import SemiconjugateGaussianComponents
        >>> from pyro_vae.models.weights import FixedWeights
        >>> components = SemiconjugateGaussianComponents(features=2)
        >>> model = BayesianMixture(components, FixedWeights([1, 1, 1]))
        >>> model(n=5).shape
        torch.Size([5, 2])
    """

    def __init__(self, components: Components, weights: Weights) -> None:
        super().__init__()
        if not isinstance(getattr(components, "event_shape", None), Size):
            raise TypeError(
                "expected components to be a family of pyro_vae.models.components, as "
                f"GaussianComponents(features=2), got {components!r}"
            )
        if not hasattr(weights, "n_components"):
            raise TypeError(
                "expected weights of pyro_vae.models.weights, as DirichletWeights(3), got "
                f"{weights!r}"
            )
        self.components, self.weights = components, weights

    def forward(self, x: Tensor | None = None, n: int = 1) -> Tensor:
        r"""Observes ``x``, with shape :math:`(N, D)`, or else draws ``n`` samples of it.

        Raises:
            ValueError: If the shape of ``x`` does not end in :math:`N` and :math:`D`.
        """
        size = n if x is None else plate_size(x, self.components.event_shape)
        weights = self.weights()
        with pyro.plate("components", self.weights.n_components, dim=-1):
            observation = self.components()
        with pyro.plate("data", size, dim=-1):
            c = pyro.sample("component", dist.Categorical(weights), infer={"enumerate": "parallel"})
            return pyro.sample("x", observation(c), obs=x)


class BayesianGaussianMixture(PyroModule):
    r"""A mixture of Gaussians with independent features, under its conjugate prior.

    .. math::
        \pi & \sim \text{Dirichlet}(\alpha, \dots, \alpha) \\
        \sigma^2_{kd} & \sim \text{InvGamma}(\nu / 2, \psi_d / 2), \qquad
        \mu_{kd} \mid \sigma^2_{kd} \sim \mathcal{N}(m_d, \sigma^2_{kd} / \kappa) \\
        c_n & \sim \text{Categorical}(\pi), \qquad
        x_{nd} \mid c_n \sim \mathcal{N}(\mu_{c_n d}, \sigma^2_{c_n d})

    It is the :class:`BayesianMixture` of
    :class:`~pyro_vae.models.components.GaussianComponents` and
    :class:`~pyro_vae.models.weights.DirichletWeights`, and the prior is that of
    :class:`pyro_vae.em.GaussianMixture` with ``covariance_type="diag"`` and the same arguments.
    The defaults suit features of mean 0 and variance 1.

    Sites: ``weights``, with event shape :math:`(K)`; ``variances`` and ``means``, with event
    shape :math:`(D)`, in plate ``components``, of size :math:`K`; ``component``, which is
    enumerated, and ``x``, with event shape :math:`(D)`, in plate ``data``, of size :math:`N`.
    Both plates are at dim -1.

    Arguments:
        features: The number of features :math:`D`.
        n_components: The number of components :math:`K`.
        weight_concentration_prior: The :math:`\alpha > 0`; 1 is a uniform prior.
        mean_prior: The :math:`m`, in units of the data: a number or :math:`D` of them.
        mean_precision_prior: The :math:`\kappa > 0`: how many data the prior of a mean counts.
        degrees_of_freedom_prior: The :math:`\nu > 0`.
        covariance_prior: The :math:`\psi > 0`, in squared units of the data.

    Raises:
        ValueError: If an argument is out of range or of another shape.

    Example:
        >>> model = BayesianGaussianMixture(features=2, n_components=3)
        >>> x = model(n=100)
        >>> x.shape
        torch.Size([100, 2])

        A mean-field guide whose means begin at data; to whom new data belong, and their log
        density, an average over the guide's draws of parameters.

        >>> from math import log
        >>> from pyro import poutine
        >>> from pyro.infer.autoguide import AutoNormal, init_to_value
        >>> from pyro_vae import fit, responsibilities
        >>> from pyro_vae.pair import Pair
        >>> start = init_to_value(values={"means": x[:3].clone()})
        >>> guide = AutoNormal(poutine.block(model, hide=["component"]), init_loc_fn=start)
        >>> run = fit(model, guide, x, epochs=2, progress=False)
        >>> new = model(n=5)
        >>> responsibilities(model, guide, new).shape
        torch.Size([5, 3])
        >>> draw = Pair(model, guide).draw((new,), {}, particles=200)
        >>> log_density = draw.log_likelihood.logsumexp(0) - log(200)
        >>> log_density.shape
        torch.Size([5])
    """

    def __init__(
        self,
        features: int,
        n_components: int = 3,
        weight_concentration_prior: float = 1.0,
        mean_prior: Prior = 0.0,
        mean_precision_prior: Prior = 0.1,
        degrees_of_freedom_prior: Prior = 4.0,
        covariance_prior: Prior = 1.0,
    ) -> None:
        super().__init__()
        components = GaussianComponents(
            features, mean_prior, mean_precision_prior, degrees_of_freedom_prior, covariance_prior
        )
        weights = DirichletWeights(n_components, weight_concentration_prior)
        self.mixture = BayesianMixture(components, weights)

    def forward(self, x: Tensor | None = None, n: int = 1) -> Tensor:
        r"""Observes ``x``, with shape :math:`(N, D)`, or else draws ``n`` samples of it.

        Raises:
            ValueError: If the shape of ``x`` does not end in :math:`N` and :math:`D`.
        """
        return self.mixture(x, n)
