"""What is counted, and how exactly durations are told."""

from __future__ import annotations

import json
import math
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from doubles import FakeClock, WordEmbedder
from hypothesis import given
from hypothesis import strategies as st

from memora import CacheConfig, Memora
from memora.embedders import FunctionEmbedder
from memora.errors import ClosedError
from memora.metrics import BOUNDS, OPERATIONS, UNTIMED, HealthCounters, Histogram, Metrics, stats_of
from memora.model import Evidence, LookupResult

if TYPE_CHECKING:
    from memora.reading import Distribution

SQL = {"agent": "sql"}
LOOKUP_STAGES = {"embed", "search", "judge", "payload"}


@pytest.fixture
def cache(embedder: WordEmbedder, clock: FakeClock) -> Memora:
    return Memora(CacheConfig(judge="off"), embedder=embedder, clock=clock)


def read(*seconds: float) -> Distribution:
    histogram = Histogram()
    for one in seconds:
        histogram.add(one)
    return histogram.read()


@given(
    st.lists(st.floats(1.01e-6, 1e3), min_size=1, max_size=3000),
    st.sampled_from([0.01, 0.5, 0.95, 0.99, 1.0]),
)
def test_a_quantile_is_within_two_and_a_half_percent(seconds: list[float], share: float) -> None:
    exact = float(np.quantile(seconds, share, method="inverted_cdf"))

    assert read(*seconds).quantile(share) == pytest.approx(exact, rel=0.026)


def test_durations_beyond_the_buckets_are_counted_and_told_as_the_limit() -> None:
    found = read(0.0, -1.0, 2000.0, math.inf)

    assert found.count == 4
    assert found.quantile(0.99) == 1000.0
    assert found.quantile(0.25) == BOUNDS[0] / 2


def test_nothing_has_no_quantile() -> None:
    assert (read().quantile(0.5), read().count, read().sum) == (None, 0, 0.0)


def test_the_usual_bounds_of_exporters_are_bounds() -> None:
    found = read(0.0005, 0.0011, 0.3)

    assert [found.up_to(bound) for bound in (0.0005, 0.001, 0.0025, 0.01, 0.25, 2.5)] == [
        *(1, 1, 2, 2, 2, 3)
    ]
    with pytest.raises(ValueError, match="no bound"):
        found.up_to(0.0012345)


def test_a_histogram_takes_constant_memory_and_loses_nothing_between_threads() -> None:
    histogram, each = Histogram(), 20_000

    def add() -> None:
        for _ in range(each):
            histogram.add(0.002)

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert histogram.read().count == 4 * each
    assert histogram.read().sum == pytest.approx(4 * each * 0.002)
    assert histogram._new == []


def test_the_error_rate_is_of_the_last_five_minutes() -> None:
    clock = FakeClock()
    vitals = HealthCounters(clock=clock)
    for _ in range(3):
        vitals.count_store()
    vitals.count_fault("store")
    assert vitals.read().number("error_ratio") == 0.25

    clock.advance(200)
    vitals.count_store()
    none = dict.fromkeys(OPERATIONS, 0)
    assert vitals.lately() == (5, none | {"store": 1}, 200)
    clock.advance(110)
    assert vitals.lately() == (1, none, 310)
    clock.advance(1e6)
    assert vitals.read().number("error_ratio") == 0.0
    assert vitals.read().number("errors", "store") == 1


def test_an_error_rate_survives_a_clock_that_goes_back() -> None:
    clock = FakeClock()
    vitals = HealthCounters(clock=clock)
    vitals.count_fault("store")
    clock.advance(-1000)
    vitals.count_store()

    lately = vitals.lately()
    assert (lately.failed, lately.operations) == (1, 2)


def test_hits_are_told_by_tier_and_misses_by_reason(cache: Memora, clock: FakeClock) -> None:
    cache.store("total sales in june", SQL, 1, ttl=60)
    cache.lookup("total sales in june", SQL)
    cache.lookup("total sales in june please", SQL, 0.5)
    cache.lookup("something else", SQL)
    cache.lookup("total sales in june", {"agent": "other"})
    clock.advance(60)
    cache.lookup("total sales in june", SQL)

    stats = cache.get_stats()

    assert stats["hits_by_reason"] == {"exact": 1, "semantic": 1}
    assert stats["misses_by_reason"] == {"below_threshold": 1, "expired": 1, "no_candidate": 1}
    assert (stats["hits"], stats["misses"], stats["total_requests"]) == (2, 3, 5)


