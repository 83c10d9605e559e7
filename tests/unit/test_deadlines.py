"""No call waits longer than agreed, whatever it passes through; and what a closed cache leaves."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from doubles import WordEmbedder, until
from engine import SIDES, FaultyStore, SharedFaultyStore, Side, hanging, impatient

from memora import CacheConfig, Memora
from memora.concurrency import flights
from memora.concurrency.flights import FileFlights
from memora.concurrency.workers import Workers
from memora.errors import ConfigError, DeadlineError
from memora.stores.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KEY = b"k" * 16
# Whatever a store is asked, by a lookup, a call or a statistic.
ALL = ("get", "peek", "search", "put_many", "maintain", "count", "measure", "try_lock", "refresh")


def cache_on(store: FaultyStore, **settings: Any) -> Memora:
    config = CacheConfig(judge="off", breaker_failures=1000, **settings)
    return Memora(config, embedder=WordEmbedder(), store=store)  # type: ignore[arg-type]


@pytest.fixture(params=SIDES)
def side(request: pytest.FixtureRequest) -> Side:
    return Side(request.param)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return how long the workers were waited for, at most, each time."""
    found: list[float] = []
    run, arun = Workers.run, Workers.arun

    def noted(self: Workers, function: Callable[[], Any], timeout: float | None) -> Any:
        found.extend([] if timeout is None else [timeout])
        return run(self, function, timeout)

    async def anoted(self: Workers, function: Callable[[], Any], timeout: float | None) -> Any:  # noqa: ASYNC109 - as it is there
        found.extend([] if timeout is None else [timeout])
        return await arun(self, function, timeout)

    monkeypatch.setattr(Workers, "run", noted)
    monkeypatch.setattr(Workers, "arun", anoted)
    return found


@pytest.mark.parametrize("kind", [FaultyStore, SharedFaultyStore])
def test_a_call_on_a_store_that_hangs_waits_one_limit(
    kind: type[FaultyStore], side: Side, waits: list[float]
) -> None:
    store = kind(MemoryStore(dimension=64))
    cache = cache_on(store)
    with impatient(cache, 0.1), hanging(store, *ALL) as hang:
        assert side.compute(cache, "a", lambda: "computed") == "computed"
        assert waits == [0.1]
        hang.released.set()
    stats = cache.get_stats()
    assert stats["misses_by_reason"] == {"timeout": 1}
    assert (stats["errors"]["lookup"], stats["errors"]["store"]) == (1, 1)


@pytest.mark.parametrize("operation", ["try_lock", "refresh", "put_many", "release"])
def test_a_call_on_a_store_that_hangs_later_waits_for_what_is_left(
    operation: str, side: Side, waits: list[float]
) -> None:
    store = SharedFaultyStore(MemoryStore(dimension=64))
    cache = cache_on(store)
    with impatient(cache, 0.2), hanging(store, operation) as hang:
        assert side.compute(cache, "a", lambda: "computed") == "computed"
        assert max(waits) <= 0.2
        hang.released.set()
    assert until(lambda: store.leases == 0)


def test_waiting_for_another_process_uses_nothing_of_the_limit(side: Side) -> None:
    store = SharedFaultyStore(MemoryStore(dimension=64))
    cache = cache_on(store)
    looks: list[float] = []

    def look() -> None:
        looks.append(time.sleep(0.05))  # type: ignore[func-returns-value]
        store.led_by_another = len(looks) < 4

    store.led_by_another = True
    store.before["try_lock"] = look
    with impatient(cache, 0.15):
        assert side.compute(cache, "a", lambda: "computed") == "computed"
    assert len(looks) == 4
    stats = cache.get_stats()
    assert (stats["errors"]["lookup"], stats["results_stored"]) == (0, 1)


def test_a_leader_in_another_process_is_waited_for_so_long(side: Side) -> None:
    store = SharedFaultyStore(MemoryStore(dimension=64))
    cache = cache_on(store, single_flight_timeout_seconds=0.05)
    store.led_by_another = True
    assert side.compute(cache, "a", lambda: "computed") == "computed"
    assert (cache.get_stats()["misses"], store.leases) == (1, 0)


def test_a_leader_that_hangs_here_is_waited_for_so_long(side: Side) -> None:
    cache = cache_on(FaultyStore(MemoryStore(dimension=64)), single_flight_timeout_seconds=0.05)
    hung, end = threading.Event(), threading.Event()

    def hang() -> str:
        hung.set()
        assert end.wait(60)
        return "late"

    leader = threading.Thread(target=cache.get_or_compute, args=("a", None, hang), daemon=True)
    leader.start()
    assert hung.wait(30)
    assert side.compute(cache, "a", lambda: "computed") == "computed"
    end.set()
    leader.join(30)
    assert cache.get_stats()["misses"] == 2


