r"""Parts by name: what is found, what is imported for it, and what is refused."""

import pickle
import sys
from collections.abc import Iterator
from inspect import getsource
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from mine import MINE, imported, written
from torch import nn

import pyro_vae.data
import pyro_vae.guides
import pyro_vae.models
import pyro_vae.nn
from pyro_vae.components import (
    Kind,
    build,
    choices,
    files_of,
    find,
)
from pyro_vae.components.kinds import exported
from pyro_vae.guides import AmortizedNormal
from pyro_vae.likelihoods import Binomial
from pyro_vae.models import VAE
from pyro_vae.nn import conv_decoder
from pyro_vae.objectives import ELBO


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    with written():
        yield tmp_path


FOUND: dict[str, tuple[str, Kind, Any]] = {
    "model": ("VAE", "model", VAE),
    "full": ("pyro_vae.models.VAE", "model", VAE),
    "guide": ("AmortizedNormal", "guide", AmortizedNormal),
    "objective": ("ELBO", "objective", ELBO),
    "likelihood": ("Binomial", "likelihood", Binomial),
    "maker": ("conv_decoder", "network", conv_decoder),
    "network of torch": ("torch.nn.Linear", "network", nn.Linear),
    "activation": ("Tanh", "activation", nn.Tanh),
    "optimizer": ("Adam", "optimizer", torch.optim.Adam),
    "full optimizer": ("torch.optim.SGD", "optimizer", torch.optim.SGD),
    "schedule": ("StepLR", "schedule", torch.optim.lr_scheduler.StepLR),
    "data": ("load", "data", pyro_vae.data.load),
}


@pytest.mark.parametrize("name", FOUND)
def test_a_name_is_found(name: str) -> None:
    given, kind, expected = FOUND[name]
    assert find(given, kind) is expected


def test_choices_are_parts_only() -> None:
    assert set(choices("network")) == {
        "Filled",
        "conv_decoder",
        "conv_encoder",
        "masked_mlp",
        "mlp",
    }
    assert {"Likelihood", "fitting", "check_support"}.isdisjoint(choices("likelihood"))
    assert {"Bound", "Objective", "kl_terms"}.isdisjoint(choices("objective"))
    assert {"Optimizer", "swa_utils"}.isdisjoint(choices("optimizer"))
    assert {"Module", "Linear", "MultiheadAttention", "Threshold"}.isdisjoint(choices("activation"))
    assert all(isinstance(made(), nn.Module) for made in choices("activation").values())
    with pytest.raises(ValueError, match=r"one of model, guide, .*, got 'modle'"):
        choices("modle")


def test_choices_are_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    exported.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(pyro_vae.models, "Linear", nn.Linear, raising=False)
        assert "Linear" not in choices("model")
    exported.cache_clear()


# none of these may be imported, whatever the kind
REFUSED = [
    *("os.system", "subprocess.check_output", "builtins.eval", "builtins.exec", "pickle.loads"),
    *("torch.load", "torch.hub.load", "torch.nn.os.system", "torch.nn.Module.__init__"),
    *("torch.nn.functional.relu", "torch.nn.init.zeros_", "torch.nn.modules.Linear"),
    *("torch.optim.lr_scheduler.torch.load", "torch.optim.sys.exit", "torch.optim.Optimizer"),
    *("pyro_vae.models.torch.load", "pyro_vae.models.vae.pyro", "pyro_vae.models.__loader__"),
    *("pyro_vae.models.vae.VAE", "pyro_vae.nn.nn.Linear", "pyro_vae.nn.make_network"),
    *("pyro_vae.nn.check_width", "pyro_vae.likelihoods.Likelihood", "pyro_vae.objectives.Bound"),
    *("pyro_vae.data.Data", "pyro_vae.guides._Amortized", "pyro_vae.SVI", "pyro_vae.loop.fit"),
    *("minepackage.parts.Mine", "minepackaged.Mine", "mine.Mine", "mine.py", "mine:Mine"),
    *("", ".", "..", ".Mine", "Mine.", "a..b", "__builtins__", "VAE.__init__", "VAE\n", " VAE"),
    *("../mine.py:Mine", "./mine.py:Mine", "mine.py:", "x.py:mine.py:Mine", "mine.pyc:Mine"),
]


