"""Entries in the RAM of this process: `memory://`. Also the reference for every other store."""

from __future__ import annotations

import threading
from itertools import islice
from typing import TYPE_CHECKING

from memora.index import FlatIndex
from memora.model import Match

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memora.model import Entry
    from memora.protocols import Vector


class MemoryStore:
    """A dictionary of entries and one flat index a context.

    Payloads are kept encoded, so that nobody can change a stored result by changing the object
    that was stored or served.
    """

    def __init__(self, *, dimension: int) -> None:
        self._dimension = dimension
        self._lock = threading.Lock()  # guards all below; no call under it does I/O
        self._entries: dict[str, Entry] = {}  # by id, in the order of storing
        self._payloads: dict[str, bytes] = {}
        self._ids: dict[str, str] = {}  # key -> id
        self._indexes: dict[str, FlatIndex] = {}  # context fingerprint -> its vectors

    def get(self, key: str, /, *, now: float) -> Entry | None:
        with self._lock:
            entry_id = self._ids.get(key)
            entry = None if entry_id is None else self._entries[entry_id]
        return None if entry is None or _expired(entry, now) else entry

    def search(self, vector: Vector, /, *, context: str, k: int, now: float) -> list[Match]:
        with self._lock:
            index = self._indexes.get(context)
            if index is None:
                return []
            found = index.search(vector, k=k, now=now)
            return [Match(self._entries[entry_id], cosine) for entry_id, cosine in found]

    def payload(self, entry_id: str, /) -> bytes | None:
        with self._lock:
            return self._payloads.get(entry_id)

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

    def drop(self, entry_ids: Sequence[str], /) -> int:
        with self._lock:
            present = [entry_id for entry_id in entry_ids if entry_id in self._entries]
            for entry_id in present:
                self._remove(entry_id)
            return len(present)

    def oldest(self, n: int, /) -> list[str]:
        with self._lock:
            return list(islice(self._entries, n))

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
