r"""Every example runs as it stands, and can be read in one sitting."""

import re
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
        timeout=500,
    )

    assert run.returncode == 0, run.stderr
    assert run.stdout.strip(), "an example prints what it shows"
    assert "Warning" not in run.stderr, run.stderr
    if path.stem == "posterior_collapse":
        check_remedies(run.stdout)
        assert (tmp_path / "posterior_collapse.png").exists()
    if path.stem == "how_many_clusters":
        assert re.search(r"^four clusters +4: 0\.[4-9].*  4  ", run.stdout, re.MULTILINE)
        assert (tmp_path / "four_clusters.png").exists()
    if path.stem == "gmm_em_vs_svi":
        check_mixtures(run.stdout)
        assert (tmp_path / "gmm_em_vs_svi.png").exists()


def check_remedies(table: str) -> None:
    r"""Without a remedy latents hold next to nothing, with a remedy at least twice as much."""
    rows = re.findall(r"^(\S.*?) +(-[\d.]+) +([\d.]+) +(\d+) of 32 +([\d.]+)$", table, re.MULTILINE)
    found = {name: [float(figure) for figure in figures] for name, *figures in rows}
    assert len(found) == 5, table
    evidence, kl, _, information = found["no remedy"]
    assert max(kl, information) < 0.8
    for name in found.keys() - {"no remedy"}:
        assert found[name][1] > 2 * kl, name
        assert found[name][3] > 2 * information, name
    for name in ("KL warm-up", "free bits"):  # what they hold is of use
        assert found[name][0] > evidence, name


def check_mixtures(table: str) -> None:
    r"""EM and gradients find one peak; mean-field expects p / 2N less, of p = 14 and N = 400."""
    rows = re.findall(r"^(\S.*?) +(-[\d.]+) +(-[\d.]+) +[\d.]+$", table, re.MULTILINE)
    found = {name: [float(figure) for figure in figures] for name, *figures in rows}
    assert len(found) == 3, table
    peak = found["EM"][0]
    assert found["EM"] == [peak] * 2
    assert found["gradients, points"] == pytest.approx([peak] * 2, abs=1e-4)
    at_median, expected = found["SVI, mean-field"]
    assert peak - 0.01 < at_median < peak
    assert peak - expected == pytest.approx(14 / 800, rel=0.3)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short(path: Path) -> None:
    most = 80 if path.stem == "posterior_collapse" else 59
    assert len(path.read_text(encoding="utf-8").splitlines()) <= most
