"""Entries on the move: to a file and back, from answers that are known, to another model.

All is deliberate, so faults are raised. A file is checked to its end before the first entry of it
is written; what was interrupted is run again, and goes on where it ended, because an entry that is
there already is left alone.
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
from memora._reentry import alone
from memora._uris import is_in_ram, is_on_disk, without_password
from memora.codec import Codec
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
from memora.transfer._arrivals import (
    Arrival,
    Broken,
    Carrier,
    Moved,
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
    from memora.model import Holding
    from memora.protocols import Embedder, StoreReader
    from memora.transfer._parquet import ParquetSink, ParquetSource

__all__ = [
    "Item",
    "Moved",
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
) -> Moved:
    """Write the entries that have not ended to a file, which appears when it is complete.

    Args:
        ports: The cache's.
        path: `.parquet`, which has all there is to an entry, or `.jsonl`, for people: without
            vectors, and with contexts and results as plain JSON.
        skip_errors: Leave out and count what cannot be written, rather than raise.
        progress: Called with how many are done, of how many.

    Raises:
        ArgumentError: The path has another suffix.
        TransferError: The file cannot be written; or an entry is damaged, or has no exact form
            as JSON.
        StoreError: The store failed.
    """
    path = _as_path(path)
    form = _format(path)
    holdings = alone(contained(ports.store.select))(Selection(), now=ports.clock())
    fetch = alone(contained(ports.store.fetch))
    written, problems = 0, Problems()
    with _replacing(path) as file, _sink(form, file, ports) as sink:
        for done, holding in enumerate(holdings, start=1):
            try:
                found = fetch(holding.entry.key, now=ports.clock())
                # Else it has left, or been replaced, since.
                if found is not None and found[0].id == holding.entry.id:
                    sink.write(holding, found[1], found[2])
                    written += 1
            except (Broken, CorruptEntryError, SerializationError) as error:
                entry = holding.entry
                problems.note(Problem(f"entry {entry.id} ({entry.query[:80]!r})", str(error)))
                if not skip_errors:
                    raise problems.refuse(str(path), _NOTHING_WRITTEN) from error
            if progress is not None:
                progress(done, len(holdings))
    return Moved(written=written, broken=problems.count, problems=tuple(problems.first))


def import_entries(  # noqa: PLR0913 - each is a choice of the caller's
    ports: Ports,
    config: CacheConfig,
    path: str | os.PathLike[str],
    *,
    skip_errors: bool = False,
    reembed: bool = False,
    progress: Progress | None = None,
) -> Moved:
    """Put the entries of a file into a cache, as they were: ids, times, uses.

    An entry that is there already is left alone, and so is a newer one of the same query and
    context; the others are replaced. The cache's limits hold meanwhile.

    Args:
        ports: The cache's.
        config: Its limits; and what `warm` takes from it.
        path: `.parquet`, or `.jsonl`, whose lines are as for `warm`.
        skip_errors: Leave out and count rows that are broken, rather than raise.
        reembed: Make the vectors of a `.parquet` anew, because they are of another model.
        progress: Called with how many rows are done, of how many.

    Raises:
        ArgumentError: The path has another suffix.
        TransferError: The file cannot be read, or a row is broken; nothing was imported.
        ModelMismatchError: The file's vectors are another model's; nothing was imported.
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
    carrier = Carrier(ports, config, embeds=reembed or form == "jsonl", progress=progress)
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
) -> Moved:
    """Store answers that are known, embedded in batches.

    A file and a sequence are checked to their end before the first is stored; of an iterator, which
    can be read once only, what comes before a broken item is.

    Args:
        ports: The cache's.
        config: How long they live, where they do not say; and the cache's limits.
        items: Mappings with `query` and `result`, and where wanted `context`, `metadata`, `ttl`,
            `stale_ttl`, `sliding`, `tags` and `cost`; tuples of query, context and result; or the
            path of a `.jsonl` with such a mapping a line.
        progress: Called with how many are done, and of how many, where that is known.

    Raises:
        ArgumentError: The path has another suffix, or it is not iterable.
        TransferError: The file cannot be read, or an item is broken.
        MemoraError: The store or the model failed.
    """
    reader = ItemReader(ports, config)
    carrier = Carrier(ports, config, embeds=True, progress=progress)
    if isinstance(items, (str, os.PathLike)):
        path = _as_path(items)
        if _format(path) != "jsonl":
            raise ArgumentError(f"{str(path)!r} is an export; import it (import_entries)")
        with LineSource(path, reader) as lines:
            validated(lines, outcome=_NOTHING_STORED)
            return carrier.carry(lines.read(), name=lines.name, total=lines.total, strict=True)
    given: object = items  # whatever the application passed
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
) -> Moved:
    """Copy all entries of one table to another one, for another embedding model.

    The source is not changed, and needs no model. Run it again after an interruption, or to fetch
    what has been stored meanwhile: entries that the target has are left alone.

    Args:
        source: Names the table: `db_uri` and `table_name`.
        target: Names the other table, made if missing, its model, and its limits.
        embedder: Instead of the target's model.
        progress: Called with how many are done, of how many.

    Raises:
        ArgumentError: Both are one table, or one is in memory.
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
            embedder=CachedEmbedder(chosen, 0),  # it checks what the application's returns
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
) -> Moved:
    """Put the entries of a store that have not ended into a cache, embedded by its model.

    Args:
        source: The store.
        ports: The cache's.
        config: Its limits.
        progress: Called with how many are done, of how many.

    Raises:
        ArgumentError: The store is the cache's own.
        MemoraError: A store or the model failed; run it again.
    """
    if source is ports.store:
        raise ArgumentError("a store cannot be copied to itself")
    holdings = source.select(Selection(), now=ports.clock())
    carrier = Carrier(ports, config, embeds=True, progress=progress)
    arrivals = _fetched(source, holdings, ports)
    return carrier.carry(arrivals, name="reembed", total=len(holdings), strict=True)


def _fetched(
    source: StoreReader, holdings: Sequence[Holding], ports: Ports
) -> Iterator[Arrival | Problem]:
    for holding in holdings:
        found = source.fetch(holding.entry.key, now=ports.clock())
        if found is not None:  # else it has left since
            yield Arrival(
                entry=found[0],
                content=found[1],
                uses=holding.uses,
                last_used_at=holding.last_used_at,
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
    """Open a new file that takes a path's place at the end, and else is gone."""
    whole = Path(os.path.realpath(path))  # behind a link, not the link
    part = whole.with_name(f".{whole.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        with open(part, "xb", opener=opener(PRIVATE)) as file:
            with suppress(OSError):  # there is none yet
                part.chmod(whole.stat().st_mode & 0o7777)
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(whole)
    except MemoraError:  # a store's is an OSError too
        raise
    except OSError as error:
        raise TransferError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
