r"""One model, two guides, four objectives, ours and Pyro's: every pair is trained by one call."""

import pyro
import torch
from pyro.infer import RenyiELBO, Trace_ELBO

import pyro_vae
from pyro_vae.data import load
from pyro_vae.guides import AmortizedMultivariateNormal, AmortizedNormal
from pyro_vae.models import VAE
from pyro_vae.objectives import ELBO

data = load("digits")
guides = {"diagonal": AmortizedNormal, "full covariance": AmortizedMultivariateNormal}
objectives = {
    "ELBO()": ELBO(),
    "ELBO(beta=4.0)": ELBO(beta=4.0),
    "Trace_ELBO()": Trace_ELBO(),
    "RenyiELBO(alpha=0, num_particles=3)": RenyiELBO(alpha=0, num_particles=3),
}

print(f"{'objective':37}{'guide':17}  test ELBO   evidence  in nats per datum")
for title, objective in objectives.items():
    for name, kind in guides.items():
        torch.manual_seed(0)
        pyro.clear_param_store()
        model = VAE(data.event_shape, latents=4, likelihood=data.likelihood)
        guide = kind(data.event_shape, sites={"z": 4})
        pyro_vae.fit(
            model, guide, data, objective=objective, epochs=5, validation=False, progress=False
        )
        found = pyro_vae.evaluate(model, guide, data, particles=100)
        print(f"{title:37}{name:17}  {found['elbo']:9.1f}  {-found['nll']:9.1f}")
