"""What is measured: each engine behind the same five calls, Memora and plain LanceDB here.

Texts begin with their number, so that the embedding of one is a row of an array: every engine gets
the same vectors through its own hook, and no model runs. A payload begins with its entry's number.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

DIMENSION = 384
THRESHOLD = 0.8  # cosine, for every engine
Item = tuple[str, str, str]  # text, context, payload


class Vectors:
    """The embedding of every text: rows of entries and of queries."""

    def __init__(self, entries: NDArray[np.float32], queries: NDArray[np.float32]) -> None:
        self._entries, self._queries = entries, queries

    def __call__(self, text: str) -> NDArray[np.float32]:
        """Return the row that a text names."""
        rows = self._entries if text[0] == "e" else self._queries
        number = text[1:9]  # none in an engine's own probe
        row: NDArray[np.float32] = rows[int(number) % len(rows) if number.isdecimal() else 0]
        return row


def text(kind: str, number: int) -> str:
    """Return the text of an entry ("e") or a query ("q"), as long as a question."""
    return f"{kind}{number:08d} what do we know about case {number:08d} by now?"


class Engine(Protocol):
    """A cache of texts."""

    def store(self, text: str, context: str, payload: str) -> None:
        """Store one result."""

    def lookup(self, text: str, context: str) -> str | None:
        """Return the payload of a hit."""

    def close(self) -> None:
        """Release everything, after everything is kept."""


class Bulk(Protocol):
    """An engine with a faster way to store many results at once."""

    def store_all(self, items: Sequence[Item]) -> None:
        """Store many."""


class Precomputed:
    """An embedder of Memora that looks its vectors up."""

    identity = "precomputed"
    dimension = DIMENSION

    def __init__(self, vectors: Vectors) -> None:
        self._vectors = vectors

    def embed(self, texts: Sequence[str], /) -> list[NDArray[np.float32] | None]:
        """Return rows."""
        return [self._vectors(text) for text in texts]


class Door:
    """Memora as an application uses it: `lookup` and `store` of a cache."""

    def __init__(self, path: Path | None, vectors: Vectors, options: dict[str, Any]) -> None:
        from memora import CacheConfig, Memora  # noqa: PLC0415 - peers run without

        settings: dict[str, Any] = {
            "db_uri": "memory://" if path is None else str(path),
            "max_entries": None,
            "similarity_threshold": THRESHOLD,
            "judge": "off",  # what is measured is the engine, at one cosine for all
            "embedding_cache_size": 0,
            "log_level": "ERROR",
        }
        known = CacheConfig.model_fields
        settings |= {name: value for name, value in options.items() if name in known}
        self._cache = Memora(CacheConfig(**settings), embedder=Precomputed(vectors))

    def store(self, text: str, context: str, payload: str) -> None:
        """Store one result."""
        if self._cache.store(text, {"context": context}, payload) is None:
            raise RuntimeError("not stored")

    def lookup(self, text: str, context: str) -> str | None:
        """Return the payload of a hit."""
        found = self._cache.lookup(text, {"context": context})
        return found.result if found.is_hit else None

    def close(self) -> None:
        """Close the cache."""
        self._cache.close()


class Store:
    """Memora's store alone: no canonical forms, codec, metrics or logs around it."""

    def __init__(self, path: Path | None, vectors: Vectors, options: dict[str, Any]) -> None:
        from memora.model import Content, Context, Entry  # noqa: PLC0415 - peers run without

        self._vectors, self._max = vectors, options.get("max_entries")
        self._entry, self._content, self._context = Entry, Content, Context
        self._contexts: dict[str, Any] = {}
        chosen = {k: v for k, v in options.items() if k != "max_entries"}
        if path is None:
            memory = import_module("memora.stores.memory")
            self._store = memory.MemoryStore(dimension=DIMENSION)
        else:
            disk = import_module("memora.stores.disk.store")
            settings = import_module("memora.stores._settings").TableSettings(
                table_name="bench", model="bench", dimension=DIMENSION, **chosen
            )
            self._store = disk.LanceStore(path, settings)

    def _of(self, context: str) -> Any:
        known = self._contexts.get(context)
        if known is None:
            digest = hashlib.sha256(context.encode()).hexdigest()
            known = self._contexts[context] = self._context(context, digest)
        return known

    def store(self, text: str, context: str, payload: str) -> None:
        """Put one entry."""
        where = self._of(context)
        entry = self._entry(
            id=uuid.uuid4().hex,
            key=_key(where.fingerprint, text),
            query=text,
            context=where,
            created_at=time.time(),
            expires_at=None,
        )
        content = self._content(payload.encode())
        self._store.put(entry, content, vector=self._vectors(text))
        if self._max is not None:
            self._store.maintain(max_entries=self._max, now=time.time())

    def lookup(self, text: str, context: str) -> str | None:
        """Get by key; else search, and get the nearest if it is similar enough."""
        where, now = self._of(context), time.time()
        found = self._store.get(_key(where.fingerprint, text), now=now)
        if found is None:
            matches = self._store.search(
                self._vectors(text), context=where.fingerprint, k=1, now=now
            )
            if not matches or matches[0].cosine < THRESHOLD:
                return None
            found = self._store.get(matches[0].entry.key, now=now)
        return None if found is None else str(found[1].payload, "utf-8")

    def close(self) -> None:
        """Close the store."""
        self._store.close()


