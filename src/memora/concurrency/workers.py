"""A pool of threads that run functions with a deadline for the caller."""

from __future__ import annotations

import threading
import time
from collections import deque
from contextlib import suppress
from contextvars import ContextVar, copy_context
from math import inf
from typing import TYPE_CHECKING, Any, TypeVar, cast

from memora.concurrency.bridge import alarm, within
from memora.concurrency.fork import register_for_reinit
from memora.concurrency.reentry import inside, outside
from memora.errors import ArgumentError, DeadlineError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_IDLE_SECONDS = 10.0  # how long a thread waits for more to do
_END_SECONDS = 1.0  # how long closing waits for a thread that has nothing to do
_BACKLOG = 1000  # maximum number of background functions that wait for a thread

_halfway: ContextVar[float] = ContextVar("halfway", default=inf)


def seconds_to_spare() -> float | None:
    """Return the time until half of the caller's wait is over; None if it has no deadline.

    For work that improves a result: so much may be spent on it without missing the deadline.
    """
    halfway = _halfway.get()
    return None if halfway == inf else halfway - time.monotonic()


class _Job:
    """One function to run, and its outcome."""

    def __init__(
        self,
        function: Callable[[], Any],
        timeout: float | None,
        done: Callable[[], object] | None,
    ) -> None:
        wait = inf if timeout is None else timeout
        now = time.monotonic()
        self.function, self.ends = function, now + wait
        self.done = done  # wakes the caller; None for a background job
        self.context = copy_context()
        self.context.run(_halfway.set, now + wait / 2)
        self.value: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.value = self.context.run(self.function)
        except BaseException as error:  # noqa: BLE001 - raised again in the caller
            self.error = error

    def result(self) -> Any:
        """Return the value or raise the error. Call it only once."""
        try:
            if self.error is not None:
                raise self.error
            return self.value
        finally:
            self.error = None  # it refers to this frame: a reference cycle


class _Worker:
    """A thread with its current job, and the lock that wakes it for the next."""

    thread: threading.Thread

    def __init__(self, job: _Job) -> None:
        self.job: _Job | None = job
        self.wakes = threading.Lock()
        self.wakes.acquire()


