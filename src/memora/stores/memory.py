"""Entries in the RAM of this process: `memory://`. Also the reference for every other store."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from memora._fork import renew_after_fork
from memora.model import Match
from memora.stores.hot import NOWHERE, HotTable

if TYPE_CHECKING:
    from memora.index import GraphType
    from memora.model import Content, Entry
    from memora.protocols import Vector

# Rows that a `put` helps to move to the graph of a large context: more than it adds, so that none
# waits for long.
_SETTLE_ROWS = 2


class MemoryStore:
    """A hot table and its contents.

    Payloads are kept encoded, so that nobody can change a stored result by changing the object
    that was stored or served.
    """

    def __init__(self, *, dimension: int, graph: GraphType = "int8") -> None:
        self._hot = HotTable(dimension, graph=graph)
        self._contents: dict[int, Content] = {}  # by slot
        self._stamp = 0
        renew_after_fork(self)

    def hold(self, timeout: float, /) -> bool:
        return self._lock.acquire(timeout=timeout)

    def release(self) -> None:
        self._lock.release()

    def renew(self) -> None:
        self._lock = threading.Lock()  # guards all else here; no call under it does I/O

    def get(self, key: bytes, /, *, now: float) -> tuple[Entry, Content] | None:
        with self._lock:
            slot = self._hot.slot(key)
            if slot is None or not self._hot.alive(slot, now):
                return None
            return self._hot.entry(slot), self._contents[slot]

    def search(self, vector: Vector, /, *, context: str, k: int, now: float) -> list[Match]:
        with self._lock:
            found = self._hot.search(vector, context=context, k=k, now=now)
            return [Match(self._hot.entry(slot), cosine) for slot, cosine in found]

    def put(self, entry: Entry, content: Content, /, *, vector: Vector | None) -> None:
        with self._lock:
            self._stamp += 1
            self._remove(entry.key)
            slot = self._hot.put(entry, vector, stamp=self._stamp, place=NOWHERE)
            if slot is not None:
                self._contents[slot] = content

    def maintain(self, *, max_entries: int | None) -> int:
        with self._lock:
            surplus = 0 if max_entries is None else max(len(self._hot) - max_entries, 0)
            for key in self._hot.oldest(surplus):
                self._remove(key)
            if (index := self._hot.unsettled()) is not None:
                index.settle(_SETTLE_ROWS)
            return surplus

    def count(self) -> int:
        return len(self._hot)

    def check(self) -> None:
        """Nothing can fail."""

    def close(self) -> None:
        """Nothing to release."""

    def _remove(self, key: bytes) -> None:
        if (slot := self._hot.remove(key)) is not None:
            del self._contents[slot]
