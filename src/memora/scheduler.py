"""Periodic removal of expired entries."""

from __future__ import annotations

import time
from contextlib import suppress
from math import inf
from numbers import Real
from typing import TYPE_CHECKING, Any

from memora._durations import seconds
from memora._faults import contained
from memora.concurrency.periodic import Periodic, weak
from memora.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Callable

    Work = Callable[[], int]
    Report = Callable[[Exception], None]


class CleanupScheduler(Periodic):
    """A daemon thread that calls `work` periodically, and counts what it does.

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
        super().__init__(
            work,
            name="memora-cleanup",
            interval=seconds("interval_seconds", interval_seconds),
            delay=_delay("initial_delay_seconds", initial_delay_seconds),
            restart=True,
        )
        self._clock, self._get_report = clock, weak(report)
        self._runs = self._deleted = self._errors = 0
        self._last_run: float | None = None
        self._last_error: str | None = None

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

    def _call(self, work: Work) -> None:  # without a mark: the work is a call like any other
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


def _delay(name: str, value: float) -> float:
    if not (isinstance(value, Real) and not isinstance(value, bool) and 0 <= value < inf):
        raise ArgumentError(f"{name} must be a number of seconds, 0 or more, got {value!r}")
    return float(value)
