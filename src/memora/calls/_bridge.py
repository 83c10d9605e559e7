"""How one core, written as `async def`, serves threads and the tasks of any event loop."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")


class Stopped(Exception):  # noqa: N818 - nobody sees it
    """Carries the StopIteration of an application through coroutines, which cannot raise one."""

    def __init__(self, stop: StopIteration) -> None:
        super().__init__(stop)
        self.stop = stop


def drive(coroutine: Coroutine[Any, Any, T], /) -> T:
    """Run a coroutine whose awaits never suspend, without an event loop.

    Raises:
        RuntimeError: It suspended, as an awaited port of the async side does.
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
    if stopped is not None:  # here, where nothing else becomes its context
        raise stopped
    raise RuntimeError(
        f"{coroutine!r} waits for an event loop, and there is none here: "
        "what a sync call awaits must be ready at once"
    )


def alarm() -> tuple[Callable[[], Coroutine[Any, Any, object]], Callable[[], object]]:
    """Return what the running task waits for, and what ends the wait: once, from any thread.

    Ringing raises RuntimeError where the event loop has ended meanwhile.
    """
    # Whoever runs under Trio has imported it. Asked first: Trio may be a guest of asyncio.
    if (trio := sys.modules.get("trio")) is not None:
        with suppress(AttributeError, RuntimeError):  # it is being imported; this is no task of it
            trio.lowlevel.current_task()
            bell, token = trio.Event(), trio.lowlevel.current_trio_token()
            return bell.wait, partial(token.run_sync_soon, bell.set)
    event = asyncio.Event()
    return event.wait, partial(asyncio.get_running_loop().call_soon_threadsafe, event.set)


_jobs: set[asyncio.Task[None]] = set()  # or the event loop would forget them


def spawn(job: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Start a task that nobody waits for, and that raises nothing; it ends with its event loop."""
    trio = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_task():
        # In the context of the caller, as a task of asyncio is.
        trio.lowlevel.spawn_system_task(job, context=copy_context())
        return
    task = asyncio.get_running_loop().create_task(job())
    _jobs.add(task)
    task.add_done_callback(_jobs.discard)
