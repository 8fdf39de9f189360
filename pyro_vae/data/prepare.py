r"""From a source's own numbers to what is trained on."""

__all__ = ["prepare"]

import torch
from torch import Generator, Tensor

from pyro_vae.data.binarize import binarize, probabilities
from pyro_vae.data.dataset import Binarization, Data, Fields
from pyro_vae.data.lazy import Lazy, each
from pyro_vae.data.natural import natural_likelihood, value_range
from pyro_vae.data.raw import Raw
from pyro_vae.data.standardize import Standardization
from pyro_vae.data.survey import Survey
from pyro_vae.likelihoods import Bernoulli, Likelihood, Masked, NormalLearnedScale


def prepare(
    raw: Raw,
    splits: dict[str, Fields],
    surveys: dict[str, Survey],
    binarization: Binarization,
    standardize: bool | None,
    missing: bool,
    seed: int,
) -> Data:
    r"""Standardises or binarises splits, and puts them into the default dtype.

    Arguments:
        raw: What the source knows.
        splits: The fields of each split, in the source's own numbers.
        surveys: What there is among the values of ``x``, in all rows together.
        binarization: As :func:`load` has it.
        standardize: Whether to standardise; None does so unless the data are binary.
        missing: Whether NaN is what is missing.
        seed: Of static binarisation.

    Raises:
        ValueError: If the data can be neither, or both are asked for; if what is missing would
            be binarised.
    """
    if standardize and binarization != "none":
        raise ValueError(f"{raw.origin}: expected either standardize or binarization, got both")

    if missing and binarization != "none":
        raise ValueError(
            f"{raw.origin}: expected either missing or binarization, got both: binarise what is "
            "observed first, and load the zeros and ones with missing=True"
        )

    xs = {split: fields["x"] for split, fields in splits.items()}
    likelihood = raw.likelihood or natural_likelihood(list(surveys.values()))
    if standardize is None:
        standardize = not isinstance(likelihood, Bernoulli)

    standardization = standardization_of(xs["train"], raw) if standardize else None
    if standardization is not None:
        likelihood = NormalLearnedScale()
        xs = {split: each(x, Tensor.double, standardization) for split, x in xs.items()}
    if binarization != "none":
        xs = _binarized(xs, likelihood, raw.origin, seed if binarization == "static" else None)
        likelihood = Bernoulli()

    done = {split: cast(fields | {"x": xs[split]}) for split, fields in splits.items()}
    extremes = [part[None] for found in surveys.values() for part in (found.low, found.high)]
    if standardization is not None:  # which is increasing
        extremes = [standardization(part.double()) for part in extremes]
    return Data(
        name=raw.name,
        train=done["train"],
        validation=done.get("validation", {}),
        test=done.get("test", {}),
        natural=Masked(likelihood) if missing else likelihood,
        value_range=value_range([cast({"x": part})["x"] for part in extremes], likelihood),
        classes=raw.classes,
        binarization=binarization,
        standardization=standardization,
        columns=raw.columns,
        source=raw.source | {"seed": seed} | ({"missing": True} if missing else {}),
    )


def _binarized(
    xs: dict[str, Tensor], likelihood: Likelihood, origin: str, seed: int | None
) -> dict[str, Tensor]:
    r"""The probabilities of ones; with a seed, zeros and ones that are drawn by it."""
    xs = {split: probabilities(x, likelihood, origin) for split, x in xs.items()}
    if seed is None:
        return xs
    generator = Generator().manual_seed(seed)
    return {split: binarize(x, generator) for split, x in xs.items()}


def standardization_of(x: Tensor, raw: Raw) -> Standardization:
    r"""The standardisation of training rows, without the indicators of categorical columns."""
    ones = torch.ones(x.shape[1:], dtype=torch.bool, device=x.device)
    try:
        return Standardization.of(x, ones if raw.columns is None else raw.columns.numeric)
    except ValueError as error:
        raise ValueError(f"{raw.origin}: {error}") from error


def cast(fields: Fields) -> Fields:
    r"""Puts numbers into the default dtype, and labels and other integers into int64."""
    dtypes = {
        name: torch.get_default_dtype() if name == "x" or field.is_floating_point() else torch.int64
        for name, field in fields.items()
    }
    return {
        name: field.to(dtypes[name])
        if isinstance(field, Lazy)
        else field.to(dtypes[name]).contiguous()
        for name, field in fields.items()
    }
