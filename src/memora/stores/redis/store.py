"""Store on a Redis or Valkey server: each operation is a Lua script, done wholly or not at all.

A table consists of one shard, or several in a cluster. `lua/common.lua` lists the keys of a shard:
a hash per entry, sorted sets for the order of storing, the ends, the tags and the policy, and an
index of the vectors in the server's query engine or in vector sets. Eviction policies are
applied on the server.

Reads: an exact lookup is one round trip, and so is a search, which asks all shards at once and
fails if one does not answer. No entries are kept in this process; `TieredStore` can hold some in
front.

Writes: `put` sends its entries with the limits in one script per shard and batch; the script stores
them, and evicts in the same step. If a table has several shards, the scripts apply no limits;
`maintain` compares the shards and evicts. Uses are collected here and sent with the next call, or
by a background thread (`_shards`).

Processes and machines see each other's operations at once, because all state is on the server.
Times and stamps are the server's own; a caller's clock is converted (`_time`). A leader has a lease
with a fence (`_leases`), renewed by the background thread: the server refuses a result stored after
the lease went to another process.

Crashes: a process that ends loses only its unsent uses, and its leases end after `_leases.SECONDS`.
What a server keeps across its own restart depends on its persistence settings, and what it drops
under memory pressure on its own eviction settings; `unsuitable` names those that do not suit a
cache. An entry whose hash is gone is a miss. A table that is gone is created again by the next
call.
"""

from __future__ import annotations

import threading
import time
import weakref
from contextlib import contextmanager, suppress
from itertools import islice
from math import inf
from typing import TYPE_CHECKING, Any

from memora._clock import is_of_system
from memora.concurrency.fork import register_for_reinit
from memora.concurrency.reentry import inside
from memora.errors import ArgumentError, ClosedError, CorruptEntryError, StoreError
from memora.eviction import FIFO, POLICIES
from memora.model import Match, Measures
from memora.stores.redis import _fields, _leases
from memora.stores.redis._address import parse
from memora.stores.redis._shards import Shards

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from memora.eviction import EvictionPolicy
    from memora.model import Content, Entry, EntryInfo
    from memora.protocols import Changes, Clock, Lease, Vector
    from memora.selection import Selection

_BATCH = 64  # entries per removing call, which take the server some milliseconds
_PAGE = 256  # entries per listing call
_PENDING = 4096  # the most unsent uses
_KEEP_SECONDS = 1.0
_END_SECONDS = 1.0  # how long `close` waits for the thread
Limits = tuple[int | None, int | None]


