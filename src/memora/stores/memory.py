"""Entries in the RAM of this process: `memory://`. Also the reference for every other store."""

from __future__ import annotations

import threading
from itertools import islice
from typing import TYPE_CHECKING

from memora._fork import renew_after_fork
from memora.index import FlatIndex
from memora.model import Match

if TYPE_CHECKING:
    from memora.model import Entry
    from memora.protocols import Vector


class MemoryStore:
    """A dictionary of entries and one flat index a context.

    Payloads are kept encoded, so that nobody can change a stored result by changing the object
    that was stored or served.
    """

    def __init__(self, *, dimension: int) -> None:
        self._dimension = dimension
        renew_after_fork(self)
        self._entries: dict[str, Entry] = {}  # by id, in the order of storing
        self._payloads: dict[str, bytes] = {}
        self._ids: dict[str, str] = {}  # key -> id
        self._indexes: dict[str, FlatIndex] = {}  # context fingerprint -> its vectors

    def renew(self) -> None:
        self._lock = threading.Lock()  # guards all else here; no call under it does I/O

    def get(self, key: str, /, *, now: float) -> tuple[Entry, bytes] | None:
        with self._lock:
            if (entry_id := self._ids.get(key)) is None:
                return None
            entry = self._entries[entry_id]
            return None if _expired(entry, now) else (entry, self._payloads[entry_id])

    def search(self, vector: Vector, /, *, context: str, k: int, now: float) -> list[Match]:
        with self._lock:
            index = self._indexes.get(context)
            if index is None:
                return []
            found = index.search(vector, k=k, now=now)
            return [Match(self._entries[entry_id], cosine) for entry_id, cosine in found]

    def put(self, entry: Entry, payload: bytes, /, *, vector: Vector | None) -> None:
        with self._lock:
            if (replaced := self._ids.get(entry.key)) is not None:
                self._remove(replaced)
            self._entries[entry.id] = entry
            self._payloads[entry.id] = payload
            self._ids[entry.key] = entry.id
            if vector is not None:
                fingerprint = entry.context.fingerprint
                index = self._indexes.setdefault(fingerprint, FlatIndex(self._dimension))
                index.add(entry.id, vector, expires_at=entry.expires_at)

    def maintain(self, *, max_entries: int | None) -> int:
        with self._lock:
            surplus = 0 if max_entries is None else max(len(self._entries) - max_entries, 0)
            for entry_id in list(islice(self._entries, surplus)):
                self._remove(entry_id)
            return surplus

    def count(self) -> int:
        return len(self._entries)

    def close(self) -> None:
        """Nothing to release."""

    def _remove(self, entry_id: str) -> None:
        entry = self._entries.pop(entry_id)
        del self._payloads[entry_id], self._ids[entry.key]
        if (index := self._indexes.get(entry.context.fingerprint)) is not None:
            index.remove(entry_id)
            if not len(index):
                del self._indexes[entry.context.fingerprint]


def _expired(entry: Entry, now: float) -> bool:
    return entry.expires_at is not None and entry.expires_at <= now
