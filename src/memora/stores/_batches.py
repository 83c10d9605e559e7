"""The log of a store in a bucket: what every process did, in objects that are never changed.

A batch is a segment that is written once, whole, under a name of its own: no two writers can
conflict, and what was acknowledged needs nothing but one PUT that succeeded. Names are in the order
of causes: whoever has seen a batch gives a later name. What does change, the checkpoint and who
keeps the table, is the newest of the heads: numbered objects, each created where there is none, so
of several that write the next head one does.
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
from memora.stores import _records
from memora.stores._journal import MAGIC, Checkpoint, Segment, checkpoint_of, said_of
from memora.stores._usage import USES, KeptUses, pack_uses, unpack_uses

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from memora.stores._bucket import Bucket

GRACE_SECONDS = 120.0
"""How long a batch is kept that nobody needs any more, for those who have not heard."""
STALE_SECONDS = GRACE_SECONDS / 2
"""Who has not looked for so long has perhaps missed a batch that came and went: it answers nothing,
and loads anew. And what a process could not write for so long it gives up: its batch may have
arrived all the same, and have been deleted since with all that was withdrawn."""

_BATCH_BYTES = 8 * 1024 * 1024  # at which a batch takes no more records
# Records that wait to be written, at most: beyond, nothing is taken until the bucket takes some.
_PENDING_BYTES = 64 * 1024 * 1024
_RECENT_BYTES = 16 * 1024 * 1024  # of batches in RAM: what is new is read by whoever flushes it
_COPIES = "-copies.log"  # how the names of batches end that hold nothing new
_HEADS = 3  # that are kept: somebody may be about to read the last but one


@dataclass(frozen=True, slots=True)
class Head:
    """The newest of these says who keeps the table, and what the table holds."""

    number: int
    owner: str
    """Name of the member; empty: nobody."""
    version: int
    """Of the table that the checkpoint speaks of. Later ones are work that was not finished."""
    checkpoint: Checkpoint
    token: str
    """Tells who wrote it."""


class BatchLog:
    """The objects of one log.

    Args:
        bucket: Where they are.
        folder: Under which name.
    """

    def __init__(self, bucket: Bucket, folder: str) -> None:
        self.bucket, self.folder = bucket, folder
        self.recent: LRUCache[str, bytes] = LRUCache(_RECENT_BYTES, len)
        self.lock = threading.Lock()  # guards `recent` and the next two
        self.mine: set[str] = set()
        """Batches that this process adds to its view itself."""
        self.newest_name = 0
        """The time in the highest name that was seen."""
        self.head_number = 0
        """Of the newest head that was listed."""
        self.head_since = time.monotonic()
        """When that was first seen."""
        self.head: Head | None = None
        """The newest that was read."""
        self._old_heads: list[int] = []
        self.listed = set[str]()
        """The batches that were listed last."""

    def path(self, name: str) -> str:
        """Return the name within the bucket."""
        return f"{self.folder}/{name}"

    def probe(self, member: str) -> None:
        """Refuse a bucket in which two could keep the table at once.

        Raises:
            StoreError: It overwrites what is to be created only where there is nothing; or takes
                no write at all.
        """
        name = self.path(f"probe-{member}")
        try:
            self.bucket.create(name, b"1")
            ignored = self.bucket.create(name, b"2")
        except StoreError as error:
            if "501 " not in str(error):
                raise
            ignored = True  # it says so itself
        self.bucket.delete([name])
        if ignored:
            raise StoreError(
                f"{self.bucket.uri} has no conditional writes (If-None-Match: *), so that two "
                "processes could keep one table and lose entries; use a service that has them, as "
                "Amazon S3, Google Cloud Storage, Azure Blob Storage and newer versions of others"
            )

    def batches(self) -> dict[str, int]:
        """Return the batches that are there, and their sizes; take note of the newest head."""
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
        """Return a name later than all that were seen; the batch is this process's to add."""
        with self.lock:
            self.newest_name = max(time.time_ns(), self.newest_name + 1)
            name = f"{self.newest_name:016x}-{member}{_COPIES if copies else '.log'}"
            self.mine.add(name)
            return name

    def read_head(self) -> Head | None:
        """Return the newest head; None where there is none that can be read.

        Raises:
            StoreError: It cannot be reached.
        """
        while self.head_number and (self.head is None or self.head.number < self.head_number):
            number = self.head_number
            try:
                self.head = _head_of(number, self.bucket.get(self.path(_head_name(number))))
            except FileNotFoundError:  # a newer one has come meanwhile
                self.batches()
                if self.head_number == number:
                    raise StoreError(f"{self.path(_head_name(number))} cannot be read") from None
            if self.head is None:
                break
        return self.head

    def write_head(
        self, owner: str, version: int, checkpoint: Checkpoint, *, after: int
    ) -> int | None:
        """Write the head that follows another; return its number, None where somebody else did.

        Args:
            owner: See `Head`.
            version: See `Head`.
            checkpoint: See `Head`.
            after: Number of the head that this is based on, which has to be the newest: one that
                this process wrote, or one from which it takes over.

        Raises:
            StoreError: It may have been written, or not.
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
            if found.token != head.token:  # this process wrote it, and was not told so
                return self.write_head(owner, version, checkpoint, after=head.number)
        # One that stood still may have created an old number again: it was no longer there.
        self.batches()
        if self.head_number != head.number:
            return None
        self.head = head
        self.bucket.delete([self.path(_head_name(old)) for old in self._old_heads])
        return head.number

    def read_uses(self) -> KeptUses:
        """Return how entries have been used, as it was written last."""
        try:
            return unpack_uses(self.bucket.get(self.path(USES)))
        except FileNotFoundError:
            return KeptUses({}, {})

    def write_uses(self, kept: KeptUses) -> int:
        """Write it; return the size."""
        data = pack_uses(kept)
        self.bucket.put(self.path(USES), data)
        return len(data)


class Batch(Segment):
    """One batch: read from the bucket as needed, or about to be written."""

    def __init__(self, log: BatchLog, name: str, size: int = len(MAGIC)) -> None:
        self.name = name
        self.position = len(MAGIC)
        self.own = False
        self.pending: dict[int, bytes] = {}
        self.written = size
        self.complete_since: float | None = None
        self.made_at = time.monotonic()
        self.deletes = False
        """Whether it was seen to hold more than entries."""
        self.vanished = self.broken = False
        self.damaged_at: int | None = None
        self.searched = 0
        self.upto = 0
        """Bytes that the writer has taken in with this batch and before."""
        self.copies = name.endswith(_COPIES)
        """Whether its records are copies, written by the owner so that others can go."""
        self._log, self._size = log, size

    def size(self) -> int:
        return self._size

    def add(self, record: bytes) -> int:
        """Take in a record before it is written; return its offset."""
        offset = self._size
        self.pending[offset] = record
        self._size += len(record)
        return offset

    def write(self) -> None:
        """Write it, or write it again."""
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
        """Return all of it."""
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
        """Do nothing: what is written is on disks."""


class BatchWriter:
    """Groups the records of one process into batches, and writes one batch at a time.

    Threads that wait while a batch is on its way share the next one.
    """

    gave_up = False
    """Whether something was not written that this process has in its view."""
    pending_bytes = 0
    """Nothing is acknowledged before it is in the bucket."""

    def __init__(self, log: BatchLog, member: str) -> None:
        self._log, self._member = log, member
        self._changed = threading.Condition()
        self._open: Batch | None = None
        self._sealed: deque[Batch] = deque()
        self.appended = 0
        """Bytes of all records; after `append`, what to `sync` up to."""
        self._written = 0
        self._busy = False
        self._fault: StoreError | None = None  # of the last time
        self._lost: deque[tuple[int, int]] = deque(maxlen=1000)  # given up: from, up to

    def append(self, records: Sequence[bytes], *, always: bool = False) -> tuple[Batch, list[int]]:
        """Have records written with the next batch; return it, and their offsets.

        Raises:
            StoreError: Too much waits to be written.
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
        """Return once what was appended up to a target is in the bucket.

        Raises:
            StoreError: The bucket cannot be reached, or refuses; it is tried again for a while.
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
            StoreError: It may have been written, or not.
        """
        batch = self._new(copies=True)
        for record in records:
            batch.add(record)
        try:
            batch.write()
        except StoreError:
            self._log.mine.discard(batch.name)  # if it was, it is anybody's
            raise
        return batch

    def write_out(self) -> None:
        """Write all that waits; raises StoreError as `sync`."""
        self._write_up_to(self.appended)

    def close(self) -> None:
        """Write all that waits; nothing where the bucket has refused the last time it was tried."""
        if self._fault is None:
            self.write_out()

    def _give_up(self, batch: Batch) -> None:
        """Drop a batch, but for what can be done at any time: deletions, up to their stamps."""
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
