"""The log of a store in a bucket: objects that are never changed after they are written.

A batch is a segment that is written once, whole, under a unique name. Two writers therefore cannot
conflict, and a record is acknowledged once a single PUT has succeeded. Names follow causality: a
process that has seen a batch gives its next one a later name. The data that does change, the
checkpoint and the owner, is in the newest head. Heads are numbered objects, each created only if no
object of its number exists, so that of several processes that write the next head exactly one
succeeds.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cachetools import LRUCache

from memora.errors import StoreError
from memora.stores.disk import _records
from memora.stores.disk._journal import MAGIC, Checkpoint, Segment, checkpoint_of, said_of
from memora.stores.disk._usage import USES, KeptUses, pack_uses, unpack_uses

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from memora.stores.bucket._client import Bucket

GRACE_SECONDS = 120.0
"""How long a dead batch is kept for processes that do not know yet that it is dead."""
STALE_SECONDS = GRACE_SECONDS / 2
"""A process that has not listed the log for this long may have missed a batch that came and went:
it answers nothing, and loads again. A batch that could not be written for this long is given up: it
may have arrived nevertheless, and have been deleted since because its entries were withdrawn."""

_BATCH_BYTES = 8 * 1024 * 1024  # size from which a batch takes no more records
# The most bytes of records that wait to be written; beyond, `append` fails until the bucket accepts
# some.
_PENDING_BYTES = 64 * 1024 * 1024
# Of batches cached in RAM: the owner reads new ones again when it flushes.
_RECENT_BYTES = 16 * 1024 * 1024
_COPIES = "-copies.log"  # name suffix of batches that hold only copies
_HEADS = 3  # heads that are kept: another process may be about to read an older one


@dataclass(frozen=True, slots=True)
class Head:
    """A head: the newest one names the owner, and what the table holds."""

    number: int
    owner: str
    """Name of the member that is the owner; empty if there is none."""
    version: int
    """Version of the table that the checkpoint describes. Later versions are unfinished work."""
    checkpoint: Checkpoint
    token: str
    """Random identity of the write."""


class BatchLog:
    """The objects of one log.

    Args:
        bucket: The bucket.
        folder: Name prefix of the objects.
    """

    def __init__(self, bucket: Bucket, folder: str) -> None:
        self.bucket, self.folder = bucket, folder
        self.recent: LRUCache[str, bytes] = LRUCache(_RECENT_BYTES, len)
        self.lock = threading.Lock()  # guards `recent` and the next two
        self.mine: set[str] = set()
        """Batches that this process adds to its view itself."""
        self.newest_name = 0
        """The highest time in a batch name seen so far."""
        self.head_number = 0
        """Number of the newest head listed."""
        self.head_since = time.monotonic()
        """When that head was first listed, in monotonic seconds."""
        self.head: Head | None = None
        """The newest head that was read."""
        self._old_heads: list[int] = []
        self.listed = set[str]()
        """The batches found by the last listing."""

    def path(self, name: str) -> str:
        """Return an object's name within the bucket."""
        return f"{self.folder}/{name}"

    def probe(self, member: str) -> None:
        """Check for conditional writes: without them, two processes could be owner at once.

        Raises:
            StoreError: It overwrites an object that may only be created, or takes no write at all.
        """
        name = self.path(f"probe-{member}")
        try:
            self.bucket.create(name, b"1")
            ignored = self.bucket.create(name, b"2")
        except StoreError as error:
            if "501 " not in str(error):
                raise
            ignored = True  # the service says that it has none
        self.bucket.delete([name])
        if ignored:
            raise StoreError(
                f"{self.bucket.uri} has no conditional writes (If-None-Match: *), so two processes "
                "could maintain one table and lose entries; use a service that has them, as "
                "Amazon S3, Google Cloud Storage, Azure Blob Storage and newer versions of others"
            )

    def batches(self) -> dict[str, int]:
        """Return the names and sizes of the batches; note the newest head."""
        found = self.bucket.list(self.folder)
        heads = [int(name[5:17]) for name in found if name.startswith("head-")]
        number = max(heads, default=0)
        self._old_heads = [old for old in heads if old <= number - _HEADS]
        if number > self.head_number:
            self.head_number, self.head_since = number, time.monotonic()
        batches = {name: size for name, size in found.items() if name.endswith(".log")}
        self.listed = set(batches)
        with self.lock:
            for name in batches:
                self.newest_name = max(self.newest_name, _time_of(name))
        return batches

    def new_name(self, member: str, *, copies: bool = False) -> str:
        """Return a name later than all seen; this process adds the batch to its view itself."""
        with self.lock:
            self.newest_name = max(time.time_ns(), self.newest_name + 1)
            name = f"{self.newest_name:016x}-{member}{_COPIES if copies else '.log'}"
            self.mine.add(name)
            return name

    def read_head(self) -> Head | None:
        """Return the newest head; None if there is none or it is unreadable.

        Raises:
            StoreError: The bucket cannot be reached.
        """
        while self.head_number and (self.head is None or self.head.number < self.head_number):
            number = self.head_number
            try:
                self.head = _head_of(number, self.bucket.get(self.path(_head_name(number))))
            except FileNotFoundError:  # a newer head has been written meanwhile
                self.batches()
                if self.head_number == number:
                    raise StoreError(f"{self.path(_head_name(number))} cannot be read") from None
            if self.head is None:
                break
        return self.head

    def write_head(
        self, owner: str, version: int, checkpoint: Checkpoint, *, after: int
    ) -> int | None:
        """Write the head that follows another; return its number, None if another process did.

        Args:
            owner: See `Head`.
            version: See `Head`.
            checkpoint: See `Head`.
            after: Number of the previous head, which has to be the newest: one that this process
                wrote, or one from which it takes over.

        Raises:
            StoreError: The head may have been written, or not.
        """
        head = Head(after + 1, owner, version, checkpoint, uuid.uuid4().hex)
        name = self.path(_head_name(head.number))
        data = json.dumps(
            {"owner": owner, "version": version, "token": head.token}
            | {"checkpoint": said_of(checkpoint)}
        ).encode()
        if not self.bucket.create(name, data):
            found = None
            with suppress(FileNotFoundError):
                found = _head_of(head.number, self.bucket.get(name))
            if found is None or found.owner != owner:
                return None
            if found.token != head.token:  # an earlier write of this process that was not confirmed
                return self.write_head(owner, version, checkpoint, after=head.number)
        # A process that stood still may have created an old number again, after its object was
        # deleted.
        self.batches()
        if self.head_number != head.number:
            return None
        self.head = head
        self.bucket.delete([self.path(_head_name(old)) for old in self._old_heads])
        return head.number

    def read_uses(self) -> KeptUses:
        """Return the usage of entries as last saved."""
        try:
            return unpack_uses(self.bucket.get(self.path(USES)))
        except FileNotFoundError:
            return KeptUses({}, {})

    def write_uses(self, kept: KeptUses) -> int:
        """Save the usage of entries; return the size in bytes."""
        data = pack_uses(kept)
        self.bucket.put(self.path(USES), data)
        return len(data)


