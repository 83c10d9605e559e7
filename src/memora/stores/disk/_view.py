"""In-memory view of a store in one process: the table's rows plus every later record of the log.

For each key the operation with the highest sequence number wins, in whatever order the records are
read, so that all processes arrive at the same entries.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from cachetools import LRUCache

from memora.errors import CorruptEntryError
from memora.model import Context
from memora.stores.disk import _records
from memora.stores.disk._checkpoint import Checkpoint, read_checkpoint
from memora.stores.disk._journal import MAGIC, Segment, holds_deletions, segment_names
from memora.stores.disk._membership import living_members
from memora.stores.disk._table import Row, checksums, key_of
from memora.stores.disk._usage import read_uses
from memora.stores.memtable import Location, Memtable, Rest, Uses

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from typing_extensions import Self

    from memora.model import Content
    from memora.protocols import Vector
    from memora.stores._settings import ViewSettings
    from memora.stores.disk._table import EntryTable
    from memora.stores.disk._usage import KeptUses

GRACE_SECONDS = 20.0
"""How long a complete segment is kept for processes that may not have read it. A process that has
not read the log for half of that may have missed a segment, and loads again."""

_READ_BYTES = 1024 * 1024  # of a segment per read
_APPLY_RECORDS = 32  # per hold of the lock, which bounds how long a lookup waits
_LOAD_ATTEMPTS = 3
_SEARCHED_BYTES = 4 * 1024 * 1024  # of lost bytes, in which keys are searched
_SEAL_ROWS = 256  # whose records are read per call


class Deletion(NamedTuple):
    """The known facts about a deleted key."""

    seq: int
    segment: str
    end: int
    """Offset of the end of its record."""
    at: float
    """When it was read, in monotonic seconds."""
    location: tuple[str, int] | None
    """Segment and offset of the only record that may have a row in the table; None if unknown."""


class LogView:
    """Entries in RAM, kept current from the log.

    Args:
        folder: Folder of the segments.
        dimension: Length of the vectors.
        settings: The settings.
    """

    remember_seconds = 60.0
    """How long a deletion is remembered for records that are read late."""
    _reads_vectors = True  # of large contexts from the log, so that they need not stay in RAM

    def __init__(self, folder: Path, dimension: int, settings: ViewSettings) -> None:
        self.folder, self.dimension, self._settings = folder, dimension, settings
        self.graph = settings.graph
        self.reinit_after_fork()
        self.hot = Memtable(
            dimension,
            exact=self.exact if self._reads_vectors else None,
            graph=settings.graph or "int8",
            late_seconds=settings.late_seconds,
        )
        self.segments: dict[int, Segment] = {}
        self.numbers: dict[str, int] = {}  # segment name -> its key in `segments`
        self._next_number = 0
        self.deleted: OrderedDict[bytes, Deletion] = OrderedDict()  # the oldest first
        self.contents: LRUCache[int, Content] = LRUCache(settings.content_bytes, _size)
        self.checkpoint = Checkpoint({}, {}, {})
        self.own: str | None = None
        """Name prefix of this process's segments, which are added by `add_segment`."""
        self.complete = False
        """Whether all vectors of the table are in RAM too."""
        self.lost = False
        """Whether this process stood still for so long that it may have missed a segment."""
        self.missing_entries = 0
        """Rows of the table whose segment was missing."""
        self.damaged_entries = 0
        """Rows of the table that fail their checksum; they are not served."""
        self.suspects: dict[bytes, int] = {}
        """Keys and seqs of entries that must not be served any more; the store deletes them."""
        self.dropped_bytes = 0
        """Bytes of the log that are no record: damaged, or left half written by a crash."""
        self._lost: list[tuple[bytes, int, bool]] = []  # see `judge_lost`
        self.unchecked: dict[bytes, int] = {}
        """Keys and sequence numbers of entries whose rows have no checksum yet."""
        self.damaged_keys: set[bytes] = set()
        """Keys of damaged rows, which the next flush deletes."""
        self.newest = 0
        """The highest sequence number seen."""
        self.pending: dict[bytes, Uses] = {}
        """Uses by this process that are not in the log yet."""
        self.uncounted: dict[str, int] = {}
        """By segment, the offset of the first record of uses that `write_uses` has not saved."""
        self.use_bytes = 0
        """Total size of those records."""
        self.tag_records: dict[str, tuple[str, int]] = {}
        """By tag, segment and offset of the record that invalidates it."""
        self._last_read = time.monotonic()
        self._base = self.checkpoint  # the checkpoint at load
        self._floor = -1
        # Positions up to which saved uses were counted at load.
        self._counted: Mapping[str, int] = {}
        self._early_uses: dict[bytes, Uses] = {}  # while loading: uses of entries not read yet
        self._orphaned: set[bytes] = set()  # while loading: keys whose rows name a missing segment
        self._loading = False

    def reinit_after_fork(self) -> None:
        """Create the locks."""
        self.lock = threading.Lock()  # guards everything here; no commit is made under it
        self._reading = threading.Lock()  # one reader of the log at a time

    def exact(self, slot: int) -> Vector:
        """Return the vector of a slot, read from its record."""
        segment, offset, _ = self.hot.location(slot)
        length = _records.HEADER_BYTES + 4 * self.dimension
        data = self.segments[segment].read(offset, length)
        vector = _records.vector_of(data, self.dimension)
        if _records.checksum_of(vector) != self.hot.check(slot):
            self.suspects[self.hot.key(slot)] = self.hot.seq(slot)
            raise CorruptEntryError("the vector of an entry is damaged")
        return vector

    def _empty(self) -> Self:
        """Return an empty view of the same log."""
        return type(self)(self.folder, self.dimension, self._settings)

    def load(self, table: EntryTable, *, current: Sequence[Segment] = ()) -> Self:
        """Return a new view of the table's entries, without vectors, with the log applied.

        Args:
            table: The table.
            current: The segments that this process writes, with nothing held back.

        Raises:
            StoreError: The table or the log cannot be read.
        """
        view, left = self._empty(), _LOAD_ATTEMPTS - 1
        while not view.fill(table, current, at_last=left == 0):
            view, left = self._empty(), left - 1
        return view

    def fill(self, table: EntryTable, current: Sequence[Segment], *, at_last: bool) -> bool:
        """Load an empty view; False if it has to be tried again, which never is so `at_last`."""
        self._loading = True
        for segment in current:
            self.add_segment(segment)
        self._list()  # open files stay readable when they are deleted meanwhile
        found = self._read_checkpoint()
        self.checkpoint = self._base = found or self.checkpoint
        rows = table.scan()
        self._list()
        if self._base.done.keys() - self.numbers.keys() and not at_last:
            return False  # segments have been deleted since the checkpoint was written
        for number, segment in list(self.segments.items()):
            segment.position = self._base.settled.get(segment.name, len(MAGIC))
            if segment.name in self._base.dropped:  # an owner was killed before it deleted it
                del self.segments[number], self.numbers[segment.name]
        rows = self._undamaged(rows, table)
        missing = self._orphaned = self._load_rows(rows)
        if found is None and len(rows):
            # The checkpoint is lost. An entry of the time it covers that is not in the table
            # may have been deleted, so it is not restored from the log.
            self._floor = self.newest
        # Read after the segments: it includes the uses of deleted ones.
        kept = self._read_uses()
        self._counted = kept.counted
        for key, uses in kept.uses.items():
            self._use(key, uses)
        self._read_all(list(self.segments.items()))
        self._finish_ended()
        self.judge_lost()
        self._loading, self._early_uses, self._orphaned = False, {}, set()
        self.missing_entries = sum(
            self.hot.slot(key) is None and key not in self.deleted for key in missing
        )
        self._last_read = time.monotonic()
        return True

    def add_segment(self, segment: Segment) -> int:
        """Register a segment; return its number."""
        number = self.numbers[segment.name] = self._next_number
        self._next_number += 1
        self.segments[number] = segment
        return number

    def apply(self, record: _records.Record, number: int, offset: int, length: int) -> int | None:
        """Apply a record; return the slot if it adds an entry, else None."""
        segment = self.segments[number]
        segment.position = end = offset + length
        seq, key = record.seq, record.key
        self.newest = max(self.newest, seq)
        if record.entry is None:
            self._apply_other(record, segment.name, offset, end)
            return None
        slot = self.hot.slot(key)
        if end <= self._base.done.get(segment.name, 0):
            return None  # if alive, it was in the table; only deletions are read again
        dead = self.deleted.get(key)
        if (dead is not None and dead.seq >= seq) or (slot is None and seq <= self._floor):
            return None
        fresh = self.hot.put(
            record.entry,
            record.vector,
            seq=seq,
            location=Location(number, offset, length),
            check=_records.checksum_of(record.vector),
        )
        if fresh is not None and slot is not None:
            self.contents.pop(slot, None)
        if fresh is not None and (dead is not None or key in self._orphaned):
            self.hot.mark(fresh)
        if self._early_uses and (early := self._early_uses.pop(key, None)) is not None:
            self.hot.use(key, early)
        return fresh

    def _apply_other(self, record: _records.Record, segment: str, offset: int, end: int) -> None:
        if record.kind == _records.INVALIDATE_TAG:
            self.hot.invalidate_tag(record.tag, record.seq)
            self.tag_records[record.tag] = (segment, offset)
        elif record.kind == _records.DELETE:
            key = record.key
            counts = end > self._counted.get(segment, 0) and not holds_deletions(segment)
            if counts and (self.hot.uses(key) or key in self._early_uses):
                # Kept as long as the uses of this entry: another entry may follow under its key.
                self.note_uses(segment, offset, end - offset)
            self._delete(key, record.seq, segment, end)
        elif end > self._counted.get(segment, 0):
            self.note_uses(segment, offset, end - offset)
            for key, uses in record.uses.items():
                self._use(key, uses)

    def withdraw(self, record: _records.Record) -> None:
        """Apply a deletion that is not in the log yet."""
        self.newest = max(self.newest, record.seq)
        if record.kind == _records.INVALIDATE_TAG:
            self.hot.invalidate_tag(record.tag, record.seq)
        else:
            self._delete(record.key, record.seq, "", 0)

    def _delete(self, key: bytes, seq: int, segment: str, end: int) -> None:
        slot, known, location = self.hot.slot(key), self.deleted.pop(key, None), None
        if known is None and slot is not None and not self.hot.known(slot):
            where = self.hot.location(slot)
            location = (self.segments[where.segment].name, where.offset)
        if known is None or known.seq <= seq:
            known = Deletion(seq, segment, end, time.monotonic(), location)
        self.deleted[key] = known
        if slot is not None and self.hot.seq(slot) <= seq:
            self.remove(key)
        elif (
            self._loading
            and end > self._counted.get(segment, 0)
            and not holds_deletions(segment)  # their order among the uses is unknown
        ):
            # The uses read so far are of the deleted entry, not of the later one.
            self._early_uses.pop(key, None)
            self.hot.forget_uses(key)

    def _use(self, key: bytes, uses: Uses) -> None:
        if not self.hot.use(key, uses) and self._loading:
            self._early_uses[key] = uses.after(self._early_uses.get(key))

    def note_pending(self, key: bytes, uses: Uses) -> None:
        """Queue uses for the log, in the order of last use."""
        self.pending[key] = uses.after(self.pending.pop(key, None))

    def forget_pending(self, key: bytes, uses: Uses) -> None:
        """Remove logged uses from the queue; newer ones may remain."""
        if (known := self.pending.pop(key, None)) is not None and known.times > uses.times:
            self.pending[key] = known._replace(times=known.times - uses.times)

    def note_uses(self, segment: str, offset: int, length: int) -> None:
        """Count a record of uses."""
        self.uncounted.setdefault(segment, offset)
        self.use_bytes += length

    def _unswept(self) -> dict[str, int]:
        """Return, by segment, the offset of the first INVALIDATE_TAG record still needed."""
        needed: dict[str, int] = {}
        for tag in self.tag_records.keys() - self.hot.invalidated_tags:
            del self.tag_records[tag]
        for segment, offset in self.tag_records.values():
            needed[segment] = min(offset, needed.get(segment, offset))
        return needed

    def assume_rows(self) -> None:
        """Assume that the table may have a row of every key: another process has written it."""
        with self.lock:
            self.hot.mark()
            for key, deletion in self.deleted.items():
                self.deleted[key] = deletion._replace(location=None)

    def remove(self, key: bytes) -> None:
        """Remove an entry from this view."""
        self.pending.pop(key, None)  # or they would count for the next entry of this key
        if (slot := self.hot.remove(key)) is not None:
            self.contents.pop(slot, None)

    def forget_all(self) -> None:
        """Clear the view when the history of deletions is lost."""
        with self.lock:
            for slot in self.hot.slots():
                self.remove(self.hot.key(slot))
            self.lost = False

    def cache(self, slot: int, content: Content) -> None:
        """Keep a content in RAM unless it is too large."""
        if _size(content) <= self.contents.maxsize // 4:
            self.contents[slot] = content

    def read(self) -> None:
        """Apply new records of the log. May be called by any thread at any time.

        Raises:
            OSError: A segment cannot be read, while the others have been; or the folder cannot be
                listed, and none has.
        """
        fault: OSError | None = None
        with self._reading:
            if time.monotonic() - self._last_read > GRACE_SECONDS / 2:
                self.lost = True
            with self.lock:
                fault = self._list()
                others = [
                    (number, segment)
                    for number, segment in self.segments.items()
                    if not segment.own  # own records are applied when they are written
                ]
            for number, segment in others:
                try:
                    self._read(number, segment)
                except OSError as error:
                    fault = error
            self.judge_lost()
            self._forget()
            if fault is not None:
                raise fault
            self._last_read = time.monotonic()

    def snapshot(self) -> dict[str, int]:
        """Return the position up to which each segment has been applied."""
        with self.lock:
            return self._positions()

    def settled(self) -> dict[str, int]:
        """Return these positions, but none beyond a record that the next start must read again."""
        with self.lock:
            positions = self._positions()
            for needed in (self.uncounted, self._unswept()):
                for name in needed.keys() & positions.keys():
                    positions[name] = min(positions[name], needed[name])
            return positions

    def _positions(self) -> dict[str, int]:
        return {
            segment.name: segment.taken
            for segment in self.segments.values()
            if not segment.is_deleted
        }

    def _read_checkpoint(self) -> Checkpoint | None:
        return read_checkpoint(self.folder)

    def _read_uses(self) -> KeptUses:
        return read_uses(self.folder)

    def _read_all(self, segments: list[tuple[int, Segment]]) -> None:
        for number, segment in segments:
            self._read(number, segment)

    def _read(self, number: int, segment: Segment) -> None:
        while segment.end > (before := segment.position):
            batch = []
            for offset, length, record in segment.records(_READ_BYTES):
                batch.append((record, number, offset, length))
                if len(batch) == _APPLY_RECORDS:
                    self._apply_all(batch)
            self._apply_all(batch)
            if segment.position == before and not self._pass_damage(number, segment):
                return

    def _pass_damage(self, number: int, segment: Segment) -> bool:
        """Skip an unreadable record if another follows; else it may still be incomplete."""
        size, start = segment.size(), segment.position
        if segment.searched == size:
            return False
        rest = segment.read(start, size - start)
        length = _records.length_at(rest, 0)
        if length is not None and _records.unpack(rest[:length]) is not None:
            return True  # it has been completed meanwhile, and others may follow
        at = _records.next_record(rest)
        if at is None:
            segment.searched = size
            return False
        self._lose(number, segment, rest[:at])
        segment.position = start + at
        return True

    def finish(self, segment: Segment) -> None:
        """Treat the rest of a segment as lost: it is no record, and has no writer any more."""
        if segment.position < segment.size() and segment.damaged_at != segment.position:
            segment.damaged_at = start = segment.position
            rest = segment.read(start, segment.size() - start)
            self._lose(self.numbers[segment.name], segment, rest)

    def _finish_ended(self) -> None:
        left = [one for one in self.segments.values() if one.position < one.end and not one.own]
        alive = living_members(self.folder) if left else set()
        for segment in left:
            if segment.writer not in alive:
                # Read the records written before its writer ended.
                self._read(self.numbers[segment.name], segment)
                self.finish(segment)

    def _lose(self, number: int, segment: Segment, region: bytes) -> None:
        """Handle bytes of the log that are no record."""
        self.dropped_bytes += len(region)
        record = _records.repaired(region)
        if record is not None and record.kind in {_records.DELETE, _records.INVALIDATE_TAG}:
            with self.lock:
                self.apply(record, number, segment.position, len(region))
        elif record is not None:
            self._lost.append((record.key, segment.written_at(), False))
        # A record cut short because its process ended was not acknowledged; the same holds if the
        # system ended before it wrote the record out.
        elif region.strip(b"\0"):
            deletions = segment.holds_deletions
            if not _records.is_cut_short(region, of_deletions=deletions):
                self._lost.append((region, segment.written_at(), deletions))

    def judge_lost(self) -> None:
        """Mark as suspect every entry that a lost record may have replaced or deleted.

        A lost PUT may have replaced the entry of its key. A lost deletion that names no key may
        have withdrawn any entry.
        """
        lost, self._lost = self._lost, []
        for region, latest, of_deletions in lost:
            named = {  # without the lock, which a lookup may wait for
                key
                for at in range(min(len(region), _SEARCHED_BYTES) - 15)
                if self.hot.slot(key := region[at : at + 16]) is not None
            }
            explained = named and len(region) == _records.HEADER_BYTES
            with self.lock:
                if len(region) > _SEARCHED_BYTES or (of_deletions and not explained):
                    named = {self.hot.key(slot) for slot in self.hot.slots()}
                found = self.hot.seqs(named)
                self.suspects |= {key: seq for key, seq in found if seq <= latest}

    def _apply_all(self, batch: list[tuple[_records.Record, int, int, int]]) -> None:
        with self.lock:
            fresh = [
                record.seq
                for record, number, offset, length in batch
                if self.apply(record, number, offset, length) is not None
            ]
            if fresh:  # or each process would evict its own entries as the oldest
                self.hot.reorder(min(fresh))
        batch.clear()
        time.sleep(0)  # lets other threads have the lock or the interpreter

    def _list(self) -> OSError | None:
        fault = None
        names = segment_names(self.folder)
        for name in sorted(names - self.numbers.keys() - self.checkpoint.dropped.keys()):
            if self.own is not None and name.startswith(self.own):
                continue  # just begun by another thread
            try:
                segment = Segment(self.folder / name)
            except FileNotFoundError:
                continue
            except OSError as error:
                fault = error
                continue
            if len(MAGIC) <= segment.size():
                if segment.read(0, len(MAGIC)) != MAGIC and not any(segment.records(_READ_BYTES)):
                    segment.damaged_at = segment.position
                    self.dropped_bytes += segment.size() - segment.position
                self.add_segment(segment)
        for name in self.numbers.keys() - names:
            number = self.numbers[name]
            gone = self.segments[number]
            if gone.is_deleted and number not in self.hot.live:
                del self.segments[number], self.numbers[name]
            gone.is_deleted = True  # it is read to its end once more
        return fault

    def _undamaged(self, rows: pa.Table, table: EntryTable) -> pa.Table:
        """Return the rows that match their checksums, and note the damaged ones.

        A row without a checksum, written by an older version, is compared with its record.
        """
        found = checksums(rows)
        recorded = rows.column("checksum").fill_null(0).to_numpy().astype(np.uint64)
        unchecked = np.flatnonzero(rows.column("checksum").is_null())
        for part in np.array_split(unchecked, len(unchecked) // _SEAL_ROWS + 1):
            sealing = [(i, row) for i in part.tolist() if (row := self._row_at(rows, i))]
            if sealing:
                recorded[[i for i, _ in sealing]] = table.sealed([row for _, row in sealing])
            self.unchecked |= {row.record.key: row.record.seq for _, row in sealing}
        sound = (recorded & np.uint64(0xFFFFFFFF)) == found
        bad = rows.filter(pa.array(~sound)).column("key").cast(pa.binary()).to_pylist()
        self.damaged_entries = len(bad)
        self.damaged_keys = {key for text in bad if (key := key_of(text))}
        checks = pa.array((recorded >> np.uint64(32)).astype(np.int64))
        at = rows.schema.get_field_index("checksum")
        return rows.set_column(at, "checksum", checks).filter(pa.array(sound))

    def _row_at(self, rows: pa.Table, i: int) -> Row | None:
        """Rebuild a row from the record it points to; None if that cannot be read."""
        name = rows.column("segment").cast(pa.binary())[i].as_py().decode(errors="replace")
        offset, length = rows.column("offset")[i].as_py(), rows.column("length")[i].as_py()
        if (number := self.numbers.get(name)) is None:
            return None
        record = _records.unpack(self.segments[number].read(offset, length))
        return None if record is None or record.entry is None else Row(record, name, offset, length)

    def _load_rows(self, rows: pa.Table) -> set[bytes]:
        """Load the table's rows; return the keys of those whose segments are missing."""
        if not len(rows):
            return set()
        self.newest = int(rows.column("stamp")[-1].as_py())
        # A row whose segment is gone cannot be served. If its record has been moved, it is read
        # from the log.
        there = [name in self.numbers for name in rows.column("segment").to_pylist()]
        missing = rows.filter(pa.array([not row for row in there])).column("key").to_pylist()
        rows = rows.filter(pa.array(there))
        if len(rows):
            self._load_columns(rows)
        return {bytes.fromhex(key) for key in missing}

    def _load_columns(self, rows: pa.Table) -> None:
        locations = rows.column("segment").combine_chunks().dictionary_encode()
        numbers = [self.numbers[name] for name in locations.dictionary.to_pylist()]
        partitions = rows.column("fingerprint").combine_chunks().dictionary_encode()
        first = np.unique(partitions.indices.to_numpy(), return_index=True)[1]
        canonical = rows.column("context").take(pa.array(first)).to_pylist()
        self.hot.load(
            keys=[bytes.fromhex(key) for key in rows.column("key").to_pylist()],
            ids=b"".join([bytes.fromhex(text) for text in rows.column("id").to_pylist()]),
            queries=rows.column("query").to_pylist(),
            contexts=[
                Context(text, fingerprint)
                for text, fingerprint in zip(
                    canonical, partitions.dictionary.to_pylist(), strict=True
                )
            ],
            partitions=partitions.indices.to_numpy().astype(np.int32),
            seqs=rows.column("stamp").to_numpy(),
            created=rows.column("created_at").to_numpy(),
            expires=rows.column("expires_at").to_numpy(),
            rest=_rest(rows),
            segments=np.array(numbers, np.int32)[locations.indices.to_numpy()],
            offsets=rows.column("offset").to_numpy(),
            lengths=rows.column("length").to_numpy(),
            checks=rows.column("checksum").to_numpy().astype(np.uint64),
        )

    def _forget(self) -> None:
        """Drop deletions that are old enough and already applied to the table."""
        latest = time.monotonic() - self.remember_seconds
        with self.lock:
            while self.deleted:
                key, deletion = next(iter(self.deleted.items()))
                # A segment that is not there any more was flushed completely.
                there = deletion.segment in self.numbers
                waits = there and deletion.end > self.checkpoint.done.get(deletion.segment, 0)
                if deletion.at > latest or waits:
                    return
                del self.deleted[key]


def _rest(rows: pa.Table) -> dict[int, Rest]:
    """Return, by row number, the fields that most rows do not have."""
    compute: Any = pc  # its stubs lack functions that are generated at import
    plain = rows.column("sliding_seconds").is_null().to_numpy()
    plain &= rows.column("stale_seconds").to_numpy() == 0.0
    plain &= rows.column("cost").to_numpy() == 1.0
    plain &= compute.list_value_length(rows.column("tags")).to_numpy() == 0
    places = np.flatnonzero(~plain)
    names = ("stale_seconds", "sliding_seconds", "tags", "cost")
    columns = [rows.column(name).take(pa.array(places)).to_pylist() for name in names]
    return {
        row: Rest(stale, sliding, tuple(tags), cost)
        for row, stale, sliding, tags, cost in zip(places.tolist(), *columns, strict=True)
    }


def _size(content: Content) -> int:
    return len(content.payload) + len(content.metadata)
