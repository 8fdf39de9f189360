r"""Functions that run as graphs where that pays."""

import warnings
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pyro_vae import captured
from pyro_vae.captured import Captured
from pyro_vae.graph import Graph
from pyro_vae.uncapturable import Uncapturable


def scaled(factor: int, x: Tensor) -> Tensor:
    scaled.calls += 1
    return factor * x


@pytest.fixture(autouse=True)
def without_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    scaled.calls = 0
    monkeypatch.setattr(captured, "Graph", partial(Graph, backend="aot_eager"))


def test_calls_of_the_first_size_have_a_graph_and_others_none() -> None:
    double = Captured(scaled, {}, True, calls=1)
    torch.testing.assert_close(double(2, torch.ones(3)), torch.full((3,), 2.0))
    before = scaled.calls
    for value in (1.0, 5.0):
        torch.testing.assert_close(double(2, torch.full((3,), value)), torch.full((3,), 2 * value))
    assert scaled.calls == before
    for args in ((2, torch.ones(4)), (3, torch.ones(3)), (2, torch.ones(3).float())):
        torch.testing.assert_close(double(*args), args[0] * args[1])
        before += 1
        assert scaled.calls == before


@pytest.mark.parametrize(
    "mode, calls, elements, graph",
    [
        ("auto", 999, 2**22, False),
        ("auto", 1000, 2**22, True),
        ("auto", 500, 2**23, True),
        ("auto", 39_999, 5, False),
        ("auto", 40_000, 5, True),
        (True, 1, 0, True),
        (False, 10**9, 0, False),
    ],
)
def test_there_is_a_graph_where_it_pays_or_is_asked_for(
    mode: Any, calls: int, elements: int, graph: bool
) -> None:
    double = Captured(scaled, {}, mode, calls, elements=elements)
    double(2, torch.ones(3))
    assert (double.graph is not None) == graph


def test_what_cannot_be_captured_runs_eagerly_and_says_why_once() -> None:
    looks = Captured(lambda x: x * 2 if x.sum() > 0 else x, {}, "auto", calls=10**9)
    with pytest.warns(UserWarning, match="not captured, but runs eagerly: .+") as said:
        assert looks(torch.ones(())) == 2
    assert len(said) == 1
    with warnings.catch_warnings(action="error"):
        assert looks(-torch.ones(())) == -1


def test_what_cannot_be_captured_and_must_be_is_an_error() -> None:
    looks = Captured(lambda x: x * 2 if x.sum() > 0 else x, {}, True, calls=1)
    with pytest.raises(Uncapturable):
        looks(torch.ones(()))


def test_what_the_compiler_refuses_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise NotImplementedError("no such thing\nat all")

    monkeypatch.setattr(captured, "Graph", partial(Graph, backend=refuse))
    refused = r"the compiler failed \(BackendCompilerFailed: .*no such thing\): look whether"
    with pytest.warns(UserWarning, match=refused):
        assert Captured(scaled, {}, "auto", calls=10**9)(2, torch.ones(())) == 2
    with pytest.raises(Uncapturable, match=refused):
        Captured(scaled, {}, True, calls=1)(2, torch.ones(()))


def test_a_blind_stand_in_counts_where_it_is_finite() -> None:
    def guarded(x: Tensor) -> Tensor:
        return x.log() if x > 0 else torch.tensor(-1.0)

    found = Captured(guarded, {}, True, 1, blind=torch.log)
    torch.testing.assert_close(found(torch.tensor(3.0)), torch.tensor(3.0).log())
    assert found.graph is not None
    assert found(torch.tensor(0.0)) == -1
    torch.testing.assert_close(found(torch.tensor(5.0)), torch.tensor(5.0).log())


def test_a_mode_that_is_none_is_an_error() -> None:
    with pytest.raises(ValueError, match="expected capture to be True, False or 'auto', got 'no'"):
        Captured(scaled, {}, "no", calls=1)


def test_a_library_that_was_never_written_to_its_end_is_compiled_again(tmp_path: Path) -> None:
    library = tmp_path / "graph.main.so"
    library.touch()
    graph = Graph(lambda swap, x: 2 * x, [], backend="eager")
    run, said = graph._run, [f"ImportError: {library}: file too short"]

    def failing(*args: Any) -> Any:
        if said:
            raise RuntimeError(said.pop())
        return run(*args)

    graph._run = failing
    assert graph(torch.ones(())).item() == 2
    assert not library.exists()
