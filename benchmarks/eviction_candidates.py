"""What `eviction.py` measures beside the policies of Memora: bounds, and candidates not taken.

Written from the papers, as short as they allow, and not made for large caches. Each decides about
one request at a time: a hit, or stored now.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence


class Cache(Protocol):
    """A cache of keys."""

    def request(self, key: str) -> bool:
        """Tell whether a key was there; now it is, unless the cache refuses it."""
        ...


class Sieve:
    """Zhang, Yang, Yue, Vigfusson, Rashmi: SIEVE is simpler than LRU, NSDI 2024.

    The hand lies between the entries that it has passed and those before it, each in order.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._ahead: OrderedDict[str, bool] = OrderedDict()  # key -> visited
        self._passed: OrderedDict[str, bool] = OrderedDict()

    def request(self, key: str) -> bool:
        """See `Cache`."""
        for part in (self._ahead, self._passed):
            if key in part:
                part[key] = True
                return True
        if len(self._ahead) + len(self._passed) == self._capacity:
            self._evict()
        self._ahead[key] = False
        return False

    def _evict(self) -> None:
        while True:
            if not self._ahead:
                self._ahead, self._passed = self._passed, self._ahead
            key, visited = self._ahead.popitem(last=False)
            if not visited:
                return
            self._passed[key] = False


class S3FIFOTwice:
    """S3-FIFO with the paper's condition: two uses, not one, lead to the main queue."""

    def __init__(self, capacity: int) -> None:
        self._capacity, self._share = capacity, max(capacity // 10, 1)
        self._small: OrderedDict[str, int] = OrderedDict()  # key -> uses
        self._main: OrderedDict[str, int] = OrderedDict()
        self._ghosts: OrderedDict[str, None] = OrderedDict()

    def request(self, key: str) -> bool:
        """See `Cache`."""
        for queue in (self._small, self._main):
            if key in queue:
                queue[key] = min(queue[key] + 1, 3)
                return True
        if len(self._small) + len(self._main) == self._capacity:
            self._evict()
        queue = self._main if self._ghosts.pop(key, True) is None else self._small
        queue[key] = 0
        return False

    def _evict(self) -> None:
        while True:
            if len(self._small) >= self._share or not self._main:
                key, uses = self._small.popitem(last=False)
                if uses < 2:  # noqa: PLR2004 - twice
                    self._ghosts[key] = None
                    while len(self._ghosts) > max(self._capacity - self._share, 1):
                        self._ghosts.popitem(last=False)
                    return
                self._main[key] = 0
            else:
                key, uses = self._main.popitem(last=False)
                if not uses:
                    return
                self._main[key] = uses - 1


class WTinyLFU:
    """Einziger, Friedman, Manes: TinyLFU, ACM Transactions on Storage 13 (4), 2017.

    A window of recent entries, a main part in two segments, and the more frequent of two wins a
    place there. Frequencies are exact where the paper estimates them in a sketch: its best case.
    """

    def __init__(self, capacity: int) -> None:
        self._sample = 10 * capacity
        self._window_size = max(capacity // 100, 1)
        self._main_size = capacity - self._window_size
        self._window: OrderedDict[str, None] = OrderedDict()
        self._probation: OrderedDict[str, None] = OrderedDict()
        self._protected: OrderedDict[str, None] = OrderedDict()
        self._counts: Counter[str] = Counter()
        self._counted = 0

    def request(self, key: str) -> bool:
        """See `Cache`."""
        self._count(key)
        for part in (self._window, self._protected):
            if key in part:
                part.move_to_end(key)
                return True
        if key in self._probation:
            del self._probation[key]
            self._protected[key] = None
            if len(self._protected) > self._main_size * 4 // 5:
                self._probation[self._protected.popitem(last=False)[0]] = None
            return True
        self._window[key] = None
        if len(self._window) > self._window_size:
            self._offer(self._window.popitem(last=False)[0])
        return False

    def _offer(self, key: str) -> None:
        if len(self._probation) + len(self._protected) >= self._main_size:
            segment = self._probation or self._protected
            victim = next(iter(segment), key)
            if self._counts[key] <= self._counts[victim]:
                return
            del segment[victim]
        self._probation[key] = None

    def _count(self, key: str) -> None:
        self._counts[key] = min(self._counts[key] + 1, 15)
        self._counted += 1
        if self._counted >= self._sample:
            self._counted //= 2
            halves = {key: count // 2 for key, count in self._counts.items()}
            self._counts = Counter({key: count for key, count in halves.items() if count})


class Clairvoyant:
    """Belady 1966: what is asked for again latest leaves, which one has to know beforehand."""

    def __init__(self, capacity: int, stream: Sequence[str]) -> None:
        self._capacity = capacity
        self._next: list[int] = [0] * len(stream)
        seen: dict[str, int] = {}
        for at in range(len(stream) - 1, -1, -1):
            self._next[at] = seen.get(stream[at], len(stream))
            seen[stream[at]] = at
        self._held: dict[str, int] = {}  # key -> when it is asked for next
        self._at = 0

    def request(self, key: str) -> bool:
        """See `Cache`."""
        hit = key in self._held
        if not hit and len(self._held) == self._capacity:
            del self._held[max(self._held, key=lambda key: self._held[key])]
        self._held[key] = self._next[self._at]
        self._at += 1
        return hit