class RedisStore:
    """A table on a server.

    Args:
        db_uri: See `memora.stores.redis._address`.
        table_name: Name of the table; one table is one cache.
        model: Identity of the embedder; None for that of an existing table.
        dimension: Length of its vectors; None for that of an existing table.
        create: Whether a missing table is created; False also leaves the policy unchanged.
        max_entries: Limit that each `put` keeps, whichever process stored the entries; None for no
            limit.
        max_bytes: The same, in bytes of the stored entries.
        policy: One of Memora's, applied by the server; None: first in, first out.
        flush_interval_seconds: How long uses wait for a call to be sent with.
        clock: The callers' clock. Entries expire by the server's clock. The system's clock is
            compared with that; any other clock is taken to agree with it.

    Raises:
        ConfigError: The URI is not valid.
        ArgumentError: The policy is not one of Memora's.
        MissingExtraError: The client library is not installed.
        StorePathError: There is no such table, and `create` is false.
        StoreFormatError: A newer Memora made the table.
        ModelMismatchError: Another embedder made the table's vectors.
        StoreError: The server cannot be reached, refuses, or has no vector search.
    """

    def __init__(  # noqa: PLR0913 - the store's settings in `CacheConfig`
        self,
        db_uri: str,
        *,
        table_name: str,
        model: str | None = None,
        dimension: int | None = None,
        create: bool = True,
        max_entries: int | None = None,
        max_bytes: int | None = None,
        policy: EvictionPolicy | None = None,
        flush_interval_seconds: float = 5.0,
        clock: Clock = time.time,
    ) -> None:
        self._closed = False
        self._limits: Limits = (max_entries, max_bytes)
        self._clock, self._use_interval = clock, flush_interval_seconds
        self._shards = Shards(
            parse(db_uri),
            table_name,
            model=model,
            dimension=dimension,
            # A process that only reads does not decide.
            policy=_name_of(policy) if create else None,
            create=create,
            clock=clock if is_of_system(clock) else None,
        )
        register_for_reinit(self)
        self.unsuitable = tuple(self._shards.server.unsuitable())
        """The server's settings that do not suit a cache, as messages."""

    @property
    def model(self) -> str:
        """Identity of the embedder that made the vectors."""
        return self._shards.model or ""

    @property
    def dimension(self) -> int:
        """Length of the vectors."""
        return self._shards.dimension or 0

    def reinit_after_fork(self) -> None:
        """Renew what belongs to one process: locks, leases, the thread."""
        self._lock = threading.Lock()  # guards the following
        self._evicted = self._ended = self._quarantined = 0
        self._untold = 0  # removals not yet returned by `maintain`
        self._over = False  # whether a `put` left entries to evict
        self._stop: threading.Event | None = None
        self._thread: threading.Thread | None = None
        self._told_at = time.monotonic()
        self._leases = _leases.Leases()

    def get(self, key: bytes, /, *, now: float) -> tuple[Entry, Content] | None:
        found = self._read(key, '["m","p","P"]', now)
        if found is None:
            return None
        entry, said, (metadata, small, large) = found
        with self._dropping(key):
            return entry, _fields.content_of(small if large is None else large, metadata, said)

    def get_in_memory(self, key: bytes, /, *, now: float) -> tuple[Entry, Content] | None:  # noqa: ARG002
        self._check()
        return None  # the answer would take a round trip

    def peek(self, key: bytes, /, *, now: float) -> Entry | None:
        found = self._read(key, "[]", now)
        return None if found is None else found[0]

    def fetch(self, key: bytes, /, *, now: float) -> tuple[Entry, Content, Vector | None] | None:
        found = self._read(key, '["m","p","P","v"]', now)
        if found is None:
            return None
        entry, said, (metadata, small, large, floats) = found
        with self._dropping(key):
            content = _fields.content_of(small if large is None else large, metadata, said)
            return entry, content, _fields.vector_of(floats, said)

    def _read(self, key: bytes, fields: str, now: float) -> tuple[Entry, bytes, list[Any]] | None:
        shard = self._shards.of(key)
        found = self._run("read", shard, key.hex(), now, fields)
        if found is None:
            return None
        said, expires, *rest = found
        with self._dropping(key):
            entry = _fields.entry_of(said, expires, self._shards.ahead(shard))
            if entry.key != key:
                raise CorruptEntryError("an entry is damaged: it is another's")
            return entry, said, rest

    @contextmanager
    def _dropping(self, key: bytes) -> Iterator[None]:
        """Drop an entry that turns out to be damaged."""
        try:
            yield
        except CorruptEntryError:
            self._quarantined += 1
            self._drop(key)
            raise

    def _drop(self, key: bytes) -> None:
        self._run("drop", self._shards.of(key), key.hex())

    def search(
        self, vector: Vector, /, *, context: str, k: int, now: float, since: float = -inf
    ) -> list[Match]:
        asked = (vector.astype("<f4", copy=False).tobytes(), k, now, since)
        found: list[Match] = []
        for shard, rows in enumerate(self._run_all("search", context, *asked)):
            ahead = self._shards.ahead(shard)
            for key, distance, said, expires, metadata, payload, floats in rows:
                name = bytes.fromhex(key.decode())
                with suppress(CorruptEntryError), self._dropping(name):  # skips damaged entries
                    entry = _fields.entry_of(said, expires, ahead)
                    if entry.key != name:
                        raise CorruptEntryError("an entry is damaged: it is another's")
                    if entry.context.fingerprint != context or entry.ends_at <= now:
                        continue  # guards against a wrong context, whatever the engine returns
                    exact = None if floats is None else _fields.vector_of(floats, said)
                    cosine = 1.0 - float(distance) if exact is None else float(exact @ vector)
                    content = None
                    if payload is not None:
                        content = _fields.content_of(payload, metadata, said)
                    found.append(Match(entry, cosine, content))
        return sorted(found, key=lambda match: -match.cosine)[:k]

    def select(self, selection: Selection, /, *, now: float) -> list[EntryInfo]:
        if selection.key is not None:
            shard = self._shards.of(selection.key)
            row = self._run("holding", shard, selection.key.hex(), now)
            rows = [] if row is None else [(shard, row)]
        else:
            tags = sorted(selection.tags) or [""]
            rows = [
                (shard, row)
                for shard in range(len(self._shards))
                for tag in tags
                for row in self._pages(shard, tag, selection.fingerprint or "", now)
            ]
        unique: dict[str, tuple[int, EntryInfo]] = {}  # an entry may be found under several tags
        for shard, (key, *row) in rows:
            try:
                stamp, held = _fields.info_of(row, self._shards.ahead(shard))
            except CorruptEntryError:
                self._quarantined += 1
                self._drop(bytes.fromhex(key.decode()))  # the other entries are still found
                continue
            unique[held.entry.id] = stamp, held
        ordered = sorted(unique.values(), key=lambda one: one[0])
        return [held for _, held in ordered if selection.takes(held.entry)]

    def _pages(self, shard: int, tag: str, context: str, now: float) -> Iterator[list[Any]]:
        after, more = b"0", 1
        while more:
            after, more, rows = self._run("select", shard, tag, context, now, after, _PAGE)
            yield from rows

    def put(self, entry: Entry, content: Content, /, *, vector: Vector | None) -> None:
        self.put_many([(entry, content, vector)])

    def put_many(self, items: Sequence[tuple[Entry, Content, Vector | None]], /) -> None:
        # Batches per shard: each call stores all of its entries or none; most often there is one
        # call.
        now = self._clock()
        limits = self._limits if len(self._shards) == 1 else (None, None)
        by_shard: dict[int, list[list[Any]]] = {}
        for entry, content, vector in items:
            shard, fence = self._shards.of(entry.key), self._leases.fence(entry.key)
            ahead = self._shards.ahead(shard)
            there = _fields.moved(entry, ahead)
            packed = _fields.pack(there, content, vector, fence=fence, now=now + ahead)
            by_shard.setdefault(shard, []).append(packed)
        for shard, waiting in by_shard.items():
            for batch in _fields.batches(waiting):
                flat = [value for packed in batch for value in packed]
                *left, more = self._run("put", shard, *_said(limits), now, len(batch), *flat)
                with self._lock:
                    self._untold += self._count(*left)
                    self._over |= more > 0

    def touch(self, key: bytes, /, *, now: float, times: int = 1) -> None:
        self._check()
        if times > 0:
            waiting = self._shards.note(key, now, times)
            self._begin_keeping()
            if waiting >= _PENDING:
                self._shards.tell()

    def discard(self, entries: Iterable[Entry], /) -> int:
        self._check()
        discarded, waiting = 0, iter(entries)
        while batch := list(islice(waiting, _BATCH)):
            by_shard: dict[int, list[str]] = {}
            for entry in batch:
                by_shard.setdefault(self._shards.of(entry.key), []).extend(
                    (entry.key.hex(), entry.id)
                )
            for shard, pairs in by_shard.items():
                discarded += self._run("discard", shard, len(pairs) // 2, *pairs)
        return discarded

    def outdate(self, tag: str, /) -> None:
        self._run_all("outdate", tag)

    def maintain(self, *, max_entries: int | None, max_bytes: int | None = None, now: float) -> int:
        self._check()
        limits, known = (max_entries, max_bytes), self._limits
        self._limits = limits  # for each `put` from now on
        if len(self._shards) > 1:
            return self._maintain_all(limits, now)
        with self._lock:
            removed, self._untold = self._untold, 0
            more, self._over = self._over or limits != known, False
        while more:
            *left, more = self._run("maintain", 0, *_said(limits), now, _BATCH)
            removed += self._count(*left)
        return removed

    def _maintain_all(self, limits: Limits, now: float) -> int:
        """Apply limits that hold for all shards together.

        Two processes that do so at once remove the same entries: the first of all shards by fifo or
        lru. With another policy each shard chooses, the largest shard first.
        """
        max_entries, max_bytes = limits
        removed = self._count(0, sum(self._run_all("sweep", now - 1, _BATCH // 4)))
        while True:
            sizes = self._run_all("sizes", _BATCH)
            count, held = sum(one[0] for one in sizes), sum(one[1] for one in sizes)
            surplus = 0 if max_entries is None else count - max_entries
            if surplus <= 0:
                surplus = int(max_bytes is not None and held > max_bytes and count > 0)
            if not surplus:
                return removed
            if ended := self.sweep(now=now, limit=surplus):
                removed += ended
            elif self._shards.policy in {"fifo", "lru"}:
                first = sorted(
                    (float(score), member, shard)
                    for shard, (_, _, queue) in enumerate(sizes)
                    for member, score in zip(queue[::2], queue[1::2], strict=True)
                )[: min(surplus, _BATCH)]
                for shard in {shard for _, _, shard in first}:
                    members = [member for _, member, where in first if where == shard]
                    removed += self._count(self._run("evict", shard, len(members), *members), 0)
            else:
                largest = max(range(len(sizes)), key=lambda shard: sizes[shard][0])
                removed += self._count(self._run("leave", largest), 0)

    def sweep(self, *, now: float, limit: int) -> int:
        self._check()
        removed = 0
        for shard in range(len(self._shards)):
            while wanted := min(limit - removed, _BATCH):
                gone = self._count(0, self._run("sweep", shard, now, wanted))
                removed += gone
                if gone < wanted:
                    break
        return removed

    def count(self) -> int:
        return sum(one[0] for one in self._run_all("sizes", 1))

    def _count(self, evicted: int, ended: int) -> int:
        """Count entries removed by this process; return their number."""
        self._evicted += evicted
        self._ended += ended
        return evicted + ended

    def measure(self) -> Measures:
        return Measures(
            bytes=sum(one[1] for one in self._run_all("sizes", 1)),
            payload_bytes=None,
            index_bytes=0,  # in this process; the server's indexes are not counted
            evicted=self._evicted,
            ended=self._ended,
        )

    def check(self) -> None:
        self._run_all("check")

    def try_lock(self, key: bytes, /) -> Lease | None:
        milliseconds = int(1000 * _leases.SECONDS)
        fence = self._run("lead", self._shards.of(key), key.hex(), milliseconds)
        if fence is None:
            return None
        self._begin_keeping()
        return self._leases.add(key, fence.decode(), self._let_go)

    def _let_go(self, key: bytes, fence: str) -> None:
        self._run("hold", self._shards.of(key), 0, 1, key.hex(), fence)

    def refresh(self) -> None:
        self._check()  # every read asks the server anyway

    def changes(self) -> Changes | None:
        self._check()
        return self._shards.changes()

    def create_index(self, **options: Any) -> bool:
        for name, value in options.items():
            if name != "index_type" and value is not None:
                raise ArgumentError(f"{name}={value!r}: on a server the index takes no options")
        self._run_all("reindex")
        for shard in range(len(self._shards)):
            self._shards.open_shard(shard)
        return True

    def index_stats(self) -> dict[str, Any]:
        return {
            "has_index": True,
            "index_type": "HNSW",
            "engine": {"ft": "query engine", "vset": "vector sets"}[self._shards.engine],
            "total_entries": self.count(),
            "shards": len(self._shards),
            "quarantined_entries": self._quarantined,
        }

    def close(self) -> None:
        if self._closed:
            return
        try:
            with suppress(StoreError):  # unsent uses may be lost
                self._shards.tell()
        finally:
            self._closed = True
            if self._stop is not None:
                self._stop.set()
            self._shards.close()
            if self._thread is not None and self._thread is not threading.current_thread():
                self._thread.join(_END_SECONDS)

    def _check(self) -> None:
        if self._closed:
            raise ClosedError("this store has been closed")

    def _run(self, name: str, shard: int, *args: Any) -> Any:
        self._check()
        return self._shards.run(name, shard, *args)

    def _run_all(self, name: str, *args: Any) -> list[Any]:
        self._check()
        return self._shards.run_all(name, *args)

    def _begin_keeping(self) -> None:
        """Start the thread that sends uses and renews leases."""
        if self._stop is None:
            with self._lock:
                if self._stop is None:
                    self._stop = threading.Event()
                    self._thread = _repeat(self, self._stop)

    def keep(self) -> None:
        """Renew leases and send uses if due; faults are left to the next call."""
        with suppress(StoreError):
            milliseconds = int(1000 * _leases.SECONDS)
            for key, fence in self._leases.held():
                self._run("hold", self._shards.of(key), milliseconds, 1, key.hex(), fence)
            if time.monotonic() - self._told_at >= self._use_interval:
                self._told_at = time.monotonic()
                self._shards.tell()


def _repeat(store: RedisStore, stop: threading.Event) -> threading.Thread:
    there = weakref.ref(store)

    @inside
    def loop() -> None:
        while not stop.wait(_KEEP_SECONDS):
            store = there()
            if store is None:
                return
            with suppress(ClosedError):
                store.keep()
            del store

    thread = threading.Thread(target=loop, name="memora-redis", daemon=True)
    thread.start()
    return thread


def _name_of(policy: EvictionPolicy | None) -> str:
    name = FIFO.name if policy is None else getattr(policy, "name", "")
    if policy is not None and POLICIES.get(name) is not type(policy):
        raise ArgumentError(
            f"eviction policy {type(policy).__name__}: on a server that many share it runs there, "
            f"so it has to be one of {', '.join(POLICIES)}"
        )
    return name


def _said(limits: Limits) -> tuple[int | str, int | str]:
    return tuple("" if limit is None else limit for limit in limits)  # type: ignore[return-value]
