r"""The guide of models whose latents are all summed out."""

__all__ = ["Empty"]

from typing import Any

from pyro.nn import PyroModule


class Empty(PyroModule):
    r"""A guide that draws nothing, for a model without latents but those that are summed out.

    Where every latent is enumerated, the bound is the evidence, and no draw has an error:

    .. math:: \mathcal{L}(x_n) = \log \sum_k p(k) \, p(x_n \mid k) = \log p(x_n)

    Sites: none.

    Example:
        >>> import torch
        >>> from pyro_vae import evaluate
        >>> from pyro_vae.models import FiniteMixture
        >>> model = FiniteMixture((4,), n_components=2)
        >>> evaluate(model, Empty(), torch.eye(4))["nll"].stderr
        0.0
    """

    def forward(self, *args: Any, **kwargs: Any) -> None:
        r"""Takes what the model takes, and draws nothing."""
