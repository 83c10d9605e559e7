"""Functions that let one core, written as `async def`, serve threads and any event loop."""

from __future__ import annotations

import asyncio
import sys
import threading
from contextlib import AbstractContextManager, nullcontext, suppress
from contextvars import copy_context
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")


class Stopped(Exception):  # noqa: N818 - internal
    """Carries the StopIteration of an application through coroutines, which cannot raise one."""

    def __init__(self, stop: StopIteration) -> None:
        super().__init__(stop)
        self.stop = stop


def drive(coroutine: Coroutine[Any, Any, T], /) -> T:
    """Run a coroutine whose awaits never suspend, without an event loop.

    Raises:
        RuntimeError: The coroutine suspended, as awaiting an async-only function does.
    """
    stopped: StopIteration | None = None
    try:
        coroutine.send(None)
    except StopIteration as stop:
        value: T = stop.value
        return value
    except Stopped as carrier:
        stopped = carrier.stop
    finally:
        coroutine.close()
    if stopped is not None:  # outside of the handler, so that it gets no `__context__`
        raise stopped
    raise RuntimeError(
        f"{coroutine!r} waits for an event loop, and there is none here: "
        "what a sync call awaits must be ready at once"
    )


def _trio() -> Any:
    """Return the module `trio` if the caller is a Trio task, else None."""
    # A Trio program has imported Trio. Checked before asyncio, of which Trio may be a guest.
    if (trio := sys.modules.get("trio")) is not None:
        with suppress(AttributeError, RuntimeError):  # still being imported; not a Trio task
            trio.lowlevel.current_task()
            return trio
    return None


# Not anyio: a process's first await would import its backend, 29 modules, and block all tasks.
def alarm() -> tuple[Callable[..., Coroutine[Any, Any, bool]], Callable[[], object]]:
    """Return `wait` for the running task, and `ring`, which ends the wait once, from any thread.

    `wait` takes a timeout in seconds, and returns False if it passes. `ring` raises RuntimeError if
    the event loop has ended.
    """
    return _alarm() if (trio := _trio()) is None else _trio_alarm(trio)


def _trio_alarm(
    trio: Any,
) -> tuple[Callable[..., Coroutine[Any, Any, bool]], Callable[[], object]]:
    bell, token = trio.Event(), trio.lowlevel.current_trio_token()

    async def trio_wait(seconds: float | None = None) -> bool:
        with trio.move_on_after(inf if seconds is None else max(seconds, 0.0)):
            await bell.wait()
        return bool(bell.is_set())

    return trio_wait, partial(token.run_sync_soon, bell.set)


def _alarm() -> tuple[Callable[..., Coroutine[Any, Any, bool]], Callable[[], object]]:
    loop = asyncio.get_running_loop()
    rung: asyncio.Future[bool] = loop.create_future()

    def end(how: bool) -> None:  # noqa: FBT001 - a callback of the event loop
        if not rung.done():  # the task may be cancelled, or the timeout over
            rung.set_result(how)

    async def asyncio_wait(seconds: float | None = None) -> bool:
        if seconds is None:
            return await rung
        timer = loop.call_later(seconds, end, False)  # noqa: FBT003
        try:
            return await rung
        finally:
            timer.cancel()

    def ring() -> object:
        return loop.call_soon_threadsafe(end, True)  # noqa: FBT003

    return asyncio_wait, ring


def shield() -> AbstractContextManager[Any]:
    """Shield a block from the cancel scopes of Trio, and of anyio if the application uses it.

    Cancellation of a task by asyncio itself is not prevented.
    """
    if (trio := _trio()) is not None:
        shielded: AbstractContextManager[Any] = trio.CancelScope(shield=True)
        return shielded
    if "anyio._backends._asyncio" not in sys.modules:
        return nullcontext()
    return sys.modules["anyio"].CancelScope(shield=True)  # type: ignore[no-any-return]


async def sleep(seconds: float) -> None:
    """Suspend the task, on asyncio or Trio."""
    if (trio := _trio()) is not None:
        await trio.sleep(seconds)
    else:
        await asyncio.sleep(seconds)


def within(seconds: float | None) -> float:
    """Return a timeout in the form that locks take, where -1 means no limit."""
    return -1 if seconds is None else min(max(seconds, 0), threading.TIMEOUT_MAX)


_jobs: set[asyncio.Task[None]] = set()  # strong references: the event loop has only weak ones


def spawn(job: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Start a background task, which must not raise; it ends with its event loop."""
    if (trio := _trio()) is not None:
        # In the caller's context, like an asyncio task.
        trio.lowlevel.spawn_system_task(job, context=copy_context())
        return
    task = asyncio.get_running_loop().create_task(job())
    _jobs.add(task)
    task.add_done_callback(_jobs.discard)
