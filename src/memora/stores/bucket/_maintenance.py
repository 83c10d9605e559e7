"""Maintenance of a store in a bucket, done by one process at a time.

The owner is the process that wrote the newest head (see `_batches`), until another process writes
the next one. No process can be told to stop, and clocks are not shared: another process takes over
if it has seen the same head for `LEASE_SECONDS` by its own clock. A former owner that stood still
may thus work for a moment beside its successor. That does no harm: it cannot write a head any more,
and its commits to the table are undone, as the head names the version that counts.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from datetime import timedelta
from itertools import groupby
from math import ceil
from typing import TYPE_CHECKING, Any

import filelock

from memora.errors import StoreError, StorePathError
from memora.stores.bucket._batches import GRACE_SECONDS, Batch, BatchLog
from memora.stores.disk._checkpoint import Checkpoint
from memora.stores.disk._lance import connect, faults
from memora.stores.disk._maintenance import Maintenance
from memora.stores.disk._table import DELETE_ROWS, EntryTable, Row, _create
from memora.stores.disk._view import LogView

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from memora.stores.disk._identity import TableIdentity
    from memora.stores.disk._usage import KeptUses
    from memora.stores.memtable import Location

LEASE_SECONDS = 30.0
"""How long a head must stay unchanged before another process may become the owner."""

# As on disk: the share of the log that may be dead, the least dead bytes that are worth a merge,
# the bytes that each object counts beside its size. Then the number of commits or small fragments
# that makes a compaction due.
_DEAD_SHARE = 0.3
_DEAD_BYTES = 4 * 1024 * 1024
_OBJECT_BYTES = 256 * 1024
_COMPACT_AT = 64
_MERGE_BYTES = 8 * 1024 * 1024  # merged into one batch
_COMPACTION_COMMITS = 2  # commits that LanceDB makes for one compaction
_NEVER = timedelta(days=36_500)
# How long superseded versions of the table are kept for processes that read them.
_KEEP = timedelta(minutes=10)


class BucketTable(EntryTable):
    """The table of a store in a bucket.

    Raises:
        StorePathError: There is no such table, and `create` is false.
        StoreFormatError: The table is not Memora's, or of another format.
        ModelMismatchError: Another embedder made the table's vectors.
    """

    def __init__(self, log: BatchLog, name: str, identity: TableIdentity, *, create: bool) -> None:
        self._log = log
        where = f"table {name!r} in {log.bucket.uri!r}"
        with faults(f"open {where}"):
            database = connect(log.bucket.uri, storage_options=log.bucket.lance_options)
            if (table := open_if_there(database, name)) is None:
                if not create:
                    raise StorePathError(f"there is no {where}")
                with suppress(ValueError):  # another process has just created it
                    _create(database, name, identity)
                table = database.open_table(name)
            self._begin(database, name, where, identity)
            self._source = database.open_table(name)
        self.version = int(table.version)
        """The version that this process builds on: later commits by others are undone."""
        self.compacted = False
        """Whether the table was compacted since `clear_up`."""
        self._commits = 0  # since the last compaction

    def scan(self) -> Any:
        # Read the version that the head names: later ones may be unfinished work.
        with faults("scan"):
            self._source.checkout_latest()
            if self._log.head is not None:
                # Deleted by an owner that was killed before it wrote the next head.
                with suppress(ValueError):
                    self._source.checkout(self._log.head.version)
        return super().scan()

    def write(self, rows: Sequence[Row], deleted: Sequence[bytes]) -> None:
        if not rows and not deleted:
            return
        self._undo_others()
        upgrades = self.needs_upgrade
        super().write(rows, deleted)
        self._advance(upgrades + bool(rows) + ceil(len(deleted) / DELETE_ROWS))

    def maintain(self, *, alone: bool) -> None:
        if self._changed and self._compaction_is_due():
            self.compact(alone=alone)
        self._changed = False

    def compact(self, *, alone: bool) -> None:
        del alone  # unknown in a bucket
        self._undo_others()
        with faults("compact"), self._lock:
            self._table.optimize(cleanup_older_than=_NEVER)
        self._advance(_COMPACTION_COMMITS)
        self._changed, self.compacted, self._commits = False, True, 0

    def clear_up(self) -> None:
        """Delete superseded versions, once the head names the newest."""
        self.compacted = False
        with faults("clear up"), self._lock:
            self._table.optimize(cleanup_older_than=_KEEP)
        self._advance(_COMPACTION_COMMITS)

    def check(self) -> None:
        """Do nothing: the log in the same bucket is listed all the time."""

    def forget_synced(self) -> None:
        """Do nothing: a committed write is durable."""

    def _sync(self) -> None:
        """Do nothing: a committed write is durable."""

    def _compaction_is_due(self) -> bool:
        with faults("maintain"):
            small = int(self._table.stats()["fragment_stats"]["num_small_fragments"])
        return max(small, self._commits) >= _COMPACT_AT

    def _undo_others(self) -> None:
        with faults("write"), self._lock:
            self._table.checkout_latest()
            if self._table.version != self.version:
                with suppress(ValueError):  # deleted: the newest version includes it
                    self._table.checkout(self.version)
                    self._table.restore()
                self._table.checkout_latest()
                self.version = int(self._table.version)
            self._schema = self._table.schema
            self.needs_upgrade = "checksum" not in self._schema.names

    def _advance(self, commits: int) -> None:
        """Count this process's commits; raise StoreError if others have committed in between."""
        self._commits += commits
        with faults("write"):
            version = int(self._table.version)
        if version > self.version + commits:
            raise StoreError(f"another process has written {self.where}; it is done again")
        self.version = version


