"""Cached calls: what is computed, by whom, what is kept of it, and what the others get."""

from __future__ import annotations

import asyncio
import contextvars
import os
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import pytest
from doubles import FakeClock, WordEmbedder, until, without_addresses
from engine import SIDES, FaultyStore, SharedFaultyStore, Side, at_rest, by_another

from memora import CacheConfig, Memora
from memora.errors import ArgumentError, ContextError
from memora.pipeline import Request
from memora.stores.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from memora.model import Entry

SQL = {"agent": "sql"}
QUERY = "total sales in march for all regions"
ALIKE = "total sales in march for all regions please"
MANY = 200


@pytest.fixture
def cache(embedder: WordEmbedder, clock: FakeClock) -> Memora:
    return Memora(CacheConfig(judge="off"), embedder=embedder, clock=clock)


@pytest.fixture(params=["memory", "disk"])
def anywhere(
    request: pytest.FixtureRequest, tmp_path: Path, embedder: WordEmbedder
) -> Iterator[Memora]:
    """A cache that nobody shares, and one that other processes may share."""
    uri = "memory://" if request.param == "memory" else str(tmp_path / "store")
    with Memora(CacheConfig(db_uri=uri, judge="off"), embedder=embedder) as cache:
        yield cache


@pytest.fixture(params=SIDES)
def side(request: pytest.FixtureRequest) -> Side:
    return Side(request.param)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return request.param


class Compute:
    """A function to be cached: returns a list with the number of the call."""

    def __init__(self, *, fails: int = 0) -> None:
        self.calls = 0
        self.fails = fails

    def __call__(self) -> list[int]:
        self.calls += 1
        if self.calls <= self.fails:
            raise ConnectionError(self.calls)
        return [self.calls]

    async def later(self) -> list[int]:
        return self()


def entry_of(cache: Memora, query: str = QUERY) -> Entry | None:
    return cache._ports.store.peek(Request.of(query, SQL).key, now=cache._ports.clock())


def waiting(cache: Memora) -> int:
    """Return how many wait for a leader."""
    return sum(len(queue) - 1 for queue in list(cache._threads._flights._queues.values()))


def no_flight_is_left(cache: Memora) -> bool:
    flights = cache._threads._flights
    return len(flights) == 0 and not flights._left


async def auntil(condition: Callable[[], object]) -> bool:
    return await anyio.to_thread.run_sync(lambda: until(condition), abandon_on_cancel=True)


