r"""States one after the other; in graphs, a few steps as a function that is compiled once."""

__all__ = ["recur"]

from collections.abc import Callable, Sequence
from itertools import chain, count
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

Step = Callable[..., Tensor]

# what the compiler of earlier ones, or for accelerators, makes of regions was not tried
_REGIONS = torch.__version__ >= "2.15"

# steps that are compiled together: more take longer to compile, fewer take longer to run
_SHORTEST, _LONGEST = 4, 6

_names = count()

_PLAIN = torch.contiguous_format


def recur(step: Step, state: Tensor, inputs: Sequence[Tensor], steps: int) -> Tensor:
    r"""Takes a step again and again, from a state to the next.

    .. math:: z_t = f(z_{t-1}, u_t), \qquad t = 1, \dots, S

    It is a loop, but in graphs on the CPU a few steps are one function, compiled once and called
    many times: compiling takes hardly longer for a larger :math:`S`. For gradients the steps are
    taken again, so that these have none themselves. A step is unrolled all the same if it writes to
    tensors in place, differentiates, changes the kind of state, or draws otherwise than by
    ``normal_``, ``uniform_`` or ``exponential_``, as dropout does.

    Arguments:
        step: The function :math:`f`, called with a state and a row of each of the inputs.
        state: The state :math:`z_0`, with shape :math:`(*, 1, D)`; the next ones have it, too.
        inputs: Tensors with shape :math:`(*, S, I)`, of which a step gets :math:`(*, 1, I)`.
        steps: The number of steps :math:`S`.

    Returns:
        The states :math:`z_{1:S}`, with shape :math:`(*, S, D)`.

    Raises:
        ValueError: If state or inputs have another shape.
        NotImplementedError: If gradients are differentiated again, in graphs.

    Example:
        >>> recur(lambda z, u: z / 2 + u, torch.zeros(1, 1), [torch.ones(3, 1)], 3)
        tensor([[1.0000],
                [1.5000],
                [1.7500]])
    """
    _check(state, inputs, steps)
    size = _chunk(steps)
    # elsewhere a step is Python that runs once; Dynamo, if it reads this, sees a loop
    compiling = torch.compiler.is_compiling() and not torch.compiler.is_dynamo_compiling()
    tried = _REGIONS and state.device.type == "cpu"
    compiling = compiling and tried and not _is_inside()
    seen = _look(step, state, inputs) if compiling and steps >= 2 * size else None
    whole = 0 if seen is None else steps // size
    parts = []
    if seen is not None:
        region = _Region(step, size, len(inputs), seen)
        rows = [each[..., : whole * size, :] for each in inputs]
        parts.append(region(state, rows, whole))
        state = parts[-1][..., -1:, :]
    for t in range(whole * size, steps):
        state = step(state, *(each[..., t : t + 1, :] for each in inputs))
        parts.append(state)
    return torch.cat(parts, -2)


def _is_inside() -> bool:
    r"""Whether this is a step of another recurrence, of which that makes regions."""
    return any(isinstance(mode, _Seen | _Given) for mode in _get_current_function_mode_stack())


def _check(state: Tensor, inputs: Sequence[Tensor], steps: int) -> None:
    if steps < 1:
        raise ValueError(f"expected steps of at least 1, got {steps}")
    if state.dim() < 2 or state.shape[-2] != 1:
        raise ValueError(
            f"expected a state with shape (*, 1, D), got {tuple(state.shape)}: use .unsqueeze(-2)"
        )
    for each in inputs:
        if (shape := tuple(each.shape))[-2:-1] != (steps,):
            raise ValueError(f"expected inputs with shape (*, {steps}, I), got {shape}")


def _look(step: Step, state: Tensor, inputs: Sequence[Tensor]) -> "_Seen | None":
    r"""What a step uses and draws; ``None`` if it does what a region cannot."""
    # copies: the step uses them nowhere else, and may write to them unseen
    given = [state.clone(), *(each[..., :1, :].clone() for each in inputs)]
    seen = _Seen(given)
    watch: Any = _Watch  # untyped
    try:
        with torch.no_grad(), seen, watch():
            after = step(*given)
    except _Refused:
        return None
    # all calls of a region are given the same kind of state, and leave it as it is
    alike = after.shape == state.shape and after.dtype == state.dtype
    return seen if alike and not any(tensor._version for tensor in given) else None


