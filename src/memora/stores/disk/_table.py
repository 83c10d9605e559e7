"""The LanceDB table of a store on disk: one row per entry with its vector, written in batches.

Only one process at a time writes it. It holds no payloads, so that scans and compactions read and
write only vectors and texts.
"""

from __future__ import annotations

import math
import threading
import time
import zlib
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from memora.errors import (
    ArgumentError,
    StorePathError,
)
from memora.stores.disk import _records
from memora.stores.disk._identity import FORMAT, TableIdentity, check_identity, identity_of
from memora.stores.disk._journal import sync_path
from memora.stores.disk._lance import connect, faults

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from memora.protocols import Vector
    from memora.stores.disk._records import Record

# Number of fragments, deletion files or versions that makes a compaction due; each flush adds some.
# A search takes about 70 us for each fragment, and every version lists them all.
_COMPACT_AT = 64
# How long superseded versions are kept for processes that read them: a scan takes less, and a read
# whose version is gone is repeated on the newest.
_KEEP_SECONDS = 2.0
_KEEP, _AT_ONCE, _NEVER = timedelta(seconds=1), timedelta(milliseconds=1), timedelta(days=36_500)
DELETE_ROWS = 4000
"""Rows deleted by one commit."""
_REFINE = 8  # rows compared for each one requested
# A compaction is also due if the data is twice the size of its rows' vectors and texts, plus this.
_SPARE_BYTES = 2 * 1024 * 1024
_TEXT_BYTES = 256
# With fewer rows, LanceDB cannot train a quantised index.
MIN_INDEX_ROWS = 256
INDEX_KINDS = {
    "IVF_PQ": "IvfPq",
    "IVF_FLAT": "IvfFlat",
    "IVF_SQ": "IvfSq",
    "IVF_HNSW_PQ": "HnswPq",
    "IVF_HNSW_SQ": "HnswSq",
}
"""Index types by name, with their LanceDB classes."""

_OPTIONS = {"new_table_enable_stable_row_ids": "true"}

T = TypeVar("T")

# Columns that are loaded, and covered by the row's checksum.
_TEXTS = ("key", "id", "segment", "fingerprint", "context", "query")
_NUMBERS = (
    *("stamp", "offset", "length", "created_at", "expires_at"),
    *("stale_seconds", "sliding_seconds", "cost"),
)
_CHECKED = (*_TEXTS, *_NUMBERS, "tags")


@dataclass(frozen=True, slots=True)
class Row:
    """An entry to be written, with the location of its record."""

    record: Record
    segment: str
    offset: int
    length: int


