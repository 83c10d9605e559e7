"""Time that never goes back, in seconds since the epoch."""

from __future__ import annotations

import threading
import time
from math import inf
from typing import TYPE_CHECKING

from memora._fork import renew_after_fork

if TYPE_CHECKING:
    from collections.abc import Callable

    from memora.protocols import Clock

_DAMAGED_AHEAD = 10 * 365.25 * 86_400  # a mark so far ahead of the wall is no time that ever was


class SteadyClock:
    """The wall clock, except that it goes on by a steady clock where the wall has been set back.

    - Set back an hour: time goes on at its pace, an hour ahead of the wall from then on, until the
      wall has caught up or the process ends.
    - Set forward: time goes forward with it, at once, and stays there when that is corrected.
    - Suspended: the wall counts that. Not where it is behind, on systems whose steady clock stands
      still meanwhile (Linux, macOS).

    A wall other than `time.time` has no steady clock unless one is given: behind, time stands
    still. Threads may share a clock.
    """

    def __init__(
        self,
        wall: Callable[[], float] = time.time,
        *,
        steady: Callable[[], float] | None = None,
    ) -> None:
        if steady is None:
            steady = time.monotonic if wall is time.time else _still
        self.wall, self._steady = wall, steady
        self._last = self._ahead = -inf  # ahead: what the steady clock lacks to the time
        renew_after_fork(self)

    def renew(self) -> None:
        # Guards last and ahead; reentrant, as a signal handler may ask, too. A fork may come amid
        # their change: time is then not behind.
        self._lock = threading.RLock()

    def __call__(self) -> float:
        """Return the time: never less than any call before."""
        with self._lock:
            # The wall first: a thread that waits between the two makes time late, never early.
            wall = self.wall()
            steady = self._steady()
            if wall > self._ahead + steady:
                self._ahead = wall - steady
            # Rounding may cost the sum what was gained, hence last. NaN is never the larger.
            self._last = max(self._last, wall, self._ahead + steady)
            return self._last

    def advance(self, to: float) -> None:
        """Never be earlier than this from now on, such as a time that was seen before a restart.

        What is not finite, or more than ten years ahead of the wall, is damage and is ignored.
        """
        with self._lock:
            if to <= self.wall() + _DAMAGED_AHEAD:
                self._ahead = max(self._ahead, to - self._steady())
                self._last = max(self._last, to)


def is_of_system(clock: Clock) -> bool:
    """Tell whether a clock is the system's, made steady or not; else it is the application's."""
    return (clock.wall if isinstance(clock, SteadyClock) else clock) is time.time


def _still() -> float:
    return 0.0
