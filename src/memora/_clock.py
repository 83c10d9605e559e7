"""A clock that never goes backwards, in seconds since the epoch."""

from __future__ import annotations

import threading
import time
from math import inf
from typing import TYPE_CHECKING

from memora.concurrency.fork import register_for_reinit

if TYPE_CHECKING:
    from collections.abc import Callable

    from memora.protocols import Clock

_DAMAGED_AHEAD = 10 * 365.25 * 86_400  # a time mark this far ahead of the wall clock is damage


class SteadyClock:
    """The wall clock, continued by a steady clock after the wall clock has been set back.

    - Wall clock set back an hour: time continues at its pace, an hour ahead, until the wall clock
      has caught up or the process ends.
    - Wall clock set forward: time jumps forward with it, and stays ahead when that is corrected.
    - System suspended: the wall clock includes the suspension. While time is ahead of it, the
      suspension is not counted if the steady clock stops meanwhile (Linux, macOS).

    A wall clock other than `time.time` has no steady clock unless one is given; time then stands
    still while the wall clock is behind. Threads may share a clock.
    """

    def __init__(
        self, wall: Callable[[], float] = time.time, *, steady: Callable[[], float] | None = None
    ) -> None:
        if steady is None:
            steady = time.monotonic if wall is time.time else _still
        self.wall, self._steady = wall, steady
        self._last = self._ahead = -inf  # ahead: the difference of the time and the steady clock
        register_for_reinit(self)

    def reinit_after_fork(self) -> None:
        # Guards last and ahead. Reentrant, as a signal handler may read the clock. A fork amid a
        # change of both does not set time back.
        self._lock = threading.RLock()

    def __call__(self) -> float:
        """Return the time, which is never less than in an earlier call."""
        with self._lock:
            # The wall clock first: a pause between the two reads makes time late, never early.
            wall = self.wall()
            steady = self._steady()
            if wall > self._ahead + steady:
                self._ahead = wall - steady
            # `last` is included because the sum is rounded. A NaN is never the maximum.
            self._last = max(self._last, wall, self._ahead + steady)
            return self._last

    def advance(self, to: float) -> None:
        """Advance the time to at least `to`, such as a time that was seen before a restart.

        A time that is not finite, or over ten years ahead of the wall clock, is ignored as damaged.
        """
        with self._lock:
            if to <= self.wall() + _DAMAGED_AHEAD:
                self._ahead = max(self._ahead, to - self._steady())
                self._last = max(self._last, to)


def is_of_system(clock: Clock) -> bool:
    """Return whether a clock is the system's, steady or not, rather than the application's."""
    return (clock.wall if isinstance(clock, SteadyClock) else clock) is time.time


def _still() -> float:
    return 0.0
