r"""What is computed for each datum, batch after batch."""

__all__ = ["Scorer", "discrete_features", "log_weights"]

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae.capturable import Mode
from pyro_vae.captured import Captured
from pyro_vae.draws import Draw
from pyro_vae.evaluation.chunks import Largest, chunk_sizes, few
from pyro_vae.evaluation.estimate import Estimate
from pyro_vae.evaluation.psis import khat
from pyro_vae.evaluation.rows import check_rows, is_discrete
from pyro_vae.evaluation.streaming import Moments, Weights
from pyro_vae.evaluation.weights import check_weights
from pyro_vae.layout import latent_sites, sample_sites
from pyro_vae.nonfinite import first_nonfinite
from pyro_vae.objectives.divergence import kl_terms
from pyro_vae.pair import Pair


def log_weights(draw: Draw) -> Tensor:
    r"""The logarithms of the weights of a draw, with shape :math:`(K, N)`."""
    return draw.log_weights


class Scorer:
    r"""Scores each datum of a data set, of which the batches come one after another.

    Arguments:
        pair: The model and the guide.
        metrics: Some of ``"elbo"`` and ``"nll"``.
        particles: The number of particles :math:`K`.
        data_size: How many data share the global latents.
        capture: Whether chunks run as a compiled graph.
        weigh: The logarithms of the weights of which the evidence is the mean.
    """

    def __init__(
        self,
        pair: Pair,
        metrics: Sequence[str],
        particles: int,
        data_size: int,
        capture: Mode = False,
        weigh: Callable[[Draw], Tensor] = log_weights,
    ) -> None:
        self.pair, self.metrics, self.capture, self.weigh = pair, metrics, capture, weigh
        self.particles, self.data_size = particles, data_size
        self.exact = False  # whether nothing is drawn, so that one particle says all
        self.per_datum: defaultdict[str, list[Tensor]] = defaultdict(list)
        self.variances: defaultdict[str, float] = defaultdict(float)  # of sums over data

    def prepare(
        self, fields: tuple[Tensor, ...], batch_size: int | None, device: torch.device
    ) -> int:
        r"""Tries a few rows, to see what may be estimated, and how many make a batch.

        Raises:
            ValueError: If the data plate is not of the batch's size, or if the weights of the
                pair are no importance weights and the evidence is asked for.
        """
        rows = few(fields, device, batch_size)
        self.device, self.layout = device, self.pair.plan(rows, {}).layout
        if self.layout.plate is None:
            rows = tuple(field.to(device) for field in fields)
        with Largest() as largest:
            draw = self.pair.draw(rows, {}, data_size=self.data_size)
            for trace in (draw.guide_trace, draw.model_trace):
                check_rows(trace, self.layout.plate, rows[0].shape[0])
            if not bool(self.weigh(draw).isfinite().all()):
                raise self._nonfinite(draw)
        if "nll" in self.metrics:
            check_weights(draw, self.pair.guide, rows, "the metric 'nll'")
        self.features = discrete_features(draw)
        if _is_exact(draw):
            self.exact, self.particles = True, 1
        elements = math.ceil(largest.elements / draw.batch_size)
        return self._cut(elements, fields[0].shape[0], batch_size)

    def _cut(self, elements: int, total: int, batch_size: int | None) -> int:
        r"""Decides how many data make a batch, how many particles a chunk, and on a graph."""
        whole = self.layout.plate is None
        rows = 1 if whole else total
        batch, self.chunk = chunk_sizes(elements, rows, self.particles, batch_size, self.device)
        self._scores = Captured(
            self._score,
            {"model": self.pair.model, "guide": self.pair.guide},
            self.capture,
            calls=(rows // batch) * (self.particles // self.chunk),
            elements=elements * batch * self.chunk if self.device.type == "cpu" else 0,
        )
        return total if whole else batch

    def update(self, batch: tuple[Tensor, ...]) -> None:
        r"""Scores a batch.

        Raises:
            ValueError: If a log-density is not finite.
        """
        terms: defaultdict[str, Moments] = defaultdict(lambda: Moments(bool(self.layout.shared)))
        weights = Weights(self.particles)
        for found in self._chunks(batch):
            for name, values in found.items() if "elbo" in self.metrics else ():
                terms[name].update(values)
            if "nll" in self.metrics:
                weights.update(found["elbo"])
        for name, term in terms.items():
            self._keep(name, term.mean, 0.0 if self.exact else term.variance)
        if "nll" in self.metrics:
            self._keep_evidence(weights)

    def estimates(self, seed: int) -> dict[str, Estimate]:
        r"""The estimates over all data that came, with the seed noted."""
        nats = "nats" if self.layout.plate else "nats (all data)"
        units = {"ess": "particles"}
        found = {}
        for name, parts in self.per_datum.items():
            scores = torch.cat(parts)
            stderr = math.sqrt(self.variances[name]) / scores.shape[0]
            found[name] = Estimate.of(scores, stderr, units.get(name, nats), seed)
            if name == "khat":
                found[name] = khat(scores, seed)
            if name == "nll" and self.features:
                bits = math.log(2) * self.features
                found["bpd"] = Estimate.of(scores / bits, stderr / bits, "bits/dim", seed)
        return found

    def _keep_evidence(self, weights: Weights) -> None:
        log_mean, bias, variance, shape = weights.log_mean, weights.bias, weights.variance, None
        if self.exact:
            bias, variance = torch.zeros_like(log_mean), 0.0
            shape = torch.full_like(log_mean, -math.inf)  # as of weights that are all equal
        self._keep("nll", -log_mean, variance)
        self._keep("nll.bias", -bias, math.nan)
        self._keep("ess", weights.ess, math.nan)
        self._keep("khat", weights.shape if shape is None else shape, math.nan)

    def _keep(self, name: str, scores: Tensor, variance: float) -> None:
        self.per_datum[name].append(scores.cpu())
        self.variances[name] += variance

    def _chunks(self, batch: tuple[Tensor, ...]) -> Iterator[dict[str, Tensor]]:
        r"""What is computed of particles, with shapes :math:`(K, N)`, chunk after chunk."""
        noise = torch if self.device.type == "cpu" else torch.get_device_module(self.device)
        for start in range(0, self.particles, self.chunk):
            count = min(self.chunk, self.particles - start)
            before = noise.get_rng_state()
            found = self._scores(count, *batch)
            if not bool(found["elbo"].isfinite().all()):
                noise.set_rng_state(before)
                raise self._nonfinite(self._draw(count, batch))
            yield found

    def _score(self, count: int, *batch: Tensor) -> dict[str, Tensor]:
        draw = self._draw(count, batch)
        return _terms(draw) if "elbo" in self.metrics else {"elbo": self.weigh(draw)}

    def _draw(self, count: int, batch: tuple[Tensor, ...]) -> Draw:
        # not the pair's own draw, which might inspect the programs: a graph could not
        model, guide = self.pair.model, self.pair.guide
        return Draw(model, guide, batch, {}, self.layout, count, self.data_size)

    def _nonfinite(self, draw: Draw) -> ValueError:
        found = first_nonfinite(draw, self.pair.parameters) or "a sum of them that overflows"
        if bool(self.weigh(draw).isfinite().all()):
            found = "one that is not, in a graph, whose noise is its own: capture=False finds where"
        return ValueError(f"expected finite log-densities, got this: {found}")


def _is_exact(draw: Draw) -> bool:
    r"""Whether the guide draws nothing, and nothing is left to the model but to sum it out."""
    return not latent_sites(draw.guide_trace) and not draw.layout.imputed


def _terms(draw: Draw) -> dict[str, Tensor]:
    r"""The bound and its parts, with shape :math:`(K, N)`."""
    parts = kl_terms(draw, "sampled")
    kl = {f"kl.{name}": draw.combine([(name, term)]) for name, term in parts.items()}
    total = draw.combine(parts.items())
    return {
        "elbo": draw.log_weights,
        "log_likelihood": draw.log_likelihood,
        "kl": total,
        **kl,
    }


def discrete_features(draw: Draw) -> int:
    r"""The number of features of a datum if they all have mass functions, else 0."""
    sites = sample_sites(draw.model_trace).values()
    observed = [s for s in sites if s["is_observed"] and not isinstance(s["fn"], dist.Unit)]
    if not all(site["mask"] is None and is_discrete(site["fn"]) for site in observed):
        return 0
    return sum(site["value"].numel() for site in observed) // draw.batch_size
