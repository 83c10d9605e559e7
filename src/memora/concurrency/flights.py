"""Single flight: of several callers that need the same value at the same time, one computes it.

`Flights` coordinates the threads and tasks of one process, `FileFlights` processes that share a
folder. To coordinate both, claim a key in `Flights` first, and let its leader use `FileFlights`:
then at most one thread or task per process waits for other processes.
"""

from __future__ import annotations

import os
import random
import threading
from collections import OrderedDict, deque
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

import filelock

from memora._files import file_mode, make_folder
from memora.concurrency.bridge import alarm, within
from memora.concurrency.fork import register_for_reinit
from memora.concurrency.periodic import wait_for
from memora.concurrency.reentry import inside

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

_SUFFIX = ".flight"
_DELAYS = (0.02, 0.2)  # seconds: the first and the longest delay, without jitter
_GROWTH, _JITTER = 1.5, 0.25

SECONDS = 6.0
"""Age at which the lease of a stalled process may be taken over."""
_RENEW_SECONDS = 1.0
_LOOK_SECONDS = 2.0  # maximum gap between two looks at a lease; after a longer one, start over
_LOOKS = 10  # minimum before a takeover: on an overloaded machine, the observer is late as well
_SEEN = 1024  # maximum number of other processes' leases to watch
_JOIN_SECONDS = 1.0

# The flights led by this thread or task; code it started inherits them in a copy of its context. A
# leader's own computation must not wait for that leader.
_led: ContextVar[tuple[_Queue, ...]] = ContextVar("led", default=())


class Flight:
    """A claim of a key. In its block, it either leads, or has landed with a value."""

    def __init__(self, land: Callable[[Flight, object], None]) -> None:
        self.leads = self.landed = False
        # Leads beside another leader, for which it must not wait; nor for other processes.
        self.detached = False
        self.value: Any = None
        self._land = land

    def land(self, value: object) -> None:
        """Pass the value to all followers; only the leader may, once.

        A later claim of the key leads a new flight, so store the value before calling this.
        """
        if not self.leads or self.landed:
            raise RuntimeError("a flight is landed once, and by its leader")
        self._land(self, value)


class _Claim(Flight):
    """A flight, and how to wake its claimant."""

    def __init__(
        self,
        land: Callable[[Flight, object], None],
        key: bytes,
        ring: Callable[[], object],
        *,
        blocks: bool,
    ) -> None:
        super().__init__(land)
        self.key, self.ring = key, ring
        self.blocks = blocks  # whether waiting blocks its thread
        self.thread = threading.get_ident()
        self.queue: _Queue | None = None  # None: leads without followers
        self.led = _led.get()  # the flights that cannot land while this one waits


_Queue = deque[_Claim]  # the first claim leads, the others wait


