"""One call is one lookup with one outcome: counted and logged once, whatever it goes through."""

from __future__ import annotations

import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import pytest
from doubles import FakeClock, WordEmbedder, until
from engine import SIDES, FaultyStore, SharedFaultyStore, Side, by_another, raising

from memora import CacheConfig, Memora
from memora.errors import StoreError
from memora.stores.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


class Unstorable:
    """A result that no codec knows."""


class Counted:
    """A cache, and what it has said of its lookups."""

    def __init__(self, capsys: pytest.CaptureFixture[str], **settings: Any) -> None:
        self.clock, self.capsys = FakeClock(), capsys
        self.store = FaultyStore(MemoryStore(dimension=64))
        self.cache = self.open(self.store, **settings)

    def open(self, store: Any, **settings: Any) -> Memora:
        config = CacheConfig(judge="off", log_level="DEBUG", breaker_failures=1000, **settings)
        return Memora(config, embedder=WordEmbedder(), store=store, clock=self.clock)

    def outcomes(self, cache: Memora | None = None) -> dict[str, int]:
        """Return how often each reason has been counted, and make sure that the log agrees."""
        stats = (cache or self.cache).get_stats()
        counted = {**stats["hits_by_reason"], **stats["misses_by_reason"]}
        assert stats["total_requests"] == stats["hits"] + stats["misses"] == sum(counted.values())
        lines = self.capsys.readouterr().err.splitlines()
        events = [line for line in lines if "cache_hit" in line or "cache_miss" in line]
        words = [word for line in events for word in line.split()]
        reasons = Counter(word[7:] for word in words if word.startswith("reason="))
        assert reasons == Counter(counted)
        return counted


@pytest.fixture
def counted(capsys: pytest.CaptureFixture[str]) -> Counted:
    return Counted(capsys)


@pytest.fixture(params=SIDES)
def side(request: pytest.FixtureRequest) -> Side:
    return Side(request.param)


def waiting(cache: Memora) -> int:
    return sum(len(queue) - 1 for queue in cache._threads._flights._queues.values())


def together(cache: Memora, value: Any, followers: int) -> list[Any]:
    """Have one compute, and others wait for it, in threads and tasks."""
    found: list[Any] = []

    def lead() -> Any:
        assert until(lambda: waiting(cache) == followers)
        return value

    async def alead() -> Any:
        return lead()

    def call() -> None:
        found.append(cache.get_or_compute("a", None, lead))

    async def acall() -> None:
        found.append(await cache.aget_or_compute("a", None, alead))

    leader = threading.Thread(target=call)
    leader.start()
    assert until(lambda: cache._threads._flights._queues)
    others = [
        threading.Thread(target=call if n % 2 else anyio.run, args=() if n % 2 else (acall,))
        for n in range(followers)
    ]
    for thread in others:
        thread.start()
    for thread in [leader, *others]:
        thread.join(30)
    return found


def test_a_follower_is_a_hit(counted: Counted) -> None:
    assert together(counted.cache, "value", 4) == ["value"] * 5
    assert counted.outcomes() == {"no_candidate": 1, "exact": 4}
    stats = counted.cache.get_stats()
    assert (stats["saved"]["calls"], stats["compute_latency_ms"]["samples"]) == (4, 1)


def test_a_follower_of_what_is_not_stored_is_a_miss(counted: Counted) -> None:
    assert len(set(map(id, together(counted.cache, Unstorable(), 4)))) == 1
    assert counted.outcomes() == {"no_candidate": 5}


def test_a_follower_whose_lookup_failed_has_one_outcome(counted: Counted) -> None:
    counted.store.before["get"] = raising(StoreError("broken"))
    found = together(counted.cache, "value", 2)
    assert found == ["value"] * 3
    assert counted.outcomes() == {"error": 3}


def test_what_another_process_stores_meanwhile_is_a_hit(counted: Counted, side: Side) -> None:
    store = SharedFaultyStore(counted.store.inner)
    cache = counted.open(store)
    store.before["refresh"] = by_another(lambda: counted.cache.store("a", None, "of another"))
    assert side.compute(cache, "a", lambda: "computed") == "of another"
    assert counted.outcomes(cache) == {"exact": 1}


