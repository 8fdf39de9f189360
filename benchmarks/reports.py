r"""What benchmarks print and write down: quartiles, verdicts, the machine."""

import json
import os
import platform
import statistics
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pyro_vae.runs.files import write_file


def quartiles(values: list[float]) -> list[float]:
    r"""The median, and the quartiles around it."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return [middle, low, high]


def verdict(value: float, most: float) -> str:
    return f"{value:.3f}, to reach ≤ {most}: {'reached' if value <= most else 'not reached'}"


def described() -> str:
    r"""The machine and the versions of what runs on it."""
    found = [f"{os.cpu_count()} cores, {processor()}", f"Python {platform.python_version()}"]
    for library in ("torch", "pyro-ppl", "jax", "numpyro", "pythae"):
        with suppress(PackageNotFoundError):
            found.append(f"{library} {version(library)}")
    return ", ".join(found)


def processor() -> str:
    r"""Its name where Linux says it, else its kind."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def write(path: Path, found: Mapping[str, Any]) -> None:
    r"""Writes what is known so far: a process that is killed leaves that, or what was before."""
    write_file(path, json.dumps(found, indent=1) + "\n")