def in_threads(count: int, function: Callable[[int], object]) -> None:
    running = [threading.Thread(target=function, args=(n,), daemon=True) for n in range(count)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join(60)
    assert not any(thread.is_alive() for thread in running)


# What is computed, and kept.


def test_a_miss_is_computed_and_stored_and_then_a_hit(cache: Memora, side: Side) -> None:
    compute = Compute()

    assert side.compute(cache, QUERY, compute, SQL) == [1]
    assert side.compute(cache, QUERY, compute, SQL) == [1]
    assert side.compute(cache, ALIKE, compute, SQL) == [1]
    assert side.compute(cache, QUERY, compute, {"agent": "other"}) == [2]
    assert side.compute(cache, ALIKE, compute, SQL, similarity_threshold=1.0) == [3]
    assert no_flight_is_left(cache)


def test_a_hit_cannot_be_changed_through_what_was_computed_or_served(
    cache: Memora, side: Side
) -> None:
    for _ in range(3):
        found = side.compute(cache, QUERY, Compute(), SQL)
        assert found == [1]
        found.append("mine")


@pytest.mark.parametrize("result", [None, False, 0, "", []])
def test_what_is_falsy_is_a_result_like_any_other(cache: Memora, side: Side, result: Any) -> None:
    calls: list[int] = []

    def compute() -> Any:
        calls.append(1)
        return result

    assert [side.compute(cache, QUERY, compute) for _ in range(2)] == [result, result]
    assert len(calls) == 1


def test_a_condition_says_what_is_stored(cache: Memora, side: Side) -> None:
    compute = Compute()
    seen: list[Any] = []

    def wanted(result: list[int]) -> bool:
        seen.append(list(result))
        return result[0] > 1

    assert side.compute(cache, QUERY, compute, SQL, condition=wanted) == [1]
    assert entry_of(cache) is None
    assert side.compute(cache, QUERY, compute, SQL, condition=wanted) == [2]
    assert side.compute(cache, QUERY, compute, SQL, condition=wanted) == [2]
    assert seen == [[1], [2]]  # not asked of a hit


def test_a_condition_that_fails_stores_nothing_and_is_reported(cache: Memora, side: Side) -> None:
    def broken(_: object) -> bool:
        raise AttributeError("no such field")

    assert side.compute(cache, QUERY, Compute(), SQL, condition=broken) == [1]
    assert entry_of(cache) is None
    assert cache.get_stats()["errors"]["store"] == 1


def test_a_refresh_computes_anew_and_stores(cache: Memora, side: Side) -> None:
    compute = Compute()
    side.compute(cache, QUERY, compute, SQL)

    assert side.compute(cache, QUERY, compute, SQL, refresh=True) == [2]
    assert side.compute(cache, QUERY, compute, SQL) == [2]


def test_a_refresh_that_fails_leaves_what_was_stored(cache: Memora, side: Side) -> None:
    side.compute(cache, QUERY, Compute(), SQL)

    with pytest.raises(ConnectionError):
        side.compute(cache, QUERY, Compute(fails=1), SQL, refresh=True)
    assert side.compute(cache, QUERY, Compute(fails=1), SQL) == [1]


def test_a_bypass_neither_looks_up_nor_stores(cache: Memora, side: Side) -> None:
    compute = Compute()

    assert [side.compute(cache, QUERY, compute, SQL, bypass=True) for _ in range(2)] == [[1], [2]]
    assert entry_of(cache) is None
    assert cache.get_stats()["total_requests"] == 0


def test_in_a_disabled_block_calls_are_only_calls(cache: Memora, side: Side) -> None:
    compute = Compute()
    with cache.disabled():
        assert not cache.caching_enabled()
        assert [side.compute(cache, QUERY, compute, SQL) for _ in range(2)] == [[1], [2]]
        with cache.disabled():
            pass
        assert not cache.caching_enabled()  # as the outer one says
    assert cache.caching_enabled()
    assert entry_of(cache) is None
    assert [side.compute(cache, QUERY, compute, SQL) for _ in range(2)] == [[3], [3]]


def test_a_disabled_block_is_of_its_thread_and_its_cache(
    cache: Memora, embedder: WordEmbedder
) -> None:
    other = Memora(CacheConfig(), embedder=embedder)
    seen = []
    with cache.disabled():
        in_threads(1, lambda _: seen.append(cache.caching_enabled()))
        assert other.caching_enabled()
    assert seen == [True]


@pytest.mark.anyio
async def test_a_disabled_block_holds_for_the_tasks_it_starts_and_for_no_other(
    cache: Memora,
) -> None:
    entered, leave = anyio.Event(), anyio.Event()
    seen: dict[str, bool] = {}

    async def note(name: str) -> None:
        seen[name] = cache.caching_enabled()

    async def block() -> None:
        with cache.disabled():
            async with anyio.create_task_group() as inner:
                inner.start_soon(note, "started within")
            seen["worker"] = await anyio.to_thread.run_sync(cache.caching_enabled)
            entered.set()
            await leave.wait()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(block)
        await entered.wait()
        await note("beside")
        tasks.start_soon(note, "started beside")
        leave.set()
    assert seen == {
        "started within": False,
        "worker": False,
        "beside": True,
        "started beside": True,
    }


def test_the_cost_is_what_computing_took_unless_it_is_said(
    cache: Memora, side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = FakeClock()
    monkeypatch.setattr("memora.cached_call.time", SimpleNamespace(perf_counter=watch))

    def compute() -> int:
        watch.advance(2.5)
        return 1

    for query, options, cost in (
        ("a", {}, 2.5),
        ("b", {"cost": 7}, 7.0),
        ("c", {"metadata": {"cost": 8}}, 8.0),
    ):
        side.compute(cache, query, compute, SQL, **options)
        entry = entry_of(cache, query)
        assert entry is not None
        assert entry.cost == cost


def test_the_options_reach_the_entry(cache: Memora, side: Side, clock: FakeClock) -> None:
    side.compute(
        cache, QUERY, Compute(), SQL, ttl="10m", stale_ttl=60, tags="doc:1", metadata={"a": 1}
    )

    entry = entry_of(cache)
    assert entry is not None
    assert (entry.expires_at, entry.stale_seconds) == (clock.now + 600, 60)
    assert entry.tags == ("doc:1",)
    found = cache.lookup(QUERY, SQL)
    assert (found.metadata.keys(), found.metadata["a"]) == ({"a", "seconds"}, 1)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("mine"),
        StopIteration("mine"),
        StopAsyncIteration("mine"),
        TimeoutError("mine"),
        ArgumentError("mine"),
        KeyboardInterrupt("mine"),
        SystemExit("mine"),
        GeneratorExit("mine"),
        asyncio.CancelledError("mine"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_computing_raises_passes_through_as_it_is_and_is_not_cached(
    cache: Memora, side: Side, error: BaseException
) -> None:
    if side.name != "threads" and isinstance(error, StopIteration):
        pytest.skip("no coroutine can raise it, cached or not")
    caught: list[BaseException] = []

    def fail() -> None:
        raise error

    async def fail_later() -> None:
        raise error

    async def main() -> None:
        try:  # within the task: what would end the loop is not the matter here
            await cache.aget_or_compute(QUERY, SQL, fail_later)
        except BaseException as found:  # noqa: BLE001
            caught.append(found)

    if side.name == "threads":
        with pytest.raises(type(error)) as info:
            cache.get_or_compute(QUERY, SQL, fail)
        caught.append(info.value)
    else:
        anyio.run(main, backend=side.name)

    assert caught == [error]
    assert caught[0].__cause__ is None
    assert no_flight_is_left(cache)
    assert entry_of(cache) is None
    assert side.compute(cache, QUERY, Compute(), SQL) == [1]
    assert cache.get_stats()["errors"]["lookup"] == 0


@pytest.mark.parametrize(
    "options",
    [
        {"tll": 5},
        {"ttl": -1},
        {"ttl": "soon"},
        {"stale_ttl": 0},
        {"sliding": "no"},
        {"tags": 3},
        {"cost": -1},
        {"metadata": {1: 2}},
        {"metadata": 5},
        {"max_age": 0},
        {"refresh_ahead": -1},
        {"similarity_threshold": 2},
        {"condition": 5},
        {"condition": Compute().later},
        {"refresh": "no"},
        {"bypass": "no"},
        {"single_flight": 0},
    ],
    ids=without_addresses,
)
def test_a_wrong_option_is_refused_before_anything_is_computed(
    cache: Memora, side: Side, options: dict[str, Any]
) -> None:
    compute = Compute()

    with pytest.raises(ArgumentError) as info:
        side.compute(cache, QUERY, compute, SQL, **options)

    assert next(iter(options)).partition("_")[0] in str(info.value)
    assert compute.calls == 0


def test_a_context_that_is_no_mapping_is_refused_before_anything_is_computed(
    cache: Memora, side: Side
) -> None:
    compute = Compute()

    with pytest.raises(ContextError):
        side.compute(cache, QUERY, compute, ["a"])  # type: ignore[arg-type]
    assert compute.calls == 0


def test_a_call_without_key_is_computed_and_counted(cache: Memora, side: Side) -> None:
    compute = Compute()
    wrong: Any = None

    assert side.compute(cache, " ", compute) == [1]
    assert side.compute(cache, wrong, compute) == [2]
    assert side.compute(cache, QUERY, compute, {"a": object()}) == [3]
    counted = cache.get_stats()
    assert counted["uncacheable"] == {"query": 2, "context": 1, "tags": 0, "closed": 0}
    assert (counted["total_requests"], counted["total_entries"]) == (0, 0)
    with pytest.raises(ArgumentError):
        side.compute(cache, " ", compute, ttl=-1)
    cache.close()
    assert side.compute(cache, QUERY, compute) == [4]


def test_max_age_holds_for_each_look(cache: Memora, side: Side, clock: FakeClock) -> None:
    compute = Compute()
    side.compute(cache, QUERY, compute, SQL)
    clock.advance(60)

    assert side.compute(cache, QUERY, compute, SQL, max_age=61) == [1]
    assert side.compute(cache, QUERY, compute, SQL, max_age=59) == [2]
    assert side.compute(cache, QUERY, compute, SQL, max_age=59) == [2]


def test_a_leader_looks_once_more(embedder: WordEmbedder, clock: FakeClock, side: Side) -> None:
    """Another may have led and landed since this one looked."""
    store = FaultyStore(MemoryStore(dimension=64))
    cache = Memora(CacheConfig(judge="off"), embedder=embedder, store=store, clock=clock)  # type: ignore[arg-type]
    compute = Compute()

    search = store.search

    def then(*args: Any, **options: Any) -> Any:  # the last that a lookup asks before it is a miss
        found = search(*args, **options)
        by_another(cache.store)(QUERY, SQL, "of another")
        return found

    cache.store("unrelated", SQL, 1)
    store.search = then

    assert side.compute(cache, QUERY, compute, SQL) == "of another"
    assert compute.calls == 0
    stats = cache.get_stats()
    assert (stats["hits"], stats["misses"], stats["saved"]["calls"]) == (1, 0, 1)


# In the background.


def hit_then_rest(side: Side, cache: Memora, compute: Compute, times: int, **options: Any) -> list:
    """Call some times in a row, and wait for what is computed in the background."""
    found: list[Any] = []
    gate = threading.Event()

    def gated() -> list[int]:
        assert gate.wait(60)
        return compute()

    async def gated_later() -> list[int]:
        await anyio.to_thread.run_sync(gate.wait, 60)
        return compute()

    async def main() -> None:
        found.extend(
            [await cache.aget_or_compute(QUERY, SQL, gated_later, **options) for _ in range(times)]
        )
        gate.set()
        assert await auntil(lambda: not cache._calls._refreshing)

    if side.name == "threads":
        found += [cache.get_or_compute(QUERY, SQL, gated, **options) for _ in range(times)]
        gate.set()
        assert until(lambda: not cache._calls._refreshing)
    else:
        anyio.run(main, backend=side.name)
    assert at_rest(cache)
    return found


def test_a_stale_hit_is_returned_at_once_and_computed_anew_once(
    cache: Memora, side: Side, clock: FakeClock
) -> None:
    compute = Compute()
    options: dict[str, Any] = {"ttl": 10, "stale_ttl": 100}
    assert side.compute(cache, QUERY, compute, SQL, **options) == [1]
    clock.advance(11)

    assert hit_then_rest(side, cache, compute, 5, **options) == [[1]] * 5

    assert compute.calls == 2
    assert side.compute(cache, QUERY, compute, SQL) == [2]
    assert cache.lookup(QUERY, SQL).is_stale is False


def test_a_background_computation_that_fails_is_reported_and_tried_again(
    cache: Memora, side: Side, clock: FakeClock
) -> None:
    options: dict[str, Any] = {"ttl": 10, "stale_ttl": 100}
    assert side.compute(cache, QUERY, Compute(), SQL, **options) == [1]
    clock.advance(11)
    compute = Compute(fails=1)

    assert hit_then_rest(side, cache, compute, 2, **options) == [[1]] * 2
    assert (compute.calls, cache.get_stats()["errors"]["refresh"]) == (1, 1)
    assert hit_then_rest(side, cache, compute, 2, **options) == [[1]] * 2
    assert side.compute(cache, QUERY, compute, SQL) == [2]


@pytest.mark.parametrize(("elapsed", "calls"), [(4, 1), (7, 2)])
def test_what_has_not_long_to_live_is_computed_ahead(
    cache: Memora, side: Side, clock: FakeClock, elapsed: float, calls: int
) -> None:
    compute = Compute()
    assert side.compute(cache, QUERY, compute, SQL, ttl=10) == [1]
    clock.advance(elapsed)

    assert hit_then_rest(side, cache, compute, 3, ttl=10, refresh_ahead=5) == [[1]] * 3
    assert compute.calls == calls


def test_a_stale_hit_of_another_text_is_computed_anew_for_this_one(
    cache: Memora, side: Side, clock: FakeClock
) -> None:
    side.compute(cache, ALIKE, Compute(), SQL, ttl=10, stale_ttl=100)
    clock.advance(11)
    compute = Compute()

    assert hit_then_rest(side, cache, compute, 1) == [[1]]
    assert entry_of(cache, QUERY) is not None
    assert compute.calls == 1


who: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="nobody")


def test_the_background_has_the_context_of_who_was_served(
    cache: Memora, side: Side, clock: FakeClock
) -> None:
    side.compute(cache, QUERY, Compute(), SQL, ttl=10, stale_ttl=100)
    clock.advance(11)
    seen: list[str] = []

    class Noting(Compute):
        def __call__(self) -> list[int]:
            seen.append(who.get())
            return super().__call__()

    token = who.set("tenant 1")
    try:
        hit_then_rest(side, cache, Noting(), 1)
    finally:
        who.reset(token)
    assert seen == ["tenant 1"]


def test_many_threads_with_one_stale_hit_compute_once(cache: Memora, clock: FakeClock) -> None:
    cache.get_or_compute(QUERY, SQL, Compute(), ttl=10, stale_ttl=100)
    clock.advance(11)
    compute, gate = Compute(), threading.Event()
    together = threading.Barrier(20)

    def gated() -> list[int]:
        assert gate.wait(60)
        return compute()

    def hit(_: int) -> None:
        together.wait(60)
        assert cache.get_or_compute(QUERY, SQL, gated) == [1]

    in_threads(20, hit)
    gate.set()
    assert at_rest(cache)
    assert compute.calls == 1


def test_what_another_process_computes_anew_is_not_computed_here_too(
    embedder: WordEmbedder, clock: FakeClock, side: Side
) -> None:
    store = SharedFaultyStore(MemoryStore(dimension=64))
    cache = Memora(CacheConfig(judge="off"), embedder=embedder, store=store, clock=clock)  # type: ignore[arg-type]
    compute = Compute()
    options: dict[str, Any] = {"ttl": 10, "stale_ttl": 100}
    side.compute(cache, QUERY, compute, SQL, **options)
    clock.advance(11)

    store.led_by_another = True
    assert hit_then_rest(side, cache, compute, 2, **options) == [[1]] * 2
    assert compute.calls == 1

    # It has stored its result, and another process has been at work, since this one looked.
    store.led_by_another = False
    store.before["try_lock"] = partial(
        by_another(cache.store), QUERY, SQL, "of the other", **options
    )
    assert hit_then_rest(side, cache, compute, 1, **options) == [[1]]
    assert compute.calls == 1
    assert side.compute(cache, QUERY, compute, SQL, **options) == "of the other"

    clock.advance(11)
    store.before.clear()
    assert hit_then_rest(side, cache, compute, 1, **options) == ["of the other"]
    assert compute.calls == 2
    assert store.leases == 0


# Single flight.


def test_of_many_threads_one_computes_and_each_has_a_copy(cache: Memora) -> None:
    compute, found = Compute(), []

    def gated() -> list[int]:
        assert until(lambda: waiting(cache) == MANY - 1, seconds=60)
        return compute()

    def call(n: int) -> None:
        result = cache.get_or_compute(QUERY, SQL, gated)
        result.append(-n)
        found.append(result)

    in_threads(MANY, call)

    assert compute.calls == 1
    assert sorted(found) == [[1, -n] for n in range(MANY - 1, -1, -1)]
    assert cache.lookup(QUERY, SQL).result == [1]
    assert no_flight_is_left(cache)


@pytest.mark.anyio
async def test_of_many_tasks_one_computes_and_each_has_a_copy(cache: Memora) -> None:
    compute, found = Compute(), []

    async def gated() -> list[int]:
        assert await auntil(lambda: waiting(cache) == MANY - 1)
        return compute()

    async def call(n: int) -> None:
        result = await cache.aget_or_compute(QUERY, SQL, gated)
        result.append(-n)
        found.append(result)

    async with anyio.create_task_group() as tasks:
        for n in range(MANY):
            tasks.start_soon(call, n)

    assert compute.calls == 1
    assert sorted(found) == [[1, -n] for n in range(MANY - 1, -1, -1)]
    assert no_flight_is_left(cache)


@pytest.mark.parametrize("fails", [0, 2])
def test_of_threads_and_tasks_of_two_loops_one_computes(  # noqa: C901 - both sides
    cache: Memora, fails: int, anyio_backend: str
) -> None:
    compute, found = Compute(fails=fails), []
    failed: list[BaseException] = []
    alone = threading.Lock()
    each = 20

    def compute_alone() -> list[int]:
        assert alone.acquire(blocking=False)
        try:
            if compute.calls == 0:
                assert until(lambda: waiting(cache) == 3 * each - 1)
            return compute()
        finally:
            alone.release()

    def call() -> None:
        try:
            found.append(cache.get_or_compute(QUERY, SQL, compute_alone))
        except ConnectionError as error:
            failed.append(error)

    async def acall() -> None:
        try:
            found.append(
                await cache.aget_or_compute(
                    QUERY, SQL, lambda: anyio.to_thread.run_sync(compute_alone)
                )
            )
        except ConnectionError as error:
            failed.append(error)

    async def loop() -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(each):
                tasks.start_soon(acall)

    def run(n: int) -> None:
        if n < 2:
            anyio.run(loop, backend=anyio_backend)
        else:
            call()

    in_threads(2 + each, run)

    assert compute.calls == fails + 1
    assert [error.args for error in failed] == [(n,) for n in range(1, fails + 1)]
    assert found == [[fails + 1]] * (3 * each - fails)
    assert no_flight_is_left(cache)


def test_what_cannot_be_stored_is_computed_once_all_the_same(cache: Memora) -> None:
    unserialisable, calls, found = object(), [], []

    def gated() -> object:
        calls.append(1)
        assert until(lambda: waiting(cache) == 9)
        return unserialisable

    in_threads(10, lambda _: found.append(cache.get_or_compute(QUERY, SQL, gated)))

    assert len(calls) == 1
    assert found == [unserialisable] * 10
    assert cache.get_stats()["results_not_stored"] == 1
    assert entry_of(cache) is None


def test_what_can_be_read_only_once_is_computed_for_each(cache: Memora) -> None:
    found, led = [], threading.Event()

    def gated() -> Iterator[int]:
        if not led.is_set():
            led.set()
            assert until(lambda: waiting(cache) == 9)
        return iter([1, 2])

    in_threads(10, lambda _: found.append([*cache.get_or_compute(QUERY, SQL, gated)]))

    assert found == [[1, 2]] * 10


@pytest.mark.anyio
async def test_what_can_be_awaited_only_once_is_computed_for_each(cache: Memora) -> None:
    found: list[int] = []
    started, go = anyio.Event(), anyio.Event()

    async def answer() -> int:
        return 1

    async def gated() -> Any:
        started.set()
        await go.wait()
        return answer()

    async def call() -> None:
        found.append(await (await cache.aget_or_compute(QUERY, SQL, gated)))

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(call)
        await started.wait()
        assert await auntil(lambda: waiting(cache) == 2)
        go.set()
    assert found == [1, 1, 1]


def test_what_is_not_wanted_is_computed_once_for_those_who_wait(cache: Memora) -> None:
    compute, found = Compute(), []

    def gated() -> list[int]:
        assert until(lambda: waiting(cache) == 9)
        return compute()

    in_threads(
        10,
        lambda _: found.append(cache.get_or_compute(QUERY, SQL, gated, condition=lambda _: False)),
    )
    assert found == [[1]] * 10
    assert entry_of(cache) is None


@pytest.mark.anyio
async def test_a_cancelled_leader_leaves_the_call_to_another(cache: Memora) -> None:
    started = anyio.Event()
    found: list[Any] = []
    scope = anyio.CancelScope()

    async def for_ever() -> Any:
        started.set()
        await anyio.sleep_forever()

    async def lead() -> None:
        with scope:
            await cache.aget_or_compute(QUERY, SQL, for_ever)

    compute = Compute()

    async def follow() -> None:
        found.append(await cache.aget_or_compute(QUERY, SQL, compute.later))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lead)
        await started.wait()
        for _ in range(5):
            tasks.start_soon(follow)
        assert await auntil(lambda: waiting(cache) == 5)
        scope.cancel()

    assert scope.cancelled_caught
    assert found == [[1]] * 5
    assert compute.calls == 1
    assert no_flight_is_left(cache)


@pytest.mark.anyio
async def test_a_cancelled_follower_leaves_the_others_undisturbed(cache: Memora) -> None:
    go = anyio.Event()
    found: list[Any] = []
    scope = anyio.CancelScope()
    compute = Compute()

    async def gated() -> list[int]:
        await go.wait()
        return compute()

    async def call() -> None:
        found.append(await cache.aget_or_compute(QUERY, SQL, gated))

    async def give_up() -> None:
        with scope:
            await cache.aget_or_compute(QUERY, SQL, gated)
            found.append("the cancelled one")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call)
        assert await auntil(lambda: len(cache._threads._flights) == 1)
        tasks.start_soon(give_up)
        tasks.start_soon(call)
        assert await auntil(lambda: waiting(cache) == 2)
        scope.cancel()
        assert await auntil(lambda: waiting(cache) == 1)
        go.set()

    assert found == [[1], [1]]
    assert no_flight_is_left(cache)


