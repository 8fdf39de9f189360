r"""Folders that are taken, replaced, shared, or on a disk that is full."""

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyro
import pytest
from made import binary, made, programs, quiet, scalars
from zoo import D, F

from pyro_vae import Run
from pyro_vae.guides import AmortizedNormal
from pyro_vae.runs.checkpoint import Checkpoint


def occupied_by_notes(folder: Path) -> None:
    (folder / "notes.txt").write_text("mine")


def occupied_by_a_config(folder: Path) -> None:
    (folder / "config.yaml").write_text("mine: true")
    (folder / "photo.png").write_text("mine")


@pytest.mark.parametrize("occupy", [occupied_by_notes, occupied_by_a_config])
@pytest.mark.parametrize("option", [{}, {"overwrite": True}, {"resume": True}])
def test_what_is_no_run_is_never_overwritten(
    occupy: Callable[[Path], None], option: dict[str, bool], tmp_path: Path
) -> None:
    occupy(tmp_path)
    before = {path: path.read_text() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match="which holds other files: choose another"):
        made(tmp_path, **option)
    assert {path: path.read_text() for path in tmp_path.iterdir()} == before


def test_a_run_is_overwritten_on_request_only(tmp_path: Path) -> None:
    made(tmp_path, epochs=3)
    (tmp_path / "notes.txt").write_text("mine")
    before = (tmp_path / "last.safetensors").read_bytes()
    with pytest.raises(ValueError, match=r"holds a run: resume it \(resume=True, --resume\)"):
        made(tmp_path)
    assert (tmp_path / "last.safetensors").read_bytes() == before
    run = made(tmp_path, epochs=1, validation=False, overwrite=True)
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 2
    assert scalars(tmp_path, "epoch") == [(1, 1.0)]
    assert not (tmp_path / "best.safetensors").exists()  # that of the deleted run
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert len(run.history) == 1


def test_one_fit_at_a_time_writes_to_a_folder(tmp_path: Path) -> None:
    made(tmp_path, epochs=1)
    code = (
        "import sys, time; from pathlib import Path; from pyro_vae.runs.lock import Lock\n"
        "lock = Lock(Path(sys.argv[1])); print(1, flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        for option in ("resume", "overwrite"):
            with pytest.raises(ValueError, match="no other fit is writing to"):
                made(tmp_path, **{option: True})
        other.kill()
    assert len(made(tmp_path, epochs=2, validation=True, overwrite=True).history) == 2
    assert not (tmp_path / ".lock").exists()


def test_rows_and_events_that_were_taken_away_are_written_again(tmp_path: Path) -> None:
    pyro.set_rng_seed(0)
    made(tmp_path, epochs=2)
    expected = (tmp_path / "metrics.csv").read_text(), scalars(tmp_path, "elbo")
    (tmp_path / "metrics.csv").unlink()
    (tmp_path / "events.out.tfevents.pyro_vae").unlink()
    pyro.set_rng_seed(0)
    made(tmp_path, epochs=2, resume=True)
    assert ((tmp_path / "metrics.csv").read_text(), scalars(tmp_path, "elbo")) == expected


@pytest.mark.parametrize("stop", range(1, 9))
def test_a_run_that_was_killed_as_it_replaced_another_begins_anew(
    stop: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tmp_path / "whole"
    pyro.set_rng_seed(0)
    expected = made(whole, epochs=1).history
    folder, left = tmp_path / "run", stop
    pyro.set_rng_seed(0)
    old = made(folder, epochs=3)
    (folder / "samples.png").write_text("a picture")

    def dying(path: Path, *args: Any, **kwargs: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0:
            raise KeyboardInterrupt
        return {"unlink": unlink, "replace": move}[kind](path, *args, **kwargs)

    unlink, move = Path.unlink, Path.replace
    for kind in ("unlink", "replace"):
        left = stop
        with monkeypatch.context() as patch:
            patch.setattr(Path, kind, dying)
            pyro.set_rng_seed(0)
            with suppress(KeyboardInterrupt):
                made(folder, epochs=1, overwrite=True)
        pyro.set_rng_seed(0)
        # the old run, of three epochs, if it was not touched yet
        assert made(folder, epochs=1, resume=True).history in (expected, old.history)
        assert (folder / "samples.png").exists()
        pyro.set_rng_seed(0)
        old = made(folder, epochs=3, overwrite=True)


def test_events_of_nobody_are_cut_off(tmp_path: Path) -> None:
    pyro.set_rng_seed(0)
    made(tmp_path, epochs=2)
    expected = scalars(tmp_path, "elbo")
    events = tmp_path / "events.out.tfevents.pyro_vae"
    events.write_bytes(events.read_bytes() * 2)
    pyro.set_rng_seed(0)
    made(tmp_path, epochs=2, resume=True)
    assert scalars(tmp_path, "elbo") == expected


def test_links_lead_no_write_outside(tmp_path: Path) -> None:
    (victim := tmp_path / "victim").write_text("mine")
    folder = tmp_path / "run"
    run = made(folder)
    (folder / ".note.txt.part").symlink_to(victim)
    run.write("note.txt", "text")
    assert not (folder / "note.txt").is_symlink()
    lock = folder / ".lock"
    lock.symlink_to(victim)
    with pytest.raises(ValueError, match="leads out of it"):
        made(folder, overwrite=True)
    lock.unlink()
    events = folder / "events.out.tfevents.pyro_vae"
    events.unlink()
    events.symlink_to(victim)
    pyro.set_rng_seed(0)
    made(folder, overwrite=True)
    assert not events.is_symlink()
    events.unlink()
    events.symlink_to(victim)
    pyro.set_rng_seed(0)
    with pytest.raises(ValueError, match="leads out of it"):
        made(folder, resume=True)
    (folder / "last.safetensors").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="damaged"):
        made(folder, resume=True)
    assert not lock.exists()
    assert victim.read_text() == "mine"


def test_a_run_survives_a_change_of_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "away").mkdir()
    run = made(Path("run"), callbacks=[lambda event: os.chdir(tmp_path / "away")])
    assert run.path == Path("run")
    assert {path.name for path in tmp_path.iterdir()} == {"run", "away"}


def test_a_broken_pair_deletes_no_run(tmp_path: Path) -> None:
    made(tmp_path)
    before = (tmp_path / "last.safetensors").read_bytes()
    model, _ = programs()
    with pytest.raises(ValueError, match="site 'z'"):
        quiet(model, AmortizedNormal((F,), {"y": D}), binary(), run_dir=tmp_path, overwrite=True)
    assert (tmp_path / "last.safetensors").read_bytes() == before


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="expected a folder, got the file"):
        made(tmp_path / "file")
    with pytest.raises(ValueError, match="expected a folder that can be made"):
        made(tmp_path / "file" / "below")
    with pytest.raises(ValueError, match="expected run_dir"):
        quiet(*programs(), binary(), resume=True)
    with pytest.raises(ValueError, match="expected either resume or overwrite"):
        made(tmp_path / "run", resume=True, overwrite=True)


