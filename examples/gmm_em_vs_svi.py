r"""A mixture of Gaussians, fitted by EM, by gradients and by SVI, from one start.

EM and a guide of points find the same peak; mean-field expects about p / 2N = 14 / 800 below it.
"""

from functools import partial
from time import perf_counter

import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO
from pyro.infer.autoguide import AutoDelta, AutoNormal, init_to_value

from pyro_vae import SVI, em, report
from pyro_vae.models import BayesianGaussianMixture
from pyro_vae.pair import Pair

K, N = 3, 400
prior = {"weight_concentration_prior": 2.0, "mean_precision_prior": 0.1, "mean_prior": [0.0, 0.0]}
prior |= {"degrees_of_freedom_prior": 4.0, "covariance_prior": [1.0, 1.0]}
model = BayesianGaussianMixture(2, K, **prior)
torch.manual_seed(14)
x = model(n=N)
start = {"weights": torch.ones(K) / K, "means": x[:K].clone(), "variances": torch.ones(K, 2)}


def at(values, Guide=AutoDelta):
    return Guide(poutine.block(model, hide=["component"]), init_loc_fn=init_to_value(values=values))


def by_em():
    begin = {"weights_init": start["weights"], "means_init": start["means"], "reg_covar": 0}
    begin |= {"precisions_init": 1 / start["variances"], "covariance_type": "diag", "tol": 1e-7}
    found = em.GaussianMixture(K, max_iter=1000, **begin, **prior).fit(x)
    arrays = zip(start, (found.weights_, found.means_, found.covariances_), strict=True)
    return at({site: torch.from_numpy(array).float() for site, array in arrays}), found.n_iter_


def by_gradients(Guide, loss, lr, steps):
    guide = at(start, Guide)
    svi = SVI(model, guide, partial(torch.optim.Adam, lr=lr), loss, capture=False)
    for _ in range(steps):  # too few to pay for a compiler
        svi.step(x)
    return guide, steps


ways, mixtures = {"EM": by_em}, {}
enum = TraceEnum_ELBO(8, max_plate_nesting=1, vectorize_particles=True)
ways["gradients, points"] = partial(by_gradients, AutoDelta, None, 0.3, 120)
ways["SVI, mean-field"] = partial(by_gradients, AutoNormal, enum, 0.05, 200)
print(f"{'nats per datum':18}{'peak':>10}{'expected':>10}{'bound':>10}  seconds  steps")
for name, fit in ways.items():
    begin, (guide, steps), end = perf_counter(), fit(), perf_counter()
    values, draw = guide.median(x), Pair(model, guide).draw((x,), {}, particles=500)
    peak = Pair(model, at(values)).draw((x,), {}).log_joint.mean()
    print(f"{name:18}{peak:10.5f}{draw.log_joint.mean():10.5f}", end="")
    print(f"{draw.log_weights.mean():10.5f}{end - begin:9.2f}{steps:7}")
    mixtures[name] = tuple(values[site] for site in start)
report.save(report.contours(x, mixtures, f"{N} data, {K} Gaussians"), "gmm_em_vs_svi.png")