def _chunk(steps: int) -> int:
    r"""The number of steps in a part, such that few are left over."""
    return min(range(_SHORTEST, _LONGEST + 1), key=lambda size: (steps % size, -size))


class _Refused(Exception):  # noqa: N818, it is none of the user's
    r"""A step did what a region cannot do, and nothing came of it."""


# they write statistics, or want gradients, of which a look has none
_QUIETLY = {"batch_norm", "instance_norm", "grad", "backward"}
_DRAWS = {Tensor.normal_, Tensor.uniform_, Tensor.exponential_}


class _Seen(TorchFunctionMode):
    r"""Finds the tensors that a step uses, was not given and did not make, and what it draws."""

    def __init__(self, given: Sequence[Tensor]) -> None:
        super().__init__()
        self.made = {id(tensor): tensor for tensor in given}  # kept alive: no id comes twice
        self.free: dict[int, Tensor] = {}
        self.draws: list[tuple[Any, Tensor, tuple[Any, ...], dict[str, Any]]] = []

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        for tensor in _tensors((args, kwargs)):
            if id(tensor) not in self.made:
                self.free.setdefault(id(tensor), tensor)
        if func in _DRAWS and not _tensors((args[1:], kwargs)) and not self._is_free(args[0]):
            # it is drawn outside: inside, backward would draw it again
            self.draws.append((func, args[0], args[1:], kwargs))
            return args[0]
        if _writes(func, kwargs):
            raise _Refused
        result = func(*args, **kwargs)
        for tensor in _tensors(result):
            if id(tensor) not in self.free:
                self.made[id(tensor)] = tensor
        return result

    def _is_free(self, tensor: Any) -> bool:
        return id(tensor) in self.free