@pytest.mark.anyio
async def test_a_leader_cancelled_while_it_stores_leaves_a_whole_entry(
    embedder: WordEmbedder, clock: FakeClock
) -> None:
    store = FaultyStore(MemoryStore(dimension=64))
    cache = Memora(CacheConfig(judge="off"), embedder=embedder, store=store, clock=clock)  # type: ignore[arg-type]
    entered, released = threading.Event(), threading.Event()

    def hang() -> None:
        entered.set()
        assert released.wait(60)

    store.before["put_many"] = hang
    scope = anyio.CancelScope()

    async def lead() -> None:
        with scope:
            await cache.aget_or_compute(QUERY, SQL, Compute().later)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lead)
        assert await auntil(entered.is_set)
        scope.cancel()
    assert no_flight_is_left(cache)
    released.set()
    assert await auntil(lambda: at_rest(cache))
    assert cache.lookup(QUERY, SQL).result == [1]  # it went on


def test_nobody_waits_for_another_context_or_for_a_text_that_is_only_alike(
    cache: Memora, side: Side
) -> None:
    """All compute at the same time: none could go on if one waited for another."""
    calls = [(QUERY, SQL), (ALIKE, SQL), (QUERY, {"agent": "sql", "tenant": 1}), (QUERY, None)]
    together = threading.Barrier(len(calls))
    found: dict[int, Any] = {}

    def call(n: int) -> None:
        def compute() -> int:
            together.wait(60)
            return n

        query, context = calls[n]
        found[n] = side.compute(cache, query, compute, context)

    in_threads(len(calls), call)
    assert found == {n: n for n in range(len(calls))}


