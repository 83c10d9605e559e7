"""Import of a file and warming with known answers: entries are checked, and stored in batches."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, TypeAlias

from memora._arguments import largest_payload
from memora._faults import contained
from memora.concurrency.reentry import alone
from memora.errors import ArgumentError
from memora.protocols import ALL_TIMES
from memora.transfer._items import Item, ItemReader, ItemSource, LineSource
from memora.transfer._rows import ImportRow, Problem, Problems, as_path, format_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from memora.config import CacheConfig
    from memora.pipeline import Ports
    from memora.transfer._parquet import ParquetSource
    from memora.transfer._rows import Source

Progress: TypeAlias = "Callable[[int, int | None], object]"
"""Called with the number done, and the total if known."""

# Entries embedded and stored together: the work that an interruption may lose, and the interval of
# progress. A model on the CPU embeds this many short texts in a third of a second.
_BATCH = 64
_BATCH_BYTES = 64 * 1024 * 1024
_NOTHING_IMPORTED = "nothing was imported; skip_errors=True (--skip-errors) skips the broken ones"
_NOTHING_STORED = "nothing was stored"


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


def import_entries(  # noqa: PLR0913 - each is a choice of the caller's
    ports: Ports,
    config: CacheConfig,
    path: str | os.PathLike[str],
    *,
    skip_errors: bool = False,
    reembed: bool = False,
    progress: Progress | None = None,
) -> ImportReport:
    """Import the entries of a file into a cache with their ids, times and uses.

    An entry is skipped if the cache has the same one, or a newer one of the same query and context;
    otherwise it replaces what the cache has. The cache's limits apply during the import.

    Args:
        ports: The cache's ports.
        config: The cache's limits, and the settings that `warm` uses.
        path: `.parquet`, or `.jsonl` with lines as for `warm`.
        skip_errors: Skip and count broken rows, instead of raising.
        reembed: Recompute the vectors of a `.parquet`, because they are of another model.
        progress: Called with the number of rows done and the total.

    Raises:
        ArgumentError: The path has another suffix.
        TransferError: The file cannot be read, or a row is broken; nothing was imported.
        ModelMismatchError: The file's vectors are of another model; nothing was imported.
        MemoraError: The store or the model failed; import the file again.
    """
    path = as_path(path)
    form = format_of(path)
    source: ParquetSource | LineSource
    if form == "parquet":
        from memora.transfer._parquet import ParquetSource  # noqa: PLC0415 - imports Arrow

        source = ParquetSource(
            path,
            embedder=ports.embedder,
            codec=ports.codec,
            max_payload_bytes=largest_payload(config),
            embeds=reembed,
        )
    else:
        source = LineSource(path, ItemReader(ports, config))
    importer = Importer(ports, config, embeds=reembed or form == "jsonl", progress=progress)
    with source:
        if not skip_errors:
            validated(source, outcome=_NOTHING_IMPORTED)
        return importer.store_all(
            source.read(), name=source.name, total=source.total, strict=not skip_errors
        )


def warm(
    ports: Ports,
    config: CacheConfig,
    items: Iterable[Item] | str | os.PathLike[str],
    *,
    progress: Progress | None = None,
) -> ImportReport:
    """Store known answers, embedded in batches.

    A file or a sequence is checked completely before its first item is stored. An iterator can be
    read only once, so the items before a broken one are stored.

    Args:
        ports: The cache's ports.
        config: The default lifetimes of entries, and the cache's limits.
        items: Mappings with `query` and `result`, and optionally `context`, `metadata`, `ttl`,
            `stale_ttl`, `sliding`, `tags` and `cost`; tuples of query, context and result; or the
            path of a `.jsonl` file with one such mapping per line.
        progress: Called with the number of items done and the total, if known.

    Raises:
        ArgumentError: The path has another suffix, or `items` is not iterable.
        TransferError: The file cannot be read, or an item is broken.
        MemoraError: The store or the model failed.
    """
    reader = ItemReader(ports, config)
    importer = Importer(ports, config, embeds=True, progress=progress)
    if isinstance(items, (str, os.PathLike)):
        path = as_path(items)
        if format_of(path) != "jsonl":
            raise ArgumentError(f"{str(path)!r} is an export; import it (import_entries)")
        with LineSource(path, reader) as lines:
            validated(lines, outcome=_NOTHING_STORED)
            return importer.store_all(lines.read(), name=lines.name, total=lines.total, strict=True)
    given: object = items  # unchecked input of the application
    if not isinstance(given, Iterable):
        raise ArgumentError(
            f"expected an iterable of items, or the path of a .jsonl, got {given!r}"
        )
    source = ItemSource(items, reader)
    if source.total is not None:
        validated(source, outcome=_NOTHING_STORED)
    return importer.store_all(source.read(), name=source.name, total=source.total, strict=True)


class Importer:
    """Writer of rows to a cache's store, as `Memora.store` but in batches.

    Args:
        ports: The cache's ports; their faults propagate.
        config: The cache's limits.
        embeds: Whether to compute vectors; otherwise the rows bring them.
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

    def store_all(
        self, rows: Iterable[ImportRow | Problem], *, name: str, total: int | None, strict: bool
    ) -> ImportReport:
        """Store all rows and return the counts.

        Raises:
            TransferError: One is broken and `strict` is true; those before it are stored.
        """
        tally, done = _Tally(), 0
        for batch in _batches(_to_the_first_problem(rows) if strict else rows):
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
    def _put(self, rows: list[ImportRow], tally: _Tally) -> None:
        store, now = self._ports.store, self._ports.clock()
        alive = [one for one in rows if one.entry.ends_at > now]
        tally.expired += len(rows) - len(alive)
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

    def _is_wanted(self, row: ImportRow) -> bool:
        """Return whether the store lacks the entry, so that a second run resumes the first."""
        if row.is_new:
            return True
        known = self._ports.store.peek(row.entry.key, now=self._ports.clock())
        return known is None or known.created_at < row.entry.created_at


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


def _to_the_first_problem(
    rows: Iterable[ImportRow | Problem],
) -> Iterator[ImportRow | Problem]:
    for one in rows:
        yield one
        if isinstance(one, Problem):
            return


def _batches(rows: Iterable[ImportRow | Problem]) -> Iterator[list[ImportRow | Problem]]:
    batch: list[ImportRow | Problem] = []
    size = 0
    for one in rows:
        batch.append(one)
        if isinstance(one, ImportRow):
            size += len(one.content.payload) + len(one.content.metadata)
            size += len(one.entry.query) + len(one.entry.context.canonical)
        if len(batch) == _BATCH or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
