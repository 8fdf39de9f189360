r"""A short run, and what the tests of commands say of the terminal."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyro_vae.cli import main

FIT = ["fit", "--epochs", "2", "--particles", "30", "--data", "images.npz", "--model.latents", "3"]


def images(path: str | Path = "images.npz") -> None:
    r"""Writes 80 binary images of 4 x 4 pixels, in two classes."""
    generator = np.random.default_rng(0)
    y = np.arange(80) % 2
    share = np.where(y, 0.8, 0.2)[:, None, None, None]
    x = (generator.random((80, 1, 4, 4)) < share).astype(np.uint8)
    np.savez(path, x=x, y=y)


def document(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    r"""The JSON that a command prints, and nothing besides."""
    capsys.readouterr()
    assert main([*words, "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    found: dict[str, Any] = json.loads(out)
    return found


def complaint(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    r"""The one line that a command says of an error of the user's."""
    capsys.readouterr()
    assert main(list(words)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("pyro-vae: error: ")
    assert len(err.strip().splitlines()) == 1
    assert "Traceback" not in err
    return err
