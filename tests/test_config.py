r"""YAML: what is read back is what was written, and only plain data are read."""

import math
import time
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Size

from pyro_vae.components import dump_config, read_config


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def read(text: str | bytes) -> dict[str, Any]:
    Path("config.yaml").write_bytes(text.encode() if isinstance(text, str) else text)
    return read_config("config.yaml")


VALUES = [
    *(0, -3, 10**30, True, None, 0.1, 1e-3, 1e-8, 1e300, -2.5e-7, math.inf, -math.inf),
    *("", "x", "1", "1e-3", "1.0", "true", "null", "~", "yes", "no", "2020-01-01", "0x1f", "1:30"),
    *("é ü 漢 😀", "a: b", "# no", "- x", "'", '"', "a\nb\n", " a ", "*x", "&x", "!x", "%x", "<<"),
    *([], [1, 2], [0.5, "a", None], [[1], [2, [3]]], {}, {"a": {"b": [1, {"c": []}]}}, "x" * 300),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:30])
def test_what_is_written_is_read(value: Any) -> None:
    config = {"key": value, "nested": {"list": [value], str(value): value}}
    found = read(dump_config(config))
    assert found == config
    assert type(found["key"]) is type(value)


def test_the_deepest_that_is_read() -> None:
    found = read("a: " + "[" * 31 + "]" * 31)["a"]
    for _ in range(30):
        (found,) = found
    assert found == []


def test_nan_tuples_and_sizes() -> None:
    found = read(dump_config({"nan": math.nan, "tuple": (1, (2,)), "size": Size([3, 4])}))
    assert math.isnan(found.pop("nan"))
    assert found == {"tuple": [1, [2]], "size": [3, 4]}


def test_it_is_readable() -> None:
    same = [1, 2]
    text = dump_config({"a": same, "b": same, "c": {"lr": 0.001, "names": ["x", "y"], "z": {}}})
    assert text == "a: [1, 2]\nb: [1, 2]\nc:\n  lr: 0.001\n  names: [x, y]\n  z: {}\n"


def test_numbers_are_those_of_people() -> None:
    text = "a: 1e-3\nb: 1E5\nc: 2020-01-01\nd: .5\ne: -1.\nf: 1e\ng: e5"
    assert read(text) == {
        **{"a": 1e-3, "b": 1e5, "c": "2020-01-01", "d": 0.5},
        **{"e": -1.0, "f": "1e", "g": "e5"},
    }


BOMB = "a: &a [x]\n" + "".join(
    f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcd", "bcde", strict=True)
)
WRONG: dict[str, tuple[str | bytes, str]] = {
    "object": ("x: !!python/object/apply:os.system ['touch marker']", "line 1: expected no tags"),
    "object in a list": (
        "x:\n- !!python/object/new:os.system [touch marker]",
        "line 2",
    ),
    "name": ("x: !!python/name:os.system", "no tags, got 'tag:yaml.org,2002:python/name:os.sys"),
    "module": ("x: !!python/module:os", "no tags"),
    "own tag": ("x: !mine {}", "no tags, got '!mine'"),
    "plain tag": ("x: !!str 3", "no tags"),
    "tag on a key": ("!!python/name:os.system x: 3", "no tags"),
    "tag directive": ("%TAG ! tag:yaml.org,2002:python/\n---\nx: !name:os.system", "no tags"),
    "anchor": ("x: &a 3", "line 1: expected no anchors or aliases"),
    "alias": ("x: *a", "no anchors or aliases"),
    "bomb": (BOMB, "no anchors or aliases"),
    "itself": ("x: &a [*a]", "no anchors or aliases"),
    "merged": ("<<: {x: 3}", "a name as key, got '<<'"),
    "twice": ("x: 1\ny: 2\nx: 3", "line 3: expected each key once, got 'x' again"),
    "twice below": ("x: {y: 1, y: 2}", "each key once, got 'y' again"),
    "number as key": ("1: 2", "line 1: expected a name as key, got '1'"),
    "null as key": ("~: 2", "a name as key"),
    "list as key": ("? [a]\n: 2", "a name as key"),
    "list": ("- 1", "expected a mapping, got list"),
    "number": ("3", "expected a mapping, got int"),
    "nothing": ("", "expected a mapping, got NoneType"),
    "two documents": ("a: 1\n---\nb: 2", "expected YAML, got that but found another document"),
    "no YAML": ("a: [1", "line 1: expected YAML, got that"),
    "no indentation": ("a: 1\n  b: 2", "line 2: expected YAML"),
    "tab": ("a:\n\tb: 1", "line 2: expected YAML"),
    "control": ("a: \x07", "expected YAML, got .*special characters"),
    "no UTF-8": (b"a: \xff", "expected UTF-8, got byte 3"),
    "UTF-16": ("a: 1".encode("utf-16"), "expected UTF-8"),
    "large": ("a: " + "x" * 2**20, "at most 1048576 bytes, got more"),
    "large number": ("a: " + "9" * 5000, "config.yaml: .*digits"),
    "deep": ("a: " + "[" * 32 + "]" * 32, "line 1: expected at most 32 levels"),
    "very deep": ("a: " + "[" * 500_000, "at most 32 levels"),
    "deep mappings": ("a: " + "{b: " * 50 + "}" * 50, "at most 32 levels"),
    "deep blocks": ("- " * 10_000, "at most 32 levels"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_not_plain_is_refused(name: str) -> None:
    text, match = WRONG[name]
    start = time.monotonic()
    with pytest.raises(ValueError, match=match) as caught:
        read(text)
    assert str(caught.value).startswith("config.yaml: ")
    assert len(str(caught.value).splitlines()) == 1
    assert not Path("marker").exists()
    assert time.monotonic() - start < 5


def test_files_that_are_not_there() -> None:
    Path("folder").mkdir()
    with pytest.raises(FileNotFoundError, match=r"absent.yaml: expected a file .* got nothing the"):
        read_config("absent.yaml")
    with pytest.raises(FileNotFoundError, match="folder: expected a file of YAML, got a folder"):
        read_config("folder")


@pytest.mark.parametrize(
    "value", [torch.zeros(3), object(), {1, 2}, b"x", 1j, print, date(2020, 1, 1)]
)
def test_only_plain_data_are_written(value: Any) -> None:
    with pytest.raises(TypeError, match="expected plain data, got"):
        dump_config({"x": value})


def test_our_reader_reads_what_any_yaml_reader_does() -> None:
    text = dump_config({"a": [1, 2.5], "b": {"c": "text", "d": None}})
    assert read(text) == yaml.safe_load(text)