# Not concurrent.futures, which joins its threads at exit; nor anyio, which does the same under
# asyncio, and whose limiter no longer counts an abandoned function.
class Workers:
    """Daemon threads that run functions, started on demand up to a limit.

    A function that exceeds its deadline keeps running, and its result is dropped. A hung function
    occupies its thread, but does not keep the interpreter from exiting. If all threads run overdue
    functions, a call fails at once. A function runs in a copy of the caller's context. It must not
    wait for another function of the same workers.

    Args:
        limit: Maximum number of threads.
        name: Prefix of the threads' names.
        report: Called in the thread with an exception raised by a submitted function.

    Raises:
        ArgumentError: The limit is below 1.
    """

    def __init__(
        self, limit: int, name: str, *, report: Callable[[BaseException], None] | None = None
    ) -> None:
        if type(limit) is not int or limit < 1:
            raise ArgumentError(f"limit must be an integer of 1 or more, got {limit!r}")
        self._limit, self._name, self._report = limit, name, report
        self._closed = False
        register_for_reinit(self)

    def reinit_after_fork(self) -> None:
        """See `ReinitAfterFork`."""
        # Guards the attributes below. Reentrant, as a signal handler may check the health.
        self._lock = threading.RLock()
        self._crew: set[_Worker] = set()
        self._idle: list[_Worker] = []  # a stack: the last to become idle is woken first
        self._waiting: deque[_Job] = deque()
        self._started = 0

    def run(self, function: Callable[[], T], timeout: float | None) -> T:
        """Run a function; return its value, or raise its exception.

        Raises:
            DeadlineError: It took longer than `timeout` seconds, including the wait for a thread;
                or all threads run overdue functions.
            RuntimeError: The system has no more threads.
        """
        done = threading.Lock()
        done.acquire()
        job = _Job(function, timeout, done.release)
        self._begin(job)
        finished = False
        try:
            with outside:
                finished = done.acquire(timeout=within(timeout))
        finally:
            if not finished:
                self._give_up(job)
        if not finished:
            raise DeadlineError(f"not done within {timeout} s")
        return cast("T", job.result())

    async def arun(
        self,
        function: Callable[[], T],
        timeout: float | None,
    ) -> T:
        """Do as `run`, but suspend the task meanwhile; it may be cancelled at any time."""
        wait, ring = alarm()

        def done() -> None:
            with suppress(RuntimeError):  # the event loop has ended
                ring()

        job = _Job(function, timeout, done)
        self._begin(job)
        finished = False
        try:
            finished = await wait(timeout)
        finally:
            if not finished:
                self._give_up(job)
        if not finished:
            raise DeadlineError(f"not done within {timeout} s")
        return cast("T", job.result())

    def submit(self, function: Callable[[], object]) -> None:
        """Run a function in the background, as soon as a thread is free.

        Raises:
            DeadlineError: 1,000 functions are waiting, or all threads run overdue functions.
        """

        def reported() -> None:
            try:
                function()
            except BaseException as error:  # noqa: BLE001 - the thread keeps running
                if self._report is not None:
                    self._report(error)

        self._begin(_Job(reported, None, None), backlog=_BACKLOG)

    def close(self) -> None:
        """End idle threads now, and the others after their current jobs.

        Functions passed after this still run, in threads that end afterwards.
        """
        with inside, self._lock:
            self._closed = True
            ended, self._idle = self._idle, []
            self._crew.difference_update(ended)
            for worker in ended:
                worker.job = None
                worker.wakes.release()
        for worker in ended:
            if worker.thread is not threading.current_thread():
                worker.thread.join(_END_SECONDS)

    @inside
    def stuck(self) -> bool:
        """Return whether all threads run overdue functions, so that new calls fail."""
        with self._lock:
            return self._stuck()

    @inside
    def _begin(self, job: _Job, *, backlog: float = inf) -> None:
        with self._lock:
            if self._idle:
                worker = self._idle.pop()
                worker.job = job
                worker.wakes.release()
            elif len(self._crew) < self._limit:
                self._start(job)
            elif len(self._waiting) >= backlog or self._stuck():
                raise self._refusal()
            else:
                self._waiting.append(job)

    def _start(self, job: _Job) -> None:
        worker = _Worker(job)
        self._started += 1
        worker.thread = threading.Thread(
            target=self._work, args=(worker,), name=f"{self._name}-{self._started}", daemon=True
        )
        self._crew.add(worker)
        try:
            worker.thread.start()
        except BaseException:
            self._crew.discard(worker)
            raise

    @inside
    def _give_up(self, job: _Job) -> None:
        """Abandon a job; fail queued jobs too if all threads run overdue functions."""
        refused: list[_Job] = []
        with self._lock:
            with suppress(ValueError):
                self._waiting.remove(job)
            if self._stuck():
                refused = [other for other in self._waiting if other.done is not None]
                self._waiting = deque(other for other in self._waiting if other.done is None)
        for other in refused:
            other.error = self._refusal()
            if other.done is not None:
                other.done()

    def _stuck(self) -> bool:
        """Return whether all threads run overdue functions. Needs the lock."""
        now = time.monotonic()
        return len(self._crew) >= self._limit and all(
            worker.job is not None and worker.job.ends <= now for worker in self._crew
        )

    def _refusal(self) -> DeadlineError:
        return DeadlineError(f"no thread is free: {self._name} has {self._limit}, all at work")

    def _work(self, worker: _Worker) -> None:
        job = worker.job
        while job is not None:
            job.run()
            with inside, self._lock:
                if worker not in self._crew:
                    return  # the function has forked, and this is the child's only thread
                worker.job = following = self._waiting.popleft() if self._waiting else None
                ends = following is None and self._closed
                if ends:
                    self._crew.discard(worker)
                elif following is None:
                    self._idle.append(worker)
            if job.done is not None:
                job.done()
            job = following  # at once, to free the previous job's result
            if job is None and not ends:
                job = self._more(worker)

    def _more(self, worker: _Worker) -> _Job | None:
        """Wait for a job; None if the thread must end."""
        if not worker.wakes.acquire(timeout=_IDLE_SECONDS):
            with self._lock:
                if worker in self._idle:
                    self._idle.remove(worker)
                    self._crew.discard(worker)
                    return None
            worker.wakes.acquire()  # a job is being assigned right now
        return worker.job
