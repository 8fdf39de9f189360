r"""A user's own files: imported only where allowed, and only as recorded."""

__all__ = [
    "checked_files",
    "checksum",
    "class_path",
    "defined_names",
    "files_of",
    "import_file",
    "split_file",
]

import ast
import hashlib
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

_NAMED = re.compile(r"(?P<path>.+\.py):(?P<name>[^:/\\]*)", re.DOTALL)
_PREFIX = "_pyro_vae_file_"


def split_file(name: str) -> tuple[Path, str] | None:
    r"""The absolute path and the name in ``"my_file.py:MyModel"``, else None."""
    found = _NAMED.fullmatch(name)
    return None if found is None else (_absolute(found["path"]), found["name"])


def class_path(thing: Any) -> str | None:
    r"""The path and name of what such a file defines, else None."""
    module = getattr(thing, "__module__", None)
    if not isinstance(module, str) or not module.startswith(_PREFIX) or module not in sys.modules:
        return None
    return f"{sys.modules[module].__file__}:{thing.__qualname__}"


def defined_names(path: str) -> list[str]:
    r"""The public classes and functions of a file, which is read and not run."""
    try:
        body = ast.parse(_absolute(path).read_bytes()).body
    except (OSError, SyntaxError, ValueError):
        return []
    defined = [part.name for part in body if isinstance(part, ast.ClassDef | ast.FunctionDef)]
    return [name for name in defined if not name.startswith("_")]


def checksum(path: Path) -> str:
    r"""The sha256 of a file as it is now."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def checked_files(files: Any) -> dict[str, str] | None:
    r"""Checksums by path, or None.

    Raises:
        ValueError: If they are something else.
    """
    fits = isinstance(files, Mapping) and all(isinstance(v, str) for v in files.values())
    if files is not None and not fits:
        raise ValueError(f"expected files as {{path: sha256}}, got {files!r}")
    return None if files is None else dict(files)


def files_of(spec: Any) -> dict[str, str]:
    r"""The sha256 of each file that a description names, by absolute path.

    Of a file that was imported, it is that of what was executed.

    Example:
        >>> files_of({"class_path": "pyro_vae.models.VAE"})
        {}
    """
    found = {}
    for name in _strings(spec):
        parts = split_file(name)
        if parts is not None:
            module = sys.modules.get(_module_name(parts[0]))
            if module is not None:
                found[str(parts[0])] = module.__sha256__
            elif parts[0].is_file():
                found[str(parts[0])] = checksum(parts[0])
    return found


def import_file(
    path: Path, allow: Iterable[str], files: Mapping[str, str] | None = None
) -> ModuleType:
    r"""Imports a file that is allowed and, if checksums are given, has its own.

    The bytes that are executed are those that the checksum was computed of.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not allowed, is not the recorded one, or raises.
    """
    files = checked_files(files)
    if path not in [_absolute(entry) for entry in allow if entry.endswith(".py")]:
        raise ValueError(
            f"{path}: expected a file that is allowed, since importing it runs what it says: read "
            f"it, and if you trust it add --allow {path} (in Python: allow=)"
        )
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a file of Python, got nothing there")
    source = path.read_bytes()
    digest = hashlib.sha256(source).hexdigest()
    if files is not None and (recorded := files.get(str(path))) != digest:
        was = "none" if recorded is None else f"{recorded:.12}…"
        raise ValueError(
            f"{path}: expected the file that was recorded (sha256 {was}), got another "
            f"({digest:.12}…): restore it, or name it on the command line, or build its program "
            "in Python and pass that"
        )
    before = sys.modules.get(_module_name(path))
    if before is not None and before.__sha256__ == digest:
        return before
    return _executed(path, source, digest)


def _executed(path: Path, source: bytes, digest: str) -> ModuleType:
    name = _module_name(path)
    spec = spec_from_file_location(name, path)
    assert spec is not None  # of a path that ends in .py there is one
    module = module_from_spec(spec)
    vars(module)["__sha256__"] = digest
    before = sys.modules.get(name)
    sys.modules[name] = module
    try:
        with _beside(path.parent):
            exec(compile(source, path, "exec", dont_inherit=True), vars(module))
    except BaseException as error:
        sys.modules.pop(name)
        if before is not None:
            sys.modules[name] = before
        if not isinstance(error, Exception | SystemExit):
            raise
        raise ValueError(
            f"{path}: expected a file that can be imported, got {type(error).__name__}"
            f"{_line(error, path)}: {error}"
        ) from error
    return module


@contextmanager
def _beside(folder: Path) -> Iterator[None]:
    r"""Lets a file import those beside it; last, so that they hide nothing installed."""
    sys.path.append(str(folder))
    try:
        yield
    finally:
        if str(folder) in sys.path:
            del sys.path[len(sys.path) - 1 - sys.path[::-1].index(str(folder))]


def _line(error: BaseException, path: Path) -> str:
    r"""The line of a file that an error came from."""
    line = error.lineno if isinstance(error, SyntaxError) else None
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            line = trace.tb_lineno
        trace = trace.tb_next
    return "" if line is None else f" in line {line}"


def _module_name(path: Path) -> str:
    r"""A name of its own for each path."""
    digest = hashlib.sha256(str(path).encode()).hexdigest()
    return f"{_PREFIX}{re.sub(r'[^0-9A-Za-z_]', '_', path.stem)}_{digest:.12}"


def _absolute(path: str) -> Path:
    try:
        return Path(path).expanduser().resolve()
    except (OSError, RuntimeError, ValueError) as error:  # no such home, links in a circle, a NUL
        raise ValueError(f"expected the path of a file, got {path!r}: {error}") from error


def _strings(spec: Any) -> Iterator[str]:
    if isinstance(spec, str):
        yield spec
    elif isinstance(spec, Mapping):
        for value in spec.values():
            yield from _strings(value)
    elif isinstance(spec, list | tuple):
        for value in spec:
            yield from _strings(value)
