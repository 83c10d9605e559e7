"""How long entries live, who leaves, and what is withdrawn: at the door, on a store in RAM."""

from __future__ import annotations

import re
from datetime import timedelta
from math import inf, nan
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from doubles import FakeClock, WordEmbedder, until
from engine import by_another

from memora import AvailabilityCheck, CacheConfig, Memora
from memora.errors import (
    ArgumentError,
    ClosedError,
    ConfigError,
    ContextError,
    EmbedderError,
    MemoraError,
    QueryError,
    StoreError,
)
from memora.eviction import POLICIES
from memora.stores.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SQL = {"agent": "sql", "db": "prod"}
LONG = "total sales in march for all regions"
SIMILAR = "total sales in march for all regions please"
UNREADABLE = "word " * 60


class Cache(Memora):
    """A cache of bare cosines whose clock is told the time."""

    def __init__(self, store: MemoryStore | None = None, **settings: Any) -> None:
        self.clock = FakeClock()
        config = CacheConfig(**{"judge": "off", **settings})
        super().__init__(config, embedder=WordEmbedder(), store=store, clock=self.clock)

    def held(self) -> set[str]:
        return {one.query for one in self.entries()}

    def fill(self, queries: str) -> Cache:
        """Store one entry a letter, a second apart."""
        for query in queries:
            assert self.store(query, SQL, query) is not None
            self.clock.advance(1)
        return self

    def ask(self, queries: str) -> Cache:
        """Look each letter up, a second apart."""
        for query in queries:
            assert self.lookup(query, SQL, 1.0).result == query
            self.clock.advance(1)
        return self


class FailingStore(MemoryStore):
    """Fails, once it is told to, at all that an invalidation and a lookup need."""

    broken = False

    def __getattribute__(self, name: str) -> Any:
        reached = {"get", "peek", "search", "select", "discard", "invalidate_tag", "sweep", "touch"}
        if name in reached and self.broken:
            raise StoreError(f"{name}: the disk is on fire")
        return super().__getattribute__(name)


@pytest.fixture
def cache() -> Iterator[Cache]:
    with Cache() as opened:
        yield opened


# Who leaves: the document, section "Eviction Policies".


def test_fifo_evicts_the_oldest_entry_regardless_of_usage() -> None:
    cache = Cache(eviction_policy="fifo", max_entries=3).fill("abc").ask("aaab")

    cache.fill("d")

    assert cache.held() == set("bcd")


def test_fifo_takes_what_is_stored_again_for_new() -> None:
    cache = Cache(eviction_policy="fifo", max_entries=3).fill("abca")

    cache.fill("d")

    assert cache.held() == set("cad")


def test_lru_evicts_what_has_not_been_accessed_recently() -> None:
    cache = Cache(eviction_policy="lru", max_entries=3).fill("abc").ask("ab")

    assert cache.fill("d").held() == set("abd")
    assert cache.fill("e").held() == set("bde")


def test_for_lru_storing_is_an_access() -> None:
    cache = Cache(eviction_policy="lru", max_entries=3).fill("abc").ask("a").fill("b")

    cache.fill("d")

    assert cache.held() == set("abd")


def test_lfu_evicts_the_lowest_access_count() -> None:
    cache = Cache(eviction_policy="lfu", max_entries=3).fill("abc").ask("aabbbcc").ask("a")

    cache.fill("d")

    assert cache.held() == set("abd")


def test_new_lfu_entries_start_at_frequency_0_and_may_be_evicted_quickly() -> None:
    cache = Cache(eviction_policy="lfu", max_entries=3).fill("ab").ask("ab").fill("c")

    assert cache.fill("d").held() == set("abd")
    assert cache.fill("e").held() == set("abe")


def test_ties_of_lfu_go_to_the_oldest() -> None:
    cache = Cache(eviction_policy="lfu", max_entries=3).fill("abc").ask("cba")

    assert cache.fill("d").held() == set("bcd")
    cache.ask("d")
    assert cache.fill("e").held() == set("cde")


def test_lfu_keeps_the_uses_of_what_is_stored_again() -> None:
    cache = Cache(eviction_policy="lfu", max_entries=2).fill("a").ask("aa").fill("ab")

    cache.fill("c")

    assert cache.held() == set("ac")
    assert {one.query: one.uses for one in cache.entries()} == {"a": 2, "c": 0}


def test_what_was_dear_to_compute_stays() -> None:
    cache = Cache(eviction_policy="cost", max_entries=2)
    cache.store("dear", SQL, 1, {"cost": 40})
    cache.store("also dear", SQL, 2, {"cost": 1}, cost=30.0)
    cache.store("cheap", SQL, 3, {"cost": "nothing"})
    assert cache.held() == {"dear", "cheap"}

    cache.store("new", SQL, 4)

    assert cache.held() == {"dear", "new"}


