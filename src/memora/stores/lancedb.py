"""Entries in a LanceDB table on a local disk.

One row an entry, written by one commit, so an acknowledged entry survives `kill -9` of the process
(not a power cut: LanceDB does not sync). Readers see other processes' commits at once. Writers
take turns behind a lock file beside the table: without it LanceDB's own conflict retries starve
single writers for seconds.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import filelock
import pyarrow as pa

from memora._fork import renew_after_fork
from memora.errors import (
    MemoraError,
    ModelMismatchError,
    StoreError,
    StoreFormatError,
    StorePathError,
)
from memora.model import Context, Entry, Match

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from memora.protocols import Vector

FORMAT = 1
"""Version of the table's layout, recorded in its schema."""

# Small fragments that make a compaction due: each commit leaves one, and a search pays some 70 us
# for every one.
_COMPACT_FRAGMENTS = 64
# The version of the table whose commit last put a row; LanceDB keeps it, through compactions too.
_PUT_AT = "_row_last_updated_at_version"
# How long superseded versions stay readable for other processes' open handles.
_KEEP_VERSIONS = timedelta(minutes=1)
# Many versions make one due too, if some can go; looked at in two of so many commits, because to
# store is one commit or two (one to put, one to evict).
_COMPACT_VERSIONS = 256
_LOOK_EVERY = 16
# How long a write waits for other writers, of this process and others, before it is given up.
_LOCK_TIMEOUT_SECONDS = 10.0
_LOCK_POLL_SECONDS = 0.005
_ENTRY_COLUMNS = [
    "id",
    "key",
    "query",
    "context",
    "fingerprint",
    "created_at",
    "expires_at",
    "metadata",
]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Stamp:
    """Who made the table's vectors, and in which layout; recorded in the schema's metadata."""

    model: str
    dimension: int
    format: int = FORMAT

    def to_schema(self) -> dict[str, str]:
        return {
            "memora.format": str(self.format),
            "memora.model": self.model,
            "memora.dimension": str(self.dimension),
        }

    @classmethod
    def from_schema(cls, metadata: dict[bytes, bytes] | None) -> _Stamp | None:
        found = {key.decode(): value.decode() for key, value in (metadata or {}).items()}
        try:
            return cls(
                format=int(found["memora.format"]),
                model=found["memora.model"],
                dimension=int(found["memora.dimension"]),
            )
        except (KeyError, ValueError):
            return None


