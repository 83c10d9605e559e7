"""Entries outside a store, as rows of a file or items of the application, and their problems."""

from __future__ import annotations

import os
import re
import uuid
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeAlias

from memora._arguments import is_number, tags_of
from memora._show import one_line
from memora.context import exact_key
from memora.errors import ArgumentError, TransferError
from memora.model import Entry

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from memora.model import Content, Context, EntryInfo
    from memora.protocols import Vector

_SHOWN = 80  # characters of a broken value in an error
_TOLD = 20  # maximum number of problems that are described
_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)
_MOST_USES = 2**31 - 1  # the largest count that a store holds

Format: TypeAlias = Literal["parquet", "jsonl"]

RECORDED = (
    *("id", "created_at", "expires_at", "stale_seconds", "sliding_seconds"),
    *("uses", "last_used_at"),
)
"""Fields of an exported entry by which it keeps its age and its uses."""


class InvalidRow(Exception):  # noqa: N818 - always caught internally
    """Input that cannot become an entry, with the reason."""


class Problem(NamedTuple):
    """A broken item, with its place."""

    place: str
    """For example "row 7"."""
    said: str

    def __str__(self) -> str:
        return f"{self.place}: {self.said}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportRow:
    """An entry to be stored."""

    entry: Entry
    content: Content
    vector: Vector | None = None
    uses: int = 0
    last_used_at: float | None = None
    is_new: bool = False
    """True if it replaces any other entry, as `store` does, instead of only an older one."""


class Source(Protocol):
    """A source of entries."""

    @property
    def name(self) -> str:
        """Name in errors."""
        ...

    @property
    def total(self) -> int | None:
        """Number of entries and problems, if known."""
        ...

    def read(self) -> Iterator[ImportRow | Problem]:
        """Yield all entries and problems, from the beginning."""
        ...


class Problems:
    """Counter of problems, with descriptions of the first ones."""

    def __init__(self) -> None:
        self.count = 0
        self.first: list[str] = []

    def note(self, problem: Problem) -> None:
        """Count a problem."""
        self.count += 1
        if len(self.first) < _TOLD:
            self.first.append(str(problem))

    def refuse(self, name: str, outcome: str) -> TransferError:
        """Return the error that describes them."""
        more = f" ({self.count - 1:,} more are broken)" if self.count > 1 else ""
        return TransferError(f"{name}: {self.first[0]}{more}; {outcome}")


def recorded_fields(info: EntryInfo) -> dict[str, Any]:
    """Return the fields of an entry that `recorded_entry` reads back, except text and context."""
    entry = info.entry
    return {
        "tags": list(entry.tags),
        "cost": entry.cost,
        "id": entry.id,
        "created_at": entry.created_at,
        "expires_at": entry.expires_at,
        "stale_seconds": entry.stale_seconds,
        "sliding_seconds": entry.sliding_seconds,
        "uses": info.uses,
        "last_used_at": info.last_used_at,
    }


def recorded_entry(
    row: Mapping[str, Any], *, text: str, context: Context
) -> tuple[Entry, int, float | None]:
    """Return an entry as it was at its export, its number of uses, and the time of the last one.

    Args:
        row: Its columns, unchecked; optional ones may be missing or None.
        text: Its canonical query.
        context: Its context.

    Raises:
        InvalidRow: A column has an invalid value.
    """
    moment = "a finite number of seconds since the epoch"
    entry_id = row.get("id", uuid.uuid4().hex)
    if not (isinstance(entry_id, str) and _ID.fullmatch(entry_id)):
        raise broken("id", entry_id, "32 hexadecimal digits, in lower case")
    created = _number(row, "created_at", moment)
    if created is None:
        raise broken("created_at", None, moment)
    uses = row.get("uses", 0)
    if isinstance(uses, bool) or not isinstance(uses, int) or not 0 <= uses <= _MOST_USES:
        raise broken("uses", uses, "a whole number, 0 or more")
    stale = _number(row, "stale_seconds", "a finite number of seconds, 0 or more", least=0.0)
    sliding = _number(row, "sliding_seconds", "a finite number of seconds above 0, or null")
    if sliding is not None and sliding <= 0:
        raise broken("sliding_seconds", sliding, "a finite number of seconds above 0, or null")
    cost = _number(row, "cost", "a finite number, 0 or more", least=0.0)
    entry = Entry(
        id=entry_id,
        key=exact_key(text, context),
        query=text,
        context=context,
        created_at=created,
        expires_at=_number(row, "expires_at", f"{moment}, or null"),
        stale_seconds=stale or 0.0,
        sliding_seconds=sliding,
        tags=_tags(row.get("tags")),
        cost=1.0 if cost is None else cost,
    )
    return entry, uses, _number(row, "last_used_at", f"{moment}, or null")


def broken(column: str, value: Any, expected: str) -> InvalidRow:
    """Return the error that names a column, its value and the expected value."""
    shown = repr(value[:_SHOWN] if isinstance(value, (str, bytes)) else value)
    return InvalidRow(f"{column} is {one_line(shown, _SHOWN)}, expected {expected}")


def _number(
    row: Mapping[str, Any], column: str, expected: str, *, least: float | None = None
) -> float | None:
    value = row.get(column)
    if value is None:
        return None
    try:
        found = float(value) if is_number(value) else None
    except OverflowError:
        found = None
    if found is None or not isfinite(found) or (least is not None and found < least):
        raise broken(column, value, expected)
    return found


def _tags(tags: Any) -> tuple[str, ...]:
    try:
        return tags_of(tags)
    except ArgumentError:
        raise broken("tags", tags, "a list of texts that are not blank") from None


def as_path(path: str | os.PathLike[str]) -> Path:
    """Return an argument as a path; raises ArgumentError if it is none."""
    if not isinstance(path, (str, os.PathLike)):
        raise ArgumentError(f"path must be a path, got {path!r}")
    return Path(path)


def format_of(path: Path) -> Format:
    """Return the format that a file's name says; raises ArgumentError if it says none."""
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return "parquet"
    if suffix == ".jsonl":
        return "jsonl"
    raise ArgumentError(f"{str(path)!r}: expected a name that ends in .parquet or .jsonl")