def test_whoever_is_cancelled_while_waiting_has_missed(counted: Counted) -> None:
    cache, end = counted.cache, threading.Event()
    leader = threading.Thread(
        target=cache.get_or_compute, args=("a", None, lambda: end.wait(60)), daemon=True
    )
    leader.start()
    assert until(lambda: cache._threads._flights._queues)

    async def compute() -> None:
        raise AssertionError

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(cache.aget_or_compute, "a", None, compute)
            assert await anyio.to_thread.run_sync(until, lambda: waiting(cache) == 1)
            tasks.cancel_scope.cancel()

    anyio.run(main)
    end.set()
    leader.join(30)
    assert counted.outcomes() == {"no_candidate": 2}


def test_a_call_that_fails_has_missed(counted: Counted, side: Side) -> None:
    with pytest.raises(ZeroDivisionError):
        side.compute(counted.cache, "a", lambda: 1 / 0)
    assert counted.outcomes() == {"no_candidate": 1}


def test_what_looks_nothing_up_counts_nothing(counted: Counted, side: Side) -> None:
    cache = counted.cache
    assert side.compute(cache, "a", lambda: 1, refresh=True) == 1
    assert side.compute(cache, "a", lambda: 2, bypass=True) == 2
    with cache.disabled():
        assert cache.get_or_compute("a", None, lambda: 3) == 3
    side(cache.check_availability, "a")
    side(cache.explain, "a")
    assert counted.outcomes() == {}


@pytest.mark.parametrize("settings", [{"single_flight": False}, {}])
def test_a_call_is_one_lookup(counted: Counted, side: Side, settings: dict[str, Any]) -> None:
    for _ in range(3):
        assert side.compute(counted.cache, "a", lambda: 1, **settings) == 1
    assert counted.outcomes() == {"no_candidate": 1, "exact": 2}


def test_in_shadow_mode_as_well(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    counted = Counted(capsys, mode="shadow", shadow_log=str(tmp_path / "log"))
    for value in (1, 2):
        assert counted.cache.get_or_compute("a", None, lambda value=value: value) == value
    counted.cache.lookup_many(["a", "b b b"])
    assert counted.outcomes() == {"no_candidate": 1, "shadow": 2, "below_threshold": 1}


def test_decorated_functions_and_streams_agree(counted: Counted) -> None:
    @counted.cache.cached
    def double(query: str) -> str:
        return query * 2

    @counted.cache.cached
    def letters(query: str) -> Iterator[str]:
        yield from query

    for query in ("ab", "ab", "cd"):
        double(query)
        list(letters(query))
    info = [double.cache_info(), letters.cache_info()]
    assert [(one.hits, one.misses) for one in info] == [(1, 2)] * 2
    assert counted.outcomes() == {"no_candidate": 2, "below_threshold": 2, "exact": 2}


def test_a_stale_hit_saves_nothing(counted: Counted, side: Side) -> None:
    cache = counted.cache
    cache.store("a", None, 1, {"tokens": 5}, ttl=10, stale_ttl=100)
    assert side(cache.lookup, "a").is_hit
    counted.clock.advance(11)
    for _ in range(3):
        assert side(cache.lookup, "a").is_stale
    stats = cache.get_stats()
    assert counted.outcomes() == {"exact": 4}
    assert (stats["stale_hits"], stats["saved"]["calls"], stats["saved"]["tokens"]) == (3, 1, 5)


@pytest.mark.parametrize("fail_open", [True, False])
def test_a_lookup_that_fails_is_a_miss_in_the_log_too(
    capsys: pytest.CaptureFixture[str], side: Side, *, fail_open: bool
) -> None:
    counted = Counted(capsys, fail_open=fail_open)
    counted.store.before["get"] = raising(StoreError("broken"))
    calls: list[Callable[[], Any]] = [
        lambda: side(counted.cache.lookup, "a"),
        lambda: side(counted.cache.lookup_many, ["b", "c"]),
        lambda: side.compute(counted.cache, "d", lambda: 1),
    ]
    for call in calls:
        if fail_open:
            call()
        else:
            with pytest.raises(StoreError):
                call()
    assert counted.outcomes() == {"error": 4}
    assert counted.cache.get_stats()["errors"]["lookup"] == 4


def test_checks_that_fail_and_checks_that_work_are_operations(counted: Counted) -> None:
    for _ in range(3):
        counted.cache.check_availability("a")
    counted.store.before["peek"] = raising(StoreError("broken"))
    counted.cache.check_availability("a")
    stats = counted.cache.get_stats()
    assert (stats["errors"]["lookup"], stats["error_rate"]) == (1, 0.25)
    assert counted.outcomes() == {}
