"""How often a lookup or a cached call asks the store for a key, and the judge: once a question."""

from __future__ import annotations

from typing import Any

import pytest
from doubles import WordEmbedder
from engine import Faulty, FaultyStore, SharedFaultyStore, by_another

from memora import Memora
from memora.stores.memory import MemoryStore

QUERY, OTHER = "total sales by region", "total sales per region"
ASKED = {"get", "get_in_memory", "peek", "search", "try_lock", "refresh"}


def cache_on(store: Faulty) -> Memora:
    return Memora(embedder=WordEmbedder(), store=store)  # type: ignore[call-overload,no-any-return]


def asked(store: Faulty) -> list[str]:
    found = [name for name in store.calls if name in ASKED]
    store.calls.clear()
    return found


def in_ram() -> Faulty:
    return Faulty(MemoryStore(dimension=64))


def test_a_store_in_ram_is_asked_once_for_a_key() -> None:
    store = in_ram()
    cache = cache_on(store)

    assert not cache.lookup(QUERY)
    assert asked(store) == ["get_in_memory", "search"]
    cache.store(QUERY, {}, 1)
    assert cache.lookup(QUERY).reason == "exact"
    assert asked(store) == ["get_in_memory"]
    assert cache.lookup(OTHER, similarity_threshold=0.0).reason == "semantic"
    assert asked(store) == ["get_in_memory", "search", "get"]  # `get` reads the nearest's content


@pytest.mark.parametrize("why", ["ended", "too old"])
def test_an_entry_in_ram_that_may_not_be_served_is_read_once(why: str) -> None:
    now = 1000.0
    store = in_ram()
    cache = Memora(embedder=WordEmbedder(), store=store, clock=lambda: now)  # type: ignore[call-overload]
    cache.store(QUERY, {}, 1, ttl=10 if why == "ended" else None)
    now += 60
    store.calls.clear()

    found = cache.lookup(QUERY, similarity_threshold=1.0, max_age=30)

    assert found.reason == ("expired" if why == "ended" else "no_candidate")
    assert asked(store) == ["get_in_memory", "search"]
    assert cache.explain(QUERY, similarity_threshold=1.0).reason == (
        "expired" if why == "ended" else "exact"
    )


def test_a_store_that_cannot_tell_in_ram_is_read_once() -> None:
    store = FaultyStore(MemoryStore(dimension=64))
    cache = cache_on(store)

    assert not cache.lookup(QUERY)
    assert asked(store) == ["get", "search"]
    assert not cache.check_availability(QUERY)
    assert asked(store) == ["peek", "search"]
    assert not cache.explain(QUERY).is_hit
    assert asked(store) == ["peek", "search"]


def test_a_cached_miss_asks_again_only_under_the_lock() -> None:
    alone, shared = in_ram(), SharedFaultyStore(MemoryStore(dimension=64))

    assert cache_on(alone).get_or_compute(QUERY, {}, lambda: 1) == 1
    assert asked(alone) == ["get_in_memory", "search", "get"]
    assert cache_on(shared).get_or_compute(QUERY, {}, lambda: 1) == 1
    assert asked(shared) == ["get", "search", "try_lock", "refresh", "get"]


@pytest.mark.parametrize("operation", ["search", "try_lock", "refresh"])
def test_a_result_stored_between_lookup_and_lock_is_found(operation: str) -> None:
    memory = MemoryStore(dimension=64)
    store, other = SharedFaultyStore(memory), cache_on(Faulty(memory))
    cache = cache_on(store)

    def store_once() -> None:
        del store.before[operation]
        by_another(other.store)(QUERY, {}, "theirs")

    store.before[operation] = store_once

    def compute() -> Any:
        raise AssertionError("computed although it was stored")

    # Below 1, the search itself would find it.
    found = cache.get_or_compute(QUERY, {}, compute, similarity_threshold=1.0)
    assert found == "theirs"


def test_explaining_judges_each_candidate_once(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = cache_on(in_ram())
    for region in ("north", "south", "west"):
        cache.store(f"total sales in the {region}", {}, region)
    judge = cache._ports.judge
    assess, judged = judge._assess, []

    def noted(query: str, stored: str, cosine: float) -> Any:
        judged.append(stored)
        return assess(query, stored, cosine)

    monkeypatch.setattr(judge, "_assess", noted)

    explained = cache.explain("total sales in the east")

    assert len(explained.candidates) == 3
    assert sorted(judged) == sorted(one.query for one in explained.candidates)
