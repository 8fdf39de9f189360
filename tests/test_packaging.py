r"""What the distribution holds, and what importing it costs."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
MODULES = sorted(
    path
    for folder in ("pyro_vae", "models", "guides")
    for path in (ROOT / folder).rglob("*.py")
    if "pyro_vae/models" not in path.as_posix() and "pyro_vae/guides" not in path.as_posix()
)


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, cwd=ROOT, timeout=300
    )


def test_every_package_is_listed() -> None:
    folders = {path.parent.relative_to(ROOT) for path in MODULES}
    names = {".".join(folder.parts) for folder in folders}
    names = {name if name.startswith("pyro_vae") else f"pyro_vae.{name}" for name in names}

    assert set(PYPROJECT["tool"]["setuptools"]["packages"]) == names


@pytest.mark.parametrize("name", ["models", "guides"])
def test_programs_are_linked_from_the_package(name: str) -> None:
    link = ROOT / "pyro_vae" / name

    assert link.is_symlink()
    assert link.readlink() == Path("..", name)


@pytest.mark.parametrize("name", ["models", "guides"])
def test_programs_refuse_another_name(name: str) -> None:
    run = python("-c", f"import {name}")

    assert run.returncode == 1
    assert f"ImportError: import 'pyro_vae.{name}', not '{name}'" in run.stderr


@pytest.mark.parametrize(
    "arguments",
    [("import pyro_vae",), ("from pyro_vae.cli import main; main()", "--help")],
    ids=["import", "help"],
)
def test_the_first_answer_needs_no_torch(arguments: tuple[str, ...]) -> None:
    run = python("-X", "importtime", "-c", *arguments)

    assert run.returncode == 0, run.stderr
    imported = {line.rpartition("|")[2].strip() for line in run.stderr.splitlines()}
    assert "pyro_vae" in imported
    assert not imported & {
        "lightning",
        "lightning_fabric",
        "matplotlib",
        "pyro",
        "sklearn",
        "torch",
    }


def test_every_module_says_what_it_is_and_what_it_offers() -> None:
    missing = []
    for path in MODULES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        targets = {
            ast.unparse(t) for n in tree.body if isinstance(n, ast.Assign) for t in n.targets
        }
        if not ast.get_docstring(tree):
            missing.append(f"{path.relative_to(ROOT)}: docstring")
        if "__all__" not in targets and path.name not in ("__init__.py", "__main__.py"):
            missing.append(f"{path.relative_to(ROOT)}: __all__")

    assert not missing


def test_the_licence_is_the_one_declared() -> None:
    lines = (ROOT / "LICENSE").read_text(encoding="utf-8").splitlines()

    assert PYPROJECT["project"]["license"] == "Apache-2.0"
    assert [line.strip() for line in lines[1:3]] == [
        "Apache License",
        "Version 2.0, January 2004",
    ]
    assert (ROOT / "pyro_vae" / "py.typed").exists()
