"""Conversion between a value and a JSON tree with separate blobs.

Values of JSON's own types represent themselves if orjson returns them unchanged. Anything else is
an object with the key "!", which holds a list of the kind's name and its parts, or a blob's number.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import isfinite
from types import NoneType
from typing import TYPE_CHECKING, Any

from memora._faults import contained
from memora.codec._kind import Blob, Kind, UnsupportedError, at_index, at_value
from memora.errors import CorruptEntryError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

TAG = "!"
MAX_DEPTH = 120  # a level takes at most two JSON levels, and orjson writes up to 254

_LEAVES = {NoneType, bool, int, float, str}
_LEAST, _MOST = -(2**63), 2**64 - 1  # range of integers that orjson writes and reads
_SURROGATE = re.compile(r"[\ud800-\udfff]")


def is_json(items: Iterable[Any], depth: int = MAX_DEPTH) -> bool:
    """Return whether JSON represents each item exactly.

    Args:
        items: Values of any type.
        depth: How many levels of lists and objects the items may have; 0 accepts only scalars.
    """
    for item in items:
        cls = type(item)  # orjson would write a subclass without an error
        if cls is str:
            exact = item.isascii() or _is_utf8(item)
        elif cls is int:
            exact = _LEAST <= item <= _MOST
        elif cls is float:
            exact = isfinite(item)  # orjson would write null
        elif cls is dict:
            exact = depth > 0 and _are_names(item) and is_json(item.values(), depth - 1)
        elif cls is list:
            exact = depth > 0 and is_json(item, depth - 1)
        else:
            exact = cls is bool or item is None
        if not exact:
            return False
    return True


def _are_names(keys: Iterable[Any]) -> bool:
    """Return whether JSON represents each key exactly, and none equals the tag."""
    for key in keys:
        if type(key) is not str or key == TAG or not (key.isascii() or _is_utf8(key)):
            return False
    return True


def _is_utf8(text: str) -> bool:
    return not _SURROGATE.search(text)


class Writer:
    """Converter of one value to a tree; also fills `blobs`, `plain`, `kinds` and `size`."""

    def __init__(self, kind_of: Callable[[type], Kind | None]) -> None:
        self._kind_of = kind_of
        self.blobs: list[memoryview] = []
        self.plain = True
        self.kinds: set[str] = set()
        self.size = 0  # as a reader counts it against its allowance

    def node(self, value: Any, depth: int = 0) -> Any:
        """Return the tree of a value.

        Raises:
            UnsupportedError: The value, or a part of it, has no exact form.
        """
        cls = type(value)
        if cls in _LEAVES and is_json((value,)):
            return value
        if depth > MAX_DEPTH:
            raise UnsupportedError(f"it is nested more than {MAX_DEPTH} deep, or contains itself")
        if cls is list:
            return self._nodes(value, value, at_index, depth)
        if cls is dict and _are_names(value):
            return dict(
                zip(value, self._nodes(value, value.values(), at_value, depth), strict=True)
            )
        self.plain = False
        if cls is Blob:
            self.blobs.append(memoryview(value.data).cast("B"))
            self.size += self.blobs[-1].nbytes
            return {TAG: len(self.blobs) - 1}
        kind = self._kind_of(cls)
        if kind is None:
            raise UnsupportedError(
                f"{cls.__module__}.{cls.__qualname__} is not a type that can be restored exactly; "
                f"pass the class to register_type(), or store its parts"
            )
        self.kinds.add(kind.name)
        parts = _parts(kind, value)
        if kind.size is not None:
            bare = [memoryview(part.data) if type(part) is Blob else part for part in parts]
            self.size += kind.size(*bare)
        return {TAG: [kind.name, *self._nodes(value, parts, kind.where, depth)]}

    def _nodes(
        self, whole: Any, parts: Collection[Any], where: Callable[[Any, int], str], depth: int
    ) -> list[Any]:
        if is_json(parts, 0):
            return list(parts)
        nodes: list[Any] = []
        try:
            for part in parts:
                nodes.append(self.node(part, depth + 1))  # noqa: PERF401 - its length is the index
        except UnsupportedError as refusal:
            at = len(nodes)
            step = where(whole, at)
            refusal.where.append((step, isinstance(whole, Mapping) or "'" in step))
            if refusal.of is None:
                refusal.of = type(list(parts)[at])
            raise
        return nodes


def _parts(kind: Kind, value: Any) -> tuple[Any, ...]:
    try:
        with contained:
            return tuple(kind.to_parts(value))
    except (UnsupportedError, MemoryError, RecursionError):
        raise
    except Exception as error:  # a library or the application's function may raise anything
        raise UnsupportedError(
            f"taking this {type(value).__qualname__} apart raised {type(error).__name__}"
        ) from error


class Reader:
    """Converter of a tree to its value.

    Args:
        kind_named: Returns a kind by name.
        blobs: The blobs of the payload.
        allowance: Maximum bytes of the value beyond the tree's own. A forged tree may refer to one
            blob repeatedly, or describe more than it holds.
    """

    def __init__(
        self, kind_named: Callable[[str], Kind], blobs: list[memoryview], *, allowance: int
    ) -> None:
        self._kind_named = kind_named
        self._blobs = blobs
        self._left = allowance

    def value(self, node: Any) -> Any:
        """Return the value of a tree.

        Raises:
            CorruptEntryError: The value would exceed the allowance.
        """
        cls = type(node)
        if cls is list:
            return self._values(node)
        if cls is not dict:
            return node
        if TAG not in node:
            return dict(zip(node, self._values(node.values()), strict=True))
        tag = node[TAG]
        if type(tag) is int:
            blob = self._blobs[tag]
            self._take(blob.nbytes)
            return blob
        kind, parts = self._kind_named(tag[0]), self._values(tag[1:])
        if kind.size is not None:
            self._take(kind.size(*parts))
        return kind.from_parts(*parts)

    def _take(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise CorruptEntryError(
                "stored result would take more memory than its size allows (max_expansion)"
            )

    def _values(self, nodes: Collection[Any]) -> list[Any]:
        if {list, dict}.isdisjoint(map(type, nodes)):
            return list(nodes)
        return [self.value(node) for node in nodes]