class PlainLance:
    """LanceDB the plain way, as Memora 0.1.0 used it: a row an add, a search with a filter.

    Default settings; nothing compacts. An exact lookup is a search like any other.
    """

    def __init__(self, path: Path, vectors: Vectors, options: dict[str, Any]) -> None:
        lancedb, pa = import_module("lancedb"), import_module("pyarrow")
        self._vectors, self._max = vectors, options.get("max_entries")
        self._ids: list[str] = []
        self._added = False
        self._pa = pa
        self._schema = pa.schema(
            [
                ("id", pa.string()),
                ("context", pa.string()),
                ("query", pa.string()),
                ("result", pa.string()),
                ("created_at", pa.float64()),
                ("vector", pa.list_(pa.float32(), DIMENSION)),
            ]
        )
        connection = lancedb.connect(str(path))
        self._table = connection.create_table("cache", schema=self._schema, exist_ok=True)

    def _row(self, text: str, context: str, payload: str) -> dict[str, Any]:
        return {
            "id": uuid.uuid4().hex,
            "context": _digest(context),
            "query": text,
            "result": payload,
            "created_at": time.time(),
            "vector": self._vectors(text),
        }

    def store(self, text: str, context: str, payload: str) -> None:
        """Add a row; delete the oldest beyond the limit."""
        row = self._row(text, context, payload)
        self._table.add([row])
        self._added = True
        if self._max is not None:
            self._ids.append(row["id"])
            if len(self._ids) > self._max:
                self._table.delete(f"id = '{self._ids.pop(0)}'")

    def store_all(self, items: Sequence[Item]) -> None:
        """Add thousands of rows at once."""
        for start in range(0, len(items), 50_000):
            rows = [self._row(*item) for item in items[start : start + 50_000]]
            self._table.add(self._pa.Table.from_pylist(rows, schema=self._schema))

    def lookup(self, text: str, context: str) -> str | None:
        """Search with a filter on the context."""
        query = self._table.search(self._vectors(text)).distance_type("cosine")
        query = query.where(f"context = '{_digest(context)}'", prefilter=True)
        rows = query.select(["result", "_distance"]).limit(1).to_list()
        if rows and 1 - rows[0]["_distance"] >= THRESHOLD:
            return str(rows[0]["result"])
        return None

    def close(self) -> None:
        """Nothing is open."""


class CompactLance(PlainLance):
    """LanceDB at its best: nearly all rows in large batches, then compacted."""

    def close(self) -> None:
        """Compact what was added since the last time."""
        if self._added:
            self._table.optimize()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _key(*parts: str) -> bytes:
    return hashlib.sha256("\0".join(parts).encode()).digest()[:16]
