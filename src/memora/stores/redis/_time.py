"""Difference between a server's clock and the callers' clock."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from memora.protocols import Clock

_SECONDS = 60.0  # how long a measurement is valid
_SET_SECONDS = 0.5  # a clock that deviates by more from the steady clock was set
_EXACT = 2.0**20  # parts of a second: present times are converted back without loss


class ClockOffset:
    """Number of seconds that a server is ahead, measured by asking for its time when needed.

    May be shared by threads: two that measure at once both get a correct result.

    Args:
        clock: The callers' clock.
        steady: A monotonic clock.
    """

    def __init__(self, clock: Clock, *, steady: Clock = time.monotonic) -> None:
        self._clock, self._steady = clock, steady
        # Seconds, when, clock minus steady.
        self._measured: tuple[float, float, float] | None = None

    def seconds(self, ask: Callable[[], float]) -> float:
        """Return the seconds; measured again after a minute, and if the clock was set.

        Args:
            ask: Returns the server's time in seconds since the epoch; its exceptions propagate.
        """
        if self._measured is None:
            return self._measure(ask, None)
        seconds, measured, apart = self._measured
        now = self._steady()
        is_set = abs(self._clock() - now - apart) > _SET_SECONDS
        if is_set or now - measured >= _SECONDS:
            return self._measure(ask, seconds)
        return seconds

    def _measure(self, ask: Callable[[], float], known: float | None) -> float:
        asked = self._steady()
        server = ask()
        clock = self._clock()
        now = self._steady()
        # The server read its clock between the request and the answer.
        least, most = server - clock, server - clock + (now - asked)
        if known is None:
            known = 0.0 if least <= 0 <= most else (least + most) / 2
        # Changed from the known value no more than needed: times then stay stable, and unchanged if
        # the clocks agree within the accuracy of the measurement.
        seconds = round(min(max(known, least), most) * _EXACT) / _EXACT
        self._measured = seconds, now, clock - now
        return seconds
