r"""What scikit-learn's estimators take as data, and more, as rows."""

__all__ = ["as_rows", "like"]

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import _check_feature_names, _check_sample_weight, validate_data
from torch import Tensor

from pyro_vae.devices import find_device
from pyro_vae.em.rows import Batches, Rows, Table, first_of


def as_rows(estimator: Any, X: Any, sample_weight: Any = None, reset: bool = False) -> Rows:
    r"""The rows of an array, a tensor, a .npy file, or of batches that can be gone through anew.

    Arguments:
        estimator: An estimator with a ``device``, which learns or compares the number of features.
        X: The data.
        sample_weight: How often each row counts, with shape :math:`(N)`.
        reset: Whether the estimator learns it.

    Raises:
        TypeError: If the data can be gone through only once.
        ValueError: If they are no numbers with shape :math:`(N, D)`, or weights are not for them.
    """
    if isinstance(X, str | Path):
        X = _mapped(Path(X))
    if _is_batches(X):
        return _batches(estimator, X, sample_weight, reset)
    if isinstance(X, Tensor):
        _check_tensor(X)
        _count_features(estimator, X, reset)
        x: np.ndarray | Tensor = X.detach()
    else:
        x = validate_data(estimator, X, reset=reset, ensure_all_finite=False)
    weights = None
    if sample_weight is not None:
        weight = sample_weight.cpu().numpy() if isinstance(sample_weight, Tensor) else sample_weight
        stand_in = np.empty((len(x), 1))  # its length and type are looked at
        weights = _check_sample_weight(weight, stand_in, ensure_non_negative=True)
    return Table(x, weights, dtype_of(x), _device(estimator, x))


def _mapped(path: Path) -> np.ndarray:
    if path.suffix != ".npy":
        raise ValueError(
            f"expected the name of a .npy file, got {path}: read it, as pyro_vae.data.load does, "
            "and give the array"
        )
    array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


def _batches(estimator: Any, X: Iterable[Any], sample_weight: Any, reset: bool) -> Rows:
    if iter(X) is X:
        raise TypeError(
            f"expected batches that can be gone through anew, got {type(X).__name__}: EM goes over "
            "the data many times; give a list, a DataLoader or a .npy file, or use partial_fit"
        )
    if sample_weight is not None:
        raise ValueError("expected no sample_weight with batches, got one: give an array instead")
    first = first_of(next(iter(X), np.empty(0)))
    if first.ndim != 2:
        raise ValueError(
            f"expected batches with shape (B, D), got {tuple(first.shape)}: flatten them"
        )
    _count_features(estimator, first, reset)
    return Batches(X, dtype_of(first), _device(estimator, first), first.shape[1])


def _is_batches(X: Any) -> bool:
    if isinstance(X, list | tuple):
        return len(X) > 0 and getattr(first_of(X[0]) if _is_data(X[0]) else X[0], "ndim", 0) == 2
    return isinstance(X, Iterable) and not _is_data(X)


def _is_data(X: Any) -> bool:
    return any(hasattr(X, name) for name in ("shape", "__array__", "__dataframe__"))


def _check_tensor(X: Tensor) -> None:
    if X.ndim != 2 or min(X.shape) < 1:
        raise ValueError(
            f"expected a tensor with shape (N, D), got {tuple(X.shape)}: reshape or flatten it"
        )
    if X.is_complex():
        raise ValueError("expected real numbers, got complex ones: Complex data not supported")


def _count_features(estimator: Any, X: Any, reset: bool) -> None:
    if reset:
        _check_feature_names(estimator, X, reset=True)
        estimator.n_features_in_ = X.shape[1]
    elif X.shape[1] != estimator.n_features_in_:
        raise ValueError(
            f"X has {X.shape[1]} features, but {type(estimator).__name__} is expecting "
            f"{estimator.n_features_in_} features as input."
        )


def dtype_of(x: np.ndarray | Tensor) -> torch.dtype:
    r"""The type in which data are computed with: their own, if it is one of the two."""
    single = x.dtype in (torch.float32, np.dtype(np.float32))
    return torch.float32 if single else torch.float64


def _device(estimator: Any, x: np.ndarray | Tensor) -> torch.device:
    if estimator.device is not None:
        return find_device(estimator.device)
    return x.device if isinstance(x, Tensor) else torch.device("cpu")


def like(X: Any, result: Tensor) -> Any:
    r"""A result as the data came: a tensor for a tensor, otherwise an array."""
    return result.to(X.device) if isinstance(X, Tensor) else result.cpu().numpy()
