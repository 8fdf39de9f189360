r"""From figures to findings: what is ill, by how much, and what to try."""

__all__ = ["SYMPTOMS", "Seen"]

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pyro_vae.evaluation.diagnosis import Finding, Severity
from pyro_vae.evaluation.estimate import Estimate
from pyro_vae.evaluation.psis import is_loose
from pyro_vae.evaluation.trade_off import FIT
from pyro_vae.evaluation.units import THRESHOLD

# nats per datum that latents, or one of their features, must cost to hold anything: He et al.
# (2019) and Lucas et al. (2019) draw lines between 0.01 and 0.1
_LEAST_RATE, _LEAST_KL = 0.1, 0.01
# shares of the information that shuffling must cost: at the posterior of data like the model's own
# it costs more than all of it, on average, and what is below has not been read
_UNREAD, _HALF_READ = 0.1, 0.5
# factors by which the weight of the divergence may be off; importance-weighted bounds alone make
# guides as wide as a weight of about three does
_OFF, _FAR_OFF = 2.0, 5.0
# shares of the rate that may be lost: at a third it is worth a try, a half is most of it
_LARGE, _HUGE = 1 / 3, 1 / 2
_NAT = 0.1  # what is less is never called a loss

_ELBO = ("--objective", "ELBO")  # named, as other objectives have no such options
_WARM_UP: tuple[str, ...] = (*_ELBO, "--objective.beta", "Linear")
_BALANCE: tuple[str, ...] = (*_ELBO, "--objective.beta", "1")
_PRESS: tuple[str, ...] = ("--objective", "InfoVAE")
_FULL: tuple[str, ...] = ("--guide", "AmortizedMultivariateNormal")
_IWAE: tuple[str, ...] = ("--objective", "IWAE", "--objective.k", "50")
_FREE_BITS = (*_ELBO, "--objective.free_bits", "0.1", "--objective.groups", "dimension")


@dataclass(frozen=True)
class Seen:
    r"""What was measured.

    Arguments:
        figures: The figures by name.
        missing: Why others are not there, by what they are needed for.
        rows: How many data they are of.
        independent: Whether the guide's features are independent normals.
    """

    figures: Mapping[str, Estimate]
    missing: Mapping[str, str]
    rows: int
    independent: bool = True

    def value(self, name: str) -> float:
        r"""A figure that is there."""
        return float(self.figures[name])

    def some(self, *names: str) -> dict[str, Estimate]:
        r"""Those of the figures that are there."""
        return {name: self.figures[name] for name in names if name in self.figures}

    @property
    def units(self) -> dict[str, bool]:
        r"""Whether each latent feature is in use, by name; nothing where it is not known."""
        found: dict[str, bool] = {}
        for name, estimate in self.figures.items():
            if name.startswith("active_units.") and estimate.per_datum is not None:
                site = name.removeprefix("active_units.")
                each = enumerate(estimate.per_datum.tolist())
                found |= {f"{site}[{d}]": variance > THRESHOLD for d, variance in each}
            elif re.match(r"kl\..*\[\d+\]$", name):
                found[name.removeprefix("kl.")] = estimate > _LEAST_KL
        return found

    @property
    def is_loose(self) -> bool:
        r"""Whether the gap, where there is one, is only known to be a lower bound."""
        return "gap.khat" in self.figures and is_loose(self.value("gap.khat"))

    @property
    def collapsed(self) -> bool:
        r"""Whether it is known that latents hold nothing."""
        units = self.units
        return bool(units) and (not any(units.values()) or self.value("rate") < _LEAST_RATE)

    @property
    def weight(self) -> float | None:
        r"""The weight of the divergence that the guide behaves by, if that can be told."""
        names = ("trade_off", "trade_off.fit")
        if self.collapsed or any(name not in self.figures for name in names):
            return None
        value, error = self.value("trade_off"), self.figures["trade_off"].stderr
        sure = error < max(value, 1.0) / 4  # NaN is not
        return max(value, 0.0) if sure and self.value("trade_off.fit") > FIT else None


