"""What the clock of a server is ahead of the clock of those who ask it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from memora.protocols import Clock

_SECONDS = 60.0  # how long a measure is good for
_SET_SECONDS = 0.5  # a clock that has moved by so much more than time has was set
_EXACT = 2.0**20  # parts of a second: a time of these days comes back as it was given


class Ahead:
    """Seconds that a server is ahead, measured now and then by asking for its time.

    Threads may share one: two that measure at once both get it right.

    Args:
        clock: The time of who asks.
        steady: A clock that nobody sets.
    """

    def __init__(self, clock: Clock, *, steady: Clock = time.monotonic) -> None:
        self._clock, self._steady = clock, steady
        self._measured: tuple[float, float, float] | None = None  # seconds, when, clock less steady

    def seconds(self, ask: Callable[[], float]) -> float:
        """Return them, measured anew after a minute, and where the clock was set.

        Args:
            ask: Asks the server for its time, in seconds since the epoch; what it raises goes on.
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
        # The server looked at its clock while the question was under way.
        least, most = server - clock, server - clock + (now - asked)
        if known is None:
            known = 0.0 if least <= 0 <= most else (least + most) / 2
        # No further from what is known than has to be: times do not jump to and fro, and stay as
        # they are where the clocks agree, as far as can be told.
        seconds = round(min(max(known, least), most) * _EXACT) / _EXACT
        self._measured = seconds, now, clock - now
        return seconds
