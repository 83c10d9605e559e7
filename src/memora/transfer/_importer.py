"""Entries on their way into a store: their validation, and their storage in batches."""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass, field
from math import inf, isfinite
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

from memora._arguments import is_number, tags_of
from memora._faults import contained
from memora._show import one_line
from memora.concurrency.reentry import alone
from memora.context import exact_key
from memora.errors import ArgumentError, TransferError
from memora.model import Entry
from memora.protocols import ALL_TIMES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from memora.config import CacheConfig
    from memora.model import Content, Context
    from memora.pipeline import Ports
    from memora.protocols import Vector

Progress: TypeAlias = "Callable[[int, int | None], object]"
"""Called with the number done, and the total if known."""

# Entries embedded and stored together: the work that an interruption may lose, and the interval of
# progress. A model on the CPU embeds this many short texts in a third of a second.
_BATCH = 64
_BATCH_BYTES = 64 * 1024 * 1024
_SHOWN = 80  # characters of a broken value in an error
_TOLD = 20  # maximum number of problems that are described
_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)
_MOST_USES = 2**31 - 1  # the largest count that a store holds


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportReport:
    """Result of an export, an import or a re-embedding: counts of entries."""

    written: int = 0
    present: int = 0
    """Skipped: the cache has the same entry, or a newer one of its query and context."""
    expired: int = 0
    """Skipped, as they have expired."""
    broken: int = 0
    """Skipped because of `skip_errors`."""
    problems: tuple[str, ...] = ()
    """Descriptions of the first broken ones."""
    evicted: int = 0
    """Old or new entries that the cache evicted because of its limits."""


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


@dataclass(slots=True)
class _Tally:
    written: int = 0
    present: int = 0
    expired: int = 0
    evicted: int = 0
    problems: Problems = field(default_factory=Problems)

    def total(self) -> ImportReport:
        return ImportReport(
            written=self.written,
            present=self.present,
            expired=self.expired,
            broken=self.problems.count,
            problems=tuple(self.problems.first),
            evicted=self.evicted,
        )


class Importer:
    """Writer of arrivals to a cache's store, as `Memora.store` but in batches.

    Args:
        ports: The cache's ports; their faults propagate.
        config: The cache's limits.
        embeds: Whether to compute vectors; otherwise the arrivals bring them.
        progress: Called after each batch.
    """

    def __init__(
        self,
        ports: Ports,
        config: CacheConfig,
        *,
        embeds: bool,
        progress: Progress | None,
    ) -> None:
        self._ports = ports
        self._config = config
        self._embeds = embeds
        self._progress = progress

    def carry(
        self, arrivals: Iterable[ImportRow | Problem], *, name: str, total: int | None, strict: bool
    ) -> ImportReport:
        """Store all arrivals and return the counts.

        Raises:
            TransferError: One is broken and `strict` is true; those before it are stored.
        """
        tally, done = _Tally(), 0
        for batch in _batches(_to_the_first_problem(arrivals) if strict else arrivals):
            whole: list[ImportRow] = []
            for one in batch:
                if isinstance(one, ImportRow):
                    whole.append(one)
                else:
                    tally.problems.note(one)
            self._put(whole, tally)
            if strict and tally.problems.count:
                raise tally.problems.refuse(name, f"the {tally.written:,} before it are stored")
            done += len(batch)
            if self._progress is not None:
                self._progress(done, total)
        return tally.total()

    @alone
    @contained
    def _put(self, arrivals: list[ImportRow], tally: _Tally) -> None:
        store, now = self._ports.store, self._ports.clock()
        alive = [one for one in arrivals if one.entry.ends_at > now]
        tally.expired += len(arrivals) - len(alive)
        wanted = [one for one in alive if self._is_wanted(one)]
        vectors = [one.vector for one in wanted]
        if self._embeds and wanted:
            vectors = self._ports.embedder.embed([one.entry.query for one in wanted])
        due, used, newest = [], [], dict[bytes, float]()
        for one, vector in zip(wanted, vectors, strict=True):
            key, created = one.entry.key, one.entry.created_at
            # Checked again: the batch may have it twice, or another process may have stored it.
            if not one.is_new and (created <= newest.get(key, -inf) or not self._is_wanted(one)):
                continue
            # An existing entry has its own use count, which its replacement keeps.
            if one.uses and key not in newest and store.peek(key, now=ALL_TIMES) is None:
                used.append(one)
            newest[key] = created
            due.append((one.entry, one.content, vector))
        store.put_many(due)
        for one in used:
            last = one.entry.created_at if one.last_used_at is None else one.last_used_at
            store.touch(one.entry.key, now=last, times=one.uses)
        tally.written += len(due)
        tally.present += len(alive) - len(due)
        tally.evicted += store.maintain(
            max_entries=self._config.max_entries,
            max_bytes=self._config.max_bytes,
            now=self._ports.clock(),
        )

    def _is_wanted(self, arrival: ImportRow) -> bool:
        """Return whether the store lacks the entry, so that a second run resumes the first."""
        if arrival.is_new:
            return True
        known = self._ports.store.peek(arrival.entry.key, now=self._ports.clock())
        return known is None or known.created_at < arrival.entry.created_at


def validated(source: Source, *, outcome: str) -> None:
    """Read a source to its end.

    Raises:
        TransferError: Some items are broken; it describes the first and counts the others.
    """
    problems = Problems()
    for one in source.read():
        if isinstance(one, Problem):
            problems.note(one)
    if problems.count:
        raise problems.refuse(source.name, outcome)


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


def _to_the_first_problem(
    arrivals: Iterable[ImportRow | Problem],
) -> Iterator[ImportRow | Problem]:
    for one in arrivals:
        yield one
        if isinstance(one, Problem):
            return


def _batches(arrivals: Iterable[ImportRow | Problem]) -> Iterator[list[ImportRow | Problem]]:
    batch: list[ImportRow | Problem] = []
    size = 0
    for one in arrivals:
        batch.append(one)
        if isinstance(one, ImportRow):
            size += len(one.content.payload) + len(one.content.metadata)
            size += len(one.entry.query) + len(one.entry.context.canonical)
        if len(batch) == _BATCH or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
