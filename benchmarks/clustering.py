r"""Unsupervised clustering of MNIST.

    PYRO_VAE_DATA=../shared/data uv run benchmarks/clustering.py --threads 1

Ten clusters of the 50,000 training images, found without labels; the accuracy on the 10,000 test
images under the best one-to-one matching: by EM on pixels, by EM on the latents of a plain VAE, and
by a VAE whose prior is that mixture at first. All but the Gaussians on pixels see binary images.
With --control also by EM on the latents of the plain VAE after as many epochs as the mixture VAE.
"""

import argparse
import copy
import math
import platform
import time
import warnings
from collections.abc import Iterator
from functools import partial
from importlib.metadata import version

import torch
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

import pyro_vae
from pyro_vae import responsibilities
from pyro_vae.data import Data, load
from pyro_vae.em import BernoulliMixture, GaussianMixture
from pyro_vae.evaluation import clustering_accuracy, encode
from pyro_vae.guides import AmortizedNormal
from pyro_vae.models import VAE, MixtureVAE
from pyro_vae.nn import mlp
from pyro_vae.objectives import ELBO

K = 10


def on_pixels(data: Data, seed: int) -> Iterator[tuple[str, Tensor]]:
    r"""The clusters of test images by mixtures of pixels, by name."""
    grey, grey_test = (fields["x"].flatten(1) for fields in (data.train, data.test))
    x, test = (drawn(data, split, seed).flatten(1) for split in ("train", "test"))
    bernoulli = BernoulliMixture(K, probability_prior=1.1, random_state=seed)
    yield "EM on pixels, Bernoulli", bernoulli.fit(x).predict(test)
    gaussian = GaussianMixture(K, covariance_type="diag", reg_covar=1e-2, random_state=seed)
    yield "EM on pixels, Gaussian", gaussian.fit(grey).predict(grey_test)


def on_latents(data: Data, seed: int, options: argparse.Namespace) -> Iterator[tuple[str, Tensor]]:
    r"""The clusters of test images by a mixture of latents, and by a VAE that begins with it."""
    torch.manual_seed(seed)
    widths, D = tuple(options.hidden), options.latents
    vae = VAE(data.event_shape, D, data.likelihood, partial(mlp, hidden=widths[::-1]))
    guide = AmortizedNormal(data.event_shape, {"z": D}, partial(mlp, hidden=widths))
    fit = partial(
        pyro_vae.fit,
        data=data,
        optimizer=partial(torch.optim.Adam, lr=options.rate),
        batch_size=128,
        device=options.device,
        validation=False,
        capture=True,
    )
    fit_vae = partial(fit, objective=ELBO(beta=options.beta))
    fit_vae(vae, guide, epochs=options.before, seed=seed)
    longer = copy.deepcopy((vae, guide))
    mixture, clusters = of_latents(vae, guide, data, seed)
    yield "EM on latents", clusters

    model = MixtureVAE(data.event_shape, D, K, data.likelihood, vae.decoder)
    model.begin_at(mixture.weights_, mixture.means_, mixture.covariances_)
    fit(model, guide, epochs=options.epochs, seed=seed + 1)
    yield "MixtureVAE", responsibilities(model, guide, data, seed=seed).argmax(-1)

    if options.control:
        fit_vae(*longer, epochs=options.epochs, seed=seed + 1)
        yield "EM on latents, as many epochs", of_latents(*longer, data, seed)[1]


def drawn(data: Data, split: str, seed: int) -> Tensor:
    r"""The images of a split, binarised."""
    return data.epoch(split, torch.Generator().manual_seed(seed))["x"]


def of_latents(
    vae: VAE, guide: AmortizedNormal, data: Data, seed: int
) -> tuple[GaussianMixture, Tensor]:
    r"""The best of ten mixtures of what the guide draws for the training images, and clusters."""
    z = encode(vae, guide, drawn(data, "train", seed), draws=1, seed=seed)["z"][0]
    mixture = GaussianMixture(
        K, covariance_type="diag", n_init=10, max_iter=300, random_state=seed
    ).fit(z)
    return mixture, mixture.predict(encode(vae, guide, drawn(data, "test", seed))["z"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--before", type=int, default=10, help="epochs of the plain VAE")
    parser.add_argument("--epochs", type=int, default=20, help="epochs of the mixture VAE")
    parser.add_argument("--beta", type=float, default=1.0, help="weight of the plain VAE's KL")
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--latents", type=int, default=10)
    parser.add_argument("--hidden", type=int, nargs="+", default=[500])
    parser.add_argument("--control", action="store_true", help="train the plain VAE longer, too")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore", ConvergenceWarning)

    data = load("mnist", binarization="dynamic")
    begin, found = time.perf_counter(), dict[str, list[float]]()
    for seed in range(options.seeds):
        for method in (on_pixels(data, seed), on_latents(data, seed, options)):
            for name, clusters in method:
                accuracy = 100 * float(clustering_accuracy(data.test["y"], clusters.cpu()))
                found.setdefault(name, []).append(accuracy)
                seconds = time.perf_counter() - begin
                print(f"seed {seed}, {name}: {accuracy:.2f} % ({seconds:.0f} s)", flush=True)

    print("\n| test images in the right cluster, % | mean ± error | by seed |")
    print("|---|---|---|")
    for name, values in found.items():
        mean, spread = torch.tensor(values).mean(), torch.tensor(values).std()
        each = ", ".join(f"{value:.1f}" for value in values)
        error = spread / math.sqrt(len(values))
        print(f"| {name} | {mean:.1f} ± {error:.1f} | {each} |")
    print(
        f"\n{options.threads} threads, torch {torch.__version__}, Pyro {version('pyro-ppl')}, "
        f"Python {platform.python_version()}"
    )


if __name__ == "__main__":
    main()