@pytest.mark.parametrize("policy", POLICIES)
def test_no_policy_evicts_what_was_stored_last(policy: str) -> None:
    cache = Cache(eviction_policy=policy, max_entries=3).fill("abc").ask("aabbcc")

    for new in "defg":
        held = cache.fill(new).held()
        assert new in held
        assert len(held) == 3
    assert cache.get_stats()["eviction_policy"] == policy


def test_a_semantic_hit_is_a_use_and_a_refused_candidate_is_not() -> None:
    cache = Cache(eviction_policy="lru", max_entries=2)
    cache.store(LONG, SQL, 1)
    cache.store("rain tomorrow", SQL, 2)
    assert cache.lookup(SIMILAR, SQL).result == 1
    assert cache.lookup("rain in march", SQL, 0.9).reason == "below_threshold"

    cache.store("new", SQL, 3)

    assert cache.held() == {LONG, "new"}
    assert {one.query: (one.uses, one.last_used_at) for one in cache.entries()} == {
        LONG: (1, cache.clock.now),
        "new": (0, None),
    }


def test_a_policy_of_ones_own_decides() -> None:
    class LastIn:
        def __init__(self) -> None:
            self.keys: list[bytes] = []

        def admit(self, key: bytes, /, *, cost: float = 1.0) -> None:
            self.keys.append(key)

        def touch(self, key: bytes, /, *, times: int = 1) -> None:
            """Change nothing."""

        def remove(self, key: bytes, /) -> None:
            if key in self.keys:
                self.keys.remove(key)

        def evict(self, n: int, /) -> list[bytes]:
            return [self.keys.pop() for _ in range(n)]

    cache = Memora(CacheConfig(max_entries=2), embedder=WordEmbedder(), eviction_policy=LastIn())
    for query in ("one", "two", "three"):
        cache.store(query, SQL, 1)

    assert [one.query for one in cache.entries()] == ["one", "two"]


def test_no_more_bytes_are_kept_than_max_bytes() -> None:
    cache = Cache(max_bytes=8_000, max_entries=None)
    for i in range(5):
        cache.store(f"q{i}", SQL, "x" * 3000)

    assert cache.held() == {"q3", "q4"}
    assert sum(one.bytes for one in cache.entries()) <= 8_000
    assert cache.store("q5", SQL, "x" * 20_000) is None  # for it alone all others would go
    assert cache.held() == {"q3", "q4"}
    assert cache.get_stats()["results_not_stored"] == 1
    assert cache.get_stats()["max_bytes"] == 8_000


# How long an entry lives.


def test_an_end_is_absolute_a_hit_does_not_move_it() -> None:
    cache = Cache(ttl_seconds=60)
    cache.store("q", SQL, 1)

    cache.clock.advance(59)
    found = cache.lookup("q", SQL)
    assert (found.is_hit, found.ttl_remaining_seconds, found.is_stale) == (True, 1.0, False)
    cache.clock.advance(0.999)
    assert cache.lookup("q", SQL).is_hit
    cache.clock.advance(0.001)
    assert cache.lookup("q", SQL).is_miss


def test_without_a_ttl_an_entry_lives_for_ever(cache: Cache) -> None:
    cache.store("q", SQL, 1, stale_ttl=5, sliding=True)
    cache.clock.advance(1e9)

    found = cache.lookup("q", SQL)

    assert (found.result, found.ttl_remaining_seconds, found.is_stale) == (1, None, False)
    assert cache.check_availability("q", SQL).ttl_remaining_seconds is None


@pytest.mark.parametrize("sliding", [True, False])
@pytest.mark.parametrize("said", ["setting", "call"])
def test_an_end_may_slide(*, sliding: bool, said: str) -> None:
    cache = Cache(ttl_seconds=60, sliding_ttl=sliding if said == "setting" else not sliding)
    cache.store("q", SQL, 1, sliding=None if said == "setting" else sliding)

    cache.clock.advance(50)
    assert cache.lookup("q", SQL).ttl_remaining_seconds == (60 if sliding else 10)
    cache.clock.advance(50)

    assert cache.lookup("q", SQL).is_hit == sliding
    cache.clock.advance(60)
    assert cache.lookup("q", SQL).is_miss


@pytest.mark.parametrize(
    ("ttl", "expected"),
    [
        (90, 90.0),
        (0.25, 0.25),
        (timedelta(minutes=10), 600.0),
        ("10m", 600.0),
        ("1h30m", 5400.0),
        ("500ms", 0.5),
        (7200, 7200.0),
        (None, 3600.0),
    ],
)
def test_a_ttl_may_be_given_in_many_ways(ttl: Any, expected: float) -> None:
    cache = Cache(ttl_seconds="1h")
    cache.store("q", SQL, 1, ttl=ttl)

    (one,) = cache.entries()

    assert one.expires_at == one.created_at + expected
    assert cache.lookup("q", SQL).ttl_remaining_seconds == expected


