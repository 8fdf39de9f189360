r"""Data and programs from the options of ``fit`` and ``check``."""

__all__ = ["allowed", "build_data", "build_objective", "build_programs"]

from collections.abc import Mapping
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyro_vae.components import build
from pyro_vae.data import Data
from pyro_vae.layout import latent_sites, plate_dims
from pyro_vae.programs import Program, isolated, unchanged

Options = Mapping[str, Any]


def allowed(options: Options) -> dict[str, Any]:
    r"""What may be imported, as arguments of :func:`pyro_vae.components.build`."""
    return {"allow": options["allow"], "files": options["files"]}


def build_data(options: Options) -> Data:
    r"""The data; they are drawn and split by the run's seed unless they have one of their own."""
    data: Data = build(options["data"], "data", known={"seed": options["seed"]}, **allowed(options))
    return data


def build_programs(options: Options, data: Data) -> tuple[Program, Program]:
    r"""The model and the guide.

    Where their constructors have them and none are given, ``event_shape`` and ``likelihood`` are
    the data's, and a guide's ``sites`` the latent vectors of the model.
    """
    specs = {"model": options["model"], "guide": options["guide"]}
    likelihood = data.likelihood
    if options["likelihood"] is not None:
        likelihood = build(options["likelihood"], "likelihood", **allowed(options))
        specs = {name: _without(spec, "likelihood") for name, spec in specs.items()}
    # a list, as it will be where the run is loaded
    known: dict[str, Any] = {"event_shape": list(data.event_shape), "likelihood": likelihood}
    model = build(specs["model"], "model", known=known, **allowed(options))
    if sites := _vectors(model, data, options["inputs"]):
        known["sites"] = sites
    known["model"] = model  # of which autoguides are made
    guide = build(specs["guide"], "guide", known=known, **allowed(options))
    return model, guide


def build_objective(options: Options, data: Data) -> Any:
    r"""The objective, made for the data's ``event_shape`` where its constructor has that."""
    known = {"event_shape": list(data.event_shape)}
    return build(options["objective"], "objective", known=known, **allowed(options))


def _without(spec: Any, name: str) -> Any:
    r"""A description of a part without one of its arguments."""
    if not isinstance(spec, Mapping) or "init_args" not in spec:
        return spec
    return {**spec, "init_args": {k: v for k, v in spec["init_args"].items() if k != name}}


def _vectors(model: Program, data: Data, inputs: list[str]) -> dict[str, int]:
    r"""The widths of the model's latent vectors by site; none if it cannot be run."""
    rows: list[Tensor] = [data.train[name][:2] for name in inputs if name in data.train]
    dtype = torch.get_default_dtype()
    rows = [row.to(dtype) if row.is_floating_point() else row for row in rows]
    try:
        with torch.no_grad(), unchanged(model), poutine.block():
            sites = latent_sites(poutine.trace(isolated(model)).get_trace(*rows))
    except Exception:  # the checker says what is wrong with it
        return {}
    return {
        name: site["fn"].event_shape[0]
        for name, site in sites.items()
        if len(site["fn"].event_shape) == 1
        and plate_dims(site)
        and site["infer"].get("enumerate") != "parallel"
    }
