"""Store in a bucket: lookups in RAM, a log of immutable batches, and one LanceDB table.

A cache named NAME under a prefix has the objects of its log, NAME.log/..., and the table
NAME.lance. The store works as the one on disk (`memora.stores.disk.store`), except where a bucket
differs: objects cannot be appended to, and there are no locks.

Writes: records of a process are collected into a batch (`_batches`), which is written whole, once,
under a unique name. A `put` joins the next batch and returns when that is in the bucket, or at once
with durability "memory"; threads that write at the same time share a batch. A write that fails is
retried; after `STALE_SECONDS` its batch is given up, except its deletions.

Reads: all vectors and texts are in RAM. A lookup reads the bucket only for a payload that is not
cached. Processes see each other by listing the log, about twice per `max_staleness_seconds`. A
process that could not list it for `STALE_SECONDS` refuses lookups until it has loaded everything
again. There are no leases between processes: each computes its own misses.

Maintenance: numbered head objects, created by conditional writes (If-None-Match), hold the
checkpoint and the name of the owner, which flushes and compacts (`_maintenance`). If the newest
head stays unchanged for a lease, another process takes over. A bucket without conditional writes is
refused.

Crashes: once `put` has returned (with a durability other than "memory"), its entry is in the
bucket. A crash loses at most batches that were not written yet. Work on the table that no head
names is undone by the next owner.

A store cannot be used in a process forked after it was opened: its client threads do not exist
there.
"""

from __future__ import annotations

import os
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from memora.errors import StoreError, StorePathError
from memora.stores.bucket._batches import GRACE_SECONDS, STALE_SECONDS, Batch, BatchLog, BatchWriter
from memora.stores.bucket._client import Bucket
from memora.stores.bucket._maintenance import BucketMaintenance, BucketTable, open_if_there
from memora.stores.bucket._view import BucketView
from memora.stores.disk import _guards
from memora.stores.disk._identity import TableIdentity, identity_of
from memora.stores.disk._lance import connect, faults
from memora.stores.disk.store import LanceStore
from memora.stores.memtable import Location

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from memora.model import Content, Entry, Match
    from memora.protocols import Vector
    from memora.stores._settings import TableSettings
    from memora.stores.disk._table import EntryTable

_LOAD_ATTEMPTS = 3

T = TypeVar("T")


