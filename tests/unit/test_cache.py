"""The door: what it returns, what it refuses, and what it survives."""

from __future__ import annotations

import gc
import io
import json
import os
import re
import signal
import sys
import threading
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from doubles import NO_FAULT, WordEmbedder, threads_started, until
from engine import by_another
from hypothesis import given
from hypothesis import strategies as st

from memora import CacheConfig, LookupResult, Memora
from memora.concurrency import workers as workers_module
from memora.embedders import FunctionEmbedder
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
from memora.judge import Judge
from memora.model import Content, Evidence
from memora.stores.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Sequence

    from doubles import FakeClock

SQL = {"agent": "sql", "db": "prod"}
WORDS = ["total", "sales", "in", "Q3", "Q4", "2024", "not", "München", "5 km"]


@pytest.fixture
def cache(embedder: WordEmbedder, clock: FakeClock) -> Memora:
    # The bare cosine: what is told apart is the judge's own test's.
    return Memora(CacheConfig(judge="off"), embedder=embedder, clock=clock)


@pytest.fixture
def judging(embedder: WordEmbedder, clock: FakeClock) -> Memora:
    return Memora(CacheConfig(), embedder=embedder, clock=clock)


def test_a_stored_result_is_found_by_the_same_text(cache: Memora, clock: FakeClock) -> None:
    entry_id = cache.store("sales in march", SQL, {"total": 3}, {"tokens": 12})
    clock.advance(5)

    found = cache.lookup("  sales in march\n", SQL)

    assert found == LookupResult(
        is_hit=True,
        reason="exact",
        explanation="the same text in the same context",
        result={"total": 3},
        similarity=1.0,
        cosine=1.0,
        matched_query="sales in march",
        age_seconds=5.0,
        entry_id=entry_id,
        metadata={"tokens": 12},
        nearest=found.nearest,
    )
    assert bool(found)
    assert not found.is_miss


def test_a_similar_text_is_a_hit_that_says_how_similar(cache: Memora) -> None:
    cache.store("total sales in march for all regions", SQL, 1)

    found = cache.lookup("total sales in march for all regions please", SQL)

    assert (found.is_hit, found.reason, found.result) == (True, "semantic", 1)
    assert found.similarity is not None
    assert 0.85 <= found.similarity < 1
    assert found.cosine == pytest.approx(found.similarity)
    assert found.matched_query == "total sales in march for all regions"


def test_a_dissimilar_text_is_a_miss_that_says_what_was_nearest(
    cache: Memora, clock: FakeClock
) -> None:
    entry_id = cache.store("total sales in march", SQL, 1)
    clock.advance(2)

    found = cache.lookup("total rainfall in april", SQL)

    assert (found.is_miss, found.reason, found.result) == (True, "below_threshold", None)
    assert not found
    assert (found.similarity, found.entry_id, found.matched_query) == (None, None, None)
    assert found.nearest is not None
    assert found.cosine == found.nearest.cosine == pytest.approx(found.nearest.similarity)
    assert (found.nearest.entry_id, found.nearest.query) == (entry_id, "total sales in march")
    assert found.nearest.age_seconds == 2
    assert found.nearest.similarity < 0.85
    assert "below the threshold 0.85" in found.explanation


def test_a_miss_says_what_refused_it(judging: Memora) -> None:
    judging.store("total sales in Q3 for all regions", SQL, 1)

    found = judging.lookup("total sales in Q4 for all regions", SQL)

    assert (found.is_miss, found.reason) == (True, "below_threshold")
    assert found.evidence == (Evidence("dates", "Q4 / Q3"),)
    assert found.explanation.endswith("the threshold 0.85; dates: Q4 / Q3")
    assert found.nearest is not None
    assert found.nearest.evidence == found.evidence
    assert found.cosine == found.nearest.cosine
    assert found.nearest.similarity < found.nearest.cosine


def test_a_hit_says_what_speaks_against_it(judging: Memora) -> None:
    judging.store("total sales in Q3 for all regions", SQL, 1)

    found = judging.lookup("total sales in Q4 for all regions", SQL, 0.0)

    assert (found.reason, found.evidence) == ("semantic", (Evidence("dates", "Q4 / Q3"),))
    assert found.similarity is not None
    assert found.cosine is not None
    assert found.similarity < found.cosine


