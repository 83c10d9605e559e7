"""Entries in a LanceDB table on a local disk.

One row an entry, written by one commit, so an acknowledged entry survives `kill -9` of the process
(not a power cut: LanceDB does not sync). Readers see other processes' commits at once. Writers
take turns behind a lock file beside the table: without it LanceDB's own conflict retries starve
single writers for seconds.
"""

from __future__ import annotations

import json
import os
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import filelock
import pyarrow as pa

from memora.errors import (
    CorruptEntryError,
    MemoraError,
    ModelMismatchError,
    StoreError,
    StoreFormatError,
    StorePathError,
)
from memora.model import Context, Entry, Match

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from memora.protocols import Vector

FORMAT = 1
"""Version of the table's layout, recorded in its schema."""

# Commits between two compactions. Each commit leaves a fragment and a version behind, and a search
# pays some 70 us for every fragment.
_COMPACT_EVERY = 64
# How long superseded versions stay readable for other processes' open handles.
_KEEP_VERSIONS = timedelta(minutes=10)
_LOCK_TIMEOUT_SECONDS = 30.0
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
        self._path = Path(path).expanduser()
        self._table_name = table_name
        _check_directory(self._path, create=create)
        # LanceDB prints warnings on stderr for what is normal here, such as a table to be created.
        os.environ.setdefault("LANCEDB_LOG", "error")
        # It takes a second to import: only who stores on disk pays for it.
        from lancedb import connect  # noqa: PLC0415

        self._commit_lock = filelock.FileLock(
            self._path / f".{table_name}.lock", timeout=_LOCK_TIMEOUT_SECONDS
        )
        self._thread_lock = threading.Lock()  # one commit at a time in this process, and its count
        self._commits = 0
        self._table: Any  # LanceDB's types do not cover what it returns
        stamp = _Stamp(model, dimension)
        with _faults(f"open {self._where}"), self._committing():
            database = connect(self._path, read_consistency_interval=timedelta(0))
            # A table without a version is one whose making was cut short: made again below.
            if any((self._path / f"{table_name}.lance" / "_versions").glob("*")):
                self._table = database.open_table(table_name)
            elif create:
                self._table = _create(database, table_name, stamp)
            else:
                raise StorePathError(f"there is no table {table_name!r} in {str(self._path)!r}")
        self._schema: pa.Schema = self._table.schema
        _check_stamp(_Stamp.from_schema(self._schema.metadata), stamp, self._where)

    def get(self, key: str, /, *, now: float) -> Entry | None:
        rows = self._read(
            "get",
            lambda: (
                self._table.search()
                .where(f"key = {_quoted(key)} AND {_alive(now)}")
                .select(_ENTRY_COLUMNS)
                .limit(1)
                .to_list()
            ),
        )
        return _entry(rows[0]) if rows else None

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

    def payload(self, entry_id: str, /) -> bytes | None:
        table: pa.Table = self._read(
            "payload",
            lambda: (
                self._table.search()
                .where(f"id = {_quoted(entry_id)}")
                .select(["payload"])
                .limit(1)
                .to_arrow()
            ),
        )
        if not table.num_rows:
            return None
        payload: bytes = table.column("payload")[0].as_buffer().to_pybytes()
        return payload

    def put(self, entry: Entry, payload: bytes, /, *, vector: Vector | None) -> None:
        row = pa.Table.from_pylist([_row(entry, payload, vector)], schema=self._schema)
        with _faults("put"), self._committing():
            (
                self._table.merge_insert("key")
                .when_matched_update_all()
                .when_not_matched_insert_all()
                # "null" keeps the row of a text beyond the model's window, which has no vector.
                .execute(row, on_bad_vectors="null")
            )
            self._count_commit()

    def drop(self, entry_ids: Sequence[str], /) -> int:
        if not entry_ids:
            return 0
        ids = ", ".join(_quoted(entry_id) for entry_id in entry_ids)
        with _faults("drop"), self._committing():
            deleted: int = self._table.delete(f"id IN ({ids})").num_deleted_rows
            self._count_commit()
        return deleted

    def oldest(self, n: int, /) -> list[str]:
        rows: pa.Table = self._read(
            "oldest",
            lambda: self._table.search().select(["id", "created_at"]).with_row_id(True).to_arrow(),  # noqa: FBT003 - theirs
        )
        # Row ids count up, so they order entries stored at one tick of the clock.
        ordered: list[str] = (
            rows.sort_by([("created_at", "ascending"), ("_rowid", "ascending")])
            .column("id")
            .slice(0, n)
            .to_pylist()
        )
        return ordered

    def count(self) -> int:
        return int(self._read("count", self._table.count_rows))

    def close(self) -> None:
        """Every write is committed; the handle is released with the object."""

    @property
    def _where(self) -> str:
        return f"table {self._table_name!r} in {str(self._path)!r}"

    @contextmanager
    def _committing(self) -> Iterator[None]:
        with self._thread_lock, self._commit_lock:
            yield

    def _count_commit(self) -> None:
        self._commits += 1
        if self._commits % _COMPACT_EVERY == 0:
            self._table.optimize(cleanup_older_than=_KEEP_VERSIONS)

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
        if not path.is_dir():
            raise StorePathError(f"there is no directory {str(path)!r}; check db_uri")
        if not os.access(path, os.W_OK | os.X_OK):
            raise StorePathError(f"the directory {str(path)!r} is not writable; check db_uri")
    except OSError as error:
        if isinstance(error, StoreError):
            raise
        raise StorePathError(
            f"cannot store in {str(path)!r}: {error.strerror or error}; check db_uri"
        ) from error


def _create(database: Any, name: str, stamp: _Stamp) -> Any:
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
    return database.open_table(name)


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
        "metadata": json.dumps(entry.metadata),
        "payload": payload,
    }


def _entry(row: dict[str, Any]) -> Entry:
    try:
        metadata = json.loads(row["metadata"])
    except ValueError as error:
        raise CorruptEntryError(f"entry {row['id']} has damaged metadata: {error}") from error
    return Entry(
        id=row["id"],
        key=row["key"],
        query=row["query"],
        context=Context(row["context"], row["fingerprint"]),
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        metadata=metadata,
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
            f"{operation}: another process has held the store's lock for "
            f"{_LOCK_TIMEOUT_SECONDS:.0f} s"
        ) from error
    except Exception as error:
        raise StoreError(f"{operation}: {error}") from error
