"""What one process at a time does for a store: flush, compact, clear away.

The owner of the upkeep is whoever holds its lock file; when it ends, however it ends, the system
releases the lock and another takes over. Nothing here is needed for an answer: the log holds what
the table does not hold yet.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING

import filelock

from memora.stores import _records
from memora.stores._journal import (
    MAGIC,
    Checkpoint,
    living_members,
    read_checkpoint,
    write_checkpoint,
)
from memora.stores._table import Row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from memora.stores._journal import Segment
    from memora.stores._table import EntryTable
    from memora.stores._view import LogView
    from memora.stores.hot import Place

# When a flush is due: so many bytes of the log, or so long after the last.
_FLUSH_BYTES = 16 * 1024 * 1024
_FLUSH_SECONDS = 10.0
_FLUSH_ROWS = 2048  # written by one commit
# Share of the log that may be dead before the living of a segment are moved, and the least that is
# worth it.
_DEAD_SHARE = 0.3
_DEAD_BYTES = 4 * 1024 * 1024
_MOVE_RECORDS = 64  # at once
# A segment that others may not have seen yet is not deleted; who has not looked for half of that
# time loads anew.
GRACE_SECONDS = 10.0
_LOOK_SECONDS = 2.0  # between two looks at who else is there
_SEGMENT_BYTES = (1024 * 1024, 64 * 1024 * 1024)  # the smallest and the largest limit


class Upkeep:
    """The duties of the owner.

    Args:
        view: What this process knows.
        table: Where it is flushed to.
        name: This member's name.
        move: Appends raw records to the log again, and notes their places.
        damaged: Is told of an entry whose record cannot be read.
    """

    def __init__(
        self,
        view: LogView,
        table: EntryTable,
        *,
        name: str,
        move: Callable[[list[tuple[int, int, bytes]]], None],
        damaged: Callable[[bytes, int], None],
    ) -> None:
        self._view, self._table, self._name = view, table, name
        self._move, self._damaged = move, damaged
        self._folder = view.folder
        self._lock = filelock.FileLock(self._folder / "owner.lock", thread_local=False)
        self._flushed_at = time.monotonic()
        self._looked_at = -GRACE_SECONDS
        self._members = {name}
        self.dropped_bytes = 0
        """Bytes of the log that were no record: what a crash had left half written."""

    @property
    def owner(self) -> bool:
        """Whether this process has the duties."""
        return bool(self._lock.is_locked)

    def acquire(self) -> bool:
        """Take the duties if nobody has them."""
        if self.owner:
            return True
        try:
            self._lock.acquire(blocking=False)
        except filelock.Timeout:
            return False
        # What the last owner has written of the log, this one must have read before it writes.
        self._view.checkpoint = read_checkpoint(self._folder) or Checkpoint({}, {})
        self._view.read()
        self._table.forget_synced()
        return True

    def release(self) -> None:
        """Leave the duties to another."""
        self._lock.release()

    def segment_limit(self) -> int:
        """Return how large a segment may become: small beside what is alive, so that it dies."""
        smallest, largest = _SEGMENT_BYTES
        share = self._view.hot.live_bytes // (4 * len(self._members))
        return min(max(share, smallest), largest)

    def log_is_long(self) -> bool:
        """Tell whether so much waits in the log that it should be flushed."""
        return self._waiting() >= _FLUSH_BYTES

    def run(self) -> None:
        """Do what is due."""
        self._look()
        waiting, since = self._waiting(), time.monotonic() - self._flushed_at
        due = waiting >= _FLUSH_BYTES or (waiting and since >= _FLUSH_SECONDS)
        if due and (not self._table.settling or waiting >= 4 * _FLUSH_BYTES):
            self.flush()
        self._table.maintain()
        self._move_living()
        self._clear_away()

    def flush(self) -> None:
        """Bring the table up to the log, and note it in the checkpoint."""
        view = self._view
        settled = view.snapshot()
        # Once more: an entry that a deletion before this point concerns was in the log before it.
        view.read()
        done = view.snapshot()
        old = view.checkpoint
        if all(old.done.get(name, len(MAGIC)) >= at for name, at in done.items()):
            return
        with view.lock:
            fresh = [
                (slot, view.hot.key(slot), place)
                for name, at in done.items()
                if old.done.get(name, 0) < at
                for slot in view.hot.since(view.numbers[name], old.done.get(name, 0))
                if (place := view.hot.place(slot)).offset < at
            ]
            gone = [
                key
                for key, deletion in view.deleted.items()
                if view.hot.slot(key) is None
                and not self._covers(old, deletion.segment, deletion.end)
            ]
        for start in range(0, len(fresh), _FLUSH_ROWS):
            self._table.write(list(self._rows(fresh[start : start + _FLUSH_ROWS])), [])
        self._table.write([], gone)
        for name, at in done.items():
            if old.done.get(name, 0) < at and (segment := self._segment(name)) is not None:
                segment.sync()
        # Never back: a former owner may have read further than this process has.
        self._save(
            Checkpoint(
                {name: max(at, old.done.get(name, 0)) for name, at in done.items()},
                {name: max(at, old.settled.get(name, 0)) for name, at in settled.items()},
            )
        )
        self._flushed_at = time.monotonic()

    def _rows(self, fresh: Iterable[tuple[int, bytes, Place]]) -> Iterable[Row]:
        for i, (slot, key, place) in enumerate(fresh):
            segment = self._view.segments[place.segment]
            record = segment and _records.unpack(segment.read(place.offset, place.length))
            if not record or not segment or record.key != key:
                self._damaged(key, slot)
                continue
            yield Row(record, segment.name, place.offset, place.length)
            if i % 16 == 0:
                time.sleep(0)  # a lookup may be waiting for the interpreter

    def _waiting(self) -> int:
        done = self._view.checkpoint.done
        return sum(
            max(min(segment.position, segment.written) - done.get(segment.name, len(MAGIC)), 0)
            for segment in list(self._view.segments)
            if segment is not None
        )

    def _covers(self, checkpoint: Checkpoint, number: int, end: int) -> bool:
        segment = self._view.segments[number]
        return segment is None or checkpoint.done.get(segment.name, 0) >= end

    def _segment(self, name: str) -> Segment | None:
        number = self._view.numbers.get(name)
        return None if number is None else self._view.segments[number]

    def _save(self, checkpoint: Checkpoint) -> None:
        write_checkpoint(self._folder, checkpoint)
        self._view.checkpoint = checkpoint

    def _look(self) -> None:
        """See who else is there, and which segments nobody writes any more."""
        now = time.monotonic()
        if now - self._looked_at < _LOOK_SECONDS:
            return
        self._looked_at = now
        self._members = living_members(self._folder) | {self._name}
        known = [segment for segment in self._view.segments if segment is not None]
        newest = {segment.writer: segment.name for segment in sorted(known, key=lambda s: s.name)}
        for segment in known:
            alive = segment.writer in self._members and newest[segment.writer] == segment.name
            if alive or segment.complete_since is not None:
                continue
            segment.complete_since = now
            if segment.position < (size := segment.size()):
                self._view.read()
                if segment.position < size and segment.damaged_at is None:
                    segment.damaged_at = segment.position
                    self.dropped_bytes += size - segment.position

    def _move_living(self) -> None:
        """Write the living records of a mostly dead segment again, so that it can go."""
        view = self._view
        with view.lock:
            sizes = {
                number: segment.size()
                for number, segment in enumerate(view.segments)
                if segment is not None
            }
            live = {number: view.hot.live[number] for number in sizes}
            dead = sum(sizes.values()) - sum(live.values())
            if dead < max(_DEAD_BYTES, _DEAD_SHARE * sum(sizes.values())):
                return
            complete = [n for n in sizes if live[n] and self._is_complete(view.segments[n])]
            if not complete:
                return
            worst = min(complete, key=lambda number: live[number] / sizes[number])
            if live[worst] > (1 - _DEAD_SHARE) * sizes[worst]:
                return
            slots = view.hot.since(worst, 0)
        source = view.segments[worst]
        if source is None:
            return
        for start in range(0, len(slots), _MOVE_RECORDS):
            moving = []
            with view.lock:
                places = [
                    (slot, view.hot.place(slot)) for slot in slots[start : start + _MOVE_RECORDS]
                ]
                keys = [view.hot.key(slot) for slot, _ in places]
                stamps = [view.hot.stamp(slot) for slot, _ in places]
            for (slot, place), key, stamp in zip(places, keys, stamps, strict=True):
                if place.segment != worst:
                    continue  # it has been replaced
                raw = source.read(place.offset, place.length)
                if _records.content_of(raw, key) is None:
                    self._damaged(key, slot)
                else:
                    moving.append((slot, stamp, raw))
            self._move(moving)
            time.sleep(0)

    def _is_complete(self, segment: Segment | None) -> bool:
        return segment is not None and segment.complete_since is not None

    def _clear_away(self) -> None:
        """Delete segments that hold nothing alive and nothing that is not in the table."""
        view = self._view
        settled = view.checkpoint.settled
        alone = self._members == {self._name}
        latest = time.monotonic() - (0 if alone else GRACE_SECONDS)
        with view.lock:
            dead = [
                segment
                for number, segment in enumerate(view.segments)
                if segment is not None
                and segment.complete_since is not None
                and segment.complete_since <= latest
                and not view.hot.live[number]
                and (
                    segment.damaged_at is not None or settled.get(segment.name, 0) >= segment.size()
                )
            ]
        if not dead:
            return
        names = {segment.name for segment in dead}
        self._save(
            Checkpoint(
                *(
                    {name: at for name, at in part.items() if name not in names}
                    for part in view.checkpoint
                )
            )
        )
        for segment in dead:
            with suppress(OSError):
                segment.path.unlink()