class Batch(Segment):
    """One batch: read from the bucket when needed, or about to be written."""

    def __init__(self, log: BatchLog, name: str, size: int = len(MAGIC)) -> None:
        self.name = name
        self.position = len(MAGIC)
        self.own = False
        self.pending: dict[int, bytes] = {}
        self.written = size
        self.complete_since: float | None = None
        self.made_at = time.monotonic()
        self.deletes = False
        """Whether it was seen to hold records other than entries."""
        self.vanished = self.broken = False
        self.damaged_at: int | None = None
        self.searched = 0
        self.upto = 0
        """The writer's `appended` up to the end of this batch."""
        self.copies = name.endswith(_COPIES)
        """Whether its records are copies, written by the owner so that other batches can be
        deleted.
        """
        self._log, self._size = log, size

    def size(self) -> int:
        return self._size

    def add(self, record: bytes) -> int:
        """Add a record before the batch is written; return its offset."""
        offset = self._size
        self.pending[offset] = record
        self._size += len(record)
        return offset

    def write(self) -> None:
        """Write the batch; may be repeated."""
        data = b"".join((MAGIC, *self.pending.values()))
        self._log.bucket.put(self._log.path(self.name), data)
        self._keep(data)
        self.written = len(data)
        self.pending = {}

    def read(self, offset: int, length: int) -> bytes:
        if (pending := self.pending.get(offset)) is not None:
            return pending[:length]
        with self._log.lock:
            whole = self._log.recent.get(self.name)
        if whole is not None:
            return whole[offset : offset + length]
        return self._log.bucket.get(self._log.path(self.name), offset, length)

    def whole(self) -> bytes:
        """Return all bytes of the batch."""
        with self._log.lock:
            whole = self._log.recent.get(self.name)
        if whole is None:
            whole = self._log.bucket.get(self._log.path(self.name))
            self._keep(whole)
        return whole

    def _keep(self, whole: bytes) -> None:
        if len(whole) <= self._log.recent.maxsize // 4:
            with self._log.lock:
                self._log.recent[self.name] = whole

    def records(self, limit: int) -> Iterator[tuple[int, int, _records.Record]]:
        del limit
        data = memoryview(self.whole())
        at = self.position
        while data[: len(MAGIC)] == MAGIC and (length := _records.length_at(data, at)) is not None:
            record = _records.unpack(data[at : at + length])
            if record is None:
                return
            yield at, length, record
            at += length

    def written_at(self) -> int:
        return _time_of(self.name) + int(1e9 * GRACE_SECONDS)

    def sync(self) -> None:
        """Do nothing: a batch is durable once written."""


