"""The words the tables of kinds are written in."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from memora.errors import SerializationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

MAX_KEY = 40  # characters of a key that an error may quote
ATTRIBUTES = "."  # a step that names no place yet: the next is the name of an attribute
MAX_STEPS = 16  # of the way to a part that an error names: a cycle would fill the screen
_MOST_ALIKE = 100  # keys of one hash: each is compared with all before it
_SEEDED = {str, bytes}  # the hashes of these differ in each process, so nobody can choose them


class Blob(NamedTuple):
    """A part that stays out of the JSON. Comes back as a read-only `memoryview` of bytes."""

    data: Any
    """A contiguous buffer."""


def in_attributes(_whole: Any, _part: int) -> str:
    """Say that the parts are mappings of attributes."""
    return ATTRIBUTES


def nowhere(_whole: Any, _part: int) -> str:
    """Say nothing about where a part sits."""
    return ""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of value: what records call it, what it is made of, and how it is made again."""

    name: str
    """On the wire, so for ever. A name with a dot begins with its library's prefix."""

    types: tuple[type, ...]
    """Exactly these, not their subclasses: a subclass is another type."""

    apart: Callable[[Any], Iterable[Any]]
    """From the value to its parts, each of any kind."""

    together: Callable[..., Any]
    """From the parts, as arguments, to the value."""

    where: Callable[[Any, int], str] = nowhere
    """How an error names the n-th part: `['rows']`, `[3]`, `.total`."""

    family: bool = False
    """Also the subclasses that the library itself defines."""

    same: Callable[[Any, Any], bool] | None = None
    """Whether two of one type are equal, where that is not whether their parts are."""
    size: Callable[..., int] | None = None
    """From the parts, how many bytes the value may take beyond those of its blobs."""


class UnsupportedError(SerializationError):
    """A value somewhere in the result cannot be stored exactly."""

    def __init__(self, problem: str) -> None:
        """Begin with the problem; the walk adds where, inside out."""
        super().__init__(problem)
        self.where: list[tuple[str, bool]] = []  # a step, and whether it tells of the data
        self.of: type | None = None  # the class of the value that it is about

    def __str__(self) -> str:
        return f"cannot store result{self._path(hidden=False)}: {self.args[0]}"

    def told(self) -> SerializationError:
        """Return the error for whoever stores."""
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


# Between a pydantic model and a field of it.
_STATE = frozenset({"['__dict__']", "['__pydantic_extra__']", "['__pydantic_private__']"})


def at_key(key: Any) -> str:
    """Name a key without quoting more of the application's data than it takes to find it."""
    if (type(key) is str and len(key) <= MAX_KEY) or (type(key) is int and abs(key) < 10**MAX_KEY):
        return f"[{key!r}]"
    return f"[<{type(key).__name__}>]"


def at_index(_whole: Any, part: int) -> str:
    """Name an item of a sequence."""
    return f"[{part}]"


def at_value(whole: Mapping[Any, Any], part: int) -> str:
    """Name a value of a mapping whose values are its parts."""
    return at_key(list(whole)[part])


def at_pair(whole: Mapping[Any, Any], part: int) -> str:
    """Name a key or a value of a mapping taken apart by `pairs`."""
    key = list(whole)[part // 2]
    return at_key(key) if part % 2 else f"<key {at_key(key)[1:-1]}>"


def pairs(mapping: Mapping[Any, Any]) -> Iterable[Any]:
    """Key, value, key, value: flat, so that each level of a value is one of the tree."""
    return chain.from_iterable(mapping.items())


def unpaired(*flat: Any) -> dict[Any, Any]:
    """Undo `pairs`, in order."""
    return dict(zip(keys_of(flat[::2]), flat[1::2], strict=True))


def keys_of(keys: Sequence[Any]) -> Sequence[Any]:
    """Return keys for a hash table as they are.

    Raises:
        ValueError: So many have one hash that the table would take quadratic time to build.
    """
    if len(keys) > _MOST_ALIKE and not _SEEDED.issuperset(map(type, keys)):
        hashes = list(map(hash, keys))
        if len(set(hashes)) < len(hashes) and max(Counter(hashes).values()) > _MOST_ALIKE:
            raise ValueError("too many keys have one hash")
    return keys


def items(*parts: Any) -> tuple[Any, ...]:
    """Take the parts as they are."""
    return parts


def refused(problem: str) -> Callable[..., NoReturn]:
    """Refuse a kind that has a better form to be stored in."""

    def refuse(*_parts: Any) -> NoReturn:
        raise UnsupportedError(problem)

    return refuse