def test_without_single_flight_nobody_waits(cache: Memora, side: Side) -> None:
    together = threading.Barrier(2)

    def compute() -> int:
        return together.wait(60)

    found = []
    in_threads(
        2,
        lambda _: found.append(side.compute(cache, QUERY, compute, SQL, single_flight=False)),
    )
    assert sorted(found) == [0, 1]


def test_a_function_may_call_itself_and_others(anywhere: Memora) -> None:
    def compute(depth: int) -> Any:
        if depth == 0:
            return ["leaf"]
        same = anywhere.get_or_compute(QUERY, SQL, lambda: compute(depth - 1))
        other = anywhere.get_or_compute(f"other {depth}", SQL, lambda: depth)
        return [same, other]

    assert anywhere.get_or_compute(QUERY, SQL, lambda: compute(2)) == [[["leaf"], 1], 2]
    assert no_flight_is_left(anywhere)


@pytest.mark.anyio
async def test_a_coroutine_may_call_itself_and_others(anywhere: Memora) -> None:
    async def compute(depth: int) -> Any:
        if depth == 0:
            return ["leaf"]
        found: dict[str, Any] = {}

        async def same() -> None:
            found["same"] = await anywhere.aget_or_compute(QUERY, SQL, lambda: compute(depth - 1))

        async def other() -> None:
            found["other"] = await anywhere.aget_or_compute(f"other {depth}", SQL, Compute().later)

        async with anyio.create_task_group() as tasks:  # a child waits for its parent's flight
            tasks.start_soon(same)
            tasks.start_soon(other)
        return [found["same"], found["other"]]

    assert await anywhere.aget_or_compute(QUERY, SQL, lambda: compute(2)) == [
        [["leaf"], [1]],
        [1],
    ]
    assert no_flight_is_left(anywhere)


