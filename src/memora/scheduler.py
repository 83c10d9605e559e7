"""Periodic background work, such as the removal of expired entries."""

from __future__ import annotations

import os
import threading
import time
import weakref
from contextlib import suppress
from inspect import ismethod
from math import inf
from numbers import Real
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

from memora._durations import seconds
from memora._faults import contained
from memora.concurrency.fork import register_for_reinit
from memora.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Callable

    Work = Callable[[], int]
    Report = Callable[[Exception], None]

F = TypeVar("F")


class CleanupScheduler:
    """A daemon thread that calls `work` periodically.

    If `work` and `report` are bound methods, they do not keep their object alive: when it is gone,
    the thread ends. A forked child gets its own thread if the parent had one.

    Args:
        work: Does the work, and returns how many entries it deleted. Its exceptions are counted and
            reported.
        interval_seconds: Time from the end of a call to the next.
        initial_delay_seconds: Time from the start to the first call, also in a forked child.
        clock: Clock of `last_run_time`.
        report: Called in the thread with exceptions of `work`.

    Raises:
        ArgumentError: The interval is not above 0, the delay is below 0, or either is not finite.
    """

    def __init__(
        self,
        work: Work,
        *,
        interval_seconds: float,
        initial_delay_seconds: float = 60.0,
        clock: Callable[[], float] = time.time,
        report: Report | None = None,
    ) -> None:
        self._interval = seconds("interval_seconds", interval_seconds)
        self._delay = _delay("initial_delay_seconds", initial_delay_seconds)
        self._clock = clock
        self._get_work: Callable[[], Work | None] = _weak(work)
        self._get_report: Callable[[], Report | None] = _weak(report)
        self._wanted = False
        self._thread: threading.Thread | None = None  # if set but not wanted, it is about to end
        self._runs = self._deleted = self._errors = 0
        self._last_run: float | None = None
        self._last_error: str | None = None
        register_for_reinit(self)

    def hold(self, timeout: float, /) -> bool:
        """See `Holdable`."""
        return self._lock.acquire(timeout=timeout)

    def release(self) -> None:
        """See `Holdable`."""
        self._lock.release()

    def reinit_after_fork(self) -> None:
        """See `ReinitAfterFork`."""
        # Guards the state; not held during work. Reentrant: a finalizer, which the garbage
        # collector may run at any time, may call `stop`.
        self._lock = threading.RLock()
        # A queue, not an event: `put` is safe in the callback of a weak reference, which may
        # interrupt the waiting thread itself.
        self._wake: SimpleQueue[object] = SimpleQueue()
        if isinstance(self._get_work, weakref.WeakMethod) and (work := self._get_work()):
            self._get_work = weakref.WeakMethod(work, self._wake.put)
        if self._thread not in {None, threading.current_thread()}:  # else `work` forked; keep it
            self._thread = None
            _to_restart.append(self)

    def start(self) -> bool:
        """Start the thread; return False if it runs already.

        A stopped thread that has not ended yet continues instead, after the initial delay.
        """
        with self._lock:
            if self._wanted:
                return False
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="memora-cleanup", daemon=True)
                thread.start()  # may fail
                self._thread = thread
            self._wanted = True
            return True

    def stop(self, timeout: float = 5.0) -> bool:
        """Stop calling `work`, wait for a running call, and return whether the thread has ended.

        If called within `work`, do not wait and return False; the thread ends when `work` returns.
        """
        with self._lock:
            self._wanted = False
            thread = self._thread
            if thread is not None:
                self._wake.put(None)
        if thread is None:
            return True
        if thread is threading.current_thread():
            return False
        thread.join(timeout)
        return not thread.is_alive()

    def stats(self) -> dict[str, Any]:
        """Return the counts so far; `last_error` is the type of the last error, if any."""
        with self._lock:
            return {
                "running": self._thread is not None,
                "interval_seconds": self._interval,
                "total_runs": self._runs,
                "total_deleted": self._deleted,
                "last_run_time": self._last_run,
                "errors": self._errors,
                "last_error": self._last_error,
            }

    def restart(self) -> None:
        """Start again in a forked child, which lacks the parent's thread."""
        with self._lock:
            wanted, self._wanted = self._wanted, False
        if wanted:
            with suppress(RuntimeError):  # no more threads: `stats` shows it
                self.start()

    def _run(self) -> None:
        delay = self._delay
        try:
            while self._is_time(delay):
                if (work := self._get_work()) is not None:
                    self._call(work)
                del work  # may be the last reference
                delay = self._interval
        finally:  # even if `work` ended the thread
            with self._lock:
                self._leave()

    def _is_time(self, delay: float) -> bool:
        """Wait for `delay` seconds; return False if the thread must end."""
        while True:
            try:
                self._wake.get(timeout=min(delay, threading.TIMEOUT_MAX))
                woken = True
            except Empty:
                woken = False
            gone = self._get_work() is None
            with self._lock:
                mine = self._thread is threading.current_thread()
                if gone or not self._wanted or not mine:
                    self._leave()
                    return False
            if not woken:
                return True
            delay = self._delay  # it was stopped and started again

    def _leave(self) -> None:
        """Record that this thread ends, so that the next `start` creates a new one."""
        if self._thread is threading.current_thread():
            self._thread, self._wanted = None, False

    def _call(self, work: Work) -> None:
        deleted, fault = 0, None
        try:
            with contained:
                deleted = work()
        except Exception as error:  # noqa: BLE001 - the next call may succeed
            fault = error
        with self._lock:
            self._runs += 1
            self._deleted += deleted
            self._last_run = self._clock()
            if fault is not None:
                self._errors += 1
                self._last_error = type(fault).__name__
        if fault is not None and (report := self._get_report()) is not None:
            with suppress(Exception):
                report(fault)


_to_restart: list[CleanupScheduler] = []  # in a newly forked child


def _restart_all() -> None:
    while _to_restart:
        _to_restart.pop().restart()


if hasattr(os, "register_at_fork"):
    # Runs after the hooks of `threading` and `_fork`, which were imported before: no thread may run
    # until all locks have been recreated.
    os.register_at_fork(after_in_child=_restart_all)


def _weak(function: F) -> Callable[[], F | None]:
    """Return a reference to a function: weak for a bound method, whose object it may outlive."""
    return weakref.WeakMethod(function) if ismethod(function) else lambda: function


def _delay(name: str, value: float) -> float:
    if not (isinstance(value, Real) and not isinstance(value, bool) and 0 <= value < inf):
        raise ArgumentError(f"{name} must be a number of seconds, 0 or more, got {value!r}")
    return float(value)