def test_the_likeliest_of_the_nearest_is_served(judging: Memora) -> None:
    judging.store("total sales in Q4 for all regions", SQL, "Q4")
    judging.store("total sales for all the regions in Q3", SQL, "Q3")

    found = judging.lookup("total sales in Q3 for all regions", SQL, 0.5)

    assert found.result == "Q3"
    told = judging.explain("total sales in Q3 for all regions", SQL, 0.5)
    cosines = {one.query: one.cosine for one in told.candidates}
    assert found.cosine == cosines["total sales for all the regions in Q3"]


@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=6), st.floats(0, 1))
def test_without_the_judge_similarity_and_cosine_are_equal(
    words: list[str], threshold: float
) -> None:
    cache = Memora(CacheConfig(judge="off"), embedder=WordEmbedder())
    cache.store("total sales in Q3", SQL, 1)

    found = cache.lookup(" ".join(words), SQL, threshold)

    assert found.nearest is not None
    assert found.cosine is not None
    assert found.evidence == ()
    assert found.nearest.similarity == pytest.approx(max(found.cosine, 0.0), abs=1e-6)
    assert found.is_hit == (found.nearest.similarity >= threshold)


def test_a_judge_that_fails_refuses_and_is_reported(
    judging: Memora, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any) -> Any:
        raise RecursionError("too deep")

    judging.store("a private question", SQL, 1)
    monkeypatch.setattr(Judge, "assess", fail)

    found = judging.lookup("a private question indeed", SQL, 0.0)

    assert (found.is_miss, found.reason) == (True, "error")
    assert found.explanation == "the cache failed: JudgeError: RecursionError: too deep"
    assert judging.lookup("a private question", SQL).reason == "exact"  # needs no judge
    assert judging.get_stats()["errors"] == NO_FAULT | {"judge": 1}
    assert judging.get_stats()["misses_by_reason"] == {"error": 1}
    assert judging.health_check()["metrics"]["recent_errors"] == NO_FAULT | {"judge": 1}
    logged = capsys.readouterr().err
    assert "operation=judge" in re.sub(r"\x1b\[[0-9;]*m", "", logged)
    assert "private" not in logged
    for _ in range(5):
        judging.lookup("a private question indeed", SQL, 0.0)
    assert judging.health_check()["status"] == "unhealthy"


def test_explain_tells_what_a_lookup_would_do(judging: Memora, clock: FakeClock) -> None:
    judging.store("total sales in Q4 for all regions", SQL, "Q4")
    entry_id = judging.store("total sales in Q3 for all the regions", SQL, "Q3")
    clock.advance(90)
    query = "total sales in Q3 for all regions"

    told = judging.explain(query, SQL)
    found = judging.lookup(query, SQL)

    assert (told.query, told.threshold) == (query, 0.85)
    assert (told.is_hit, told.reason) == (found.is_hit, found.reason) == (True, "semantic")
    assert told.explanation == found.explanation
    assert told.served == told.candidates[0] == found.nearest
    assert told.served is not None
    assert told.served.entry_id == entry_id
    assert told.candidates[1].evidence == (Evidence("dates", "Q3 / Q4"),)
    assert told.candidates[0].similarity > told.candidates[1].similarity
    lines = str(told).splitlines()
    assert lines[0] == f"hit (semantic): {query}"
    assert lines[2] == "1. served: total sales in Q3 for all the regions"
    assert lines[3].endswith(", 1 min 30 s old")
    assert lines[4] == "2. not served: total sales in Q4 for all regions"
    assert lines[6] == "   dates: Q3 / Q4"


def test_explain_of_other_outcomes(judging: Memora) -> None:
    assert judging.explain("total sales", SQL).reason == "no_candidate"
    judging.store("total sales", SQL, 1)

    same = judging.explain("total sales", SQL)
    miss = judging.explain("total rainfall", SQL, 1)
    unreadable = judging.explain("word " * 60, SQL)

    assert (same.is_hit, same.reason, len(same.candidates)) == (True, "exact", 1)
    assert (same.candidates[0].similarity, same.candidates[0].cosine) == (1.0, 1.0)
    assert (miss.is_hit, miss.reason, miss.threshold) == (False, "below_threshold", 1.0)
    assert miss.served is None
    assert (unreadable.reason, unreadable.candidates) == ("unreadable", ())
    assert judging.explain("total sales", {"other": 1}).candidates == ()


