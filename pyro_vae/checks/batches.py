r"""What other batches show: events that grow with them, a guide that does not look at them."""

__all__ = ["check_attention", "check_growth", "rows_of"]

from collections.abc import Iterator
from typing import Any

import torch
from pyro import distributions as dist
from pyro.infer.autoguide import AutoGuide
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from pyro_vae.checks.finding import Finding, Severity
from pyro_vae.checks.plates import check_sizes
from pyro_vae.checks.trial import Trial, quiet, run
from pyro_vae.layout import Site, frames, latent_sites, sample_sites
from pyro_vae.programs import Program, modules, owner

Batch = tuple[tuple[Any, ...], dict[str, Any]]


def rows_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    r"""The number of rows of a batch's first tensor that has any; zero without one."""
    found = (leaf.shape[0] for leaf in tree_leaves((args, kwargs)) if _has_rows(leaf))
    return next(found, 0)


def check_growth(
    model: Trial, guide: Trial, programs: tuple[Program, Program], batch: Batch, size: int | None
) -> Iterator[Finding]:
    r"""Finds sites whose event grows with the batch, and plates that do not.

    Outside the data plate an event may, if each batch is all the data; then plates need not.

    Arguments:
        model: A run of the model.
        guide: A run of the guide.
        programs: Both programs.
        batch: The arguments of both.
        size: The size of the whole data, or ``None``.
    """
    rows = rows_of(*batch)
    if rows < 2:
        return
    args, kwargs = tree_map(lambda leaf: leaf[:-1] if _counts(leaf, rows) else leaf, batch)
    q = run("guide", programs[1], args, kwargs)
    p = run("model", programs[0], args, kwargs, None if q.error else q.trace)
    for trial, shorter in ((guide, q), (model, p)):
        fewer = sample_sites(shorter.trace)
        for name, site in sample_sites(trial.trace).items():
            inside = any(frame.size == rows for frame in frames(site))
            asked = inside or (size is not None and size > rows and _has_plate(model, rows))
            if asked and name in fewer and _grew(site, fewer[name]):
                yield trial.finding(name, *_grown(site, fewer[name], rows, inside))
    # an autoguide is made for one number of rows
    if size != rows and not isinstance(owner(programs[1]), AutoGuide):
        least: Severity = "warning" if size is None or size % rows == 0 else "error"
        yield from check_sizes((model, guide), (p, q), rows, least)


def _grew(site: Site, fewer: Site) -> bool:
    before, after = site["fn"].event_shape, fewer["fn"].event_shape
    return len(before) == len(after) and before != after


def _grown(site: Site, fewer: Site, rows: int, inside: bool) -> tuple[str, str]:
    message = (
        f"expected an event_shape that is that of one datum, got {tuple(site['fn'].event_shape)} "
        f"in a batch of {rows} and {tuple(fewer['fn'].event_shape)} in one of {rows - 1}"
    )
    nested = site["fn"].reinterpreted_batch_ndims if isinstance(site["fn"], dist.Independent) else 0
    if not inside:
        return message, "move the site into the data plate, or give the whole data in one batch"
    lower = f".to_event({nested - 1})" if nested > 1 else "no .to_event"
    return message, (
        f"the dimension of the data belongs to the plate: write {lower} in place of "
        f".to_event({nested}); else every datum is counted {rows} times"
        if nested
        else "take the shape of one datum, such as x.shape[1:], in place of that of the batch"
    )


def check_attention(
    trial: Trial, guide: Program, batch: Batch, trained: set[int]
) -> Iterator[Finding]:
    r"""Finds a guide that runs a network and gives all data the same posterior.

    A guide without networks may do so on purpose: its posterior is learnt, not amortised. Nor
    is a network suspicious whose last layer starts at zero: it will see the data as soon as it
    is trained. What sees only a mean over the batch is.

    Arguments:
        trial: A run of the guide.
        guide: The guide.
        batch: Its arguments.
        trained: The ``id`` of each parameter that gradients reach.
    """
    rows = rows_of(*batch)
    local = {
        name: site
        for name, site in latent_sites(trial.trace).items()
        if any(frame.size == rows for frame in frames(site))
    }
    rolled = tree_map(lambda leaf: leaf.roll(1, 0) if _counts(leaf, rows) else leaf, batch)
    if not local or not _differ(batch, rolled) or not _runs_network(guide, trained):
        return
    first = next(iter(local))
    if _same_rows(local[first], rows) and not _looks(trial, guide, batch, rolled, set(local)):
        yield trial.finding(
            first,
            f"expected a posterior that depends on its datum, got the same one for all {rows}, "
            "although the guide runs a network",
            "give the network the batch; without one, a learnt posterior that all data share is "
            "stated by PyroParam or pyro.param",
            "warning",
        )


def _looks(trial: Trial, guide: Program, batch: Batch, rolled: Batch, names: set[str]) -> bool:
    r"""Whether other data change a posterior, or will once the guide is trained."""
    inputs = tree_map(_differentiable, batch)
    wanted = [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)]
    wanted = [leaf for leaf in wanted if leaf.requires_grad]
    found = []
    with quiet(guide):
        for args, kwargs in (inputs, rolled):
            with torch.random.fork_rng(()):
                again = run("guide", guide, args, kwargs, trial.trace)
            if again.error is not None:
                return True
            sites = sample_sites(again.trace)
            found.append(torch.cat([_log_prob(sites[n]) for n in sorted(names & sites.keys())]))
    if wanted and found[0].requires_grad:
        gradients = torch.autograd.grad(found[0].sum(), wanted, allow_unused=True)
        gradients = tuple(gradient for gradient in gradients if gradient is not None)
        # a last layer that starts at zero passes none on, unlike a mean over the batch
        if gradients and not any(bool(gradient.any()) for gradient in gradients):
            return True
    return not torch.equal(*found)


def _log_prob(site: Site) -> Tensor:
    return site["fn"].log_prob(site["value"]).flatten()


def _same_rows(site: Site, rows: int) -> bool:
    r"""Whether a site's distribution is the same in every row of the data plate."""
    dim = next(frame.dim for frame in frames(site) if frame.size == rows)
    place = dim - len(site["fn"].event_shape)
    value = site["value"].detach()
    log_prob = site["fn"].log_prob(value.narrow(place, 0, 1).expand_as(value))
    return bool((log_prob == log_prob.narrow(dim, 0, 1)).all())


def _runs_network(guide: Program, trained: set[int]) -> bool:
    tops = modules(guide).values()
    return any(
        id(parameter) in trained
        for top in tops
        for module in top.modules()
        if any(base.__module__.startswith("torch.nn.modules") for base in type(module).__bases__)
        or type(module).__module__.startswith("torch.nn.modules")
        if not isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict)
        for parameter in module.parameters(recurse=False)
        if parameter.dim() > 1
    )


def _differ(batch: Batch, other: Batch) -> bool:
    pairs = zip(tree_leaves(batch), tree_leaves(other), strict=True)
    return any(isinstance(a, Tensor) and not torch.equal(a, b) for a, b in pairs)


def _differentiable(leaf: Any) -> Any:
    floating = isinstance(leaf, Tensor) and leaf.is_floating_point()
    return leaf.detach().clone().requires_grad_() if floating else leaf


def _counts(leaf: Any, rows: int) -> bool:
    return _has_rows(leaf) and leaf.shape[0] == rows


def _has_rows(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.dim() > 0


def _has_plate(trial: Trial, rows: int) -> bool:
    sites = sample_sites(trial.trace).values()
    return any(frame.size == rows for site in sites for frame in frames(site))
