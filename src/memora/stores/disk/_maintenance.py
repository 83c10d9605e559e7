"""Maintenance of a store on disk, done by one process at a time: flush, compact, delete segments.

The owner is the process that holds the lock file `owner.lock`. When it ends, in whatever way, the
system releases the lock and another process takes over. No lookup needs this work: the log holds
everything that the table does not hold yet.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

import filelock

from memora._faults import contained
from memora._files import file_mode
from memora.errors import StoreError
from memora.stores.disk import _records
from memora.stores.disk._checkpoint import CHECKPOINT, Checkpoint, read_checkpoint, write_checkpoint
from memora.stores.disk._journal import MAGIC, segment_names
from memora.stores.disk._membership import living_members
from memora.stores.disk._table import Row
from memora.stores.disk._usage import KeptUses, write_uses
from memora.stores.disk._view import GRACE_SECONDS
from memora.stores.memtable import Uses

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from memora.protocols import Clock
    from memora.stores.disk._table import EntryTable
    from memora.stores.disk._view import Deletion, LogView
    from memora.stores.memtable import Location

# A flush is due after this many bytes of the log (an eighth of the live bytes, within these
# bounds), or this long after the last flush.
_FLUSH_BYTES = (2 * 1024 * 1024, 16 * 1024 * 1024)
_FLUSH_SECONDS = 10.0
_FLUSH_ROWS = 2048  # per commit
# Share of the log that must be dead before the live records of a segment are moved, and the least
# number of dead bytes that is worth a move. Each file counts as _FILE_BYTES more than its size, so
# that many small files are merged.
_DEAD_SHARE = 0.3
_DEAD_BYTES = 4 * 1024 * 1024
_FILE_BYTES = 256 * 1024
# Uses are saved when the log holds this many bytes of them and at least as many as the last save
# wrote, or this long after the last save, or when this many segments are kept only for their uses.
# The last number is the entries handled under one hold of the lock.
_USE_BYTES, _USE_SECONDS, _USE_SEGMENTS, _USES_AT_ONCE = 256 * 1024, 60.0, 8, 2048
_MOVE_RECORDS = 64  # per hold of the lock
_MOVE_BYTES = 16 * 1024 * 1024  # per round
_LIST_SECONDS = 2.0  # between two listings of the members
_SEGMENT_BYTES = (1024 * 1024, 64 * 1024 * 1024)  # bounds of `segment_limit`


class OwnerLock(Protocol):
    """Lock on a store that one process holds at a time."""

    @property
    def is_locked(self) -> bool:
        """Whether this process holds the lock."""
        ...

    def acquire(self) -> object:
        """Take the lock, or raise `filelock.Timeout` at once if another process holds it."""
        ...

    def release(self) -> None:
        """Release the lock."""
        ...


class Maintenance:
    """The work of a store's owner.

    Args:
        view: This process's view of the store.
        table: The table that is flushed to.
        name: This member's name.
        move: Appends (slot, seq, raw record) triples to the log again, syncs them, and updates
            the locations of their entries.
        damaged: Called with the key and seq of an entry whose record cannot be read.
        clock: The clock by which entries expire.
    """

    def __init__(  # noqa: PLR0913 - its collaborators
        self,
        view: LogView,
        table: EntryTable,
        *,
        name: str,
        move: Callable[[list[tuple[int, int, bytes]]], None],
        damaged: Callable[[bytes, int], None],
        clock: Clock,
    ) -> None:
        self.view, self._table, self._name = view, table, name
        self._move, self._damaged, self._clock = move, damaged, clock
        self._folder = view.folder
        self._lock = self._make_lock()
        self._flushed_at = time.monotonic()
        self._listed_at = -GRACE_SECONDS
        self._read_at = 0  # modification time of the checkpoint last read
        self._members = {name}
        self._uses_at = time.monotonic()
        self._uses_size = 0

    def _make_lock(self) -> OwnerLock:
        return filelock.FileLock(
            self._folder / "owner.lock",
            blocking=False,
            thread_local=False,
            mode=file_mode(self._folder),
        )

    @property
    def owner(self) -> bool:
        """Whether this process is the owner."""
        return bool(self._lock.is_locked)

    def acquire(self) -> bool:
        """Become the owner if there is none; return whether this process is the owner."""
        if self.view.lost:
            return False
        if self.owner:
            return True
        try:
            self._lock.acquire()
        except filelock.Timeout:
            return False
        except OSError as error:
            if isinstance(error, StoreError):
                raise
            raise StoreError(
                f"cannot lock owner.lock in {str(self._folder)!r}: {error.strerror or error}; "
                "expected a file of this store's, or none: remove what is there"
            ) from error
        try:
            # Before this owner writes, it must have read all of the log that the last owner wrote.
            self.refresh()
            self.view.read()
            self.view.assume_rows()
            self._table.forget_synced()
        except BaseException:
            self._lock.release()
            raise
        if self.view.lost:
            self._lock.release()
        return not self.view.lost

    def release(self) -> None:
        """Release the lock, so that another process can become the owner."""
        self._lock.release()

    def refresh(self) -> None:
        """Read the checkpoint if it has changed."""
        changed_at = 0
        with suppress(OSError):
            changed_at = (self._folder / CHECKPOINT).stat().st_mtime_ns
        if changed_at != self._read_at:
            self._read_at = changed_at
            found = read_checkpoint(self._folder)
            if found is not None:
                self.view.checkpoint = found

    def segment_limit(self) -> int:
        """Return the segment size limit: small, so that segments are soon dead."""
        smallest, largest = _SEGMENT_BYTES
        share = self.view.hot.live_bytes // (4 * max(len(self._members), 1))
        return min(max(share, smallest), largest)

    def backlog(self) -> float:
        """Return the unflushed bytes of the log, as a multiple of those that make a flush due."""
        return self._waiting() / self._flush_bytes()

    def complete_segments(self, *, again: bool = False) -> None:
        """List the living members, and finish the segments that no process writes any more."""
        now = time.monotonic()
        # Listed before the members: a writer of one of these segments that is still alive is then
        # certain to be among the members.
        with self.view.lock:
            known = sorted(self.view.segments.values(), key=lambda segment: segment.name)
        listed = now - self._listed_at >= _LIST_SECONDS or again
        if listed:
            self._listed_at = now
            self._members = living_members(self._folder)
        newest = {segment.stream: segment for segment in known}
        completed = []
        for segment in known:
            superseded = newest[segment.stream] is not segment
            gone = listed and segment.writer not in self._members
            if (superseded or gone) and segment.complete_since is None:
                segment.complete_since = now
                completed.append(segment)
        if not completed:
            return
        self.view.read()
        for segment in completed:
            self.view.finish(segment)
        self.view.judge_lost()

    def run(self) -> None:
        """Run each part that is due, even if another part fails.

        Raises:
            Exception: The first fault.
        """
        faults = []
        for part in (self._flush_if_due, self._compact, self._move_living, self._clear_away):
            try:
                with contained:
                    part()
            except Exception as error:  # noqa: BLE001 - raised below
                faults.append(error)
        if faults:
            raise faults[0]

    def flush(self) -> None:
        """Write the log's unflushed changes to the table, then save the checkpoint."""
        view = self.view
        self._keep_uses()
        settled = view.settled()
        # Read again: the entry of a deletion before `settled` is in the log by now, and so lies
        # before `done`.
        view.read()
        done = view.snapshot()
        if view.lost:
            return
        old = view.checkpoint
        current = all(old.done.get(name, len(MAGIC)) >= at for name, at in done.items())
        if current and not view.unchecked and not view.damaged_keys:
            return
        fresh: list[tuple[bytes, int, Location]] = []
        with view.lock:
            deleted = list(view.deleted.items())
            unchecked, damaged_keys = dict(view.unchecked), set(view.damaged_keys)
            fresh.extend(self._again(unchecked, old))
            for name, at in done.items():
                if old.done.get(name, 0) < at:
                    fresh.extend(
                        (view.hot.key(slot), view.hot.seq(slot), location)
                        for slot in view.hot.since(view.numbers[name], old.done.get(name, 0))
                        if (location := view.hot.location(slot)).offset < at
                    )
        # Without the keys that this flush writes again, as that replaces their rows.
        kept = {key for key, _, _ in fresh}
        gone = [
            key
            for key, deletion in deleted
            if key not in kept
            and old.done.get(deletion.segment, 0) < deletion.end
            and self._may_be_stored(deletion, old)
            and not self._in_table(key, deletion.seq)
        ]
        with view.lock:
            gone += [key for key in damaged_keys - kept if view.hot.slot(key) is None]
        for name, at in done.items():
            if old.done.get(name, 0) < at and (number := view.numbers.get(name)) is not None:
                view.segments[number].sync()
        try:
            for start in range(0, len(fresh), _FLUSH_ROWS):
                self._table.write(list(self._rows(fresh[start : start + _FLUSH_ROWS])), [])
            self._table.write([], gone)
        except BaseException:
            view.assume_rows()  # part of it may have been written
            raise
        # Positions never go back: a former owner may have read further than this process.
        self._save(
            Checkpoint(
                {name: max(at, old.done.get(name, 0)) for name, at in done.items()},
                {name: max(at, old.settled.get(name, 0)) for name, at in settled.items()},
                old.dropped,
            )
        )
        with view.lock:
            for key in unchecked:
                view.unchecked.pop(key, None)
            view.damaged_keys -= damaged_keys
        self._flushed_at = time.monotonic()

    def _again(
        self, unchecked: Mapping[bytes, int], old: Checkpoint
    ) -> Iterator[tuple[bytes, int, Location]]:
        """Yield entries whose rows in the table lack a checksum."""
        hot = self.view.hot
        for key, seq in hot.seqs(unchecked):
            slot = hot.slot(key)
            if slot is None or seq != unchecked[key]:
                continue
            location = hot.location(slot)
            if location.offset < old.done.get(self.view.segments[location.segment].name, 0):
                yield key, seq, location

    def _keep_uses(self, *, at_once: bool = False) -> None:
        """Save the uses of entries, so that segments need not be kept for them.

        Saves only if the log holds enough uses (at least as many bytes as the last save wrote), or
        some time has passed, or several segments wait for it. Otherwise a cache that changes little
        would be written again and again.
        """
        view = self.view
        waiting, since = view.use_bytes, time.monotonic() - self._uses_at
        due = at_once or waiting > max(_USE_BYTES, self._uses_size) or since > _USE_SECONDS
        if not waiting or not (due or self._held_for_uses() >= _USE_SEGMENTS):
            return
        with view.lock:
            counted = {segment.name: segment.taken for segment in view.segments.values()}
            uncounted, view.uncounted, view.use_bytes = view.uncounted, {}, 0
            keys = view.hot.used()
        try:
            uses: dict[bytes, Uses] = {}
            for start in range(0, len(keys), _USES_AT_ONCE):
                with view.lock:
                    for key in keys[start : start + _USES_AT_ONCE]:
                        if (known := view.hot.uses(key)) is not None:
                            late = view.pending.get(key, Uses(0, 0.0))  # will be logged later
                            uses[key] = known._replace(times=known.times - late.times)
                time.sleep(0)
            self._uses_size = self._write_uses(KeptUses(uses, counted))
        except BaseException:
            with view.lock:
                view.uncounted, view.use_bytes = view.uncounted | uncounted, waiting
            raise
        self._uses_at = time.monotonic()

    def _write_uses(self, kept: KeptUses) -> int:
        return write_uses(self._folder, kept)

    def _held_for_uses(self) -> int:
        view = self.view
        with view.lock:
            return sum(
                segment.complete_since is not None and segment.name in view.uncounted
                for segment in view.segments.values()
            )

    def compact(self) -> None:
        """Flush, compact the table and delete dead segments, even if not due.

        Raises:
            Exception: The first fault.
        """
        self._keep_uses(at_once=True)
        self.flush()
        self.complete_segments(again=True)
        self._table.compact(alone=self._members <= {self._name})
        self.run()

    def finish(self) -> None:
        """Do all remaining maintenance, so that the next open is quick; the caller has flushed."""
        self._keep_uses(at_once=True)
        self.complete_segments(again=True)
        self.run()
        self._save(self.view.checkpoint)

    def _may_be_stored(self, deletion: Deletion, old: Checkpoint) -> bool:
        """Return whether the table may have a row of the deleted entry."""
        if deletion.location is None:
            return True
        name, offset = deletion.location
        return name not in self.view.numbers or offset < old.done.get(name, 0)

    def _in_table(self, key: bytes, deleted: int) -> bool:
        """Return whether the key's row is of a later entry that has been flushed."""
        view = self.view
        with view.lock:
            slot = view.hot.slot(key)
            if slot is None or view.hot.seq(slot) <= deleted:
                return False
            segment, offset, _ = view.hot.location(slot)
            return offset < view.checkpoint.done.get(view.segments[segment].name, 0)

    def _rows(self, fresh: Iterable[tuple[bytes, int, Location]]) -> Iterable[Row]:
        for i, (key, seq, location) in enumerate(fresh):
            segment = self.view.segments.get(location.segment)
            if segment is None:
                continue  # the entry has been removed since, and its segment too
            record = _records.unpack(segment.read(location.offset, location.length))
            if record is None or record.key != key:
                self._damaged(key, seq)
                continue
            yield Row(record, segment.name, location.offset, location.length)
            if i % 16 == 0:
                time.sleep(0)  # lets a lookup have the interpreter

    def _flush_if_due(self) -> None:
        waiting, since = self._waiting(), time.monotonic() - self._flushed_at
        enough = self._flush_bytes()
        view = self.view
        waits = waiting or view.unchecked or view.damaged_keys
        due = waiting >= enough or (waits and since >= _FLUSH_SECONDS)
        if due and (not self._table.compacting or waiting >= 4 * enough):
            self.flush()

    def _flush_bytes(self) -> int:
        smallest, largest = _FLUSH_BYTES
        return min(max(self.view.hot.live_bytes // 8, smallest), largest)

    def _compact(self) -> None:
        self._table.maintain(alone=self._members <= {self._name})

    def _waiting(self, *, broken_only: bool = False) -> int:
        done = self.view.checkpoint.done
        return sum(
            max(segment.taken - done.get(segment.name, len(MAGIC)), 0)
            for segment in list(self.view.segments.values())
            if not segment.is_deleted and (segment.broken or not broken_only)
        )

    def _save(self, checkpoint: Checkpoint) -> None:
        checkpoint = checkpoint._replace(now=self._clock())
        write_checkpoint(self._folder, checkpoint)
        self.view.checkpoint = checkpoint

    def _move_living(self) -> None:
        """Write the live records of mostly dead segments again, so that those can be deleted."""
        if self._waiting(broken_only=True):
            return  # the disk refuses syncs: until a flush succeeds, copies would only pile up
        moved = 0
        while moved < _MOVE_BYTES and (worst := self._worst_segment()) is not None:
            moved += self.view.hot.live[worst]
            self._move_segment(worst)

    def _worst_segment(self) -> int | None:
        """Return the segment with the lowest live share; None if too little of the log is dead."""
        view = self.view
        with view.lock:
            live = view.hot.live
            sizes = {
                number: segment.size() + _FILE_BYTES
                for number, segment in view.segments.items()
                # The others are about to be deleted.
                if number in live or segment.complete_since is None
            }
            complete = [n for n in sizes if n in live and view.segments[n].complete_since]
            total = sum(sizes.values())
            if not complete or total - view.hot.live_bytes < max(_DEAD_BYTES, _DEAD_SHARE * total):
                return None
            worst = min(complete, key=lambda number: live[number] / sizes[number])
            return worst if live[worst] <= (1 - _DEAD_SHARE) * sizes[worst] else None

    def _move_segment(self, worst: int) -> None:
        view = self.view
        with view.lock:
            source = view.segments[worst]
            slots = view.hot.since(worst, 0)
        for start in range(0, len(slots), _MOVE_RECORDS):
            part = slots[start : start + _MOVE_RECORDS]
            if moving := self._living(worst, part, source.read):
                self._move(moving)

    def _living(
        self, segment: int, slots: Sequence[int], read: Callable[[int, int], bytes]
    ) -> list[tuple[int, int, bytes]]:
        """Return slot, sequence number and record of the entries that are still in a segment.

        Entries with a damaged record are dropped.

        Args:
            segment: The segment.
            slots: Slots whose entries may be in it.
            read: Returns the bytes at an offset, with a length.
        """
        hot, living = self.view.hot, []
        with self.view.lock:
            found = [
                (slot, hot.key(slot), hot.seq(slot), location)
                for slot in slots
                if (location := hot.location(slot)).segment == segment
            ]
        for slot, key, seq, location in found:
            record = read(location.offset, location.length)
            if _records.content_of(record, key) is None:
                self._damaged(key, seq)
            else:
                living.append((slot, seq, record))
        return living

    def _clear_away(self) -> None:
        """Delete segments that hold no live record and nothing that is not in the table."""
        view = self.view
        checkpoint = view.checkpoint
        there = segment_names(self._folder)
        with view.lock:
            dead = [
                segment
                for number, segment in view.segments.items()
                if segment.complete_since is not None
                and number not in view.hot.live
                and checkpoint.settled.get(segment.name, 0) >= segment.end
            ]
        if dead and not living_members(self._folder) <= {self._name}:
            latest = time.monotonic() - GRACE_SECONDS
            dead = [segment for segment in dead if (segment.complete_since or 0) <= latest]
        names = {segment.name for segment in dead if not segment.is_deleted}
        # Listed by an owner that was killed before it deleted them.
        left = checkpoint.dropped.keys() & there
        if names or left != checkpoint.dropped.keys():
            self._save(
                Checkpoint(
                    {name: at for name, at in checkpoint.done.items() if name not in names},
                    {name: at for name, at in checkpoint.settled.items() if name not in names},
                    dict.fromkeys(left | names, 0),
                )
            )
        for name in left | names:
            with suppress(OSError):
                (self._folder / name).unlink()