class LanceStore:
    """A table of a LanceDB directory.

    Args:
        path: The directory; created where it is missing and `create` is true.
        table_name: One table is one cache.
        model: Identity of the embedder.
        dimension: Length of its vectors.
        create: Whether a missing table is created; False opens what is there.

    Raises:
        StorePathError: The path cannot be opened or written, or holds no such table.
        StoreFormatError: The table is not Memora's, or a newer version wrote it.
        ModelMismatchError: Another embedder made the table's vectors.
    """

    def __init__(
        self, path: str | Path, *, table_name: str, model: str, dimension: int, create: bool = True
    ) -> None:
        self._path = Path(path)
        self._table_name = table_name
        _check_directory(self._path, create=create)
        # LanceDB prints warnings on stderr for what is normal here, such as a table to be created.
        os.environ.setdefault("LANCEDB_LOG", "error")
        renew_after_fork(self)
        stamp = _Stamp(model, dimension)
        with _faults(f"open {self._where}"), self._committing():
            # A table without a version is one whose making was cut short: made again below.
            database = _connect(self._path)
            if not any((self._path / f"{table_name}.lance" / "_versions").glob("*")):
                if not create:
                    raise StorePathError(f"there is no {self._where}")
                _create(database, table_name, stamp)
            self._opened = database.open_table(table_name)
            self._schema: pa.Schema = self._opened.schema
        _check_stamp(_Stamp.from_schema(self._schema.metadata), stamp, self._where)

    def renew(self) -> None:
        """Make what belongs to one process: the locks. The handle is refused in a child."""
        self._thread_lock = threading.Lock()  # one commit at a time in this process
        self._commit_lock = filelock.FileLock(self._path / f".{self._table_name}.lock")

    @property
    def _table(self) -> Any:
        _check_process()
        return self._opened

    def get(self, key: str, /, *, now: float) -> tuple[Entry, bytes] | None:
        table: pa.Table = self._read(
            "get",
            lambda: (
                self._table.search()
                .where(f"key = {_quoted(key)} AND {_alive(now)}")
                .select([*_ENTRY_COLUMNS, "payload"])
                .limit(1)
                .to_arrow()
            ),
        )
        if not table.num_rows:
            return None
        (row,) = table.select(_ENTRY_COLUMNS).to_pylist()
        payload: bytes = table.column("payload")[0].as_buffer().to_pybytes()
        return _entry(row), payload

    def search(self, vector: Vector, /, *, context: str, k: int, now: float) -> list[Match]:
        rows = self._read(
            "search",
            lambda: (
                self._table.search(vector, vector_column_name="vector")
                .distance_type("cosine")
                .where(f"fingerprint = {_quoted(context)} AND {_alive(now)}", prefilter=True)
                .bypass_vector_index()  # a quantised index reports another scale than the cosine
                .select([*_ENTRY_COLUMNS, "_distance"])
                .limit(k)
                .to_list()
            ),
        )
        return [Match(_entry(row), 1.0 - row["_distance"]) for row in rows]

    def put(self, entry: Entry, payload: bytes, /, *, vector: Vector | None) -> None:
        row = pa.Table.from_pylist([_row(entry, payload, vector)], schema=self._schema)
        with _faults("put"), self._committing():
            (
                self._table.merge_insert("key")
                .when_matched_update_all()
                .when_not_matched_insert_all()
                # "null" keeps the row of a text that the model cannot read, which has no vector.
                .execute(row, on_bad_vectors="null")
            )

    def maintain(self, *, max_entries: int | None) -> int:
        surplus = 0 if max_entries is None else self.count() - max_entries
        if surplus <= 0 and not self._compaction_is_due():
            return 0
        with _faults("maintain"), self._committing():
            surplus = 0 if max_entries is None else max(self._table.count_rows() - max_entries, 0)
            if surplus:
                ids = ", ".join(_quoted(entry_id) for entry_id in self._oldest(surplus))
                self._table.delete(f"id IN ({ids})")
            if self._compaction_is_due():
                self._table.optimize(cleanup_older_than=_KEEP_VERSIONS)
        return surplus

    def _oldest(self, n: int) -> list[str]:
        # By the commit that put them, which no setting of the clock can change.
        rows: pa.Table = self._table.search().select(["id", _PUT_AT]).to_arrow()
        ordered: list[str] = rows.sort_by(_PUT_AT).column("id").slice(0, n).to_pylist()
        return ordered

    def _compaction_is_due(self) -> bool:
        fragments = self._read("stats", self._table.stats)["fragment_stats"]
        if fragments["num_small_fragments"] >= _COMPACT_FRAGMENTS:
            return True
        # Replacing and evicting leave few fragments and many versions. Looked at now and then.
        version = self._read("version", lambda: self._table.version)
        return bool(version % _LOOK_EVERY < 2 and self._has_old_versions())  # noqa: PLR2004

    def _has_old_versions(self) -> bool:
        manifests = list((self._path / f"{self._table_name}.lance" / "_versions").iterdir())
        if len(manifests) < _COMPACT_VERSIONS:
            return False
        oldest = min(manifest.stat().st_mtime for manifest in manifests)
        return oldest < time.time() - _KEEP_VERSIONS.total_seconds()

    def count(self) -> int:
        return int(self._read("count", self._table.count_rows))

    def close(self) -> None:
        """Every write is committed; the handle is released with the object."""

    @property
    def _where(self) -> str:
        return f"table {self._table_name!r} in {str(self._path)!r}"

    @contextmanager
    def _committing(self) -> Iterator[None]:
        deadline = time.monotonic() + _LOCK_TIMEOUT_SECONDS
        if not self._thread_lock.acquire(timeout=_LOCK_TIMEOUT_SECONDS):
            raise filelock.Timeout(self._commit_lock.lock_file)
        try:
            left = max(deadline - time.monotonic(), 0)
            with self._commit_lock.acquire(timeout=left, poll_interval=_LOCK_POLL_SECONDS):
                yield
        finally:
            self._thread_lock.release()

    def _read(self, operation: str, query: Callable[[], T]) -> T:
        with _faults(operation):
            try:
                return query()
            except Exception as error:
                if "not found" not in str(error).lower():
                    raise
                # Another process compacted away the version this handle was reading.
                self._table.checkout_latest()
                return query()


