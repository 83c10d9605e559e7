"""Use of LanceDB: its import, its connections, and the meaning of its faults."""

from __future__ import annotations

import os
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from memora._faults import is_fault
from memora.errors import MemoraError, StoreError, StorePathError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_CACHE_BYTES = 8 * 1024 * 1024


def load_lancedb() -> Any:
    """Import LanceDB."""
    # LanceDB prints warnings on stderr for normal events, such as a table to be created.
    os.environ.setdefault("LANCEDB_LOG", "error")
    # The import takes a second; only stores that need LanceDB pay for it.
    import lancedb  # noqa: PLC0415

    return lancedb


def connect(path: Path | str, *, storage_options: dict[str, str] | None = None) -> Any:
    """Open a LanceDB directory on disk or in a bucket."""
    lancedb = load_lancedb()
    open_directory: Any = lancedb.connect  # its annotations lack the return type
    # An interval of 0 checks for other processes' commits at each read. The caches are limited
    # because the table is read seldom, while LanceDB's default caches would grow to a gigabyte.
    session = lancedb.Session(
        index_cache_size_bytes=_CACHE_BYTES, metadata_cache_size_bytes=_CACHE_BYTES
    )
    return open_directory(
        path,
        read_consistency_interval=timedelta(0),
        session=session,
        storage_options=storage_options,
    )


@contextmanager
def faults(operation: str) -> Iterator[None]:
    """Turn LanceDB's faults, which may be ValueError, RuntimeError or OSError, into StoreError."""
    try:
        yield
    except MemoraError:
        raise
    except PermissionError as error:
        raise StorePathError(
            f"{operation}: {error.strerror} on {error.filename!r}; check who owns db_uri's files"
        ) from error
    except BaseException as error:  # a panic in LanceDB is not an Exception
        if not is_fault(error):
            raise
        raise StoreError(f"{operation}: {error}") from error
