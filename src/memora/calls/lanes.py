"""Where the waiting of one core is done: in a thread, or in a task of an event loop.

The core is written once, as coroutines over a lane. A `ThreadLane` never suspends them, so a sync
method drives them to their end; with a `TaskLane` they wait without blocking the event loop.
"""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import anyio

from memora.calls._bridge import Stopped, drive, spawn

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine
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

    async def run(self, function: Callable[[], T], /, *, timeout: float | None) -> T:  # noqa: ASYNC109 - a deadline for a thread
        """Run a function of the cache's.

        Raises:
            DeadlineError: It has not ended in time; it goes on.
        """
        ...

    async def finish(self, function: Callable[[], object], /, *, timeout: float | None) -> None:  # noqa: ASYNC109 - a deadline for a thread
        """Do as `run`, also for a caller who is cancelled."""
        ...

    async def call(self, compute: Callable[[], Any], /) -> Any:
        """Call the application's function."""
        ...

    def claim(self, key: bytes, /) -> AbstractAsyncContextManager[Flight]:
        """Lead the flight of a key, or wait until it has landed."""
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

    async def run(self, function: Callable[[], T], /, *, timeout: float | None) -> T:  # noqa: ASYNC109 - a deadline for a thread
        """Run it in a worker where there is a deadline, else here."""
        return function() if timeout is None else self._workers.run(function, timeout)

    async def finish(self, function: Callable[[], object], /, *, timeout: float | None) -> None:  # noqa: ASYNC109 - a deadline for a thread
        """Run it: no thread is cancelled."""
        await self.run(function, timeout=timeout)

    async def call(self, compute: Callable[[], Any], /) -> Any:
        """Call it."""
        try:
            return compute()
        except StopIteration as stop:
            raise Stopped(stop) from stop

    @asynccontextmanager
    async def claim(self, key: bytes, /) -> AsyncIterator[Flight]:
        """Claim it for this thread."""
        with self._flights.claim(key) as flight:
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

    async def run(self, function: Callable[[], T], /, *, timeout: float | None) -> T:  # noqa: ASYNC109 - a deadline for a thread
        """Run it in a worker, and wait for that."""
        workers = self._patient if timeout is None else self._workers
        return await workers.arun(function, timeout)

    async def finish(self, function: Callable[[], object], /, *, timeout: float | None) -> None:  # noqa: ASYNC109 - a deadline for a thread
        """Run it, and wait for that whatever happens."""
        with anyio.CancelScope(shield=True):
            await self.run(function, timeout=timeout)

    async def call(self, compute: Callable[[], Any], /) -> Any:
        """Await what it returns."""
        return await compute()

    def claim(self, key: bytes, /) -> AbstractAsyncContextManager[Flight]:
        """Claim it for this task."""
        return self._flights.aclaim(key)

    async def sleep(self, seconds: float, /) -> None:
        """Suspend."""
        await anyio.sleep(seconds)

    def spawn(self, job: Callable[[], Coroutine[Any, Any, None]], /) -> None:
        """Do it in a task of its own."""
        spawn(job)