def test_jitter_ends_entries_earlier_and_never_later() -> None:
    cache = Cache(ttl_seconds=1000, ttl_jitter=0.2)
    for i in range(200):
        cache.store(f"q{i}", SQL, i)

    ttls = [(one.expires_at or inf) - one.created_at for one in cache.entries()]

    assert all(800 <= ttl <= 1000 for ttl in ttls)
    assert max(ttls) - min(ttls) > 100  # of 200 draws, all in one half: not in this universe


def test_jitter_of_a_whole_ttl_still_lets_an_entry_live() -> None:
    cache = Cache(ttl_seconds=1000, ttl_jitter=1)
    for i in range(50):
        cache.store(f"q{i}", SQL, i)

    assert all((one.expires_at or inf) > one.created_at for one in cache.entries())


def test_what_has_expired_may_be_served_as_stale_for_a_while() -> None:
    cache = Cache(ttl_seconds=60, stale_ttl_seconds=30)
    cache.store(LONG, SQL, 1)
    cache.store("short", SQL, 2, stale_ttl="1s")

    cache.clock.advance(60)
    for query in (LONG, SIMILAR, "short"):
        found = cache.lookup(query, SQL)
        assert (found.is_hit, found.is_stale, found.ttl_remaining_seconds) == (True, True, 0)
    check = cache.check_availability(LONG, SQL)
    assert (check.available, check.ttl_remaining_seconds) == (True, 0)
    cache.clock.advance(1)
    assert cache.lookup("short", SQL).is_miss
    cache.clock.advance(28.9)
    assert cache.lookup(LONG, SQL).is_stale
    cache.clock.advance(0.1)
    assert cache.lookup(LONG, SQL).is_miss
    assert not cache.check_availability(LONG, SQL)


@pytest.mark.parametrize("max_age", [600, 600.0, timedelta(minutes=10), "10m"])
def test_a_lookup_may_ask_for_what_is_young(cache: Cache, max_age: Any) -> None:
    cache.store(LONG, SQL, "old")
    cache.clock.advance(600)

    assert cache.lookup(LONG, SQL, max_age=max_age).result == "old"
    assert cache.lookup(SIMILAR, SQL, max_age=max_age).result == "old"
    cache.clock.advance(0.5)
    for query in (LONG, SIMILAR):
        assert cache.lookup(query, SQL, max_age=max_age).reason == "no_candidate"
        assert not cache.check_availability(query, SQL, max_age=max_age)
        assert cache.lookup(query, SQL).result == "old"


def test_where_the_same_text_is_too_old_a_similar_one_may_serve(cache: Cache) -> None:
    cache.store(LONG, SQL, "old")
    cache.clock.advance(100)
    cache.store(SIMILAR, SQL, "young")

    found = cache.lookup(LONG, SQL, max_age=50)

    assert (found.reason, found.result) == ("semantic", "young")
    assert cache.lookup(LONG, SQL).result == "old"


def test_a_clock_set_back_brings_nothing_back_and_lengthens_no_life(cache: Cache) -> None:
    cache.store("ended", SQL, 1, ttl=60)
    cache.store("alive", SQL, 2, ttl=100)
    cache.clock.advance(60)
    assert cache.lookup("ended", SQL).is_miss

    cache.clock.advance(-3600)

    assert cache.lookup("ended", SQL).is_miss
    found = cache.lookup("alive", SQL)
    assert (found.age_seconds, found.ttl_remaining_seconds) == (60, 40)
    assert cache.invalidate(older_than_seconds=59, dry_run=True)
    cache.clock.advance(3640)
    assert cache.lookup("alive", SQL).is_miss


# Whether there is an answer.


def test_a_check_decides_as_a_lookup_does(cache: Cache) -> None:
    cache.store(LONG, SQL, 1, ttl=60)
    cache.clock.advance(20)

    exact = cache.check_availability(LONG, SQL)
    similar = cache.check_availability(SIMILAR, SQL)

    assert exact == AvailabilityCheck(
        available=True, age_seconds=20.0, ttl_remaining_seconds=40.0, similarity=1.0
    )
    assert similar.similarity == cache.lookup(SIMILAR, SQL).similarity
    assert (similar.available, similar.age_seconds) == (True, 20.0)
    assert bool(similar)
    for nothing in (
        cache.check_availability(SIMILAR, SQL, similarity_threshold=1),
        cache.check_availability("rain tomorrow", SQL),
        cache.check_availability(LONG, {"agent": "sql"}),
        cache.check_availability(UNREADABLE, SQL),
    ):
        assert nothing == AvailabilityCheck(available=False)
        assert not nothing


def test_a_check_tells_the_end_that_a_sliding_entry_has_without_it(cache: Cache) -> None:
    cache.store("q", SQL, 1, ttl=60, sliding=True)
    cache.clock.advance(45)

    assert cache.check_availability("q", SQL).ttl_remaining_seconds == 15
    cache.clock.advance(15)
    assert not cache.check_availability("q", SQL)


