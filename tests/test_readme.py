r"""The README's code runs, and its commands exist with the options that it names."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SETUP = "python3 -m pip install -q uv && python3 -m uv run"


def blocks(*languages: str) -> list[str]:
    r"""Returns the fenced blocks of code in the languages."""
    fences = re.findall(r"^```(\w*)[^\n]*\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
    return [code for language, code in fences if language in languages]


def commands() -> dict[str, set[str]]:
    r"""Returns the options that the README gives to each sub-command of ``pyro-vae``."""
    found: dict[str, set[str]] = {}
    inline = re.findall(r"`([^`\n]*\bpyro-vae [^`\n]+)`", README)
    lines = "\n".join(blocks("sh", "bash", "console", "shell")).replace("\\\n", " ").splitlines()
    for line in [*inline, *lines]:
        for command in re.findall(r"\bpyro-vae +([^&|;]+)", line):
            words = shlex.split(command, comments=True)
            if words and not words[0].startswith("-"):
                options = {word.split("=")[0] for word in words if word.startswith("--")}
                found.setdefault(words[0], set()).update(options)
    return found


@pytest.mark.parametrize("command", [f"{SETUP} pyro-vae fit", f"{SETUP} pytest"])
def test_two_lines_do_all_the_set_up(command: str) -> None:
    lines = "\n".join(blocks("sh", "bash", "console", "shell")).splitlines()

    assert command in [line.removeprefix("$ ").split(" #")[0].strip() for line in lines]


@pytest.mark.skipif(not blocks("python"), reason="the README has no Python code")
def test_the_code_runs_from_top_to_bottom(tmp_path: Path) -> None:
    script = tmp_path / "readme.py"
    script.write_text("\n".join(blocks("python")), encoding="utf-8")

    run = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, cwd=tmp_path, timeout=180
    )

    assert run.returncode == 0, run.stderr
    assert "Warning" not in run.stderr, run.stderr


@pytest.mark.parametrize("name, options", commands().items())
def test_a_command_has_the_options_that_are_named(name: str, options: set[str]) -> None:
    run = subprocess.run(
        [sys.executable, "-c", "from pyro_vae.cli import main; main()", name, "--help"],
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert run.returncode == 0, run.stderr
    assert not options - set(re.findall(r"--[\w.-]+", run.stdout))


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)#:]+)\)", README))
def test_a_link_leads_to_a_file(target: str) -> None:
    assert (ROOT / target).exists()
