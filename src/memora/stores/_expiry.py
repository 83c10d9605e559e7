"""Queue of entries by expiry time, so that entries that have not expired need no check.

A slot in the queue may be stale, because removing it would need a search: the caller checks the
entry of each slot it gets. Not thread-safe; guarded by the store's lock.
"""

from __future__ import annotations

from array import array
from heapq import heappop, heappush
from math import floor, inf
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_STALE = 1024  # a number of stale slots too small to matter


class ExpiryQueue:
    """Slots by the second in which they end; unordered within a second.

    Slots that are loaded lie in one sorted column, with 4 bytes per slot and 16 per second; slots
    added later in one array per second. Times are finite, in seconds since the epoch.
    """

    def __init__(self) -> None:
        self._buckets: dict[int, array[int]] = {}  # added slots, by second
        self._heap: list[int] = []  # the seconds of `_buckets`
        self._waiting = 0
        self._column(np.empty(0, np.int64), np.empty(0))

    def __len__(self) -> int:
        """Return the number of waiting slots, including stale ones."""
        return self._waiting

    def load(self, ends: NDArray[np.float64], /) -> None:
        """Replace all slots by the positions of an array of ends; infinity is no end."""
        self._buckets.clear()
        self._heap.clear()
        slots = np.flatnonzero(np.isfinite(ends))
        self._column(slots, np.floor(ends[slots]))
        self._waiting = len(slots)

    def add(self, slot: int, end: float) -> None:
        """Add a slot; an infinite end is ignored."""
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
        """Remove and return up to `limit` slots that may have ended.

        A slot may be returned twice, and its entry may be another one by now, or end later; in the
        latter case the caller adds it again.

        Args:
            now: Seconds since the epoch.
            limit: The most slots to return.
            present: Whether to include slots of the current second, some of which end later than
                `now`. That is complete, but costs as much again on each call.
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
        """Return whether most slots are stale, given the number of live entries."""
        return self._waiting > 2 * alive + _STALE

    def _column(self, slots: NDArray[np.int64], seconds: NDArray[np.float64]) -> None:
        """Sort the loaded slots into the column."""
        order = np.argsort(seconds)
        parts, starts = np.unique(seconds[order], return_index=True)
        self._slots = array("i", slots[order].astype(np.int32).tobytes())
        self._seconds = array("d", parts.tobytes())
        self._starts = array("q", starts.astype(np.int64).tobytes())
        self._seconds.append(inf)  # end marker
        self._starts.append(len(slots))
        self._at = self._part = 0
        self._next = self._seconds[0]

    def _take(self, wanted: int) -> array[int]:
        """Remove some slots of the next second from the column."""
        stop = self._starts[self._part + 1]
        start, self._at = self._at, min(self._at + wanted, stop)
        taken = self._slots[start : self._at]
        if self._at == stop:
            self._part += 1
            self._next = self._seconds[self._part]
        if self._next == inf:
            self._column(np.empty(0, np.int64), np.empty(0))  # frees the memory
        return taken
