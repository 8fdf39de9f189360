r"""A mixture of Gaussians, fitted by EM, by gradients and by SVI, from one start.

EM and a guide of points find one peak; mean-field draws lie about p / 2N = 14 / 800 below it.
"""

from time import perf_counter

import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO
from pyro.infer.autoguide import AutoDelta, AutoNormal, init_to_value

from pyro_vae import SVI, em, guides, models, report

K, N = 3, 400
prior = {"weight_concentration_prior": 2.0, "mean_prior": [0.0, 0.0], "mean_precision_prior": 0.1}
prior |= {"degrees_of_freedom_prior": 4.0, "covariance_prior": [1.0, 1.0]}
model = models.BayesianGaussianMixture(features=2, n_components=K, **prior)
torch.manual_seed(14)
x = model(n=N)
start = {"weights": torch.ones(K) / K, "means": x[:K].clone(), "variances": torch.ones(K, 2)}
pyro_loss = TraceEnum_ELBO(num_particles=8, max_plate_nesting=1, vectorize_particles=True)


def guide_at(values, Guide=AutoDelta):  # of all but each datum's component, which is summed out
    return Guide(poutine.block(model, hide=["component"]), init_loc_fn=init_to_value(values=values))


def log_posterior(values):  # but for a constant, in nats per datum
    return -pyro_loss.loss(poutine.condition(model, data=values), guides.Empty(), x) / N


def by_em():
    begin = {"weights_init": start["weights"], "means_init": start["means"], "reg_covar": 0}
    begin["precisions_init"] = 1 / start["variances"]
    found = em.GaussianMixture(K, covariance_type="diag", tol=1e-7, **begin, **prior).fit(x)
    w, m, v = (torch.tensor(a).float() for a in (found.weights_, found.means_, found.covariances_))
    return guide_at({"weights": w, "means": m, "variances": v})


def by_gradients(Guide, loss, lr, steps):
    guide = guide_at(start, Guide)
    svi = SVI(model, guide, lambda p: torch.optim.Adam(p, lr), loss, capture=False)
    for _ in range(steps):  # too few to pay for a compiler
        svi.step(x)
    return guide


fits = {"EM": by_em, "gradients, points": lambda: by_gradients(AutoDelta, None, 0.3, 120)}
fits["SVI, mean-field"] = lambda: by_gradients(AutoNormal, pyro_loss, 0.05, 200)
mixtures = {}
print("log posterior per datum   of the median   of draws   seconds")
for name, fit in fits.items():
    begin, guide, end = perf_counter(), fit(), perf_counter()
    median, draws = guide.median(x), [log_posterior(guide(x)) for _ in range(100)]
    print(f"{name:23}{log_posterior(median):16.5f}{sum(draws) / 100:11.5f}{end - begin:10.2f}")
    mixtures[name] = tuple(median[site] for site in start)
report.save(report.contours(x, mixtures, f"{N} data, {K} Gaussians"), "gmm_em_vs_svi.png")
