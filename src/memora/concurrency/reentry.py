"""Refusal of calls from a signal handler or finalizer that interrupted the cache itself.

Both may run in any thread at any time, even while that thread holds a lock of the cache and has
half-changed the guarded state. A call from there can neither wait for the lock, which its own
thread holds, nor ignore it. So each thread marks the blocks in which it works for the cache, and a
call that begins in such a block is refused: a lookup is a miss, a store stores nothing.
"""

from __future__ import annotations

import functools
import sys
import threading
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from typing_extensions import ParamSpec

from memora.errors import ReentryError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator
    from types import FrameType

P = ParamSpec("P")
T = TypeVar("T")


class _Here(threading.local):
    """The marks of this thread, innermost last: a block's frame, and whether it works."""

    def __init__(self) -> None:
        self.marks: list[tuple[FrameType, bool]] = []


_here = _Here()


class Mark:
    """A mark of a block or a decorated function, which must not suspend."""

    def __init__(self, *, works: bool) -> None:
        self._works = works

    def __enter__(self) -> None:
        _here.marks.append((sys._getframe(1), self._works))  # noqa: SLF001 - there is no other way

    def __exit__(self, *_: object) -> None:
        frame, marks = sys._getframe(1), _here.marks  # noqa: SLF001 - as above
        while marks and marks.pop()[0] is not frame:
            pass  # a mark that was left behind: see `busy`

    def run(self, function: Callable[[], T]) -> T:
        """Call a function in a marked block."""
        with self:
            return function()

    def __call__(self, function: Callable[P, T]) -> Callable[P, T]:
        """Decorate a function, all of which becomes such a section."""

        @functools.wraps(function)
        def marked(*args: P.args, **kwargs: P.kwargs) -> T:
            with self:
                return function(*args, **kwargs)

        return marked


inside = Mark(works=True)
"""The cache works here, and may hold its locks."""
outside = Mark(works=False)
"""The thread waits or runs the application's code, and holds no lock of the cache."""


def busy() -> bool:
    """Return whether this thread was interrupted while it worked for the cache."""
    marks = _here.marks
    while marks:
        frame, works = marks[-1]
        at: FrameType | None = sys._getframe()  # noqa: SLF001 - as above
        while at is not None:
            if at is frame:
                return works
            at = at.f_back
        # An exception, such as that of Ctrl-C, was raised between the mark and its block.
        marks.pop()
    return False


def refuse() -> None:
    """Check that a call may proceed.

    Raises:
        ReentryError: This thread was interrupted while it worked for the cache.
    """
    if busy():
        raise refusal()


def refusal() -> ReentryError:
    """Return the error for a refused call."""
    return ReentryError(
        "a signal handler or a finalizer interrupted the cache in this thread, so it cannot use "
        "the cache; let it set a flag, or start a thread"
    )


def alone(function: Callable[P, T]) -> Callable[P, T]:
    """Decorate a function that works for the cache: mark it, and refuse calls as `refuse` does."""
    marked = inside(function)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        refuse()
        return marked(*args, **kwargs)

    return call


class Inside(Generic[T]):
    """An awaitable that marks each step of a coroutine that works for the cache, but no pause."""

    def __init__(self, coroutine: Coroutine[Any, Any, T]) -> None:
        self._coroutine = coroutine

    def __await__(self) -> Generator[Any, Any, T]:
        coroutine = self._coroutine
        step = partial(coroutine.send, None)
        while True:
            try:
                with inside:
                    awaited = step()
            except StopIteration as stop:
                value: T = stop.value
                return value
            try:
                step = partial(coroutine.send, (yield awaited))
            except GeneratorExit:
                coroutine.close()
                raise
            except BaseException as thrown:  # noqa: BLE001 - passed on to the coroutine
                step = partial(coroutine.throw, thrown)