@pytest.mark.parametrize("kind", get_args(Kind))
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_allowed_is_not_imported(name: str, kind: Kind) -> None:
    before = set(sys.modules)
    for spec in (name, {"class_path": name, "init_args": {"args": "x"}}):
        with pytest.raises(ValueError, match="expected"):
            build(spec, kind)
    assert not imported()
    assert not [name for name in set(sys.modules) - before if "mine" in name]


@pytest.mark.parametrize("kind", get_args(Kind))
def test_a_name_is_found_for_its_own_kind_only(kind: Kind) -> None:
    for name, other, _ in FOUND.values():
        full = name if "." in name else f"{find(name, other).__module__}.{name}"
        if other != kind and {other, kind} != {"network", "activation"}:
            with pytest.raises(ValueError, match=r"expected|may be imported"):
                find(full, kind)


ALLOWED: list[tuple[str, Kind, tuple[str, ...]]] = [
    ("minepackage.parts.Mine", "model", ("minepackage",)),
    ("minepackage.parts.Mine", "guide", ("other", "minepackage.parts")),
    ("minepackage.parts.model", "model", ("minepackage",)),
    ("minepackage.parts.Net", "network", ("minepackage",)),
    ("minepackage.parts.Scaled", "likelihood", ("minepackage",)),
    ("mine.py:Mine", "model", ("mine.py",)),
    ("./mine.py:model", "guide", ("mine.py",)),
    ("mine.py:Net", "network", ("./mine.py",)),
    ("mine.py:Scaled", "objective", ("sub/../mine.py",)),
]


@pytest.mark.parametrize("name, kind, allow", ALLOWED)
def test_what_is_allowed_is_found(name: str, kind: Kind, allow: tuple[str, ...]) -> None:
    assert find(name, kind, allow=allow).__name__ == name.replace(":", ".").split(".")[-1]
    assert imported()


@pytest.mark.parametrize("where", ["minepackage.parts.", "mine.py:"])
@pytest.mark.parametrize(
    "name, kind, match",
    [
        ("system", "model", "that .* defines"),
        ("sys", "model", "that .* defines"),
        ("VAE", "model", "that .* defines"),
        ("value", "model", r"a class or function that .* defines \(Mine, Scaled, Net, model\)"),
        ("_hidden", "model", "expected a class or function|expected a model that may be imported"),
        ("mine", "model", "did you mean Mine"),
        ("model", "likelihood", "expected a class that"),
        ("Mine", "optimizer", r"a class, of Optimizers, that .* \(there is none\), got 'Mine'"),
        ("Scaled", "network", r"a class or function, of Modules, that .* \(Mine, Net, model\)"),
    ],
)
def test_only_what_is_defined_there(where: str, name: str, kind: Kind, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        find(f"{where}{name}", kind, allow=("mine.py", "minepackage"))


def test_an_allowed_package_does_not_allow_its_namesakes() -> None:
    for name in ("minepackaged.Mine", "minepackage_.parts.Mine", "mine.Mine"):
        with pytest.raises(ValueError, match="below a package of yours that --allow PACKAGE names"):
            find(name, "model", allow=("minepackage", "mine.py"))
    Path("minepackage/_hidden.py").write_text(MINE)
    for name in ("minepackage._hidden.Mine", "minepackage.parts._hidden", "mine.py.Mine"):
        with pytest.raises(ValueError, match="a model that may be imported"):
            find(name, "model", allow=("minepackage", "mine.py"))
    assert not imported()
    with pytest.raises(ValueError, match=r"to import minepackage.absent, .* ModuleNotFoundError"):
        find("minepackage.absent.Mine", "model", allow=("minepackage",))


def test_a_file_is_imported_once_and_as_a_module(elsewhere: Path) -> None:
    path = list(sys.path)
    mine = find("mine.py:Mine", "model", allow=["mine.py"])
    assert find(f"{elsewhere}/mine.py:Mine", "guide", allow=[str(elsewhere / "mine.py")]) is mine
    assert getsource(mine).startswith("class Mine(PyroModule)")
    scaled = find("mine.py:Scaled", "likelihood", allow=["mine.py"])
    assert pickle.loads(pickle.dumps(scaled(2.0))) == scaled(2.0)

    Path("other").mkdir()
    Path("other/mine.py").write_text("class Mine: pass")
    other = find("other/mine.py:Mine", "model", allow=["other/mine.py"])
    assert other is not mine
    assert sys.modules[mine.__module__].Mine is mine
    assert sys.path == path


def test_a_file_imports_those_beside_it_after_what_is_installed(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != str(elsewhere)])
    path = list(sys.path)
    Path("minehelper.py").write_text("width = 7")
    Path("tabnanny.py").write_text("raise RuntimeError('not the one of Python')")
    Path("user.py").write_text("import tabnanny\nfrom minehelper import width\ndef model(x): ...")
    model = find("user.py:model", "model", allow=["user.py"])
    assert model.__globals__["width"] == 7
    assert sys.path == path


