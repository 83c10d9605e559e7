"""Kinds of pytz, whose time zones pandas uses before version 3."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from memora.codec._kind import Kind

pytz: Any = import_module("pytz")  # has no stubs, and is not always installed


def _parts(zone: Any) -> list[Any]:
    """Return the zone's name and this object's offset: pytz has one object per offset."""
    offset = (zone._utcoffset, zone._dst, zone._tzname) if hasattr(zone, "_tzinfos") else ()  # noqa: SLF001
    return [zone.zone, *offset]


def _zone(name: str, *offset: Any) -> Any:
    zone = pytz.timezone(name)
    return zone._tzinfos[offset] if offset else zone  # noqa: SLF001 - as pytz's own pickling does


KINDS = (
    Kind("pytz.zone", (pytz.tzinfo.BaseTzInfo,), _parts, _zone, family=True),
    Kind("pytz.offset", (type(pytz.FixedOffset(1)),), lambda z: [z._minutes], pytz.FixedOffset),  # noqa: SLF001
)
