"""Where the waiting of one core is done: in a thread, or in a task of an event loop.

The core is written once, as coroutines over a lane. A `ThreadLane` never suspends them, so a sync
method drives them to their end; with a `TaskLane` they wait without blocking the event loop.
"""

from __future__ import annotations

import time
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from memora._reentry import inside
from memora.calls._bridge import Stopped, alarm, drive, shield, sleep, spawn
from memora.errors import DeadlineError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
    from contextlib import AbstractAsyncContextManager

    from memora.calls._workers import Workers
    from memora.calls.flights import Flight, Flights

T = TypeVar("T")

_GLANCE_BYTES = 64 * 1024  # decoded within microseconds: what may be done in the event loop


class Lane(Protocol):
    """How one side waits."""

    @property
    def glance_bytes(self) -> float:
        """The largest result that may be decoded where the caller is."""
        ...

    async def run(self, function: Callable[[], T], /, *, timeout: float | None) -> T:
        """Run a function of the cache's.

        Raises:
            DeadlineError: It has not ended in time; it goes on.
        """
        ...

    async def finish(self, function: Callable[[], object], /, *, timeout: float | None) -> None:
        """Do as `run`, also for a caller who is cancelled."""
        ...

    async def call(self, compute: Callable[[], Any], /) -> Any:
        """Call the application's function."""
        ...

    def claim(self, key: bytes, /, *, timeout: float | None) -> AbstractAsyncContextManager[Flight]:
        """Lead the flight of a key, or wait until it has landed, or lead beside it in the end."""
        ...

    async def sleep(self, seconds: float, /) -> None:
        """Wait."""
        ...

    def spawn(self, job: Callable[[], Coroutine[Any, Any, None]], /) -> None:
        """Have something done in the background; it raises nothing."""
        ...


class ThreadLane:
    """The side of threads: nothing here suspends."""

    glance_bytes = float("inf")

    def __init__(self, workers: Workers, background: Workers, flights: Flights) -> None:
        # Not the same: what is done in the background waits for workers.
        self._workers, self._background, self._flights = workers, background, flights

    async def run(self, function: Callable[[], T], /, *, timeout: float | None) -> T:
        """Run it in a worker where there is a deadline, else here."""
        marked = partial(inside.run, function)
        return marked() if timeout is None else self._workers.run(marked, timeout)

    async def finish(self, function: Callable[[], object], /, *, timeout: float | None) -> None:
        """Run it: no thread is cancelled."""
        await self.run(function, timeout=timeout)

    async def call(self, compute: Callable[[], Any], /) -> Any:
        """Call it."""
        try:
            return compute()
        except StopIteration as stop:
            raise Stopped(stop) from stop

    @asynccontextmanager
    async def claim(self, key: bytes, /, *, timeout: float | None) -> AsyncIterator[Flight]:
        """Claim it for this thread."""
        with self._flights.claim(key, timeout=timeout) as flight:
            yield flight

    async def sleep(self, seconds: float, /) -> None:
        """Block."""
        time.sleep(seconds)  # noqa: ASYNC251 - nothing else runs in this lane

    def spawn(self, job: Callable[[], Coroutine[Any, Any, None]], /) -> None:
        """Do it in a worker."""
        self._background.submit(lambda: drive(job()))


class TaskLane:
    """The side of tasks, on asyncio or Trio."""

    glance_bytes = float(_GLANCE_BYTES)

    def __init__(self, workers: Workers, patient: Workers, flights: Flights) -> None:
        # Not the same: what has no deadline does not wait for what hangs.
        self._workers, self._patient, self._flights = workers, patient, flights

    async def run(self, function: Callable[[], T], /, *, timeout: float | None) -> T:
        """Run it in a worker, and wait for that."""
        workers = self._patient if timeout is None else self._workers
        return await workers.arun(partial(inside.run, function), timeout)

    async def finish(self, function: Callable[[], object], /, *, timeout: float | None) -> None:
        """Have it run in a worker, also for a caller who is cancelled."""
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
        """Await what it returns."""
        return await compute()

    def claim(self, key: bytes, /, *, timeout: float | None) -> AbstractAsyncContextManager[Flight]:
        """Claim it for this task."""
        return self._flights.aclaim(key, timeout=timeout)

    async def sleep(self, seconds: float, /) -> None:
        """Suspend."""
        await sleep(seconds)

    def spawn(self, job: Callable[[], Coroutine[Any, Any, None]], /) -> None:
        """Do it in a task of its own."""
        spawn(job)


class Budget:
    """A lane of one call, which the cache keeps waiting no longer than agreed, all together.

    Args:
        lane: Does it.
        seconds: For what is run with a deadline; None is without end.
    """

    def __init__(self, lane: Lane, seconds: float | None) -> None:
        self._lane = lane
        self._left = inf if seconds is None else seconds

    @property
    def glance_bytes(self) -> float:
        """As of the lane."""
        return self._lane.glance_bytes

    async def run(self, function: Callable[[], T], /, *, timeout: float | None) -> T:
        """Run it, no longer than is left."""
        if timeout is None:
            return await self._lane.run(function, timeout=None)
        with self._spending():
            return await self._lane.run(function, timeout=self._within(timeout))

    async def finish(self, function: Callable[[], object], /, *, timeout: float | None) -> None:
        """Run it, and wait no longer than is left."""
        if timeout is None:
            return await self._lane.finish(function, timeout=None)
        with self._spending():
            # Also where nothing is left: others wait for it.
            return await self._lane.finish(function, timeout=min(timeout, max(self._left, 0.0)))

    async def call(self, compute: Callable[[], Any], /) -> Any:
        """Call the application's function, which takes the time that it takes."""
        return await self._lane.call(compute)

    def claim(self, key: bytes, /, *, timeout: float | None) -> AbstractAsyncContextManager[Flight]:
        """Claim it."""
        return self._lane.claim(key, timeout=timeout)

    async def sleep(self, seconds: float, /) -> None:
        """Wait for somebody else's computation, which is not the cache's doing."""
        await self._lane.sleep(seconds)

    def spawn(self, job: Callable[[], Coroutine[Any, Any, None]], /) -> None:
        """Have something done in the background."""
        self._lane.spawn(job)

    @contextmanager
    def free(self) -> Iterator[None]:
        """Take nothing from the budget for a block that ends without a fault."""
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