class EntryTable:
    """One table of a LanceDB directory.

    Raises:
        StorePathError: There is no such table, and `create` is false.
        StoreFormatError: The table is not Memora's, or of another format.
        ModelMismatchError: Another embedder made the table's vectors.
    """

    def __init__(self, path: Path, name: str, identity: TableIdentity, *, create: bool) -> None:
        self._folder = path / f"{name}.lance"
        self._synced: set[Path] = set()
        where = f"table {name!r} in {str(path)!r}"
        with faults(f"open {where}"):
            database = connect(path)
            if not self.exists(path, name):
                if not create:
                    raise StorePathError(f"there is no {where}")
                _create(database, name, identity)
            self._begin(database, name, where, identity)

    def _begin(self, database: Any, name: str, where: str, identity: TableIdentity) -> None:
        self._database, self._name, self.where = database, name, where
        self._table = table = database.open_table(name)
        self._source = table  # handle for reads
        self._schema: pa.Schema = table.schema
        self.dimension, self._identity = identity.dimension, identity
        self._lock = threading.Lock()  # one commit at a time in this process
        self._compacted_at: float | None = None
        self._changed = True  # since the last `maintain`
        found = TableIdentity.from_schema(self._schema.metadata)
        check_identity(found, identity, where)
        self.needs_upgrade = found is not None and found.format < FORMAT
        """Whether it has an older format: readable, but to be upgraded before a write."""

    def upgrade(self) -> None:
        """Upgrade a table of an older format to this version's, atomically in one commit.

        A row gets its checksum when it is next written. Until then it is compared with its record
        in the log. An index of the table is lost, and may be created again.
        """
        with faults("upgrade"), self._lock:
            names, schema = self._schema.names, _schema(self._identity, self._schema)
            missing = schema.names[len(names) :]

            def rows() -> Iterator[pa.RecordBatch]:
                for batch in self._table.search().limit(None).to_batches(4096):
                    columns = [batch.column(name) for name in names]
                    columns += [pa.nulls(len(batch), schema.field(name).type) for name in missing]
                    yield pa.RecordBatch.from_arrays(columns, schema=schema)

            table = self._database.create_table(
                self._name,
                data=pa.RecordBatchReader.from_batches(schema, rows()),
                schema=schema,
                mode="overwrite",
                on_bad_vectors="null",
                storage_options=_OPTIONS,
            )
            if self._source is self._table:
                self._source = table
            self._table, self._schema, self.needs_upgrade = table, table.schema, False
            self._sync()

    @staticmethod
    def exists(path: Path, name: str) -> bool:
        """Return whether the table exists; one without a version was never completed."""
        return any((path / f"{name}.lance" / "_versions").glob("*"))

    def count(self) -> int:
        """Return the number of rows."""
        return int(self._read("count", self._table.count_rows))

    def scan(self) -> pa.Table:
        """Return all rows without vectors, ordered by sequence number."""
        sealed = "checksum" in self._source.schema.names
        columns = [*_CHECKED, *(["checksum"] if sealed else [])]
        rows: pa.Table = self._read(
            "scan", lambda: self._source.search().select(columns).limit(None).to_arrow()
        )
        if not sealed:
            rows = rows.append_column("checksum", pa.nulls(len(rows), pa.int64()))
        return rows.sort_by("stamp")

    def vectors(self) -> Iterator[tuple[list[bytes], list[int], NDArray[np.float32]]]:
        """Yield batches of keys, sequence numbers and vectors of the rows that have a vector.

        Nothing is checked; a malformed key is returned as empty bytes.
        """
        with faults("scan"):
            columns = ["key", "stamp", "vector"]
            query = self._source.search().where("vector IS NOT NULL").select(columns).limit(None)
            for batch in query.to_batches(4096):
                yield (
                    [key_of(key) for key in batch.column("key").cast(pa.binary()).to_pylist()],
                    batch.column("stamp").to_pylist(),
                    batch.column("vector").flatten().to_numpy().reshape(-1, self.dimension),
                )

    def search(
        self, vector: Vector, *, context: str, k: int, now: float, since: float
    ) -> list[tuple[bytes, int]]:
        """Return (key, seq) of the nearest rows of a context, roughly nearest first."""
        conditions = [f"fingerprint = {_quoted(context)}", f"ends_at > {now!r}"]
        if since > -math.inf:
            conditions.append(f"created_at >= {since!r}")

        def query() -> list[dict[str, Any]]:
            found = (
                self._table.search(vector, vector_column_name="vector")
                .distance_type("cosine")
                .where(" AND ".join(conditions), prefilter=True)
                .select(["key", "stamp", "_distance"])
                .limit(k)
            )
            # A quantised index ranks by another scale than the cosine, so more rows are fetched and
            # compared by their full vectors.
            for index in self._indices():
                found = found.nprobes(32).refine_factor(_REFINE)
                if "HNSW" in str(index.index_type).upper():
                    found = found.ef(max(_REFINE * k, 128))
            rows: list[dict[str, Any]] = found.to_list()
            return rows

        return [(bytes.fromhex(row["key"]), row["stamp"]) for row in self._read("search", query)]

    def write(self, rows: Sequence[Row], deleted: Sequence[bytes]) -> None:
        """Replace or add rows by key, delete other keys' rows, and sync."""
        if not rows and not deleted:
            return
        if self.needs_upgrade:
            self.upgrade()
        with faults("write"), self._lock:
            self._changed = True
            if rows:
                (
                    self._table.merge_insert("key")
                    .when_matched_update_all()
                    .when_not_matched_insert_all()
                    .execute(self._arrow(rows).cast(self._schema), on_bad_vectors="null")
                )
            for at in range(0, len(deleted), DELETE_ROWS):
                keys = ", ".join(_quoted(key.hex()) for key in deleted[at : at + DELETE_ROWS])
                self._table.delete(f"key IN ({keys})")
            self._sync()

    def maintain(self, *, alone: bool) -> None:
        """Compact if that is due, and delete what the compaction leaves.

        Args:
            alone: Whether no other process has the store open; if others have, old files are kept
                for a moment.
        """
        with faults("maintain"), self._lock:
            if self._compacted_at is None:
                if not self._changed or not self._compaction_is_due():
                    self._changed = False
                    return
                # In two steps: superseded files are deleted once their successors are synced, and
                # once other processes no longer read them.
                self._table.optimize(cleanup_older_than=_NEVER)
                self._sync()
                self._compacted_at = time.monotonic()
            if alone or time.monotonic() - self._compacted_at >= _KEEP_SECONDS:
                self._table.optimize(cleanup_older_than=_AT_ONCE if alone else _KEEP)
                self._compacted_at = None

    def compact(self, *, alone: bool) -> None:
        """Compact even if not due, and delete what the compaction leaves.

        Args:
            alone: As for `maintain`; if others have the store open, wait for them.
        """
        with faults("compact"), self._lock:
            self._table.optimize(cleanup_older_than=_NEVER)
            self._sync()
            if not alone:
                time.sleep(_KEEP_SECONDS)
            self._table.optimize(cleanup_older_than=_AT_ONCE if alone else _KEEP)
            self._changed, self._compacted_at = False, None

    def check(self) -> None:
        """Check that the table can be read.

        Raises:
            OSError: Its folder is gone or unreadable.
        """
        next(self._folder.iterdir(), None)

    def forget_synced(self) -> None:
        """Treat every file as not synced: another process wrote it."""
        self._synced.clear()

    @property
    def compacting(self) -> bool:
        """Whether a compaction waits for its clean-up; a flush now would cause another one."""
        return self._compacted_at is not None

    def has_index(self) -> bool:
        """Return whether there is a vector index."""
        return bool(self._indices())

    def create_index(self, **options: Any) -> bool:
        """Build the vector index; see `memora.Memora.create_index`."""
        kind = options.pop("index_type", "IVF_PQ")
        if kind not in INDEX_KINDS:
            raise ArgumentError(f"index_type={kind!r}: expected one of {', '.join(INDEX_KINDS)}")
        known = {"num_partitions", "num_sub_vectors"}
        if unknown := set(options) - known:
            raise ArgumentError(
                f"create_index has no option {min(unknown)!r}; expected index_type, "
                f"{', '.join(sorted(known))}"
            )
        for name, value in options.items():
            if value is not None and not (type(value) is int and value >= 1):
                raise ArgumentError(f"{name}={value!r}: expected a whole number, 1 or more")
        rows = self.count()
        if rows < MIN_INDEX_ROWS:
            return False
        partitions = options.get("num_partitions") or max(math.isqrt(rows), 1)
        settings: dict[str, Any] = {"num_partitions": min(partitions, rows)}
        if kind.endswith("PQ"):
            settings["num_sub_vectors"] = options.get("num_sub_vectors") or _divisor(self.dimension)
        with faults("create_index"), self._lock:
            from lancedb import index  # noqa: PLC0415 - as in `connect`

            config = getattr(index, INDEX_KINDS[kind])
            self._table.create_index(
                "vector", config=config(distance_type="cosine", **settings), replace=True
            )
        return True

    def index_stats(self) -> dict[str, Any]:
        """Return `has_index` and LanceDB's statistics of the index."""
        indices = self._indices()
        if not indices:
            return {"has_index": False}
        stats = self._read("index_stats", lambda: self._table.index_stats(indices[0].name))
        return {
            "has_index": True,
            "index_type": stats.index_type,
            "indexed_rows": stats.num_indexed_rows,
            "unindexed_rows": stats.num_unindexed_rows,
        }

    def _indices(self) -> list[Any]:
        found: list[Any] = self._read("list indices", lambda: list(self._table.list_indices()))
        return [index for index in found if "vector" in index.columns]

    def _compaction_is_due(self) -> bool:
        fragments = int(self._table.stats()["fragment_stats"]["num_small_fragments"])
        others = [
            len(list((self._folder / name).glob("*"))) for name in ("_deletions", "_versions")
        ]
        if max(fragments, *others) >= _COMPACT_AT:
            return True
        stored = sum(path.stat().st_size for path in (self._folder / "data").glob("*"))
        return stored > _SPARE_BYTES + 2 * self.count() * (4 * self.dimension + _TEXT_BYTES)

    def _sync(self) -> None:
        # LanceDB does not sync: its commits survive the process, but not a power cut.
        there = set(self._folder.rglob("*"))
        for path in there - self._synced:
            with suppress(FileNotFoundError):  # a temporary file
                sync_path(path)
        for folder in {path.parent for path in there - self._synced}:
            sync_path(folder)
        self._synced = there

    def sealed(self, rows: Sequence[Row]) -> NDArray[np.uint64]:
        """Return the checksums of rows as they would be written."""
        found: NDArray[np.int64] = self._arrow(rows).column("checksum").to_numpy()
        return found.astype(np.uint64)

    def _arrow(self, rows: Sequence[Row]) -> pa.Table:
        matrix = np.zeros((len(rows), self.dimension), np.float32)
        nulls = np.zeros(len(rows), bool)
        for i, row in enumerate(rows):
            if row.record.vector is None:
                nulls[i] = True
            else:
                matrix[i] = row.record.vector
        vectors = pa.FixedSizeListArray.from_arrays(
            pa.array(matrix.ravel()), self.dimension, mask=pa.array(nulls)
        )
        entries = [row.record.entry for row in rows]
        columns: dict[str, Any] = {
            "key": [row.record.key.hex() for row in rows],
            "id": [entry.id for entry in entries if entry],
            "stamp": [row.record.seq for row in rows],
            "query": [entry.query for entry in entries if entry],
            "context": [entry.context.canonical for entry in entries if entry],
            "fingerprint": [entry.context.fingerprint for entry in entries if entry],
            "vector": vectors,
            "created_at": [entry.created_at for entry in entries if entry],
            "expires_at": [
                math.inf if entry.expires_at is None else entry.expires_at
                for entry in entries
                if entry
            ],
            # Infinite if uses extend the TTL: they do not change the table.
            "ends_at": [
                entry.ends_at if entry.sliding_seconds is None else math.inf
                for entry in entries
                if entry
            ],
            "stale_seconds": [entry.stale_seconds for entry in entries if entry],
            "sliding_seconds": [entry.sliding_seconds for entry in entries if entry],
            "tags": [list(entry.tags) for entry in entries if entry],
            "cost": [entry.cost for entry in entries if entry],
            "metadata": [row.record.content.metadata for row in rows if row.record.content],
            "segment": [row.segment for row in rows],
            "offset": [row.offset for row in rows],
            "length": [row.length for row in rows],
        }
        schema = _schema(self._identity)
        found = pa.table(columns, schema=pa.schema([schema.field(name) for name in columns]))
        floats = np.array([_records.checksum_of(row.record.vector) for row in rows], np.uint64)
        sums = (floats << np.uint64(32) | checksums(found)).astype(np.int64)
        return found.append_column(schema.field("checksum"), pa.array(sums))

    def _read(self, operation: str, query: Callable[[], T]) -> T:
        with faults(operation):
            try:
                return query()
            except Exception as error:
                if "not found" not in str(error).lower():
                    raise
                # The version of this handle has been compacted away.
                self._table.checkout_latest()
                return query()


