"""Single flight: of those who need the same value at the same time, one computes it.

`Flights` is for the threads and tasks of one process, `FileFlights` for processes that share a
folder. Whoever crosses processes claims in `Flights` first, and asks `FileFlights` as its leader:
then at most one thread or task of a process waits for the others.
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
from queue import Empty, SimpleQueue
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

import filelock

from memora._files import file_mode, make_folder
from memora._fork import renew_after_fork
from memora._reentry import inside
from memora.calls._bridge import alarm, within

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

_SUFFIX = ".flight"
_DELAYS = (0.02, 0.2)  # seconds: the first and the longest, before the jitter
_GROWTH, _JITTER = 1.5, 0.25

SECONDS = 6.0
"""After which the lead of a process that stands still is another's."""
_RENEW_SECONDS = 1.0
_LOOK_SECONDS = 2.0  # between two looks at a lease; after more, the first does not count
_LOOKS = 10  # at least: on a machine that is overloaded who looks is late as well
_SEEN = 1024  # leases of others that are watched
_JOIN_SECONDS = 1.0

# What this thread or task leads, and whatever it started with a copy of its context: the leader's
# own computation must not wait for its end.
_led: ContextVar[tuple[_Queue, ...]] = ContextVar("led", default=())


class Flight:
    """A claim of a key. In its block it either `leads`, or it has `landed` with a `value`."""

    def __init__(self, land: Callable[[Flight, object], None]) -> None:
        self.leads = self.landed = False
        # Leads beside another, whose end it must not wait for, among processes neither.
        self.detached = False
        self.value: Any = None
        self._land = land

    def land(self, value: object) -> None:
        """Give the value to all who wait; the leader may, once.

        Whoever claims the key after this leads another flight: put the value where they will look
        first, before this.
        """
        if not self.leads or self.landed:
            raise RuntimeError("a flight is landed once, and by its leader")
        self._land(self, value)


class _Claim(Flight):
    """A flight, and how to reach who claims it."""

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
        self.blocks = blocks  # its thread, while it waits
        self.thread = threading.get_ident()
        self.queue: _Queue | None = None  # None: leads, and lands for nobody
        self.led = _led.get()  # what waits while this does


_Queue = deque[_Claim]  # the first leads, the others wait


class Flights:
    """The flights of one process, for its threads and the tasks of all its event loops.

    A leader that leaves its block without landing, for whatever reason, leaves the flight to one of
    those who wait. Nobody waits where that cannot end: if the leader is what made the claim, or
    waits for what did, or is a task of the very thread that would block, the claim leads too, and
    lands for nobody. So does who has waited for long enough.
    """

    def __init__(self) -> None:
        renew_after_fork(self)

    def renew(self) -> None:
        """See `Renewable`."""
        self._lock = threading.Lock()  # guards the queues
        self._queues: dict[bytes, _Queue] = {}
        # Who has left without landing, until somebody has the lock: leaving does not wait for it,
        # because the garbage collector may end a block at any time, in the thread that has it.
        self._left: deque[_Claim] = deque()

    def __len__(self) -> int:
        """Return how many keys are claimed."""
        return len(self._queues)

    @contextmanager
    def claim(self, key: bytes, *, timeout: float | None = None) -> Iterator[Flight]:
        """Lead the flight of a key, or block this thread until it has landed.

        Where it has not after `timeout` seconds, lead beside it: whether the other computes or
        hangs, nobody can tell.
        """
        # Not an event, whose own lock a signal handler of this thread could wait for in vain.
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
        """Do as `claim`, and suspend this task; to lead at once does not."""
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
        """Take a place in the queue; True where it leads."""
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
        """Leave the queue, and lead beside it, unless the wait has just ended otherwise."""
        with self._lock:
            if not (claim.landed or claim.leads):
                self._let_go(claim)
                claim.queue, claim.leads, claim.detached = None, True, True
        self._settle()

    def _waits_for(self, queue: _Queue, led: tuple[_Queue, ...]) -> bool:
        """Tell whether a flight is one of those, or its leader waits for one, or that one's."""
        known = [queue] if led else []  # nobody waits for who leads nothing
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
                return  # in a forked child: who waits is in the parent
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
        """Let go of who has left; whoever has the lock comes here after it."""
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
            # The first; but a task cannot lead while somebody else blocks its thread.
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
    """The lead of a key among processes, until it is released or its process ends."""

    def __init__(
        self, lock: filelock.BaseFileLock, file: int, end: Callable[[Lease], None]
    ) -> None:
        self._lock, self._file, self._end = lock, file, end

    @property
    def path(self) -> Path:
        """The file."""
        return Path(self._lock.lock_file)

    def is_lost(self) -> bool:
        """Tell whether another process leads by now, or has led, as this one stood still."""
        try:
            return not os.path.samestat(os.fstat(self._file), self.path.stat())
        except OSError:
            return True

    def renew(self) -> None:
        """Show that this process runs; nothing happens where the lead is no longer held."""
        if self._lock.is_locked:
            with suppress(OSError):
                os.utime(self._file if os.utime in os.supports_fd else self._lock.lock_file)

    def release(self) -> None:
        """Let others lead; once is enough, and in a forked child nothing happens."""
        if self._lock.is_locked:  # never in a child
            self._end(self)
            # Before the lock is released: whoever has opened the file meanwhile sees that its lock
            # is of no use. Windows refuses; there filelock deletes it.
            with suppress(OSError):
                if not self.is_lost():
                    self.path.unlink()
            self._lock.release()


