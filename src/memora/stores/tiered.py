"""Local tier: exact hits from the RAM of this process, in front of a store shared by processes.

Only `get`, `get_in_memory` and `peek` are answered here, only with entries that the shared store
confirmed recently, and never with a miss. Changes by other processes are therefore seen within that
time, even while the shared store cannot be reached. An entry is confirmed when it is read from the
shared store. A shared store that reports changes (`WatchedStore`) confirms all other entries at
once.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import OrderedDict
from contextlib import contextmanager
from math import inf
from typing import TYPE_CHECKING, NamedTuple

from memora._faults import contained
from memora.concurrency.fork import register_for_reinit
from memora.concurrency.reentry import inside
from memora.protocols import IndexedStore, MeasuredStore, SharedStore, WatchedStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from memora.model import Content, Entry, EntryInfo, Match
    from memora.protocols import Clock, Lease, Store, Vector
    from memora.selection import Selection

# Size of an entry's Python objects besides its texts, result and tags.
_OBJECTS_BYTES = 1000
_FOLLOW_SECONDS = 1.0  # longest time between two requests for changes
_END_SECONDS = 1.0  # how long `close` waits for the thread
_RETRY_SECONDS = 5.0  # after the shared store could not report changes


class _Held(NamedTuple):
    entry: Entry
    content: Content
    confirmed: float
    """When the shared store was asked: later changes by others are unknown."""
    bytes: int


class TieredStore:
    """A shared store, with recently read entries held in front of it.

    Writes go to the shared store, and the held copies of their entries are dropped, not replaced:
    of two concurrent writers, only the shared store knows which was last. A failed write drops them
    too, as it may have taken effect. Writes and evictions by other processes are seen within
    `max_staleness_seconds`; expiry, and operations through this store, at once.

    Entries with a sliding TTL are not held: each use changes them.

    Args:
        shared: The store that holds the entries; closed with this one.
        max_bytes: Size of the held entries; the least recently read leave first.
        max_staleness_seconds: How long an entry is served from here after it was confirmed.
        clock: Seconds, which never go back.
    """

    def __init__(
        self,
        shared: Store,
        *,
        max_bytes: int,
        max_staleness_seconds: float,
        clock: Clock = time.monotonic,
    ) -> None:
        self._shared, self._clock = shared, clock
        self._max_bytes, self._staleness = max_bytes, max_staleness_seconds
        # Optional methods of stores, offered only if the shared store has them.
        if isinstance(shared, SharedStore):
            self.try_lock, self.refresh = self._try_lock, shared.refresh
        if isinstance(shared, IndexedStore):
            self.create_index, self.index_stats = shared.create_index, shared.index_stats
        if isinstance(shared, MeasuredStore):
            self.measure = shared.measure
        register_for_reinit(self)

    @property
    def shared(self) -> Store:
        """The store shared by processes."""
        return self._shared

    def reinit_after_fork(self) -> None:
        """Drop everything: a fork may copy what another thread was just changing."""
        self._lock = threading.Lock()  # guards the following; no call does I/O under it
        self._held: OrderedDict[bytes, _Held] = OrderedDict()  # by key, the last used last
        self._bytes = 0
        self._changes = 0  # number of changes to entries known here
        self._confirmed = -inf  # when all held entries were last confirmed
        self._stop: threading.Event | None = None
        self._thread: threading.Thread | None = None

    def get(self, key: bytes, /, *, now: float) -> tuple[Entry, Content] | None:
        if (here := self._get(key, now)) is not None:
            return here
        asked, changes = self._clock(), self._changes
        found = self._shared.get(key, now=now)
        with self._lock:
            self._forget(key)
            # An entry read during a write may be older than that write.
            if found is not None and changes == self._changes:
                self._hold(*found, confirmed=asked)
        self._begin_following()
        return found

    def get_in_memory(self, key: bytes, /, *, now: float) -> tuple[Entry, Content] | None:
        return self._get(key, now) or self._shared.get_in_memory(key, now=now)

    def peek(self, key: bytes, /, *, now: float) -> Entry | None:
        here = self._get(key, now)
        return self._shared.peek(key, now=now) if here is None else here[0]

    def fetch(self, key: bytes, /, *, now: float) -> tuple[Entry, Content, Vector | None] | None:
        return self._shared.fetch(key, now=now)

    def search(
        self, vector: Vector, /, *, context: str, k: int, now: float, since: float = -inf
    ) -> list[Match]:
        found = self._shared.search(vector, context=context, k=k, now=now, since=since)
        with self._lock:
            for match in found:  # the caller may get their results next
                held = self._held.get(match.entry.key)
                if held is not None and held.entry.id != match.entry.id:
                    self._forget(match.entry.key)
        return found

    def select(self, selection: Selection, /, *, now: float) -> list[EntryInfo]:
        # A caller that discards the listed entries expects that no other entry that meets the
        # criteria is served: drop the held ones.
        listed: set[str] = set()
        with self._changing(
            lambda held: selection.takes(held.entry) and held.entry.id not in listed
        ):
            found = self._shared.select(selection, now=now)
            listed.update(info.entry.id for info in found)
        return found

    def put(self, entry: Entry, content: Content, /, *, vector: Vector | None) -> None:
        with self._changing(keys=[entry.key]):
            self._shared.put(entry, content, vector=vector)

    def put_many(self, items: Sequence[tuple[Entry, Content, Vector | None]], /) -> None:
        with self._changing(keys=[entry.key for entry, _, _ in items]):
            self._shared.put_many(items)

    def touch(self, key: bytes, /, *, now: float, times: int = 1) -> None:
        self._shared.touch(key, now=now, times=times)

    def discard(self, entries: Iterable[Entry], /) -> int:
        discarded = list(entries)
        with self._changing(keys=[entry.key for entry in discarded]):
            return self._shared.discard(discarded)

    def outdate(self, tag: str, /) -> None:
        with self._changing(lambda held: tag in held.entry.tags):
            self._shared.outdate(tag)

    def maintain(self, *, max_entries: int | None, max_bytes: int | None = None, now: float) -> int:
        return self._shared.maintain(max_entries=max_entries, max_bytes=max_bytes, now=now)

    def sweep(self, *, now: float, limit: int) -> int:
        return self._shared.sweep(now=now, limit=limit)

    def count(self) -> int:
        return self._shared.count()

    def check(self) -> None:
        self._shared.check()

    def close(self) -> None:
        if self._stop is not None:
            self._stop.set()
        # Later calls go to the shared store, which raises ClosedError.
        with self._changing(lambda _: True):
            self._shared.close()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(_END_SECONDS)

    def follow(self) -> bool:
        """Drop entries that others changed, confirm the rest; False if no changes can be had."""
        asked = self._clock()
        try:
            with contained:
                changes = self._shared.changes()  # type: ignore[attr-defined]
        except Exception:  # noqa: BLE001 - any fault: entries are then confirmed by being read
            return False

        with self._lock:
            if changes is None:
                self._forget_all(lambda _: True)
            elif changes.keys or changes.tags:
                tagged = (lambda held: bool(held.entry.tags)) if changes.tags else None
                self._forget_all(tagged, changes.keys)
            self._confirmed = asked
        return True

    def _try_lock(self, key: bytes, /) -> Lease | None:
        # A leader looks again for results that others have stored meanwhile, so its key is dropped
        # here. If `refresh` dropped all entries instead, each miss would empty this tier.
        with self._changing(keys=[key]):
            return self._shared.try_lock(key)  # type: ignore[attr-defined,no-any-return]

    def _get(self, key: bytes, now: float) -> tuple[Entry, Content] | None:
        with self._lock:
            if (held := self._held.get(key)) is None:
                return None
            # If the clock went back all the same, the age of the confirmation is unknown.
            if not 0 <= self._clock() - max(held.confirmed, self._confirmed) < self._staleness:
                self._forget(key)
                return None
            if held.entry.ends_at <= now:
                return None
            self._held.move_to_end(key)
            return held.entry, held.content

    def _hold(self, entry: Entry, content: Content, *, confirmed: float) -> None:
        if entry.sliding_seconds is not None:
            return
        texts = (entry.query, entry.context.canonical, content.metadata, *entry.tags)
        size = _OBJECTS_BYTES + len(content.payload) + sum(len(text) for text in texts)
        if size > self._max_bytes:
            return
        self._held[entry.key] = _Held(entry, content, confirmed, size)
        self._bytes += size
        while self._bytes > self._max_bytes:
            self._forget(next(iter(self._held)))

    def _forget(self, key: bytes) -> None:
        if (held := self._held.pop(key, None)) is not None:
            self._bytes -= held.bytes

    @contextmanager
    def _changing(
        self, which: Callable[[_Held], bool] | None = None, *, keys: Iterable[bytes] = ()
    ) -> Iterator[None]:
        """Drop the entries that a call changes, even if it fails."""
        try:
            yield
        finally:
            with self._lock:
                self._forget_all(which, keys)

    def _forget_all(
        self, which: Callable[[_Held], bool] | None, keys: Iterable[bytes] = ()
    ) -> None:
        self._changes += 1
        changed = [] if which is None else [k for k, v in self._held.items() if which(v)]
        for key in (*keys, *changed):
            self._forget(key)

    def _begin_following(self) -> None:
        if self._stop is None and isinstance(self._shared, WatchedStore):
            with self._lock:
                if self._stop is None:
                    self._stop = threading.Event()
                    self._thread = _repeat(
                        self, self._stop, min(self._staleness / 3, _FOLLOW_SECONDS)
                    )


def _repeat(store: TieredStore, stop: threading.Event, seconds: float) -> threading.Thread:
    there = weakref.ref(store)

    @inside
    def loop() -> None:
        wait = 0.0
        while not stop.wait(wait):
            store = there()
            if store is None:
                return
            wait = seconds if store.follow() else _RETRY_SECONDS
            del store

    thread = threading.Thread(target=loop, name="memora-tier", daemon=True)
    thread.start()
    return thread