class _Watch(TorchDispatchMode):
    r"""Refuses what else is drawn."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if torch.Tag.nondeterministic_seeded in func.tags:
            raise _Refused
        return func(*args, **(kwargs or {}))


class _Given(TorchFunctionMode):
    r"""Puts what a region is given in the place of what its step uses and draws."""

    def __init__(self, table: dict[int, Tensor], draws: Sequence[Tensor]) -> None:
        super().__init__()
        self.table, self.draws = table, iter(draws)

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        args, kwargs = tree_map_only(Tensor, self._substitute, (args, kwargs or {}))
        if func in _DRAWS and not _tensors((args[1:], kwargs)):
            return args[0].copy_(next(self.draws))
        return func(*args, **kwargs)

    def _substitute(self, tensor: Tensor) -> Tensor:
        return self.table.get(id(tensor), tensor)


class _Region:
    r"""A few steps as a function of a graph, and their gradients as another.

    The compiler plans memory as if what a region returns were its own, all of it, from the first
    number on. So it returns one concatenation, never what it was given or a part of what it made,
    as what is kept for gradients would be, for which the steps are taken again; nor a sum: where
    a summand is zero, the compiler returns the other. Each step gets its own inputs, which makes
    the code of all steps the same.

    Arguments:
        step: The step.
        size: Their number.
        inputs: How many inputs a step has.
        seen: What one step uses and draws.
    """

    def __init__(self, step: Step, size: int, inputs: int, seen: _Seen) -> None:
        self.step, self.size, self.inputs, self.draws = step, size, inputs, seen.draws
        self.name = f"recurrence_{next(_names)}"
        self.originals = seen.free  # by id, and kept alive: no id comes twice
        # a view is what stands for a tensor where others take its place
        self.free = [tensor.view_as(tensor) for tensor in seen.free.values()]

    def __call__(self, state: Tensor, inputs: Sequence[Tensor], calls: int) -> Tensor:
        r"""The states after ``state``, with shape :math:`(*, S, D)`."""
        rows = [each.movedim(-2, 0).unsqueeze(-2) for each in inputs]  # (S, *, 1, I)
        draws = [
            func(torch.empty_like(made), *args, **kwargs)
            for _ in range(calls * self.size)
            for func, made, args, kwargs in self.draws
        ]
        operands = [*map(_plain, (state, *rows)), *draws, *self.free]
        found: Tensor = _Calls.apply(self, calls, *operands)
        return found.squeeze(-2).movedim(0, -2)

    def take(self, state: Tensor, *given: Tensor) -> list[Tensor]:
        r"""The states after ``state``, given inputs and draws of each step, and free tensors."""
        each = self.inputs + len(self.draws)
        free = given[each * self.size :]
        states = []
        for t in range(self.size):
            rows, draws = given[each * t :][: self.inputs], given[each * t :][self.inputs : each]
            with _Given(dict(zip(self.originals, free, strict=True)), draws):
                state = self.step(state, *rows)
            states.append(state)
        return states

    def states(self, *operands: Tensor) -> tuple[Tensor]:
        return (torch.stack(self.take(*operands)),)  # (size, *, 1, D)


class _Calls(torch.autograd.Function):
    r"""A region, called again and again."""

    @staticmethod
    def forward(ctx: Any, region: _Region, calls: int, *operands: Tensor) -> Tensor:
        state, *rest = operands
        parts, before = [], []
        for given in _given(region, calls, rest):
            before.append(state)
            (states,) = _invoke(region.states, region.name, [state, *given])
            parts.append(states)
            state = states[-1]
        ctx.region, ctx.calls = region, calls
        ctx.save_for_backward(*operands, *before)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # what torch has for it fails to refuse in a graph
            raise NotImplementedError("expected gradients without create_graph=True")
        region, calls, size = ctx.region, ctx.calls, ctx.region.size
        (_, *rest), before = ctx.saved_tensors[:-calls], ctx.saved_tensors[-calls:]
        needs = ctx.needs_input_grad[2:]
        backward = _Backward(region, needs)
        slopes = _copy(gradients[0])  # (S, *, 1, D)
        last, parts = slopes[-1], []
        sums = last.new_zeros(backward.size(rest))
        for i, given in reversed(list(enumerate(_given(region, calls, rest)))):
            earlier = [*slopes[i * size : (i + 1) * size - 1], last]
            ahead = slopes[i * size - 1] if i else torch.zeros_like(last)
            last, rows, sums = backward(sums, ahead, earlier, [before[i], *given])
            parts.append(rows)
        rows = [torch.cat(each) for each in zip(*reversed(parts), strict=True)]
        found = iter([last, *rows, *backward.split(sums, rest)])
        placed = [next(found) if needed or i == 0 else None for i, needed in enumerate(needs)]
        return (None, None, *placed)


class _Backward:
    r"""A region's gradients: a graph that is traced at its first call.

    Arguments:
        region: The region.
        needs: Which of its state, inputs, draws and free tensors need a gradient.
    """

    def __init__(self, region: _Region, needs: Sequence[bool]) -> None:
        self.region = region
        self.rows = needs[1 : 1 + region.inputs]
        self.free = needs[len(needs) - len(region.free) :]
        self.graph: Any = None

    def size(self, operands: Sequence[Tensor]) -> int:
        r"""Of all gradients for free tensors, end to end, and one number more."""
        return 1 + sum(tensor.numel() for tensor in self._wanted(operands))

    def split(self, sums: Tensor, operands: Sequence[Tensor]) -> list[Tensor]:
        r"""The gradients for free tensors."""
        wanted = self._wanted(operands)
        parts = sums[:-1].split([tensor.numel() for tensor in wanted])
        return [part.view(t.shape).to(t.dtype) for part, t in zip(parts, wanted, strict=False)]

    def _wanted(self, operands: Sequence[Tensor]) -> list[Tensor]:
        free = operands[len(operands) - len(self.free) :]
        return [tensor for tensor, needed in zip(free, self.free, strict=True) if needed]

    def __call__(
        self,
        sums: Tensor,
        ahead: Tensor,
        slopes: Sequence[Tensor],
        operands: Sequence[Tensor],
    ) -> tuple[Tensor, list[Tensor], Tensor]:
        r"""The gradients for a state, inputs and free tensors.

        Arguments:
            sums: The gradients for the free tensors so far, end to end.
            ahead: What else is the gradient for the state before.
            slopes: The gradients for the states after it.
            operands: What the region is given.
        """
        from torch._higher_order_ops.utils import materialize_as_graph

        given = [sums, ahead, *slopes, *operands]
        if self.graph is None:  # not in a region, in which nothing is differentiated any more
            self.graph = materialize_as_graph(self._take, tuple(given), force_enable_grad=True)
        (found,) = _invoke(self.graph, f"{self.region.name}_gradients", given)
        size = self.region.size
        rows = [x for x, needed in zip(operands[1:], self.rows, strict=False) if needed]
        sizes = [ahead.numel(), *(size * row.numel() for row in rows), sums.numel()]
        before, *slopes, sums = found.split(sizes)
        pairs = zip(slopes, rows, strict=True)
        return before.view(ahead.shape), [s.view(size, *x.shape) for s, x in pairs], sums

    def _take(self, sums: Tensor, ahead: Tensor, *given: Tensor) -> tuple[Tensor]:
        region, kinds = self.region, sum(self.rows)
        slopes, operands = given[: region.size], given[region.size :]
        needs = [True, *[*self.rows, *[False] * len(region.draws)] * region.size, *self.free]
        leaves = [x.detach().requires_grad_(n) for x, n in zip(operands, needs, strict=True)]
        pairs = [p for p in zip(region.take(*leaves), slopes, strict=True) if p[0].requires_grad]
        nothing = leaves[0], torch.zeros_like(leaves[0])  # where no state has a gradient
        states, slopes = zip(*pairs or [nothing], strict=True)
        wanted = [leaf for leaf in leaves if leaf.requires_grad]
        slopes = torch.autograd.grad(states, wanted, slopes, materialize_grads=True)
        before, *found = (slope.flatten().to(sums.dtype) for slope in slopes)
        steps = kinds * region.size
        rows = [row for i in range(kinds) for row in found[i:steps:kinds]]
        free = torch.cat([*found[steps:], sums.new_zeros(1)])
        return (torch.cat([ahead.flatten() + before, *rows, sums + free]),)


def _given(region: _Region, calls: int, operands: Sequence[Tensor]) -> list[list[Tensor]]:
    r"""What each call of a region is given besides a state."""
    count, free = len(region.draws), operands[len(operands) - len(region.free) :]
    inputs, draws = operands[: region.inputs], operands[region.inputs :]
    steps = [
        [*(each[t] for each in inputs), *draws[t * count : (t + 1) * count]]
        for t in range(calls * region.size)
    ]
    parts = [steps[i * region.size : (i + 1) * region.size] for i in range(calls)]
    return [[*chain.from_iterable(part), *free] for part in parts]


class _Plain(torch.autograd.Function):
    r"""A tensor with the memory layout that all calls of a region share."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return _copy(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


def _plain(tensor: Tensor) -> Tensor:
    found: Tensor = _Plain.apply(tensor)
    return found


def _copy(tensor: Tensor) -> Tensor:
    return tensor.clone(memory_format=_PLAIN)


def _invoke(function: Any, name: str, operands: Sequence[Tensor]) -> tuple[Tensor, ...]:
    r"""Calls a function that is a region: the graph holds one function of that name."""
    from torch._higher_order_ops.invoke_subgraph import invoke_subgraph

    with torch._C._AutoDispatchBelowAutograd():
        found: tuple[Tensor, ...] = tuple(invoke_subgraph(function, name, *operands))
    return found


def _writes(func: Any, kwargs: dict[str, Any]) -> bool:
    name: str = getattr(func, "__name__", "")
    if name in _QUIETLY or kwargs.get("out") is not None:
        return True
    in_place = name.endswith("_") and not name.endswith("__")
    return in_place or name == "__setitem__" or (name.startswith("__i") and name != "__invert__")


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