@pytest.mark.parametrize("given", [0, -1, float("nan"), "soon", True])
def test_a_patience_is_a_number_of_seconds(given: Any) -> None:
    with pytest.raises(ConfigError, match="single_flight_timeout_seconds"):
        CacheConfig(single_flight_timeout_seconds=given)
    assert CacheConfig(single_flight_timeout_seconds="2m").single_flight_timeout_seconds == 120


def test_what_a_store_does_not_tell_in_time_is_left_out(side: Side, waits: list[float]) -> None:
    store = FaultyStore(MemoryStore(dimension=64))
    cache = cache_on(store)
    with impatient(cache, 0.1), hanging(store, *ALL) as hang:
        stats = side(cache.get_stats)
        assert (stats["total_entries"], stats["entry_bytes"], stats["index_created"]) == (
            None,
            None,
            False,
        )
        assert waits == [0.1]
        assert {family.name for family in side(cache.read_metrics).gauges}.isdisjoint(
            {"entries", "entry_bytes"}
        )
        assert not side(cache.check_availability, "a")
        assert side(cache.explain, "a").reason == "error"
        with pytest.raises(DeadlineError):
            cache.get_index_stats()
        assert max(waits) <= 0.1
        hang.released.set()


def test_many_tasks_ask_for_the_health_of_what_hangs_at_once() -> None:
    store = FaultyStore(MemoryStore(dimension=64))
    cache = cache_on(store)
    found: list[str] = []

    async def ask() -> None:
        found.append((await cache.ahealth_check(timeout=0.2))["status"])

    async def main() -> None:
        with anyio.fail_after(20):  # one after the other, 200 would take 40 s
            async with anyio.create_task_group() as tasks:
                for _ in range(200):
                    tasks.start_soon(ask)

    with hanging(store, "count") as hang:
        anyio.run(main)
        hang.released.set()
    assert found == ["unhealthy"] * 200


# Leases of files.