class Flights:
    """The flights of one process, for its threads and the tasks of all its event loops.

    If a leader leaves its block without landing, for whatever reason, a follower becomes the
    leader. A claim that would wait forever leads too, without followers: if its own caller is the
    leader, if the leader waits for its caller, or if the leader is a task of the thread that would
    block. So does a claim whose timeout has passed.
    """

    def __init__(self) -> None:
        register_for_reinit(self)

    def reinit_after_fork(self) -> None:
        """See `ReinitAfterFork`."""
        self._lock = threading.Lock()  # guards the queues
        self._queues: dict[bytes, _Queue] = {}
        # Claims abandoned without landing, until they are removed under the lock. Abandoning does
        # not wait for it, as the garbage collector may end a block in the thread that holds it.
        self._left: deque[_Claim] = deque()

    def __len__(self) -> int:
        """Return the number of claimed keys."""
        return len(self._queues)

    @contextmanager
    def claim(self, key: bytes, *, timeout: float | None = None) -> Iterator[Flight]:
        """Lead the flight of a key, or block this thread until it has landed.

        After `timeout` seconds, lead beside the other leader, which may be computing or hung.
        """
        # Not an Event: a signal handler in this thread could deadlock on its internal lock.
        turn = threading.Lock()
        turn.acquire()
        claim = _Claim(self._land, key, turn.release, blocks=True)
        try:
            if not self._join(claim) and not turn.acquire(timeout=within(timeout)):
                self._detach(claim)
            self._begin(claim)
            yield claim
        finally:
            self._end(claim)

    @asynccontextmanager
    async def aclaim(self, key: bytes, *, timeout: float | None = None) -> AsyncIterator[Flight]:
        """Do as `claim`, but suspend this task to wait; leading at once does not suspend."""
        wait, ring = alarm()
        claim = _Claim(self._land, key, ring, blocks=False)
        try:
            if not self._join(claim) and not await wait(timeout):
                self._detach(claim)
            self._begin(claim)
            yield claim
        finally:
            self._end(claim)

    @inside
    def _join(self, claim: _Claim) -> bool:
        """Join the queue; return True if the claim leads."""
        with self._lock:
            queue = self._queues.get(claim.key)
            if queue is None:
                queue = self._queues[claim.key] = deque()
            endless = self._waits_for(queue, claim.led) or (
                claim.blocks and bool(queue) and queue[0].thread == claim.thread
            )
            claim.detached = endless
            claim.leads = endless or not queue
            if not endless:
                claim.queue = queue
                queue.append(claim)
        self._settle()
        return claim.leads

    @inside
    def _detach(self, claim: _Claim) -> None:
        """Leave the queue and compute alone, unless the claim has just landed or become leader."""
        with self._lock:
            if not (claim.landed or claim.leads):
                self._let_go(claim)
                claim.queue, claim.leads, claim.detached = None, True, True
        self._settle()

    def _waits_for(self, queue: _Queue, led: tuple[_Queue, ...]) -> bool:
        """Return whether a flight is in `led`, or its leader waits, also indirectly, for one."""
        known = [queue] if led else []  # no flight waits for a caller that leads none
        for one in known:  # grows
            if any(one is other for other in led):
                return True
            known += [
                other
                for other in self._queues.values()
                if not any(other is old for old in known)
                and any(one is theirs for claim in islice(other, 1, None) for theirs in claim.led)
            ]
        return False

    def _begin(self, claim: _Claim) -> None:
        if claim.leads and claim.queue is not None:
            _led.set((*_led.get(), claim.queue))

    def _end(self, claim: _Claim) -> None:
        if claim.queue is None:
            return
        if claim.leads:
            _led.set(tuple(queue for queue in _led.get() if queue is not claim.queue))
        if not claim.landed:
            self._left.append(claim)
            self._settle()

    @inside
    def _land(self, claim: Flight, value: object) -> None:
        claim.landed, claim.value = True, value
        if not isinstance(claim, _Claim) or claim.queue is None:
            return
        with self._lock:
            if self._queues.get(claim.key) is not claim.queue:
                return  # in a forked child: the followers are in the parent
            del self._queues[claim.key]
            claim.queue.popleft()
            waiting = [*claim.queue]
            for other in waiting:
                other.landed, other.value = True, value
        for other in waiting:
            with suppress(RuntimeError):  # its event loop has ended
                other.ring()
        self._settle()

    @inside
    def _settle(self) -> None:
        """Remove abandoned claims; called after each use of the lock."""
        while self._left and self._lock.acquire(blocking=False):
            try:
                self._let_go(self._left.popleft())
            finally:
                self._lock.release()

    def _let_go(self, claim: _Claim) -> None:
        queue = self._queues.get(claim.key)
        if queue is None or queue is not claim.queue or claim not in queue:
            return  # it has landed meanwhile, or this is a forked child
        vacant = queue[0] is claim
        queue.remove(claim)
        while vacant and queue:
            # The first follower leads; but a task cannot while another claim blocks its thread.
            thread = queue[0].thread
            heir = next((one for one in queue if one.blocks and one.thread == thread), queue[0])
            queue.remove(heir)
            queue.appendleft(heir)
            heir.leads, vacant = True, False
            try:
                heir.ring()
            except RuntimeError:  # its event loop has ended
                queue.popleft()
                vacant = True
        if not queue:
            del self._queues[claim.key]


class Lease:
    """Leadership of a key among processes, until it is released or the process ends."""

    def __init__(
        self, lock: filelock.BaseFileLock, file: int, end: Callable[[Lease], None]
    ) -> None:
        self._lock, self._file, self._end = lock, file, end

    @property
    def path(self) -> Path:
        """The lock file."""
        return Path(self._lock.lock_file)

    def is_lost(self) -> bool:
        """Return whether another process took the lead because this one stalled."""
        try:
            return not os.path.samestat(os.fstat(self._file), self.path.stat())
        except OSError:
            return True

    def renew(self) -> None:
        """Show that this process runs, by touching the file; nothing if the lease is not held."""
        if self._lock.is_locked:
            with suppress(OSError):
                os.utime(self._file if os.utime in os.supports_fd else self._lock.lock_file)

    def release(self) -> None:
        """Release the lease. Idempotent; does nothing in a forked child."""
        if self._lock.is_locked:  # never in a child
            self._end(self)
            # Delete the file before unlocking, so that a process that has it open sees that a lock
            # on it is void. Windows refuses this; there filelock deletes the file.
            with suppress(OSError):
                if not self.is_lost():
                    self.path.unlink()
            self._lock.release()


class _Seen(NamedTuple):
    """Observations of another process's lease since its last renewal."""

    file: int
    renewed: int
    since: float
    """Time of the first observation; monotonic seconds."""
    last: float
    """Time of the last observation."""
    looks: int
    """Number of observations."""

    def is_of(self, found: os.stat_result) -> bool:
        """Return whether a file is the observed one and has not been renewed since."""
        return (self.file, self.renewed) == (found.st_ino, found.st_mtime_ns)


