r"""Compiled code that is called itself: the same as the function that the compiler gives."""

from collections.abc import Callable
from functools import partial
from threading import Event, Thread
from typing import Any

import pyro
import pytest
import torch
from captures import F, N, adam, binary, programs, traced
from torch import Tensor, nn
from torch._inductor.output_code import CompiledFxGraph
from torch.overrides import TorchFunctionMode

from pyro_vae import SVI
from pyro_vae.direct import Direct
from pyro_vae.graph import Graph
from pyro_vae.programs import modules


def add(total: Tensor, swap: Any, x: Tensor) -> list[Tensor]:
    total.add_(x.sum(0))
    doubled = 2 * x
    return [doubled, total.sum(), doubled]


@pytest.fixture
def total() -> Tensor:
    return torch.zeros(3)


@pytest.fixture
def direct(total: Tensor) -> Graph:
    r"""A graph whose third call and later ones run the code itself, with what it adds to."""
    graph = Graph(partial(add, total), [total])
    for _ in range(2):
        graph(torch.ones(4, 3))
    assert graph._direct is not None
    total.zero_()
    return graph


def counted(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    r"""Grows by one where the code itself is run."""
    runs: list[None] = []
    call = Direct.__call__

    def count(self: Direct, *args: Any) -> list[Tensor]:
        runs.append(None)
        return call(self, *args)

    monkeypatch.setattr(Direct, "__call__", count)
    return runs


def test_results_are_those_of_the_function(
    direct: Graph, total: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = counted(monkeypatch)
    x = torch.arange(12.0).view(4, 3)
    doubled, summed, again = direct(x)

    assert len(runs) == 1
    torch.testing.assert_close(doubled, 2 * x)
    torch.testing.assert_close(again, doubled)
    torch.testing.assert_close(summed, x.sum())
    torch.testing.assert_close(total, x.sum(0))


OTHERS: dict[str, Callable[[], Tensor]] = {
    "columns first": lambda: torch.arange(12.0).view(3, 4).T,
    "another type": lambda: torch.arange(12.0, dtype=torch.float32).view(4, 3),
    "another size": lambda: torch.arange(15.0).view(5, 3),
    "parameter": lambda: nn.Parameter(torch.arange(12.0).view(4, 3)),
    "gradients": lambda: torch.arange(12.0).view(4, 3).requires_grad_(),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_batches_are_left_to_torch(
    kind: str, direct: Graph, total: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, x = counted(monkeypatch), OTHERS[kind]()
    assert direct.again([x]) is None
    doubled, *_ = direct(x)

    assert runs == []
    torch.testing.assert_close(doubled, 2 * x.detach())
    torch.testing.assert_close(total.to(x.dtype), x.detach().sum(0))


def test_signs_that_are_still_to_be_changed_are(direct: Graph) -> None:
    r"""As those of ``z.conj().imag`` are, here in memory of the usual order."""
    x = torch._neg_view(-torch.arange(12.0).view(4, 3))
    assert x.is_neg()
    assert direct.again([x]) is None
    torch.testing.assert_close(direct(x)[0], 2 * x)


class Mode(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return func(*args, **(kwargs or {}))


def test_other_threads_and_modes_are_left_to_torch(
    direct: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = [torch.ones(4, 3)]
    assert direct.again(x) is not None
    with Mode():
        assert direct.again(x) is None
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        assert direct.again(x) is None
    finally:
        torch.set_num_threads(threads)
    with torch.autocast("cpu", torch.bfloat16):
        assert direct.again(x) is None
    assert direct.again(x) is not None


def test_another_mode_in_the_place_of_one_is_seen(direct: Graph) -> None:
    x = [torch.ones(4, 3)]
    direct._bind()  # so that the next call is watched
    with Mode():
        direct(*x)
        assert direct.again(x) is not None
    with Mode():
        assert direct.again(x) is None


def test_one_tensor_twice_is_left_to_torch() -> None:
    r"""Nobody knows then which of both the code reads where others come."""
    graph = Graph(lambda swap, x, y: [2 * x - y], [])
    x, y = torch.ones(4, 3), torch.zeros(4, 3)
    for one, other in ((x, x), (x, x), (x, y), (y, x), (x, x)):
        torch.testing.assert_close(graph(one, other), [2 * one - other])


def test_other_arguments_are_left_to_a_call() -> None:
    graph = Graph(lambda swap, x, more: [x - more["y"]], [])
    x, y = torch.ones(4, 3), torch.zeros(4, 3)
    for _ in range(3):
        graph(x, {"y": y})
    assert graph._direct is not None
    assert graph.again([x, y]) is None
    assert graph.again([x, {"y": y}]) is None


def test_batches_without_versions() -> None:
    r"""As all tensors are that were made in inference mode."""
    graph = Graph(lambda swap, x: [2 * x], [])
    for value in (1.0, 2.0, 3.0):
        with torch.inference_mode():
            x = torch.full((3,), value)
        torch.testing.assert_close(graph(x), [torch.full((3,), 2 * value)])
    with torch.inference_mode():
        torch.testing.assert_close(graph(x), [torch.full((3,), 6.0)])
    assert graph._direct is not None


def test_two_threads_may_watch() -> None:
    r"""One after the other, so that none leaves behind what the other put into its place."""
    call, inside, done = CompiledFxGraph.__call__, Event(), Event()

    def first(*_: Any) -> list[Tensor]:
        inside.set()
        done.wait(0.3)  # in which the second would begin
        return []

    def second(*_: Any) -> list[Tensor]:
        done.wait(1)
        return []

    def other() -> None:
        inside.wait()
        Direct.watched(second, [], [])

    thread = Thread(target=other)
    thread.start()
    Direct.watched(first, [], [])
    done.set()
    thread.join()
    assert CompiledFxGraph.__call__ is call


def test_what_is_written_counts_as_changed(direct: Graph, total: Tensor) -> None:
    r"""So that a backward pass through what it was before is refused, as without us."""
    weight = torch.ones(3, requires_grad=True)
    product = (weight * total).sum()
    before = total._version
    direct(torch.ones(4, 3))

    assert total._version > before
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()


def test_what_is_only_read_counts_as_the_same() -> None:
    scale, weight = torch.ones(3), torch.ones(3, requires_grad=True)
    graph = Graph(lambda swap, x: [(scale * x).sum()], [scale])
    product = (weight * scale).sum()
    for value in (1.0, 2.0, 3.0):
        assert graph(torch.full((3,), value))[0].item() == 3 * value
    assert graph._direct is not None
    product.backward()


def test_tensors_that_moved_are_found(direct: Graph, total: Tensor) -> None:
    before, x = total.clone(), torch.ones(4, 3)
    total.data = torch.arange(10.0, 13.0).repeat_interleave(2)[::2]  # with other strides, too
    for _ in range(3):  # by torch, watched, and by itself again
        direct(x)

    torch.testing.assert_close(total, torch.arange(22.0, 25.0))
    torch.testing.assert_close(before, torch.zeros(3))
    assert direct._direct is not None


def test_a_result_that_is_an_argument_is_left_to_torch() -> None:
    graph = Graph(lambda swap, x: [x, x + 1], [])
    for value in (1.0, 2.0, 3.0):
        x = torch.full((3,), value)
        same, more = graph(x)
        torch.testing.assert_close(same, x)
        torch.testing.assert_close(more, x + 1)


def test_sizes_that_vary_are_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = counted(monkeypatch)
    graph = Graph(lambda swap, x: [(x * x).sum()], [], sizes=[[5]])
    for size in (3, 4, 7, 4):
        assert graph(torch.arange(float(size)))[0].item() == sum(i * i for i in range(size))
    assert runs == []


def test_steps_are_the_same_bit_for_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    r"""Those that run the code, and those that call the compiled function."""
    found = []
    for fits in (Direct.fits, lambda *_: False):
        monkeypatch.setattr(Direct, "fits", fits)
        runs = counted(monkeypatch)
        pyro.set_rng_seed(0)
        svi = SVI(*programs(dropout=0.5), adam, capture=True)
        losses = [svi.step(binary()) for _ in range(6)]
        found.append((losses, svi.tensors(), len(runs)))

    assert [runs for *_, runs in found] == [3, 0]  # after an eager one, compilation, watching
    torch.testing.assert_close(found[0][:2], found[1][:2], rtol=0, atol=0)


def test_noise_is_that_of_eager_steps() -> None:
    losses = []
    for capture in (False, True):
        pyro.set_rng_seed(0)
        svi = SVI(*programs(), adam, capture=capture)
        losses.append(torch.stack([svi.step(binary()) for _ in range(5)]))
    torch.testing.assert_close(*losses)


# -- several steps --------------------------------------------------------------------------------


def rows(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    draws = torch.rand(count, N, F, generator=generator)
    return [(draw < 0.4).to(torch.get_default_dtype()) for draw in draws]


def assert_same_run(one: SVI, other: SVI, batches: list[Any]) -> None:
    r"""Steps one by one, and all at once."""
    pyro.set_rng_seed(1)
    losses = torch.stack([one.step(b) if isinstance(b, Tensor) else one.step(*b) for b in batches])
    pyro.set_rng_seed(1)
    torch.testing.assert_close(other.steps(batches), losses, rtol=0, atol=0)
    torch.testing.assert_close(other.tensors(), one.tensors(), rtol=0, atol=0)
    assert other.capture.state_dict() == one.capture.state_dict()


def twice(optim: Any = adam, **options: Any) -> tuple[SVI, SVI]:
    made = []
    for _ in range(2):
        pyro.set_rng_seed(0)
        made.append(SVI(*programs(), optim, **options))
    return made[0], made[1]


def test_steps_all_at_once_are_those_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    r"""With rates that decay at each step, in Python."""
    one, other = twice(pyro.optim.ClippedAdam({"lr": 0.01, "lrd": 0.9}), capture=True)  # type: ignore[attr-defined]
    runs = counted(monkeypatch)
    batches = rows(8)
    assert_same_run(one, other, [*batches[:6], binary(3), (batches[6],), (batches[7],)])
    assert len(runs) == 2 * 5  # not the first, that of another size, compilation and watching


@pytest.mark.parametrize("capture", [False, True])
def test_all_at_once_without_the_compiler(capture: bool) -> None:
    one, other = map(traced, twice(capture=capture))
    assert_same_run(one, other, [*rows(4), [binary()]])  # as torch's loader gives them


def test_programs_are_looked_at_anew_each_time() -> None:
    one, other = twice(capture=True)
    for svi in (one, other):
        pyro.set_rng_seed(3)
        svi.steps(rows(5))
        svi.optimizer.param_groups[0]["lr"] = 0.5  # type: ignore[union-attr]
        for module in modules(svi.pair.model)[""].modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.7
    assert_same_run(one, other, rows(4))
    assert other.capture.compilations == 2


def test_a_loss_that_is_not_finite_ends_it() -> None:
    svi, _ = twice(capture=True)
    batches = rows(7)
    svi.steps(batches[:4])
    batches[5] = torch.full_like(batches[5], torch.nan)
    known, _ = twice(capture=True)
    known.steps(batches[:4])
    pyro.set_rng_seed(2)
    known.steps(batches[4:5])
    pyro.set_rng_seed(2)
    with pytest.raises(ValueError, match="expected a finite loss"):
        svi.steps(batches[4:])

    torch.testing.assert_close(svi.tensors(), known.tensors(), rtol=0, atol=0)
    assert svi.capture.count == known.capture.count == 5


def test_each_step_has_the_threads_of_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    model, guide = programs()
    size = sum(p.numel() for program in (model, guide) for p in program.parameters())
    monkeypatch.setattr("pyro_vae.threads._SMALL", 5 * size)
    seen, before = [], torch.get_num_threads()
    svi = SVI(model, guide, adam, capture=False)
    svi.step(binary())
    model.decoder.register_forward_pre_hook(
        lambda _, args: seen.append((args[0].shape[-2], torch.get_num_threads()))
    )
    torch.set_num_threads(2)
    try:
        svi.steps([binary(3), binary(7), binary(3)])
    finally:
        torch.set_num_threads(before)
    assert seen == [(3, 1), (7, 2), (3, 1)]


def test_no_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="expected at least one batch"):
        SVI(*programs(), adam).steps([])
