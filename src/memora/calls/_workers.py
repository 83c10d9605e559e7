"""Functions run in threads of our own, so that nobody waits for one longer than agreed."""

from __future__ import annotations

import threading
import time
from collections import deque
from contextlib import suppress
from contextvars import copy_context
from math import inf
from typing import TYPE_CHECKING, Any, TypeVar, cast

from memora._fork import renew_after_fork
from memora._reentry import inside, outside
from memora.calls._bridge import alarm, within
from memora.errors import ArgumentError, DeadlineError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_IDLE_SECONDS = 10.0  # how long a thread waits for more to do
_END_SECONDS = 1.0  # how long closing waits for a thread that has nothing to do
_BACKLOG = 1000  # functions that nobody waits for, waiting for a thread


class _Job:
    """One function to run, and what became of it."""

    def __init__(
        self, function: Callable[[], Any], ends: float, done: Callable[[], object] | None
    ) -> None:
        self.function, self.ends = function, ends
        self.done = done  # wakes who waits; None where nobody does
        self.context = copy_context()
        self.value: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.value = self.context.run(self.function)
        except BaseException as error:  # noqa: BLE001 - it is the caller's
            self.error = error

    def result(self) -> Any:
        """Return the value or raise the error; only once."""
        try:
            if self.error is not None:
                raise self.error
            return self.value
        finally:
            self.error = None  # it refers to this frame: a ring


class _Worker:
    """A thread: what it runs, and how it is told that there is more."""

    thread: threading.Thread

    def __init__(self, job: _Job) -> None:
        self.job: _Job | None = job
        self.told = threading.Lock()
        self.told.acquire()


# Our own: concurrent.futures joins its threads at exit, and so does anyio under asyncio, where a
# function that was given up also no longer counts against the limiter.
class Workers:
    """Daemon threads, as many as are needed up to a limit, that run functions.

    A function that takes longer than its caller waits goes on, and what it returns is dropped; a
    hung one keeps its thread, but not the interpreter. If all threads are at functions that are
    overdue, a call fails at once. A function runs in a copy of the caller's context. It must not
    wait for another that is run by the same workers.

    Args:
        limit: Of threads.
        name: The threads' names begin with it.
        report: Is told what a submitted function raised, in its thread.

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
        renew_after_fork(self)

    def renew(self) -> None:
        """See `Renewable`."""
        # Guards what follows. Reentrant, as a signal handler may ask for the health.
        self._lock = threading.RLock()
        self._crew: set[_Worker] = set()
        self._idle: list[_Worker] = []  # the last to become idle is the first to be told
        self._waiting: deque[_Job] = deque()
        self._started = 0

    def run(self, function: Callable[[], T], timeout: float | None) -> T:
        """Run a function; return what it returns, or raise what it raises.

        Raises:
            DeadlineError: Not within `timeout` seconds, counting the wait for a thread; or all
                threads are at overdue functions.
            RuntimeError: The system has no more threads.
        """
        done = threading.Lock()
        done.acquire()
        job = _Job(function, _ends(timeout), done.release)
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
        """Do as `run` does, and suspend the task meanwhile; it may be cancelled at any time."""
        wait, ring = alarm()

        def done() -> None:
            with suppress(RuntimeError):  # the event loop has ended
                ring()

        job = _Job(function, _ends(timeout), done)
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
        """Run a function some time soon, when a thread is free; nobody waits for it.

        Raises:
            DeadlineError: 1,000 are waiting already, or all threads are at overdue functions.
        """

        def reported() -> None:
            try:
                function()
            except BaseException as error:  # noqa: BLE001 - the thread goes on
                if self._report is not None:
                    self._report(error)

        self._begin(_Job(reported, inf, None), backlog=_BACKLOG)

    def close(self) -> None:
        """End the threads that wait for more to do, and the others when they are done.

        What is asked for after this is still done, in threads that end with it.
        """
        with inside, self._lock:
            self._closed = True
            ended, self._idle = self._idle, []
            self._crew.difference_update(ended)
            for worker in ended:
                worker.job = None
                worker.told.release()
        for worker in ended:
            if worker.thread is not threading.current_thread():
                worker.thread.join(_END_SECONDS)

    @inside
    def stuck(self) -> bool:
        """Tell whether every thread is at a function that should have ended: no call gets one."""
        with self._lock:
            return self._stuck()

    @inside
    def _begin(self, job: _Job, *, backlog: float = inf) -> None:
        with self._lock:
            if self._idle:
                worker = self._idle.pop()
                worker.job = job
                worker.told.release()
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
        """Note that nobody waits for a job any more; nor for others, if no thread comes free."""
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
        """Tell whether every thread is at a function that should have ended."""
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
            job = following  # at once: what the last one returned is not kept
            if job is None and not ends:
                job = self._more(worker)

    def _more(self, worker: _Worker) -> _Job | None:
        """Wait for a job; None where the thread has to end."""
        if not worker.told.acquire(timeout=_IDLE_SECONDS):
            with self._lock:
                if worker in self._idle:
                    self._idle.remove(worker)
                    self._crew.discard(worker)
                    return None
            worker.told.acquire()  # it is being told just now
        return worker.job


def _ends(timeout: float | None) -> float:
    return inf if timeout is None else time.monotonic() + timeout