def test_all_reasons_are_there_from_the_beginning_for_exporters() -> None:
    reading = Metrics().read()

    (lookups,) = (one for one in reading.counters if one.name == "lookups")
    assert lookups.values["hit", "exact"] == 0
    assert lookups.values["miss", "timeout"] == 0
    assert stats_of(reading)["misses_by_reason"] == {}


def test_a_refusal_is_told_by_the_first_evidence() -> None:
    metrics = Metrics()
    evidence = (Evidence("dates", "Q4 / Q3"), Evidence("numbers", "4 / 3"))
    for reason in ("below_threshold", "below_threshold", "expired"):
        metrics.count_lookup(
            LookupResult(is_hit=False, reason=reason, explanation="", evidence=evidence)  # type: ignore[arg-type]
        )

    assert stats_of(metrics.read())["refusals_by_kind"] == {"dates": 2}


def test_a_stale_hit_is_a_hit_and_stale(cache: Memora, clock: FakeClock) -> None:
    cache.store("rate", None, 1.1, ttl=60, stale_ttl=60)
    clock.advance(90)
    cache.lookup("rate")

    stats = cache.get_stats()

    assert (stats["hits"], stats["stale_hits"]) == (1, 1)


@pytest.mark.parametrize("where", ["memory://", "disk"])
def test_who_left_is_told_by_why(where: str, embedder: WordEmbedder, tmp_path: Path) -> None:
    clock = FakeClock()
    config = CacheConfig(
        db_uri=where if "://" in where else str(tmp_path / where),
        max_entries=3,
        eviction_policy="lru",
    )
    with Memora(config, embedder=embedder, clock=clock) as cache:
        for number in range(5):
            cache.store(f"q{number}", SQL, number)
        cache.store("q5", SQL, 5, ttl=60)
        cache.invalidate("q5", SQL)
        cache.store("q6", SQL, 6, ttl=60)
        clock.advance(60)
        cache.cleanup_expired()
        cache.store("q7", SQL, 7, tags="doc:1")
        cache.outdate("doc:1")
        cache.clear()

        stats = cache.get_stats()

    assert stats["evictions_by_policy"] == {"lru": 3}
    assert stats["removals_by_reason"] == {"expired": 2, "invalidated": 1, "cleared": 2}
    assert stats["outdated_tags"] == 1
    assert stats["total_entries"] == 0


@pytest.mark.parametrize("where", ["memory://", "disk"])
def test_sizes_follow_the_entries(where: str, embedder: WordEmbedder, tmp_path: Path) -> None:
    config = CacheConfig(db_uri=where if "://" in where else str(tmp_path / where))
    with Memora(config, embedder=embedder) as cache:
        empty = cache.get_stats()
        cache.store("q", SQL, "x" * 1000)
        cache.store("q", SQL, "x" * 2000)
        full = cache.get_stats()
        cache.clear()
        again = cache.get_stats()

    assert empty["entry_bytes"] == again["entry_bytes"] == 0
    assert 2000 < full["entry_bytes"] < 3000
    assert full["index_bytes"] >= 64 * 4
    if where == "memory://":
        assert 2000 < full["payload_bytes"] < full["entry_bytes"]
        assert again["payload_bytes"] == 0
    else:
        assert full["payload_bytes"] is None


def test_what_hits_saved_is_added_up(cache: Memora) -> None:
    cache.store("a", SQL, 1, {"tokens": 812, "cost": 0.25, "seconds": 1.5})
    cache.store("b", SQL, 2, {"tokens": 100})
    cache.store("c", SQL, 3)
    for query in ("a", "a", "b", "c", "d"):
        cache.lookup(query, SQL)

    assert cache.get_stats()["saved"] == {
        "calls": 4,
        "seconds": 3.0,
        "tokens": 1724,
        "cost": 0.5,
    }


@pytest.mark.parametrize("said", ["many", True, None, [3], -1, 1e300, 10**400])
def test_metadata_that_means_something_else_saves_nothing(cache: Memora, said: Any) -> None:
    cache.store("a", SQL, 1, {"tokens": said, "cost": said})
    assert cache.lookup("a", SQL).is_hit

    saved = cache.get_stats()["saved"]

    assert (saved["calls"], saved["tokens"], saved["cost"]) == (1, 0, 0)


def test_a_cached_call_notes_how_long_it_took(cache: Memora) -> None:
    cache.get_or_compute("a", SQL, lambda: 1)
    cache.get_or_compute("b", SQL, lambda: 1, metadata={"seconds": 2.5})
    measured = cache.lookup("a", SQL).metadata["seconds"]
    assert cache.get_or_compute("b", SQL, lambda: 2) == 1

    stats = cache.get_stats()

    assert measured > 0
    assert stats["saved"]["seconds"] == pytest.approx(measured + 2.5)
    assert stats["compute_latency_ms"]["samples"] == 2


