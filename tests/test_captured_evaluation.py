r"""What is evaluated by a compiled graph is what is evaluated eagerly."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from zoo import ZOO

from pyro_vae import captured
from pyro_vae.evaluation import evaluate, scores
from pyro_vae.evaluation.estimate import Estimate
from pyro_vae.graph import Graph

# the compiler's own
pytestmark = pytest.mark.filterwarnings("ignore")

Same = Callable[[dict[str, Estimate], dict[str, Estimate]], None]


def same(found: dict[str, Estimate], expected: dict[str, Estimate]) -> None:
    assert list(found) == list(expected)
    for name, estimate in expected.items():
        for part in ("value", "stderr", "data_stderr", "per_datum"):
            torch.testing.assert_close(
                getattr(found[name], part),
                getattr(estimate, part),
                rtol=1e-12,
                atol=1e-12,
                equal_nan=True,
                msg=lambda text, name=name, part=part: f"{name}, {part}: {text}",
            )


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    r"""What graphs were called with, which are made without the compiler."""
    found: list[tuple[Any, ...]] = []

    class Counted(Graph):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            found.append(tuple(args))
            return super().__call__(*args, **kwargs)

    monkeypatch.setattr(captured, "Graph", partial(Counted, backend="aot_eager"))
    return found


# pairs whose weights are no importance weights of each datum's evidence
BOUND_ONLY = {"global_latent", "subsampled", "masked_and_scaled", "auto_normal"}
BOUND_ONLY |= {"auto_multivariate_normal", "auto_delta"}
# pairs that take all seven data at once
WHOLE = {"no_plate", "auto_normal", "auto_multivariate_normal", "auto_delta"}


def fields(batch: tuple[Any, ...]) -> dict[str, Any]:
    return {f"field{i}": field for i, field in enumerate(batch)}


@pytest.mark.parametrize("name", ZOO)
def test_captured_estimates_equal_eager_ones(
    name: str, calls: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, guide, batch = ZOO[name]()
    data = fields(batch)
    metrics = ("elbo",) if name in BOUND_ONLY else ("elbo", "nll")
    size = 7 if name in WHOLE else 3
    monkeypatch.setattr(scores, "chunk_sizes", lambda *_: (size, 2))
    run = partial(evaluate, model, guide, data, metrics, particles=5, inputs=tuple(data))
    same(run(capture=True), run(capture=False))
    # of seven data and five particles two chunks of each are smaller
    assert len(calls) == (2 if name in WHOLE else 4)