class _Seen(NamedTuple):
    """The lease of another process, as it was seen."""

    file: int
    renewed: int
    since: float
    """When it was first seen so; monotonic seconds."""
    last: float
    """When it was last seen so."""
    looks: int
    """How often."""

    def is_of(self, found: os.stat_result) -> bool:
        """Tell whether a file is the one that was seen, and has not been renewed since."""
        return (self.file, self.renewed) == (found.st_ino, found.st_mtime_ns)


class FileFlights:
    """The flights of the processes that share a folder: a lock file for each key.

    The system releases the lock of a process that ends, however it ends; the file it leaves is
    deleted by the next who leads that key, or opens the folder. A process that stands still keeps
    its lock, but renews the file's time no longer: after `SECONDS` another takes the lead. Within a
    process, `Flights` is to be asked first.

    Raises:
        OSError: The folder cannot be made or read.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        make_folder(folder)
        for path in folder.glob(f"*{_SUFFIX}"):
            with suppress(OSError):
                if (lease := _take(path, _nothing)) is not None:
                    lease.release()
        renew_after_fork(self)

    def renew(self) -> None:
        """See `Renewable`."""
        # Guards what follows. Reentrant: the garbage collector may end the block of a leader, which
        # releases its lease, at any time.
        self._lock = threading.RLock()
        self._held: dict[Path, Lease] = {}
        self._seen: OrderedDict[Path, _Seen] = OrderedDict()
        self._thread: threading.Thread | None = None
        self._wake: SimpleQueue[None] = SimpleQueue()

    def try_lead(self, key: bytes) -> Lease | None:
        """Lead a key unless another process does; then ask again, after each of `delays()`.

        Whoever gets a lease looks for the value once more: another may have led and landed since
        this one looked last.

        Raises:
            OSError: The folder cannot be written, or its file system knows no locks.
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
        """Tell whether a key is led here, and another has taken the lead since."""
        lease = self._held.get(self._path(key))
        return lease is not None and lease.is_lost()

    def _path(self, key: bytes) -> Path:
        return self._folder / f"{key.hex()}{_SUFFIX}"

    def close(self) -> None:
        """End the thread; what is led stays so until it is released."""
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
                with suppress(RuntimeError):  # no more threads: others may compute it too
                    thread.start()
                    self._thread = thread

    def _let_go(self, lease: Lease) -> None:
        with self._lock:
            if self._held.get(lease.path) is lease:
                del self._held[lease.path]

    @inside
    def _renew_all(self) -> None:
        """Renew what is held, for as long as something is."""
        while True:
            with suppress(Empty):
                self._wake.get(timeout=_RENEW_SECONDS)
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
        """Tell whether the process that leads has renewed nothing for so long, while this looked.

        By its own clock: those of two processes, or of a file system, need not agree. Whoever did
        not look for a while may have stood still as well.
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
        """Delete the file of a process that stands still; its lock then excludes nobody."""
        # One at a time: two who saw the same old file must not delete each other's new one.
        guard = filelock.FileLock(
            self._folder / "takeover.lock", thread_local=False, mode=file_mode(self._folder)
        )
        # A `filelock.Timeout` is an OSError: another is at it.
        with suppress(OSError), self._lock, guard.acquire(blocking=False):
            seen = self._seen.pop(path, None)
            if seen is not None and seen.is_of(path.stat()):
                path.unlink()


def delays(draw: Callable[[], float] = random.random) -> Iterator[float]:
    """Yield the seconds to wait between attempts, from 0.02 growing to 0.25, for ever.

    Args:
        draw: A number in [0, 1): so much of the jitter, that not all ask at once.
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
    # A lock on a file that is no longer there, or is another by now, excludes nobody.
    with suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(opened[0]), path.stat()):
            lease = Lease(lock, opened[0], end)
            lease.renew()
            return lease
    lock.release()
    return None


def _nothing(_: object) -> None:
    """There is nothing to do."""
