"""Store in the RAM of one process, for `memory://`; the reference for every other store.

A `Memtable` holds the entries and their vectors; a dictionary beside it holds the encoded payloads
by slot. There are no files and no threads. Processes do not see each other: a forked child has its
own copy. Everything is lost when the process ends, so a crash leaves nothing behind.

One lock guards everything, and no call does I/O under it. Every operation takes effect before the
call returns, in the order in which callers get the lock. Work that could take long is divided so
that no caller waits for long: `put_many`, `sweep` and `select` take the lock for each batch of
entries, and each `maintain`, called after a `put`, moves a few rows to the graph of a large context
and removes a few outdated entries, more than a `put` adds.

Lookups never return an expired or outdated entry. `sweep` removes such entries; `maintain` removes
them first when a limit is exceeded, and then evicts by the policy, or first in, first out. For a
limit in bytes, an entry counts the size of its texts, payload, metadata and vector.
"""

from __future__ import annotations

import threading
from math import inf
from typing import TYPE_CHECKING

from memora.concurrency.fork import register_for_reinit
from memora.model import Match, Measures
from memora.stores.memtable import Memtable, Place

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from memora.eviction import EvictionPolicy
    from memora.index import GraphType
    from memora.model import Content, Entry, EntryInfo
    from memora.protocols import Vector
    from memora.selection import Selection

# Rows that each `maintain` moves to the graph of a large context: more than a `put` adds, so that
# none waits for long.
_SETTLE_ROWS = 2
_BATCH = 64  # entries stored, removed or listed per hold of the lock
# Outdated entries that each `maintain` removes: more than a `put` adds.
_SWEEP_ROWS = 4


class MemoryStore:
    """A hot table and its contents.

    Payloads are kept encoded, so that a stored result cannot be changed through the object that was
    stored or served.

    Args:
        dimension: Length of the vectors.
        graph: Type of the vectors in the graphs of large contexts.
        policy: Eviction policy; None: first in, first out.
    """

    def __init__(
        self,
        *,
        dimension: int,
        graph: GraphType = "int8",
        policy: EvictionPolicy | None = None,
    ) -> None:
        self._hot = Memtable(dimension, graph=graph)
        self._hot.follow_policy(policy)
        self._contents: dict[int, Content] = {}  # by slot
        self._stamp = self._payload_bytes = 0
        register_for_reinit(self)

    def hold(self, timeout: float, /) -> bool:
        return self._lock.acquire(timeout=timeout)

    def release(self) -> None:
        self._lock.release()

    def reinit_after_fork(self) -> None:
        self._lock = threading.Lock()  # guards everything else here; no call does I/O under it
        self._evicted = self._ended = 0  # counts of this process

    def get(self, key: bytes, /, *, now: float) -> tuple[Entry, Content] | None:
        with self._lock:
            slot = self._hot.find(key, now)
            return None if slot is None else (self._hot.entry(slot), self._contents[slot])

    def get_in_memory(self, key: bytes, /, *, now: float) -> tuple[Entry, Content] | None:
        return self.get(key, now=now)

    def peek(self, key: bytes, /, *, now: float) -> Entry | None:
        with self._lock:
            slot = self._hot.find(key, now)
            return None if slot is None else self._hot.entry(slot)

    def fetch(self, key: bytes, /, *, now: float) -> tuple[Entry, Content, Vector | None] | None:
        with self._lock:
            slot = self._hot.find(key, now)
            if slot is None:
                return None
            return self._hot.entry(slot), self._contents[slot], self._hot.vector(slot)

    def search(
        self, vector: Vector, /, *, context: str, k: int, now: float, since: float = -inf
    ) -> list[Match]:
        with self._lock:
            found = self._hot.search(vector, context=context, k=k, now=now, since=since)
            return [Match(self._hot.entry(slot), cosine) for slot, cosine in found]

    def select(self, selection: Selection, /, *, now: float) -> list[EntryInfo]:
        with self._lock:
            found = self._hot.select(selection)
        infos: list[EntryInfo] = []
        for start in range(0, len(found), _BATCH):
            with self._lock:
                infos += self._hot.infos(found[start : start + _BATCH], now)
        return infos

    def put(self, entry: Entry, content: Content, /, *, vector: Vector | None) -> None:
        self.put_many([(entry, content, vector)])

    def put_many(self, items: Sequence[tuple[Entry, Content, Vector | None]], /) -> None:
        for start in range(0, len(items), _BATCH):
            with self._lock:
                for entry, content, vector in items[start : start + _BATCH]:
                    self._put(entry, content, vector)

    def _put(self, entry: Entry, content: Content, vector: Vector | None) -> None:
        size = (
            len(content.payload)
            + len(content.metadata.encode())
            + len(entry.query.encode())
            + len(entry.context.canonical.encode())
            + (0 if vector is None else vector.nbytes)
        )
        self._stamp += 1
        if (old := self._hot.slot(entry.key)) is not None:
            self._drop(old)
        slot = self._hot.put(entry, vector, stamp=self._stamp, place=Place(0, 0, size))
        assert slot is not None  # noqa: S101 - its stamp is the newest
        self._contents[slot] = content
        self._payload_bytes += len(content.payload)

    def touch(self, key: bytes, /, *, now: float, times: int = 1) -> None:
        with self._lock:
            self._hot.touch(key, now=now, times=times)

    def discard(self, entries: Iterable[Entry], /) -> int:
        discarded = 0
        for entry in entries:
            with self._lock:
                if self._hot.stored_as(entry):
                    self._remove([entry.key])
                    discarded += 1
        return discarded

    def outdate(self, tag: str, /) -> None:
        with self._lock:
            self._hot.outdate(tag, self._stamp)

    def maintain(self, *, max_entries: int | None, max_bytes: int | None = None, now: float) -> int:
        with self._lock:
            hot = self._hot
            ended = hot.ended(0.0, _SWEEP_ROWS) if hot.outdated else []
            self._remove(ended)
            evicted = 0
            while hot.surplus(max_entries, max_bytes):
                if more := hot.ended(now, 1):
                    ended += more
                else:
                    more = hot.victims(1)
                    evicted += len(more)
                self._remove(more)
            self._evicted += evicted
            self._ended += len(ended)
            if (index := hot.unsettled()) is not None:
                index.settle(_SETTLE_ROWS)
            return evicted + len(ended)

    def sweep(self, *, now: float, limit: int) -> int:
        removed = 0
        while removed < limit:
            with self._lock:
                ended = self._hot.ended(now, min(limit - removed, _BATCH), present=True)
                self._remove(ended)
                self._ended += len(ended)
            if not ended:
                break
            removed += len(ended)
        return removed

    def count(self) -> int:
        return len(self._hot)

    def measure(self) -> Measures:
        with self._lock:
            return Measures(
                bytes=self._hot.live_bytes,
                payload_bytes=self._payload_bytes,
                index_bytes=self._hot.index_bytes,
                evicted=self._evicted,
                ended=self._ended,
            )

    def check(self) -> None:
        """Do nothing: a store in RAM cannot fail."""

    def close(self) -> None:
        """Do nothing: there is nothing to release."""

    def _remove(self, keys: Iterable[bytes]) -> None:
        for key in keys:
            if (slot := self._hot.remove(key)) is not None:
                self._drop(slot)

    def _drop(self, slot: int) -> None:
        self._payload_bytes -= len(self._contents.pop(slot).payload)
