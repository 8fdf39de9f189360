r"""What is wrong with a trained pair, in plain words."""

__all__ = ["diagnose"]

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from pyro.distributions import Independent, Normal
from torch import Tensor

from pyro_vae.capturable import Mode
from pyro_vae.counts import check_counts
from pyro_vae.distributions import unwrapped
from pyro_vae.evaluation.chunks import few
from pyro_vae.evaluation.diagnosis import Diagnosis
from pyro_vae.evaluation.estimate import Estimate
from pyro_vae.evaluation.fields import Source, select
from pyro_vae.evaluation.gap import gap
from pyro_vae.evaluation.metrics import Metric, evaluate
from pyro_vae.evaluation.setting import evaluating, parameter_dtype
from pyro_vae.evaluation.symptoms import SYMPTOMS, Seen
from pyro_vae.layout import latent_sites
from pyro_vae.pair import Pair
from pyro_vae.programs import Program

ROWS = 256
# the gap takes as long as all else together; its evidence is the less too low the more particles
_GAP_ROWS, _GAP_STEPS, _GAP_PARTICLES = 64, 200, 10

# what is measured besides rate and distortion, by what it is needed for; of several the first
# that applies
_METRICS: Mapping[str, tuple[str | Metric, ...]] = {
    "units": ("active_units", "kl_per_dimension"),
    "mutual_information": ("mutual_information",),
    "shuffled": ("shuffled",),
    "trade_off": ("trade_off",),
    "prior_mismatch": ("prior_mismatch",),
}

Ask = Callable[..., dict[str, Estimate]]


def diagnose(
    model: Program,
    guide: Program,
    data: Source,
    rows: int = ROWS,
    particles: int = 100,
    *,
    inputs: Sequence[str] = ("x",),
    batch_size: int | None = None,
    data_plate: str | None = None,
    data_size: int | None = None,
    device: torch.device | str | None = None,
    seed: int = 0,
    capture: Mode = False,
) -> Diagnosis:
    r"""Says in plain words what is wrong with a trained model and its guide.

    - ``collapse``: whether the posterior is the prior: no active unit, or hardly a rate;
    - ``decoder``: whether the model reads its latents: what it loses with those of other data
      (:func:`~pyro_vae.evaluation.shuffled.shuffled`), beside the information in them;
    - ``regularisation``: whether latents are pressed to the prior too much or too little: what
      one more nat of rate would save in distortion
      (:func:`~pyro_vae.evaluation.trade_off.trade_off`);
    - ``prior``: whether encodings of all data together are where the prior is
      (:func:`~pyro_vae.evaluation.mismatch.prior_mismatch`);
    - ``inference``: whether guide or model is the bottleneck, and whether the guide's family or
      its encoder (:func:`~pyro_vae.evaluation.gap.gap`);
    - ``units``: which latent features the data do not move.

    What does not apply to the programs is said, and not raised. Time is bounded: a random part of
    the data is looked at, for the gap 64 of them with 200 steps of training.

    Arguments:
        model: The generative program.
        guide: The program that draws its latents.
        data: As for :func:`pyro_vae.evaluate`.
        rows: How many data are looked at, at most; without a data plate, all of them.
        particles: The number of particles of each figure; of the gap 10 times as many.
        inputs, batch_size, data_plate, data_size, device, seed: As for
            :func:`pyro_vae.evaluate`.
        capture: Whether chunks, and the steps of the gap, run as a compiled graph.

    Raises:
        TypeError: If the data or the inputs are of another kind, or a number is no integer.
        ValueError: If an argument is out of range or a field is missing, if the programs do not
            take the data, or if a log-density is not finite.

    References:
        | Lagging Inference Networks and Posterior Collapse (He et al., 2019)
        | https://arxiv.org/abs/1901.05534
        | Fixing a Broken ELBO (Alemi et al., 2018)
        | https://arxiv.org/abs/1711.00464
        | Inference Suboptimality in Variational Autoencoders (Cremer et al., 2018)
        | https://arxiv.org/abs/1801.03558

    Example:
        >>> from pyro_vae.guides import AmortizedNormal
        >>> from pyro_vae.models import VAE
        >>> model, guide = VAE((4,), latents=2), AmortizedNormal((4,), {"z": 2})
        >>> found = diagnose(model, guide, torch.eye(4), particles=16)
        >>> [finding.name for finding in found.findings]
        ['collapse', 'decoder', 'regularisation', 'prior', 'inference', 'units']
    """
    check_counts(rows=rows, particles=particles, batch_size=batch_size, data_size=data_size)
    fields, _ = select(data, inputs, seed, parameter_dtype(model, guide))
    size = fields[0].shape[0]
    with evaluating(model, guide, rows=fields, device=device, seed=seed) as place:
        some = few(fields, place, batch_size)
        pair = Pair(model, guide, data_plate)
        whole = pair.plan(some, {}).layout.plate is None
        independent = _is_independent(pair, some)
    index = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    chosen = torch.arange(size) if whole else index[:rows].sort().values

    def ask(metric: str | Metric, most: int | None, times: int) -> dict[str, Estimate]:
        part = dict(zip(inputs, _at(fields, chosen[:most]), strict=True))
        setting: dict[str, Any] = {"data_plate": data_plate, "data_size": data_size or size}
        setting |= {"device": device, "seed": seed, "capture": capture, "inputs": inputs}
        setting["batch_size"] = batch_size
        return evaluate(model, guide, part, (metric,), particles * times, **setting)

    figures, missing = _measured(ask, size if whole else _GAP_ROWS)
    seen = Seen(figures, missing, len(chosen), independent)
    return Diagnosis(tuple(symptom(seen) for symptom in SYMPTOMS), len(chosen), size)


def _measured(ask: Ask, gap_rows: int) -> tuple[dict[str, Estimate], dict[str, str]]:
    r"""The figures, and why some are not there."""
    figures, missing = ask("rate_distortion", None, 1), dict[str, str]()
    gaps = {"gap": (partial(gap, steps=_GAP_STEPS),)}
    for name, metrics in {**_METRICS, **gaps}.items():
        for metric in metrics:
            try:
                most = (gap_rows, _GAP_PARTICLES) if name == "gap" else (None, 1)
                figures |= ask(metric, *most)
                missing.pop(name, None)
                break
            except (NotImplementedError, ValueError) as error:
                missing.setdefault(name, _reason(error))
    return figures, missing


def _reason(error: Exception) -> str:
    r"""What was expected and what came, without what for, and what to do about it."""
    text = re.sub(r", for [^,]*,", ",", " ".join(str(error).split()))
    return re.split(r"[:;] ", text)[0].rstrip(".")


def _at(fields: tuple[Tensor, ...], index: Tensor) -> list[Tensor]:
    return [field[index.to(field.device)] for field in fields]


def _is_independent(pair: Pair, batch: tuple[Tensor, ...]) -> bool:
    r"""Whether the guide's features are independent normals."""
    sites = latent_sites(pair.draw(batch, {}).guide_trace).values()
    return all(isinstance(unwrapped(site["fn"], Independent), Normal) for site in sites)
