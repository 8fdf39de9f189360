r"""Types of options in words, and the parser's errors in ours."""

__all__ = ["Formatter", "Seed", "explained", "words"]

import re
import types
from argparse import SUPPRESS, Action
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin

from jsonargparse import ArgumentParser, DefaultHelpFormatter
from jsonargparse.typing import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    restricted_number_type,
)

Seed = restricted_number_type("Seed", int, [(">=", 0), ("<", 2**32)])

_WORDS: dict[Any, str] = {
    PositiveInt: "a whole number of at least 1",
    NonNegativeInt: "a whole number of at least 0",
    PositiveFloat: "a number above 0",
    NonNegativeFloat: "a number of at least 0",
    Seed: "a whole number from 0 to 4294967295",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    list[float]: "a list of numbers, such as '[1.5, 0]'",
    list[str]: "a list of names, such as '[x, y]'",
    type(None): "null",
}


def words(kind: Any) -> str:
    r"""What a value of a type is.

    Example:
        >>> words(PositiveInt | None)
        'a whole number of at least 1 or null'
        >>> words(Literal["test", "validation", "train"])
        'test, validation or train'
    """
    if get_origin(kind) in (Union, types.UnionType):
        parts = get_args(kind)
        flat = [get_args(part) if get_origin(part) is Literal else [words(part)] for part in parts]
        return _either([str(value) for values in flat for value in values])
    if get_origin(kind) is Literal:
        return _either([str(value) for value in get_args(kind)])
    if kind in _WORDS:
        return _WORDS[kind]
    from pyro_vae.components import type_name

    return type_name(kind)


def explained(message: str, parser: ArgumentParser, given: Mapping[str, Any]) -> str:
    r"""An error of the parser's in our words.

    Arguments:
        message: What the parser says.
        parser: The parser.
        given: What was given, by flag or by key.
    """
    text = " ".join(message.split())
    if extra := re.match(r"unrecognized arguments: (.*)", text, re.IGNORECASE):
        return f"expected nothing more, got {extra[1]}"
    found = re.match(r'Parser key "([^"]+)"(?: element \d+)?: ?(.*)', text) or re.match(
        r"argument (\S+): (expected one argument)", text
    )
    action = None if found is None else _action(parser, found[1])
    if found is None or action is None:
        return text
    flag = str(next(iter(action.option_strings), action.dest))
    kind = getattr(action, "_typehint", None)
    if kind is None:
        return f"{flag}: {found[2][:1].lower()}{found[2][1:]}"
    value = given.get(flag, given.get(action.dest))
    if " element " in text.split(":")[0] and not isinstance(given.get(action.dest), str):
        value = text.rpartition("Got value: ")[2]  # one of several
    return f"{flag}: expected {words(kind)}, got {_shown(value)}{_advice(value, kind)}"


class Formatter(DefaultHelpFormatter):
    r"""Help that says in words what an option takes."""

    def _get_help_string(self, action: Action) -> str:
        kind = getattr(action, "_typehint", action.type)
        if kind is None or action.help in (None, SUPPRESS):
            return str(super()._get_help_string(action))
        # a name's text says what it may be, and braces list the values of the others
        listed = get_origin(kind) is Literal or "bool" in str(kind)
        said = [] if listed or kind in (str, str | None, Any) else [words(kind)]
        said += ["default: %(default)s"] if action.default not in (None, SUPPRESS) else []
        return f"{action.help} ({'; '.join(said)})" if said else str(action.help)


def _action(parser: ArgumentParser, name: str) -> Action | None:
    return next((a for a in parser._actions if name in (a.dest, *a.option_strings)), None)


def _either(several: list[str]) -> str:
    return " or ".join(filter(None, [", ".join(several[:-1]), several[-1]]))


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    number = isinstance(value, str) and re.fullmatch(r"[-+]?[\d.]+(?:[eE][-+]?\d+)?", value)
    return value if number else repr(value)


def _advice(value: Any, kind: Any) -> str:
    r"""How a mapping is written, where a space lacks: YAML reads ``{z:3}`` as one key."""
    if "Mapping" not in str(kind) or not isinstance(value, str) or ": " in value:
        return ""
    return f"; write '{value.replace(':', ': ')}'" if ":" in value else "; write it as '{z: 3}'"
