"""Store in a directory on disk: lookups in RAM, a log per process, and one LanceDB table.

A cache named NAME has two folders: NAME.log with the segments, the locks and the checkpoint, and
NAME.lance with the table. The table holds vectors and texts; payloads stay in the log.

Writes: `put` appends one record to a segment of its own process and applies it to the entries in
RAM, where the process's threads see it at once. No process writes another's segments, so writers
need no common lock. Deletions go to separate segments and are synced before the call returns,
except with durability "memory". Sequence numbers order operations between processes; the highest
wins. One is the present time in nanoseconds, raised if need be above every number that its process
has seen.

Reads: lookups are answered from RAM (`_view`, `memtable`); only a payload that is not cached is
read from its segment. With hot_index "off", vectors are searched in the table. Processes see each
other through the log: a background thread reads new records several times per
`max_staleness_seconds`, about half as often if nothing changes. A process that stood still too long
loads everything again.

Maintenance: the process that holds owner.lock is the owner (`_maintenance`). It writes the log's
changes to the table in batches, saves in the checkpoint how far it got, compacts the table, moves
live records out of mostly dead segments, and deletes dead segments after a grace period. If it
ends, the system releases the lock and another process takes over.

Crashes: with durability "process" an entry survives `kill -9` once `put` has returned, with "power"
also a power cut; "memory" may lose what it has not written yet. A crash leaves a log that is ahead
of the table, perhaps with half a record at its end. The next open loads the table and
applies the log from the checkpoint on; incomplete and damaged records are detected by checksum and
are not served.
"""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack, suppress
from itertools import islice
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa

from memora._clock import SteadyClock
from memora._files import make_folder
from memora.concurrency.flights import FileFlights
from memora.concurrency.fork import register_for_reinit
from memora.concurrency.periodic import Periodic
from memora.errors import ClosedError, CorruptEntryError, StoreError, StoreFormatError
from memora.model import Match, Measures
from memora.stores.disk import _guards, _records
from memora.stores.disk._identity import TableIdentity
from memora.stores.disk._journal import DELETIONS, RESERVE, Writer, keep_reserve, release_reserve
from memora.stores.disk._lance import faults
from memora.stores.disk._maintenance import Maintenance
from memora.stores.disk._membership import Member, living_members
from memora.stores.disk._table import MIN_INDEX_ROWS, EntryTable
from memora.stores.disk._view import GRACE_SECONDS, LogView
from memora.stores.memtable import Location

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from memora.model import Content, Entry, EntryInfo
    from memora.protocols import Lease, Vector
    from memora.selection import Selection
    from memora.stores._settings import TableSettings

_PATIENCE_SECONDS = 10.0  # how long `close` waits for the store's threads
# Up to this many entries, vectors are loaded before a store opens; above, in the background.
_LOAD_AT_ONCE = 100_000
_LOAD_ROWS = 512  # per hold of the lock: a millisecond
_BATCH = 64  # other items per hold of the lock
_SWEEP_ROWS = 1024  # invalidated entries removed per round
# How many entries a process evicts after each `put` if another is the owner: more than it adds, so
# that a burst of several threads is caught up.
_OWN_EVICTIONS = 2
# How long the maintenance thread waits if nothing has happened.
_IDLE_SECONDS = 2.0
_INDEX_ROWS = 4  # moved to a graph per hold of the lock: a millisecond
_INDEX_SECONDS = 0.2  # per round
# Backlog, in flushes, from which `put` slows down for the flush. Otherwise the log would grow for
# as long as entries are stored faster than the table takes them.
_BACKLOG = 8
_BREATH_SECONDS = 0.005
_EXTRA = 8  # rows requested from the table beyond four times k, as some are invalidated