@pytest.mark.anyio
async def test_a_sync_call_does_not_wait_for_a_task_of_the_loop_that_it_blocks(
    anywhere: Memora,
) -> None:
    leading, may_end = anyio.Event(), anyio.Event()
    found: list[Any] = []

    async def gated() -> str:
        leading.set()
        await may_end.wait()
        return "of the task"

    async def lead() -> None:
        found.append(await anywhere.aget_or_compute(QUERY, SQL, gated))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lead)
        await leading.wait()
        found.append(anywhere.get_or_compute(QUERY, SQL, lambda: "of the loop"))
        may_end.set()
    assert found == ["of the loop", "of the task"]
    assert no_flight_is_left(anywhere)


@pytest.mark.parametrize("length", [2, 3])
def test_threads_whose_computations_need_each_others_go_on(anywhere: Memora, length: int) -> None:
    """Each leads one key and needs the next: the last to ask does not wait."""
    together = threading.Barrier(length)
    found: dict[int, Any] = {}

    def call(n: int) -> None:
        def compute() -> list[Any]:
            together.wait(60)
            following = anywhere.get_or_compute(f"key {(n + 1) % length}", SQL, lambda: ["inner"])
            return [n, following]

        found[n] = anywhere.get_or_compute(f"key {n}", SQL, compute)

    in_threads(length, call)
    assert sorted(found) == list(range(length))
    assert no_flight_is_left(anywhere)


