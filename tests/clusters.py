r"""Data of several Gaussians, and where EM begins on them."""

from typing import Any

import numpy as np

TYPES = ("full", "tied", "diag", "spherical")
PARAMETERS = ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_")


def clusters(
    separation: float = 3.0, K: int = 4, D: int = 5, size: int = 60, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    r"""Data of K Gaussians with covariances of their own, and the means."""
    random = np.random.RandomState(seed)
    means = separation * random.randn(K, D)
    parts = [mean + random.randn(size, D) @ random.randn(D, D) / 2 for mean in means]
    return np.concatenate(parts), means


def start(form: str, means: np.ndarray, seed: int = 1) -> dict[str, Any]:
    K, D = means.shape
    root = np.random.RandomState(seed).randn(K, D, D) / 3
    full = root @ root.transpose(0, 2, 1) + np.eye(D)
    precisions = {
        "full": full,
        "tied": full[0],
        "diag": np.einsum("kdd->kd", full),
        "spherical": full[:, 0, 0],
    }
    return {
        "covariance_type": form,
        "weights_init": np.arange(1, K + 1) / (K * (K + 1) / 2),
        "means_init": means,
        "precisions_init": precisions[form],
    }
