"""Which entries may have expired: by buckets of time, so that nobody looks at those that have not.

Slots in it may be stale, because taking one out would cost a search: whoever asks looks at the
entry. Not for several threads at once: the store's lock guards it.
"""

from __future__ import annotations

from array import array
from heapq import heappop, heappush
from math import floor, inf
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_STALE = 1024  # slots that are too few to care about


class ExpiryQueue:
    """Slots by the second in which they end; within one in no order.

    What is loaded lies in one sorted column, 4 bytes a slot and 16 a second; what is added in an
    array a second. Times are finite, in seconds since the epoch.
    """

    def __init__(self) -> None:
        self._buckets: dict[int, array[int]] = {}  # of what was added, by second
        self._heap: list[int] = []  # of those seconds
        self._waiting = 0
        self._column(np.empty(0, np.int64), np.empty(0))

    def __len__(self) -> int:
        """Return how many slots wait, stale ones included."""
        return self._waiting

    def load(self, ends: NDArray[np.float64], /) -> None:
        """Forget all, and add position by position; an infinite end is none."""
        self._buckets.clear()
        self._heap.clear()
        slots = np.flatnonzero(np.isfinite(ends))
        self._column(slots, np.floor(ends[slots]))
        self._waiting = len(slots)

    def add(self, slot: int, end: float) -> None:
        """Add a slot; an infinite end is none."""
        if not -inf < end < inf:
            return
        second = floor(end)
        if (bucket := self._buckets.get(second)) is None:
            self._buckets[second] = array("i", (slot,))
            heappush(self._heap, second)
        else:
            bucket.append(slot)
        self._waiting += 1

    def due(self, now: float, limit: int, *, present: bool = False) -> list[int]:
        """Take up to `limit` slots out that may have ended.

        A slot may come twice, and its entry may be another by now, or end later: then add it again.

        Args:
            now: Seconds since the epoch.
            limit: How many slots at most.
            present: Also those of the second that is not over yet, of which some end later than
                `now`: complete, but it costs as much again each time.
        """
        second = floor(now) + present
        found: list[int] = []
        while self._next < second and (wanted := limit - len(found)) > 0:
            found += self._take(wanted)
        while self._heap and self._heap[0] < second and (wanted := limit - len(found)) > 0:
            bucket = self._buckets[self._heap[0]]
            found += bucket[-wanted:]
            del bucket[-wanted:]
            if not bucket:
                del self._buckets[heappop(self._heap)]
        self._waiting -= len(found)
        return found

    def overgrown(self, alive: int) -> bool:
        """Tell whether most slots are stale, where so many entries are alive: then load again."""
        return self._waiting > 2 * alive + _STALE

    def _column(self, slots: NDArray[np.int64], seconds: NDArray[np.float64]) -> None:
        """Sort what is loaded."""
        order = np.argsort(seconds)
        parts, starts = np.unique(seconds[order], return_index=True)
        self._slots = array("i", slots[order].astype(np.int32).tobytes())
        self._seconds = array("d", parts.tobytes())
        self._starts = array("q", starts.astype(np.int64).tobytes())
        self._seconds.append(inf)  # of what is behind the last one
        self._starts.append(len(slots))
        self._at = self._part = 0
        self._next = self._seconds[0]

    def _take(self, wanted: int) -> array[int]:
        """Take some slots of the next second out of the column."""
        stop = self._starts[self._part + 1]
        start, self._at = self._at, min(self._at + wanted, stop)
        taken = self._slots[start : self._at]
        if self._at == stop:
            self._part += 1
            self._next = self._seconds[self._part]
        if self._next == inf:
            self._column(np.empty(0, np.int64), np.empty(0))  # frees it
        return taken
