"""Comparison of a decoded value with the one that was encoded."""

from __future__ import annotations

import struct
from types import NoneType
from typing import TYPE_CHECKING, Any

from memora.codec._kind import Blob
from memora.codec._tree import is_json

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from collections.abc import Set as AbstractSet

    from memora.codec._kind import Kind

_CHUNK = 1 << 20  # bytes compared at a time: comparing memoryviews is slow, byte by byte


def same(  # noqa: PLR0911 - a table of types
    kind_of: Callable[[type], Kind | None], one: Any, other: Any
) -> bool:
    """Return whether two values have the same type and are equal, part by part.

    `==` is unsuitable: for arrays it gives no truth value, for NaN it is False, and a class may
    define it in any way.
    """
    cls = type(one)
    if cls is not type(other):
        return False
    if cls is float:
        return struct.pack("<d", one) == struct.pack("<d", other)
    if cls in (str, int, bool, NoneType):
        return bool(one == other)
    if cls is Blob:
        return _same_bytes(one.data, other.data)
    if cls is dict:
        return _all_same(kind_of, [*one, *one.values()], [*other, *other.values()])
    if cls is list:
        return _all_same(kind_of, one, other)
    if cls in (set, frozenset):
        return _same_sets(kind_of, one, other)
    kind = kind_of(cls)
    if kind is None:
        return False
    if kind.same is not None:
        return kind.same(one, other)
    return _all_same(kind_of, tuple(kind.to_parts(one)), tuple(kind.to_parts(other)))


def _all_same(
    kind_of: Callable[[type], Kind | None], ones: Collection[Any], others: Collection[Any]
) -> bool:
    if len(ones) != len(others):
        return False
    if is_json(ones, 0):
        return ones == others and list(map(type, ones)) == list(map(type, others))
    return all(same(kind_of, one, other) for one, other in zip(ones, others, strict=True))


def _same_sets(
    kind_of: Callable[[type], Kind | None], one: AbstractSet[Any], other: AbstractSet[Any]
) -> bool:
    if len(one) != len(other):
        return False
    found = {item: item for item in other}
    # NaN, and an object equal only to itself, is not found: compare by type instead.
    lost = [item for item in one if item not in found]
    types = [type(item).__name__ for item in other if item not in one]
    return sorted(type(item).__name__ for item in lost) == sorted(types) and all(
        same(kind_of, item, found[item]) for item in one if item in found
    )


def _same_bytes(one: Any, other: Any) -> bool:
    left, right = memoryview(one).cast("B"), memoryview(other).cast("B")
    return len(left) == len(right) and all(
        left[at : at + _CHUNK].tobytes() == right[at : at + _CHUNK].tobytes()
        for at in range(0, len(left), _CHUNK)
    )
