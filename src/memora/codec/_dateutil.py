"""Kinds of dateutil: the time zones its parser makes."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from memora.codec._kind import Kind, refused_kind

tz: Any = import_module("dateutil.tz")  # has no stubs, and is not always installed

KINDS = (
    Kind("dateutil.utc", (type(tz.UTC),), lambda _: (), lambda: tz.UTC),
    Kind(
        "dateutil.offset",
        (tz.tzoffset,),
        lambda zone: [zone.tzname(None), zone.utcoffset(None)],
        tz.tzoffset,
    ),
    refused_kind(
        "dateutil.file",
        tz.tzfile,
        tz.tzlocal,
        problem="a dateutil zone does not keep its name; use zoneinfo.ZoneInfo('Area/City')",
    ),
)