def collapse(seen: Seen) -> Finding:
    r"""Whether the posterior is the same for all data."""
    figures = seen.some("rate", "mutual_information", "active_units")
    if not seen.units:
        return _unknown("collapse", seen, "units", figures)
    if not seen.collapsed:
        held = _short(seen.value("rate"))
        words = f"Latents are in use: their KL is {held} nats a datum{_told(seen)}."
        return Finding("collapse", "well", words, figures)
    words = (
        f"The posterior has collapsed: it is the same whatever the data are "
        f"(KL {_short(seen.value('rate'))} nats, {sum(seen.units.values())} of {len(seen.units)} "
        "units active)."
    )
    if _surely("gap.amortisation", seen):
        lag = _short(seen.value("gap.amortisation"))
        words += f" The decoder does use latents: an encoder that kept up would gain {lag} nats."
        advice, flags = "train the encoder ahead of the decoder", ("--encoder-steps", "aggressive")
        return Finding("collapse", "ill", words, figures, advice, flags)
    advice = "warm the KL up; if that is not enough, free bits, or a weaker decoder"
    return Finding("collapse", "ill", words, figures, advice, _WARM_UP)


def _told(seen: Seen) -> str:
    if "mutual_information" not in seen.figures:
        return ""
    # by chance it may be sampled above the rate, which it never is
    told = min(max(seen.value("mutual_information"), 0.0), seen.value("rate"))
    return f", of which {_short(told)} or more tell data apart"


def units(seen: Seen) -> Finding:
    r"""Which units the data do not move."""
    found = seen.units
    figures = seen.some("active_units")
    if not found:
        return _unknown("units", seen, "units", figures)
    dead = [name for name, active in found.items() if not active]
    if not dead:
        every = "The only unit is" if len(found) == 1 else f"All {len(found)} units are"
        return Finding("units", "well", f"{every} active.", figures)
    are = "is" if len(dead) == 1 else "are"
    words = f"{len(dead)} of {len(found)} units {are} not in use: {_listed(dead)}."
    if seen.collapsed:
        return Finding("units", "ill", words, figures)
    advice = "take fewer latents, which changes little, or have each hold something by free bits"
    return Finding("units", "suspect", words, figures, advice, _FREE_BITS)


def decoder(seen: Seen) -> Finding:
    r"""Whether the model reads its latents."""
    figures = seen.some("shuffled.loss", "mutual_information")
    if "shuffled.loss" not in seen.figures:
        return _unknown("decoder", seen, "shuffled", figures)
    loss, held = seen.value("shuffled.loss"), seen.value("rate")
    if "mutual_information" in seen.figures:  # the rate is more, where posteriors are no prior
        held = seen.value("mutual_information")
    if seen.collapsed or held < _LEAST_RATE:
        words = "Not told: where latents hold nothing, nobody sees whether the decoder reads them."
        return Finding("decoder", "unknown", words, figures)
    words = f"swapped between data, they cost {_short(loss)} nats, and hold {_short(held)} or more."
    if loss >= _HALF_READ * held:
        return Finding("decoder", "well", f"The decoder reads its latents: {words}", figures)
    ignores = loss < _UNREAD * held
    how = "ignores its latents" if ignores else "reads little of its latents"
    advice = "have the decoder learn to read them while they cost nothing, or take a weaker one"
    severity: Severity = "ill" if ignores else "suspect"
    words = f"The decoder {how}: {words}"
    return Finding("decoder", severity, words, figures, advice, _WARM_UP)


def regularisation(seen: Seen) -> Finding:
    r"""Whether latents are pressed to the prior too much or too little."""
    figures = seen.some("rate", "distortion", "trade_off", "trade_off.fit")
    if seen.collapsed:
        words = (
            "Latents are over-regularised, or never came into use: they tell nothing of the data."
        )
        return Finding("regularisation", "ill", words, figures)
    if "trade_off" not in seen.figures:
        return _unknown("regularisation", seen, "trade_off", figures)
    if seen.weight is None:
        words = "Not told: the guide is at the optimum for no weight beta of the KL."
        return Finding("regularisation", "unknown", words, figures)
    weight, shown = seen.weight, _short(seen.weight)
    words = (
        f"they are as if trained with a beta of {shown}: one more nat in the latents would save "
        f"{shown} in reconstruction."
    )
    if 1 / _OFF < weight < _OFF:
        return Finding("regularisation", "well", f"Latents are balanced: {words}", figures)
    severity: Severity = "suspect" if 1 / _FAR_OFF < weight < _FAR_OFF else "ill"
    if weight > 1:
        words = f"Latents are over-regularised: {words}"
        advice = "lower the weight beta of the KL, if it is above 1 (for IWAE a few are no harm)"
    else:
        words = f"Latents are under-regularised, near an autoencoder's: {words}"
        advice = "raise the weight beta of the KL"
    return Finding("regularisation", severity, words, figures, advice, _BALANCE)


