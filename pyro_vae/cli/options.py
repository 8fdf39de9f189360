r"""Options for the parts of a run: chosen by name, configured by their constructors' arguments."""

__all__ = ["PARTS", "Config", "add_parts", "parse_options"]

from argparse import ArgumentError, ArgumentTypeError
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from inspect import Parameter
from itertools import zip_longest
from typing import Any

import yaml
from jsonargparse import ArgumentParser

from pyro_vae.cli.configuration import load_config
from pyro_vae.cli.wording import explained
from pyro_vae.components import (
    Argument,
    Kind,
    argument_texts,
    arguments,
    checksum,
    choices,
    find,
    full_name,
    split_file,
    suggestion,
    summary,
)

Config = dict[str, Any]

# the parts of a run, and which is taken if none is named
PARTS: dict[Kind, str | None] = {
    "model": "VAE",
    "guide": "AmortizedNormal",
    "objective": "ELBO",
    "likelihood": None,
    "optimizer": "Adam",
    "schedule": None,
    "data": "digits",
}
_NONE = ("none", "null")
_LOAD = "pyro_vae.data.load"
# which part is meant where its arguments are given, but not its name
_CONFIGURED: dict[Kind, str] = {"network": "mlp", "annealing": "Linear"}
_FILLED = {
    "event_shape": "filled from the data",
    "likelihood": "filled from the data",
    "sites": "filled from the model's latents",
    "model": "filled with the model",
}


@dataclass
class _Part:
    r"""A part that was chosen: its name, what a file says of it, and its flags by argument."""

    name: str
    given: Mapping[str, Any]
    flags: dict[str, str] = field(default_factory=dict)
    parts: dict[str, Any] = field(default_factory=dict)

    def spec(self, found: Mapping[str, Any]) -> Config:
        r"""The description, where flags win over the file."""
        flags = {name: found[flag] for name, flag in self.flags.items() if flag in found}
        parts = {name: _spec(part, found) for name, part in self.parts.items()}
        return {"class_path": self.name, "init_args": {**self.given, **parts, **flags}}


def _spec(part: Any, found: Mapping[str, Any]) -> Any:
    return part.spec(found) if isinstance(part, _Part) else part


def parse_options(
    parser: ArgumentParser,
    flags: Sequence[str],
    parts: Mapping[Kind, str | None] = PARTS,
    recorded: Sequence[str] = (),
) -> Config:
    r"""Parses the flags of a command whose parts are chosen by name.

    A flag wins over the file that ``--config`` names, wherever it stands; one that names another
    part than the file does drops the file's arguments for it. Files of Python that a flag names
    are thereby allowed; those that only ``--config`` names must be allowed with ``--allow``, and,
    if it is a run's, be the recorded ones.

    Arguments:
        parser: A parser with the command's other options.
        flags: What stands after the command.
        parts: The kinds of parts, and which is taken of each if none is named.
        recorded: Keys that the configuration of a run has besides options, and are passed on.

    Returns:
        The description of each part (:func:`pyro_vae.components.build`) or None, the other
        options, and two of the arguments of ``build``: ``allow`` and ``files``.

    Raises:
        FileNotFoundError: If a file is not there.
        ValueError: If a name, flag, key or value is unknown or of a wrong type.
    """
    chosen = add_parts(parser, flags, parts, recorded)
    _check_flags(parser, flags)
    own = {key: v for key, v in chosen.config.items() if key not in (*parts, *recorded)}
    given: Mapping[str, Any] = dict(chosen.pairs)
    try:
        found = parser.parse_args(list(flags), defaults=False).as_dict()
        given = own
        own = parser.parse_object(own, defaults=False).as_dict()
    except ArgumentError as error:
        raise ValueError(explained(str(error), parser, given)) from error
    own = {**parser.get_defaults().as_dict(), **own, **found}

    return {
        **{kind: _spec(part, found) for kind, part in chosen.parts.items()},
        **{key: value for key, value in own.items() if key not in chosen.keys},
        **{key: value for key, value in chosen.config.items() if key in recorded},
        "allow": chosen.allow,
        "files": chosen.files,
    }


