"""Kinds of the standard library, including values of JSON's types that JSON cannot represent."""

from __future__ import annotations

import struct
from collections import Counter, OrderedDict, defaultdict, deque
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from operator import index
from pathlib import PosixPath, PurePosixPath, PureWindowsPath, WindowsPath
from types import MappingProxyType, SimpleNamespace
from typing import TYPE_CHECKING, Any
from uuid import UUID, SafeUUID
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from memora.codec._kind import (
    Blob,
    Kind,
    UnsupportedError,
    at_index,
    at_pair,
    items,
    keys_of,
    pairs,
    unpaired,
)
from memora.errors import SerializationError

if TYPE_CHECKING:
    from collections.abc import Iterable

_FACTORIES = MappingProxyType(
    {cls.__name__: cls for cls in (bool, bytes, dict, float, int, list, set, str, tuple)}
)


_MOST_BITS = 65_536  # maximum for each term of a fraction


def _moment_kind(name: str, cls: Any) -> Kind:
    return Kind(
        name,
        (cls,),
        lambda value: [value.replace(tzinfo=None).isoformat(), value.fold, value.tzinfo],
        lambda text, fold, zone: cls.fromisoformat(text).replace(tzinfo=zone, fold=fold),
    )


def _defaultdict_parts(value: defaultdict[Any, Any]) -> Iterable[Any]:
    factory = value.default_factory
    name = getattr(factory, "__name__", None)
    if factory is not None and _FACTORIES.get(name or "") is not factory:
        raise UnsupportedError(
            f"a defaultdict's factory may be None or one of {', '.join(_FACTORIES)}; store a dict"
        )
    return [name, *pairs(value)]


def _defaultdict(name: str | None, *flat: Any) -> defaultdict[Any, Any]:
    return defaultdict(None if name is None else _FACTORIES[name], unpaired(*flat))


def _zone_key(zone: ZoneInfo) -> list[str]:
    if zone.key is None:
        raise UnsupportedError("a time zone read from a file has no key; use ZoneInfo('Area/City')")
    return [zone.key]


def _zone(key: str) -> ZoneInfo:
    try:
        return ZoneInfo(key)
    except ZoneInfoNotFoundError as error:
        raise SerializationError(
            f"stored result needs the time zone {key!r}, which is not here: pip install tzdata"
        ) from error


def _short_terms(numerator: int, denominator: int) -> tuple[int, int]:
    # Making a fraction computes a common divisor, in time quadratic in the digits.
    if max(numerator.bit_length(), denominator.bit_length()) > _MOST_BITS:
        raise UnsupportedError(f"a fraction has more than {_MOST_BITS:,} bits above or below")
    return numerator, denominator


KINDS = (
    # Values that JSON cannot represent.
    Kind("int", (int,), lambda n: [f"{n:x}"], lambda digits: int(digits, 16)),  # of any length
    Kind(  # NaN with its payload, and infinities
        "float",
        (float,),
        lambda value: struct.unpack("<Q", struct.pack("<d", value)),
        lambda bits: struct.unpack("<d", struct.pack("<Q", bits))[0],
    ),
    Kind(
        "str",  # with lone surrogates
        (str,),
        lambda text: [Blob(text.encode("utf-8", "surrogatepass"))],
        lambda blob: str(blob, "utf-8", "surrogatepass"),
    ),
    Kind("dict", (dict,), pairs, unpaired, at_pair),
    Kind("bytes", (bytes,), lambda data: [Blob(data)], lambda blob: blob.tobytes()),
    Kind("bytearray", (bytearray,), lambda d: [Blob(d)], lambda blob: bytearray(blob.tobytes())),
    Kind("complex", (complex,), lambda z: [z.real, z.imag], complex),
    # Containers.
    Kind("tuple", (tuple,), iter, items, at_index),
    Kind("set", (set,), iter, lambda *parts: set(keys_of(parts))),
    Kind("frozenset", (frozenset,), iter, lambda *parts: frozenset(keys_of(parts))),
    Kind(
        "deque",
        (deque,),
        lambda queue: [queue.maxlen, *queue],
        lambda maxlen, *parts: deque(parts, maxlen),
        lambda queue, part: at_index(queue, part - 1),
    ),
    Kind("odict", (OrderedDict,), pairs, lambda *flat: OrderedDict(unpaired(*flat)), at_pair),
    Kind("counter", (Counter,), pairs, lambda *flat: Counter(unpaired(*flat)), at_pair),
    Kind(
        "defaultdict",
        (defaultdict,),
        _defaultdict_parts,
        _defaultdict,
        lambda mapping, part: at_pair(mapping, part - 1),
    ),
    Kind(
        "namespace",
        (SimpleNamespace,),
        lambda names: [vars(names)],
        lambda names: SimpleNamespace(**names),
    ),
    Kind("range", (range,), lambda r: [r.start, r.stop, r.step], range),
    Kind("slice", (slice,), lambda s: [s.start, s.stop, s.step], slice),
    # Numbers and names.
    Kind("decimal", (Decimal,), lambda number: [str(number)], Decimal),
    # `index` accepts integers only: Fraction("1e9999999") would take practically forever.
    Kind(
        "fraction",
        (Fraction,),
        lambda f: _short_terms(f.numerator, f.denominator),
        lambda n, d: Fraction(*_short_terms(index(n), index(d))),
    ),
    Kind(
        "uuid",
        (UUID,),
        lambda uuid: [uuid.hex, uuid.is_safe.value],
        lambda digits, safe: UUID(digits, is_safe=SafeUUID(safe)),
    ),
    Kind("path", (PosixPath,), lambda path: [str(path)], PosixPath),
    Kind("purepath", (PurePosixPath,), lambda path: [str(path)], PurePosixPath),
    Kind("winpath", (WindowsPath,), lambda path: [str(path)], WindowsPath),
    Kind("purewinpath", (PureWindowsPath,), lambda path: [str(path)], PureWindowsPath),
    # Time.
    _moment_kind("datetime", datetime),
    Kind("date", (date,), lambda day: [day.isoformat()], date.fromisoformat),
    _moment_kind("time", time),
    Kind(
        "timedelta",
        (timedelta,),
        lambda delta: [delta.days, delta.seconds, delta.microseconds],
        timedelta,
    ),
    Kind("offset", (timezone,), lambda zone: zone.__getinitargs__(), timezone),
    Kind("zone", (ZoneInfo,), _zone_key, _zone),
)