@pytest.mark.anyio
async def test_tasks_whose_computations_need_each_others_go_on(anywhere: Memora) -> None:
    leading = [anyio.Event(), anyio.Event()]
    found: dict[int, Any] = {}

    async def call(n: int) -> None:
        async def compute() -> list[Any]:
            leading[n].set()
            await leading[1 - n].wait()
            return [n, await anywhere.aget_or_compute(f"key {1 - n}", SQL, Compute().later)]

        found[n] = await anywhere.aget_or_compute(f"key {n}", SQL, compute)

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call, 0)
            tasks.start_soon(call, 1)
    assert sorted(found) == [0, 1]
    assert no_flight_is_left(anywhere)


FORK = """
import os, sys, threading, time, warnings
warnings.filterwarnings("ignore", "This process", DeprecationWarning)
sys.path.insert(0, sys.argv[1])
from doubles import FakeClock, WordEmbedder, until
from engine import Faulty, raising
from memora import CacheConfig, Memora
clock = FakeClock()
embedder = Faulty(WordEmbedder())
cache = Memora(CacheConfig(judge="off", embedding_cache_size=0), embedder=embedder, clock=clock)
gate, computing = threading.Event(), threading.Event()
def gated():
    computing.set()
    gate.wait(60)
    return "of the parent"
# All that the child must not wait for: a flight that is led, a worker at work, a stale result
# that is being computed anew, a breaker that is open.
cache.get_or_compute("stale", None, lambda: 1, ttl=10, stale_ttl=1000)
clock.advance(11)
assert cache.get_or_compute("stale", None, gated) == 1
assert computing.wait(60)
leader = threading.Thread(target=cache.get_or_compute, args=("led", None, gated), daemon=True)
leader.start()
assert until(lambda: len(cache._threads._flights) == 1)
embedder.before["embed"] = raising(ConnectionError())
for n in range(5):
    cache.lookup(f"failing {n}")
embedder.before.clear()
assert "embedder open" in cache.health_check()["checks"]["breaker"]["details"]
def check():
    assert "embedder open" in cache.health_check()["checks"]["breaker"]["details"]
    for breaker in cache._ports.breakers:
        breaker._clock = lambda: time.monotonic() + 31
    assert cache.get_or_compute("led", None, lambda: "of the child") == "of the child"
    assert cache.get_or_compute("led", None, lambda: "again") == "of the child"
    assert "embedder closed" in cache.health_check()["checks"]["breaker"]["details"]
    assert cache.lookup("led").reason == "exact"
    assert cache.get_or_compute("stale", None, lambda: 2) == 1
    assert until(lambda: cache.lookup("stale").result == 2)
    assert len(cache._threads._flights) == 0
child = os.fork()
if child == 0:
    try:
        check()
    except BaseException:
        import traceback
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
assert until(lambda: os.waitpid(child, os.WNOHANG) == (child, 0)), "the child failed or hangs"
cache._ports.breakers.embedder._clock = lambda: time.monotonic() + 31
cache.lookup("the probe")
gate.set()
leader.join(60)
assert until(lambda: cache.lookup("stale").result == "of the parent")
assert len(cache._threads._flights) == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_forked_child_calls_as_its_parent_does(tmp_path: Path) -> None:
    script = tmp_path / "fork.py"
    script.write_text(FORK)
    done = subprocess.run(
        [sys.executable, script, str(Path(__file__).parents[1])],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