def test_a_check_reads_no_result() -> None:
    class WithoutContents(MemoryStore):
        def get(self, *_: Any, **__: Any) -> Any:
            raise AssertionError("a content was read")

        fetch = get

    cache = Cache(store=WithoutContents(dimension=64))
    cache.store(LONG, SQL, 1)

    assert cache.check_availability(LONG, SQL).available
    assert cache.check_availability(SIMILAR, SQL).available
    assert cache.lookup(LONG, SQL).reason == "error"  # the double is no dummy
    assert cache.get_stats()["errors"]["lookup"] == 1


@pytest.mark.parametrize("policy", ["lru", "lfu", "s3fifo", "cost"])
def test_a_check_counts_as_no_use(policy: str) -> None:
    def state(cache: Cache) -> Any:
        stats = cache.get_stats()
        counted = {name: stats[name] for name in ("hits", "misses", "total_requests", "errors")}
        return counted, stats["lookup_latency_ms"], cache.entries()

    checked = Cache(eviction_policy=policy, max_entries=3).fill("abc").ask("cab")
    plain = Cache(eviction_policy=policy, max_entries=3).fill("abc").ask("cab")
    before = state(checked)

    for _ in range(5):
        assert checked.check_availability("a", SQL).available
        assert checked.check_availability("a a", SQL).available
        assert not checked.check_availability("nothing", SQL).available

    assert state(checked) == before
    for new in "defg":
        assert checked.fill(new).held() == plain.fill(new).held()


def test_a_check_that_fails_says_no_and_is_counted() -> None:
    store = FailingStore(dimension=64)
    cache = Cache(store=store)
    cache.store("q", SQL, 1)
    store.broken = True

    assert cache.check_availability("q", SQL) == AvailabilityCheck(available=False)
    assert cache.get_stats()["errors"]["lookup"] == 1


# What is withdrawn.


@pytest.fixture
def full(cache: Cache) -> Cache:
    """Entries that differ in all that can be asked for, ten seconds apart."""
    for query, context, tags in [
        (LONG, SQL, ["doc:1"]),
        (SIMILAR, {"agent": "sql", "db": "staging"}, ["doc:1", "doc:2"]),
        ("rain tomorrow", SQL, "doc:2"),
        ("sun tomorrow", {}, None),
        ("nested", {"user": {"id": 7, "roles": ["a", "b"]}, "agent": "sql"}, ()),
    ]:
        cache.store(query, context, query, tags=tags)
        cache.clock.advance(10)
    return cache


CRITERIA: list[tuple[dict[str, Any], list[str]]] = [
    ({}, []),
    ({"query": f"  {LONG}\n"}, [LONG]),
    ({"query": "nobody's"}, []),
    ({"context": {"db": "prod", "agent": "sql"}}, [LONG, "rain tomorrow"]),
    ({"context": {}}, ["sun tomorrow"]),
    ({"context": {"agent": "sql"}}, []),
    ({"query": LONG, "context": {}}, []),
    ({"context_contains": {"agent": "sql"}}, [LONG, SIMILAR, "rain tomorrow", "nested"]),
    ({"context_contains": {"user": {"id": 7}}}, ["nested"]),
    ({"context_contains": {"user": {"id": 7.0}}}, []),
    ({"context_contains": {"user": {"roles": ["a"]}}}, []),
    ({"older_than_seconds": 30}, [LONG, SIMILAR]),
    ({"older_than_seconds": "25s"}, [LONG, SIMILAR, "rain tomorrow"]),
    ({"older_than_seconds": timedelta(seconds=45)}, [LONG]),
    ({"older_than_seconds": 0}, [LONG, SIMILAR, "rain tomorrow", "sun tomorrow", "nested"]),
    ({"tags": "doc:1"}, [LONG, SIMILAR]),
    ({"tags": {"doc:2", "doc:3"}}, [SIMILAR, "rain tomorrow"]),
    ({"tags": "doc"}, []),
    ({"tags": "doc:2", "older_than_seconds": 35}, [SIMILAR]),
    ({"tags": "doc:2", "context": SQL}, ["rain tomorrow"]),
    ({"query": LONG, "similarity_threshold": 0.8}, [LONG, SIMILAR]),
    ({"query": LONG, "similarity_threshold": 0.8, "context": SQL}, [LONG]),
    ({"query": LONG, "similarity_threshold": 0.8, "tags": "doc:2"}, [SIMILAR]),
    ({"query": LONG, "similarity_threshold": 1}, [LONG]),
    ({"entry_id": "0" * 32}, []),
    ({"entry_id": ""}, []),
    ({"entry_id": "no id"}, []),
]


@pytest.mark.parametrize(("criteria", "expected"), CRITERIA)
def test_what_meets_all_criteria_is_withdrawn(
    full: Cache, criteria: dict[str, Any], expected: list[str]
) -> None:
    everything = full.held()

    going = full.invalidate(**criteria, dry_run=True)

    assert [one.query for one in going] == expected
    assert full.held() == everything
    assert full.invalidate(**criteria) == len(expected)
    assert full.held() == everything - set(expected)
    assert full.invalidate(**criteria) == 0
    for query in expected:
        assert full.lookup(query, SQL, 1.0).is_miss


