"""How one core, written as `async def`, serves threads and the tasks of any event loop."""

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


def _trio() -> Any:
    """Return Trio where the caller is a task of it, else None."""
    # Whoever runs under Trio has imported it. Asked first: Trio may be a guest of asyncio.
    if (trio := sys.modules.get("trio")) is not None:
        with suppress(AttributeError, RuntimeError):  # it is being imported; this is no task of it
            trio.lowlevel.current_task()
            return trio
    return None


# Our own: the first await of a process would otherwise import a library's side of the event loop,
# 29 modules, while all other tasks wait.
def alarm() -> tuple[Callable[..., Coroutine[Any, Any, bool]], Callable[[], object]]:
    """Return what the running task waits for, and what ends the wait: once, from any thread.

    The wait takes a number of seconds, and returns False where nobody has rung by then. Ringing
    raises RuntimeError where the event loop has ended meanwhile.
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
        if not rung.done():  # it may be cancelled, and the time may be over
            rung.set_result(how)

    async def asyncio_wait(seconds: float | None = None) -> bool:
        if seconds is None:
            return await rung
        timer = loop.call_later(seconds, end, False)  # noqa: FBT003
        try:
            return await rung
        finally:
            timer.cancel()

    return asyncio_wait, partial(loop.call_soon_threadsafe, end, True)  # noqa: FBT003


def shield() -> AbstractContextManager[Any]:
    """Keep the scopes of Trio, and of anyio where the application uses it, from ending a block.

    A task that asyncio itself cancels is cancelled all the same.
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
    """Return a number of seconds as locks take it, where -1 is for ever."""
    return -1 if seconds is None else min(max(seconds, 0), threading.TIMEOUT_MAX)


_jobs: set[asyncio.Task[None]] = set()  # or the event loop would forget them


def spawn(job: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Start a task that nobody waits for, and that raises nothing; it ends with its event loop."""
    if (trio := _trio()) is not None:
        # In the context of the caller, as a task of asyncio is.
        trio.lowlevel.spawn_system_task(job, context=copy_context())
        return
    task = asyncio.get_running_loop().create_task(job())
    _jobs.add(task)
    task.add_done_callback(_jobs.discard)
