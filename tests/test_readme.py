r"""The README's code runs, and its commands exist with the options that it names."""

import json
import re
import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from pyro_vae.cli import main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SETUP = "python3 -m pip install -q uv && python3 -m uv run"


def fences(text: str) -> list[tuple[str, str]]:
    r"""Returns the fenced blocks of code, with their languages."""
    return re.findall(r"^```(\w*)[^\n]*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def blocks(*languages: str) -> list[str]:
    r"""Returns the fenced blocks of code in the languages."""
    return [code for language, code in fences(README) if language in languages]


def section(title: str) -> str:
    r"""Returns what stands under a heading."""
    return re.split(r"^## ", README.partition(f"\n## {title}\n")[2], flags=re.MULTILINE)[0]


def file_of(code: str) -> str | None:
    r"""Returns the name of the file that a block says it is, in its first line."""
    found = re.match(r"# (\w+\.py)\n", code)
    return found and found[1]


def commands() -> dict[tuple[str, ...], set[str]]:
    r"""Returns the options that the README gives to each sub-command, with the parts it chooses."""
    found: dict[tuple[str, ...], set[str]] = {}
    inline = re.findall(r"`([^`\n]*\bpyro-vae [^`\n]+)`", README)
    lines = "\n".join(blocks("sh", "bash", "console", "shell")).replace("\\\n", " ").splitlines()
    for line in [*inline, *lines]:
        for command in re.findall(r"\bpyro-vae +([^&|;]+)", line):
            words = shlex.split(command, comments=True)
            if words and not words[0].startswith("-"):
                options = {word.split("=")[0] for word in words if word.startswith("--")}
                found.setdefault((words[0], *chosen(words)), set()).update(options)
    return found


def chosen(words: list[str]) -> list[str]:
    r"""Returns the choices that other options of a command depend on, but for files."""
    return [
        word
        for flag, value in pairwise(words)
        if any(other.startswith(f"{flag}.") for other in words) and ".py:" not in value
        for word in (flag, value)
    ]


@pytest.mark.parametrize("command", [f"{SETUP} pyro-vae fit", f"{SETUP} pytest"])
def test_two_lines_do_all_the_set_up(command: str) -> None:
    lines = "\n".join(blocks("sh", "bash", "console", "shell")).splitlines()

    assert command in [line.removeprefix("$ ").split(" #")[0].strip() for line in lines]


@pytest.mark.skipif(not blocks("python"), reason="the README has no Python code")
def test_the_code_runs_from_top_to_bottom(tmp_path: Path) -> None:
    script = tmp_path / "readme.py"
    code = [block for block in blocks("python") if file_of(block) is None]
    script.write_text("\n".join(code), encoding="utf-8")

    run = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, cwd=tmp_path, timeout=500
    )

    assert run.returncode == 0, run.stderr
    assert "Warning" not in run.stderr, run.stderr


def test_a_newcomer_gets_to_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    r"""The files and commands of "your own data" and "your own model", in their order."""
    monkeypatch.chdir(tmp_path)
    torch.set_default_dtype(torch.float32)
    for language, code in fences(section("Your own data") + section("Your own model")):
        if language == "python":
            name = file_of(code)
            assert name is not None, code
            Path(name).write_text(code)
            continue
        for line in code.splitlines():
            program, *words = shlex.split(line, comments=True)
            if program == "python":
                subprocess.run([sys.executable, *words], check=True, timeout=300)
            else:
                assert (program, main(words)) == ("pyro-vae", 0), capsys.readouterr().err
    evidence = {
        name: json.loads(Path("runs", name, "evaluation.json").read_text())["estimates"]["nll"]
        for name in ("ring", "fa")
    }
    # what the README says of the two, by more than their errors
    error = sum(found["data_stderr"] for found in evidence.values())
    assert evidence["ring"]["value"] + 3 * error < evidence["fa"]["value"]
    assert Path("runs/ring/plane.png").exists()
    assert np.load("runs/ring/latents.npz")["z"].shape == (200, 2)


@pytest.mark.parametrize("words, options", commands().items())
def test_a_command_has_the_options_that_are_named(
    words: tuple[str, ...], options: set[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*words, "--help"])

    assert ended.value.code == 0
    assert not options - set(re.findall(r"--[\w.-]+", capsys.readouterr().out))


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)#:]+)\)", README))
def test_a_link_leads_to_a_file(target: str) -> None:
    assert (ROOT / target).exists()