def add_parts(
    parser: ArgumentParser,
    flags: Sequence[str] = (),
    parts: Mapping[Kind, str | None] = PARTS,
    recorded: Sequence[str] = (),
) -> "_Choices":
    r"""Adds ``--config``, ``--allow``, and the options of the parts that the flags name."""
    own = {action.dest for action in parser._actions} - {"help"}
    text = "a run's config.yaml" if "model" in parts else "one that says 'seed: 3'"
    parser.add_argument(
        "--config", type=str | None, help=f"file of this command's options, such as {text}"
    )
    parser.add_argument(
        "--allow",
        action="append",
        type=str,
        metavar="NAME",
        help="package or my_file.py that --config may import; may be repeated",
    )
    chosen = _Choices(parser, list(_pairs(flags)), {*parts, "config", "allow"})
    chosen.read([*own, *parts, *recorded], list(parts))
    for kind, default in parts.items():
        chosen.parts[kind] = chosen.add(f"--{kind}", kind, chosen.config.get(kind), default)
    return chosen


@dataclass
class _Choices:
    r"""What the flags and the file choose, while a parser gets the options for it."""

    parser: ArgumentParser
    pairs: list[tuple[str, str | None]]
    keys: set[str]
    config: Config = field(default_factory=dict)
    parts: dict[Kind, Any] = field(default_factory=dict)
    allow: tuple[str, ...] = ()
    files: dict[str, str] | None = None

    def read(self, known: Sequence[str], parts: Sequence[str]) -> None:
        r"""Reads the file, and what may be imported."""
        path = self.last("--config")
        if path is not None:
            self.config, self.files = load_config(path, known)
        named = [
            found[0]
            for flag, value in self.pairs
            if flag.removeprefix("--").split(".")[0] in parts and (found := split_file(value or ""))
        ]
        allowed = [value for flag, value in self.pairs if flag == "--allow" and value]
        self.allow = (*allowed, *map(str, named))
        if self.files is not None:
            self.files |= {str(path): checksum(path) for path in named if path.is_file()}

    def last(self, flag: str) -> str | None:
        r"""The value that a flag was given last."""
        return next((value for name, value in reversed(self.pairs) if name == flag), None)

    def add(
        self, flag: str, kind: Kind, config: Any, default: str | None, group: Any = None
    ) -> Any:
        r"""Adds the flag that chooses a part, and the flags of its arguments."""
        typed = self.last(flag)
        self._add_choice(group or self.parser, flag, kind, default)
        if typed is None and isinstance(config, Mapping) and "given" in config:
            return dict(config)
        if kind == "data":
            return self._add_data(flag, typed, config, default)

        name, given = _split(config, kind)
        if typed is not None and (name is None or full_name(typed, kind) != full_name(name, kind)):
            given = {}
        configures = any(other.startswith(f"{flag}.") for other, _ in self.pairs)
        fallback = _CONFIGURED.get(kind, default) if configures else default
        unset = kind in self.config and config is None and flag == f"--{kind}"
        name = typed if typed is not None else name or (None if unset else fallback)
        if name is None or (name in _NONE and default is None):
            return None
        part = _Part(name, given)
        self._add_arguments(flag, kind, part, find(name, kind, allow=self.allow, files=self.files))
        return part

    def _add_data(self, flag: str, typed: str | None, config: Any, default: str | None) -> _Part:
        if isinstance(config, Mapping) and "class_path" not in config:
            config = {"class_path": _LOAD, "init_args": config}
        elif isinstance(config, str):
            config = {"class_path": _LOAD, "init_args": {"source": config}}
        name, given = _split(config, "data")
        source = typed if typed is not None else given.get("source", default)
        if source != given.get("source"):
            given = {}
        part = _Part(name or _LOAD, {**given, "source": source})
        self._add_arguments(flag, "data", part, find(part.name, "data"))
        return part

    def _add_choice(self, group: Any, flag: str, kind: Kind, default: str | None) -> None:
        text = f"{', '.join(choices(kind))}, my_file.py:Name, or a dotted path below --allow"
        if kind == "data":
            text = "name, such as digits or mnist, or path of an .npy, .npz or .csv file"
        # what is given a model is a guide
        filled = None if kind == "model" else _FILLED.get(flag.removeprefix("--").split(".")[-1])
        text = "; ".join(filter(None, (text, filled)))
        key = self._key(flag)
        group.add_argument(flag, dest=key, type=str, default=default, metavar="NAME", help=text)

    def _add_arguments(self, flag: str, kind: Kind, part: _Part, thing: Any) -> None:
        texts = argument_texts(thing)
        title = flag if kind == "data" else f"{flag} {part.name}"
        group = self.parser.add_argument_group(title, summary(thing))
        for name, argument in arguments(thing, kind).items():
            below = f"{flag}.{name}"
            if argument.kind is not None and not self._is_plain(below, argument, part.given):
                made = self.add(below, argument.kind, part.given.get(name), None, group)
                if made is not None or name in part.given:
                    part.parts[name] = made
            elif argument.type is not None and (kind, name) != ("data", "source"):
                part.flags[name] = self._key(below)
                self._add_argument(group, below, argument, texts.get(name, ""))

    def _is_plain(self, flag: str, argument: Argument, given: Mapping[str, Any]) -> bool:
        r"""Whether an argument that may be a part or plain data is plain data here."""
        typed = self.last(flag)
        value = typed if typed is not None else given.get(argument.name)
        if argument.type is None or isinstance(value, Mapping):
            return False
        if value is None:
            return not any(other.startswith(f"{flag}.") for other, _ in self.pairs)
        return not isinstance(value, str) or value in _NONE or _is_number(value)

    def _add_argument(self, group: Any, flag: str, argument: Argument, text: str) -> None:
        needed = "required" if argument.required else None
        filled = "filled from the program" if argument.fact else _FILLED.get(argument.name)
        kind: Any = _anything if argument.type is Any else argument.type
        how: dict[str, Any] = {"metavar": argument.name.upper()}
        if argument.kind is not None:
            needed = f"or one of {', '.join(choices(argument.kind))}"
        if kind is bool:
            how = {"nargs": "?", "const": True}
        elif "Literal" in str(kind) or "bool" in str(kind):
            how = {}  # the parser lists the values
        group.add_argument(
            flag,
            dest=self._key(flag),
            type=kind,
            default=None if argument.default is Parameter.empty else _shown(argument.default),
            help="; ".join(filter(None, (text.rstrip(".") or argument.name, filled or needed))),
            **how,
        )

    def _key(self, flag: str) -> str:
        r"""Where the parser keeps a flag; a dot would make it nest them."""
        key = flag.removeprefix("--").replace(".", "/")
        self.keys.add(key)
        return key


