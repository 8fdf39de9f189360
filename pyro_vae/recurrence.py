r"""States one after the other; in graphs, a few steps as a function that is compiled once."""

__all__ = ["recur"]

from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

Step = Callable[..., Tensor]

# Inductor's code for regions has corrupted memory (benchmarks/NOTES.md): until that is understood,
# graphs are unrolled, and only the tests, through aot_eager, have regions
_REGIONS = False

# steps that are compiled together: more take longer to compile, fewer take longer to run
_SHORTEST, _LONGEST = 4, 6

_names = count()


def recur(step: Step, state: Tensor, inputs: Sequence[Tensor], steps: int) -> Tensor:
    r"""Takes a step again and again, from a state to the next.

    .. math:: z_t = f(z_{t-1}, u_t), \qquad t = 1, \dots, S

    It is a loop, which graphs unroll. Where regions are switched on, which they are not yet, a few
    steps become one function of a graph that is traced, compiled once and called many times: the
    time to compile it does not grow with :math:`S`. A step that writes to tensors it did not make,
    or draws otherwise than by ``normal_``, ``uniform_`` or ``exponential_``, as dropout does, is
    unrolled all the same.

    Arguments:
        step: The function :math:`f`, called with a state and a row of each of the inputs.
        state: The state :math:`z_0`, with shape :math:`(*, 1, D)`; the next ones have it, too.
        inputs: Tensors with shape :math:`(*, S, I)`, of which a step gets :math:`(*, 1, I)`.
        steps: The number of steps :math:`S`.

    Returns:
        The states :math:`z_{1:S}`, with shape :math:`(*, S, D)`.

    Example:
        >>> recur(lambda z, u: z / 2 + u, torch.zeros(1, 1), [torch.ones(3, 1)], 3)
        tensor([[1.0000],
                [1.5000],
                [1.7500]])
    """
    size = _chunk(steps)
    # elsewhere a step is Python that runs once; Dynamo, if it reads this, sees a loop
    compiling = torch.compiler.is_compiling() and not torch.compiler.is_dynamo_compiling()
    compiling = compiling and _REGIONS
    seen = _look(step, state, inputs) if compiling and steps >= 2 * size else None
    whole = 0 if seen is None else steps // size
    parts = []
    if seen is not None:
        region = _Region(step, size, len(inputs), seen)
        for i in range(whole):
            rows = [each[..., i * size : (i + 1) * size, :] for each in inputs]
            states = region(state, rows)
            state = states[..., -1:, :]
            parts.append(states)
    for t in range(whole * size, steps):
        state = step(state, *(each[..., t : t + 1, :] for each in inputs))
        parts.append(state)
    return torch.cat(parts, -2)


def _look(step: Step, state: Tensor, inputs: Sequence[Tensor]) -> "_Seen | None":
    r"""What a step uses and draws; ``None`` if it does what a region cannot."""
    # views, which the step uses nowhere else
    given = [state.view_as(state), *(each[..., :1, :] for each in inputs)]
    seen = _Seen(given)
    watch: Any = _Watch  # untyped
    try:
        with torch.no_grad(), seen, watch():
            step(*given)
    except _Refused:
        return None
    return seen


def _chunk(steps: int) -> int:
    r"""The number of steps in a part, such that few are left over."""
    return min(range(_SHORTEST, _LONGEST + 1), key=lambda size: (steps % size, -size))


class _Refused(Exception):  # noqa: N818, it is none of the user's
    r"""A step did what a region cannot do, and nothing came of it."""


