r"""Figures of a run that were computed at other times."""

__all__ = ["merged"]

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_SAME = ("weights", "data", "split")  # whose figures stand side by side
_EACH = ("rows", "particles")


def merged(document: Mapping[str, Any], path: Path) -> dict[str, Any]:
    r"""A document of figures, and those of a file that it does not have.

    The file's are kept if they are of the same weights and the same split of the same data. Each
    says of how many rows, and with how many particles, it was computed.

    Arguments:
        document: What was computed now.
        path: The file, which need not be there.
    """
    try:
        before = json.loads(path.read_text())
        figures = {n: f for n, f in before["estimates"].items() if n not in document["estimates"]}
        same = all(before[name] == document[name] for name in _SAME)
        kept = {n: {**f, **{k: f.get(k, before[k]) for k in _EACH}} for n, f in figures.items()}
        metrics = dict.fromkeys([*before["metrics"], *document["metrics"]])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return dict(document)  # it is none of ours
    if not same:
        return dict(document)
    estimates = {**kept, **document["estimates"]}
    return {**document, "metrics": list(metrics), "estimates": estimates}
