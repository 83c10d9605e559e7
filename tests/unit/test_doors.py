"""The first steps of a user: opening a cache, mistyped names, and how results look."""

from __future__ import annotations

import asyncio
import functools
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

from memora import CacheConfig, LookupResult, Memora, create_cached_decorator
from memora.config import Settings
from memora.embedders import CachedEmbedder, load_embedder
from memora.errors import ArgumentError, ConfigError, EmbedderError, MemoraError
from memora.metrics import Metrics
from memora.model import AvailabilityCheck, Candidate, Explanation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from doubles import WordEmbedder


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def cache(embedder: WordEmbedder) -> Iterator[Memora]:
    with Memora(CacheConfig(judge="off"), embedder=embedder) as opened:
        yield opened


# What a db_uri is.


@pytest.mark.parametrize(
    ("uri", "meant"),
    [
        *(
            (uri, "'memory://'")
            for uri in (
                *("memory", ":memory:", "Memory", "MEMORY://", "memory:", "memory:/", "memory//"),
                *("mem://", "mem", "ram://", "in-memory", " memory:// ", "memroy://x"),
            )
        ),
        *((uri, "'redis://'") for uri in ("redis", "redis:host", "Redis://h", "reddis://h")),
        *((uri, "'redis://'") for uri in ("redis//host", "redis:/host", "valkey://h")),
        *((uri, f"'redis://{uri}'") for uri in ("localhost:6379", "10.0.0.1:6379/0", "cache:1")),
        *((uri, "'s3://'") for uri in ("s3:/bucket", "s3a://bucket", "S3://bucket", "s3//bucket")),
        ("gcs://bucket", "'gs://'"),
        ("azure://container", "'az://'"),
        *((uri, "a directory is named by its path") for uri in ("sqlite://", "lancedb:///x")),
        (" ./cache", "'./cache', without the blanks"),
    ],
)
def test_a_uri_that_was_meant_otherwise_is_refused_and_makes_nothing(
    uri: str, meant: str, embedder: WordEmbedder, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="no other is supported") as refused:
        Memora(db_uri=uri, embedder=embedder)

    assert meant in str(refused.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("uri", ["./memory", "memory/x", "caches", "a//b", "./redis"])
def test_a_path_is_taken_as_it_stands(uri: str, embedder: WordEmbedder) -> None:
    with Memora(uri, embedder=embedder):
        assert Path(uri).is_dir()


def test_a_path_object_is_a_path_whatever_its_name(embedder: WordEmbedder) -> None:
    with Memora(Path("memory"), embedder=embedder) as cache:
        assert Path("memory").is_dir()
        assert cache.config.db_uri == "./memory"
    assert CacheConfig(db_uri=Path("x/y")).db_uri == "x/y"  # type: ignore[arg-type]


# What opens a cache.


def test_settings_are_keywords_of_a_cache(embedder: WordEmbedder) -> None:
    with Memora("./cache", ttl="1h", max_entries=7, embedder=embedder) as cache:
        assert (cache.config.db_uri, cache.config.ttl_seconds) == ("./cache", 3600)
        assert (cache.config.max_entries, cache.config.similarity_threshold) == (7, 0.85)
        cache.store("q", None, 1)
        assert cache.lookup("q").ttl_remaining_seconds == pytest.approx(3600, abs=60)


@pytest.mark.parametrize(
    ("ttl", "seconds"), [(60, 60), ("1h30m", 5400), (timedelta(minutes=2), 120), (None, None)]
)
def test_the_ttl_is_any_duration(ttl: Any, seconds: float | None, embedder: WordEmbedder) -> None:
    base = CacheConfig(ttl_seconds=5)
    assert Memora(base, ttl=ttl, embedder=embedder).config.ttl_seconds == seconds
    assert Memora(base, ttl_seconds=ttl, embedder=embedder).config.ttl_seconds == seconds


def test_keywords_come_before_the_environment(
    embedder: WordEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMORA_MAX_ENTRIES", "5")
    monkeypatch.setenv("MEMORA_TTL_SECONDS", "60")

    changed = Memora(ttl="2m", embedder=embedder).config

    assert (changed.max_entries, changed.ttl_seconds) == (5, 120)
    assert Memora(CacheConfig(), ttl="2m", embedder=embedder).config.max_entries == 1000


def test_keywords_change_a_copy_of_the_settings(embedder: WordEmbedder) -> None:
    base = CacheConfig(max_entries=3, storage_options={"region": "x"}, mode="serve")

    changed = Memora(base, max_bytes=10**9, eviction_policy="lru", embedder=embedder).config

    assert (base.max_bytes, base.eviction_policy) == (None, "fifo")
    assert (changed.max_entries, changed.max_bytes) == (3, 10**9)
    assert changed.eviction_policy == "lru"
    assert dict(changed.storage_options) == {"region": "x"}
    assert Memora(base, embedder=embedder).config is base


@pytest.mark.parametrize(
    ("given", "keywords", "said"),
    [
        (("./a",), {"db_uri": "./b"}, "the store is given twice"),
        ((), {"ttl": 1, "ttl_seconds": 1}, "ttl and ttl_seconds are one setting"),
        (
            ({"ttl": 1},),
            {},
            "config must be a CacheConfig, or the URI or path of a store, got",
        ),
        ((60,), {}, "got int; settings are keywords"),
        (("",), {}, "db_uri='': expected a text that is not blank"),
        ((), {"ttl": "soon"}, "ttl_seconds='soon': expected a number of seconds"),
        ((), {"ttl": -1}, "ttl_seconds=-1"),
        ((), {"eviction_policy": "mru"}, "eviction_policy='mru': expected fifo, lru"),
        ((), {"treshold": 1}, "unknown setting 'treshold'; did you mean 'similarity_threshold'"),
        ((), {"embeder": 1}, "did you mean 'embedder', an argument of Memora"),
        ((), {"mode": "shadow"}, "shadow_log=None"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    given: tuple[Any, ...], keywords: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=said):
        Memora(*given, **keywords)
    assert list(tmp_path.iterdir()) == []


def test_every_setting_is_a_keyword_of_a_cache() -> None:
    named = set(Settings.__annotations__) | {"eviction_policy"}
    assert named == {"ttl", *CacheConfig.model_fields}


# What an unknown name may mean.


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        *(("ttl", "ttl_seconds"), ("TTL_SECONDS", "ttl_seconds"), ("expire", "ttl_seconds")),
        *((name, "similarity_threshold") for name in ("threshold", "similarity", "min-score")),
        *((name, "model_name") for name in ("model", "embedding_model", "model_nam")),
        *((name, "db_uri") for name in ("uri", "url", "path", "cache_dir", "redis_url")),
        *((name, "max_entries") for name in ("max_size", "maxsize", "capacity", "max_entires")),
        *(("table", "table_name"), ("namespace", "table_name"), ("policy", "eviction_policy")),
        *(("timeout", "lookup_timeout_seconds"), ("stale_ttl", "stale_ttl_seconds")),
    ],
)
def test_a_name_of_another_cache_is_told_by_ours(name: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=f"; did you mean '{meant}'"):
        CacheConfig(**{name: 1})


@pytest.mark.parametrize("name", ["colour", "x", "max", "", "ä"])
def test_a_name_like_none_gets_no_suggestion(name: str) -> None:
    with pytest.raises(ConfigError) as refused:
        CacheConfig(**{name: 1})
    assert "did you mean" not in str(refused.value)


@pytest.mark.parametrize(
    ("option", "meant"),
    [
        *(("threshold", "similarity_threshold"), ("ttl_seconds", "ttl"), ("query", "query_param")),
        *(("sliding_ttl", "sliding"), ("exclude", "ignore"), ("single_flght", "single_flight")),
    ],
)
def test_an_unknown_option_of_the_decorator_is_told_by_ours(
    option: str, meant: str, cache: Memora
) -> None:
    for decorate in (cache.cached, functools.partial(create_cached_decorator, cache)):
        with pytest.raises(
            ArgumentError, match=f"'{option}' is no option of cached; did you mean '{meant}'"
        ):
            decorate(**{option: 0.9})
    with pytest.raises(ArgumentError, match="'colour' is no option of cached: expected auto_"):
        cache.cached(colour=1)


def test_an_unknown_option_of_a_call_is_told_by_ours(cache: Memora) -> None:
    with pytest.raises(ArgumentError, match="no option of a call; did you mean 'ttl'"):
        cache.get_or_compute("q", None, int, ttl_seconds=3)  # type: ignore[call-arg]
    with pytest.raises(ArgumentError, match="no option of a call; did you mean 'bypass'"):
        cache.get_or_compute("q", None, int, no_cache=True)  # type: ignore[call-arg]


# A model's name.


@pytest.mark.parametrize(
    "name",
    [
        *("all-minilm-l6-v2", "sentence-transformers/all-MiniLM-L6", "all_MiniLM_L6_v2"),
        *("all-MiniLM-L6-v3", "someone/all-MiniLM-L12-v2", "all-MinLM-L6-v2"),
    ],
)
def test_a_name_like_the_packaged_models_is_told(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(*_: Any, **__: Any) -> str:
        raise OSError("no route\nand a second line")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    with pytest.raises(EmbedderError) as refused:
        load_embedder(name, use_onnx=True)

    said = str(refused.value)
    assert "is not packaged, and could not be fetched from the hub (no route and a" in said
    assert "did you mean 'all-MiniLM-L6-v2', which is packaged and needs no network?" in said
    with pytest.raises(EmbedderError) as other:
        load_embedder("intfloat/e5-small", use_onnx=True)
    assert "did you mean" not in str(other.value)


# What computes.


async def _ask() -> int:
    return 1


class _Async:
    async def __call__(self) -> int:
        return 1

    async def method(self) -> int:
        return 1


@pytest.mark.parametrize(
    "compute",
    [_ask, lambda: _ask() or 0, functools.partial(_ask), _Async(), _Async().method],
    ids=["function", "lambda", "partial", "object", "method"],
)
@pytest.mark.parametrize("bypass", [False, True])
def test_an_async_function_is_refused_where_nobody_awaits(
    compute: Any, cache: Memora, *, bypass: bool
) -> None:
    with pytest.raises(ArgumentError, match="compute is async: await aget_or_compute"):
        cache.get_or_compute("q", None, compute, bypass=bypass)
    assert cache.lookup("q").is_miss
    assert asyncio.run(cache.aget_or_compute("q", None, compute)) == 1


@pytest.mark.parametrize("bypass", [False, True])
def test_a_plain_function_is_refused_where_it_is_awaited(cache: Memora, *, bypass: bool) -> None:
    with pytest.raises(ArgumentError, match=r"must be async, .* returned a int: call get_or"):
        asyncio.run(cache.aget_or_compute("q", None, lambda: 1, bypass=bypass))  # type: ignore[arg-type,return-value]


def test_what_is_no_function_is_refused_before_it_is_needed(cache: Memora) -> None:
    cache.store("q", None, 1)
    for value in (_ask(), "text", None):
        with pytest.raises(ArgumentError, match="compute must be a function, called without"):
            cache.get_or_compute("q", None, value)  # type: ignore[arg-type]
        with pytest.raises(ArgumentError, match="compute must be a function, called without"):
            asyncio.run(cache.aget_or_compute("q", None, value))  # type: ignore[arg-type]


def test_a_decorated_function_may_return_a_coroutine_as_before(cache: Memora) -> None:
    @cache.cached
    def lazily(query: str) -> Any:
        return _ask()

    assert asyncio.run(lazily("q")) == 1


# The decorator as a function.


def test_a_function_is_decorated_with_options_at_once(cache: Memora) -> None:
    calls = []

    def ask(prompt: str, user: str) -> str:
        calls.append(prompt)
        return prompt.upper()

    cached = cache.cached(ask, query_param="prompt", ignore=["user"])

    assert [cached("a", "u"), cached("a", user="v")] == ["A", "A"]
    assert calls == ["a"]
    assert cache.cached("prompt", ("user",))(ask)("b", "u") == "B"
    assert cache.cached(query_param="prompt")(ask)("c", "u") == "C"


def test_the_query_is_named_once(cache: Memora) -> None:
    with pytest.raises(ArgumentError, match="query_param is given twice: 'a' and 'b'"):
        cache.cached("a", query_param="b")
    with pytest.raises(ArgumentError, match="query_param 'quest' is not one of them"):
        cache.cached(lambda query: query, query_param="quest")


# Statistics.


def test_the_share_of_hits_is_also_a_number(cache: Memora) -> None:
    assert (cache.get_stats()["hit_rate"], cache.get_stats()["hit_ratio"]) == ("0.00%", 0.0)
    cache.lookup("q")
    cache.store("q", None, 1)
    cache.lookup("q")
    cache.lookup("q")
    stats = cache.get_stats()
    assert (stats["hit_rate"], stats["hit_ratio"]) == ("66.67%", pytest.approx(2 / 3))


class _Slow:
    """An embedder that takes long to load, by a clock that it moves."""

    identity, dimension = "slow", 2

    def __init__(self, clock: Any) -> None:
        self.loaded, self.clock = 0, clock

    def warm_up(self) -> None:
        if not self.loaded:
            self.loaded += 1
            self.clock.now += 100.0

    def embed(self, texts: Any, /) -> list[Any]:
        assert self.loaded
        self.clock.now += 0.25
        return [np.array([1, 0], np.float32) for _ in texts]


def test_loading_the_model_is_no_latency(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = type("Clock", (), {"now": 0.0})()
    monkeypatch.setattr("memora.metrics.time.perf_counter", lambda: clock.now)
    model = _Slow(clock)
    with Memora(CacheConfig(lookup_timeout_seconds=None, judge="off"), embedder=model) as cache:
        cache.lookup("one")
        cache.lookup("two")
        stats = cache.get_stats()

    assert model.loaded == 1
    for name in ("lookup_latency_ms", "embedding_latency_ms"):
        assert stats[name]["samples"] == 2
        assert stats[name]["p99"] == pytest.approx(250, rel=0.05)
    assert stats["stage_latency_ms"]["lookup"]["embed"]["p99"] == pytest.approx(250, rel=0.05)


def test_a_model_that_cannot_be_loaded_is_tried_again() -> None:
    class InvalidRow(_Slow):
        def warm_up(self) -> None:
            self.clock.now += 1
            if self.clock.now < 2:
                raise EmbedderError("not yet")
            super().warm_up()

    warmed: list[float] = []
    clock = type("Clock", (), {"now": 0.0})()
    embedder = CachedEmbedder(InvalidRow(clock), 0, warmed=warmed.append)
    with pytest.raises(EmbedderError, match="not yet"):
        embedder.embed(["q"])
    assert warmed == []
    assert len(embedder.embed(["q"])) == len(embedder.embed(["r"])) == 1
    assert len(warmed) == 1


def test_a_latency_of_which_all_is_left_out_is_none() -> None:
    metrics = Metrics()
    started = metrics.timings.now()
    metrics.leave_out(1000)
    metrics.timings.lookup(metrics.timings.now() - started)
    durations = metrics.read().distribution("lookup")
    assert (durations.count, durations.sum) == (1, 0)


# Invalidation.


def test_an_invalidation_without_criteria_says_so_once(
    cache: Memora, capsys: pytest.CaptureFixture[str]
) -> None:
    cache.store("q", None, 1)
    assert (cache.invalidate(), cache.invalidate(), cache.invalidate(dry_run=True)) == (0, 0, [])
    assert cache.lookup("q").is_hit
    logged = capsys.readouterr().err
    assert logged.count("invalidate_without_criteria") == 1
    assert "clear() to delete all" in logged


# How it looks.


def test_a_cache_shows_its_settings_and_no_secret(embedder: WordEmbedder) -> None:
    with Memora(
        ttl="1h", storage_options={"key": "s3cret"}, log_level="ERROR", embedder=embedder
    ) as cache:
        shown = repr(cache)
        assert shown.startswith("<Memora db_uri='memory://', model='words-1', ")
        assert "ttl_seconds=3600.0" in shown
        assert "max_entries" not in shown  # the default
        assert "s3cret" not in shown
    assert repr(cache).endswith(", closed>")


HOSTILE = "<script>alert('x')</script> & \x1b[31m\n"


@pytest.mark.parametrize(
    "result",
    [
        *(None, False, 0, "", [], {}, HOSTILE, HOSTILE * 10**5, 10**5000, b"x" * 10**6),
        *(list(range(10**6)), dict.fromkeys(range(10**6), HOSTILE), set(range(10**6))),
        *({"a": {"b": {"c": {"d": {"e": {"f": HOSTILE}}}}}}, np.zeros((10**3, 10**3))),
        *(pd.DataFrame({"a": [1]}), object(), Ellipsis),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_result_is_shown_in_short_and_on_one_line(result: Any) -> None:
    found = LookupResult(is_hit=True, reason="exact", explanation="why", result=result)
    shown, html = repr(found), found._repr_html_()

    assert shown.startswith("LookupResult(is_hit=True, reason='exact', explanation='why', result=")
    assert len(shown) < 300
    assert shown.isprintable()
    assert len(html) < 20_000
    assert "<script" not in html
    assert ">result<" in html


def test_what_says_nothing_is_not_shown() -> None:
    missed = LookupResult(is_hit=False, reason="no_candidate", explanation="nothing")
    assert repr(missed) == (
        "LookupResult(is_hit=False, reason='no_candidate', explanation='nothing')"
    )
    assert repr(AvailabilityCheck(available=False)) == "AvailabilityCheck(available=False)"


def test_an_object_that_cannot_be_shown_does_not_break_what_holds_it() -> None:
    class Rude:
        shape = property(lambda self: 1 / 0)

        def __repr__(self) -> str:
            raise MemoraError("no")

    found = LookupResult(is_hit=True, reason="exact", explanation="", result=Rude())
    assert "Rude" in repr(found)
    assert "Rude" in found._repr_html_()


def test_an_explanation_is_a_table_with_what_was_asked_escaped() -> None:
    near = Candidate(entry_id="e", query=HOSTILE, similarity=0.5, cosine=0.6, age_seconds=1.0)
    told = Explanation(
        query=HOSTILE,
        is_hit=False,
        reason="below_threshold",
        explanation=HOSTILE,
        threshold=0.85,
        candidates=(near, near),
    )
    html = told._repr_html_()
    assert "&lt;script&gt;" in html
    assert "<script" not in html
    assert len(repr(told)) < 1000
