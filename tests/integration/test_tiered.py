"""The tier before real servers: what other clients do is heard of, or seen within the bound."""

from __future__ import annotations

import os
import random
import uuid
from typing import TYPE_CHECKING, Any

import pytest
import servers as parts
from doubles import FakeClock, WordEmbedder, until

from memora import CacheConfig, Memora
from memora.context import canonical_context, exact_key
from memora.errors import StoreError
from memora.model import Content, Entry
from memora.protocols import IndexedStore, SharedStore
from memora.stores.tiered import TieredStore

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memora.protocols import Store

redis = pytest.importorskip("redis")

from memora.stores.redis import RedisStore  # noqa: E402 - without the extra there is none

BOUND = 2.0
HERE = canonical_context({"agent": "sql"})
KINDS = ["redis search", "redis", "valkey search"]


@pytest.fixture
def table() -> str:
    return uuid.uuid4().hex


def open_shared(uri: str, table: str) -> RedisStore:
    return RedisStore(uri, table_name=table, model="toy", dimension=8, clock=lambda: 1.0)


def open_tiered(uri: str, table: str, clock: FakeClock) -> TieredStore:
    shared = open_shared(uri, table)
    return TieredStore(shared, max_bytes=2**20, max_staleness_seconds=BOUND, clock=clock)


