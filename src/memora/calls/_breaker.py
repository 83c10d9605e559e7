"""A circuit breaker: what has failed again and again is left alone for a while."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Literal

from memora._durations import seconds
from memora._fork import renew_after_fork
from memora.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Callable

State = Literal["closed", "open", "half_open"]


# Our own: circuitbreaker has no lock, pybreaker waits by the wall clock, hyx is for async only and
# purgatory has a breaker for each side; none takes a clock.
class Breaker:
    """Says whether to call something; is told how that went. For threads and tasks alike.

    - closed: all may call, until so many calls in a row have failed;
    - open: nobody may, for `reset_seconds`;
    - half open: one may, the probe. If it succeeds, closed; if it fails, open again. A probe that
      has told nothing after `reset_seconds` is given up, and another may try.

    What a call tells that began before the breaker opened is ignored until there is a probe.

    Raises:
        ArgumentError: `failures` is below 1, or `reset_seconds` not above 0 and finite.
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
        renew_after_fork(self)

    def renew(self) -> None:
        """See `Renewable`."""
        self._lock = threading.RLock()  # as a signal handler may ask for the health
        self._probed: float | None = None  # since when; the probe of a parent tells the parent

    @property
    def opened_at(self) -> float | None:
        """When it opened last, by the clock; None while it is closed."""
        return self._opened

    @property
    def state(self) -> State:
        """What it is now."""
        with self._lock:
            return self._state()

    def allows(self) -> bool:
        """Tell whether to call now. Whoever is told so, tells how it went."""
        with self._lock:
            state, now = self._state(), self._clock()
            if state == "half_open":
                if self._probed is not None and now - self._probed < self._reset:
                    return False
                self._probed = now
            return state != "open"

    def succeeded(self) -> None:
        """Note that a call succeeded."""
        with self._lock:
            if self._opened is None or self._probed is not None:
                self._failed, self._opened, self._probed = 0, None, None

    def failed(self) -> None:
        """Note that a call failed."""
        with self._lock:
            if self._opened is None:
                self._failed += 1
            if self._probed is not None or (self._opened is None and self._failed >= self._limit):
                self._opened, self._probed = self._clock(), None

    def _state(self) -> State:
        if self._opened is None:
            return "closed"
        return "open" if self._clock() - self._opened < self._reset else "half_open"