class Looking:
    """Two processes that share a folder, as far as a file's lock can tell, and their clock."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(flights, "monotonic", lambda: self.now)
        monkeypatch.setattr(flights, "_RENEW_SECONDS", 3600)
        self.path = folder / f"{KEY.hex()}.flight"
        self.mine, self.others = FileFlights(folder), FileFlights(folder)

    def look(self, times: int, *, every: float = 0.5, renewed: bool = False) -> Any:
        """Ask for the lead so often."""
        for _ in range(times):
            self.now += every
            if renewed:
                os.utime(self.path, (self.now, self.now))
            if (lease := self.others.try_lock(KEY)) is not None:
                return lease
        return None


@pytest.fixture
def looking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Looking:
    return Looking(tmp_path / "flights", monkeypatch)


def test_a_lead_that_is_renewed_is_kept_however_long(looking: Looking) -> None:
    lease = looking.mine.try_lock(KEY)
    assert lease is not None
    assert looking.look(1000, renewed=True) is None
    lease.release()
    assert looking.look(1) is not None


def test_a_lead_that_is_not_renewed_is_another_s(looking: Looking) -> None:
    old = looking.mine.try_lock(KEY)
    assert old is not None
    assert looking.look(12) is None
    new = looking.look(1)
    assert new is not None
    assert looking.mine.try_lock(KEY) is None
    assert looking.mine.is_lost(KEY)
    assert not looking.others.is_lost(KEY)
    old.renew()
    old.release()  # it goes on: what it leads by now is its own affair
    assert looking.mine.try_lock(KEY) is None
    assert not looking.mine.is_lost(KEY)
    new.release()
    assert looking.mine.try_lock(KEY) is not None


def test_few_looks_are_not_enough(looking: Looking) -> None:
    """Where the machine is overloaded, who looks is late, and so may be who renews."""
    assert looking.mine.try_lock(KEY) is not None
    assert looking.look(9, every=1.5) is None
    assert looking.look(1) is not None


def test_whoever_stood_still_as_well_begins_to_look_anew(looking: Looking) -> None:
    assert looking.mine.try_lock(KEY) is not None
    assert looking.look(1) is None
    assert looking.look(5, every=3600) is None
    assert looking.look(13) is not None


def test_of_two_who_take_over_one_leads(looking: Looking, tmp_path: Path) -> None:
    assert looking.mine.try_lock(KEY) is not None
    third = FileFlights(tmp_path / "flights")
    for _ in range(12):
        assert looking.look(1) is None
        assert third.try_lock(KEY) is None
    looking.now += 0.5
    leases = [looking.others.try_lock(KEY), third.try_lock(KEY), looking.others.try_lock(KEY)]
    assert [lease is not None for lease in leases] == [True, False, False]


def test_a_thread_renews_what_is_led_and_ends_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flights, "_RENEW_SECONDS", 0.01)
    files = FileFlights(tmp_path)
    lease = files.try_lock(KEY)
    assert lease is not None
    path = tmp_path / f"{KEY.hex()}.flight"
    os.utime(path, (0, 0))
    assert until(lambda: path.stat().st_mtime > 0)
    thread = files._thread
    assert thread is not None
    lease.release()
    thread.join(30)
    assert not thread.is_alive()
    assert files.try_lock(KEY) is not None
    files.close()
    assert files._thread is None


def test_what_a_leader_stores_that_stood_still_is_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flights, "_RENEW_SECONDS", 3600)
    monkeypatch.setattr(flights, "SECONDS", 0.0)
    monkeypatch.setattr(flights, "_LOOKS", 2)
    config = CacheConfig(db_uri=str(tmp_path / "store"), judge="off")
    with (
        Memora(config, embedder=WordEmbedder()) as slow,
        Memora(config, embedder=WordEmbedder()) as quick,
    ):

        def compute() -> str:
            # As long as this one is at it, the other does not see it go on.
            assert quick.get_or_compute("a", None, lambda: "newer") == "newer"
            return "older"

        assert slow.get_or_compute("a", None, compute) == "older"
        assert quick.lookup("a").result == "newer"
        assert until(lambda: slow.lookup("a").result == "newer")
        assert slow.get_or_compute("a", None, compute, refresh=True) == "older"
        assert slow.lookup("a").result == "older"


# What is left.


@pytest.fixture(params=["memory", "disk", "shadow"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Memora]:
    settings: dict[str, Any] = {"log_level": "ERROR"}
    if request.param == "disk":
        settings["db_uri"] = str(tmp_path / "store")
    if request.param == "shadow":
        settings |= {"mode": "shadow", "shadow_log": str(tmp_path / "log")}
    return lambda: Memora(CacheConfig(**settings), embedder=WordEmbedder())


def use(cache: Memora) -> None:
    cache.store("a", None, 1)
    cache.get_or_compute("b", None, lambda: 2, stale_ttl=1, ttl=0.001)
    cache.get_or_compute("b", None, lambda: 2)
    cache.health_check()
    anyio.run(cache.alookup, "c")
    anyio.run(cache.aget_stats)


def test_a_closed_cache_leaves_no_thread_no_file_and_no_memory(
    opened: Callable[[], Memora],
) -> None:
    with opened() as cache:  # what LanceDB starts, once
        use(cache)
    del cache
    gc.collect()
    threads, files = threading.active_count(), descriptors()
    left: list[weakref.ref[Any]] = []
    for _ in range(5):
        with opened() as cache:
            use(cache)
        left += [weakref.ref(cache), weakref.ref(cache._ports.store)]
        del cache
    assert until(lambda: threading.active_count() <= threads)
    gc.collect()
    assert [one() for one in left] == [None] * len(left)
    assert descriptors() <= files


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0  # noqa: PTH208


def test_many_closed_caches_leave_no_thread() -> None:
    threads = threading.active_count()
    for _ in range(300):
        with Memora(CacheConfig(log_level="ERROR"), embedder=WordEmbedder()) as cache:
            cache.store("a", None, 1)
    assert until(lambda: threading.active_count() <= threads)


def test_a_cache_that_is_closed_in_the_midst_of_calls_ends_their_threads_with_them() -> None:
    workers, end = Workers(2, "test"), threading.Event()
    running = threading.Thread(target=workers.run, args=(lambda: end.wait(60), None))
    running.start()
    assert until(lambda: len(workers._crew) == 1)
    workers.close()
    assert workers.run(lambda: 1, 30) == 1
    end.set()
    running.join(30)
    assert until(lambda: not workers._crew and not workers._idle)


def test_an_idle_store_is_looked_at_seldom(tmp_path: Path) -> None:
    config = CacheConfig(db_uri=str(tmp_path), max_staleness_seconds=1)
    with Memora(config, embedder=WordEmbedder()) as cache:
        store: Any = cache._ports.store
        for worker in (store._follower, store._maintainer):
            worker.close(30)
        store._maintainer._due = False
        assert store._follow() == 0.5
        assert not store._maintainer.due
        cache.store("a", None, 1)
        store._follow()
        assert store._maintainer.due


FIRST = """
import asyncio, sys
from memora import CacheConfig, Memora
from memora.embedders import FunctionEmbedder
embedder = FunctionEmbedder(lambda texts: [[1.0, 2.0]] * len(texts), identity="x")
cache = Memora(CacheConfig(log_level="ERROR", db_uri=sys.argv[1]), embedder=embedder)
async def compute():
    return 1
async def main():
    before = set(sys.modules)
    await cache.alookup("a")
    await cache.aget_or_compute("b", None, compute)
    await cache.ahealth_check("live")
    print(sorted(set(sys.modules) - before))
asyncio.run(main())
"""


def test_the_first_await_imports_nothing() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", FIRST, "memory://"],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert (ended.stdout, ended.stderr) == ("[]\n", "")
