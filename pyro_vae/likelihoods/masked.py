r"""The likelihood of data with missing features."""

__all__ = ["Masked"]

from typing import ClassVar

from pyro.distributions import Independent, TorchDistribution
from torch import Size, Tensor, nn

from pyro_vae.distributions import PartlyObserved, unwrapped
from pyro_vae.likelihoods.protocol import Likelihood


class Masked(nn.Module):
    r"""Another likelihood, of the features that are observed: those that are not NaN.

    .. math:: \log p(x) = \sum_{f \, \text{observed}} \log p(x_f)

    It is the likelihood of what is observed where a feature is missing for reasons that do not
    depend on its value (missing at random). The encoder needs numbers in place of NaN:
    :class:`pyro_vae.nn.Filled`. Bits per dimension are not defined, since features differ in
    number from datum to datum.

    Arguments:
        likelihood: The other likelihood, of independent features.

    Raises:
        ValueError: When called, if the features are not independent.

    References:
        | MIWAE: Deep Generative Modelling and Imputation of Incomplete Data Sets
          (Mattei & Frellsen, 2019)
        | https://arxiv.org/abs/1812.02633

    Example:
        >>> import torch
        >>> from pyro_vae.likelihoods import Normal
        >>> fn = Masked(Normal())(torch.zeros(3), Size([3]))
        >>> fn.log_prob(torch.tensor([0.0, torch.nan, torch.nan]))
        tensor(-0.9189)
    """

    discrete: ClassVar[bool] = False

    def __init__(self, likelihood: Likelihood) -> None:
        super().__init__()
        self.likelihood = likelihood

    @property
    def parameters_per_feature(self) -> int:
        r"""The other likelihood's."""
        return self.likelihood.parameters_per_feature

    def forward(self, outputs: Tensor, event_shape: Size) -> TorchDistribution:
        r"""Maps outputs with shape :math:`(*, P F)` to a distribution over ``event_shape``."""
        fn = unwrapped(self.likelihood(outputs, event_shape), Independent)
        features: TorchDistribution = PartlyObserved(fn)
        return features.to_event(len(event_shape))

    def extra_repr(self) -> str:
        r"""Names a likelihood that is no module, which torch would leave out."""
        return "" if isinstance(self.likelihood, nn.Module) else repr(self.likelihood)
