r"""Whether the Python values that programs read are still what they were."""

__all__ = ["Watch"]

from collections import Counter
from collections.abc import Hashable
from operator import getitem, is_
from typing import Any

from pyro_vae.reach import Table, equal, fixed, hashable, reach


class Watch:
    r"""The Python values that programs read, which a compiled graph would freeze.

    Numbers, strings and the like, and tuples of them, count by value and type; tensors, functions
    and other objects by identity. They are looked for in the attributes of modules and their
    children, in what functions close over or find among the globals, and, a few levels deep, in
    objects, lists and dictionaries held there. Not seen are what hooks do, and the contents of
    tensors, NumPy arrays, iterators and of objects of libraries.

    Arguments:
        roots: The programs, and objects such as an objective, by the names that messages use.

    Attributes:
        difference: What differed when the values last did, in words; ``None`` if they never did.

    Example:
        >>> import torch
        >>> decoder = torch.nn.Linear(2, 5)
        >>> decoder.temperature = 0.5
        >>> watch = Watch(decoder=decoder)
        >>> before = watch.values()
        >>> decoder.temperature = 0.4
        >>> watch.values() == before
        False
        >>> watch.difference
        "attribute 'temperature' of decoder: 0.5, now 0.4"
    """

    def __init__(self, **roots: Any) -> None:
        self._roots = roots
        self.difference: str | None = None
        self._take(Snapshot(roots))

    def values(self) -> Hashable:
        r"""The values as they stand now: equal ones mean that programs read the same."""
        if not self._same():
            now = Snapshot(self._roots)
            self.difference = self._difference(now) or self.difference
            self._take(now)
        return self._key

    def plain(self) -> tuple[Any, ...]:
        r"""What of :meth:`values` means the same in another process: of objects their types."""
        found = self._seen.found.items()
        pairs = ((*_plain(place), *_plain((value,))) for place, value in found)
        return tuple(sorted(pairs))  # sets have another order in each process

    def _take(self, now: "Snapshot") -> None:
        self._seen, self._key = now, now.key()

    def _same(self) -> bool:
        seen = self._seen
        try:
            now = list(map(getitem, seen.tables, seen.names))
        except (LookupError, ValueError, AttributeError):  # one is gone
            return False
        if list(map(len, seen.sized)) != seen.sizes and not seen.grown():
            return False
        # identity first: an object may define == as it likes
        if all(map(is_, now, seen.values)):
            return True
        if not all(map(equal, now, seen.values)):
            return False
        seen.values = now
        return True

    def _difference(self, now: "Snapshot") -> str | None:
        before, after = self._seen.found, now.found
        for place, old in before.items():
            if place not in after:
                return f"{_said(place)}: {_short(old)}, now gone"
            if not equal(after[place], old):
                return f"{_said(place)}: {_short(old)}, now {_short(after[place])}"
        new = next((place for place in after if place not in before), None)
        return None if new is None else f"{_said(new)}: new, {_short(after[new])}"


Place = tuple[str, str, Any]


class Snapshot:
    r"""All values at one time, with what is needed to look at them again quickly.

    Arguments:
        roots: As for :class:`Watch`.
    """

    def __init__(self, roots: dict[str, Any]) -> None:
        self.tables: list[Any] = []
        self.names: list[Any] = []
        self.values: list[Any] = []
        self.found: dict[Place, Any] = {}
        self.open: list[tuple[Table, int]] = []  # new variables count there
        names = Counter[tuple[str, str]]()  # two functions may each have a closure variable x
        for table in reach(**roots):
            names[table.kind, table.name] += 1
            again = names[table.kind, table.name]
            owner = table.name if again == 1 else f"{table.name} ({again})"
            for name, value in table.now().items():
                self.tables.append(table.values)
                self.names.append(name)
                self.values.append(value)
                self.found[table.kind, owner, name] = value
            if table.names is None:
                self.open.append((table, len(table.now())))
        self.sized = [table.values for table, _ in self.open]
        self.sizes = list(map(len, self.sized))

    def grown(self) -> bool:
        r"""Whether the tables changed in nothing but what does not count, as caches."""
        if any(len(table.now()) != size for table, size in self.open):
            return False
        self.sizes = list(map(len, self.sized))
        return True

    def key(self) -> Hashable:
        return _Key(tuple((place, hashable(value)) for place, value in self.found.items()))


class _Key:
    r"""A tuple that is hashed once."""

    def __init__(self, items: tuple[Any, ...]) -> None:
        self.items, self.hash = items, hash(items)

    def __hash__(self) -> int:
        return self.hash

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, _Key) and self.items == other.items)


def _plain(values: tuple[Any, ...]) -> tuple[str, ...]:
    return tuple(repr(v) if fixed(v) else type(v).__name__ for v in values)


def _said(place: Place) -> str:
    kind, owner, name = place
    return f"{kind} {name!r} of {owner}"


def _short(value: Any) -> str:
    if not fixed(value):
        return f"a {type(value).__name__}"
    said = repr(value)
    return said if len(said) <= 40 else said[:37] + "..."