def open_if_there(database: Any, name: str) -> Any:
    """Return a table, or None if there is none of this name."""
    try:
        return database.open_table(name)
    except ValueError as error:
        if "not found" not in str(error):
            raise
        return None


class HeadLock:
    """The owner's lock: held by the process that wrote the newest head."""

    def __init__(self, log: BatchLog, table: BucketTable, name: str) -> None:
        self._log, self._table, self._name = log, table, name
        self.renewed = -LEASE_SECONDS
        """When this process last wrote the head, in monotonic seconds."""
        self._held = False
        self._number = 0  # number of that head
        self._writing = threading.Lock()

    @property
    def is_locked(self) -> bool:
        """Whether this process holds the lock, and no other can have taken over."""
        return self._held and time.monotonic() - self.renewed < LEASE_SECONDS

    def acquire(self) -> None:
        """Write the next head if the newest has no owner, is this process's, or is a lease old.

        Raises:
            filelock.Timeout: Another process is the owner.
            StoreError: The bucket cannot be reached.
        """
        log = self._log
        head = log.read_head()
        free = head is None or head.owner in {"", self._name}
        if not free and time.monotonic() - log.head_since < LEASE_SECONDS:
            raise filelock.Timeout(log.folder)
        if head is not None:
            self._table.version = head.version
        self._number = log.head_number if head is None else head.number
        if not self.write(Checkpoint({}, {}, {}) if head is None else head.checkpoint):
            raise filelock.Timeout(log.folder)

    def write(self, checkpoint: Checkpoint) -> bool:
        """Write the head after this process's last; False if another process has."""
        with self._writing:
            return self._write(self._table.version, checkpoint)

    def renew(self, now: float) -> None:
        """Write the last head again when a third of the lease has passed.

        Called in parallel to the maintenance, as one part of it may take longer than a lease.

        Args:
            now: Time by the clock of entries.
        """
        with self._writing:
            due = time.monotonic() - self.renewed > LEASE_SECONDS / 3
            if due and self.is_locked and (head := self._log.head) is not None:
                self._write(head.version, head.checkpoint._replace(now=now))

    def release(self) -> None:
        """Write a head without an owner, so that another process can take over at once."""
        with self._writing:
            log = self._log
            if self.is_locked and (head := log.head) is not None:
                self._held = False
                with suppress(StoreError):  # others then wait until the lease ends
                    log.write_head("", head.version, head.checkpoint, after=self._number)

    def _write(self, version: int, checkpoint: Checkpoint) -> bool:
        began, self._held = time.monotonic(), False
        number = self._log.write_head(self._name, version, checkpoint, after=self._number)
        if number is not None:
            self._number, self.renewed, self._held = number, began, True
        return self._held