def checksums(rows: pa.Table) -> NDArray[np.uint64]:
    """Return the CRC-32 of the columns of `EntryTable.scan`, for each row as it is stored.

    It is the lower half of the column `checksum`. The upper half is that of the vector's bytes, 0
    for no vector. The column `metadata` is not covered, as it is never read back: a content comes
    from its record, which has its own checksum. Nor is `ends_at`, which only affects the candidates
    that a search of the table proposes.
    """
    rows = rows.combine_chunks()
    numbers = np.empty((len(rows), len(_NUMBERS)), np.int64)
    for i, name in enumerate(_NUMBERS):
        values = rows.column(name).fill_null(-1).to_numpy()
        numbers[:, i] = values if values.dtype == np.int64 else values.view(np.int64)
    packed: Any = pa.binary(8 * len(_NUMBERS))
    packed = pa.Array.from_buffers(packed, len(rows), [None, pa.py_buffer(numbers.tobytes())])
    compute: Any = pc  # its stubs lack functions that are generated at import
    tags = rows.column("tags").cast(pa.list_(pa.binary()))
    whole = compute.binary_join_element_wise(
        packed.cast(pa.binary()),
        *(rows.column(name).cast(pa.binary()) for name in _TEXTS),
        compute.binary_join(tags, b"\0"),
        b"\0",
        null_handling="replace",
    )
    return np.fromiter(map(zlib.crc32, whole.to_pylist()), np.uint64, len(rows))


