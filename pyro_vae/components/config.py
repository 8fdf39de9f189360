r"""Configurations as YAML that holds plain data only."""

__all__ = ["dump_config", "read_config"]

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

LARGEST = 2**20  # bytes
DEEPEST = 32

# YAML 1.1 reads 1e-3 as a string, and 2020-01-01 as a date
_NUMBER = re.compile(
    r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[0-9][0-9_]*[eE][-+]?[0-9]+"
    r"|\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?|\.(?:inf|Inf|INF))|\.(?:nan|NaN|NAN)"
)
_REPLACED = ("tag:yaml.org,2002:float", "tag:yaml.org,2002:timestamp")


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:str":
                raise _error(key, f"a name as key, got {key.value!r}")
            if key.value in seen:
                raise _error(key, f"each key once, got {key.value!r} again")
            seen.add(key.value)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


for _class in (_Loader, _Dumper):
    _class.yaml_implicit_resolvers = {
        first: [(tag, regexp) for tag, regexp in resolvers if tag not in _REPLACED]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    _class.add_implicit_resolver(
        _REPLACED[0], re.compile(f"^(?:{_NUMBER.pattern})$"), list("-+0123456789.")
    )


def _sequence(dumper: _Dumper, values: list[Any] | tuple[Any, ...]) -> yaml.SequenceNode:
    flow = not any(isinstance(value, list | tuple | dict) for value in values)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", values, flow_style=flow)


# sets, bytes and dates would need tags
_PLAIN = (None, type(None), str, bool, int, float, dict)
_Dumper.yaml_representers = {
    kind: found for kind, found in yaml.SafeDumper.yaml_representers.items() if kind in _PLAIN
}
# of subclasses, too: torch.Size, restricted numbers
_Dumper.add_representer(list, _sequence)
_Dumper.add_multi_representer(tuple, _sequence)
_Dumper.add_multi_representer(int, lambda dumper, value: dumper.represent_int(int(value)))
_Dumper.add_multi_representer(float, lambda dumper, value: dumper.represent_float(float(value)))


def read_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    r"""Reads a mapping of plain data: no tags, anchors or aliases, and no key twice.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds something else, is larger than a mebibyte, or is nested deeper
            than 32 levels.
    """
    file = Path(path)
    if not file.is_file():
        found = "a folder" if file.is_dir() else "nothing there"
        raise FileNotFoundError(f"{file}: expected a file of YAML, got {found}")
    with file.open("rb") as stream:
        raw = stream.read(LARGEST + 1)
    if len(raw) > LARGEST:
        raise ValueError(f"{file}: expected at most {LARGEST} bytes, got more")
    try:
        text = raw.decode()
        _check_events(text)
        found = yaml.load(text, _Loader)  # a safe loader
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{file}: {_message(error)}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{file}: expected a mapping, got {type(found).__name__}")
    return found


def dump_config(config: Mapping[str, Any]) -> str:
    r"""Writes plain data as YAML that :func:`read_config` reads back.

    Raises:
        TypeError: If it is no plain data.

    Example:
        >>> print(dump_config({"lr": 1e-3, "hidden": (400, 200), "model": {"latents": 2}}), end="")
        lr: 0.001
        hidden: [400, 200]
        model:
          latents: 2
    """
    try:
        return yaml.dump(
            dict(config), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100
        )
    except yaml.representer.RepresenterError as error:
        raise TypeError(f"expected plain data, got {error.args[-1]!r}") from error


def _check_events(text: str) -> None:
    r"""Refuses what is not plain before anything is built of it."""
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        if getattr(event, "anchor", None) is not None:
            raise _error(event, "no anchors or aliases")
        if (tag := getattr(event, "tag", None)) is not None:
            raise _error(event, f"no tags, got {tag!r}")
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise _error(event, f"at most {DEEPEST} levels")


def _error(where: Any, expected: str) -> ValueError:
    return ValueError(f"line {where.start_mark.line + 1}: expected {expected}")


def _message(error: Exception) -> str:
    r"""What is wrong, in a line."""
    if isinstance(error, UnicodeDecodeError):
        return f"expected UTF-8, got byte {error.start} of another encoding"
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: expected YAML, got that {error.problem}"
    if isinstance(error, yaml.YAMLError):
        return f"expected YAML, got {' '.join(str(error).split())}"
    return str(error)
