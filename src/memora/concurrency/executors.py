"""Executors implement waiting for the core, in a thread or in a task of an event loop.

The core is written once, as coroutines that take an executor. A `ThreadExecutor` never suspends
them, so a sync method drives them to their end; with a `TaskExecutor` they wait without blocking
the event loop.
"""

from __future__ import annotations

import time
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from memora.concurrency.bridge import Stopped, alarm, drive, shield, sleep, spawn
from memora.concurrency.reentry import inside
from memora.errors import DeadlineError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
    from contextlib import AbstractAsyncContextManager

    from memora.concurrency.flights import Flight, Flights
    from memora.concurrency.workers import Workers

T = TypeVar("T")

_IN_MEMORY_BYTES = 64 * 1024  # decoded within microseconds, so allowed in the event loop's thread


class Executor(Protocol):
    """The operations of the core that wait, for threads or for tasks."""

    @property
    def in_memory_bytes(self) -> float:
        """The largest payload that may be decoded in the caller's thread."""
        ...

    async def run(self, function: Callable[[], T], /, *, timeout: float | None) -> T:
        """Run a function of the cache.

        Raises:
            DeadlineError: The function did not end in time; it keeps running.
        """
        ...

    async def finish(self, function: Callable[[], object], /, *, timeout: float | None) -> None:
        """Do as `run`, even if the caller is cancelled."""
        ...

    async def call(self, compute: Callable[[], Any], /) -> Any:
        """Call the application's function."""
        ...

    def claim(self, key: bytes, /, *, timeout: float | None) -> AbstractAsyncContextManager[Flight]:
        """Lead the flight of a key, or wait until it lands; after the timeout, lead beside it."""
        ...

    async def sleep(self, seconds: float, /) -> None:
        """Wait."""
        ...

    def spawn(self, job: Callable[[], Coroutine[Any, Any, None]], /) -> None:
        """Run a job in the background; it must not raise."""
        ...


class ThreadExecutor:
    """The executor of threads; none of its coroutines suspends."""

    in_memory_bytes = float("inf")

    def __init__(self, workers: Workers, background: Workers, flights: Flights) -> None:
        # Two pools, because background jobs wait for workers.
        self._workers, self._background, self._flights = workers, background, flights

    async def run(self, function: Callable[[], T], /, *, timeout: float | None) -> T:
        """Run a function: in a worker if there is a deadline, else in this thread."""
        marked = partial(inside.run, function)
        return marked() if timeout is None else self._workers.run(marked, timeout)

    async def finish(self, function: Callable[[], object], /, *, timeout: float | None) -> None:
        """Do as `run`, because threads are not cancelled."""
        await self.run(function, timeout=timeout)

    async def call(self, compute: Callable[[], Any], /) -> Any:
        """Call the application's function."""
        try:
            return compute()
        except StopIteration as stop:
            raise Stopped(stop) from stop

    @asynccontextmanager
    async def claim(self, key: bytes, /, *, timeout: float | None) -> AsyncIterator[Flight]:
        """Claim a key for this thread."""
        with self._flights.claim(key, timeout=timeout) as flight:
            yield flight

    async def sleep(self, seconds: float, /) -> None:
        """Block this thread."""
        time.sleep(seconds)  # noqa: ASYNC251 - nothing else runs in this executor

    def spawn(self, job: Callable[[], Coroutine[Any, Any, None]], /) -> None:
        """Run a job in a background worker."""
        self._background.submit(lambda: drive(job()))


class TaskExecutor:
    """The executor of tasks, on asyncio or Trio."""

    in_memory_bytes = float(_IN_MEMORY_BYTES)

    def __init__(self, workers: Workers, patient: Workers, flights: Flights) -> None:
        # Two pools, so that functions without a deadline do not wait for hung ones.
        self._workers, self._patient, self._flights = workers, patient, flights

    async def run(self, function: Callable[[], T], /, *, timeout: float | None) -> T:
        """Run a function in a worker, and wait for it."""
        workers = self._patient if timeout is None else self._workers
        return await workers.arun(partial(inside.run, function), timeout)

    async def finish(self, function: Callable[[], object], /, *, timeout: float | None) -> None:
        """Run a function in a worker, even if the caller is cancelled."""
        wait, ring = alarm()

        def run() -> None:
            try:
                inside.run(function)
            finally:
                with suppress(RuntimeError):  # the event loop has ended
                    ring()

        self._workers.submit(run)
        with shield():
            rung = await wait(timeout)
        if not rung:
            raise DeadlineError(f"not done within {timeout} s")

    async def call(self, compute: Callable[[], Any], /) -> Any:
        """Call the application's function, and await its result."""
        return await compute()

    def claim(self, key: bytes, /, *, timeout: float | None) -> AbstractAsyncContextManager[Flight]:
        """Claim a key for this task."""
        return self._flights.aclaim(key, timeout=timeout)

    async def sleep(self, seconds: float, /) -> None:
        """Suspend this task."""
        await sleep(seconds)

    def spawn(self, job: Callable[[], Coroutine[Any, Any, None]], /) -> None:
        """Run a job in a new task."""
        spawn(job)


class Budget:
    """An executor for one call, with one time limit for all its waiting for the cache.

    Args:
        executor: The executor that does the work.
        seconds: Total time for functions that have a deadline; None is unlimited.
    """

    def __init__(self, executor: Executor, seconds: float | None) -> None:
        self._executor = executor
        self._left = inf if seconds is None else seconds

    @property
    def in_memory_bytes(self) -> float:
        """The executor's limit."""
        return self._executor.in_memory_bytes

    async def run(self, function: Callable[[], T], /, *, timeout: float | None) -> T:
        """Run a function within the remaining time."""
        if timeout is None:
            return await self._executor.run(function, timeout=None)
        with self._spending():
            return await self._executor.run(function, timeout=self._within(timeout))

    async def finish(self, function: Callable[[], object], /, *, timeout: float | None) -> None:
        """Run a function even if the caller is cancelled; wait only for the remaining time."""
        if timeout is None:
            return await self._executor.finish(function, timeout=None)
        with self._spending():
            # Also if no time is left: other processes wait for it.
            return await self._executor.finish(function, timeout=min(timeout, max(self._left, 0.0)))

    async def call(self, compute: Callable[[], Any], /) -> Any:
        """Call the application's function, without a limit."""
        return await self._executor.call(compute)

    def claim(self, key: bytes, /, *, timeout: float | None) -> AbstractAsyncContextManager[Flight]:
        """Claim a key."""
        return self._executor.claim(key, timeout=timeout)

    async def sleep(self, seconds: float, /) -> None:
        """Wait for another leader's computation, which does not count as waiting for the cache."""
        await self._executor.sleep(seconds)

    def spawn(self, job: Callable[[], Coroutine[Any, Any, None]], /) -> None:
        """Run a job in the background."""
        self._executor.spawn(job)

    @contextmanager
    def free(self) -> Iterator[None]:
        """Do not count the time of a block, unless it raises."""
        left = self._left
        yield
        self._left = left

    @contextmanager
    def _spending(self) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            self._left -= time.monotonic() - started

    def _within(self, timeout: float) -> float:
        if self._left <= 0:
            raise DeadlineError("the time that this call may wait for the cache is used up")
        return min(timeout, self._left)