def _pairs(flags: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    r"""Each flag and what was given to it."""
    for flag, following in zip_longest(flags, flags[1:], fillvalue="--"):
        if flag.startswith("--"):
            name, equals, value = flag.partition("=")
            yield name, value if equals else None if following.startswith("--") else following


def _split(config: Any, kind: Kind) -> tuple[str | None, Mapping[str, Any]]:
    r"""The name and the arguments in a description, if it is one."""
    if config is None or isinstance(config, str):
        return config, {}
    name = config.get("class_path") if isinstance(config, Mapping) else None
    given = config.get("init_args") or {} if isinstance(config, Mapping) else {}
    if not isinstance(name, str) or not isinstance(given, Mapping):
        raise ValueError(
            f"expected {kind} as a name or as {{class_path: …, init_args: …}}, got {config!r}"
        )
    return name, given


def _check_flags(parser: ArgumentParser, flags: Sequence[str]) -> None:
    r"""Raises unless each flag is known; none is completed from its beginning."""
    known = [flag for action in parser._actions for flag in action.option_strings]
    for flag, _ in _pairs(flags):
        if flag != "--" and flag not in known:
            raise ValueError(
                f"expected a flag of this command, got {flag}{suggestion(flag, known)}"
            )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _shown(default: Any) -> Any:
    return list(default) if isinstance(default, tuple) else default


def _anything(value: Any) -> Any:
    # jsonargparse validates what it parsed by parsing it again
    try:
        return yaml.safe_load(value) if isinstance(value, str) else value
    except yaml.YAMLError as error:
        raise ArgumentTypeError(f"expected YAML, got {value!r}") from error
