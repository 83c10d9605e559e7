"""In-memory view of a store in a bucket: as on disk (`_view`), except how the log is read."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from memora.stores.bucket._batches import STALE_SECONDS, Batch, BatchLog
from memora.stores.disk._journal import MAGIC, Segment
from memora.stores.disk._view import LogView

if TYPE_CHECKING:
    from typing_extensions import Self

    from memora.stores._settings import ViewSettings
    from memora.stores.disk import _records
    from memora.stores.disk._checkpoint import Checkpoint
    from memora.stores.disk._usage import KeptUses

# How late a batch may still be written; then it is given up, except for a request under way.
_LATE_SECONDS = STALE_SECONDS + 30.0
_READERS = 8  # parallel requests when there is much to read
_READ_BYTES = 8 * 1024 * 1024  # read by them before it is applied


class BucketView(LogView):
    """Entries and all vectors in RAM, kept current from the log in a bucket."""

    remember_seconds = _LATE_SECONDS
    _reads_vectors = False  # no search needs the network

    def __init__(self, log: BatchLog, dimension: int, settings: ViewSettings) -> None:
        super().__init__(Path(log.folder), dimension, settings)
        self.log = log

    def _empty(self) -> Self:
        return type(self)(self.log, self.dimension, self._settings)

    @property
    def unreached(self) -> bool:
        """Whether the log was not read for too long; true until another view is loaded."""
        return time.monotonic() - self._last_read > STALE_SECONDS

    def read(self) -> None:
        """Apply new batches of the log.

        Raises:
            OSError: The bucket cannot be read.
        """
        with self._reading:
            began, late = time.monotonic(), self.unreached
            self.lost |= late
            try:
                self._list()
                with self.lock:
                    new = [
                        (number, segment)
                        for number, segment in self.segments.items()
                        if not segment.own and segment.end > segment.position
                    ]
                self._read_all(new)
                self.judge_lost()
            except FileNotFoundError:  # deleted since it was listed, so this process was slow
                self.lost = True
            self._forget()
            if not late:
                self._last_read = began

    def apply(self, record: _records.Record, number: int, offset: int, length: int) -> int | None:
        """Apply a record; return the slot if it adds an entry, else None.

        A copy only gives a stored entry another location. It never adds an entry: its writer may
        have stood still while the entry was deleted and the deletion forgotten. Of several
        locations, all processes use the one in the latest batch.
        """
        segment = self.segments[number]
        assert isinstance(segment, Batch)  # noqa: S101 - a bucket has no other
        if record.entry is None:
            segment.deletes = True
            return super().apply(record, number, offset, length)
        slot = self.hot.slot(record.key)
        if slot is not None and self.hot.stored_as(record.entry):
            held = self.segments.get(self.hot.location(slot).segment)
            damaged_keys = held is not None and not held.is_deleted and held.name > segment.name
        else:
            # While loading, a copy does add an entry if its row in the table names a batch that is
            # gone.
            damaged_keys = segment.copies and record.key not in self._orphaned
        if damaged_keys:
            segment.position = offset + length
            return None
        return super().apply(record, number, offset, length)

    def settled(self) -> dict[str, int]:
        # A deletion may affect a record that is yet to be written, so it is read again for a while.
        settled, latest = super().settled(), time.monotonic() - _LATE_SECONDS
        with self.lock:
            again = {
                segment.name
                for segment in self.segments.values()
                if isinstance(segment, Batch)
                and segment.deletes
                and (segment.complete_since is None or segment.complete_since > latest)
            }
        return settled | dict.fromkeys(again & settled.keys(), len(MAGIC))

    def _read_checkpoint(self) -> Checkpoint | None:
        head = self.log.read_head()
        return None if head is None else head.checkpoint

    def _read_uses(self) -> KeptUses:
        return self.log.read_uses()

    def _list(self) -> OSError | None:
        with self.lock:
            known = {one.name for one in self.segments.values() if one.written > len(MAGIC)}
        found = self.log.batches()
        with self.lock:
            for name in sorted(found.keys() - self.numbers.keys() - self.checkpoint.dropped.keys()):
                if name not in self.log.mine and found[name] >= len(MAGIC):
                    self.add_segment(Batch(self.log, name, found[name]))
            for name in known - found.keys():
                number = self.numbers[name]
                gone = self.segments[number]
                if gone.is_deleted and number not in self.hot.live:
                    del self.segments[number], self.numbers[name]
                    self.log.mine.discard(name)
                gone.is_deleted = True
        return None

    def _read_all(self, segments: list[tuple[int, Segment]]) -> None:
        waiting = [pair for pair in segments if pair[1].end > pair[1].position]
        with ThreadPoolExecutor(_READERS) as pool:
            while waiting:
                group, size = [waiting.pop(0)], 0
                while waiting and (size := size + waiting[0][1].size()) <= _READ_BYTES:
                    group.append(waiting.pop(0))
                if len(group) > 1:
                    list(pool.map(_fetch, group))
                for number, segment in group:
                    self._read(number, segment)
                    self.finish(segment)  # a batch is always whole

    def _finish_ended(self) -> None:
        """Do nothing: see `_read_all`."""

    def _positions(self) -> dict[str, int]:
        return {
            segment.name: segment.taken
            for segment in self.segments.values()
            if not segment.is_deleted and segment.written > len(MAGIC)
        }


def _fetch(numbered: tuple[int, Segment]) -> None:
    segment = numbered[1]
    if isinstance(segment, Batch):
        segment.whole()  # keeps the batch in the cache of recent ones
