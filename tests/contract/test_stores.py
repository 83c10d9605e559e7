"""The law of every store: one suite, one parameter a store."""

from __future__ import annotations

import random
import threading
import uuid
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from doubles import POLICY_MODELS, until

from memora import index as index_module
from memora.context import canonical_context, exact_key
from memora.errors import ClosedError
from memora.eviction import POLICIES, make_policy
from memora.model import Content, Entry, EntryInfo
from memora.selection import Selection
from memora.stores.bucket.store import ObjectStore
from memora.stores.disk import store as lance_module
from memora.stores.disk.store import LanceStore
from memora.stores.memory import MemoryStore
from memora.stores.tiered import TieredStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from servers import Servers, StorageServer

    from memora.protocols import Store, Vector

    Opener = Callable[..., Store]

DIMENSION = 8
NOW = 1_700_000_000.0
SQL = {"agent": "sql", "db": "prod"}


class Flushing(LanceStore):
    """Brings its table up to the log after each `put`, so that a search is answered from it."""

    def put(self, entry: Entry, content: Content, /, *, vector: Vector | None) -> None:
        super().put(entry, content, vector=vector)
        self.flush()
        if self._view.graph is None:
            self._leave_to_table()


class Settling(LanceStore):
    """Moves each vector to the graph at once, so that a search is answered from there."""

    def put(self, entry: Entry, content: Content, /, *, vector: Vector | None) -> None:
        super().put(entry, content, vector=vector)
        with self._view.lock:
            while (index := self._view.hot.unsettled()) is not None:
                index.settle(64)


class SettlingMemory(MemoryStore):
    """The same in RAM."""

    def put(self, entry: Entry, content: Content, /, *, vector: Vector | None) -> None:
        super().put(entry, content, vector=vector)
        with self._lock:
            while (index := self._hot.unsettled()) is not None:
                index.settle(64)


class Warm(TieredStore):
    """Holds what it is given at once; what leaves for a limit is seen after the staleness."""

    def __init__(self, shared: Store) -> None:
        self.time = 0.0
        clock = lambda: self.time  # noqa: E731 - of no more use
        super().__init__(shared, max_bytes=2**25, max_staleness_seconds=1.0, clock=clock)

    def put(self, entry: Entry, content: Content, /, *, vector: Vector | None) -> None:
        super().put(entry, content, vector=vector)
        self.get(entry.key, now=entry.created_at)

    def maintain(self, *, max_entries: int | None, max_bytes: int | None = None, now: float) -> int:
        evicted = super().maintain(max_entries=max_entries, max_bytes=max_bytes, now=now)
        self.time += 1.0 if evicted else 0.0
        return evicted


def open_memory(_: Path, **settings: Any) -> Store:
    return MemoryStore(dimension=DIMENSION, **settings)


def open_memory_graph(_: Path, **settings: Any) -> Store:
    return SettlingMemory(dimension=DIMENSION, **settings)


def open_memory_tiered(_: Path, **settings: Any) -> Store:
    return Warm(MemoryStore(dimension=DIMENSION, **settings))


def on_disk(kind: type[LanceStore] = LanceStore, **always: Any) -> Opener:
    def open_lance(path: Path, **settings: Any) -> Store:
        return kind(
            path,
            table_name="cache",
            model="toy",
            dimension=DIMENSION,
            clock=lambda: NOW,  # nothing ends but when a test says so
            **({"max_staleness_seconds": 0.05} | always | settings),
        )

    return open_lance


class FlushingObjects(Flushing, ObjectStore):
    """The same, in a bucket."""


class SettlingObjects(Settling, ObjectStore):
    """The same, in a bucket."""


def in_bucket(kind: type[ObjectStore] = ObjectStore, **always: Any) -> Callable[..., Opener]:
    def at(server: StorageServer) -> Opener:
        def open_objects(path: Path, **settings: Any) -> Store:
            return kind(
                "/".join((server.uri, *path.parts[-2:])),
                options=server.storage_options,
                table_name="cache",
                model="toy",
                dimension=DIMENSION,
                clock=lambda: NOW,
                **({"max_staleness_seconds": 0.1} | always | settings),
            )

        return open_objects

    return at


ON_DISK = {
    "lancedb": on_disk(max_staleness_seconds=1.0),
    "lancedb memory": on_disk(durability="memory"),
    "lancedb process": on_disk(durability="process"),
    "lancedb power": on_disk(durability="power"),
    "lancedb graph": on_disk(Settling),
    "lancedb no payloads in RAM": on_disk(hot_payload_bytes=0),
    "lancedb off": on_disk(hot_index="off"),
    "lancedb flushed": on_disk(Flushing),
    "lancedb off flushed": on_disk(Flushing, hot_index="off", hot_payload_bytes=0),
    "lancedb off flushed memory": on_disk(Flushing, hot_index="off", durability="memory"),
}
IN_BUCKET = {
    "bucket": in_bucket(max_staleness_seconds=1.0),
    "bucket memory": in_bucket(durability="memory", hot_payload_bytes=0),
    "bucket graph": in_bucket(SettlingObjects),
    "bucket flushed": in_bucket(FlushingObjects),
}
OPENERS = {
    "memory": open_memory,
    "memory graph": open_memory_graph,
    "memory tiered": open_memory_tiered,
} | ON_DISK
GRAPHS = {"memory graph", "lancedb graph", "bucket graph"}
ON_SERVERS = [
    "redis search",
    "redis",
    "valkey search",
    "redis cluster search",
    "redis cluster",
    "valkey cluster search",
]
TIERED = ["redis search tiered", "redis tiered", "redis cluster search tiered"]
ON_SERVERS += TIERED
BUCKETS, SERVED = (
    [pytest.param(name, marks=pytest.mark.servers) for name in names]
    for names in (IN_BUCKET, ON_SERVERS)
)
STORES = [*OPENERS, *BUCKETS, *SERVED]
LASTING = [*ON_DISK, *BUCKETS, *SERVED]


