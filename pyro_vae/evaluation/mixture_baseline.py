r"""The evidence of a mixture that EM fits: what a deep latent-variable model is compared with."""

__all__ = ["COMPONENTS", "mixture_evidence"]

import warnings
from typing import Any

import torch
from torch import Tensor

from pyro_vae.data.lazy import chunks
from pyro_vae.evaluation.estimate import Estimate
from pyro_vae.likelihoods import Likelihood

COMPONENTS = 10


def mixture_evidence(
    likelihood: Likelihood,
    train: Tensor,
    test: Tensor,
    log_jacobians: Tensor | None = None,
    *,
    n_components: int = COMPONENTS,
    seed: int = 0,
) -> Estimate:
    r"""The exact evidence :math:`\log p(x)` of test data under a mixture fitted by EM.

    .. math:: \log p(x_n) = \log \sum_{k=1}^K \hat\pi_k \prod_{f=1}^F p(x_{nf} \mid \hat\eta_{kf})

    Given the component, features are independent and have the likelihood's family, so that the
    figure compares with that of a VAE of this likelihood. EM begins at clusters of the training
    data and takes at most 100 iterations. Parameters are smoothed as
    :func:`pyro_vae.mixtures.mixture_for` says, so that no value that can occur is impossible.

    Arguments:
        likelihood: The likelihood, of which only the family counts; of the normal ones, scales
            are fitted whatever they do.
        train: The training data, with shape :math:`(N, \text{event\_shape})`.
        test: The test data, with shape :math:`(M, \text{event\_shape})`.
        log_jacobians: What is added to each log-density, to have it in other units, with shape
            :math:`(M)`.
        n_components: The number of components :math:`K`.
        seed: The seed of the clusters.

    Returns:
        The mean over the test data, in nats, with no Monte Carlo error.

    Raises:
        ValueError: If there are fewer data than components, or no mixture of the likelihood.

    Example:
        >>> from pyro_vae.likelihoods import Bernoulli
        >>> x = torch.tensor([[0.0, 0.0], [1.0, 1.0], [1.0, 1.0]]).repeat(20, 1)
        >>> print(mixture_evidence(Bernoulli(), x, x, n_components=2))
        -0.669 ± 0.000 (Monte Carlo) ± 0.044 (data) nats
    """
    # scikit-learn takes seconds, and most of evaluation needs none
    from sklearn.exceptions import ConvergenceWarning

    from pyro_vae.mixtures import mixture_for, vectors

    options: dict[str, Any] = {"covariance_type": "diag"} if not likelihood.discrete else {}
    mixture = mixture_for(likelihood, train, n_components, random_state=seed, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a few more iterations change little
        mixture.fit(vectors(train))
    scores = [mixture.score_samples(vectors(part).double()).cpu() for part in chunks(test)]
    found = Estimate.of(torch.cat(scores), stderr=0.0, seed=seed)
    return found if log_jacobians is None else found.shifted(log_jacobians)