class FileFlights:
    """The flights of the processes that share a folder: one lock file per key.

    The operating system releases the lock of a process that ends, however it ends. The file that
    remains is deleted by the next leader of that key, or when a process opens the folder. A stalled
    process keeps its lock, but stops renewing the file's time: after `SECONDS` another process
    takes the lead. Within a process, claim in `Flights` first.

    Raises:
        OSError: The folder cannot be created or read.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        make_folder(folder)
        for path in folder.glob(f"*{_SUFFIX}"):
            with suppress(OSError):
                if (lease := _take(path, _nothing)) is not None:
                    lease.release()
        register_for_reinit(self)

    def reinit_after_fork(self) -> None:
        """See `ReinitAfterFork`."""
        # Guards the attributes below. Reentrant, as the garbage collector may end a leader's block,
        # and so release its lease, at any time.
        self._lock = threading.RLock()
        self._held: dict[Path, Lease] = {}
        self._seen: OrderedDict[Path, _Seen] = OrderedDict()
        self._thread: threading.Thread | None = None
        self._wake: SimpleQueue[None] = SimpleQueue()

    def try_lock(self, key: bytes) -> Lease | None:
        """Acquire the lease of a key; None if another process leads. Retry after `delays()`.

        After getting a lease, look for the value once more: another process may have led and landed
        since the last lookup.

        Raises:
            OSError: The folder cannot be written, or its file system does not support locks.
        """
        path = self._path(key)
        lease = _take(path, self._let_go)
        if lease is None and self._stands_still(path):
            self._remove(path)
            lease = _take(path, self._let_go)
        if lease is not None:
            self._hold(lease)
            with self._lock:
                self._seen.pop(path, None)
        return lease

    def is_lost(self, key: bytes) -> bool:
        """Return whether this process led a key and another has taken the lead since."""
        lease = self._held.get(self._path(key))
        return lease is not None and lease.is_lost()

    def _path(self, key: bytes) -> Path:
        return self._folder / f"{key.hex()}{_SUFFIX}"

    def close(self) -> None:
        """End the thread; leases stay held until they are released."""
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            self._wake.put(None)
            thread.join(_JOIN_SECONDS)

    def _hold(self, lease: Lease) -> None:
        with self._lock:
            self._held[lease.path] = lease
            if self._thread is None:
                thread = threading.Thread(target=self._renew_all, name="memora-lease", daemon=True)
                with suppress(RuntimeError):  # no more threads: another process may compute it too
                    thread.start()
                    self._thread = thread

    def _let_go(self, lease: Lease) -> None:
        with self._lock:
            if self._held.get(lease.path) is lease:
                del self._held[lease.path]

    @inside
    def _renew_all(self) -> None:
        """Renew the held leases, until none is left."""
        while True:
            wait_for(self._wake, _RENEW_SECONDS)
            with self._lock:
                mine = self._thread is threading.current_thread()
                held = list(self._held.values())
                if mine and not held:
                    self._thread = None
            if not (mine and held):
                return
            for lease in held:
                lease.renew()

    def _stands_still(self, path: Path) -> bool:
        """Return whether the leader has not renewed its lease for `SECONDS` of observation.

        Measured by this process's own clock, because clocks of processes and file systems may
        differ. After a gap in the observation it starts over, as this process may have stalled.
        """
        now = monotonic()
        try:
            found = path.stat()
        except OSError:
            return False
        with self._lock:
            seen = self._seen.pop(path, None)
            if seen is None or not seen.is_of(found) or now - seen.last > _LOOK_SECONDS:
                seen = _Seen(found.st_ino, found.st_mtime_ns, now, now, 0)
            self._seen[path] = seen = seen._replace(last=now, looks=seen.looks + 1)
            while len(self._seen) > _SEEN:
                self._seen.popitem(last=False)
        return now - seen.since >= SECONDS and seen.looks >= _LOOKS

    def _remove(self, path: Path) -> None:
        """Delete the file of a stalled process, which makes its lock void."""
        # One at a time: two observers of the same old file must not delete each other's new one.
        guard = filelock.FileLock(
            self._folder / "takeover.lock", thread_local=False, mode=file_mode(self._folder)
        )
        # A `filelock.Timeout` is an OSError: another process is removing a file.
        with suppress(OSError), self._lock, guard.acquire(blocking=False):
            seen = self._seen.pop(path, None)
            if seen is not None and seen.is_of(path.stat()):
                path.unlink()


def delays(draw: Callable[[], float] = random.random) -> Iterator[float]:
    """Yield the seconds to wait between attempts, growing from 0.02 to 0.25, without end.

    Args:
        draw: Returns a number in [0, 1): the share of the jitter, which spreads the attempts.
    """
    delay, longest = _DELAYS
    while True:
        yield delay * (1 + _JITTER * draw())
        delay = min(delay * _GROWTH, longest)


def _take(path: Path, end: Callable[[Lease], None]) -> Lease | None:
    opened: list[int] = []
    lock = filelock.FileLock(
        path, thread_local=False, mode=file_mode(path.parent), on_acquired=opened.append
    )
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        return None
    # A lock on a file that has been deleted or replaced is void.
    with suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(opened[0]), path.stat()):
            lease = Lease(lock, opened[0], end)
            lease.renew()
            return lease
    lock.release()
    return None


def _nothing(_: object) -> None:
    """Do nothing."""