def on_server(uri: str, *, tiered: bool = False) -> Opener:
    from memora.stores.redis import RedisStore  # noqa: PLC0415 - an extra

    def open_redis(path: Path, **settings: Any) -> Store:
        policy = getattr(settings.get("policy"), "name", "fifo")
        if "cluster" in uri and policy in {"lfu", "cost", "s3fifo"}:
            pytest.skip(f"in a cluster each shard keeps to {policy} by itself")
        store = RedisStore(
            uri,
            table_name=uuid.uuid5(uuid.NAMESPACE_URL, str(path)).hex,
            model="toy",
            dimension=DIMENSION,
            clock=lambda: NOW,
            **settings,
        )
        return Warm(store) if tiered else store

    return open_redis


@pytest.fixture(params=STORES)
def opener(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, servers: Servers
) -> Opener:
    if request.param in ON_SERVERS:
        kind = request.param.removesuffix(" tiered")
        return on_server(servers.uri(kind), tiered=request.param in TIERED)
    if request.param in GRAPHS:
        monkeypatch.setattr(index_module, "_GRAPH_AT", 1)
        monkeypatch.setattr(index_module, "_TAIL", 0)
    if request.param in IN_BUCKET:
        return IN_BUCKET[request.param](request.getfixturevalue("s3"))
    return OPENERS[request.param]


@pytest.fixture
def store(opener: Opener, tmp_path: Path) -> Iterator[Store]:
    opened = opener(tmp_path)
    yield opened
    opened.close()


def entry(
    query: str = "q",
    context: dict[str, Any] | None = None,
    *,
    at: float = NOW,
    expires_at: float | None = None,
    **rest: Any,
) -> Entry:
    canonical = canonical_context(SQL if context is None else context)
    return Entry(
        id=uuid.uuid4().hex,
        key=exact_key(query, canonical),
        query=query,
        context=canonical,
        created_at=at,
        expires_at=expires_at,
        **rest,
    )


def unit(*values: float) -> Vector:
    vector = np.zeros(DIMENSION, np.float32)
    vector[: len(values)] = values
    return vector / np.linalg.norm(vector)


def fingerprint(context: dict[str, Any]) -> str:
    return canonical_context(context).fingerprint


def test_a_new_store_is_empty(store: Store) -> None:
    assert store.count() == 0
    assert store.get(bytes(16), now=NOW) is None
    assert store.search(unit(1), context=fingerprint(SQL), k=3, now=NOW) == []
    assert store.maintain(max_entries=None, now=NOW) == 0
    assert store.maintain(max_entries=1, now=NOW) == 0


def test_an_entry_comes_back_as_it_was_put(store: Store) -> None:
    stored = entry(
        "what's O'Brien's \"total\"? ünïcode 🎉",
        {"agent": "it's", "n": [1, None]},
        expires_at=NOW + 60,
    )
    content = Content(b"\x00payload\xff", '{"tokens": 3, "nested": {"a": [1.5, "it\'s", null]}}')

    store.put(stored, content, vector=unit(1))

    assert store.get(stored.key, now=NOW) == (stored, content)
    assert store.count() == 1


@pytest.mark.parametrize("size", [0, 1, 20_000_000], ids=["empty", "one byte", "20 MB"])
def test_payloads_of_any_size_come_back(store: Store, size: int) -> None:
    payload = np.random.default_rng(0).bytes(size)
    stored = entry()

    store.put(stored, Content(payload), vector=unit(1))

    assert store.get(stored.key, now=NOW) == (stored, Content(payload))


def test_search_returns_the_nearest_first_with_their_exact_cosine(store: Store) -> None:
    vectors = {"far": unit(0, 1), "near": unit(1, 0.1), "middle": unit(1, 1), "behind": unit(-1)}
    for query, vector in vectors.items():
        store.put(entry(query), Content(b""), vector=vector)

    found = store.search(unit(1), context=fingerprint(SQL), k=3, now=NOW)

    assert [match.entry.query for match in found] == ["near", "middle", "far"]
    expected = [float(vectors[match.entry.query] @ unit(1)) for match in found]
    assert [match.cosine for match in found] == pytest.approx(expected, abs=1e-5)


def test_search_never_crosses_contexts(store: Store) -> None:
    other = {"agent": "sql", "db": "staging"}
    store.put(entry("same", other), Content(b""), vector=unit(1))
    store.put(entry("mine"), Content(b""), vector=unit(1, 1))

    found = store.search(unit(1), context=fingerprint(SQL), k=5, now=NOW)

    assert [match.entry.query for match in found] == ["mine"]


def test_the_same_key_replaces(store: Store) -> None:
    first = entry("same")
    second = entry("same", at=NOW + 1)
    store.put(first, Content(b"old"), vector=unit(1))

    store.put(second, Content(b"new"), vector=unit(0, 1))

    assert store.count() == 1
    assert store.get(first.key, now=NOW) == (second, Content(b"new"))
    (match,) = store.search(unit(1), context=fingerprint(SQL), k=5, now=NOW)
    assert match.entry == second
    assert match.cosine == pytest.approx(0, abs=1e-6)


def test_an_expired_entry_is_never_read_and_takes_no_candidate_place(store: Store) -> None:
    for i in range(5):
        store.put(entry(f"old {i}", expires_at=NOW + 10), Content(b""), vector=unit(1))
    alive = entry("alive", expires_at=NOW + 11)
    store.put(alive, Content(b""), vector=unit(1, 1))
    old_key = entry("old 0").key

    assert store.get(old_key, now=NOW + 9.999) is not None
    assert store.get(old_key, now=NOW + 10) is None
    found = store.search(unit(1), context=fingerprint(SQL), k=1, now=NOW + 10)
    assert [match.entry for match in found] == [alive]