def test_the_positions_of_the_document_hold(full: Cache) -> None:
    assert full.invalidate(LONG, SQL, 60) == 0
    assert full.invalidate(LONG, SQL, 45) == 1


def test_an_empty_list_of_tags_meets_nothing(full: Cache) -> None:
    for none in ([], (), set(), iter(())):
        assert full.invalidate(tags=none) == 0
    assert full.invalidate(tags=[], dry_run=True) == []
    assert full.entries(tags=[]) == []
    assert full.get_stats()["total_entries"] == 5


def test_a_part_that_every_context_contains_is_refused(full: Cache) -> None:
    with pytest.raises(ArgumentError, match=r"context_contains=\{\}"):
        full.invalidate(context_contains={})
    assert full.get_stats()["total_entries"] == 5


def test_an_entry_is_withdrawn_by_its_id(full: Cache) -> None:
    found = full.lookup(LONG, SQL)

    assert [one.query for one in full.entries(entry_id=found.entry_id)] == [LONG]
    assert full.invalidate(entry_id=found.entry_id) == 1
    assert full.lookup(LONG, SQL, 1.0).is_miss
    assert full.invalidate(entry_id=found.entry_id) == 0


def test_a_dry_run_shows_what_would_go(cache: Cache) -> None:
    entry_id = cache.store(LONG, SQL, 1, ttl=60, tags=["b", "a", "b"])
    cache.store("rain", SQL, 2)
    cache.clock.advance(5)
    cache.lookup(LONG, SQL)

    one, other = cache.invalidate(SIMILAR, similarity_threshold=0.0, dry_run=True)

    assert (one.entry_id, one.query, one.context) == (entry_id, LONG, '{"agent":"sql","db":"prod"}')
    assert (one.created_at, one.expires_at) == (cache.clock.now - 5, cache.clock.now + 55)
    assert (one.tags, one.uses, one.last_used_at) == (("a", "b"), 1, cache.clock.now)
    assert one.bytes > 64 * 4
    assert one.similarity == pytest.approx(one.cosine)
    assert (one.similarity or 0) > (other.similarity or 0)
    (exact,) = cache.invalidate(LONG, dry_run=True)
    assert (exact.similarity, exact.cosine) == (None, None)


def test_withdrawing_by_meaning_takes_what_either_the_judge_or_the_cosine_takes() -> None:
    cache = Cache(judge="on")
    cache.store("total sales in Q4 for all regions", SQL, 1)
    cache.store("the rain of tomorrow", SQL, 2)
    query = "total sales in Q3 for all regions"
    assert cache.lookup(query, SQL).reason == "below_threshold"  # the judge refuses it

    (going,) = cache.invalidate(query, similarity_threshold=0.8, dry_run=True)

    assert going.query == "total sales in Q4 for all regions"
    assert going.similarity == going.cosine
    assert cache.invalidate(query, similarity_threshold=0.8) == 1


def test_what_has_ended_is_withdrawn_too_and_listed_no_more(cache: Cache) -> None:
    cache.store("q", SQL, 1, ttl=5, tags="doc:1")
    cache.clock.advance(5)

    assert cache.entries() == []
    assert cache.get_stats()["total_entries"] == 1
    assert cache.invalidate(tags="doc:1") == 1
    assert cache.get_stats()["total_entries"] == 0


def test_what_is_stored_again_while_it_is_withdrawn_stays() -> None:
    class Replacing(MemoryStore):
        def discard(self, entries: Any, /) -> int:
            found = list(entries)
            by_another(cache.store)("q", SQL, "new")
            return super().discard(found)

    cache = Cache(store=Replacing(dimension=64))
    cache.store("q", SQL, "old")
    cache.store("r", SQL, "other")

    assert cache.invalidate(context=SQL) == 1
    assert cache.lookup("q", SQL).result == "new"


def test_outdated_entries_miss_at_once(full: Cache) -> None:
    full.outdate("doc:2", "nobody's")

    assert full.held() == {LONG, "sun tomorrow", "nested"}
    assert full.lookup("rain tomorrow", SQL).is_miss
    assert not full.check_availability("rain tomorrow", SQL)
    assert full.invalidate(tags="doc:2", dry_run=True) == []
    full.store("rain tomorrow", SQL, "new", tags="doc:2")
    assert full.lookup("rain tomorrow", SQL).result == "new"
    assert full.get_stats()["total_entries"] == 4  # a `store` helps to remove them
    full.outdate("doc:1")
    assert full.get_stats()["total_entries"] == 4
    assert full.cleanup_expired() == 1
    assert full.get_stats()["total_entries"] == 3