def prior(seen: Seen) -> Finding:
    r"""Whether encodings of all data together are where the prior is."""
    figures = seen.some("prior_mismatch", "marginal_kl")
    if "prior_mismatch" not in seen.figures:
        return _unknown("prior", seen, "prior_mismatch", figures)
    mismatch, rate = seen.value("prior_mismatch"), seen.value("rate")
    share = f"{_short(mismatch)} of {_short(rate)} nats of KL"
    each = seen.figures["prior_mismatch"].per_datum
    chance = 0 if each is None else 2 * len(each) / seen.rows  # twice what there is on average
    lost = _lost(mismatch - chance, rate)
    if lost == "well":
        words = f"Encodings of all data together are where the prior is (but for {share})."
        return Finding("prior", "well", words, figures)
    words = f"Encodings are elsewhere than the prior ({share}): samples will not look like data."
    if seen.weight is not None and seen.weight <= 1 / _OFF:
        return Finding("prior", lost, words, figures)  # mend the regularisation first
    advice = "draw all encodings together to the prior, or train longer"
    return Finding("prior", lost, words, figures, advice, _PRESS)


def inference(seen: Seen) -> Finding:
    r"""Whether the guide or the model is the bottleneck."""
    figures = seen.some("gap", "gap.approximation", "gap.amortisation", "gap.khat")
    if "gap" not in seen.figures:
        return _unknown("inference", seen, "gap", figures)
    gap, rate = max(seen.value("gap"), 0.0), seen.value("rate")
    lost = _lost(gap, rate)
    if lost != "well" and not _surely("gap", seen):
        words = f"Not told: the gap of {_short(gap)} nats may be none; take more particles."
        return Finding("inference", "unknown", words, figures)
    least = "at least " * seen.is_loose
    if lost == "well":
        words = f"costs {least}{_short(gap)} nats, beside {_short(rate)} of KL."
        words = (
            f"The guide is not seen to be a bottleneck: it {words} More particles may show more."
            if least
            else f"The guide is no bottleneck: it {words} What is left to gain lies in the model."
        )
        return Finding("inference", "well", words, figures)
    words = f"The guide is a bottleneck: the ELBO is {least}{_short(gap)} nats below the evidence"
    family, encoder = seen.value("gap.approximation"), seen.value("gap.amortisation")
    if family > encoder:
        part = f"{least}{_short(family)} of them as its family is too small"
        advice = "a guide with correlations" if seen.independent else "a bound of more particles"
        flags = _FULL if seen.independent else _IWAE
    else:
        part = f"{_short(encoder)} of them as its encoder misses the family's best"
        advice, flags = "more steps for the encoder, or a larger one", ("--encoder-steps", "5")
        if _misweighted(seen):
            part += ", as one does that was trained for another weight"
            advice, flags = "", ()  # mend the regularisation first
    return Finding("inference", lost, f"{words}, {part}.", figures, advice, flags)


SYMPTOMS: tuple[Callable[[Seen], Finding], ...] = (
    collapse,
    decoder,
    regularisation,
    prior,
    inference,
    units,
)


def _misweighted(seen: Seen) -> bool:
    return seen.weight is not None and not 1 / _OFF < seen.weight < _OFF


def _lost(part: float, rate: float) -> Severity:
    r"""How bad it is to lose nats that latents cost."""
    if part < max(_LARGE * rate, _NAT):
        return "well"
    return "suspect" if part < _HUGE * rate else "ill"


def _surely(name: str, seen: Seen) -> bool:
    r"""Whether a figure is above zero, by four of its errors and by a tenth of a nat."""
    if name not in seen.figures:
        return False
    return seen.value(name) > max(_NAT, 4 * seen.figures[name].stderr)


def _unknown(name: str, seen: Seen, needed: str, figures: Mapping[str, Estimate]) -> Finding:
    reason = seen.missing.get(needed, "it was not measured")
    return Finding(name, "unknown", f"Does not apply: {reason}.", figures)


def _listed(names: list[str], most: int = 8) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} others"


def _short(value: float) -> str:
    r"""A number in three digits, without an exponent."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{round(value, 4):.3g}"
