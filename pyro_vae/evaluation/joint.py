r"""The joint density of data and latents, with latents that range over all real numbers."""

__all__ = ["Joint", "Observing"]

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions.util import sum_rightmost
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import biject_to

from pyro_vae.draws import Draw
from pyro_vae.evaluation.rows import is_discrete
from pyro_vae.evaluation.weights import check_local
from pyro_vae.layout import (
    PARTICLES,
    Site,
    frames,
    inspect,
    latent_sites,
    plate_dims,
    undrawn,
)
from pyro_vae.programs import Program, isolated

Values = Mapping[str, Tensor]


class Observing(Messenger):
    r"""Has a model observe other values, by site, than those that it was called with."""

    def __init__(self, values: Values) -> None:
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] and msg["name"] in self.values:
            msg["value"] = self.values[msg["name"]]


class Joint:
    r"""The joint density of each datum and its latents, in unconstrained coordinates.

    .. math::
        \log f(u) = \log p(z) + \log \left| \frac{\partial z}{\partial u} \right|
            + \log p(x_n \mid z), \qquad z = g(u)

    Here :math:`g` maps the real numbers onto the support of each site. All the latents of a
    datum that the model does not sum out stand in one vector :math:`u`, so that nothing which
    moves it needs to know of sites and plates.

    Arguments:
        model: The generative program.
        batch: What it is called with, :math:`N` data.
        particles: How many vectors :math:`K` each datum has.
        data_plate: The name of the data plate, where it would not be found.

    Raises:
        ValueError: If a latent is discrete, global, or has a support that depends on other
            latents; if sites depend on the unobserved part of an ``obs_mask`` site.

    Example:
        >>> from pyro_vae.models import VAE
        >>> joint = Joint(VAE((4,), latents=2), (torch.ones(3, 4),), particles=5)
        >>> u = joint.draw_prior()
        >>> u.shape
        torch.Size([5, 3, 2])
        >>> log_prior, log_likelihood = joint(u)
        >>> log_likelihood.shape
        torch.Size([5, 3])
    """

    def __init__(
        self,
        model: Program,
        batch: tuple[Any, ...],
        particles: int,
        data_plate: str | None = None,
    ) -> None:
        self.model, self.batch, self.particles = isolated(model), batch, particles
        trace = self._trace()
        self._names = undrawn(Trace(), trace)[2]
        alone = {name: (site["value"], None) for name, site in self._latents(trace).items()}
        points = partial(_points, self._latents(trace), alone)
        self.layout = inspect(self.model, points, batch, {}, data_plate)
        self._check_imputed()
        check_local(self.layout)

        with self._plate():
            self.sites = self._latents(self._trace())
            again = self._latents(self._trace())
        for name, site in self.sites.items():
            _check_continuous(name, site)
        self._maps = {name: biject_to(site["fn"].support) for name, site in self.sites.items()}
        with pyro.validation_enabled(False):
            inner = {name: g.inv(self.sites[name]["value"]) for name, g in self._maps.items()}
        for name, u in inner.items():
            _check_support(name, u, self.sites[name], again[name])
        self._shapes = {name: self._rows(name, u).shape[2:] for name, u in inner.items()}

    def draw_prior(self) -> Tensor:
        r"""Latents that the model draws, with shape :math:`(K, N, D)`."""
        with self._plate():
            drawn = self._latents(self._trace())
        return self.pack({name: site["value"] for name, site in drawn.items()})

    def pack(self, latents: Values) -> Tensor:
        r"""The vectors of latents as the model draws them, for all particles or for one."""
        parts = []
        for name, g in self._maps.items():
            u = g.inv(latents[name].expand(self.sites[name]["value"].shape))
            parts.append(self._rows(name, u).reshape(self.particles, self._size, -1))
        return torch.cat(parts, -1) if parts else torch.zeros(self.particles, self._size, 0)

    def unpack(self, u: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        r"""The latents of vectors, and :math:`\log |\partial z / \partial u|`, by site."""
        parts = u.split([shape.numel() for shape in self._shapes.values()], -1)
        found = {}
        for (name, g), part in zip(self._maps.items(), parts, strict=True):
            inner = self._from_rows(name, part.reshape(*u.shape[:2], *self._shapes[name]))
            z = g(inner)
            log_det = g.log_abs_det_jacobian(inner, z)
            batch = z.dim() - self.sites[name]["fn"].event_dim
            found[name] = z, sum_rightmost(log_det, log_det.dim() - batch)
        return found

    def draw(self, u: Tensor) -> Draw:
        r"""The densities at vectors, by site; ``log_guide`` is that of the coordinates."""
        points = {name: (z, -log_det) for name, (z, log_det) in self.unpack(u).items()}
        guide = partial(_points, self.sites, points)
        return Draw(self.model, guide, self.batch, {}, self.layout, self.particles)

    def __call__(self, u: Tensor) -> tuple[Tensor, Tensor]:
        r"""The logarithms of :math:`p(z) |\partial z / \partial u|` and :math:`p(x_n \mid z)`.

        Arguments:
            u: The vectors, with shape :math:`(K, N, D)`.

        Returns:
            Two tensors with shape :math:`(K, N)`.
        """
        with pyro.validation_enabled(False):  # what is proposed may lie anywhere
            draw = self.draw(u)
            prior = draw.combine(draw.log_prior.items()) - draw.combine(draw.log_guide.items())
            return prior, draw.log_likelihood

    @property
    def _size(self) -> int:
        return 1 if self.layout.plate is None else self.batch[0].shape[0]

    @contextmanager
    def _plate(self) -> Iterator[None]:
        # one particle has no plate, as in a draw
        dim = -self.layout.nesting - 1
        several = self.particles > 1
        with pyro.plate(PARTICLES, self.particles, dim=dim) if several else nullcontext():
            yield

    def _trace(self) -> Trace:
        return poutine.trace(self.model).get_trace(*self.batch)

    def _latents(self, trace: Trace) -> dict[str, Site]:
        return {n: site for n, site in latent_sites(trace).items() if n in self._names}

    def _rows(self, name: str, u: Tensor) -> Tensor:
        r"""Brings a site's coordinates into the shape :math:`(K, N, *)`."""
        u = u if self.particles > 1 else u[None]
        return u[:, None] if self.layout.plate is None else u.movedim(self._axis(name), 1)

    def _from_rows(self, name: str, u: Tensor) -> Tensor:
        u = u.squeeze(1) if self.layout.plate is None else u.movedim(1, self._axis(name))
        return u if self.particles > 1 else u[0]

    def _axis(self, name: str) -> int:
        r"""Where the data stand in a site's coordinates, which may have other event dimensions."""
        site, g = self.sites[name], self._maps[name]
        event = site["fn"].event_dim + g.domain.event_dim - g.codomain.event_dim
        return plate_dims(site)[self.layout.plate or ""] - event

    def _check_imputed(self) -> None:
        if self.layout.passed_on:
            raise ValueError(
                f"expected no site to depend on the unobserved part of an obs_mask site, got such "
                f"at {sorted(self.layout.passed_on)}: the model draws it anew at each step"
            )


def _points(
    sites: Mapping[str, Site], points: Mapping[str, tuple[Tensor, Tensor | None]], *_: Any
) -> None:
    r"""A guide that draws points, in the plates that their sites stand in."""
    plates: dict[str, Any] = {}
    for name, site in sites.items():
        value, log_density = points[name]
        with ExitStack() as stack:
            for frame in frames(site):
                if frame.name not in (PARTICLES, *plates):
                    rows, size = torch.arange(frame.size), frame.full_size or frame.size
                    plate = pyro.plate(frame.name, size, subsample=rows, dim=frame.dim)
                    plates[frame.name] = plate
                if frame.name != PARTICLES:
                    stack.enter_context(plates[frame.name])
            density = 0.0 if log_density is None else log_density
            pyro.sample(name, dist.Delta(value, density, event_dim=site["fn"].event_dim))


def _check_continuous(name: str, site: Site) -> None:
    if is_discrete(site["fn"]):
        raise ValueError(
            f"expected continuous latents, through which gradients pass, got the discrete site "
            f'{name!r}: mark it infer={{"enumerate": "parallel"}} in '
            "the model, which sums it out, or ask for the metric 'nll'"
        )


def _check_support(name: str, u: Tensor, first: Site, second: Site) -> None:
    a, b = (biject_to(site["fn"].support)(u) for site in (first, second))
    if not torch.equal(a, b):
        raise ValueError(
            f"expected latents with the same support whatever the others are, got {name!r} with "
            f"one that depends on them ({type(first['fn']).__name__}): write it as a function of "
            "a latent that has a support of its own"
        )