@pytest.fixture
def by_hand(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have nobody ask the server what has changed but the test."""
    monkeypatch.setattr(TieredStore, "_begin_following", lambda _: None)
    return iter([None])


def put(store: Store, query: str = "q", **rest: Any) -> Entry:
    rest = {"context": HERE, "created_at": 1.0, "expires_at": None} | rest
    one = Entry(id=uuid.uuid4().hex, key=exact_key(query, HERE), query=query, **rest)
    store.put(one, Content(query.encode()), vector=None)
    return one


def read(store: Store, one: Entry) -> str | None:
    found = store.get(one.key, now=2.0)
    return None if found is None else found[0].id


@pytest.mark.usefixtures("by_hand")
@pytest.mark.parametrize("kind", KINDS)
def test_whatever_other_clients_do_is_heard_of(
    servers: parts.Servers, kind: str, table: str, clock: FakeClock
) -> None:
    chance = random.Random(3)  # noqa: S311 - the same each time
    uri = servers.uri(kind)
    store, other = open_tiered(uri, table, clock), open_shared(uri, table)
    assert store.follow()
    known: dict[str, Entry] = {}
    for i in range(150):
        query, tag = f"q{chance.randrange(6)}", f"t{chance.randrange(3)}"
        what = chance.choice(["put", "put", "discard", "outdate", "evict", "sweep"])
        if what == "put":
            known[query] = put(other, query, tags=(tag,))
        elif what == "discard" and query in known:
            other.discard([known.pop(query)])
        elif what == "outdate":
            other.invalidate_tag(tag)
        elif what == "evict":
            other.maintain(max_entries=4, now=2.0)
            other.maintain(max_entries=None, now=2.0)
        else:
            other.sweep(now=2.0, limit=99)

        clock.advance(BOUND / 2)
        assert store.follow(), i

        for one in known.values():
            assert read(store, one) == read(other, one), (i, what)
    assert store._held
    store.close()
    other.close()


@pytest.mark.usefixtures("by_hand")
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_confirmed_needs_no_round_trip(
    servers: parts.Servers, kind: str, table: str, clock: FakeClock
) -> None:
    uri = servers.uri(kind)
    store, other = open_tiered(uri, table, clock), open_shared(uri, table)
    one = put(store)
    assert store.follow()
    assert read(store, one) == one.id
    for _ in range(5):
        clock.advance(BOUND - 0.001)
        put(other, "another")
        store.touch(one.key, now=2.0)
        assert store.follow()
        assert store.get_in_memory(one.key, now=2.0) is not None
    store.close()
    other.close()


def test_a_thread_listens(servers: parts.Servers, table: str) -> None:
    uri, clock = servers.uri("redis"), FakeClock()  # which stands still: else all is confirmed
    store, other = open_tiered(uri, table, clock), open_shared(uri, table)
    one = put(store)
    assert until(lambda: read(store, one) and store.get_in_memory(one.key, now=2.0))

    new = put(other)

    assert until(lambda: read(store, one) == new.id)
    store.close()
    other.close()


@pytest.mark.usefixtures("by_hand")
def test_a_server_that_was_away_is_not_trusted_with_what_was_missed(
    table: str, clock: FakeClock
) -> None:
    with parts.running(parts.redis_program()) as server:
        store = open_tiered(server.uri, table, clock)
        one = put(store)
        assert store.follow()
        assert read(store, one) == one.id
        clock.advance(BOUND / 2)
        assert store.follow()

        server.kill()
        assert not store.follow()
        clock.advance(BOUND - 0.001)
        assert read(store, one) == one.id
        clock.advance(0.001)
        assert store.get_in_memory(one.key, now=2.0) is None
        with pytest.raises(StoreError):
            read(store, one)
        clock.advance(-0.001)  # as if it had been back in time
        server.start()  # with nothing

        assert store.follow()
        assert read(store, one) is None
        assert store.follow()
        store.close()


@pytest.mark.usefixtures("by_hand")
def test_a_server_that_was_emptied_says_so(table: str, clock: FakeClock) -> None:
    with parts.running(parts.redis_program()) as server:
        store = open_tiered(server.uri, table, clock)
        one = put(store)
        assert store.follow()
        assert read(store, one) == one.id

        redis.Redis(port=server.port).flushall()

        assert store.follow()
        assert read(store, one) is None
        store.close()


@pytest.mark.usefixtures("by_hand")
def test_a_connection_that_was_cut_begins_anew(
    servers: parts.Servers, table: str, clock: FakeClock
) -> None:
    uri = servers.uri("redis")
    store, other = open_tiered(uri, table, clock), open_shared(uri, table)
    one = put(store)
    assert store.follow()
    assert read(store, one) == one.id
    client = other._shards.server._client
    client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
    new = put(other)

    assert not store.follow()
    assert read(store, one) == one.id
    assert store.follow()

    assert read(store, one) == new.id
    store.close()
    other.close()


def test_in_a_cluster_each_entry_is_confirmed_by_being_read(
    servers: parts.Servers, table: str, clock: FakeClock
) -> None:
    uri = servers.uri("redis cluster")
    store, other = open_tiered(uri, table, clock), open_shared(uri, table)
    one = put(store)
    assert read(store, one) == one.id
    new = put(other)

    assert not store.follow()
    clock.advance(BOUND - 0.001)
    assert read(store, one) == one.id
    clock.advance(0.001)
    assert read(store, one) == new.id
    store.close()
    other.close()


def test_a_forked_child_listens_by_itself(servers: parts.Servers, table: str) -> None:
    uri, clock = servers.uri("redis"), FakeClock()
    store, other = open_tiered(uri, table, clock), open_shared(uri, table)
    one = put(store)
    assert read(store, one) == one.id

    child = os.fork()
    if child == 0:
        status = 1
        try:
            assert until(lambda: read(store, one) and store.get_in_memory(one.key, now=2.0))
            new = put(other)
            assert until(lambda: read(store, one) == new.id)
            store.close()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert until(lambda: read(store, one) == read(other, one))
    store.close()
    other.close()


def test_a_setting_puts_it_in_front(servers: parts.Servers, table: str) -> None:
    settings: dict[str, Any] = {"db_uri": servers.uri("redis"), "table_name": table}
    embedder = WordEmbedder()
    with Memora(CacheConfig(**settings), embedder=embedder) as plain:
        assert isinstance(plain._ports.store, RedisStore)
        with Memora(CacheConfig(local_tier_bytes=2**20, **settings), embedder=embedder) as cache:
            store = cache._ports.store
            assert isinstance(store, TieredStore)
            assert isinstance(store, SharedStore)
            assert isinstance(store, IndexedStore)
            assert cache.create_index()
            assert cache.get_index_stats()["has_index"]

            cache.store("sales in march", None, 7)
            assert cache.lookup("sales in march").reason == "exact"
            assert cache.lookup("the sales in march", None, 0.1).reason == "semantic"
            assert plain.invalidate(query="sales in march") == 1

            assert until(lambda: cache.lookup("sales in march").is_miss)
