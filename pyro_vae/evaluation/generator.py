r"""A model that generates rows."""

__all__ = ["Generator"]

import inspect
from collections.abc import Mapping
from functools import partial

import torch
from pyro import poutine
from pyro.poutine import Trace
from torch import Tensor, nn

from pyro_vae.capturable import Mode
from pyro_vae.captured import Captured
from pyro_vae.dreams import Dreaming
from pyro_vae.evaluation.fields import Rows, column
from pyro_vae.evaluation.rows import (
    Given,
    Mean,
    blind_mean,
    data_first,
    data_in_place,
    join,
    mean,
    outputs,
)
from pyro_vae.layout import latent_sites, plate_dims
from pyro_vae.pair import Pair
from pyro_vae.programs import Program, bare_program, isolated


class Generator:
    r"""A model, called without data, or with data of which it ignores what it observes.

    Arguments:
        model: The generative program.
        guide: The program that draws its latents, of which global ones are taken from it.
        batch: What the model is called with, or ``None`` if it is called as ``model(n=N)``.
        data_plate: The name of the data plate, where it would not be found.
        device: Where it is computed.

    Raises:
        ValueError: If a batch is needed, to call the model or to know what it observes.
    """

    def __init__(
        self,
        model: Program,
        guide: Program,
        batch: tuple[Tensor, ...] | None,
        data_plate: str | None,
        device: torch.device,
    ) -> None:
        self.model, self.guide, self.device = isolated(model), isolated(guide), device
        self.batch = None if batch is None else tuple(field.to(device) for field in batch)
        self.plate = data_plate
        if self.batch is None:
            _check_signature(model)
        else:
            first = tuple(field[:64] for field in self.batch)
            self.plate = Pair(model, guide, data_plate).plan(first, {}).layout.plate

        trace = self._trace(torch.zeros(1, dtype=torch.long, device=device), {})
        found = outputs(trace)
        if not found:
            raise ValueError(
                "expected model(n=…) to return the value of the site that it generates: return "
                "what pyro.sample returned there, or give batch= the arguments of the model"
            )
        if self.plate is None and self.batch is None:
            self.plate = _common_plate(trace)
        self.latents = {
            name: site
            for name, site in latent_sites(trace).items()
            if not any(site is output for output in found.values())
        }

    def captured(self, means: bool, mode: Mode, calls: int) -> Captured:
        r"""Generates rows, when it is called.

        Its arguments are the indices of the rows, with shape :math:`(N)`, and latents that are
        not drawn, by site; it returns what the model observes, by site, with shape
        :math:`(N, *)`.

        Arguments:
            means: Whether the means of the observed sites are returned in place of draws.
            mode: Whether it runs as a compiled graph.
            calls: How many calls of the sizes of the first there will be.
        """
        programs = {"model": self.model, "guide": self.guide}
        run = partial(self._run, mean if means else None)
        blind = partial(self._run, blind_mean) if means else None
        return Captured(run, programs, mode, calls, blind=blind)

    def _run(
        self, mean: Mean | None, rows: Tensor, given: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        values = {**self._shared(rows, given), **self._rows_of(given, rows)}
        found = outputs(self._trace(rows, values))
        return {
            name: data_first(mean(site["fn"]) if mean else site["value"], site, self.plate)
            for name, site in found.items()
        }

    def decode(
        self,
        latents: Rows | Mapping[str, Rows],
        dtype: torch.dtype | None,
        batch_size: int,
        mode: Mode = False,
    ) -> dict[str, Tensor]:
        r"""The means of what the model observes, by site, with shape :math:`(N, *)`."""
        given, count = self.given(latents, dtype)
        size = batch_size if self.plate else count
        rows = torch.arange(count, device=self.device).split(size)
        call = self.captured(means=True, mode=mode, calls=max(1, count // size))
        return join([call(part, given) for part in rows])

    def given(
        self, latents: Rows | Mapping[str, Rows], dtype: torch.dtype | None
    ) -> tuple[dict[str, Tensor], int]:
        r"""Names latents, and counts their rows; floating ones become ``dtype``.

        Raises:
            TypeError: If the latents are neither tensors nor arrays.
            ValueError: If names or shapes are not those of the model's latents, or if there are
                several numbers of rows.
        """
        sites = self.latents
        if not isinstance(latents, Mapping):
            names = [n for n, s in sites.items() if s["infer"].get("enumerate") != "parallel"]
            if len(names) != 1:
                raise ValueError(
                    f"expected latents by site, since the model has the sites {names}, got a "
                    "tensor: give a dictionary"
                )
            latents = {names[0]: latents}
        if not latents:
            raise ValueError(
                f"expected latents of some of the sites {sorted(sites)}, got none: sample draws "
                "them all"
            )
        if unknown := sorted(set(latents) - set(sites)):
            raise ValueError(f"expected latents of the sites {sorted(sites)}, got {unknown}")
        found = {name: column(value, name, dtype) for name, value in latents.items()}
        counts = set()
        for name, value in found.items():
            local = self._is_local(name)
            shape = data_first(sites[name]["value"], sites[name], self.plate).shape[local:]
            if value.shape[local:] != shape or value.dim() < local:
                raise ValueError(
                    f"expected latents {name!r} with shape {('N',) * local + tuple(shape)}, got "
                    f"{tuple(value.shape)}"
                )
            counts |= {value.shape[0]} if local else set()
        if len(counts) > 1:
            raise ValueError(f"expected latents with one number of rows, got {sorted(counts)}")
        if counts == {0}:
            raise ValueError("expected latents of at least one row, got none")
        counts = counts or {1 if self.batch is None else self.batch[0].shape[0]}
        return {n: t.to(self.device) for n, t in found.items()}, counts.pop()

    def _is_local(self, name: str) -> bool:
        return self.plate is not None and self.plate in plate_dims(self.latents[name])

    def _rows_of(self, given: Mapping[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
        return {
            name: data_in_place(value[rows], self.latents[name], self.plate)
            if self._is_local(name)
            else value
            for name, value in given.items()
        }

    def _shared(self, rows: Tensor, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        r"""Global latents that are not given, from the guide."""
        names = [n for n in self.latents if not self._is_local(n) and n not in given]
        if self.plate is None or not names:
            return {}
        if self.batch is None:
            raise ValueError(
                f"expected a batch, since the latents {names} outside the data plate "
                f"{self.plate!r} are drawn from the guide: give batch= the arguments of both"
            )
        drawn = latent_sites(poutine.trace(self.guide).get_trace(*self._batch(rows)))
        return {name: drawn[name]["value"] for name in names}

    def _trace(self, rows: Tensor, given: Mapping[str, Tensor]) -> Trace:
        program = poutine.trace(Given(given)(Dreaming()(self.model)))
        if self.batch is None:
            return program.get_trace(n=rows.shape[0])
        return program.get_trace(*self._batch(rows))

    def _batch(self, rows: Tensor) -> tuple[Tensor, ...]:
        assert self.batch is not None
        if self.plate is None:
            return self.batch
        return tuple(field[rows % field.shape[0]] for field in self.batch)


def _check_signature(model: Program) -> None:
    # a module's call takes anything
    bare = bare_program(model)
    signature = inspect.signature(bare.forward if isinstance(bare, nn.Module) else bare)
    if "n" not in signature.parameters:
        raise ValueError(
            f"expected a model that can be called as model(n=…), got one with the arguments "
            f"{signature}: give batch= rows that it can be called with"
        )


def _common_plate(trace: Trace) -> str | None:
    r"""The plate named ``data``, else the only one that holds all that is generated."""
    plates = [set(plate_dims(site)) for site in outputs(trace).values()]
    common = set.intersection(*plates)
    return "data" if "data" in common else common.pop() if len(common) == 1 else None
