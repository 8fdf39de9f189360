r"""Draws: one pass of guide and replayed model, with densities per site and datum."""

__all__ = ["Draw"]

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import cached_property
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine import Trace
from torch import Tensor

from pyro_vae.distributions import kl_divergence
from pyro_vae.enumeration import contract, enumerated, posterior
from pyro_vae.layout import (
    PARTICLES,
    Layout,
    Site,
    check_pooled,
    frames,
    latent_sites,
    plate_dims,
    sample_sites,
)
from pyro_vae.programs import Program, isolated
from pyro_vae.stopped import Detached, Stop, stopped_log_prob


class _Lazy(Mapping[str, Tensor]):
    r"""Tensors by site, each computed when it is first asked for."""

    def __init__(self, names: Iterable[str], compute: Callable[[str], Tensor]) -> None:
        self._names, self._compute = dict.fromkeys(names), compute
        self._cache: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        if name not in self._cache:
            self._cache[name] = self._compute(name)
        return self._cache[name]

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class Draw:
    r""":math:`K` particles of a guide, and the model that they are replayed through.

    Each log-density has shape :math:`(K, N)`: masks are applied, ``poutine.scale`` too, and all
    plates but the data's are summed. Those outside the data plate (global latents) have shape
    :math:`(K, 1)`. All are computed when first asked for.

    Arguments:
        model: The generative program.
        guide: The program that draws the model's latents.
        args: The positional arguments of both, a batch of :math:`N` data.
        kwargs: Their keyword arguments.
        layout: The pair's structure, from :func:`pyro_vae.layout.inspect`.
        particles: The number of particles :math:`K`, which stand in a plate left of all others;
            with one there is no such plate, so that networks without leading dimensions work.
        data_size: The size of the whole data, of which global latents get their share. A
            subsampled data plate knows it; otherwise the default is :math:`N`.
        pathwise: Whether gradients pass through the values that the guide draws.

    Raises:
        ValueError: If the guide holds local latents in one global site, and the batch is a part.

    Example:
        >>> from pyro_vae.guides import AmortizedNormal
        >>> from pyro_vae.layout import inspect
        >>> from pyro_vae.models import VAE
        >>> model, guide = VAE((4,), latents=2), AmortizedNormal((4,), {"z": 2})
        >>> x = torch.ones(3, 4)
        >>> draw = Draw(model, guide, (x,), {}, inspect(model, guide, (x,), {}), particles=5)
        >>> draw.log_weights.shape
        torch.Size([5, 3])
    """

    def __init__(
        self,
        model: Program,
        guide: Program,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        layout: Layout,
        particles: int = 1,
        data_size: int | None = None,
        pathwise: bool = True,
    ) -> None:
        self.layout, self.particles = layout, particles
        self.model, self.guide = isolated(model), isolated(guide)
        self.args, self.kwargs = args, kwargs
        with self.plate():
            with nullcontext() if pathwise else Detached():
                self.guide_trace = poutine.trace(self.guide).get_trace(*args, **kwargs)
            replay = poutine.replay(trace=self.guide_trace)
            with poutine.trace() as tracer, replay, enumerated(layout):
                self.model(*args, **kwargs)
            self.model_trace: Trace = tracer.trace
        frame = self._data_frame()
        self.batch_size: int = 1 if frame is None else frame.size
        self.data_size: int = data_size or self.batch_size
        self._subsampled = frame is not None and frame.full_size not in (None, frame.size)
        if self._subsampled:
            self.data_size = frame.full_size
        check_pooled(layout, self.batch_size, self.data_size)

    @contextmanager
    def plate(self) -> Iterator[None]:
        r"""Runs programs unseen by others, with the plate of particles if there are several."""
        # block stands outside: inside it would hide the plate, and all particles be one
        with poutine.block():
            if self.particles == 1:
                yield
            else:
                with pyro.plate(PARTICLES, self.particles, dim=-self.layout.nesting - 1):
                    yield

    def _data_frame(self) -> Any:
        for trace in (self.model_trace, self.guide_trace):
            for site in sample_sites(trace).values():
                for frame in frames(site):
                    if frame.name == self.layout.plate:
                        return frame
        return None

    @cached_property
    def values(self) -> dict[str, Tensor]:
        r"""What the guide drew, by site; with shape :math:`(K, N, *)` in the data plate."""
        return {name: site["value"] for name, site in latent_sites(self.guide_trace).items()}

    @cached_property
    def log_guide(self) -> Mapping[str, Tensor]:
        r""":math:`\log q(z_s \mid \cdot)` by site, with shape :math:`(K, N)`."""
        sites = sample_sites(self.guide_trace)
        return _Lazy(sites, lambda name: self.log_density(sites[name]))

    @cached_property
    def stopped_log_guide(self) -> Mapping[str, Tensor]:
        r""":attr:`log_guide`, where the guide's parameters count as constants.

        .. math:: \log q_{\text{stop}(\phi)}(z_s \mid \cdot)

        Gradients pass through the values only. Where a site depends on others that the guide
        drew, the guide runs once more, on the same values.
        """
        sites = sample_sites(self.guide_trace)
        if not self.layout.chained:
            return _Lazy(
                sites,
                lambda name: self.summed(
                    stopped_log_prob(sites[name]["fn"], sites[name]["value"]), sites[name]
                ),
            )
        with self.plate(), Stop():
            replayed = poutine.replay(self.guide, trace=self.guide_trace)
            again = sample_sites(poutine.trace(replayed).get_trace(*self.args, **self.kwargs))
        return _Lazy(again, lambda name: self._density_again(again[name]))

    @cached_property
    def log_prior(self) -> Mapping[str, Tensor]:
        r""":math:`\log p(z_s \mid \cdot)` by site, with shape :math:`(K, N)`.

        Latents that depend on enumerated sites stand together, as ``"z1+z2"``.
        """
        sites, group = latent_sites(self.model_trace), "+".join(self.coupled_latents)
        skipped = self.layout.enumerated | self.layout.imputed | set(self.coupled)
        names = [name for name in sites if name not in skipped]

        def compute(name: str) -> Tensor:
            if name == group:
                return self._summed_out(likelihood=False)
            return self.log_density(sites[name])

        return _Lazy([*names, group] if group else names, compute)

    @cached_property
    def kl(self) -> Mapping[str, Tensor]:
        r""":math:`\text{KL}(q \| p)` in closed form by site, with shape :math:`(K, N)`.

        Only sites at which it is right are there: those whose scale and mask are now the same in
        both programs, too.
        """
        q, p = sample_sites(self.guide_trace), sample_sites(self.model_trace)
        names = [
            name
            for name in self.log_guide
            if name in self.layout.analytic
            and _same(q[name]["scale"], p[name]["scale"])
            and _same(q[name]["mask"], p[name]["mask"])
        ]
        return _Lazy(
            names, lambda name: self.summed(kl_divergence(q[name]["fn"], p[name]["fn"]), p[name])
        )

    @cached_property
    def log_likelihood(self) -> Tensor:
        r""":math:`\log p(x_n \mid z)`, with shape :math:`(K, N)`."""
        terms = [
            (name, self.log_density(site))
            for name, site in sample_sites(self.model_trace).items()
            if site["is_observed"] and name not in self.coupled
        ]
        total = self.combine(terms)
        if self.coupled:
            total = total + self._summed_out(likelihood=True)
        if self.coupled_latents:
            total = total - self.log_prior["+".join(self.coupled_latents)]
        return total

    @cached_property
    def log_joint(self) -> Tensor:
        r""":math:`\log p(x_n, z)`, with shape :math:`(K, N)`."""
        return self.log_likelihood + self.combine(self.log_prior.items())

    @cached_property
    def log_weights(self) -> Tensor:
        r""":math:`\log p(x_n, z) - \log q(z \mid x_n)`, with shape :math:`(K, N)`."""
        return self.log_joint - self.combine(self.log_guide.items())

    @cached_property
    def stopped_log_weights(self) -> Tensor:
        r""":attr:`log_weights`, where the guide's parameters count as constants."""
        return self.log_joint - self.combine(self.stopped_log_guide.items())

    def combine(self, terms: Iterable[tuple[str, Tensor]]) -> Tensor:
        r"""Sums terms by site: local ones, and a datum's share of global ones."""
        shares = [t / self.data_size if self.is_shared(name) else t for name, t in terms]
        total = sum(shares[1:], shares[0]) if shares else self._zero()
        return total.expand(self.particles, self.batch_size)

    def _zero(self) -> Tensor:
        for site in sample_sites(self.model_trace).values():
            return site["fn"].log_prob(site["value"]).new_zeros(())
        return torch.zeros(())

    def is_shared(self, name: str) -> bool:
        r"""Whether a site stands outside the data plate, drawn once for all data."""
        return name in self.layout.shared

    def scale(self, site: Site) -> Any:
        r"""What ``poutine.scale`` asks for: a site's scale without the data plate's share."""
        scale = site["scale"]
        for frame in frames(site) if self._subsampled else ():
            if frame.name == self.layout.plate:
                scale = scale * frame.size / frame.full_size
        return scale

    def log_density(self, site: Site) -> Tensor:
        r"""A site's log-density, with shape :math:`(K, N)`, or :math:`(K, 1)` if all share it."""
        log_prob = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
        return self.summed(log_prob, site)

    def _density_again(self, site: Site) -> Tensor:
        # a view is not what a transform has cached
        value = site["value"].view_as(site["value"])
        with Stop():
            return self.log_density({**site, "value": value})

    def summed(self, density: Tensor, site: Site, *leading: int) -> Tensor:
        r"""Scales, masks, and sums over all dimensions but those of particles and data.

        Arguments:
            density: A density at each place of the plates around the site.
            site: The site.
            leading: The sizes of dimensions left of all plates, which stay.
        """
        density = scale_and_mask(density, self.scale(site), site["mask"])
        return self.folded(density, site, *leading)

    def folded(self, density: Tensor, site: Site, *leading: int) -> Tensor:
        r""":meth:`summed` as it stands, neither scaled nor masked."""
        dims = plate_dims(site)
        kept = [name for name in (PARTICLES, self.layout.plate) if name in dims]
        plates = range(len(leading) - density.dim(), 0)
        others = [d for d in plates if d not in {dims[name] for name in kept}]
        density = density.sum(others) if others else density
        rows = self.particles if PARTICLES in kept else 1
        columns = self.batch_size if self.layout.plate in kept else 1
        density = density.reshape(*leading, rows, columns)
        return density.expand(*leading, self.particles, columns)

    @cached_property
    def coupled(self) -> tuple[str, ...]:
        r"""The model's sites whose density depends on an enumerated one."""
        found = []
        for name, site in sample_sites(self.model_trace).items() if self.layout.enumerated else ():
            log_prob = self._masked_log_prob(name, site)
            site["log_prob"] = site["unscaled_log_prob"] = log_prob
            if log_prob.dim() > self.layout.nesting + 1:
                found.append(name)
                self._refuse_scale(name, site)
        if found:
            self.model_trace.pack_tensors()
        return tuple(found)

    @cached_property
    def coupled_latents(self) -> tuple[str, ...]:
        r"""Those of the coupled sites that the guide draws."""
        drawn = latent_sites(self.guide_trace)
        return tuple(name for name in self.coupled if name in drawn)

    def posterior(self, name: str) -> Tensor:
        r"""The probabilities of an enumerated site given data and latents.

        Their shape is that of the site's plates, particles to the left, and :math:`C` for its
        values.
        """
        names = [site for site in self.coupled if site not in self.layout.imputed]
        return posterior(self.model_trace, name, names, self.layout.plate).movedim(0, -1)

    def _masked_log_prob(self, name: str, site: Site) -> Tensor:
        log_prob = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
        if site["mask"] is None or name not in self.layout.enumerated:
            return scale_and_mask(log_prob, mask=site["mask"])
        # masked out it is uniform: factors of one would add up to the number of values
        uniform = -math.log(site["fn"].enumerate_support(expand=False).shape[0])
        return scale_and_mask(log_prob - uniform, mask=site["mask"]) + uniform

    def _refuse_scale(self, name: str, site: Site) -> None:
        scale = self.scale(site)
        # N/B * B/N is one up to rounding
        if isinstance(scale, Tensor) or not math.isclose(scale, 1):
            raise ValueError(
                f"expected no poutine.scale at site {name!r}, which depends on an enumerated site, "
                f"got {scale}: a power of a sum is no sum of powers; scale other sites only, and "
                "subsample no plate but the data's"
            )

    def _summed_out(self, likelihood: bool) -> Tensor:
        observed = {n for n in self.coupled if self.model_trace.nodes[n]["is_observed"]}
        skipped = self.layout.imputed if likelihood else self.layout.imputed | observed
        names = [name for name in self.coupled if name not in skipped]
        result = contract(self.model_trace, names, (PARTICLES, self.layout.plate))
        return result.expand(self.particles, self.batch_size)


def _same(a: Any, b: Any) -> bool:
    # equal values of two tensors may differ at the next step of a captured graph
    return a is b or (not isinstance(a, Tensor) and not isinstance(b, Tensor) and bool(a == b))
