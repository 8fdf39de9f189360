r"""How many clusters? Partitions drawn by Gibbs sampling say so, and how sure that is.

Once for data of four clusters, and for the velocities of galaxies where PYRO_VAE_DATA has them;
beside it scikit-learn's variational answer under the same priors, which is a single number.
"""

import os
from pathlib import Path

import numpy as np
from sklearn.mixture import BayesianGaussianMixture

from pyro_vae.gibbs import NormalInverseGamma, collapsed_gibbs
from pyro_vae.report import co_clustering, save

random = np.random.default_rng(0)
data = {"four clusters": np.repeat([-8.0, -3.0, 2.0, 8.0], 20) + random.normal(size=80)}
path = Path(os.environ.get("PYRO_VAE_DATA", ".")) / "galaxies" / "galaxies.csv"
if path.exists():
    data["galaxies"] = np.loadtxt(path, skiprows=1)  # the 78th: 26,960 km/s here, elsewhere 26,690

# means about as wide as the data, variances about a twentieth of theirs; the concentration has
# a gamma prior with mean 1 / 10, since the process makes new small clusters readily
components = NormalInverseGamma(0.0, 0.05, degrees_of_freedom_prior=6.0, covariance_prior=0.2)
print(f"{'data':15}{'clusters: probability':56}{'typical draw':14}scikit-learn")
for name, x in data.items():
    x = np.sort((x - x.mean()) / x.std())[:, None]
    found = collapsed_gibbs(x, components, draws=150, burn_in=50, concentration=(1.0, 10.0))
    p, error = found.number_of_clusters()
    likely = sorted(np.argsort(p)[-4:])
    row = "  ".join(f"{k}: {p[k]:.2f}±{error[k]:.2f}" for k in likely)
    typical = found.consensus().max() + 1  # without the small clusters that come and go

    same = {"mean_prior": [0.0], "mean_precision_prior": 0.05, "degrees_of_freedom_prior": 6.0}
    same |= {"covariance_prior": [[0.2]], "weight_concentration_prior": 0.1, "random_state": 0}
    theirs = BayesianGaussianMixture(n_components=20, max_iter=2000, **same).fit(x)
    print(f"{name:15}{row:56}{typical:<14}{np.unique(theirs.predict(x)).size}")
    figure = co_clustering(found.co_clustering(), f"{name.capitalize()}: how often two are one")
    save(figure, f"{name.replace(' ', '_')}.png")
