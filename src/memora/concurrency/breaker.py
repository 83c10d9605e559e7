"""A circuit breaker: after repeated failures, calls are stopped for a while."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Literal

from memora._durations import seconds
from memora.concurrency.fork import register_for_reinit
from memora.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Callable

State = Literal["closed", "open", "half_open"]


# Our own, because circuitbreaker has no lock, pybreaker uses the wall clock, hyx is async only and
# purgatory has separate sync and async breakers; none accepts a clock.
class Breaker:
    """Decides whether to call a part, by the outcomes of earlier calls. For threads and tasks.

    - closed: all calls are allowed, until `failures` calls in a row have failed;
    - open: no call is allowed, for `reset_seconds`;
    - half open: one call is allowed, the probe. If it succeeds, the breaker closes; if it fails,
      the breaker opens again. After `reset_seconds` without an outcome, another probe is allowed.

    The outcome of a call that began before the breaker opened is ignored until there is a probe.

    Raises:
        ArgumentError: `failures` is below 1, or `reset_seconds` is not above 0 and finite.
    """

    def __init__(
        self,
        *,
        failures: int = 5,
        reset_seconds: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if type(failures) is not int or failures < 1:
            raise ArgumentError(f"failures must be an integer of 1 or more, got {failures!r}")
        self._limit = failures
        self._reset = seconds("reset_seconds", reset_seconds)
        self._clock = clock
        self._failed = 0  # in a row
        self._opened: float | None = None
        register_for_reinit(self)

    def reinit_after_fork(self) -> None:
        """See `ReinitAfterFork`."""
        self._lock = threading.RLock()  # reentrant, as a signal handler may check the health
        self._probed: float | None = None  # start of the probe; after a fork, it is the parent's

    @property
    def opened_at(self) -> float | None:
        """Time when the breaker last opened, by its clock; None while it is closed."""
        return self._opened

    @property
    def state(self) -> State:
        """The current state."""
        with self._lock:
            return self._state()

    def allows(self) -> bool:
        """Return whether a call may proceed; the caller must report its outcome."""
        with self._lock:
            state, now = self._state(), self._clock()
            if state == "half_open":
                if self._probed is not None and now - self._probed < self._reset:
                    return False
                self._probed = now
            return state != "open"

    def succeeded(self) -> None:
        """Report that a call succeeded."""
        with self._lock:
            if self._opened is None or self._probed is not None:
                self._failed, self._opened, self._probed = 0, None, None

    def failed(self) -> None:
        """Report that a call failed."""
        with self._lock:
            if self._opened is None:
                self._failed += 1
            if self._probed is not None or (self._opened is None and self._failed >= self._limit):
                self._opened, self._probed = self._clock(), None

    def _state(self) -> State:
        if self._opened is None:
            return "closed"
        return "open" if self._clock() - self._opened < self._reset else "half_open"