def test_outdating_makes_room_while_others_are_stored(cache: Cache) -> None:
    for i in range(20):
        cache.store(f"old {i}", SQL, i, tags="doc:1")
    cache.outdate("doc:1")

    for i in range(10):
        cache.store(f"new {i}", SQL, i)

    stats = cache.get_stats()
    assert stats["total_entries"] == 10
    assert stats["errors"]["maintain"] == 0


def test_clear_deletes_all(full: Cache) -> None:
    full.store("ended", SQL, 1, ttl=5)
    full.clock.advance(5)

    assert full.clear() == 6

    assert full.get_stats()["total_entries"] == 0
    assert full.lookup(LONG, SQL).reason == "no_candidate"
    assert full.clear() == 0


def test_clear_removes_what_was_outdated_too(full: Cache) -> None:
    full.outdate("doc:1")

    assert full.clear() == 5
    assert full.get_stats()["total_entries"] == 0


def test_a_cleanup_removes_what_has_ended_and_nothing_else(cache: Cache) -> None:
    cache.store("ended", SQL, 1, ttl=5)
    cache.store("stale", SQL, 2, ttl=5, stale_ttl=5)
    cache.store("sliding", SQL, 3, ttl=5, sliding=True)
    cache.store("for ever", SQL, 4)
    cache.clock.advance(3)
    cache.lookup("sliding", SQL)
    cache.clock.advance(2)

    assert cache.cleanup_expired() == 1
    assert cache.held() == {"stale", "sliding", "for ever"}
    assert cache.cleanup_expired() == 0
    cache.clock.advance(5)
    assert cache.cleanup_expired() == 2
    assert cache.get_stats()["total_entries"] == 1


# What is refused: the error names the value, and nothing changes.

BAD: list[tuple[Callable[[Memora], object], type[Exception], str]] = [
    *(
        (lambda cache, bad=bad, name=name: cache.store("new", SQL, 1, **{name: bad}), error, match)
        for name in ("ttl", "stale_ttl")
        for bad, error, match in [
            (0, ArgumentError, f"{name} must be a number of seconds above 0, got 0"),
            (-3, ArgumentError, f"{name} .* got -3"),
            (nan, ArgumentError, f"{name} .* got nan"),
            (inf, ArgumentError, f"{name} .* got inf"),
            (True, ArgumentError, f"{name} .* got True"),
            ("soon", ArgumentError, f"{name} .* got 'soon'"),
            ("-5m", ArgumentError, f"{name} .* got '-5m'"),
            (timedelta(0), ArgumentError, f"{name} .*timedelta"),
            ([], ArgumentError, rf"{name} .* got \[\]"),
        ]
    ),
    (lambda cache: cache.store("new", SQL, 1, tags=3), ArgumentError, "tags must be .* got 3"),  # type: ignore[arg-type]
    (lambda cache: cache.store("new", SQL, 1, tags=[" "]), ArgumentError, "not blank.* got ' '"),
    (lambda cache: cache.store("new", SQL, 1, tags=["a", 3]), ArgumentError, "got 3"),  # type: ignore[list-item]
    (lambda cache: cache.store("new", SQL, 1, tags={"a": 1}), ArgumentError, "got {'a': 1}"),
    (lambda cache: cache.store("new", SQL, 1, tags=b"doc"), ArgumentError, "got 100"),  # type: ignore[arg-type]
    (lambda cache: cache.store("new", SQL, 1, tags="\ud800"), ArgumentError, "UTF-8"),
    (lambda cache: cache.store("new", SQL, 1, sliding="no"), ArgumentError, "sliding .* got 'no'"),  # type: ignore[arg-type]
    (lambda cache: cache.store("new", SQL, 1, cost=-1), ArgumentError, "cost .* got -1"),
    (lambda cache: cache.store("new", SQL, 1, cost=nan), ArgumentError, "cost .* got nan"),
    (lambda cache: cache.store("new", SQL, 1, cost=True), ArgumentError, "cost .* got True"),
    (lambda cache: cache.lookup("q", SQL, max_age=0), ArgumentError, "max_age .* got 0"),
    (lambda cache: cache.lookup("q", SQL, max_age="old"), ArgumentError, "max_age .* got 'old'"),
    (lambda cache: cache.check_availability("q", SQL, max_age=-1), ArgumentError, "max_age"),
    (lambda cache: cache.check_availability("q", SQL, 1.2), ArgumentError, "got 1.2"),
    (lambda cache: cache.check_availability(" "), QueryError, "query must contain text"),
    (lambda cache: cache.check_availability("q", [1]), ContextError, "got list"),  # type: ignore[arg-type]
    (lambda cache: cache.outdate(""), ArgumentError, "not blank.* got ''"),
    (lambda cache: cache.outdate("doc:1", " "), ArgumentError, "not blank.* got ' '"),
    (lambda cache: cache.outdate(None), ArgumentError, "got None"),  # type: ignore[arg-type]
    *(
        (lambda cache, asked=asked: cache.invalidate(**asked), error, match)
        for asked, error, match in [
            ({"query": " "}, QueryError, "query must contain text, got ' '"),
            ({"query": 3}, QueryError, "got int"),
            ({"context": [1]}, ContextError, "got list"),
            ({"context": {"x": object()}}, ContextError, "no canonical form"),
            ({"context_contains": "agent"}, ContextError, "got str"),
            ({"older_than_seconds": -1}, ArgumentError, "older_than_seconds .* got -1"),
            ({"older_than_seconds": nan}, ArgumentError, "got nan"),
            ({"older_than_seconds": inf}, ArgumentError, "got inf"),
            ({"older_than_seconds": True}, ArgumentError, "got True"),
            ({"older_than_seconds": False}, ArgumentError, "got False"),
            ({"older_than_seconds": "long"}, ArgumentError, "got 'long'"),
            ({"tags": 3}, ArgumentError, "got 3"),
            ({"tags": [""]}, ArgumentError, "got ''"),
            ({"tags": ["a", None]}, ArgumentError, "got None"),
            ({"entry_id": 7}, ArgumentError, "entry_id must be a text, got 7"),
            ({"similarity_threshold": 0.9}, ArgumentError, "needs a query"),
            ({"similarity_threshold": 0.9, "tags": "doc:1"}, ArgumentError, "needs a query"),
            ({"query": "q", "similarity_threshold": 1.1}, ArgumentError, "0 to 1, got 1.1"),
            ({"query": "q", "similarity_threshold": nan}, ArgumentError, "got nan"),
            ({"query": "q", "similarity_threshold": True}, ArgumentError, "got True"),
            ({"query": UNREADABLE, "similarity_threshold": 0.1}, ArgumentError, "cannot read all"),
        ]
    ),
]