def test_an_entry_without_a_vector_is_found_by_key_only(store: Store) -> None:
    stored = entry("a very long text")
    store.put(stored, Content(b"long"), vector=None)

    assert store.get(stored.key, now=NOW) == (stored, Content(b"long"))
    assert store.search(unit(1), context=fingerprint(SQL), k=5, now=NOW) == []

    replacing = entry("a very long text", at=NOW + 1)
    store.put(replacing, Content(b"longer"), vector=unit(1))
    found = store.search(unit(1), context=fingerprint(SQL), k=5, now=NOW)
    assert [match.entry for match in found] == [replacing]


def left(store: Store) -> set[str]:
    found = store.search(unit(1), context=fingerprint(SQL), k=100, now=NOW)
    assert all(store.get(match.entry.key, now=NOW) for match in found)
    return {match.entry.query for match in found}


def test_beyond_max_entries_the_oldest_leave_wholly(store: Store) -> None:
    stored = [entry(f"q{i}", at=NOW + i) for i in range(4)]
    for one in stored:
        store.put(one, Content(b""), vector=unit(1))

    assert store.maintain(max_entries=4, now=NOW) == 0
    assert store.maintain(max_entries=2, now=NOW) == 2

    assert store.count() == 2
    assert store.get(stored[0].key, now=NOW) is None
    assert left(store) == {"q2", "q3"}


def test_a_replacement_is_young(store: Store) -> None:
    for i in range(3):
        store.put(entry(f"q{i}", at=NOW + i), Content(b""), vector=unit(1))
    store.put(entry("q0", at=NOW + 9), Content(b""), vector=unit(1))

    store.maintain(max_entries=2, now=NOW)

    assert left(store) == {"q2", "q0"}


@pytest.mark.parametrize("step", [0, -100], ids=["clock stands still", "clock set back"])
def test_age_is_the_order_of_storing_whatever_the_clock_says(store: Store, step: float) -> None:
    for i in range(5):
        store.put(entry(f"q{i}", at=NOW + i * step), Content(b""), vector=unit(1))

    store.maintain(max_entries=2, now=NOW)

    assert left(store) == {"q3", "q4"}


def test_k_larger_than_the_context_returns_all(store: Store) -> None:
    for i in range(3):
        store.put(entry(f"q{i}"), Content(b""), vector=unit(1, i))

    assert len(store.search(unit(1), context=fingerprint(SQL), k=100, now=NOW)) == 3


def test_threads_lose_nothing(store: Store) -> None:
    def work(thread: int) -> None:
        try:
            for i in range(10):
                store.put(
                    entry(f"{thread}-{i}"), Content(f"{thread}-{i}".encode()), vector=unit(1, i)
                )
                store.put(entry("shared", at=NOW + i), Content(b"s"), vector=unit(1))
                store.search(unit(1), context=fingerprint(SQL), k=3, now=NOW)
        except Exception as error:  # noqa: BLE001 - reported below
            failures.append(error)

    failures: list[Exception] = []
    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    assert store.count() == 4 * 10 + 1
    for thread_number in range(4):
        for i in range(10):
            found = store.get(entry(f"{thread_number}-{i}").key, now=NOW)
            assert found is not None
            assert found[1].payload == f"{thread_number}-{i}".encode()


def test_a_healthy_store_has_nothing_to_tell(store: Store) -> None:
    store.check()
    store.put(entry(), Content(b""), vector=unit(1))
    store.maintain(max_entries=1, now=NOW)
    store.check()


def test_closing_twice_is_fine(opener: Opener, tmp_path: Path) -> None:
    store = opener(tmp_path)
    store.put(entry(), Content(b""), vector=unit(1))

    store.close()
    store.close()