class BatchWriter:
    """Groups the records of one process into batches, and writes one batch at a time.

    Threads that wait while a batch is being written share the next one.
    """

    gave_up = False
    """Whether records in this process's view were given up and never written."""
    pending_bytes = 0
    """Always 0: nothing is acknowledged before it is in the bucket."""

    def __init__(self, log: BatchLog, member: str) -> None:
        self._log, self._member = log, member
        self._changed = threading.Condition()
        self._open: Batch | None = None
        self._sealed: deque[Batch] = deque()
        self.appended = 0
        """Bytes of all records; after `append`, the target for `sync`."""
        self._written = 0
        self._busy = False
        self._fault: StoreError | None = None  # the last one
        self._lost: deque[tuple[int, int]] = deque(maxlen=1000)  # given-up ranges: from, up to

    def append(self, records: Sequence[bytes], *, always: bool = False) -> tuple[Batch, list[int]]:
        """Add records to the next batch; return the batch and their offsets.

        Raises:
            StoreError: Too many bytes wait to be written.
        """
        size = sum(map(len, records))
        with self._changed:
            waiting = self.appended - self._written
            if waiting and waiting + size > _PENDING_BYTES and not always:
                raise StoreError(f"{waiting} bytes wait to be written to {self._log.bucket.uri}")
            batch = self._open
            if batch is not None and batch.pending and batch.size() + size > _BATCH_BYTES:
                self._seal()
                batch = None
            if batch is None:
                batch = self._open = self._new()
            offsets = [batch.add(record) for record in records]
            self.appended += size
            batch.upto = self.appended
        return batch, offsets

    def sync(self, target: int) -> None:
        """Wait until all records up to a target are in the bucket.

        Raises:
            StoreError: The bucket cannot be reached, or refuses; the write is retried later for a
                while.
        """
        self._write_up_to(target)
        with self._changed:
            if any(start < target <= end for start, end in self._lost):
                raise StoreError(
                    f"{self._log.bucket.uri} has not taken it within {STALE_SECONDS:.0f} s, and it "
                    "has been dropped"
                )

    def _write_up_to(self, target: int) -> None:
        with self._changed:
            known = self._fault
            while self._busy and self._written < target:
                self._changed.wait()
                fault = self._fault
                if fault is not None and fault is not known and self._written < target:
                    raise StoreError(str(fault)) from fault
            if self._written >= target:
                return
            self._busy = True
        try:
            while self._written < target:
                with self._changed:
                    if not self._sealed:
                        self._seal()
                    batch = self._sealed[0]
                late = time.monotonic() - batch.made_at > STALE_SECONDS
                if not late:
                    batch.write()
                with self._changed:
                    self._sealed.popleft()
                    if late:
                        self._give_up(batch)
                    self._written, self._fault = batch.upto, None
                    self._changed.notify_all()
        except StoreError as error:
            with self._changed:
                self._fault = error
            raise
        finally:
            with self._changed:
                self._busy = False
                self._changed.notify_all()

    def write_copies(self, records: Sequence[bytes]) -> Batch:
        """Write records again, as one batch.

        Raises:
            StoreError: The batch may have been written, or not.
        """
        batch = self._new(copies=True)
        for record in records:
            batch.add(record)
        try:
            batch.write()
        except StoreError:
            self._log.mine.discard(batch.name)  # if it arrived, it is read like any other batch
            raise
        return batch

    def write_out(self) -> None:
        """Write all that waits; raises StoreError as `sync` does."""
        self._write_up_to(self.appended)

    def close(self) -> None:
        """Write all that waits; nothing where the bucket has refused the last time it was tried."""
        if self._fault is None:
            self.write_out()

    def _give_up(self, batch: Batch) -> None:
        """Drop a batch except its deletions: these have stamps, so they may be logged late."""
        self._lost.append((self._written, batch.upto))
        self.gave_up = True
        found = [(raw, _records.unpack(raw)) for raw in batch.pending.values()]
        kinds = {_records.DELETE, _records.OUTDATE}
        if kept := [raw for raw, record in found if record is not None and record.kind in kinds]:
            self.append(kept, always=True)

    def _new(self, *, copies: bool = False) -> Batch:
        batch = Batch(self._log, self._log.new_name(self._member, copies=copies))
        batch.own = True
        return batch

    def _seal(self) -> None:
        if self._open is not None:
            self._sealed.append(self._open)
            self._open = None


def _head_name(number: int) -> str:
    return f"head-{number:012d}.json"


def _head_of(number: int, data: bytes) -> Head | None:
    try:
        found: Any = json.loads(data)
        checkpoint = checkpoint_of(found["checkpoint"])
        if checkpoint is None:
            return None
        version, owner, token = int(found["version"]), str(found["owner"]), str(found["token"])
        return Head(number, owner, version, checkpoint, token)
    except (ValueError, KeyError, TypeError):
        return None


def _time_of(name: str) -> int:
    try:
        return int(name[:16], 16)
    except ValueError:
        return 0
