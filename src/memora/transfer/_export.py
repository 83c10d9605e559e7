"""Export of entries to a file."""

from __future__ import annotations

import os
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from memora._faults import contained
from memora._files import mode_of, replacing
from memora.concurrency.reentry import alone
from memora.errors import CorruptEntryError, MemoraError, SerializationError, TransferError
from memora.selection import Selection
from memora.transfer._importer import ImportReport, Progress
from memora.transfer._items import LineSink
from memora.transfer._rows import Format, InvalidRow, Problem, Problems, as_path, format_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO

    from memora.pipeline import Ports
    from memora.transfer._parquet import ParquetSink

_NOTHING_WRITTEN = (
    "nothing was written; .parquet takes every result, and skip_errors=True (--skip-errors) skips "
    "those that cannot be written"
)


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
    path = as_path(path)
    form = format_of(path)
    infos = alone(contained(ports.store.select))(Selection(), now=ports.clock())
    fetch = alone(contained(ports.store.fetch))
    written, problems = 0, Problems()
    with _written(path) as file, _sink(form, file, ports) as sink:
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
def _written(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that replaces a path on success."""
    whole = Path(os.path.realpath(path))  # replaces the target of a link, not the link
    part = whole.with_name(f".{whole.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        with replacing(whole, part, mode_of(whole)) as file:
            yield file
    except MemoraError:  # a store's error is an OSError too
        raise
    except OSError as error:
        raise TransferError(f"{path} cannot be written: {error.strerror}") from error
