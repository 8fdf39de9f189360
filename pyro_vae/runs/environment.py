r"""What a run depended on besides its configuration."""

__all__ = ["environment"]

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

_PACKAGES = ("pyro-vae", "pyro-ppl", "torch", "torchvision", "numpy", "scikit-learn")


def environment(device: torch.device, seed: int) -> dict[str, Any]:
    r"""Versions, device, threads, seed, and the git revision of the working folder, if any."""
    cuda = device.type == "cuda"
    return {
        "versions": {"python": platform.python_version()}
        | {name: _version(name) for name in _PACKAGES},
        "system": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name(device) if cuda else str(device),
        "threads": torch.get_num_threads(),
        "seed": seed,
        "git": _revision(),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # run from its sources
        return None


def _revision() -> str | None:
    r"""``git describe``: the revision, and whether files were changed since."""
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()