def test_what_is_executed_is_what_was_recorded(elsewhere: Path) -> None:
    path = str(elsewhere / "mine.py")
    files = files_of({"model": "mine.py:Mine", "x": [{"class_path": "absent.py:A"}, 3]})
    assert list(files) == [path]
    assert find("mine.py:Mine", "model", allow=["mine.py"], files=files).__name__ == "Mine"

    Path("imported").unlink()
    Path("mine.py").write_text(MINE + "\n# changed")
    for recorded in (files, {}):
        with pytest.raises(ValueError, match=r"mine.py: expected the file that was recorded \(sha"):
            find("mine.py:Mine", "model", allow=["mine.py"], files=recorded)
    for wrong in ([], "x", {path: 3}):
        with pytest.raises(ValueError, match=r"expected files as {path: sha256}"):
            find("mine.py:Mine", "model", allow=["mine.py"], files=wrong)
    assert not imported()
    assert files_of("mine.py:Mine") == files  # of what was executed

    find("mine.py:Mine", "model", allow=["mine.py"])
    assert imported()
    assert files_of("mine.py:Mine") != files


@pytest.mark.parametrize(
    "name, source, error, match",
    [
        ("mine.py:Mine", None, ValueError, r"since importing .* trust it add --allow .*mine\.py"),
        ("absent.py:Mine", None, FileNotFoundError, "absent.py: expected a file of Python, got no"),
        ("~nobody-here/mine.py:A", None, ValueError, "expected the path of a file, got '~nobody"),
        ("a\0b.py:A", None, ValueError, "expected the path of a file, got .*null"),
        ("loop/mine.py:A", None, ValueError, "loop"),
        ("bad.py:A", "x = (", ValueError, "bad.py: expected a file that .* SyntaxError in line 1"),
        ("bad.py:A", "\n1 / 0", ValueError, "ZeroDivisionError in line 2: division by zero"),
        ("bad.py:A", "import sys\nsys.exit(0)", ValueError, "SystemExit in line 2: 0"),
        ("bad.py:A", "x = '\0'", ValueError, "bad.py: expected a file that can be imported"),
        ("bad.py:A", "", ValueError, r"that .*bad.py defines \(there is none\), got 'A'"),
    ],
)
def test_files_that_are_not_imported(
    name: str, source: str | None, error: type[Exception], match: str
) -> None:
    Path("loop").symlink_to("loop")
    if source is not None:
        Path("bad.py").write_text(source)
    before = set(sys.modules)
    with pytest.raises(error, match=match):
        find(name, "model", allow=["bad.py", "absent.py"])
    assert not imported()
    assert set(sys.modules) == before or source == ""


def test_a_package_that_is_allowed_allows_no_other_of_its_beginning() -> None:
    with pytest.raises(ValueError, match="minepackaged"):
        find("minepackaged.Mine", "model", allow=["minepackage"])
    assert not imported()