def test_many_contexts_of_few_entries_stay_apart(
    opener: Opener, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    mode = request.node.callspec.params["opener"]
    # By what they differ from the others, contexts are not looked up.
    alike = mode in {"lancedb memory", "lancedb process", "lancedb no payloads in RAM"}
    slow = "power" in mode or "bucket" in mode or mode in ON_SERVERS
    contexts = 20 if "flushed" in mode else 200 if slow or alike else 2000
    store = opener(tmp_path)
    for i in range(contexts):
        for j in range(2):
            one = entry(f"q{j}", {"number": i})
            store.put(one, Content(f"{i} {j}".encode()), vector=unit(1, j))

    assert store.count() == 2 * contexts
    for i in range(0, contexts, max(contexts // 200, 1)):
        context = {"number": i}
        found = store.search(unit(1), context=fingerprint(context), k=5, now=NOW)
        assert [match.entry.query for match in found] == ["q0", "q1"]
        assert all(match.entry.context.canonical == f'{{"number":{i}}}' for match in found)
        stored = store.get(entry("q1", context).key, now=NOW)
        assert stored is not None
        assert stored[1].payload == f"{i} 1".encode()
    assert store.maintain(max_entries=2, now=NOW) == 2 * contexts - 2
    assert store.search(unit(1), context=fingerprint({"number": 0}), k=5, now=NOW) == []
    last = fingerprint({"number": contexts - 1})
    assert len(store.search(unit(1), context=last, k=5, now=NOW)) == 2
    store.close()


def test_the_nearest_of_many_is_found(
    opener: Opener, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    n = 30 if "flushed" in request.node.callspec.params["opener"] else 300
    vectors = np.random.default_rng(1).standard_normal((n, DIMENSION)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    store = opener(tmp_path)
    for i, vector in enumerate(vectors):
        store.put(entry(f"q{i}"), Content(b""), vector=vector)
    for i in range(0, n, 3):
        store.put(entry(f"q{i}", at=NOW + 1), Content(b""), vector=-vectors[i])
        vectors[i] = -vectors[i]

    for i in range(0, n, 10):
        found = store.search(vectors[i], context=fingerprint(SQL), k=3, now=NOW)
        expected = np.sort(vectors @ vectors[i])[::-1][:3]
        assert found[0].entry.query == f"q{i}"
        assert [match.cosine for match in found] == pytest.approx(expected, abs=1e-5)
    store.close()


# What a store tells of one entry.


def everywhere(store: Store, one: Entry, vector: Vector, *, now: float) -> set[str]:
    """Return by which reads an entry is found."""
    found = {
        "get": store.get(one.key, now=now),
        "peek": store.peek(one.key, now=now),
        "fetch": store.fetch(one.key, now=now),
        "search": store.search(vector, context=one.context.fingerprint, k=99, now=now),
        "select": store.select(Selection(key=one.key), now=now),
    }
    return {how for how, what in found.items() if what and one.id in str(what)}


ALL_READS = {"get", "peek", "fetch", "search", "select"}


def holding(store: Store, key: bytes) -> EntryInfo:
    (found,) = store.select(Selection(key=key), now=NOW)
    return found


def put(store: Store, query: str, **rest: Any) -> Entry:
    one = entry(query, **rest)
    store.put(one, Content(query.encode()), vector=unit(1))
    return one


def test_all_that_was_put_can_be_fetched(store: Store) -> None:
    one = entry(
        "whole",
        expires_at=NOW + 60,
        stale_seconds=5.0,
        sliding_seconds=60.0,
        tags=("doc:1", "ünïcode 🎉"),
        cost=2.5,
    )
    content = Content(b"\x00payload\xff", '{"a": [1, null]}')
    vector = unit(0.3, -0.2, 0.9)

    store.put(one, content, vector=vector)

    assert store.peek(one.key, now=NOW) == one
    fetched = store.fetch(one.key, now=NOW)
    assert fetched is not None
    assert fetched[:2] == (one, content)
    np.testing.assert_array_equal(fetched[2], vector)
    assert everywhere(store, one, vector, now=NOW) == ALL_READS


def test_what_has_no_vector_is_fetched_without(store: Store) -> None:
    one = entry("a very long text")
    store.put(one, Content(b"long"), vector=None)

    assert store.fetch(one.key, now=NOW) == (one, Content(b"long"), None)


def test_reading_is_no_use(store: Store) -> None:
    one = put(store, "q")

    assert everywhere(store, one, unit(1), now=NOW) == ALL_READS

    held = holding(store, one.key)
    assert (held.entry, held.uses, held.last_used_at) == (one, 0, None)


def test_uses_are_counted(store: Store) -> None:
    one, other = put(store, "one"), put(store, "other")

    store.touch(one.key, now=NOW + 1)
    store.touch(one.key, now=NOW + 3, times=4)
    store.touch(one.key, now=NOW + 2)  # told late
    store.touch(bytes(16), now=NOW + 9)

    held = holding(store, one.key)
    assert (held.uses, held.last_used_at) == (6, NOW + 3)
    assert holding(store, other.key).uses == 0


def test_what_an_entry_takes_grows_with_it(store: Store) -> None:
    small, large = entry("small"), entry("large")
    store.put(small, Content(b""), vector=unit(1))
    store.put(large, Content(bytes(10_000)), vector=unit(1))

    difference = holding(store, large.key).bytes - holding(store, small.key).bytes
    assert 10_000 <= difference < 10_100
    assert holding(store, small.key).bytes > 0


# When an entry ends.


def test_an_entry_may_be_served_as_stale_for_a_while(store: Store) -> None:
    one = put(store, "q", expires_at=NOW + 10, stale_seconds=5.0)

    assert everywhere(store, one, unit(1), now=NOW + 10) == ALL_READS
    assert everywhere(store, one, unit(1), now=NOW + 14.999) == ALL_READS
    assert everywhere(store, one, unit(1), now=NOW + 15) == set()


def test_an_end_slides_with_each_use(store: Store) -> None:
    used = put(store, "used", expires_at=NOW + 10, sliding_seconds=10.0)
    unused = put(store, "unused", expires_at=NOW + 10, sliding_seconds=10.0)
    fixed = put(store, "fixed", expires_at=NOW + 10)

    for one in (used, fixed):
        store.touch(one.key, now=NOW + 6)
        store.touch(one.key, now=NOW + 4)  # told late: takes nothing back

    found = store.peek(used.key, now=NOW + 15.999)
    assert found is not None
    assert (found.id, found.expires_at) == (used.id, NOW + 16)
    assert store.peek(used.key, now=NOW + 16) is None
    assert store.peek(unused.key, now=NOW + 10) is None
    assert store.peek(fixed.key, now=NOW + 10) is None


@pytest.mark.parametrize("late", [0.0, 3.0], ids=["at its end", "after it"])
def test_what_is_served_as_stale_does_not_slide(store: Store, late: float) -> None:
    one = put(store, "q", expires_at=NOW + 10, sliding_seconds=10.0, stale_seconds=5.0)

    store.touch(one.key, now=NOW + 10 + late)

    found = store.peek(one.key, now=NOW + 14)
    assert found is not None
    assert found.expires_at == NOW + 10
    assert store.peek(one.key, now=NOW + 15) is None


@pytest.mark.parametrize(
    ("end", "used", "slid"),
    [
        (10.0, (9, 21), 19.0),  # the last while stale
        (10.0, (8, 16, 24, 36), 34.0),  # two after the first end, and one while stale
        (9.5, (9.375, 9.625), 19.625),
    ],
)
def test_an_end_slides_by_all_uses_before_it_and_by_none_after(
    store: Store, end: float, used: Sequence[float], slid: float
) -> None:
    one = put(store, "q", expires_at=NOW + end, sliding_seconds=10.0, stale_seconds=50.0)

    for seconds in used:
        store.touch(one.key, now=NOW + seconds)

    found = store.peek(one.key, now=NOW + 40)
    assert found is not None
    assert found.expires_at == NOW + slid
    assert store.peek(one.key, now=NOW + slid + 50) is None


def test_a_search_passes_over_what_was_stored_too_early(store: Store) -> None:
    for seconds in range(5):
        put(store, f"q{seconds}", at=NOW + seconds)

    def since(when: float, k: int) -> set[str]:
        matches = store.search(unit(1), context=fingerprint(SQL), k=k, now=NOW + 5, since=when)
        return {match.entry.query for match in matches}

    assert since(NOW + 3, 9) == {"q3", "q4"}
    assert since(NOW + 3.5, 1) == {"q4"}  # the others take no place
    assert since(NOW + 5, 9) == set()


def test_a_sweep_removes_what_has_ended_and_nothing_else(store: Store) -> None:
    put(store, "ended", expires_at=NOW + 9)
    put(store, "at its very end", expires_at=NOW + 10.5)
    put(store, "too stale", expires_at=NOW + 5, stale_seconds=5.5)
    put(store, "in time", expires_at=NOW + 10.501)
    put(store, "stale", expires_at=NOW + 5, stale_seconds=6.0)
    put(store, "for ever")
    slid = put(store, "slid", expires_at=NOW + 10, sliding_seconds=10.0)
    store.touch(slid.key, now=NOW + 9)

    assert store.sweep(now=NOW + 10.5, limit=99) == 3

    kept = {held.entry.query for held in store.select(Selection(), now=0)}
    assert kept == {"in time", "stale", "for ever", "slid"}
    assert store.count() == 4
    assert store.sweep(now=NOW + 10.5, limit=99) == 0
    assert store.sweep(now=NOW + 100, limit=99) == 3
    assert store.count() == 1


def test_a_sweep_keeps_to_its_limit(store: Store) -> None:
    for i in range(7):
        put(store, f"q{i}", expires_at=NOW + i)

    assert store.sweep(now=NOW + 60, limit=0) == 0
    assert store.sweep(now=NOW + 60, limit=3) == 3
    assert store.count() == 4
    assert store.sweep(now=NOW + 60, limit=99) == 4


def test_an_entry_that_ends_later_than_it_was_to_end_is_not_swept(store: Store) -> None:
    put(store, "q", expires_at=NOW + 5)
    put(store, "q", expires_at=NOW + 50)
    put(store, "r", expires_at=NOW + 5)
    put(store, "r")

    assert store.sweep(now=NOW + 10, limit=99) == 0
    assert store.count() == 2


# What is withdrawn.


def fill(store: Store) -> dict[str, Entry]:
    """Store entries that differ in what can be asked for."""
    whole = {"agent": "sql", "db": {"name": "prod", "shards": [1, 2]}}
    return {
        one.query: one
        for one in (
            put(store, "a", at=NOW, tags=("red",)),
            put(store, "b", at=NOW + 1, context=whole, tags=("red", "blue")),
            put(store, "c", at=NOW + 2, tags=("blue",)),
            put(store, "d", at=NOW + 3, context={}, tags=("green",)),
            put(store, "e", at=NOW + 4, context=whole),
            put(store, "ended", at=NOW + 5, expires_at=NOW + 6),
        )
    }


def part(**context: Any) -> str:
    return canonical_context(context).canonical


SELECTIONS: list[tuple[dict[str, Any], str]] = [
    ({}, "abcde"),
    ({"query": "c"}, "c"),
    ({"query": "C"}, ""),
    ({"fingerprint": fingerprint(SQL)}, "ac"),
    ({"fingerprint": fingerprint({})}, "d"),
    ({"fingerprint": "none"}, ""),
    ({"contains": part(agent="sql")}, "abce"),
    ({"contains": part(db={"name": "prod"})}, "be"),
    ({"contains": part(db={"shards": [1]})}, ""),
    ({"contains": part(db={"shards": [1, 2]})}, "be"),
    ({"tags": frozenset({"red"})}, "ab"),
    ({"tags": frozenset({"red", "blue", "none"})}, "abc"),
    ({"tags": frozenset({"none"})}, ""),
    ({"before": NOW + 2}, "ab"),
    ({"before": NOW}, ""),
    ({"tags": frozenset({"red", "blue"}), "before": NOW + 2}, "ab"),
    ({"tags": frozenset({"blue"}), "contains": part(agent="sql", db="prod")}, "c"),
    ({"contains": part(agent="sql"), "before": NOW + 1}, "a"),
    ({"query": "b", "tags": frozenset({"red"})}, "b"),
    ({"query": "b", "tags": frozenset({"green"})}, ""),
    ({"fingerprint": fingerprint(SQL), "contains": part(agent="other")}, ""),
]


def queries(held: list[EntryInfo]) -> str:
    return "".join(one.entry.query for one in held)


def test_entries_are_selected_by_any_criteria_the_longest_stored_first(store: Store) -> None:
    stored = fill(store)

    for criteria, expected in SELECTIONS:
        assert queries(store.select(Selection(**criteria), now=NOW + 6)) == expected, criteria
    for one in stored.values():
        for criteria in ({"key": one.key}, {"entry_id": one.id}):
            found = store.select(Selection(**criteria), now=NOW)
            assert [held.entry for held in found] == [one]
            late = store.select(Selection(**criteria, before=one.created_at), now=NOW)
            assert late == []
    assert queries(store.select(Selection(key=bytes(16)), now=NOW)) == ""


def test_at_the_epoch_what_has_ended_is_read_and_selected_too(store: Store) -> None:
    stored = fill(store)
    ended = stored["ended"]

    assert store.peek(ended.key, now=0) == ended
    assert store.get(ended.key, now=0) is not None
    assert store.get(ended.key, now=NOW + 6) is None

    assert queries(store.select(Selection(), now=0)) == "abcdeended"
    assert queries(store.select(Selection(key=stored["ended"].key), now=0)) == "ended"
    assert queries(store.select(Selection(key=stored["ended"].key), now=NOW + 6)) == ""


def test_what_is_no_id_selects_nothing(store: Store) -> None:
    no_ids = ["", "0", "zz", "ab" * 15, "ab" * 17, "ab" * 32, "ab" * 16]
    for _ in range(2):  # without entries, and with some
        for said in no_ids:
            assert store.select(Selection(entry_id=said), now=NOW) == [], said
        fill(store)


def test_what_was_replaced_is_selected_as_it_is_now(store: Store) -> None:
    old = put(store, "q", tags=("old",))
    new = put(store, "q", at=NOW + 1, tags=("new",))

    assert store.select(Selection(tags=frozenset({"old"})), now=NOW) == []
    assert store.select(Selection(entry_id=old.id), now=NOW) == []
    (found,) = store.select(Selection(tags=frozenset({"new"})), now=NOW)
    assert found.entry == new


def test_entries_are_discarded_wholly(store: Store) -> None:
    stored = fill(store)

    assert store.discard([stored["b"], stored["ended"]]) == 2

    assert everywhere(store, stored["b"], unit(1), now=NOW) == set()
    assert queries(store.select(Selection(), now=0)) == "acde"
    assert queries(store.select(Selection(tags=frozenset({"red"})), now=0)) == "a"
    assert store.count() == 4
    assert store.discard([stored["b"], entry("nobody")]) == 0
    assert store.discard([]) == 0
    assert store.count() == 4


def test_what_was_replaced_meanwhile_is_not_discarded(store: Store) -> None:
    old = put(store, "q")
    new = put(store, "q", at=NOW + 1)

    assert store.discard([old]) == 0
    assert everywhere(store, new, unit(1), now=NOW) == ALL_READS
    assert store.discard([new, new]) == 1
    assert store.count() == 0


def test_an_outdated_entry_is_missed_by_every_read_at_once(store: Store) -> None:
    old = [put(store, f"old {i}", tags=("doc:1", f"page:{i}")) for i in range(3)]
    other = put(store, "other", tags=("doc:2",))
    plain = put(store, "plain")

    store.outdate("doc:1")
    new = put(store, "new", tags=("doc:1",))
    replaced = put(store, "old 0", tags=("doc:1",))

    for one in old:
        assert everywhere(store, one, unit(1), now=NOW) == set()
        assert everywhere(store, one, unit(1), now=0) == set()
    for one in (other, plain, new, replaced):
        assert everywhere(store, one, unit(1), now=NOW) == ALL_READS
    found = store.search(unit(1), context=fingerprint(SQL), k=4, now=NOW)
    assert len(found) == 4  # the outdated take no place


def test_what_is_outdated_is_swept(store: Store) -> None:
    for i in range(10):
        put(store, f"old {i}", tags=("doc:1",))
    kept = put(store, "kept", tags=("doc:2",))
    store.outdate("doc:1")
    store.outdate("nobody's")

    # A store on disk sweeps by itself as well, and may have been first.
    assert store.sweep(now=NOW, limit=4) <= 4
    assert store.sweep(now=NOW, limit=99) <= 10
    assert until(lambda: store.count() == 1)
    assert store.sweep(now=NOW, limit=99) == 0

    assert everywhere(store, kept, unit(1), now=NOW) == ALL_READS
    again = put(store, "again", tags=("doc:1",))
    assert everywhere(store, again, unit(1), now=NOW) == ALL_READS
    store.outdate("doc:1")
    assert everywhere(store, again, unit(1), now=NOW) == set()


def test_putting_makes_room_of_what_is_outdated(store: Store) -> None:
    for i in range(10):
        put(store, f"old {i}", tags=("doc:1",))
    store.outdate("doc:1")
    for i in range(5):
        put(store, f"new {i}")
        store.maintain(max_entries=5, now=NOW)

    assert left(store) == {f"new {i}" for i in range(5)}
    assert store.count() == 5


# Who leaves when there are too many.


def test_no_more_bytes_are_kept_than_allowed(store: Store) -> None:
    for i in range(6):
        put(store, f"q{i}")
        size = holding(store, entry(f"q{i}").key).bytes

    assert store.maintain(max_entries=None, max_bytes=6 * size, now=NOW) == 0
    assert store.maintain(max_entries=None, max_bytes=4 * size - 1, now=NOW) == 3
    assert left(store) == {"q3", "q4", "q5"}
    assert store.maintain(max_entries=2, max_bytes=3 * size, now=NOW) == 1
    assert store.maintain(max_entries=9, max_bytes=size, now=NOW) == 1
    assert left(store) == {"q5"}
    assert store.maintain(max_entries=None, max_bytes=1, now=NOW) == 1
    assert store.count() == 0


def test_what_has_ended_leaves_before_what_lives(store: Store) -> None:
    put(store, "oldest")
    put(store, "ended", expires_at=NOW + 1)
    outdated = put(store, "outdated", tags=("doc:1",))
    put(store, "stale", expires_at=NOW + 1, stale_seconds=60.0)
    put(store, "newest")
    store.outdate("doc:1")

    # Or fewer: a store on disk sweeps by itself, and may have been there first.
    assert store.maintain(max_entries=3, now=NOW + 10) <= 2

    kept = {held.entry.query for held in store.select(Selection(), now=0)}
    assert kept == {"oldest", "stale", "newest"}
    assert everywhere(store, outdated, unit(1), now=0) == set()
    assert store.maintain(max_entries=2, now=NOW + 10) == 1
    assert left(store) == {"stale", "newest"}


every_policy = pytest.mark.parametrize("policy", POLICIES)


@every_policy
def test_a_policy_chooses_by_what_was_stored_and_used(
    opener: Opener, tmp_path: Path, policy: str
) -> None:
    store, model = opener(tmp_path, policy=make_policy(policy)), POLICY_MODELS[policy]()
    chance = random.Random(policy)  # noqa: S311 - a reproducible course of events
    for step in range(40):
        one = entry(f"q{chance.randrange(9)}", at=NOW + step, cost=chance.choice([1.0, 5.0]))
        if chance.random() < 0.5:
            store.touch(one.key, now=NOW + step, times=2)
            model.touch(one.key, 2)
        elif chance.random() < 0.1:
            store.discard([held.entry for held in store.select(Selection(key=one.key), now=NOW)])
            model.remove(one.key)
        else:
            store.put(one, Content(b""), vector=None)
            model.admit(one.key, one.cost)
            model.evict(len(model.keys()) - 5)
            store.maintain(max_entries=5, now=NOW + step)
        held = {found.entry.key for found in store.select(Selection(), now=NOW)}
        assert held == set(model.keys())
    store.close()


@every_policy
def test_what_was_stored_last_is_not_the_first_to_leave(
    opener: Opener, tmp_path: Path, policy: str
) -> None:
    store = opener(tmp_path, policy=make_policy(policy))
    for i in range(3):
        store.touch(put(store, f"q{i}").key, now=NOW, times=3)
    put(store, "newest")

    store.maintain(max_entries=3, now=NOW)

    assert "newest" in left(store)
    assert len(left(store)) == 3
    store.close()


@pytest.mark.parametrize("policy", ["lfu", "cost"])
def test_what_is_stored_again_keeps_its_uses(opener: Opener, tmp_path: Path, policy: str) -> None:
    store = opener(tmp_path, policy=make_policy(policy))
    store.touch(put(store, "popular").key, now=NOW + 1, times=5)
    again = put(store, "popular", at=NOW + 2)
    for i in range(3):
        put(store, f"q{i}")

    held = holding(store, again.key)
    assert (held.entry, held.uses, held.last_used_at) == (again, 5, NOW + 1)
    store.maintain(max_entries=2, now=NOW)
    assert left(store) == {"popular", "q2"}
    store.close()


on_disk_only = pytest.mark.parametrize("opener", [*ON_DISK, *BUCKETS], indirect=True)
lasting_only = pytest.mark.parametrize("opener", LASTING, indirect=True)


@lasting_only
def test_reopening_keeps_everything(opener: Opener, tmp_path: Path) -> None:
    stored = {
        "plain": (entry("plain"), Content(b"\x00\xff", '{"a":[1,null]}'), unit(1)),
        "other": (entry("other", {"x": "ünïcode"}), Content(b""), unit(0, 1)),
        "ending": (entry("ending", expires_at=NOW + 60), Content(b"soon"), unit(1, 1)),
        "no vector": (entry("no vector"), Content(b"long"), None),
        "replaced": (entry("replaced", at=NOW + 1), Content(b"new"), unit(1, 0, 1)),
    }
    store = opener(tmp_path)
    store.put(entry("evicted"), Content(b"evicted"), vector=unit(1))
    store.put(entry("replaced"), Content(b"old"), vector=unit(1))
    for one, content, vector in stored.values():
        store.put(one, content, vector=vector)
    assert store.maintain(max_entries=5, now=NOW) == 1
    store.close()

    for _ in range(2):
        store = opener(tmp_path)
        assert store.count() == 5
        assert store.get(entry("evicted").key, now=NOW) is None
        for one, content, _vector in stored.values():
            assert store.get(one.key, now=NOW) == (one, content)
        assert store.get(stored["ending"][0].key, now=NOW + 60) is None
        found = store.search(unit(1), context=fingerprint(SQL), k=9, now=NOW)
        assert [match.entry.query for match in found[:1]] == ["plain"]
        assert {match.entry.query for match in found} == {"plain", "ending", "replaced"}
        expected = sorted((1.0, float(unit(1, 1)[0]), float(unit(1, 0, 1)[0])), reverse=True)
        assert [match.cosine for match in found] == pytest.approx(expected, abs=1e-5)
        store.close()


@lasting_only
def test_age_is_kept_over_reopening(opener: Opener, tmp_path: Path) -> None:
    for i in range(5):
        store = opener(tmp_path)
        store.put(entry(f"q{i}", at=NOW - i), Content(b""), vector=unit(1))
        store.close()

    store = opener(tmp_path)
    assert store.maintain(max_entries=2, now=NOW) == 3
    assert left(store) == {"q3", "q4"}
    store.close()


@lasting_only
def test_a_closed_store_says_so(opener: Opener, tmp_path: Path) -> None:
    store = opener(tmp_path)
    store.close()

    with pytest.raises(ClosedError):
        store.get(bytes(16), now=NOW)
    with pytest.raises(ClosedError):
        store.search(unit(1), context=fingerprint(SQL), k=1, now=NOW)
    with pytest.raises(ClosedError):
        store.put(entry(), Content(b""), vector=unit(1))
    with pytest.raises(ClosedError):
        store.maintain(max_entries=1, now=NOW)
    with pytest.raises(ClosedError):
        store.check()


@on_disk_only
def test_reopening_gives_every_entry_its_own_vector(
    opener: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lance_module, "_LOAD_ROWS", 7)
    vectors = np.random.default_rng(0).standard_normal((25, DIMENSION)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    store = opener(tmp_path)
    for i, vector in enumerate(vectors):
        store.put(entry(f"q{i}"), Content(b""), vector=vector)
    store.close()

    store = opener(tmp_path)
    for i, vector in enumerate(vectors):
        (match,) = store.search(vector, context=fingerprint(SQL), k=1, now=NOW)
        assert match.entry.query == f"q{i}"
        assert match.cosine == pytest.approx(1.0, abs=1e-5)
    store.close()


@lasting_only
def test_reopening_keeps_uses_tags_and_ends(opener: Opener, tmp_path: Path) -> None:
    store = opener(tmp_path)
    rest = {"sliding_seconds": 60.0, "stale_seconds": 7.0, "tags": ("doc:1", "x"), "cost": 2.5}
    used = put(store, "used", expires_at=NOW + 60, **rest)
    put(store, "plain")
    store.touch(used.key, now=NOW + 5)
    store.touch(used.key, now=NOW + 9, times=2)
    store.close()

    for _ in range(2):
        store = opener(tmp_path)
        held = holding(store, used.key)
        assert (held.uses, held.last_used_at) == (3, NOW + 9)
        assert (held.entry.tags, held.entry.cost) == (("doc:1", "x"), 2.5)
        assert held.entry.expires_at == NOW + 69
        assert everywhere(store, held.entry, unit(1), now=NOW + 75.999) == ALL_READS
        assert everywhere(store, held.entry, unit(1), now=NOW + 76) == set()
        assert queries(store.select(Selection(tags=frozenset({"x"})), now=NOW)) == "used"
        assert queries(store.select(Selection(entry_id=used.id), now=NOW)) == "used"
        fetched = store.fetch(used.key, now=NOW)
        assert fetched is not None
        np.testing.assert_array_equal(fetched[2], unit(1))
        store.close()


@on_disk_only
@pytest.mark.parametrize("logged", [True, False])
@pytest.mark.parametrize("stale", [0.0, 5.0])
def test_an_end_that_slid_again_and_again_is_kept(
    opener: Opener, tmp_path: Path, *, logged: bool, stale: float
) -> None:
    store = opener(tmp_path)
    one = put(store, "q", expires_at=NOW + 10, sliding_seconds=10.0, stale_seconds=stale)
    for second in (8, 16, 24):  # the last two after its first end
        store.touch(one.key, now=NOW + second)
    if stale:
        store.touch(one.key, now=NOW + 36)  # stale by then: its end stays
    if logged:
        assert isinstance(store, LanceStore)
        store._write_uses()  # as it does every few seconds
    store.close()

    for _ in range(2):
        store = opener(tmp_path)
        (held,) = store.select(Selection(), now=NOW + 33)
        assert held.entry.expires_at == NOW + 34
        assert store.get(one.key, now=NOW + 34 + stale) is None
        store.close()


@on_disk_only
@pytest.mark.parametrize("logged", [True, False])
def test_what_left_and_came_again_begins_at_no_use(
    opener: Opener, tmp_path: Path, *, logged: bool
) -> None:
    store = opener(tmp_path)
    gone = put(store, "q")
    store.touch(gone.key, now=NOW + 1, times=5)
    store.close()

    store = opener(tmp_path)
    store.touch(gone.key, now=NOW + 2)
    assert holding(store, gone.key).uses == 6
    assert isinstance(store, LanceStore)
    if logged:
        store._write_uses()  # as it does every few seconds
    store.discard([gone])
    again = put(store, "q", at=NOW + 3)
    assert holding(store, again.key).uses == 0
    store.touch(again.key, now=NOW + 4, times=2)
    store.flush()
    with store._maintaining, store._writing:
        store._load()  # as after a kill, or having stood still
    assert holding(store, again.key).uses == 2
    store.close()

    for _ in range(2):
        store = opener(tmp_path)
        held = holding(store, again.key)
        assert (held.entry, held.uses, held.last_used_at) == (again, 2, NOW + 4)
        store.close()


@lasting_only
def test_what_is_outdated_stays_so(opener: Opener, tmp_path: Path) -> None:
    store = opener(tmp_path)
    old = put(store, "old", tags=("doc:1",))
    store.outdate("doc:1")
    new = put(store, "new", tags=("doc:1",))
    store.close()

    for _ in range(2):
        store = opener(tmp_path)
        assert everywhere(store, old, unit(1), now=0) == set()
        assert everywhere(store, new, unit(1), now=NOW) == ALL_READS
        store.close()
    store = opener(tmp_path)
    store.sweep(now=NOW, limit=99)
    assert store.count() == 1
    third = put(store, "third", tags=("doc:1",))
    store.close()
    store = opener(tmp_path)
    assert everywhere(store, third, unit(1), now=NOW) == ALL_READS
    store.close()


@lasting_only
def test_what_is_withdrawn_stays_so(opener: Opener, tmp_path: Path) -> None:
    store = opener(tmp_path)
    stored = fill(store)
    assert store.discard([stored["a"]]) == 1
    assert store.sweep(now=NOW + 60, limit=99) == 1
    store.close()

    store = opener(tmp_path)
    assert queries(store.select(Selection(), now=0)) == "bcde"
    store.close()


@lasting_only
@pytest.mark.parametrize(("policy", "kept"), [("fifo", "de"), ("lru", "ae"), ("lfu", "ce")])
def test_after_reopening_the_policy_knows_who_was_used(
    opener: Opener, tmp_path: Path, policy: str, kept: str
) -> None:
    store = opener(tmp_path, policy=make_policy(policy))
    stored = [put(store, query, at=NOW + i) for i, query in enumerate("abcd")]
    store.touch(stored[2].key, now=NOW + 10, times=3)
    store.touch(stored[0].key, now=NOW + 11)
    store.close()

    store = opener(tmp_path, policy=make_policy(policy))
    put(store, "e", at=NOW + 12)
    # Who does not know yet that it is alone removes a few at a time.
    assert until(lambda: not store.maintain(max_entries=2, now=NOW + 12) and store.count() == 2)
    assert left(store) == set(kept)
    store.close()