@pytest.mark.parametrize("number", range(len(BAD)), ids=[match for _, _, match in BAD])
def test_bad_input_is_named_and_changes_nothing(full: Cache, number: int) -> None:
    call, error, match = BAD[number]
    before = full.entries()

    with pytest.raises(error, match=match) as caught:
        call(full)

    assert isinstance(caught.value, MemoraError)
    assert full.entries() == before
    assert full.get_stats()["total_requests"] == 0
    assert full.get_stats()["errors"]["lookup"] == full.get_stats()["errors"]["store"] == 0


def test_entries_refuses_what_invalidate_refuses(full: Cache) -> None:
    with pytest.raises(ArgumentError, match="needs a query"):
        full.entries(similarity_threshold=0.5)
    with pytest.raises(ArgumentError, match="cannot read all"):
        full.entries(UNREADABLE, similarity_threshold=0.5)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"eviction_policy": "mru"}, "eviction_policy='mru': expected fifo, lru, lfu, s3fifo or"),
        ({"max_bytes": 1000, "max_payload_bytes": 2000}, "max_payload_bytes=2000 and max_bytes=10"),
        ({"max_bytes": 1000, "max_payload_bytes": None}, "max_payload_bytes=None and max_bytes=10"),
        ({"ttl_seconds": -1}, "ttl_seconds=-1"),
        ({"ttl_jitter": 2}, "ttl_jitter=2"),
        ({"stale_ttl_seconds": "long"}, "stale_ttl_seconds='long'"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        CacheConfig(**settings)


def test_limits_that_agree_are_taken() -> None:
    assert CacheConfig(max_bytes=1000, max_payload_bytes=1000).max_bytes == 1000
    assert CacheConfig(max_bytes=1000).max_bytes == 1000  # the default of the other is no conflict


# When something fails.

WITHDRAWALS: list[tuple[str, Callable[[Memora], object]]] = [
    ("invalidate", lambda cache: cache.invalidate(context=SQL)),
    ("dry run", lambda cache: cache.invalidate(context=SQL, dry_run=True)),
    ("entries", lambda cache: cache.entries()),
    ("outdate", lambda cache: cache.outdate("doc:1")),
    ("clear", lambda cache: cache.clear()),
    ("cleanup_expired", lambda cache: cache.cleanup_expired()),
]


@pytest.mark.parametrize(("name", "call"), WITHDRAWALS, ids=[name for name, _ in WITHDRAWALS])
def test_a_withdrawal_that_fails_says_so_and_a_lookup_does_not(
    name: str, call: Callable[[Memora], object]
) -> None:
    store = FailingStore(dimension=64)
    cache = Cache(store=store)
    cache.store("q", SQL, 1, tags="doc:1")
    store.broken = True

    with pytest.raises(StoreError, match="the disk is on fire"):
        call(cache)
    assert cache.lookup("q", SQL).reason == "error"
    assert cache.store("r", SQL, 2) is not None
    store.broken = False
    assert cache.held() == {"q", "r"}, name


def test_where_the_model_fails_nothing_is_withdrawn() -> None:
    def embed(texts: list[str]) -> Any:
        if broken:
            raise ConnectionError("no route to the model")
        return np.ones((len(texts), 4))

    broken = False
    cache = Memora(CacheConfig(embedding_cache_size=0), embedder=embed)
    cache.store("q", SQL, 1)
    broken = True

    with pytest.raises(EmbedderError, match="no route"):
        cache.invalidate("q", similarity_threshold=0.5)
    assert cache.get_stats()["total_entries"] == 1
    assert cache.invalidate("q") == 1  # the exact text needs no model


def test_a_closed_cache_withdraws_nothing() -> None:
    cache = Cache()
    cache.close()

    for _, call in WITHDRAWALS:
        with pytest.raises(ClosedError):
            call(cache)
    with pytest.raises(ClosedError):
        cache.check_availability("q")
    with pytest.raises(ClosedError):
        cache.invalidate()
    with pytest.raises(ClosedError):
        cache.start_scheduler()


# The scheduler.


def test_the_scheduler_removes_what_has_ended(cache: Cache) -> None:
    assert cache.get_scheduler_stats() is None
    assert cache.get_stats()["scheduler"] is None
    check = cache.health_check()["checks"]["scheduler"]
    assert (check["ok"], check["details"]) == (True, "not started")
    cache.store("ended", SQL, 1, ttl=5)
    cache.store("for ever", SQL, 2)
    cache.clock.advance(5)

    cache.start_scheduler(interval_seconds=0.01, initial_delay_seconds=0)

    assert until(lambda: cache.get_stats()["scheduler"]["total_runs"] >= 2)
    stats = cache.get_scheduler_stats()
    assert stats is not None
    assert (stats["running"], stats["interval_seconds"]) == (True, 0.01)
    assert (stats["total_deleted"], stats["errors"], stats["last_error"]) == (1, 0, None)
    assert stats["last_run_time"] == cache.clock.now
    assert cache.get_stats()["total_entries"] == 1
    check = cache.health_check()["checks"]["scheduler"]
    assert check["ok"]
    assert check["details"].startswith("running: ")
    cache.stop_scheduler()
    stopped = cache.get_scheduler_stats()
    assert stopped is not None
    assert stopped["running"] is False
    assert cache.health_check()["checks"]["scheduler"]["ok"]  # it was told to


def test_a_second_start_only_warns(cache: Cache, capsys: pytest.CaptureFixture[str]) -> None:
    cache.start_scheduler(initial_delay_seconds=600)
    first = cache._scheduler
    assert "scheduler_already_running" not in capsys.readouterr().err

    cache.start_scheduler(interval_seconds=1, initial_delay_seconds=0)

    assert "scheduler_already_running" in capsys.readouterr().err
    assert cache._scheduler is first
    cache.stop_scheduler()
    cache.start_scheduler(interval_seconds=7, initial_delay_seconds=600)
    stats = cache.get_scheduler_stats()
    assert stats is not None
    assert (stats["running"], stats["interval_seconds"]) == (True, 7.0)


@pytest.mark.parametrize(
    ("setting", "asked", "expected"),
    [("30m", None, 1800.0), (60, "10s", 10.0), (None, None, 300.0)],
)
def test_the_interval_is_the_setting_unless_it_is_given(
    setting: Any, asked: Any, expected: float
) -> None:
    with Cache(cleanup_interval_seconds=setting) as cache:
        cache.start_scheduler(asked)

        stats = cache.get_scheduler_stats()
        assert stats is not None
        assert stats["interval_seconds"] == expected
    assert cache._scheduler is not None
    assert cache._scheduler.stats()["running"] is False  # closing stops it


@pytest.mark.parametrize("bad", [0, -1, nan, inf, True, "often"])
def test_a_bad_interval_is_refused(cache: Cache, bad: Any) -> None:
    with pytest.raises(ArgumentError, match="interval_seconds"):
        cache.start_scheduler(interval_seconds=bad)
    with pytest.raises(ArgumentError, match="initial_delay_seconds"):
        cache.start_scheduler(initial_delay_seconds=-1 if bad == 0 else bad or -1)
    assert cache.get_scheduler_stats() is None


def test_a_cleanup_that_fails_is_counted_and_the_scheduler_goes_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    store = FailingStore(dimension=64)
    with Cache(store=store) as cache:
        cache.store("ended", SQL, 1, ttl=5)
        cache.clock.advance(5)
        store.broken = True
        cache.start_scheduler(interval_seconds=0.01, initial_delay_seconds=0)

        assert until(lambda: cache.get_stats()["errors"]["cleanup"] >= 2)
        store.broken = False
        assert until(lambda: cache.get_stats()["scheduler"]["total_deleted"] == 1)

        stats = cache.get_stats()["scheduler"]
        assert stats["errors"] >= 2
        assert stats["running"]
        assert stats["last_error"] == "StoreError"
        assert cache.health_check()["metrics"]["recent_errors"]["cleanup"] >= 2
        assert "operation=cleanup" in re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().err)
