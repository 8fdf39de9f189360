r"""A model with its guide: their structure and their parameters, found once per kind of batch."""

__all__ = ["Pair", "Plan"]

from dataclasses import dataclass, replace
from operator import is_
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn

from pyro_vae.arguments import flatten
from pyro_vae.draws import Draw
from pyro_vae.layout import Layout, inspect, sample_sites
from pyro_vae.programs import (
    Program,
    free_tensors,
    isolated,
    modules,
    named_parameters,
    state,
    unchanged,
)


@dataclass(frozen=True)
class Plan:
    r"""What one inspection of a pair found, for batches of one structure.

    Arguments:
        structure: What the batches have in common, in plain values.
        layout: Its plates and the kinds of its sites.
        model: The parameters that the model uses, those it shares with the guide among them.
        guide: The other parameters that the guide uses.
        shared: The names of those that both use.
    """

    structure: Any
    layout: Layout
    model: tuple[Tensor, ...]
    guide: tuple[Tensor, ...]
    shared: tuple[str, ...]


class Pair:
    r"""A model and a guide that were inspected together.

    Arguments:
        model: The generative program.
        guide: The program that draws its latents.
        data_plate: The name of the data plate; by default ``data``, else the only plate that
            all observed sites share, else none: then the whole batch is one datum.

    Example:
        >>> from pyro_vae.guides import AmortizedNormal
        >>> from pyro_vae.models import VAE
        >>> pair = Pair(VAE((4,), latents=2), AmortizedNormal((4,), {"z": 2}))
        >>> pair.draw((torch.ones(3, 4),), {}, particles=5).log_weights.shape
        torch.Size([5, 3])
    """

    def __init__(self, model: Program, guide: Program, data_plate: str | None = None) -> None:
        self.model, self.guide, self.data_plate = isolated(model), isolated(guide), data_plate
        self.parameters: dict[str, Tensor] = {}
        self._plans: dict[Any, Plan] = {}
        self._modules: list[nn.Module] = []
        self._tables: list[dict[str, Any]] = []
        self._parts: list[Any] = []  # kept alive, so that no id comes twice
        self._leaves: dict[int, Tensor] = {}

    def draw(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        particles: int = 1,
        data_size: int | None = None,
    ) -> Draw:
        r"""Draws particles for a batch."""
        layout = self.plan(args, kwargs).layout
        return Draw(self.model, self.guide, args, kwargs, layout, particles, data_size)

    def plan(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Plan:
        r"""The plan for a batch; the programs are inspected if its structure is new.

        Batches may differ in sizes. What is new are other arguments, modes, frozen parameters,
        and modules or parameters that took the place of others.
        """
        present = self._present()
        if len(present) != len(self._parts) or not all(map(is_, present, self._parts)):
            self._forget()
        plan = self._plans.get(self._structure(args, kwargs))
        if plan is None:
            found = self._inspect(args, kwargs)
            plan = replace(found, structure=self._structure(args, kwargs))
            self._plans[plan.structure] = plan
        return plan

    def state(self) -> dict[str, Tensor]:
        r"""Every tensor that must be kept to have the pair again, by prefixed name, once."""
        found: dict[int, tuple[str, Tensor]] = {}
        for prefix, program in (("model.", self.model), ("guide.", self.guide)):
            for name, tensor in state(program, self._named(prefix)).items():
                found.setdefault(id(tensor), (prefix + name, tensor))
        return dict(found.values())

    def _present(self) -> list[Any]:
        r"""The modules' children and parameters, and those of Pyro's store."""
        found = [part for table in self._tables for part in table.values()]
        return found + [p for _, p in pyro.get_param_store().named_parameters()]

    def _find_parts(self) -> None:
        tops = [m for program in (self.model, self.guide) for m in modules(program).values()]
        self._modules = [module for top in tops for module in top.modules()]
        self._tables = [table for m in self._modules for table in (m._parameters, m._modules)]
        self._parts = self._present()

    def _forget(self) -> None:
        before = self._parts
        self._find_parts()
        gone = set(map(id, before)) - set(map(id, self._parts))
        self.parameters = {n: t for n, t in self.parameters.items() if id(t) not in gone}
        self._plans.clear()
        self._leaves.clear()

    def _named(self, prefix: str) -> dict[str, Tensor]:
        named = self.parameters.items()
        return {n.removeprefix(prefix): t for n, t in named if n.startswith(prefix)}

    def _structure(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        leaves, spec = flatten(args, kwargs)
        switches = (bool, str, type(None))
        kinds = tuple(leaf if isinstance(leaf, switches) else type(leaf) for leaf in leaves)
        modes = tuple(module.training for module in self._modules)
        return spec, kinds, modes, tuple(leaf.requires_grad for leaf in self._leaves.values())

    def _inspect(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Plan:
        layout = inspect(self.model, self.guide, args, kwargs, self.data_plate)
        with unchanged(self.model, self.guide), torch.no_grad(), poutine.block():
            drawn = poutine.trace(self.guide).get_trace(*args, **kwargs)
            for site in sample_sites(drawn).values():
                # a point of Delta is a view of the guide's parameter, which is not the model's
                site["value"] = site["value"].detach().clone()
            values = {id(site["value"]) for site in sample_sites(drawn).values()}
            used = free_tensors(poutine.replay(self.model, trace=drawn), *args, **kwargs)
            used = [tensor for tensor in used if id(tensor) not in values]
            used_by_guide = free_tensors(self.guide, *args, **kwargs)
        model = named_parameters(self.model, used, self._named("model."))
        guide = named_parameters(self.guide, used_by_guide, self._named("guide."))
        both = {id(t) for t in model.values()} & {id(t) for t in guide.values()}
        guide = {name: tensor for name, tensor in guide.items() if id(tensor) not in both}
        self._register("model.", model)
        self._register("guide.", guide)
        leaves = [t for t in (*used, *used_by_guide) if t.is_leaf and t.is_floating_point()]
        self._leaves.update((id(t), t) for t in leaves)
        self._find_parts()
        shared = tuple(name for name, tensor in model.items() if id(tensor) in both)
        return Plan(None, layout, tuple(model.values()), tuple(guide.values()), shared)

    def _register(self, prefix: str, tensors: dict[str, Tensor]) -> None:
        known = {id(tensor) for tensor in self.parameters.values()}
        new = {prefix + name: t for name, t in tensors.items() if id(t) not in known}
        self.parameters.update(new)
