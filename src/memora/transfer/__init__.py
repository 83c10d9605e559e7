"""Export and import of entries, warming with known answers, and re-embedding for another model.

These operations are explicit, so faults are raised. A file is read and checked completely before
its first entry is written. After an interruption, run the operation again: it resumes, because an
entry that is already present is skipped.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from memora._arguments import largest_payload
from memora._clock import SteadyClock
from memora._faults import contained
from memora._files import PRIVATE, opener
from memora._uris import is_in_ram, is_on_disk, without_password
from memora.codec import Codec
from memora.concurrency.reentry import alone
from memora.embedders import CachedEmbedder, load_embedder
from memora.errors import (
    ArgumentError,
    CorruptEntryError,
    MemoraError,
    SerializationError,
    TransferError,
)
from memora.judge import Judge
from memora.pipeline import Ports
from memora.selection import Selection
from memora.stores import local_path, open_store, open_stored
from memora.transfer._importer import (
    Importer,
    ImportReport,
    ImportRow,
    InvalidRow,
    Problem,
    Problems,
    Progress,
    validated,
)
from memora.transfer._items import Item, ItemReader, ItemSource, LineSink, LineSource

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import IO

    from memora.config import CacheConfig
    from memora.model import EntryInfo
    from memora.protocols import Embedder, StoreReader
    from memora.transfer._parquet import ParquetSink, ParquetSource

__all__ = [
    "ImportReport",
    "Item",
    "Progress",
    "copy_entries",
    "export_entries",
    "import_entries",
    "reembed",
    "warm",
]

Format: TypeAlias = Literal["parquet", "jsonl"]

_NOTHING_IMPORTED = "nothing was imported; skip_errors=True (--skip-errors) leaves such out"
_NOTHING_WRITTEN = (
    "nothing was written; .parquet takes every result, and skip_errors=True (--skip-errors) leaves "
    "out what cannot be"
)
_NOTHING_STORED = "nothing was stored"


def export_entries(
    ports: Ports,
    path: str | os.PathLike[str],
    *,
    skip_errors: bool = False,
    progress: Progress | None = None,
) -> ImportReport:
    """Write the live entries to a file, which appears only when it is complete.

    Args:
        ports: The cache's ports.
        path: `.parquet`, which holds every field of an entry, or `.jsonl`, which is readable: it
            has no vectors, and contexts and results are plain JSON.
        skip_errors: Skip and count entries that cannot be written, instead of raising.
        progress: Called with the number of entries done and the total.

    Raises:
        ArgumentError: The path has another suffix.
        TransferError: The file cannot be written, an entry is damaged, or it has no exact form
            as JSON.
        StoreError: The store failed.
    """
    path = _as_path(path)
    form = _format(path)
    infos = alone(contained(ports.store.select))(Selection(), now=ports.clock())
    fetch = alone(contained(ports.store.fetch))
    written, problems = 0, Problems()
    with _replacing(path) as file, _sink(form, file, ports) as sink:
        for done, info in enumerate(infos, start=1):
            try:
                found = fetch(info.entry.key, now=ports.clock())
                # Otherwise it was removed or replaced in the meantime.
                if found is not None and found[0].id == info.entry.id:
                    sink.write(info, found[1], found[2])
                    written += 1
            except (InvalidRow, CorruptEntryError, SerializationError) as error:
                entry = info.entry
                problems.note(Problem(f"entry {entry.id} ({entry.query[:80]!r})", str(error)))
                if not skip_errors:
                    raise problems.refuse(str(path), _NOTHING_WRITTEN) from error
            if progress is not None:
                progress(done, len(infos))
    return ImportReport(written=written, broken=problems.count, problems=tuple(problems.first))


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
    path = _as_path(path)
    form = _format(path)
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
    carrier = Importer(ports, config, embeds=reembed or form == "jsonl", progress=progress)
    with source:
        if not skip_errors:
            validated(source, outcome=_NOTHING_IMPORTED)
        return carrier.carry(
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
    carrier = Importer(ports, config, embeds=True, progress=progress)
    if isinstance(items, (str, os.PathLike)):
        path = _as_path(items)
        if _format(path) != "jsonl":
            raise ArgumentError(f"{str(path)!r} is an export; import it (import_entries)")
        with LineSource(path, reader) as lines:
            validated(lines, outcome=_NOTHING_STORED)
            return carrier.carry(lines.read(), name=lines.name, total=lines.total, strict=True)
    given: object = items  # unchecked input of the application
    if not isinstance(given, Iterable):
        raise ArgumentError(
            f"expected an iterable of items, or the path of a .jsonl, got {given!r}"
        )
    source = ItemSource(items, reader)
    if source.total is not None:
        validated(source, outcome=_NOTHING_STORED)
    return carrier.carry(source.read(), name=source.name, total=source.total, strict=True)


def reembed(
    source: CacheConfig,
    target: CacheConfig,
    *,
    embedder: Embedder | None = None,
    progress: Progress | None = None,
) -> ImportReport:
    """Copy all entries of one table to another one, for another embedding model.

    The source is not changed, and needs no model. Run this again after an interruption, or to copy
    newly stored entries: entries that the target already has are skipped.

    Args:
        source: Settings with the source's `db_uri` and `table_name`.
        target: Settings of the target: its table, created if missing, its model and its limits.
        embedder: Used instead of the target's model.
        progress: Called with the number of entries done and the total.

    Raises:
        ArgumentError: Source and target are the same table, or one is in memory.
        ModelMismatchError: The target holds vectors of a third model.
        MemoraError: A store or the model failed; run it again.
    """
    if is_in_ram(target.db_uri):
        raise ArgumentError("memory:// ends with this process; re-embed into a directory")
    if not is_in_ram(source.db_uri) and _table_of(source) == _table_of(target):
        shown = without_password(source.db_uri)
        raise ArgumentError(
            f"both are table {source.table_name!r} in {shown!r}: a table has the vectors "
            "of one model; name another table to copy to"
        )
    stored, _ = open_stored(source)
    try:
        chosen = embedder or load_embedder(target.model_name, use_onnx=target.use_onnx)
        clock = SteadyClock()
        ports = Ports(
            embedder=CachedEmbedder(chosen, 0),  # validates the application's vectors
            store=open_store(target, embedder=chosen, clock=clock),
            codec=Codec(),
            clock=clock,
            judge=Judge(chosen.identity),
        )
        try:
            return copy_entries(stored, ports, target, progress=progress)
        finally:
            ports.store.close()
    finally:
        stored.close()


def copy_entries(
    source: StoreReader, ports: Ports, config: CacheConfig, *, progress: Progress | None = None
) -> ImportReport:
    """Copy the live entries of a store to a cache, embedded by the cache's model.

    Args:
        source: The store.
        ports: The cache's ports.
        config: The cache's limits.
        progress: Called with the number of entries done and the total.

    Raises:
        ArgumentError: The store is the cache's own.
        MemoraError: A store or the model failed; run it again.
    """
    if source is ports.store:
        raise ArgumentError("a store cannot be copied to itself")
    infos = source.select(Selection(), now=ports.clock())
    carrier = Importer(ports, config, embeds=True, progress=progress)
    arrivals = _fetched(source, infos, ports)
    return carrier.carry(arrivals, name="reembed", total=len(infos), strict=True)


def _fetched(
    source: StoreReader, infos: Sequence[EntryInfo], ports: Ports
) -> Iterator[ImportRow | Problem]:
    for info in infos:
        found = source.fetch(info.entry.key, now=ports.clock())
        if found is not None:  # otherwise it was removed in the meantime
            yield ImportRow(
                entry=found[0],
                content=found[1],
                uses=info.uses,
                last_used_at=info.last_used_at,
            )


def _table_of(config: CacheConfig) -> tuple[str | Path, str]:
    uri = config.db_uri
    place = local_path(uri).resolve() if is_on_disk(uri) else uri.rstrip("/")
    return place, config.table_name


def _as_path(path: str | os.PathLike[str]) -> Path:
    if not isinstance(path, (str, os.PathLike)):
        raise ArgumentError(f"path must be a path, got {path!r}")
    return Path(path)


def _format(path: Path) -> Format:
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return "parquet"
    if suffix == ".jsonl":
        return "jsonl"
    raise ArgumentError(f"{str(path)!r}: expected a name that ends in .parquet or .jsonl")


@contextmanager
def _sink(form: Format, file: IO[bytes], ports: Ports) -> Iterator[ParquetSink | LineSink]:
    sink: ParquetSink | LineSink
    if form == "parquet":
        from memora.transfer._parquet import ParquetSink  # noqa: PLC0415 - imports Arrow

        sink = ParquetSink(file, ports.embedder)
    else:
        sink = LineSink(file, ports)
    try:
        yield sink
        sink.finish()
    except BaseException:
        sink.abandon()
        raise


@contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file that replaces a path on success and is deleted on failure."""
    whole = Path(os.path.realpath(path))  # replaces the target of a link, not the link
    part = whole.with_name(f".{whole.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        with open(part, "xb", opener=opener(PRIVATE)) as file:
            with suppress(OSError):  # the path does not exist yet
                part.chmod(whole.stat().st_mode & 0o7777)
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(whole)
    except MemoraError:  # a store's error is an OSError too
        raise
    except OSError as error:
        raise TransferError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