def _check_directory(path: Path, *, create: bool) -> None:
    try:
        if create:
            path.mkdir(parents=True, exist_ok=True)
        is_there, writable = path.is_dir(), os.access(path, os.W_OK | os.X_OK)
    except (OSError, ValueError) as error:  # a null character is a ValueError
        reason = getattr(error, "strerror", None) or error
        raise StorePathError(f"cannot store in {str(path)!r}: {reason}; check db_uri") from error
    if not is_there:
        raise StorePathError(f"there is no directory {str(path)!r}; check db_uri")
    if not writable:
        raise StorePathError(f"the directory {str(path)!r} is not writable; check db_uri")


def _connect(path: Path) -> Any:
    _check_process()
    # It takes a second to import: only who stores on disk pays for it.
    import lancedb  # noqa: PLC0415

    connect: Any = lancedb.connect  # its types leave out what it returns
    # An interval of 0 checks for other processes' commits at each read.
    return connect(path, read_consistency_interval=timedelta(0))


_users: set[int] = set()  # the process that uses LanceDB, and the one it was forked from


def _check_process() -> None:
    """Refuse LanceDB in a process forked from one that used it: it hangs or crashes there."""
    _users.add(os.getpid())
    if len(_users) > 1:
        raise StoreError(
            "the store cannot be used in this process, which was forked from one that uses "
            "LanceDB: open the first cache on disk after the fork, or start workers by spawn or "
            "forkserver"
        )


def _create(database: Any, name: str, stamp: _Stamp) -> None:
    schema = pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("key", pa.string(), nullable=False),
            pa.field("query", pa.string(), nullable=False),
            pa.field("context", pa.string(), nullable=False),
            pa.field("fingerprint", pa.string(), nullable=False),
            pa.field("vector", pa.list_(pa.float32(), stamp.dimension)),
            pa.field("created_at", pa.float64(), nullable=False),
            pa.field("expires_at", pa.float64()),
            pa.field("metadata", pa.string(), nullable=False),
            pa.field("payload", pa.large_binary(), nullable=False),
        ],
        metadata=stamp.to_schema(),
    )
    table = database.create_table(
        name, schema=schema, storage_options={"new_table_enable_stable_row_ids": "true"}
    )
    # Makes concurrent upserts of one key by several processes end in one row, not two.
    table.set_unenforced_primary_key("key")


def _check_stamp(found: _Stamp | None, expected: _Stamp, where: str) -> None:
    if found is None:
        raise StoreFormatError(
            f"{where} was not made by Memora, or its schema is damaged; choose another table_name"
        )
    if found.format > FORMAT:
        raise StoreFormatError(
            f"{where} has format {found.format}, and this version of Memora reads up to {FORMAT}; "
            "upgrade memora-cache, or choose another table_name"
        )
    if (found.model, found.dimension) != (expected.model, expected.dimension):
        raise ModelMismatchError(
            f"{where} holds vectors of {found.model!r} ({found.dimension} dimensions), but this "
            f"cache embeds with {expected.model!r} ({expected.dimension} dimensions), and vectors "
            "of two models cannot be compared; open it with the first model, or choose another "
            "table_name for the second"
        )


def _row(entry: Entry, payload: bytes, vector: Vector | None) -> dict[str, Any]:
    return {
        "id": entry.id,
        "key": entry.key,
        "query": entry.query,
        "context": entry.context.canonical,
        "fingerprint": entry.context.fingerprint,
        "vector": vector,
        "created_at": entry.created_at,
        "expires_at": entry.expires_at,
        "metadata": entry.metadata,
        "payload": payload,
    }


def _entry(row: dict[str, Any]) -> Entry:
    return Entry(
        id=row["id"],
        key=row["key"],
        query=row["query"],
        context=Context(row["context"], row["fingerprint"]),
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        metadata=row["metadata"],
    )


def _alive(now: float) -> str:
    return f"(expires_at IS NULL OR expires_at > {now!r})"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


@contextmanager
def _faults(operation: str) -> Iterator[None]:
    """Name LanceDB's faults once, here: it raises ValueError, RuntimeError and OSError alike."""
    try:
        yield
    except MemoraError:
        raise
    except filelock.Timeout as error:
        raise StoreError(
            f"{operation}: other writers have held the store for {_LOCK_TIMEOUT_SECONDS:.0f} s"
        ) from error
    except PermissionError as error:
        raise StorePathError(
            f"{operation}: {error.strerror} on {error.filename!r}; check who owns db_uri's files"
        ) from error
    except Exception as error:
        raise StoreError(f"{operation}: {error}") from error