class LanceStore:
    """A store in a directory: a LanceDB table, the log beside it, and its entries in RAM.

    Args:
        path: The directory; created if it is missing and `settings.create` is true.
        settings: The settings.

    Raises:
        StorePathError: The path cannot be opened or written, or holds no such table.
        StoreFormatError: The table is not Memora's, or of another format.
        ModelMismatchError: Another embedder made the table's vectors.
        StoreError: The table or the log cannot be read.
    """

    _in_children = True  # whether a forked child can use the store

    def __init__(self, path: str | Path, settings: TableSettings) -> None:
        path = Path(path)
        _guards.check_directory(path, create=settings.create)
        path = path.absolute()  # the application may change its working directory
        _guards.check_process()
        name = settings.table_name
        folder = path / f"{name}.log"
        identity = TableIdentity(settings.model, settings.dimension)
        table: EntryTable | None = None
        if not settings.create or EntryTable.exists(path, name):
            table = EntryTable(path, name, identity, create=False)
            if table.needs_upgrade:
                table = _upgraded(path, name, identity)
        with faults(f"make the log in {str(folder)!r}"):
            if table is None:
                _guards.check_ours(path)
            make_folder(folder)
        if table is None:
            with _guards.opening(folder):
                # With the store's permissions; LanceDB's files in it follow the umask.
                make_folder(path / f"{name}.lance")
                table = EntryTable(path, name, identity, create=True)
        self._view = LogView(folder, settings.dimension, settings.view)
        self._flights: FileFlights | None = None
        self._reserve: Path | None = folder / RESERVE
        # Four reads per staleness period: a read may just miss a record, and takes time itself. And
        # often enough that this process is not taken for one that stood still.
        self._begin(table, settings, min(settings.max_staleness_seconds, GRACE_SECONDS / 4) / 4)

    def _begin(self, table: EntryTable, settings: TableSettings, interval: float) -> None:
        """Load the table and the log, and start the background threads."""
        self._table: EntryTable | None = table
        self._settings, self._interval, self._policy = settings, interval, settings.policy
        self._index_at = settings.index_at
        self._closed = self._opened = False
        self._limits = (settings.max_entries, settings.max_bytes)
        clock = settings.clock
        self._clock = clock if isinstance(clock, SteadyClock) else SteadyClock(clock)
        self._newest_maintained = 0  # newest sequence number when `_run_maintenance` last began
        self._uses_written_at = time.monotonic()
        self._faults: dict[str, BaseException] = {}  # by step: not reported yet
        self._failing: dict[str, BaseException] = {}  # by step: faults of its last run
        self._quarantined = 0
        self._member: Member | None = None
        self._maintenance: Maintenance | None = None
        register_for_reinit(self)
        with faults(f"open {table.where}"):
            member = self._join()  # first: others delete segments unless it is a member
            try:
                self._load()
                if self._view.graph is not None and len(self._view.hot) <= _LOAD_AT_ONCE:
                    self._load_vectors(self._view)
            except BaseException:
                member.leave()
                raise
        if lost := self._view.missing_entries:
            self.note("load", StoreError(f"{lost} entries are lost: their segments are missing"))
        if damaged := self._view.damaged_entries + len(self._view.suspects):
            self._faults["check"] = StoreError(f"{damaged} entries are damaged, and are dropped")
            with suppress(StoreError):  # the disk is full: dropped here now, logged later
                self._drop_suspects()
        self._opened = True
        self._begin_threads()
        _guards.open_stores.add(self)

    def hold(self, timeout: float, /) -> bool:
        return self._view.lock.acquire(timeout=timeout)

    def release(self) -> None:
        self._view.lock.release()

    def reinit_after_fork(self) -> None:
        """Create the locks; in a forked child, leave the table and the log to the parent."""
        self._reinit_locks()
        if not self._opened or self._closed:
            return
        # LanceDB hangs or crashes in a process forked from one that used it. A child answers from
        # the log and the entries in RAM; another process maintains the table.
        _guards.leave_to_parent(
            self._member, self._maintenance, self._writer, self._deletions, self._table
        )
        self._member = self._maintenance = self._table = None
        view = self._view
        view.own = None
        for segment in view.segments.values():
            segment.own = False
        view.graph = view.graph or "int8"

    def _reinit_locks(self) -> None:
        self._view.reinit_after_fork()
        self._writing = threading.Lock()  # one writer of this process's log at a time
        # Taken before `_writing`, which is taken before the view's.
        self._maintaining = threading.Lock()
        self._evicted = self._expired = 0  # counts of this process; guarded by `_writing`
        self._unlogged: list[_records.Record] = []  # withdrawn here but not logged yet

    def _join(self) -> Member:
        """Join the members of this store; the caller holds `_writing`, or is the only thread."""
        view = self._view
        member = Member(view.folder)
        self._writer = Writer(view.folder, member.name, durability=self._settings.durability)
        self._deletions = self._writer
        if self._settings.durability != "memory":
            # In a separate log: a withdrawal then waits for its own bytes to reach the disk, not
            # for the results stored meanwhile.
            self._deletions = Writer(view.folder, member.name + DELETIONS, durability="power")
        if self._reserve is not None:
            keep_reserve(self._reserve)
        if self._table is not None and self._settings.keep:
            self._maintenance = Maintenance(
                view,
                self._table,
                name=member.name,
                move=self._move,
                damaged=self._quarantine,
                clock=self._clock,
            )
        view.own = member.name
        self._member = member
        return member

    def _begin_threads(self) -> None:
        def worker(step: Callable[[], float | None], interval: float) -> Periodic:
            return Periodic(
                step,
                name="memora-store",
                interval=interval,
                delay=interval,
                note=self.note,
                restart=self._in_children,
            )

        self._follower = worker(self._follow, self._interval)
        self._maintainer = worker(self._run_maintenance, _IDLE_SECONDS)
        for one in (self._follower, self._maintainer):
            one.start()

    def get(self, key: bytes, /, *, now: float) -> tuple[Entry, Content] | None:
        self._check()
        view = self._view
        with view.lock:
            if (slot := view.hot.find(key, now)) is None:
                return None
            entry = view.hot.entry(slot)
            content = view.contents.get(slot)
            if content is not None:
                return entry, content
            seq, location = view.hot.seq(slot), view.hot.location(slot)
            segment = view.segments[location.segment]
        with faults("get"):
            content = _records.content_of(segment.read(location.offset, location.length), key)
        if content is None:
            raise self._damaged(entry, seq)
        with view.lock:
            if view.hot.slot(key) == slot and view.hot.seq(slot) == seq:
                view.cache(slot, content)
        return entry, content

    def get_in_memory(
        self, key: bytes, /, *, now: float
    ) -> tuple[Entry, Content] | Literal[False] | None:
        self._check()
        view = self._view
        with view.lock:
            if (slot := view.hot.find(key, now)) is None:
                return False
            content = view.contents.get(slot)
            return None if content is None else (view.hot.entry(slot), content)

    def peek(self, key: bytes, /, *, now: float) -> Entry | None:
        self._check()
        hot = self._view.hot
        with self._view.lock:
            slot = hot.find(key, now)
            return None if slot is None else hot.entry(slot)

    def fetch(self, key: bytes, /, *, now: float) -> tuple[Entry, Content, Vector | None] | None:
        self._check()
        view = self._view
        with view.lock:
            if (slot := view.hot.find(key, now)) is None:
                return None
            entry, seq, location = view.hot.entry(slot), view.hot.seq(slot), view.hot.location(slot)
            segment = view.segments[location.segment]
        with faults("fetch"):
            record = _records.unpack(segment.read(location.offset, location.length))
        if record is None or record.key != key or record.content is None:
            raise self._damaged(entry, seq)
        return entry, record.content, record.vector

    def select(self, selection: Selection, /, *, now: float) -> list[EntryInfo]:
        self._check()
        view = self._view
        with faults("select"):
            view.read()
        with view.lock:
            found = view.hot.select(selection)
        infos: list[EntryInfo] = []
        for start in range(0, len(found), _BATCH):
            with view.lock:
                infos += view.hot.infos(found[start : start + _BATCH], now)
        return infos

    def search(
        self, vector: Vector, /, *, context: str, k: int, now: float, since: float = -inf
    ) -> list[Match]:
        self._check()
        view = self._view
        with view.lock:
            found = view.hot.search(vector, context=context, k=k, now=now, since=since)
            matches = [Match(view.hot.entry(slot), cosine) for slot, cosine in found]
            if view.complete:
                return matches
        # After the search in RAM, so that an entry on its way from there to the table is found.
        best = {match.entry.key: match for match in matches}
        asked, current = k, 0
        while current < k:
            asked = 4 * asked + _EXTRA
            rows = self._search_table(vector, context, asked, now, since)
            with view.lock:
                current = 0
                for key, seq in rows:
                    slot = view.hot.slot(key)
                    if slot is None or view.hot.seq(slot) != seq:
                        continue  # obsolete row: deleted or replaced since
                    if view.hot.alive(slot, now):
                        current += 1
                        with suppress(OSError, ValueError):  # skips a damaged record
                            cosine = float(view.exact(slot) @ vector)
                            best[key] = Match(view.hot.entry(slot), cosine)
            if len(rows) < asked:
                break
        return sorted(best.values(), key=lambda match: -match.cosine)[:k]

    def put(self, entry: Entry, content: Content, /, *, vector: Vector | None) -> None:
        self.put_many([(entry, content, vector)])

    def put_many(self, items: Sequence[tuple[Entry, Content, Vector | None]], /) -> None:
        self._check()
        if self._flights is not None:  # a lost lease: another process's result is newer
            items = [one for one in items if not self._flights.is_lost(one[0].key)]
        if not items:
            return
        with self._writing:
            view, first = self._view, self._next_seq()
            raw = [_records.pack_put(first + i, *item) for i, item in enumerate(items)]
            number, offsets = self._append(raw)
            for start in range(0, len(items), _BATCH):
                with view.lock:
                    for i in range(start, min(start + _BATCH, len(items))):
                        entry, content, vector = items[i]
                        record = _records.Record(
                            _records.PUT, first + i, entry.key, entry, vector, content
                        )
                        slot = view.apply(record, number, offsets[i], len(raw[i]))
                        if slot is not None:
                            view.cache(slot, content)
            appended = self._writer.appended
        self._sync(appended)

    def touch(self, key: bytes, /, *, now: float, times: int = 1) -> None:
        self._check()
        view = self._view
        with view.lock:
            if (uses := view.hot.touch(key, now=now, times=times)) is not None:
                view.note_pending(key, uses)

    def discard(self, entries: Iterable[Entry], /) -> int:
        self._check()
        discarded, appended = 0, 0
        waiting, fault = iter(entries), None
        # After a fault the rest is withdrawn too, here at least, and the log is tried only once.
        while batch := list(islice(waiting, None if fault else _BATCH)):
            with self._writing:
                view = self._view
                with view.lock:
                    keys = dict.fromkeys(e.key for e in batch if view.hot.stored_as(e))
                    found = view.hot.seqs(keys)
                try:
                    self._delete(found, withdrawn=True)
                except StoreError as error:
                    fault = error
                appended = self._deletions.appended
            discarded += len(found)
        if fault is not None:
            raise fault
        if discarded:
            self._sync_deletions(appended)
        return discarded

    def invalidate_tag(self, tag: str, /) -> None:
        self._check()
        with faults("invalidate_tag"):
            self._view.read()  # so that the sequence number is later than all entries put before
        with self._writing:
            record = _records.Record(_records.INVALIDATE_TAG, self._next_seq(), bytes(16), tag=tag)
            self._log_deletions([record], withdrawn=True)
            appended = self._deletions.appended
        self._sync_deletions(appended)

    def sweep(self, *, now: float, limit: int) -> int:
        self._check()
        removed = 0
        while removed < limit:
            with self._writing:
                view = self._view
                with view.lock:
                    expired = view.hot.expired(now, min(limit - removed, _BATCH), present=True)
                self._remove(expired)
                self._expired += len(expired)
            if not expired:
                break
            removed += len(expired)
        return removed

    def maintain(self, *, max_entries: int | None, max_bytes: int | None = None, now: float) -> int:
        self._check()
        limits = (max_entries, max_bytes)
        # By order of storing, all processes evict the same entries. With another policy each would
        # evict different ones, so only the owner does; the others make room for the entries they
        # store.
        mine = self._policy is None or self._alone()
        evicted = self._evict(limits, now, None if mine else _OWN_EVICTIONS)
        self._limits = limits  # for entries of other processes
        maintenance = self._maintenance
        if (
            maintenance is not None
            and maintenance.owner
            and (backlog := maintenance.backlog()) >= 1
        ):
            self._maintainer.wake()
            if backlog >= _BACKLOG:
                time.sleep(_BREATH_SECONDS)
        for step in list(self._faults):
            if (fault := self._faults.pop(step, None)) is not None:
                raise StoreError(f"in the background: {fault}") from fault
        return evicted

    def count(self) -> int:
        self._check()
        return len(self._view.hot)

    def measure(self) -> Measures:
        self._check()
        with self._view.lock:
            hot = self._view.hot
            return Measures(
                bytes=hot.live_bytes,
                payload_bytes=None,  # would require reading the log
                index_bytes=hot.index_bytes,
                evicted=self._evicted,
                expired=self._expired,
            )

    def check(self) -> None:
        self._check()
        for fault in list(self._failing.values()):
            raise StoreError(f"in the background: {fault}") from fault
        # Faults that the background threads would meet only later: both folders must exist, be
        # those that were opened, and accept a file.
        with faults("check"):
            if self._table is not None:
                self._table.check()
            if self._member is not None:
                self._member.check()

    def create_index(self, **options: Any) -> bool:
        self._check()
        if self._table is None or self._maintenance is None:
            raise StoreError("a forked process cannot create an index; its parent can")
        self.flush()
        return self._table.create_index(**options)

    def try_lock(self, key: bytes, /) -> Lease | None:
        self._check()
        if self._flights is None:
            self._flights = FileFlights(self._view.folder / "flights")
        return self._flights.try_lock(key)

    def refresh(self) -> None:
        self._check()
        with faults("refresh"):
            self._view.read()

    def index_stats(self) -> dict[str, Any]:
        self._check()
        stats = {"has_index": False} if self._table is None else self._table.index_stats()
        return stats | self._own_stats()

    def _own_stats(self) -> dict[str, Any]:
        return {
            "total_entries": self.count(),
            "hot_index": self._view.graph or "off",
            "loaded": self._view.complete or self._view.graph is None,
            "quarantined_entries": self._quarantined
            + self._view.missing_entries
            + self._view.damaged_entries,
            "dropped_log_bytes": self._view.dropped_bytes,
        }

    def flush(self) -> None:
        """Flush the log to the table now, if this process is or can become the owner."""
        with self._writing:
            self._write_uses()
            self._writer.write_out()
        if self._maintenance is not None:
            with self._maintaining:
                if self._maintenance.acquire():
                    self._maintenance.flush()

    def compact(self) -> bool:
        """Flush the log to the table and compact it now.

        Returns:
            False if another process is the owner; it compacts when that is due.
        """
        self._check()
        with self._writing:
            self._write_uses()
            self._writer.write_out()
        with self._maintaining:
            if self._maintenance is None or not self._maintenance.acquire():
                return False
            self._maintenance.compact()
        return True

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        _guards.open_stores.discard(self)
        self._follower.close(0)
        for worker in (self._maintainer, self._follower):
            worker.close(_PATIENCE_SECONDS)
        if self._flights is not None:
            self._flights.close()
        if self._member is None:
            return  # not used in this forked process
        with faults("close"), ExitStack() as steps:  # each step runs even if another fails
            if self._maintenance is not None:
                steps.callback(self._maintenance.release)
            steps.callback(self._member.leave)
            steps.callback(self._end_log)
            self.flush()
            if self._maintenance is not None and self._maintenance.owner:
                self._maintenance.finish()

    def _end_log(self) -> None:
        with self._writing:
            try:
                with ExitStack() as steps:  # as above
                    for writer in {self._writer, self._deletions}:  # which may be one
                        steps.callback(writer.close)
                    if self._unlogged:
                        self._log_deletions([])
            except StoreError as error:
                if not (lost := self._writer.pending_bytes):
                    raise
                raise StoreError(
                    f"{error}; {lost} bytes that were acknowledged are lost"
                ) from error

    def note(self, step: str, fault: BaseException | None) -> None:
        """Record the outcome of a background step."""
        if fault is None:
            self._failing.pop(step, None)
        else:
            # Without the traceback, whose frames would keep large objects alive.
            self._failing[step] = self._faults[step] = fault.with_traceback(None)

    def _check(self) -> None:
        if self._closed:
            raise ClosedError("this store has been closed")
        if self._member is None:
            with self._writing:
                if self._member is None:
                    self._join()

    def _load(self) -> None:
        """Load the table and the log again; the caller keeps others from writing."""
        table = self._table
        if table is None:
            self._view.forget_all()
            return
        self._write_uses()
        self._writer.write_out()
        old = self._view
        view = self._load_view(table)
        view.own = old.own
        self._clock.advance(view.checkpoint.now)
        if self._policy is not None:
            with old.lock:
                for slot in old.hot.slots():
                    self._policy.remove(old.hot.key(slot))
                old.hot.follow_policy(None)
            view.hot.follow_policy(self._policy)
        with view.lock:
            for record in self._unlogged:
                view.withdraw(record)
        self._view = view
        if self._maintenance is not None:
            self._maintenance.view = view

    def _load_view(self, table: EntryTable) -> LogView:
        current = [one for one in {self._writer.current, self._deletions.current} if one]
        return self._view.load(table, current=current)

    def _follow(self) -> float | None:
        """Write held-back records, log uses, and read the other processes' records.

        Returns:
            Seconds until the next run, if more than the interval.
        """
        self._check()
        known = self._view.newest
        try:
            with self._writing:
                if self._unlogged:
                    self._log_deletions([])
                self._write_due_uses()
                self._writer.write_out()
        finally:
            self._read_log()
        # Two reads per staleness period are enough if nothing happens: a process may have many
        # stores.
        quiet = self._view.newest == known and self._settings.durability != "memory"
        return 2 * self._interval if quiet else None

    def _drop_suspects(self) -> None:
        """Delete entries that must not be served any more, in this process and in the log."""
        suspects = self._view.suspects
        while suspects:
            with self._writing:
                with self._view.lock:
                    batch = dict(islice(suspects.items(), _BATCH))
                    for key in batch:
                        del suspects[key]
                    known = self._view.hot.seqs(batch)
                found = [(key, seq) for key, seq in known if batch[key] == seq]
                self._quarantined += len(found)
                self._delete(found, withdrawn=True)

    def _read_log(self) -> None:
        self._view.read()
        self._drop_suspects()
        if self._view.lost:
            # This process stood still; a segment may have been written and deleted meanwhile.
            with self._maintaining, self._writing:
                self._load()
            self._maintainer.wake()
        if self._view.newest != self._newest_maintained:
            self._maintainer.wake()

    def _run_maintenance(self) -> None:
        """Do the slow work: evict, sweep, index and load vectors, maintain the table."""
        self._newest_maintained = self._view.newest
        self._check()
        if self._policy is None or self._alone():
            self._evict(self._limits, self._clock(), None)
        view = self._view
        if view.hot.invalidated_tags and self.sweep(now=0.0, limit=_SWEEP_ROWS) == _SWEEP_ROWS:
            self._maintainer.wake()
        self._index_pending()
        if view.graph is not None and not view.complete:
            self._load_vectors(view)
        with self._maintaining:
            maintenance = self._maintenance
            if maintenance is None or self._closed:
                return
            maintenance.refresh()
            maintenance.complete_segments()
            if maintenance.acquire():
                maintenance.run()
                if self._reserve is not None:
                    keep_reserve(self._reserve)
                self._create_due_index()
        if view.graph is None:
            self._leave_to_table()

    def _index_pending(self) -> None:
        if self._view.graph is None or self._view.hot.pending_index() is None:
            return
        import usearch.index  # noqa: F401, PLC0415 - imported before the lock is taken

        until = time.monotonic() + _INDEX_SECONDS
        while time.monotonic() < until and not self._closed:
            with self._view.lock:
                index = self._view.hot.pending_index()
                if index is None:
                    return
                index.index_pending(_INDEX_ROWS)
            time.sleep(0)
        self._maintainer.wake()

    def _load_vectors(self, view: LogView) -> None:
        hot = view.hot
        batches = self._stored_vectors() if self._table is None else self._table.vectors()
        for keys, seqs, vectors in batches:
            for start in range(0, len(keys), _LOAD_ROWS):
                if self._closed:
                    return
                rows: list[int] = []
                slots: list[int] = []
                with view.lock:
                    for row in range(start, min(start + _LOAD_ROWS, len(keys))):
                        slot = hot.slot(keys[row])
                        if slot is None or hot.seq(slot) != seqs[row]:
                            continue
                        if _records.checksum_of(vectors[row]) == hot.check(slot):
                            rows.append(row)
                            slots.append(slot)
                        else:
                            view.suspects[keys[row]] = seqs[row]
                    hot.add_vectors(slots, vectors[rows])
                time.sleep(0)
            if self._opened:
                self._index_pending()  # or a large context's vectors would all stay in RAM
        view.complete = True
        pa.default_memory_pool().release_unused()  # memory of the scan

    def _stored_vectors(self) -> Iterator[tuple[list[bytes], list[int], NDArray[np.float32]]]:
        """Read the vectors from the log; for a forked process, which cannot use the table."""
        view = self._view
        with view.lock:
            slots = view.hot.slots()
        for slot in slots:
            with view.lock:
                key, seq = view.hot.key(slot), view.hot.seq(slot)
                location = view.hot.location(slot)
                segment = view.segments.get(location.segment)
            record = segment and _records.unpack(segment.read(location.offset, location.length))
            if record and record.key == key and record.vector is not None:
                yield [key], [seq], record.vector.reshape(1, -1)

    def _leave_to_table(self) -> None:
        """Without a hot index: drop vectors from RAM that the table holds."""
        view = self._view
        with view.lock:
            slots = view.hot.indexed()
        for start in range(0, len(slots), _BATCH):
            with view.lock:
                for slot in slots[start : start + _BATCH]:
                    segment, offset, _ = view.hot.location(slot)
                    if segment < 0:
                        continue
                    if offset < view.checkpoint.done.get(view.segments[segment].name, 0):
                        view.hot.drop_vector(slot)

    def _search_table(
        self, vector: Vector, context: str, k: int, now: float, since: float
    ) -> list[tuple[bytes, int]]:
        if self._table is None:
            return []  # a forked process that is still loading
        return self._table.search(vector, context=context, k=k, now=now, since=since)

    def _create_due_index(self) -> None:
        if self._index_at is None or self._table is None:
            return
        if self._table.count() >= max(self._index_at, MIN_INDEX_ROWS):
            if not self._table.has_index():
                self._table.create_index()
            self._index_at = None

    def _alone(self) -> bool:
        """Return whether this process may evict for all: it is the owner, or cannot be one."""
        return self._maintenance is None or self._maintenance.owner

    def _evict(self, limits: tuple[int | None, int | None], now: float, most: int | None) -> int:
        evicted = 0
        while self._view.hot.surplus(*limits) and (most is None or evicted < most):
            with self._writing:
                hot = self._view.hot
                with self._view.lock:
                    surplus = hot.surplus(*limits)
                    n = min(surplus, _BATCH, _BATCH if most is None else most - evicted)
                    expired = hot.expired(now, n) if n else []
                    keys = expired or (hot.victims(n) if n else [])
                if not keys:
                    break
                self._remove(keys)
                self._expired += len(expired)
                self._evicted += 0 if expired else len(keys)
                evicted += len(keys)
        return evicted

    def _remove(self, keys: list[bytes]) -> None:
        """Delete the entries of keys; the caller holds `_writing`."""
        with self._view.lock:
            found = self._view.hot.seqs(keys)
        try:
            self._delete(found)
        except BaseException:
            with self._view.lock:
                self._view.hot.keep(keys)
            raise

    def _delete(self, keys: list[tuple[bytes, int]], *, withdrawn: bool = False) -> None:
        """Delete the entries of keys up to sequence numbers; the caller holds `_writing`."""
        if keys:
            deletions = [_records.Record(_records.DELETE, seq, key) for key, seq in keys]
            self._log_deletions(deletions, withdrawn=withdrawn)

    def _log_deletions(self, records: list[_records.Record], *, withdrawn: bool = False) -> None:
        """Log deletions and apply them here; the caller holds `_writing`.

        Args:
            records: Deletions of entries or of tags.
            withdrawn: Whether they are applied here even if the log cannot be written; they are
                then logged as soon as it can be.

        Raises:
            StoreError: The disk is full, for example.
        """
        view = self._view
        if self._deletions is not self._writer:
            self._end_uses(records)
        waiting = [*self._unlogged, *records]
        raw = [_records.pack_deletion(record) for record in waiting]
        try:
            try:
                number, offsets = self._append(raw, self._deletions)
            except StoreError:
                if self._reserve is None or not release_reserve(self._reserve):
                    raise
                number, offsets = self._append(raw, self._deletions)
        except StoreError as error:
            if not withdrawn:
                raise
            with view.lock:
                for record in records:
                    view.withdraw(record)
            self._unlogged = waiting
            raise StoreError(
                f"{error}; withdrawn in this process, and for all as soon as the log can be written"
            ) from error
        self._unlogged = []
        with view.lock:
            for record, offset, one in zip(waiting, offsets, raw, strict=True):
                view.apply(record, number, offset, len(one))

    def _end_uses(self, records: Iterable[_records.Record]) -> None:
        """Log deletions among the uses too, so that later uses count for the key's next entry."""
        view = self._view
        with view.lock:
            used = [record for record in records if view.hot.uses(record.key) is not None]
        if used:
            with suppress(StoreError):  # the disk is full: evictions may be chosen less well
                raw = [_records.pack_deletion(record) for record in used]
                number, offsets = self._append(raw)
                with view.lock:
                    for record, offset, one in zip(used, offsets, raw, strict=True):
                        view.apply(record, number, offset, len(one))

    def _write_due_uses(self) -> None:
        if time.monotonic() - self._uses_written_at >= self._settings.flush_interval_seconds:
            self._write_uses()

    def _write_uses(self) -> None:
        """Log the uses since the last call; the caller holds `_writing`, or is the only thread."""
        self._uses_written_at = time.monotonic()
        view = self._view
        with view.lock:
            keys = list(view.pending)
        for start in range(0, len(keys), _BATCH):
            with view.lock:
                batch = keys[start : start + _BATCH]
                uses = {key: view.pending[key] for key in batch if key in view.pending}
            raw = _records.pack_uses(self._next_seq(), uses)
            number, (offset,) = self._append([raw])
            with view.lock:
                segment = view.segments[number]
                segment.position = offset + len(raw)
                view.note_uses(segment.name, offset, len(raw))
                for key, one in uses.items():
                    view.forget_pending(key, one)

    def _move(self, records: list[tuple[int, int, bytes]]) -> None:
        with self._writing:
            view = self._view
            number, offsets = self._append([raw for _, _, raw in records])
            with view.lock:
                segment = view.segments[number]
                segment.position = offsets[-1] + len(records[-1][2])
            self._writer.write_out()
        # Synced before the source segment can be deleted, which needs that no live record is in it.
        segment.sync()
        with view.lock:
            for (slot, seq, raw), offset in zip(records, offsets, strict=True):
                if view.hot.holds(slot, seq):
                    view.hot.move(slot, Location(number, offset, len(raw)))

    def _damaged(self, entry: Entry, seq: int) -> CorruptEntryError:
        self._quarantine(entry.key, seq)
        return CorruptEntryError(f"the record of entry {entry.id} is damaged; it is dropped")

    def _quarantine(self, key: bytes, seq: int) -> None:
        """Delete an entry whose record is damaged, in this process and in the log."""
        with self._writing:
            with self._view.lock:
                slot = self._view.hot.slot(key)
                if slot is None or self._view.hot.seq(slot) != seq:
                    return
            self._quarantined += 1
            self._delete([(key, seq)])

    def _append(self, records: list[bytes], writer: Any = None) -> tuple[int, list[int]]:
        writer = writer or self._writer
        size = sum(map(len, records))
        limit = (
            self._maintenance.segment_limit() if self._maintenance is not None else 16 * 1024 * 1024
        )
        segment = writer.segment(size, limit=limit)
        offsets = writer.append(records)
        with self._view.lock:
            number = self._view.numbers.get(segment.name)
            if number is None:
                number = self._view.add_segment(segment)
        return number, offsets

    def _sync(self, appended: int) -> None:
        if self._settings.durability == "power":
            self._writer.sync(appended)

    def _sync_deletions(self, appended: int) -> None:
        if self._settings.durability != "memory":
            self._deletions.sync(appended)

    def _next_seq(self) -> int:
        return max(time.time_ns(), self._view.newest + 1)


def _upgraded(path: Path, name: str, identity: TableIdentity) -> EntryTable:
    """Open a table of an older format, and upgrade it."""
    folder = path / f"{name}.log"
    with faults(f"make the log in {str(folder)!r}"):
        make_folder(folder)
    with _guards.opening(folder):
        table = EntryTable(path, name, identity, create=False)
        if table.needs_upgrade:  # else another process has just upgraded it
            # The processes that have it open run an older version, and would go on writing its
            # format.
            if others := living_members(folder):
                raise StoreFormatError(
                    f"{table.where} is of an older format, and {len(others)} processes have it "
                    "open with an older version of memora-cache: close it there first, then it is "
                    "upgraded when it is opened here"
                )
            table.upgrade()
    return table