def test_notes_have_names_of_their_own(tmp_path: Path) -> None:
    for particles, resume in ((7, False), (8, True)):
        pyro.set_rng_seed(0)
        run = made(tmp_path, epochs=1, resume=resume, notes={"particles": particles})
        assert run.config["particles"] == particles
    with pytest.raises(ValueError, match=r"names of their own, got \['epochs'\]"):
        made(tmp_path / "new", notes={"epochs": 3})


@pytest.mark.parametrize("name", ["../x", "/tmp/x", ".", "link/x"])
def test_no_file_is_written_outside(name: str, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    folder = tmp_path / "run"
    run = made(folder)
    (folder / "link").symlink_to(tmp_path / "out")
    with pytest.raises(ValueError, match="leads out of it"):
        run.write(name, "text")
    assert run.write("note.txt", "text").read_text() == "text"
    with pytest.raises(ValueError, match="a run with a folder"):
        Run(*programs()).write("note.txt", "text")


# a disk that is full


@pytest.mark.parametrize("after", range(1, 12))
def test_a_full_disk_leaves_a_run_that_goes_on(
    after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    r"""ENOSPC at each of the first writes in turn, half of what was to be written being there."""
    fsync, left = os.fsync, after

    def full(handle: int) -> None:
        nonlocal left
        left -= stat.S_ISREG(os.fstat(handle).st_mode)
        if left <= 0:
            os.truncate(handle, os.fstat(handle).st_size // 2)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    def run(resume: bool, folder: Path) -> Run:
        pyro.set_rng_seed(0)
        every = {"checkpoint_every": 0.0, "resume": resume, "validation": False}
        return quiet(*programs(), binary(), epochs=2, batch_size=15, run_dir=folder, **every)

    whole = run(False, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            run(False, tmp_path / "run")
    assert not [path for path in (tmp_path / "run").iterdir() if path.suffix == ".part"]
    checkpoint = tmp_path / "run" / "last.safetensors"
    if checkpoint.exists():
        assert Checkpoint.read(checkpoint).state["step"] >= 1
    assert run(True, tmp_path / "run").history == whole.history
