r"""What stands in for torch's own while programs are traced gives what torch gives."""

from functools import partial

import pyro
import pytest
import torch
from captures import traced
from pyro import poutine
from pyro.infer.autoguide import AutoNormal
from torch.distributions import transforms

from pyro_vae import SVI
from pyro_vae.models import BayesianMixture
from pyro_vae.models.components import FullGaussianComponents
from pyro_vae.models.weights import DirichletWeights
from pyro_vae.objectives import ELBO
from pyro_vae.traceable import traceable


@pytest.mark.parametrize("size", [2, 3, 6])
def test_correlations_are_torchs(size: int) -> None:
    transform = transforms.CorrCholeskyTransform()
    x = torch.randn(4, 3, size * (size - 1) // 2)
    y = transform(x)
    inverse, jacobian = transform.inv(y), transform.log_abs_det_jacobian(x, y)

    with traceable():
        found = transforms.CorrCholeskyTransform()
        assert found(x).equal(y)
        assert found.inv(y.clone()).equal(inverse)
        assert found.log_abs_det_jacobian(x, y).equal(jacobian)


def test_correlations_are_captured() -> None:
    found = []
    for capture in (False, True):
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        model = BayesianMixture(FullGaussianComponents(3), DirichletWeights(2))
        x = torch.randn(9, 3)
        guide = AutoNormal(poutine.block(model, hide=["component"]), init_scale=0.1)
        optim = partial(torch.optim.SGD, lr=1e-2)
        svi = traced(SVI(model, guide, optim, ELBO(), reduction="mean", capture=capture))
        losses = []
        for seed in range(3):
            pyro.set_rng_seed(seed)
            losses.append(svi.step(x))
        found.append(torch.stack(losses))
    torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=0)