def key_of(text: bytes | None) -> bytes:
    """Parse the key of a row; empty if it is malformed."""
    try:
        return bytes.fromhex((text or b"").decode("ascii"))
    except ValueError:
        return b""


def read_identity(path: Path, name: str) -> TableIdentity:
    """Return the identity of an existing table.

    Raises:
        StorePathError: There is no such table.
        StoreFormatError: It is not Memora's.
    """
    where = f"table {name!r} in {str(path)!r}"
    with faults(f"open {where}"):
        if not EntryTable.exists(path, name):
            raise StorePathError(f"there is no {where}")
        return identity_of(connect(path).open_table(name), where)


def _create(database: Any, name: str, identity: TableIdentity) -> None:
    table = database.create_table(name, schema=_schema(identity), storage_options=_OPTIONS)
    # So that an upsert that runs twice leaves one row.
    table.set_unenforced_primary_key("key")


def _schema(identity: TableIdentity, older: pa.Schema | None = None) -> pa.Schema:
    """Return the schema of a table, with LanceDB's field metadata of an older schema."""
    text, number, whole = pa.string(), pa.float64(), pa.int64()
    schema = pa.schema(
        [
            pa.field("key", text, nullable=False),
            pa.field("id", text, nullable=False),
            pa.field("stamp", whole, nullable=False),
            pa.field("query", text, nullable=False),
            pa.field("context", text, nullable=False),
            pa.field("fingerprint", text, nullable=False),
            pa.field("vector", pa.list_(pa.float32(), identity.dimension)),
            pa.field("created_at", number, nullable=False),
            pa.field("expires_at", number, nullable=False),
            # End of the stale period; infinity if uses extend the TTL.
            pa.field("ends_at", number, nullable=False),
            pa.field("stale_seconds", number, nullable=False),
            pa.field("sliding_seconds", number),
            pa.field("tags", pa.list_(text), nullable=False),
            pa.field("cost", number, nullable=False),
            pa.field("metadata", text, nullable=False),
            # Location of the record with the payload.
            pa.field("segment", text, nullable=False),
            pa.field("offset", whole, nullable=False),
            pa.field("length", whole, nullable=False),
            # See `checksums`; null in a row written by a version before format 5.
            pa.field("checksum", whole),
        ],
        metadata=identity.to_schema(),
    )
    if older is None:
        return schema
    return pa.schema([*older, *list(schema)[len(older) :]], metadata=schema.metadata)


def _divisor(dimension: int) -> int:
    """Return the default number of parts of a quantised vector: about eight numbers each."""
    return next(n for n in range(max(dimension // 8, 1), 0, -1) if dimension % n == 0)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
