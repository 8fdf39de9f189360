r"""Pyro's own ELBO objects, with the weight of global latents that ours have."""

__all__ = ["PyroLoss"]

from typing import Any

from pyro import poutine
from pyro.infer import (
    ELBO,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
    TraceTMC_ELBO,
)
from pyro.poutine.messenger import Messenger

from pyro_vae.layout import Layout, check_pooled
from pyro_vae.programs import Program

# losses that are linear in the log-densities: a factor there is a factor in the loss
_LINEAR = (Trace_ELBO, TraceMeanField_ELBO, TraceEnum_ELBO, TraceGraph_ELBO)


class _DataPlate(Messenger):
    r"""Notes the data plate's sizes; scales the sites inside to the whole data if asked to.

    A plate that is a subsample scales them itself.
    """

    def __init__(self, plate: str | None, data_size: int | None, scales: bool) -> None:
        super().__init__()
        self.plate, self.data_size, self.scales = plate, data_size, scales
        self.size = self.full_size = 1
        self.subsampled = False

    def _pyro_sample(self, msg: Any) -> None:
        for frame in msg["cond_indep_stack"]:
            if frame.name == self.plate:
                self.size, self.full_size = frame.size, frame.full_size or frame.size
                self.subsampled = self.size != self.full_size
                if self.scales and self.data_size is not None and not self.subsampled:
                    msg["scale"] = msg["scale"] * self.data_size / frame.size


class PyroLoss:
    r"""A ``pyro.infer.ELBO`` object's loss, as that of the whole data of :math:`N`.

    .. math::
        -\frac{N}{B} \sum_{n=1}^B \mathbb{E}[\log p(x_n, z_n \mid w) - \log q(z_n)]
        - \mathbb{E}[\log p(w) - \log q(w)]

    In plain Pyro the local terms of a batch of :math:`B` lack the factor, unless the data plate
    is a subsample of a larger one.

    Arguments:
        elbo: The object.
        layout: The pair's structure.
        data_size: The number of data :math:`N`, or ``None`` if each batch is all there is.

    Raises:
        ValueError: If sites are to be summed out and the object cannot.
    """

    def __init__(self, elbo: ELBO, layout: Layout, data_size: int | None) -> None:
        if layout.enumerated and not isinstance(elbo, (TraceEnum_ELBO, TraceTMC_ELBO)):
            raise ValueError(
                f"expected an objective that sums out {sorted(layout.enumerated)}, got "
                f"{type(elbo).__name__}, which would draw them from the prior: use ELBO() or "
                "TraceEnum_ELBO()"
            )
        self.elbo, self.layout, self.data_size = elbo, layout, data_size

    def __call__(
        self, method: str, model: Program, guide: Program, args: Any, kwargs: Any
    ) -> tuple[Any, float, int, int]:
        r"""Calls ``loss``, ``differentiable_loss`` or ``loss_and_grads``.

        Returns:
            What came back, the factor still missing in it and in its gradients, and the numbers
            of data in the batch and in all.

        Raises:
            ValueError: If there are global latents, the batch is not the whole data, and the
                object's loss is not linear in the log-densities, so that no factor is right; if
                the guide holds local latents in a global site, and the batch is not the whole.
        """
        linear = isinstance(self.elbo, _LINEAR)
        plate = _DataPlate(self.layout.plate, self.data_size, linear)
        with poutine.block():
            result = getattr(self.elbo, method)(plate(model), plate(guide), *args, **kwargs)
        size = plate.full_size if plate.subsampled else self.data_size or plate.full_size
        check_pooled(self.layout, plate.size, size)
        if linear or size == plate.full_size:
            return result, 1.0, plate.size, size
        if self.layout.shared:
            raise ValueError(
                f"expected local latents only, or the whole data in one batch, for "
                f"{type(self.elbo).__name__}, got global latents {sorted(self.layout.shared)} and "
                f"a batch of {plate.size} of {size} data: use ELBO() or Trace_ELBO()"
            )
        return result, size / plate.size, plate.size, size