class BucketMaintenance(Maintenance):
    """The work of the owner of a store in a bucket."""

    view: Any
    _table: BucketTable

    def _make_lock(self) -> HeadLock:
        self._log: BatchLog = self.view.log
        self._head_lock = HeadLock(self._log, self._table, self._name)
        self._dead_since: dict[str, float] = {}
        return self._head_lock

    def refresh(self) -> None:
        head = self._log.read_head()
        if head is not None and head.number != self._read_at:
            self._read_at = head.number
            self.view.checkpoint = head.checkpoint

    def complete_segments(self, *, again: bool = False) -> None:
        """Mark batches that have been read as complete: no record can join them."""
        del again
        now = time.monotonic()
        with self.view.lock:
            for segment in self.view.segments.values():
                taken_in = segment.written >= segment.size() and segment.position >= segment.end
                if taken_in and segment.complete_since is None:
                    segment.complete_since = now

    def renew(self) -> None:
        """Renew the lease."""
        self._head_lock.renew(self._clock())

    def compact(self) -> None:
        super().compact()
        self._clear_up()

    def _compact(self) -> None:
        super()._compact()
        self._clear_up()

    def _clear_up(self) -> None:
        if self._table.compacted:
            self._save(self.view.checkpoint)
            self._table.clear_up()

    def _write_uses(self, kept: KeptUses) -> int:
        return self._log.write_uses(kept)

    def _save(self, checkpoint: Checkpoint) -> None:
        checkpoint = checkpoint._replace(now=self._clock())
        if not self._head_lock.write(checkpoint):
            raise StoreError("this process was suspended, and another one maintains the table now")
        self._read_at = self._log.head_number
        self.view.checkpoint = checkpoint

    def _rows(self, fresh: Iterable[tuple[bytes, int, Location]]) -> Iterator[Row]:
        # One request per batch, not per record.
        for number, rows in groupby(fresh, key=lambda row: row[2].segment):
            if isinstance(batch := self.view.segments.get(number), Batch):
                batch.whole()
            yield from super()._rows(rows)

    def _move_living(self) -> None:
        """Merge small or mostly dead batches into one, so that they can be deleted."""
        moving: list[tuple[int, int, bytes]] = []
        for number in self._sources():
            with self.view.lock:
                batch, slots = self.view.segments[number], self.view.hot.since(number, 0)
            whole = batch.whole()  # one request per batch, not per record

            def record(offset: int, length: int, whole: bytes = whole) -> bytes:
                return whole[offset : offset + length]

            moving += self._living(number, slots, record)
        if moving:
            self._move(moving)

    def _sources(self) -> list[int]:
        view = self.view
        with view.lock:
            live = dict(view.hot.live)
            sizes = {
                number: segment.size() + _OBJECT_BYTES
                for number, segment in view.segments.items()
                if number in live and segment.complete_since is not None
            }
        total = sum(sizes.values())
        dead = total - sum(live[number] for number in sizes)
        if dead < max(_DEAD_BYTES, _DEAD_SHARE * total):
            return []
        chosen: list[int] = []
        for number in sorted(sizes, key=lambda number: live[number] / sizes[number]):
            moved = sum(live[one] for one in chosen) + live[number]
            mostly_alive = live[number] > (1 - _DEAD_SHARE) * sizes[number]
            if mostly_alive or (chosen and moved > _MERGE_BYTES):
                break
            chosen.append(number)
        return chosen

    def _clear_away(self) -> None:
        """Delete batches that hold no live record and nothing that is not in the table."""
        view, checkpoint, now = self.view, self.view.checkpoint, time.monotonic()
        # The present positions: a late batch arrives before the grace period is over.
        done, settled = checkpoint.done, LogView.settled(view)
        with view.lock:
            dead = {
                segment.name
                for number, segment in view.segments.items()
                if segment.complete_since is not None
                and number not in view.hot.live
                and min(done.get(segment.name, 0), settled.get(segment.name, 0)) >= segment.end
            }
            there = {one.name for one in view.segments.values() if not one.is_deleted}
        self._dead_since = {name: self._dead_since.get(name, now) for name in dead & there}
        names = {name for name, since in self._dead_since.items() if since <= now - GRACE_SECONDS}
        # Delete also the batches that an owner listed before it was killed; drop deleted ones.
        left = checkpoint.dropped.keys() & self._log.listed
        if names or left != checkpoint.dropped.keys():
            self._save(
                Checkpoint(
                    {name: at for name, at in checkpoint.done.items() if name not in names},
                    {name: at for name, at in checkpoint.settled.items() if name not in names},
                    dict.fromkeys(left | names, 0),
                )
            )
        self._log.bucket.delete([self._log.path(name) for name in left | names])
