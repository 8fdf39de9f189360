r"""Every example runs as it stands, and can be read in one sitting."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs(path: Path, tmp_path: Path) -> None:
    # thirty seconds on two idle cores; the rest is room for a busy machine
    run = subprocess.run(
        [sys.executable, path],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        cwd=tmp_path,
        timeout=120,
    )

    assert run.returncode == 0, run.stderr
    assert run.stdout.strip(), "an example prints what it shows"
    assert "Warning" not in run.stderr, run.stderr


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) < 60
