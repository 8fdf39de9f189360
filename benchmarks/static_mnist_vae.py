r"""The small VAE on static binarised MNIST: test bound and evidence beside the expected ones.

    PYRO_VAE_DATA=../shared/data uv run benchmarks/static_mnist_vae.py

128 latents, one hidden ReLU layer of 256 each way, batches of 128, Adam at 1e-3, 76 epochs
(29,716 steps), last weights; the evidence by 1,000 particles on the whole test set.
"""

import argparse
import platform
import time
from importlib.metadata import version

import torch

import pyro_vae
from pyro_vae.data import load
from pyro_vae.guides import AmortizedNormal
from pyro_vae.models import VAE
from pyro_vae.nn import mlp

EXPECTED = {"elbo": -101.5, "evidence": -95.0}  # at least; by hand in torch -100.2 and -93.8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=76)
    parser.add_argument("--particles", type=int, default=1000)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    data = load("static-mnist")
    torch.manual_seed(options.seed)
    model = VAE(data.event_shape, 128, data.likelihood, mlp(128, 784, (256,)))
    guide = AmortizedNormal(data.event_shape, {"z": 128}, mlp(784, 256, (256,)))

    start = time.perf_counter()
    run = pyro_vae.fit(
        model,
        guide,
        data,
        epochs=options.epochs,
        batch_size=128,
        device=options.device,
        seed=options.seed,
        validation=False,
    )
    trained = time.perf_counter()
    found = pyro_vae.evaluate(model, guide, data, particles=options.particles, seed=options.seed)
    evaluated = time.perf_counter()

    steps = int(run.history[-1]["step"])
    print(f"| {steps} steps, K = {options.particles} | nats | Monte Carlo | data | at least |")
    print("|---|---|---|---|---|")
    for name, estimate in (("elbo", found["elbo"]), ("evidence", -found["nll"])):
        errors = f"{estimate.stderr:.3f} | {estimate.data_stderr:.2f}"
        print(f"| test {name} | {estimate:.2f} | {errors} | {EXPECTED[name]} |")
    print(
        f"\ntraining {trained - start:.0f} s ({(trained - start) / steps * 1e3:.2f} ms a step), "
        f"evaluation {evaluated - trained:.0f} s; {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}, Pyro {version('pyro-ppl')}, Python {platform.python_version()}"
    )


if __name__ == "__main__":
    main()
