"""Calls from a signal handler, or a finalizer, that interrupted the cache itself.

Both may run in any thread at any moment, also while that thread holds a lock of the cache and has
half changed what the lock guards. A call from there can neither wait for the lock, which its own
thread holds, nor ignore it. So each thread marks the stretches in which it works for the cache, and
a call that begins in such a stretch is refused: a lookup is a miss, a store stores nothing.
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
    """The marks of this thread, the innermost last: the frame of a block, and whether it works."""

    def __init__(self) -> None:
        self.marks: list[tuple[FrameType, bool]] = []


_here = _Here()


class Mark:
    """Marks a block, or a function that it decorates; nothing in it may suspend."""

    def __init__(self, *, works: bool) -> None:
        self._works = works

    def __enter__(self) -> None:
        _here.marks.append((sys._getframe(1), self._works))  # noqa: SLF001 - there is no other way

    def __exit__(self, *_: object) -> None:
        frame, marks = sys._getframe(1), _here.marks  # noqa: SLF001 - as above
        while marks and marks.pop()[0] is not frame:
            pass  # one that was left behind: see `busy`

    def run(self, function: Callable[[], T]) -> T:
        """Call a function in such a block."""
        with self:
            return function()

    def __call__(self, function: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(function)
        def marked(*args: P.args, **kwargs: P.kwargs) -> T:
            with self:
                return function(*args, **kwargs)

        return marked


inside = Mark(works=True)
"""The cache works here, and may hold its locks."""
outside = Mark(works=False)
"""The thread waits, or runs code of the application, and holds no lock of the cache."""


def busy() -> bool:
    """Tell whether this thread was interrupted while it worked for the cache."""
    marks = _here.marks
    while marks:
        frame, works = marks[-1]
        at: FrameType | None = sys._getframe()  # noqa: SLF001 - as above
        while at is not None:
            if at is frame:
                return works
            at = at.f_back
        # An exception, such as that of Ctrl-C, came between the mark and its block.
        marks.pop()
    return False


def refuse() -> None:
    """Do nothing where a call may go on.

    Raises:
        ReentryError: This thread was interrupted while it worked for the cache.
    """
    if busy():
        raise refusal()


def refusal() -> ReentryError:
    """Return why a call is refused."""
    return ReentryError(
        "a signal handler or a finalizer has interrupted the cache in this thread, and cannot use "
        "it before the cache goes on; let it set a flag, or start a thread"
    )


def alone(function: Callable[P, T]) -> Callable[P, T]:
    """Decorate a function that works for the cache: it is marked, and refused as by `refuse`."""
    marked = inside(function)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        refuse()
        return marked(*args, **kwargs)

    return call


class Inside(Generic[T]):
    """Awaits a coroutine that works for the cache: each of its steps is marked, no pause is."""

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
            except BaseException as thrown:  # noqa: BLE001 - it is for the coroutine
                step = partial(coroutine.throw, thrown)
