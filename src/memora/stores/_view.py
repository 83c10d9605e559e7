"""What one process knows of a store: the table's entries, and every record of the log since.

The newest operation on a key wins, by its stamp, in whatever order the records are read; so all
processes arrive at the same entries.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from math import inf
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
from cachetools import LRUCache

from memora.errors import StoreError
from memora.model import Context
from memora.stores import _records
from memora.stores._journal import MAGIC, Checkpoint, Segment, read_checkpoint
from memora.stores.hot import HotTable, Place

if TYPE_CHECKING:
    from pathlib import Path

    from memora.index import GraphType
    from memora.model import Content
    from memora.protocols import Vector
    from memora.stores._table import EntryTable

_READ_BYTES = 1024 * 1024  # of a segment at once
_APPLY_RECORDS = 32  # while the lock is held: lookups wait no longer than that takes
_REMEMBER_SECONDS = 60.0  # how long a deletion is remembered for records that come late
_LOAD_ATTEMPTS = 5


class Deletion(NamedTuple):
    """What is known of a deleted key."""

    stamp: int
    segment: int
    end: int
    """Where its record ends."""
    at: float
    """When it was read; monotonic seconds."""


class LogView:
    """Entries in RAM, kept current from the log.

    Args:
        folder: Where the segments are.
        dimension: Length of the vectors.
        graph: Type of the vectors in graphs; None leaves vectors out of RAM once they are in the
            table.
        content_bytes: Size of the cache of contents.
    """

    def __init__(
        self, folder: Path, dimension: int, *, graph: GraphType | None, content_bytes: int
    ) -> None:
        self.folder, self.dimension, self.graph = folder, dimension, graph
        self.content_bytes = content_bytes
        self.renew()
        self._clear()

    def renew(self) -> None:
        """Make the locks."""
        self.lock = threading.Lock()  # guards all that is here; no commit is made under it
        self._reading = threading.Lock()  # one reader of the log at a time

    def _clear(self) -> None:
        self.hot = HotTable(self.dimension, exact=self.exact, graph=self.graph or "int8")
        self.segments: list[Segment | None] = []
        self.numbers: dict[str, int] = {}  # name of a segment -> its position in `segments`
        self.deleted: OrderedDict[bytes, Deletion] = OrderedDict()  # the longest known first
        self.contents: LRUCache[int, Content] = LRUCache(self.content_bytes, _size)
        self.checkpoint = Checkpoint({}, {})
        self.complete = False
        """Whether all vectors of the table are in RAM too."""
        self.newest = 0
        """The highest stamp seen."""
        self.read_at = time.monotonic()
        """When the log was last listed."""
        self._base = self.checkpoint  # what was in the table when it was loaded
        self._floor = -1

    def exact(self, slot: int) -> Vector:
        """Return the vector of a slot, from its record."""
        segment, offset, _ = self.hot.place(slot)
        source = self.segments[segment]
        if source is None:
            raise StoreError("the segment is gone")
        length = _records.HEADER_BYTES + 4 * self.dimension
        return _records.vector_of(source.read(offset, length), self.dimension)

    def load(self, table: EntryTable, *, own: list[Segment]) -> None:
        """Begin anew: the table's entries without their vectors, then the log.

        Args:
            table: The table.
            own: Segments of this process, which only it reads ahead of their files.

        Raises:
            StoreError: The log cannot be read.
        """
        for _ in range(_LOAD_ATTEMPTS):
            found = read_checkpoint(self.folder)
            rows = table.scan()
            with self.lock:
                self._clear()
                self.checkpoint = self._base = found or Checkpoint({}, {})
                for segment in own:
                    self._begin(segment)
                self._list()
                self._load_rows(rows)
                if found is None and len(rows):
                    # The checkpoint is lost. What the table does not hold, of the time it covers,
                    # may have been deleted: it is not brought back.
                    self._floor = self.newest
            gone = self.checkpoint.done.keys() - self.numbers.keys()
            self.read()
            for segment in own:
                self._read(self.numbers[segment.name], segment)
            if not gone:
                return
        raise StoreError(f"segments of the log are missing: {', '.join(sorted(gone))}")

    def add_segment(self, segment: Segment) -> int:
        """Know a segment from now on; return its number."""
        number = self.numbers[segment.name] = len(self.segments)
        self.segments.append(segment)
        return number

    def apply(self, record: _records.Record, number: int, offset: int, length: int) -> int | None:
        """Take in one record; return the slot of an entry that is new here."""
        segment = self.segments[number]
        if segment is not None:
            segment.position = offset + length
        stamp, key = record.stamp, record.key
        self.newest = max(self.newest, stamp)
        slot = self.hot.slot(key)
        if record.entry is None:
            known = self.deleted.get(key)
            if known is None or known.stamp <= stamp:
                self.deleted[key] = Deletion(stamp, number, offset + length, time.monotonic())
            if slot is not None and self.hot.stamp(slot) <= stamp:
                self.hot.remove(key)
                self.contents.pop(slot, None)
            return None
        dead = self.deleted.get(key)
        if dead is not None and dead.stamp >= stamp:
            return None
        if slot is None and stamp <= self._floor:
            return None
        moved = slot is not None and self.hot.stamp(slot) == stamp
        fresh = self.hot.put(
            record.entry, record.vector, stamp=stamp, place=Place(number, offset, length)
        )
        if fresh is None or moved:
            return None
        if slot is not None:
            self.contents.pop(slot, None)
        return fresh

    def forget_all(self) -> None:
        """Be empty, and go on from here: where nobody knows any more what has been deleted."""
        with self.lock:
            for slot in self.hot.slots():
                self.hot.remove(self.hot.key(slot))
            self.contents.clear()

    def cache(self, slot: int, content: Content) -> None:
        """Keep a content in RAM, if it is not too large for that."""
        if _size(content) <= self.contents.maxsize // 4:
            self.contents[slot] = content

    def read(self) -> None:
        """Take in what is new in the log. Called by one thread or another, again and again."""
        with self._reading:
            with self.lock:
                self._list()
                segments = list(enumerate(self.segments))
            for number, segment in segments:
                # Its own records a process takes in as it writes them.
                if segment is not None and not segment.own:
                    self._read(number, segment)
            self._forget()

    def snapshot(self) -> dict[str, int]:
        """Return up to where each segment has been taken in."""
        with self.lock:
            return {
                segment.name: min(segment.position, segment.written)
                for segment in self.segments
                if segment is not None
            }

    def _read(self, number: int, segment: Segment) -> None:
        if segment.damaged_at is not None:
            return
        while segment.size() > (before := segment.position):
            batch = []
            for offset, length, record in segment.records(_READ_BYTES):
                batch.append((record, number, offset, length))
                if len(batch) == _APPLY_RECORDS:
                    self._apply_all(batch)
            self._apply_all(batch)
            if segment.position == before:
                return

    def _apply_all(self, batch: list[tuple[_records.Record, int, int, int]]) -> None:
        with self.lock:
            for record, number, offset, length in batch:
                if offset + length > _until(self.segments[number], self._base):
                    self.apply(record, number, offset, length)
                else:
                    self._apply_settling(record, number, offset, length)
        batch.clear()
        time.sleep(0)  # whoever waits for the lock, or for the interpreter

    def _apply_settling(
        self, record: _records.Record, number: int, offset: int, length: int
    ) -> None:
        # Before the checkpoint: entries are in the table, only deletions are to be remembered.
        if record.entry is None:
            self.apply(record, number, offset, length)
        elif (segment := self.segments[number]) is not None:
            segment.position = offset + length

    def _list(self) -> None:
        self.read_at = time.monotonic()
        names = {path.name for path in self.folder.glob("*-*.log")}
        for name in sorted(names - self.numbers.keys()):
            try:
                segment = Segment(self.folder / name)
            except FileNotFoundError:
                continue
            if segment.size() < len(MAGIC):
                continue  # just begun
            if segment.read(0, len(MAGIC)) != MAGIC:
                segment.damaged_at = 0
            self._begin(segment)
        for name in self.numbers.keys() - names:
            number = self.numbers[name]
            gone = self.segments[number]
            # It is read to its end first, deleted or not.
            if gone and gone.size() <= gone.position and not self.hot.live[number]:
                self.segments[number] = None
                del self.numbers[name]

    def _begin(self, segment: Segment) -> None:
        segment.position = self._base.settled.get(segment.name, len(MAGIC))
        self.add_segment(segment)

    def _load_rows(self, rows: pa.Table) -> None:
        if not len(rows):
            return
        self.newest = int(rows.column("stamp")[-1].as_py())
        places = rows.column("segment").combine_chunks().dictionary_encode()
        numbers = []
        for name in places.dictionary.to_pylist():
            number = self.numbers.get(name)
            if number is None:  # deleted by somebody: its entries cannot be read
                number = len(self.segments)
                self.segments.append(None)
            numbers.append(number)
        homes = rows.column("fingerprint").combine_chunks().dictionary_encode()
        first = np.unique(homes.indices.to_numpy(), return_index=True)[1]
        canonical = rows.column("context").take(pa.array(first)).to_pylist()
        self.hot.load(
            keys=[bytes.fromhex(key) for key in rows.column("key").to_pylist()],
            ids=b"".join([bytes.fromhex(text) for text in rows.column("id").to_pylist()]),
            queries=rows.column("query").to_pylist(),
            contexts=[
                Context(text, fingerprint)
                for text, fingerprint in zip(canonical, homes.dictionary.to_pylist(), strict=True)
            ],
            homes=homes.indices.to_numpy().astype(np.int32),
            stamps=rows.column("stamp").to_numpy(),
            created=rows.column("created_at").to_numpy(),
            expires=rows.column("expires_at").to_numpy(),
            segments=np.array(numbers, np.int32)[places.indices.to_numpy()],
            offsets=rows.column("offset").to_numpy(),
            lengths=rows.column("length").to_numpy(),
        )

    def _forget(self) -> None:
        """Let go of deletions that no late record can meet, and that the table reflects."""
        latest = time.monotonic() - _REMEMBER_SECONDS
        with self.lock:
            while self.deleted:
                key, deletion = next(iter(self.deleted.items()))
                done = _until(self.segments[deletion.segment], self.checkpoint)
                if deletion.at > latest or deletion.end > done:
                    return
                del self.deleted[key]


def _until(segment: Segment | None, checkpoint: Checkpoint) -> float:
    return inf if segment is None else checkpoint.done.get(segment.name, 0)


def _size(content: Content) -> int:
    return len(content.payload) + len(content.metadata)
