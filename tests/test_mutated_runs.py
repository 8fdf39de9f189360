r"""Run folders that were altered at random: each is refused in words, or is the run that it was."""

import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pyro_vae import Run, fit
from pyro_vae.components import build
from pyro_vae.data import load

MUTANTS = 1000
FILES = ("config.yaml", "last.safetensors", "best.safetensors", "environment.json", "metrics.csv")

# what would leave a marker behind, or import what nobody asked for
PAYLOADS = (
    b"!!python/object/apply:os.system ['touch {marker}']",
    b"!!python/object/new:subprocess.Popen [['touch', '{marker}']]",
    b"{class_path: subprocess.check_output, init_args: {args: [touch, '{marker}']}}",
    b"{class_path: os.system, init_args: {command: 'touch {marker}'}}",
    b"{class_path: pyro_vae.models.torch.hub.load, init_args: {repo_or_dir: x}}",
    b"{class_path: antigravity.fly}",
    b"'{marker}.py:Model'",
    b"../../../../etc/passwd",
    b"&a [*a, *a]",
    b"1e400",
    b"\x00\xff\xfe",
    # a pickle that touches the marker
    b"cos\nsystem\n(S'touch {marker}'\ntR.",
)

Mutation = Callable[[bytes, random.Random, bytes], bytes]


def flip(raw: bytes, rng: random.Random, payload: bytes) -> bytes:
    place = rng.randrange(len(raw))
    return raw[:place] + bytes([raw[place] ^ (1 << rng.randrange(8))]) + raw[place + 1 :]


def cut(raw: bytes, rng: random.Random, payload: bytes) -> bytes:
    return raw[: rng.randrange(len(raw))]


def drop(raw: bytes, rng: random.Random, payload: bytes) -> bytes:
    begin = rng.randrange(len(raw))
    return raw[:begin] + raw[begin + rng.randint(1, 40) :]


def insert(raw: bytes, rng: random.Random, payload: bytes) -> bytes:
    place = rng.randrange(len(raw))
    return raw[:place] + payload + raw[place:]


def replace(raw: bytes, rng: random.Random, payload: bytes) -> bytes:
    return payload


def as_value(raw: bytes, rng: random.Random, payload: bytes) -> bytes:
    r"""Puts it in the place of a value of YAML, where there is one."""
    lines = raw.split(b"\n")
    place = rng.randrange(len(lines))
    lines[place] = lines[place].partition(b":")[0] + b": " + payload
    return b"\n".join(lines)


def header(raw: bytes, rng: random.Random, payload: bytes) -> bytes:
    r"""Lies about the length of a header."""
    return rng.getrandbits(rng.choice((8, 16, 40, 64))).to_bytes(8, "little") + raw[8:]


def repeat(raw: bytes, rng: random.Random, payload: bytes) -> bytes:
    return raw * rng.randint(2, 4)


MUTATIONS: tuple[Mutation, ...] = (flip, cut, drop, insert, replace, as_value, header, repeat)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    known = {"event_shape": (4,), "sites": {"z": 2}}
    network = {"class_path": "mlp", "init_args": {"hidden": [3]}}
    model = {"class_path": "VAE", "init_args": {"latents": 2, "decoder": network}}
    guide = {"class_path": "AmortizedNormal", "init_args": {"encoder": network}}
    x = (torch.rand(40, 4) < 0.5).double()
    return fit(
        build(model, "model", known=known),
        build(guide, "guide", known=known),
        load(x, validation=0.25, test=0.25),
        epochs=2,
        run_dir=tmp_path / "run",
        progress=False,
    )


def content(run: Run) -> dict[str, Any]:
    found: dict[str, Any] = {"history": run.history}
    for name, program in (("model", run.model), ("guide", run.guide)):
        found[name] = type(program)
        found |= {f"{name}.{key}": t.tolist() for key, t in program.state_dict().items()}  # type: ignore[attr-defined]
    return found


def outcome(path: Path, which: Any) -> dict[str, Any] | str:
    r"""What was loaded, or why not."""
    try:
        return content(Run.load(path, weights=which))
    except (FileNotFoundError, TypeError, ValueError) as error:
        return str(error)


def test_no_altered_folder_is_believed(run: Run, tmp_path: Path) -> None:
    assert run.path is not None
    marker = tmp_path / "marker"
    (tmp_path / "marker.py").write_text(f"open({str(marker)!r}, 'w')\nModel = print\n")
    whole = {name: (run.path / name).read_bytes() for name in FILES}
    expected = {which: content(Run.load(run.path, weights=which)) for which in ("best", "last")}
    rng, loaded, before = random.Random(0), 0, set(sys.modules)
    for _ in range(MUTANTS):
        name = rng.choice(FILES[:3]) if rng.random() < 0.9 else rng.choice(FILES[3:])
        mutation = rng.choice(MUTATIONS)
        payload = rng.choice(PAYLOADS).replace(b"{marker}", str(marker).encode())
        (run.path / name).write_bytes(mutation(whole[name], rng, payload))
        which = rng.choice(("best", "last"))
        found = outcome(run.path, which)
        if isinstance(found, str):
            assert "expected" in found, (name, mutation.__name__, payload, found)
        else:
            assert found == expected[which], (name, mutation.__name__, payload)
            loaded += 1
        (run.path / name).write_bytes(whole[name])
        assert not marker.exists(), (name, mutation.__name__, payload)
    assert set(sys.modules) == before  # nothing was imported
    # those of files that are not read, of the other weights, and a few that say the same
    assert 0.2 * MUTANTS < loaded < 0.7 * MUTANTS
