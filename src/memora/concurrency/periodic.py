"""A background thread that calls a function periodically, without keeping its object alive."""

from __future__ import annotations

import os
import threading
import time
import weakref
from contextlib import suppress
from inspect import ismethod
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

from memora.concurrency.fork import register_for_reinit
from memora.concurrency.reentry import inside

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F")


class Periodic:
    """A daemon thread that calls `step` periodically; `start` starts it.

    If `step` and `note` are bound methods, they do not keep their object alive: when it is gone,
    the thread ends.

    Args:
        step: Does the work; returns the seconds to the next call, or None for the interval.
        name: Name of the thread.
        interval: Seconds from the end of a call to the next.
        delay: Seconds from the start to the first call.
        note: Called after each step with the step's name, and its exception or None.
        restart: Whether a forked child gets its own thread if the parent had one.
    """

    def __init__(  # noqa: PLR0913 - what differs between the threads
        self,
        step: Callable[[], Any],
        *,
        name: str,
        interval: float,
        delay: float,
        note: Callable[[str, BaseException | None], None] | None = None,
        restart: bool = False,
    ) -> None:
        self._name, self._interval, self._delay, self._restart = name, interval, delay, restart
        self._get_step, self._get_note = weak(step), weak(note)
        self._due = self._closed = self._wanted = False
        self._failed = False  # the last step: it is not repeated at once
        self._thread: threading.Thread | None = None  # if set but not wanted, it is about to end
        register_for_reinit(self)

    def hold(self, timeout: float, /) -> bool:
        """See `Holdable`."""
        return self._lock.acquire(timeout=timeout)

    def release(self) -> None:
        """See `Holdable`."""
        self._lock.release()

    def reinit_after_fork(self) -> None:
        """See `ReinitAfterFork`."""
        # Guards the state; not held during a step. Reentrant: a finalizer, which the garbage
        # collector may run at any time, may call `stop`.
        self._lock = threading.RLock()
        # A queue, not an event: `put` is safe in the callback of a weak reference, which may
        # interrupt the waiting thread itself.
        self._queue: SimpleQueue[object] = SimpleQueue()
        if isinstance(self._get_step, weakref.WeakMethod) and (step := self._get_step()):
            self._get_step = weakref.WeakMethod(step, self._queue.put)
        if self._thread not in {None, threading.current_thread()}:  # else `step` forked; keep it
            self._thread = None
            wanted, self._wanted = self._wanted, False
            if wanted and self._restart:
                _to_restart.append(self)

    @property
    def due(self) -> bool:
        """Whether `wake` was called since the last step began."""
        return self._due

    def start(self) -> bool:
        """Start the thread; return False if it runs already, or if this is closed.

        A stopped thread that has not ended yet continues instead, after the initial delay.
        """
        with self._lock:
            if self._wanted or self._closed:
                return False
            if self._thread is None:
                thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                thread.start()  # may fail
                self._thread = thread
            self._wanted = True
            return True

    def wake(self) -> None:
        """Let the next step begin now, or once the current one has ended."""
        self._due = True
        if self._queue.empty():
            self._queue.put(None)

    def stop(self, timeout: float = 5.0) -> bool:
        """Stop the steps, wait for a running one, and return whether the thread has ended.

        If called within a step, do not wait and return False; the thread ends when it returns.
        """
        with self._lock:
            self._wanted = False
            thread = self._thread
            if thread is not None:
                self._queue.put(None)
        if thread is None:
            return True
        if thread is threading.current_thread():
            return False
        thread.join(timeout)
        return not thread.is_alive()

    def close(self, timeout: float) -> bool:
        """Stop for good: a later `start` does nothing."""
        with self._lock:
            self._closed = True
        return self.stop(timeout)

    def _run(self) -> None:
        delay = self._delay
        try:
            while self._is_time(delay):
                self._due, delay = False, self._interval
                if (step := self._get_step()) is not None:
                    delay = self._call(step) or delay
                del step  # may be the last reference
        finally:  # even if the step ended the thread
            with self._lock:
                self._leave()

    def _is_time(self, delay: float) -> bool:
        """Wait for `delay` seconds or `wake`; return False if the thread must end."""
        until = time.monotonic() + delay
        while True:
            woken = wait_for(self._queue, until - time.monotonic())
            gone = self._get_step() is None
            with self._lock:
                mine = self._thread is threading.current_thread()
                if gone or not self._wanted or not mine:
                    self._leave()
                    return False
            if not woken or (self._due and not self._failed):
                return True
            if not self._due:  # it was stopped and started again
                until = time.monotonic() + self._delay

    def _leave(self) -> None:
        """Record that this thread ends, so that the next `start` creates a new one."""
        if self._thread is threading.current_thread():
            self._thread, self._wanted = None, False

    def _call(self, step: Callable[[], Any]) -> float | None:
        """Call the step once; return what it returns."""
        pause, fault = None, None
        try:
            with inside:
                pause = step()
        except BaseException as error:  # noqa: BLE001 - the next step may succeed
            fault = error
        self._failed = fault is not None
        if (note := self._get_note()) is not None:
            note(step.__name__, fault)
        return pause


_to_restart: list[Periodic] = []  # in a newly forked child


def _restart_all() -> None:
    while _to_restart:
        with suppress(RuntimeError):  # no more threads
            _to_restart.pop().start()


if hasattr(os, "register_at_fork"):
    # Runs after the hooks of `threading` and `fork`, which were imported before: no thread may run
    # until all locks have been recreated.
    os.register_at_fork(after_in_child=_restart_all)


def wait_for(queue: SimpleQueue[Any], seconds: float) -> bool:
    """Wait for something in a queue of one reader, and remove it; return False if nothing came.

    Before Python 3.13, `get` with a timeout may wait for ever if something was removed before
    without waiting: it waits twice then, and takes a rest below 0 for no timeout. `get_nowait`
    prevents it.
    """
    with suppress(Empty):
        queue.get_nowait()
        return True
    with suppress(Empty):
        queue.get(timeout=min(max(seconds, 0.0), threading.TIMEOUT_MAX))
        return True
    return False


def weak(function: F) -> Callable[[], F | None]:
    """Return a reference to a function: weak for a bound method, whose object it may outlive."""
    return weakref.WeakMethod(function) if ismethod(function) else lambda: function
