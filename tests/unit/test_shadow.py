"""Shadow mode: everything is looked up, nothing is served, and a log says what would have been."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from doubles import FakeClock, WordEmbedder
from hypothesis import given
from hypothesis import strategies as st

from memora import CacheConfig, Memora, shadow
from memora.errors import ArgumentError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

QUERY, NEAR, FAR = "what was revenue in march", "what was our revenue in march", "bake me a bread"


def opened(
    path: Path, same_answer: Callable[[Any, Any], object] | None = None, **settings: Any
) -> Memora:
    config = CacheConfig(mode="shadow", shadow_log=str(path), judge="off", **settings)
    return Memora(config, embedder=WordEmbedder(), same_answer=same_answer)


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def ask(cache: Memora, query: str, answer: Any, context: dict[str, Any] | None = None) -> str:
    """Look up and store, as an application does; return why it was a miss."""
    found = cache.lookup(query, context)
    assert not found.is_hit
    assert found.result is None
    cache.store(query, context, answer)
    return found.reason


def flush(cache: Memora) -> None:
    """Wait until all is compared."""
    assert cache._shadow is not None
    cache._shadow.close()


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "shadow.jsonl"


def test_misses_and_stages_are_counted_as_in_earnest(log: Path, clock: FakeClock) -> None:
    with Memora(
        CacheConfig(mode="shadow", shadow_log=str(log), judge="off"),
        embedder=WordEmbedder(),
        clock=clock,
    ) as cache:
        cache.store(QUERY, None, 1, ttl=60)
        assert ask(cache, FAR, 1) == "below_threshold"
        assert ask(cache, QUERY, 1) == "shadow"
        clock.advance(61)
        cache.store(QUERY, None, 1, ttl=60)
        clock.advance(61)
        assert cache.lookup(QUERY, None, 1.0).reason == "expired"
        stages = cache.get_stats()["stage_latency_ms"]["lookup"]

    assert {name: found["samples"] for name, found in stages.items() if found["samples"]} == {
        "embed": 2,
        "search": 2,
        "judge": 2,
    }


def test_what_would_have_been_served_is_logged_beside_what_came(log: Path) -> None:
    with opened(log, similarity_threshold=0.5) as cache:
        reasons = [
            ask(cache, QUERY, "7 M"),
            ask(cache, QUERY, "7 M"),
            ask(cache, QUERY, "8 M"),
            ask(cache, NEAR, "8 M"),
            ask(cache, FAR, "no"),
            ask(cache, QUERY, "elsewhere", {"tenant": "b"}),
        ]

    shadowed = ["shadow"] * 3
    assert reasons == ["no_candidate", *shadowed, "below_threshold", "no_candidate"]
    found = lines_of(log)
    assert [line.get("same") for line in found] == [None, True, False, True, False, None]
    assert [line.get("similarity") for line in found[:3]] == [None, 1.0, 1.0]
    assert 0.5 < found[3]["similarity"] < 1
    assert found[4]["similarity"] < 0.5
    assert found[3]["candidate_key"] == found[0]["query_key"] != found[3]["query_key"]
    assert {(line["model"], line["judge"]) for line in found} == {("words-1", "off")}
    assert "revenue" not in log.read_text("utf-8")


def test_texts_are_logged_only_when_asked(log: Path) -> None:
    with opened(log, shadow_log_texts=True) as cache:
        ask(cache, QUERY, 1)
        ask(cache, NEAR, 1)

    first, second = lines_of(log)
    assert (first["query"], "candidate" in first) == (QUERY, False)
    assert (second["query"], second["candidate"]) == (NEAR, QUERY)


def test_no_way_in_serves_anything(log: Path) -> None:
    calls: list[int] = []

    def compute() -> int:
        calls.append(1)
        return len(calls)

    async def compute_later() -> int:
        return compute()

    async def ask_all(cache: Memora) -> list[Any]:
        found = await cache.alookup(QUERY)
        return [found.is_hit, await cache.aget_or_compute(QUERY, None, compute_later)]

    with opened(log) as cache:
        cache.store(QUERY, None, "stored")

        @cache.cached()
        def answer(query: str) -> int:
            assert query
            return compute()

        assert [one.is_hit for one in cache.lookup_many([(QUERY, None), (NEAR, None)])] == [
            False,
            False,
        ]
        assert [cache.get_or_compute(QUERY, None, compute) for _ in range(2)] == [1, 2]
        assert [answer(QUERY), answer(QUERY)] == [3, 4]
        assert anyio.run(ask_all, cache) == [False, 5]
        assert not cache.check_availability(QUERY).available
        assert cache.get_stats()["hits"] == 0
    found = lines_of(log)
    assert len(found) == 5
    assert not any(line.get("same") for line in found)


def test_the_applications_own_comparison_decides(log: Path) -> None:
    def alike(one: Any, other: Any) -> bool:
        return str(one["answer"]).lower() == str(other["answer"]).lower()

    with opened(log, alike) as cache:
        ask(cache, QUERY, {"answer": "Yes", "took": 1})
        ask(cache, QUERY, {"answer": "YES", "took": 2})
        ask(cache, QUERY, {"answer": "no", "took": 3})

    assert [line["same"] for line in lines_of(log)[1:]] == [True, False]


def test_a_comparison_that_fails_costs_its_line_and_nothing_else(
    log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails_once(one: Any, other: Any) -> bool:
        if other == 2:
            raise ValueError("secret text")
        return bool(one == other)

    with opened(log, fails_once) as cache:
        for answer in (1, 2, 2.5, 2.5):
            ask(cache, QUERY, answer)

    assert [line.get("same") for line in lines_of(log)] == [None, False, True]
    said = capsys.readouterr().err
    assert "cache_error" in said
    assert "shadow" in said
    assert "secret" not in said


def test_nobody_waits_for_a_comparison(log: Path) -> None:
    go = threading.Event()

    def hangs(one: Any, other: Any) -> bool:
        assert go.wait(60)
        return bool(one == other)

    with opened(log, hangs, lookup_timeout_seconds=None) as cache:
        for _ in range(20):
            ask(cache, QUERY, 1)  # would never come back if it waited
        assert len(lines_of(log)) <= 1
        go.set()

    assert [line.get("same") for line in lines_of(log)] == [None] + [True] * 19


def test_a_log_that_cannot_be_written_any_more_is_told_of_and_the_cache_goes_on(
    log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with opened(log) as cache:
        ask(cache, QUERY, 1)
        flush(cache)
        log.unlink()
        log.mkdir()
        ask(cache, QUERY, 1)
        assert cache.lookup(QUERY).reason == "shadow"

    assert "IsADirectoryError" in capsys.readouterr().err


def test_a_log_that_was_moved_away_is_begun_anew(log: Path) -> None:
    with opened(log) as cache:
        ask(cache, QUERY, 1)
        flush(cache)
        log.rename(log.with_suffix(".1"))
        ask(cache, QUERY, 1)

    assert len(lines_of(log)) == len(lines_of(log.with_suffix(".1"))) == 1


def test_a_log_ends_at_its_size(log: Path) -> None:
    with opened(log, shadow_log_bytes=500) as cache:
        for _ in range(20):
            ask(cache, QUERY, 1)

    assert 0 < log.stat().st_size <= 500
    assert lines_of(log)


def test_a_lookup_that_stores_nothing_is_not_logged_and_what_waits_is_bounded(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shadow, "_PENDING", 2)
    with opened(log) as cache:
        for query in (QUERY, NEAR, FAR):
            cache.lookup(query)
        for query in (QUERY, NEAR, FAR):
            cache.store(query, None, 1)

    assert len(lines_of(log)) == 2  # the oldest was forgotten


def test_the_bytes_of_what_waits_are_bounded(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadow, "_HELD_BYTES", 1000)
    with opened(log, lambda one, other: one == other) as cache:
        for size in (600, 600, 100, 100):  # of the second both together are too much
            ask(cache, QUERY, "x" * size)
            flush(cache)

    assert [line.get("same") for line in lines_of(log)] == [None, False, True]


@pytest.mark.parametrize("path", ["missing/shadow.jsonl", "."])
def test_a_log_that_cannot_be_written_is_refused_at_the_door(tmp_path: Path, path: str) -> None:
    with pytest.raises(ConfigError, match=r"shadow_log=.*expected a file that can be written"):
        opened(tmp_path / path)


def test_shadow_mode_needs_a_log_and_a_function(log: Path) -> None:
    with pytest.raises(ConfigError, match="mode='shadow' and shadow_log=None"):
        CacheConfig(mode="shadow")
    with pytest.raises(ArgumentError, match="same_answer='equal': expected a function"):
        opened(log, "equal")  # type: ignore[arg-type]


TEXTS = st.lists(st.sampled_from([*QUERY.split(), "our", "may"]), min_size=1)


@given(st.lists(TEXTS, min_size=1, max_size=12), st.floats(0.05, 1))
def test_what_a_threshold_would_serve_is_what_it_serves(
    tmp_path: Path, queries: list[list[str]], threshold: float
) -> None:
    log = tmp_path / "shadow.jsonl"
    log.unlink(missing_ok=True)
    texts = [" ".join(words) for words in queries]
    with opened(log) as cache:
        for text in texts:
            ask(cache, text, text)
    serving = Memora(CacheConfig(judge="off"), embedder=WordEmbedder())
    hits = []
    for text in texts:
        hits.append(serving.lookup(text, similarity_threshold=threshold).is_hit)
        serving.store(text, None, text)

    assert [line.get("similarity", 0) >= threshold for line in lines_of(log)] == hits
