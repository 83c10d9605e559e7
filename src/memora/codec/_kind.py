"""The types and functions that the tables of kinds are written with."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from memora.errors import SerializationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

MAX_KEY = 40  # longest key, in characters or digits, that an error quotes
ATTRIBUTES = "."  # a path step without a name: the next step is an attribute name
MAX_STEPS = 16  # longest path in an error: that of a cycle would fill the screen
_MOST_ALIKE = 100  # keys with the same hash: each is compared with all earlier ones
_SEEDED = {str, bytes}  # their hashes are randomized per process, so an attacker cannot choose them


class Blob(NamedTuple):
    """A part stored outside the JSON. It is decoded as a read-only `memoryview` of bytes."""

    data: Any
    """A contiguous buffer."""


def in_attributes(_whole: Any, _part: int) -> str:
    """Mark the parts as mappings of attributes."""
    return ATTRIBUTES


def nowhere(_whole: Any, _part: int) -> str:
    """Add no step to the path of an error."""
    return ""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of value: its name in records, how to split it into parts, and how to rebuild it."""

    name: str
    """Part of the format, so it never changes. With a dot, it begins with its library's prefix."""

    types: tuple[type, ...]
    """Exact types; subclasses do not match."""

    to_parts: Callable[[Any], Iterable[Any]]
    """Split a value into parts, each of any kind."""

    from_parts: Callable[..., Any]
    """Rebuild the value, with the parts as arguments."""

    where: Callable[[Any, int], str] = nowhere
    """Name the n-th part in an error's path: `['rows']`, `[3]`, `.total`."""

    family: bool = False
    """Also match the subclasses that the library itself defines."""

    same: Callable[[Any, Any], bool] | None = None
    """Compare two values of the same type; by default their parts are compared."""
    size: Callable[..., int] | None = None
    """Return how many bytes the value may need beyond its blobs, with the parts as arguments."""


class UnsupportedError(SerializationError):
    """A value somewhere in the result cannot be stored exactly."""

    def __init__(self, problem: str) -> None:
        """Store the problem; the tree walk adds the path, innermost step first."""
        super().__init__(problem)
        self.where: list[tuple[str, bool]] = []  # each step, and whether it reveals data
        self.of: type | None = None  # class of the unsupported value

    def __str__(self) -> str:
        return f"cannot store result{self._path(hidden=False)}: {self.args[0]}"

    def to_public(self) -> SerializationError:
        error = SerializationError(str(self))
        error.path = self._path(hidden=True).removeprefix(".")
        error.problem = str(self.args[0])
        if self.of is not None:
            error.type_name = f"{self.of.__module__}.{self.of.__qualname__}"
        return error

    def _path(self, *, hidden: bool) -> str:
        steps: list[str] = []
        attributes = False
        for step, of_data in reversed(self.where):
            if step == ATTRIBUTES or (attributes and step in _STATE):
                attributes = True
            elif attributes and step.startswith("['"):
                steps.append(f".{step[2:-2]}")
                attributes = False
            else:
                steps.append("[…]" if hidden and of_data else step)
                attributes = False
        if len(steps) > MAX_STEPS:
            steps = [*steps[:MAX_STEPS], "…"]
        return "".join(steps)


# Steps between a pydantic model and its fields.
_STATE = frozenset({"['__dict__']", "['__pydantic_extra__']", "['__pydantic_private__']"})


def at_key(key: Any) -> str:
    """Return a key's path step, quoting only short keys, to limit application data in errors."""
    if (type(key) is str and len(key) <= MAX_KEY) or (type(key) is int and abs(key) < 10**MAX_KEY):
        return f"[{key!r}]"
    return f"[<{type(key).__name__}>]"


def at_index(_whole: Any, part: int) -> str:
    """Return the path step of a sequence's item."""
    return f"[{part}]"


def at_value(whole: Mapping[Any, Any], part: int) -> str:
    """Return the path step of a value, if the parts are a mapping's values."""
    return at_key(list(whole)[part])


def at_pair(whole: Mapping[Any, Any], part: int) -> str:
    """Return the path step of a key or value, if the parts are those of `pairs`."""
    key = list(whole)[part // 2]
    return at_key(key) if part % 2 else f"<key {at_key(key)[1:-1]}>"


def pairs(mapping: Mapping[Any, Any]) -> Iterable[Any]:
    """Return key, value, key, value, …: flat, so that each level of a value is one of the tree."""
    return chain.from_iterable(mapping.items())


def unpaired(*flat: Any) -> dict[Any, Any]:
    """Rebuild the dict that `pairs` split, in order."""
    return dict(zip(keys_of(flat[::2]), flat[1::2], strict=True))


def keys_of(keys: Sequence[Any]) -> Sequence[Any]:
    """Return the keys, after a check that they are safe for a hash table.

    Raises:
        ValueError: Many keys share one hash, so building the table would take quadratic time.
    """
    if len(keys) > _MOST_ALIKE and not _SEEDED.issuperset(map(type, keys)):
        hashes = list(map(hash, keys))
        if len(set(hashes)) < len(hashes) and max(Counter(hashes).values()) > _MOST_ALIKE:
            raise ValueError("too many keys have one hash")
    return keys


def items(*parts: Any) -> tuple[Any, ...]:
    return parts


def refused_kind(name: str, *types: type, problem: str) -> Kind:
    """Return a kind whose values are refused, with the problem as message."""

    def refuse(*_parts: Any) -> NoReturn:
        raise UnsupportedError(problem)

    return Kind(name, types, refuse, refuse)