class ObjectStore(LanceStore):
    """A table and its log under a prefix of a bucket.

    Args:
        uri: `s3://`, `gs://` or `az://`, a bucket and a prefix.
        settings: The settings.
        options: See the setting `storage_options`.

    Raises:
        MissingExtraError: The client library is not installed.
        ConfigError: The URI or an option is wrong.
        StorePathError: The bucket does not exist, or the credentials are refused.
        StoreError: The bucket cannot be reached, or ignores conditional writes.
        StoreFormatError: The table is not Memora's, or of another format.
        ModelMismatchError: Another embedder made the table's vectors.
    """

    _in_children = False
    _view: BucketView
    _table: BucketTable | None

    def __init__(
        self, uri: str, settings: TableSettings, *, options: Mapping[str, str] | None = None
    ) -> None:
        _guards.check_process()
        bucket = Bucket(uri, options or {})
        self._log = BatchLog(bucket, f"{settings.table_name}.log")
        self._member_name = f"{os.getpid()}-{os.urandom(4).hex()}"
        self._forked = False
        self._log.batches()  # fails here if the bucket does not exist or access is denied
        if settings.keep:
            self._log.probe(self._member_name)
        identity = TableIdentity(settings.model, settings.dimension)
        table = BucketTable(self._log, settings.table_name, identity, create=settings.create)
        self._view = BucketView(self._log, settings.dimension, settings.view)
        self._flights = self._reserve = None
        # Two listings per staleness period, as each costs money; a request takes the other half.
        self._begin(table, settings, min(settings.max_staleness_seconds, GRACE_SECONDS / 4) / 2)

    def reinit_after_fork(self) -> None:
        """Create the locks. A forked child cannot use the clients: it lacks their threads."""
        self._reinit_locks()
        if self._opened and not self._closed:
            _guards.leave_to_parent(
                self._member, self._maintenance, self._writer, self._table, self._log, self._view
            )
            self._member = self._maintenance = self._table = None
            self._forked = True

    def get(self, key: bytes, /, *, now: float) -> tuple[Entry, Content] | None:
        self._check_reached()
        return self._read_again(lambda: super(ObjectStore, self).get(key, now=now))

    def fetch(self, key: bytes, /, *, now: float) -> tuple[Entry, Content, Vector | None] | None:
        self._check_reached()
        return self._read_again(lambda: super(ObjectStore, self).fetch(key, now=now))

    def get_in_memory(
        self, key: bytes, /, *, now: float
    ) -> tuple[Entry, Content] | Literal[False] | None:
        self._check()
        return None if self._view.unreached else super().get_in_memory(key, now=now)

    def peek(self, key: bytes, /, *, now: float) -> Entry | None:
        self._check_reached()
        return super().peek(key, now=now)

    def search(
        self, vector: Vector, /, *, context: str, k: int, now: float, since: float = -float("inf")
    ) -> list[Match]:
        self._check_reached()
        return super().search(vector, context=context, k=k, now=now, since=since)

    def check(self) -> None:
        self._check_reached()
        for fault in list(self._failing.values()):
            raise StoreError(f"in the background: {fault}") from fault

    # No leases: each process computes its own misses, so this is not a `SharedStore`.
    try_lock = None  # type: ignore[assignment]

    def create_index(self, **options: Any) -> bool:
        """Return False: lookups are answered from RAM."""
        self._check()
        del options
        return False

    def index_stats(self) -> dict[str, Any]:
        self._check()
        return {"has_index": False} | self._own_stats()

    def _check(self) -> None:
        if self._forked and not self._closed:
            raise StoreError(
                "a store in a bucket cannot be used in a process that was forked after it was "
                "opened: open the cache in the child, or start workers by spawn or forkserver"
            )
        super()._check()

    def _check_reached(self) -> None:
        """Raise StoreError if the view may be too old to answer from."""
        self._check()
        if self._view.unreached:
            raise StoreError(
                f"{self._log.bucket.uri} has not been reached for {STALE_SECONDS:.0f} s, or has "
                "not been loaded again since"
            )

    def _read_again(self, read: Callable[[], T]) -> T:
        """Read; if a batch is gone, its entries have moved: apply the log and read again."""
        try:
            return read()
        except StoreError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
        with faults("get"):
            self._view.read()
        try:
            return read()
        except StoreError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                self._view.lost = True  # deleted by another process: load again
            raise

    def _join(self) -> Any:
        self._writer: Any = BatchWriter(self._log, self._member_name)
        self._deletions: Any = self._writer
        if self._table is not None and self._settings.keep:
            self._maintenance = BucketMaintenance(
                self._view,
                self._table,
                name=self._member_name,
                move=self._move,
                damaged=self._quarantine,
                clock=self._clock,
            )
        self._member: Any = _Member()
        return self._member

    def _load_view(self, table: EntryTable) -> BucketView:
        self._log.mine.clear()  # all are written, and are read like any other batch
        self._writer.gave_up = False
        for attempt in range(_LOAD_ATTEMPTS):
            try:
                self._log.batches()
                return self._view.load(table)
            except FileNotFoundError:  # deleted by the owner since it was listed
                if attempt + 1 == _LOAD_ATTEMPTS:
                    raise
        raise AssertionError

    def _follow(self) -> float | None:
        """Write held-back records, log uses, renew the lease, and read new batches."""
        self._check()
        with ExitStack() as steps:  # each step runs even if another fails
            steps.callback(self._read_log)
            # Without the lock: other records may join the next batch.
            steps.callback(self._writer.write_out)
            if isinstance(self._maintenance, BucketMaintenance):
                steps.callback(self._maintenance.renew)
            with self._writing:
                self._write_due_uses()
        return None

    def _read_log(self) -> None:
        self._view.lost |= self._writer.gave_up
        super()._read_log()

    def _write_uses(self) -> None:
        with suppress(StoreError):  # too many bytes wait already: logged next time
            super()._write_uses()

    def _search_table(self, *args: Any) -> list[tuple[bytes, int]]:
        """Return nothing: entries that are still being loaded are not found yet."""
        del args
        return []

    def _append(self, records: list[bytes], writer: Any = None) -> tuple[int, list[int]]:
        del writer  # deletions go to the same batch
        batch, offsets = self._writer.append(records)
        return self._add(batch), offsets

    def _add(self, batch: Batch) -> int:
        with self._view.lock:
            number = self._view.numbers.get(batch.name)
            return self._view.add_segment(batch) if number is None else number

    def _sync(self, appended: int) -> None:
        if self._settings.durability != "memory":
            self._writer.sync(appended)

    def _move(self, records: list[tuple[int, int, bytes]]) -> None:
        batch = self._writer.write_copies([raw for _, _, raw in records])
        number, view, offset = self._add(batch), self._view, batch.position
        with view.lock:
            for slot, seq, raw in records:
                if view.hot.holds(slot, seq):
                    view.hot.move(slot, Location(number, offset, len(raw)))
                offset += len(raw)
            batch.position = offset


class _Member:
    """Null membership: no list of the processes that have a bucket open exists or is needed."""

    def leave(self) -> None:
        """Do nothing."""


def probe(uri: str, options: Mapping[str, str], name: str) -> None:
    """Write an object beside those of a table, as an owner does, and remove it.

    Raises:
        StoreError: The credentials do not allow it, or the bucket ignores conditional writes.
    """
    BatchLog(Bucket(uri, options), f"{name}.log").probe(f"{os.getpid()}-{os.urandom(4).hex()}")


def read_identity(uri: str, options: Mapping[str, str], name: str) -> TableIdentity:
    """Return the embedder and the layout of an existing table.

    Raises:
        StorePathError: There is no such table.
        StoreFormatError: It is not Memora's.
    """
    bucket = Bucket(uri, options)
    bucket.list(f"{name}.log")
    where = f"table {name!r} in {bucket.uri!r}"
    with faults(f"open {where}"):
        table = open_if_there(connect(bucket.uri, storage_options=bucket.lance_options), name)
        if table is None:
            raise StorePathError(f"there is no {where}")
        return identity_of(table, where)