def test_explain_counts_nothing_and_decodes_nothing(embedder: WordEmbedder) -> None:
    store = MemoryStore(dimension=64)
    cache = Memora(CacheConfig(), embedder=embedder, store=store)
    cache.store("total sales", SQL, 1)
    (slot,) = store._contents
    store._contents[slot] = Content(b"damaged")

    assert cache.explain("total sales", SQL).is_hit
    assert cache.explain("total sales please", SQL, 0.1).is_hit

    stats = cache.get_stats()
    assert (stats["total_requests"], stats["errors"]) == (0, NO_FAULT)
    assert stats["lookup_latency_ms"]["samples"] == 0


def test_explain_survives_what_a_lookup_survives(
    embedder: WordEmbedder, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = Memora(CacheConfig(), embedder=embedder, store=BrokenStore("search"))

    told = cache.explain("a private question", SQL)

    assert (told.is_hit, told.reason) == (False, "error")
    assert "the disk is on fire" in told.explanation
    assert cache.get_stats()["errors"] == NO_FAULT
    logged = capsys.readouterr().err
    assert "cache_error" in logged
    assert "private" not in logged


def test_an_explanation_cannot_control_the_terminal(judging: Memora) -> None:
    judging.store("hello \x1b]0;title\x07\nworld 'one'", None, 1)

    printed = str(judging.explain("hello \x1b]0;title\x07\nworld 'two' in 2 \x9b days", None, 0.0))

    assert all(line.isprintable() for line in printed.splitlines())


def test_an_empty_context_has_no_candidate(cache: Memora) -> None:
    cache.store("total sales", SQL, 1)

    found = cache.lookup("total sales", {"agent": "other"})

    assert (found.is_miss, found.reason, found.nearest) == (True, "no_candidate", None)


def test_none_is_a_result_like_any_other(cache: Memora) -> None:
    cache.store("q", None, None)

    found = cache.lookup("q")

    assert found.is_hit
    assert found.result is None


def test_at_threshold_one_only_the_same_text_is_served(embedder: WordEmbedder) -> None:
    cache = Memora(CacheConfig(similarity_threshold=1), embedder=embedder)
    cache.store("What does US law say", SQL, 1)

    found = cache.lookup("what does us law say", SQL)  # the embedder folds case

    assert (found.is_miss, found.reason) == (True, "below_threshold")
    assert cache.lookup("what does us law say", SQL, 0.999).is_hit
    assert cache.lookup("What does US law say ", SQL).is_hit


def test_the_threshold_of_a_call_overrides_the_setting(cache: Memora) -> None:
    cache.store("total sales in march", SQL, 1)

    assert cache.lookup("total sales in april", SQL).is_miss
    assert cache.lookup("total sales in april", SQL, similarity_threshold=0.5).is_hit
    assert cache.lookup("total sales in april", SQL, 0.0).is_hit
    assert cache.lookup("total sales in march", SQL, similarity_threshold=1).is_hit


def test_storing_again_replaces(cache: Memora) -> None:
    cache.store("q", SQL, "old")
    cache.store(" q ", dict(reversed(SQL.items())), "new")

    assert cache.lookup("q", SQL).result == "new"
    assert cache.get_stats()["total_entries"] == 1


def test_entries_live_as_long_as_the_setting_says(embedder: WordEmbedder, clock: FakeClock) -> None:
    cache = Memora(CacheConfig(ttl_seconds=60), embedder=embedder, clock=clock)
    cache.store("q one", SQL, 1)

    clock.advance(59.9)
    assert cache.lookup("q one", SQL).is_hit  # and a hit does not extend it
    clock.advance(0.1)
    assert cache.lookup("q one", SQL).reason == "expired"
    assert cache.lookup("q one two", SQL, 0.1).reason == "no_candidate"


@pytest.mark.parametrize("ttl", [5, 5.0, timedelta(seconds=5)])
def test_an_entry_may_have_its_own_life(cache: Memora, clock: FakeClock, ttl: Any) -> None:
    cache.store("short", SQL, 1, ttl=ttl)
    cache.store("long", SQL, 2)

    clock.advance(5)

    assert cache.lookup("short", SQL).is_miss
    assert cache.lookup("long", SQL).is_hit


def test_a_clock_set_back_does_not_make_negative_ages(cache: Memora, clock: FakeClock) -> None:
    cache.store("q", SQL, 1)
    clock.advance(-100)

    assert cache.lookup("q", SQL).age_seconds == 0


def test_no_more_than_max_entries_are_kept_the_oldest_leave(
    embedder: WordEmbedder, clock: FakeClock
) -> None:
    cache = Memora(CacheConfig(max_entries=3), embedder=embedder, clock=clock)
    for i in range(5):
        cache.store(f"q{i}", SQL, i)
        clock.advance(1)

    assert [cache.lookup(f"q{i}", SQL, 1.0).is_hit for i in range(5)] == [False] * 2 + [True] * 3
    assert cache.get_stats()["total_entries"] == 3


def test_the_vector_is_computed_once_a_request(cache: Memora, embedder: WordEmbedder) -> None:
    cache.lookup("a question", SQL)
    cache.store("a question", SQL, 1)
    assert embedder.embedded == ["a question"]

    cache.lookup("a question", SQL)
    assert embedder.embedded == ["a question"]


def test_the_exact_tier_needs_no_embedding(embedder: WordEmbedder) -> None:
    cache = Memora(CacheConfig(embedding_cache_size=0), embedder=embedder)
    cache.store("q", SQL, 1)
    embedder.embedded.clear()

    assert cache.lookup("q", SQL).is_hit
    assert embedder.embedded == []


def test_text_beyond_the_window_is_matched_exactly_only(cache: Memora) -> None:
    shared = " ".join(f"word{i}" for i in range(60))
    cache.store(f"{shared} first", SQL, 1)

    assert cache.lookup(f"{shared} first", SQL).result == 1
    found = cache.lookup(f"{shared} second", SQL, 0.0)
    assert (found.is_miss, found.reason) == (True, "unreadable")
    assert cache.lookup("word1 word2", SQL, 0.0).reason == "no_candidate"


def test_a_result_cannot_be_changed_through_what_was_stored_or_served(cache: Memora) -> None:
    result = {"rows": [1, 2]}
    cache.store("q", SQL, result)
    result["rows"].append(3)
    cache.lookup("q", SQL).result["rows"].append(4)

    assert cache.lookup("q", SQL).result == {"rows": [1, 2]}


def test_metadata_cannot_be_changed_through_a_hit(cache: Memora) -> None:
    metadata = {"tags": ["a"]}
    cache.store("q", SQL, 1, metadata)
    metadata["tags"].append("b")
    cache.lookup("q", SQL).metadata["tags"].append("c")

    assert cache.lookup("q", SQL).metadata == {"tags": ["a"]}


def test_what_expires_while_the_query_is_embedded_is_not_served(
    embedder: WordEmbedder, clock: FakeClock
) -> None:
    class Slow(WordEmbedder):
        def embed(self, texts: Sequence[str], /) -> list[Any]:
            clock.advance(10)
            return super().embed(texts)

    cache = Memora(CacheConfig(), embedder=Slow(), clock=clock)
    cache.store("total sales in march for all regions", SQL, 1, ttl=5)

    assert cache.lookup("total sales in march for all regions please", SQL, 0.1).is_miss


def test_an_entry_that_is_replaced_while_it_is_found_is_served_anew(
    embedder: WordEmbedder,
) -> None:
    class Replacing(MemoryStore):
        def search(self, *arguments: Any, **options: Any) -> Any:
            found = super().search(*arguments, **options)
            by_another(cache.store)("total sales in march for all regions", SQL, "new")
            return found

    store = Replacing(dimension=embedder.dimension)
    cache = Memora(CacheConfig(), embedder=embedder, store=store)
    cache.store("total sales in march for all regions", SQL, "old")

    found = cache.lookup("total sales in march for all regions please", SQL)

    assert (found.reason, found.result) == ("semantic", "new")


def test_an_entry_that_leaves_while_it_is_found_is_a_miss(embedder: WordEmbedder) -> None:
    class Leaving(MemoryStore):
        def search(self, *arguments: Any, **options: Any) -> Any:
            found = super().search(*arguments, **options)
            self.maintain(max_entries=0, now=options["now"])
            return found

    cache = Memora(CacheConfig(), embedder=embedder, store=Leaving(dimension=embedder.dimension))
    cache.store("total sales in march for all regions", SQL, 1)

    found = cache.lookup("total sales in march for all regions please", SQL)

    assert (found.is_miss, found.reason) == (True, "no_candidate")


def test_concurrent_stores_never_evict_too_much(embedder: WordEmbedder) -> None:
    class Together(MemoryStore):
        def put(self, *arguments: Any, **options: Any) -> None:
            super().put(*arguments, **options)
            barrier.wait(timeout=10)  # all have put before any goes on to evict

    barrier = threading.Barrier(4)
    store = Together(dimension=embedder.dimension)
    cache = Memora(CacheConfig(max_entries=2), embedder=embedder, store=store)
    threads = [
        threading.Thread(target=cache.store, args=(f"question {n}", SQL, n)) for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert store.count() == 2


@pytest.mark.parametrize("broken", ["none", "closed"])
def test_a_broken_stderr_breaks_nothing(
    broken: str, embedder: WordEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed if broken == "closed" else None)
    cache = Memora(CacheConfig(log_level="DEBUG"), embedder=embedder, store=BrokenStore("search"))

    assert cache.lookup("q", SQL).reason == "error"
    assert cache.store("q", SQL, object()) is None
    assert cache.lookup("q", SQL).reason == "error"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_a_forked_child_does_not_inherit_held_locks(cache: Memora) -> None:
    cache.store("q", SQL, 1)
    with cache._ports.store._lock, cache._metrics._lock:  # type: ignore[attr-defined]
        child = os.fork()
        if child == 0:
            signal.alarm(20)  # a child that hangs ends too
            os._exit(0 if cache.lookup("q", SQL).result == 1 and cache.store("r", SQL, 2) else 1)
    _, status = os.waitpid(child, 0)

    assert status == 0


BAD_LOOKUPS: list[tuple[tuple[Any, ...], type[Exception], str]] = [
    (("",), QueryError, "query must contain text, got ''"),
    ((None,), TypeError, "query must be a string, got NoneType"),
    ((3,), QueryError, "got int"),
    (("q", "ctx"), ContextError, "context must be a mapping"),
    (("q", {"x": object()}), TypeError, "no canonical form"),
    (("q", {}, 1.2), ArgumentError, "similarity_threshold must be a number from 0 to 1, got 1.2"),
    (("q", {}, -0.1), ValueError, "from 0 to 1"),
    (("q", {}, float("nan")), ArgumentError, "got nan"),
    (("q", {}, True), ArgumentError, "got True"),
    (("q", {}, "0.9"), ArgumentError, "got '0.9'"),
    (("q", {"n": 10**5000}), ContextError, "context cannot be read"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD_LOOKUPS)
def test_bad_arguments_of_lookup_are_refused_at_the_door(
    cache: Memora, arguments: tuple[Any, ...], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        cache.lookup(*arguments)
    assert isinstance(caught.value, MemoraError)
    with pytest.raises(error, match=message):
        cache.explain(*arguments)
    assert cache.get_stats()["total_requests"] == 0


BAD_STORES: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"query": " "}, QueryError, "query must contain text"),
    ({"context": [1]}, ContextError, "got list"),
    ({"metadata": {"x": object()}}, ArgumentError, "metadata must be a mapping of JSON values"),
    ({"metadata": {"x": float("nan")}}, ArgumentError, "metadata"),
    ({"metadata": {1: "a"}}, ArgumentError, "text keys"),
    ({"metadata": "text"}, ArgumentError, "metadata"),
    ({"ttl": 0}, ArgumentError, "ttl must be a number of seconds above 0, got 0"),
    ({"ttl": -3}, ArgumentError, "got -3"),
    ({"ttl": float("inf")}, ArgumentError, "got inf"),
    ({"ttl": True}, ArgumentError, "got True"),
    ({"ttl": "soon"}, ArgumentError, "got 'soon'"),
    ({"ttl": 10**400}, ArgumentError, "too large"),
    ({"metadata": []}, ArgumentError, r"got \[\]"),
    ({"metadata": 0}, ArgumentError, "got 0"),
    ({"metadata": {"a": (1,)}}, ArgumentError, "lists rather than tuples"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD_STORES)
def test_bad_arguments_of_store_are_refused_and_change_nothing(
    cache: Memora, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        cache.store(**{"query": "q", "context": SQL, "result": 1, **arguments})
    assert cache.get_stats()["total_entries"] == 0


def test_the_configuration_is_checked_too(embedder: WordEmbedder) -> None:
    with pytest.raises(ConfigError, match=r"config must be a CacheConfig, .*, got dict"):
        Memora({"max_entries": 3})  # type: ignore[arg-type]
    with pytest.raises(
        ConfigError, match=r"db_uri='postgres://localhost': expected memory://, the path"
    ):
        Memora(CacheConfig(db_uri="postgres://localhost"), embedder=embedder)


def test_a_result_that_cannot_be_serialised_is_counted_and_nothing_breaks(
    cache: Memora, capsys: pytest.CaptureFixture[str]
) -> None:
    class Secretive:
        name = "s3cret"

    assert cache.store("my s3cret question", SQL, Secretive()) is None

    assert cache.lookup("my s3cret question", SQL).is_miss
    assert cache.get_stats()["results_not_stored"] == 1
    assert cache.health_check()["status"] == "healthy"
    logged = capsys.readouterr().err
    assert "result_not_stored" in logged
    assert "Secretive" in logged
    assert "s3cret" not in logged


def test_a_result_beyond_the_size_limit_is_not_stored(embedder: WordEmbedder) -> None:
    cache = Memora(CacheConfig(max_payload_bytes=1000), embedder=embedder)

    assert cache.store("big", SQL, "x" * 2000) is None
    assert cache.store("small", SQL, "x" * 500) is not None
    assert cache.get_stats()["results_not_stored"] == 1


class BrokenStore(MemoryStore):
    """Fails at what it is told to fail at."""

    def __init__(self, *failing: str) -> None:
        self.failing: set[str] = set()
        super().__init__(dimension=64)
        self.failing |= set(failing)

    def __getattribute__(self, name: str) -> Any:
        if name != "failing" and name in self.failing:
            raise StoreError(f"{name}: the disk is on fire")
        return super().__getattribute__(name)


@pytest.mark.parametrize("operation", ["get", "search"])
def test_a_failing_store_makes_a_lookup_a_miss_that_is_counted(
    embedder: WordEmbedder, operation: str, capsys: pytest.CaptureFixture[str]
) -> None:
    store = BrokenStore()
    cache = Memora(CacheConfig(), embedder=embedder, store=store)
    cache.store("a private question", SQL, 1)
    store.failing.add(operation)

    found = cache.lookup("a private question indeed", SQL, 0.1)

    assert (found.is_miss, found.reason) == (True, "error")
    assert "the disk is on fire" in found.explanation
    stats = cache.get_stats()
    assert stats["errors"] == NO_FAULT | {"lookup": 1}
    assert stats["misses_by_reason"] == {"error": 1}
    logged = capsys.readouterr().err
    assert "cache_error" in logged
    assert "StoreError" in logged
    assert "private" not in logged


def test_a_failing_store_does_not_break_store(embedder: WordEmbedder) -> None:
    cache = Memora(CacheConfig(), embedder=embedder, store=BrokenStore("put_many"))

    assert cache.store("q", SQL, 1) is None
    assert cache.get_stats()["errors"] == NO_FAULT | {"store": 1}


def test_failing_housekeeping_leaves_what_was_stored(embedder: WordEmbedder) -> None:
    cache = Memora(CacheConfig(), embedder=embedder, store=BrokenStore("maintain"))

    assert cache.store("q", SQL, 1) is not None
    assert cache.lookup("q", SQL).result == 1
    assert cache.get_stats()["errors"] == NO_FAULT | {"maintain": 1}


def test_a_failing_embedder_breaks_nothing_and_shows_in_health(clock: FakeClock) -> None:
    def embed(texts: list[str]) -> Any:
        if failing:
            raise ConnectionError("no route to the model")
        return np.ones((len(texts), 4))

    failing = False
    cache = Memora(CacheConfig(), embedder=FunctionEmbedder(embed, identity="e"), clock=clock)
    cache.store("known", SQL, 1)
    assert cache.health_check()["status"] == "healthy"
    failing = True

    assert cache.lookup("unknown", SQL).reason == "error"
    assert cache.store("unknown", SQL, 1) is None
    assert cache.lookup("known", SQL).is_hit  # the exact tier needs no embedder
    health = cache.health_check()
    assert health["status"] == "unhealthy"
    assert health["checks"]["embedding"]["ok"] is False
    assert "EmbedderError" in health["checks"]["embedding"]["error"]
    assert health["checks"]["database"]["ok"] is True
    assert health["metrics"]["recent_errors"] == NO_FAULT | {"lookup": 1, "store": 1}


@pytest.mark.parametrize(
    "vector",
    [[float("nan"), 0, 0], [0, 0, 0], [3, 1, 0], [1, 0], [[1, 0, 0]], ["a", "b", "c"]],
)
def test_vectors_that_are_not_unit_vectors_are_a_fault_not_an_answer(vector: Any) -> None:
    class Fixed:
        identity = "fixed"
        dimension = 3

        def embed(self, texts: Sequence[str]) -> list[Any]:
            return [vector for _ in texts]

    cache = Memora(CacheConfig(), embedder=Fixed())

    assert cache.store("q", SQL, 1) is None
    assert cache.lookup("q", SQL).reason == "error"


def test_vectors_may_be_of_any_numeric_type(embedder: WordEmbedder) -> None:
    class Wide:
        identity = "wide"
        dimension = embedder.dimension

        def embed(self, texts: Sequence[str]) -> list[Any]:
            return [np.asarray(vector, np.float64).tolist() for vector in embedder.embed(texts)]

    cache = Memora(CacheConfig(), embedder=Wide())
    cache.store("total sales in march for all regions", SQL, 1)

    assert cache.lookup("total sales in march for all regions please", SQL).reason == "semantic"


def test_a_corrupted_payload_is_a_counted_miss(embedder: WordEmbedder) -> None:
    store = MemoryStore(dimension=64)
    cache = Memora(CacheConfig(), embedder=embedder, store=store)
    entry_id = cache.store("q", SQL, {"a": [1, 2, 3]})
    assert entry_id is not None
    (slot,) = store._contents
    payload = bytearray(store._contents[slot].payload)
    payload[len(payload) // 2] ^= 0xFF
    store._contents[slot] = Content(bytes(payload))

    found = cache.lookup("q", SQL)

    assert (found.is_miss, found.reason) == (True, "error")
    assert "CorruptEntryError" in found.explanation
    assert cache.get_stats()["errors"]["lookup"] == 1


def test_health_has_the_documented_shape(cache: Memora, clock: FakeClock) -> None:
    cache.store("q", SQL, 1)

    health = cache.health_check()
    for check in health["checks"].values():
        assert 0 <= check.pop("duration_ms") < 2000

    assert health == {
        "status": "healthy",
        "checks": {
            "embedding": {"ok": True, "error": None},
            "database": {"ok": True, "error": None},
            "index": {"ok": True, "error": None, "details": "in RAM"},
            "error_rate": {"ok": True, "details": "Error rate: 0.0% (0/1)"},
            "scheduler": {"ok": True, "details": "not started"},
            "workers": {"ok": True, "details": "threads are free"},
            "breaker": {
                "ok": True,
                "details": "embedder closed, reads closed, searches closed, writes closed",
            },
        },
        "metrics": {
            "total_entries": 1,
            "recent_errors": NO_FAULT,
        },
        "timestamp": int(clock.now * 1000),
    }


def test_many_recent_errors_are_unhealthy(embedder: WordEmbedder) -> None:
    store = BrokenStore("get")
    cache = Memora(CacheConfig(), embedder=embedder, store=store)
    for _ in range(6):
        cache.lookup("q", SQL)
    store.failing.clear()

    health = cache.health_check()

    assert health["checks"]["database"]["ok"] is True
    rate = health["checks"]["error_rate"]
    assert (rate["ok"], rate["details"]) == (False, "Error rate: 100.0% (6/6)")
    assert health["status"] == "unhealthy"


def test_stats_have_the_documented_keys(cache: Memora) -> None:
    cache.store("q", SQL, 1)
    cache.lookup("q", SQL)
    cache.lookup("something else", SQL)

    stats = cache.get_stats()

    expected = {
        "total_entries": 1,
        "max_entries": 1000,
        "eviction_policy": "fifo",
        "threshold": 0.85,
        "embedding_dim": 64,
        "model": "words-1",
        "ttl_seconds": None,
        "storage": "memory://",
        "index_created": False,
        "hits": 1,
        "misses": 1,
        "total_requests": 2,
        "hit_rate": "50.00%",
        "hits_by_reason": {"exact": 1},
        "misses_by_reason": {"below_threshold": 1},
    }
    assert {key: stats[key] for key in expected} == expected
    assert stats["lookup_latency_ms"]["samples"] == 2
    assert set(stats["embedding_latency_ms"]) == {"samples", "p50", "p95", "p99"}
    json.dumps(stats)


def test_metrics_can_be_switched_off(embedder: WordEmbedder) -> None:
    cache = Memora(CacheConfig(enable_metrics=False), embedder=embedder)
    cache.store("q", SQL, 1)
    cache.lookup("q", SQL)

    stats = cache.get_stats()

    assert stats["total_requests"] == 0
    assert stats["lookup_latency_ms"]["samples"] == 0


def test_logs_carry_no_text_at_info_and_are_json_on_request(
    embedder: WordEmbedder, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = Memora(CacheConfig(json_logs=True, log_level="DEBUG"), embedder=embedder)
    cache.store("a private question", SQL, "a private answer")
    cache.lookup("a private question", SQL)

    events = [json.loads(line) for line in capsys.readouterr().err.splitlines()]

    assert [event["event"] for event in events] == ["cache_open", "cache_store", "cache_hit"]
    assert all(event["level"] == "debug" for event in events)
    assert "private" not in json.dumps(events)


def test_settings_that_do_nothing_yet_are_said_aloud(
    embedder: WordEmbedder, capsys: pytest.CaptureFixture[str]
) -> None:
    settings: dict[str, Any] = {"eviction_policy": "lru", "cleanup_interval_seconds": 60}
    Memora(CacheConfig(**settings), embedder=embedder)
    assert capsys.readouterr().err == ""

    settings |= {"storage_options": {"secret_access_key": "of-a-bucket"}}
    Memora(CacheConfig(durability="power", local_tier_bytes=1, **settings), embedder=embedder)

    logged = capsys.readouterr().err
    assert "settings_without_effect" in logged
    assert "durability" in logged
    assert "local_tier_bytes" in logged
    assert "storage_options" in logged
    assert "of-a-bucket" not in logged
    assert "eviction_policy" not in logged
    assert "cleanup_interval_seconds" not in logged


def test_a_closed_cache_says_so(embedder: WordEmbedder) -> None:
    with Memora(CacheConfig(), embedder=embedder) as cache:
        cache.store("q", SQL, 1)
    cache.close()

    with pytest.raises(ClosedError, match="closed"):
        cache.lookup("q", SQL)
    with pytest.raises(ClosedError):
        cache.explain("q", SQL)
    with pytest.raises(ClosedError):
        cache.store("q", SQL, 1)
    assert cache.health_check()["status"] == "unhealthy"


def test_threads_share_a_cache(cache: Memora) -> None:
    def work(thread: int) -> None:
        for i in range(50):
            query = f"question {i} of thread {thread}"
            assert cache.lookup(query, {"thread": thread}, 1.0).is_miss
            assert cache.store(query, {"thread": thread}, [thread, i]) is not None
            if cache.lookup(query, {"thread": thread}).result != [thread, i]:
                wrong.append(query)

    wrong: list[str] = []
    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert wrong == []
    stats = cache.get_stats()
    assert (stats["total_entries"], stats["hits"], stats["misses"]) == (400, 400, 400)


def test_a_dropped_cache_leaves_nothing_running(
    embedder: WordEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers_module, "_IDLE_SECONDS", 0.01)
    with threads_started() as started:
        cache = Memora(CacheConfig(), embedder=embedder)
        cache.store("q", SQL, 1)
    del cache
    gc.collect()

    assert started
    assert until(lambda: not any(thread.is_alive() for thread in started))


def test_a_bad_embedder_is_refused_at_the_door() -> None:
    with pytest.raises(ConfigError):
        Memora(CacheConfig(), embedder=3)  # type: ignore[arg-type]


def test_embedder_errors_say_what_failed() -> None:
    def embed(_: list[str]) -> Any:
        raise ConnectionError("no route")

    with pytest.raises(EmbedderError, match="no route"):
        Memora(CacheConfig(), embedder=embed)