_QUIETLY = {"batch_norm", "instance_norm"}  # they write statistics
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
        if _writes(func, self._is_free(args[0]) if args else False):
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

    The compiler plans memory as if a region's results were its own: what is returned is therefore
    made there, and nothing that it was given. So gradients take the steps again rather than
    keep what the steps made.

    Arguments:
        step: The step.
        size: Their number.
        inputs: How many inputs a step has.
        seen: What one step uses and draws.
    """

    def __init__(self, step: Step, size: int, inputs: int, seen: _Seen) -> None:
        self.step, self.size, self.inputs, self.seen = step, size, inputs, seen
        self.name = f"recurrence_{next(_names)}"
        # a view is what stands for a tensor where others take its place
        self.free = [tensor.view_as(tensor) for tensor in seen.free.values()]
        self._backward: _Gradients | None = None

    def __call__(self, state: Tensor, rows: Sequence[Tensor]) -> Tensor:
        draws = [
            func(torch.empty_like(made), *args, **kwargs)
            for _ in range(self.size)
            for func, made, args, kwargs in self.seen.draws
        ]
        found: Tensor = _Steps.apply(self, *map(_plain, (state, *rows)), *draws, *self.free)
        return found

    def run(self, operands: Sequence[Tensor]) -> Tensor:
        r"""The states after ``operands``: a state, rows, draws, and the free tensors."""
        (states,) = _invoke(lambda *given: (self.take(*given),), self.name, operands)
        return states

    def gradients(
        self, operands: Sequence[Tensor], gradient: Tensor, needs: Sequence[bool]
    ) -> list[Tensor | None]:
        r"""The gradients for ``operands``, of which the state always needs one."""
        if self._backward is None:  # calls differ in the state only
            self._backward = _Gradients(self, [True, *needs[1:]], operands, gradient)
        return self._backward(operands, gradient)

    def take(self, state: Tensor, *operands: Tensor) -> Tensor:
        r"""Takes the steps."""
        split = self.inputs + self.size * len(self.seen.draws)
        rows, draws, free = operands[: self.inputs], operands[self.inputs : split], operands[split:]
        states = []
        with _Given(dict(zip(self.seen.free, free, strict=True)), draws):
            for t in range(self.size):
                state = self.step(state, *(each[..., t : t + 1, :] for each in rows))
                states.append(state)
        return torch.cat(states, -2)


class _Gradients:
    r"""The gradients of a region's steps as a graph of their own."""

    def __init__(
        self, region: _Region, needs: Sequence[bool], operands: Sequence[Tensor], gradient: Tensor
    ) -> None:
        from torch._higher_order_ops.utils import materialize_as_graph

        self.region, self.needs = region, needs
        self.found: list[bool] = []
        # here and not in the region, in which nothing is differentiated any more
        self.graph = materialize_as_graph(self._take, (*operands, gradient), force_enable_grad=True)

    def __call__(self, operands: Sequence[Tensor], gradient: Tensor) -> list[Tensor | None]:
        name = f"{self.region.name}_gradients"
        values = iter(_invoke(self.graph, name, [*operands, gradient]))
        return [next(values) if found else None for found in self.found]

    def _take(self, *given: Tensor) -> tuple[Tensor, ...]:
        *operands, gradient = given
        pairs = zip(operands, self.needs, strict=True)
        leaves = [tensor.detach().requires_grad_(needs) for tensor, needs in pairs]
        states = self.region.take(*leaves)
        wanted = [leaf for leaf in leaves if leaf.requires_grad]
        values = iter(torch.autograd.grad(states, wanted, gradient, allow_unused=True))
        slopes = [next(values) if leaf.requires_grad else None for leaf in leaves]
        self.found = [slope is not None for slope in slopes]
        return tuple(_copy(slope) for slope in slopes if slope is not None)


class _Steps(torch.autograd.Function):
    r"""A region with gradients."""

    @staticmethod
    def forward(ctx: Any, region: _Region, *operands: Tensor) -> Tensor:
        ctx.region = region
        ctx.save_for_backward(*operands)
        return region.run(operands)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        needs = ctx.needs_input_grad[1:]
        found = ctx.region.gradients(ctx.saved_tensors, _copy(gradients[0]), needs)
        return (None, *found)


class _Plain(torch.autograd.Function):
    r"""A tensor with the memory layout, and its gradient, that all calls of a region share."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return _copy(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _copy(gradients[0])


def _plain(tensor: Tensor) -> Tensor:
    found: Tensor = _Plain.apply(tensor)
    return found


def _copy(tensor: Tensor) -> Tensor:
    return tensor.clone(memory_format=torch.contiguous_format)


def _invoke(function: Any, name: str, operands: Sequence[Tensor]) -> tuple[Tensor, ...]:
    r"""Calls a function that is a region: the graph holds one function of that name."""
    from torch._higher_order_ops.invoke_subgraph import invoke_subgraph

    with torch._C._AutoDispatchBelowAutograd():
        found: tuple[Tensor, ...] = tuple(invoke_subgraph(function, name, *operands))
    return found


def _writes(func: Any, to_free: bool) -> bool:
    name: str = getattr(func, "__name__", "")
    if name in _QUIETLY:
        return True
    in_place = name.endswith("_") and not name.endswith("__")
    return in_place or name == "__setitem__" or (name.startswith("__i") and name != "__invert__")


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