def test_each_stage_that_was_passed_through_is_timed(cache: Memora) -> None:
    def samples(operation: str) -> dict[str, int]:
        stages = cache.get_stats()["stage_latency_ms"][operation]
        return {name: found["samples"] for name, found in stages.items() if found["samples"]}

    cache.lookup("q one", SQL)
    assert samples("lookup") == {"embed": 1, "search": 1, "judge": 1}
    cache.store("q one", SQL, 1)
    assert samples("store") == {"encode": 1, "embed": 1, "put": 1}
    cache.lookup("q one", SQL)
    assert samples("lookup") == {"embed": 1, "search": 1, "judge": 1, "payload": 1}
    cache.lookup_many(["q one", "q two", "q three"], SQL)
    assert samples("lookup") == {"embed": 2, "search": 3, "judge": 3, "payload": 2}
    cache.check_availability("q two", SQL)
    cache.explain("q two", SQL)
    assert samples("lookup") == {"embed": 2, "search": 3, "judge": 3, "payload": 2}

    stats = cache.get_stats()
    assert stats["lookup_latency_ms"]["samples"] == 3
    assert stats["store_latency_ms"]["samples"] == 1
    assert stats["embedding_latency_ms"]["samples"] == 2
    assert set(stats["stage_latency_ms"]["lookup"]) == LOOKUP_STAGES


def test_a_batch_that_fails_counts_each_of_it_and_is_logged_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def failing(_: list[str]) -> Any:
        raise RuntimeError

    cache = Memora(CacheConfig(), embedder=FunctionEmbedder(failing, identity="f", dimension=8))

    cache.lookup_many(["q one", "q two", "q three"])
    cache.store_many([("q one", None, 1), ("q two", None, 2), ("q three", None, object())])

    stats = cache.get_stats()
    assert (stats["errors"]["lookup"], stats["misses_by_reason"]) == (3, {"error": 3})
    assert (stats["errors"]["store"], stats["results_not_stored"]) == (2, 1)
    assert stats["error_rate"] == pytest.approx(5 / 6)
    assert capsys.readouterr().err.count("cache_error ") == 2


def test_switched_off_only_faults_are_counted(embedder: WordEmbedder) -> None:
    cache = Memora(CacheConfig(enable_metrics=False), embedder=embedder)
    cache.store("q", SQL, 1)
    cache.lookup("q", SQL)
    cache._core.report("lookup", RuntimeError("broken"))

    stats = cache.get_stats()

    assert cache._ports.timings is UNTIMED
    assert not isinstance(cache._metrics, Metrics)
    assert (stats["total_requests"], stats["saved"]["calls"]) == (0, 0)
    assert stats["stage_latency_ms"] == {"lookup": {}, "store": {}}
    assert stats["errors"]["lookup"] == 1
    assert stats["error_rate"] == pytest.approx(1 / 3)
    assert stats["total_entries"] == 1


def test_a_reading_does_not_change_and_stats_are_json(cache: Memora) -> None:
    before = cache.read_metrics()
    cache.store("q", SQL, 1)
    cache.lookup("q", SQL)

    assert before.number("lookups", "hit", "exact") == 0
    assert cache.read_metrics().number("lookups", "hit", "exact") == 1
    assert cache.read_metrics().distribution("lookup").count == 1
    json.dumps(cache.get_stats())


def test_a_forked_child_begins_at_nothing() -> None:
    metrics = Metrics()
    metrics.count_store()
    metrics.timings.store(0.1)
    with metrics._lock:  # as another thread of the parent might have had it
        metrics.reinit_after_fork()

    assert metrics.read().number("stores", "stored") == 0
    assert metrics.read().distribution("store").count == 0


def test_a_store_that_cannot_tell_its_size_has_none(cache: Memora) -> None:
    def fail() -> None:
        raise OSError("gone")

    cache._ports.store.measure = fail  # type: ignore[attr-defined]

    assert cache.get_stats()["entry_bytes"] is None


def test_a_closed_cache_has_no_metrics(cache: Memora) -> None:
    cache.close()

    with pytest.raises(ClosedError):
        cache.read_metrics()


def test_every_key_of_the_statistics_is_documented(cache: Memora) -> None:
    page = (Path(__file__).parents[2] / "docs" / "operations.md").read_text("utf-8")
    table = page.partition("| key | says |")[2].partition("\n\n")[0]

    assert [key for key in cache.get_stats() if f"`{key}`" not in table] == []
