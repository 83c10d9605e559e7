"""Whatever fails or hangs in the cache: the application has its value, in time, and a right one."""

from __future__ import annotations

import asyncio
import gc
import io
from contextlib import contextmanager
from itertools import count
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import numpy as np
import pytest
from doubles import NO_FAULT, WordEmbedder, until
from engine import (
    SIDES,
    Faulty,
    FaultyStore,
    SharedFaultyStore,
    Side,
    at_rest,
    hanging,
    impatient,
    raising,
)

from memora import CacheConfig, Memora
from memora.errors import (
    CorruptEntryError,
    DeadlineError,
    DimensionMismatchError,
    EmbedderError,
    JudgeError,
    MemoraError,
    StoreError,
    UnavailableError,
)
from memora.judge import Judge
from memora.model import Content
from memora.stores.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from doubles import FakeClock
    from engine import Hang

    from memora.concurrency.breaker import Breaker

SQL = {"agent": "sql"}
KNOWN = "total sales in march for all regions"
ALIKE = "total sales in march for all regions please"
OTHER = "rainfall of april"


class Rig:
    """A cache of which everything can break, with one entry in it."""

    def __init__(self, **settings: Any) -> None:
        self.embedder = Faulty(WordEmbedder())
        self.memory = MemoryStore(dimension=64)
        self.store = FaultyStore(self.memory)
        self.hangs: list[Hang] = []
        # Without recent embeddings: each lookup asks the model.
        config = CacheConfig(judge="off", embedding_cache_size=0, **settings)
        self.cache = Memora(config, embedder=self.embedder, store=self.store)  # type: ignore[arg-type]
        assert self.cache.store(KNOWN, SQL, {"total": [1]}) is not None

    def part(self, name: str) -> Faulty:
        """Return what a breaker is for; the store has several."""
        return self.embedder if name == "embedder" else self.store

    def breaker(self, name: str) -> Breaker:
        found: Breaker = getattr(self.cache._ports.breakers, name)
        return found

    @contextmanager
    def hanging(self, part: str, operation: str) -> Iterator[Hang]:
        """Have an operation hang, and nobody wait for it long."""
        with hanging(self.part(part), operation) as hang, impatient(self.cache):
            self.hangs.append(hang)
            yield hang

    def let_go(self) -> None:
        for hang in self.hangs:
            hang.released.set()
        assert at_rest(self.cache)

    def corrupt(self) -> None:
        (slot,) = self.memory._contents
        payload = bytearray(self.memory._contents[slot].payload)
        payload[-1] ^= 0xFF
        self.memory._contents[slot] = Content(bytes(payload))

    def counted(self) -> tuple[dict[str, int], dict[str, int]]:
        stats = self.cache.get_stats()
        return stats["errors"], stats["misses_by_reason"]


@pytest.fixture
def rigs() -> Iterator[Callable[..., Rig]]:
    made: list[Rig] = []

    def make(**settings: Any) -> Rig:
        made.append(Rig(**settings))
        return made[-1]

    yield make
    for rig in made:
        rig.let_go()


@pytest.fixture
def rig(rigs: Callable[..., Rig]) -> Rig:
    return rigs()


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=SIDES)
def side(request: pytest.FixtureRequest) -> Side:
    return Side(request.param)


def vectors(*rows: Any) -> Callable[..., Any]:
    """Return what an embedder is that makes the same of every text."""
    return lambda texts: [np.asarray(rows, dtype=np.float32) for _ in texts]


# What breaks, how, and what a fault of it is.
FAULTS: dict[str, tuple[Callable[[Rig, pytest.MonkeyPatch], object], type[Exception]]] = {
    "embedder raises": (
        lambda rig, patch: patch.setitem(rig.embedder.before, "embed", raising(OSError("gone"))),
        OSError,
    ),
    "embedder of NaN": (
        lambda rig, patch: patch.setattr(rig.embedder.inner, "embed", vectors(*[np.nan] * 64)),
        EmbedderError,
    ),
    "embedder of another dimension": (
        lambda rig, patch: patch.setattr(rig.embedder.inner, "embed", vectors(1, 0)),
        DimensionMismatchError,
    ),
    "embedder of too few": (
        lambda rig, patch: patch.setattr(rig.embedder.inner, "embed", lambda _: []),
        EmbedderError,
    ),
    "get raises": (
        lambda rig, patch: patch.setitem(rig.store.before, "get", raising(StoreError("fire"))),
        StoreError,
    ),
    "search raises": (
        lambda rig, patch: patch.setitem(rig.store.before, "search", raising(KeyError("bug"))),
        KeyError,
    ),
    "judge raises": (
        lambda rig, patch: patch.setattr(Judge, "decide", raising_method(ValueError("bug"))),
        JudgeError,
    ),
    "put raises": (
        lambda rig, patch: patch.setitem(
            rig.store.before, "put_many", raising(OSError(28, "full"))
        ),
        OSError,
    ),
}
READING = [name for name in FAULTS if name != "put raises"]
WRITING = [name for name in FAULTS if name.startswith(("embedder", "put"))]


def raising_method(fault: Exception) -> Callable[..., Any]:
    def method(*_: Any, **__: Any) -> Any:
        raise fault

    return method


@pytest.mark.parametrize("fault", READING)
def test_a_fault_makes_a_lookup_a_miss_that_names_it(
    rig: Rig, side: Side, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    breaks, kind = FAULTS[fault]
    with monkeypatch.context() as patch:
        breaks(rig, patch)
        found = side(rig.cache.lookup, ALIKE, SQL)

    assert (found.is_miss, found.reason) == (True, "error")
    assert kind.__name__ in found.explanation
    operation = "judge" if kind is JudgeError else "lookup"
    assert rig.counted() == (NO_FAULT | {operation: 1}, {"error": 1})
    assert side(rig.cache.lookup, ALIKE, SQL).result == {"total": [1]}


@pytest.mark.parametrize("fault", WRITING)
def test_a_fault_makes_a_store_return_none_and_leaves_what_was_there(
    rig: Rig, side: Side, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        FAULTS[fault][0](rig, patch)
        assert side(rig.cache.store, KNOWN, SQL, 2) is None
        assert side(rig.cache.store, OTHER, SQL, 3) is None
        assert side(rig.cache.store_many, [(KNOWN, SQL, 2), (OTHER, SQL, 3)]) == [None, None]

    assert rig.counted()[0] == NO_FAULT | {"store": 4}  # each of the two of the batch
    assert rig.memory.count() == 1
    assert side(rig.cache.lookup, KNOWN, SQL).result == {"total": [1]}
    assert side(rig.cache.store, OTHER, SQL, 3) is not None
    assert side(rig.cache.lookup, OTHER, SQL).result == 3


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_leaves_a_call_its_value_computed_once(
    rig: Rig, side: Side, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    with monkeypatch.context() as patch:
        FAULTS[fault][0](rig, patch)
        assert side.compute(rig.cache, OTHER, lambda: calls.append(1) or "new", SQL) == "new"

    assert len(calls) == 1
    assert side.compute(rig.cache, OTHER, lambda: "newer", SQL) in {"new", "newer"}
    assert side(rig.cache.lookup, KNOWN, SQL).result == {"total": [1]}
    assert len(rig.cache._threads._flights) == 0


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_raises_where_the_settings_say_so(
    rigs: Callable[..., Rig], side: Side, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = rigs(fail_open=False)
    breaks, kind = FAULTS[fault]
    breaks(rig, monkeypatch)
    if fault in READING:
        with pytest.raises(kind):
            side(rig.cache.lookup, ALIKE, SQL)
        with pytest.raises(kind):
            side(rig.cache.lookup_many, [ALIKE], SQL)
    if fault in WRITING:
        with pytest.raises(kind):
            side(rig.cache.store, OTHER, SQL, 1)
        with pytest.raises(kind):
            side(rig.cache.store_many, [(OTHER, SQL, 1)])
    if fault not in {"search raises", "judge raises"}:  # OTHER, of this context, is searched too
        with pytest.raises(kind):
            side.compute(rig.cache, OTHER, lambda: 1, SQL)
    assert len(rig.cache._threads._flights) == 0


@pytest.mark.parametrize(("part", "operation"), [("embedder", "embed"), ("store", "search")])
def test_what_hangs_makes_a_lookup_a_miss_in_time(
    rig: Rig, side: Side, part: str, operation: str
) -> None:
    with rig.hanging(part, operation) as hang:
        found = side(rig.cache.lookup, ALIKE, SQL)
        many = side(rig.cache.lookup_many, [ALIKE, OTHER], SQL)

    assert hang.entered.is_set()
    assert (found.is_miss, found.reason) == (True, "timeout")
    assert "DeadlineError" in found.explanation
    assert [one.reason for one in many] == ["timeout", "timeout"]
    assert rig.counted() == (NO_FAULT | {"lookup": 3}, {"timeout": 3})
    assert side(rig.cache.lookup, ALIKE, SQL).result == {"total": [1]}  # while that still hangs


def test_a_store_that_hangs_in_get_makes_a_lookup_a_miss_in_time(rig: Rig, side: Side) -> None:
    with rig.hanging("store", "get"):
        assert side(rig.cache.lookup, KNOWN, SQL).reason == "timeout"

    assert side(rig.cache.lookup, KNOWN, SQL).result == {"total": [1]}


@pytest.mark.parametrize(
    ("part", "operation"),
    [("embedder", "embed"), ("store", "get"), ("store", "search"), ("store", "put_many")],
)
def test_what_hangs_leaves_a_call_its_value(
    rig: Rig, side: Side, part: str, operation: str
) -> None:
    with rig.hanging(part, operation):
        assert side.compute(rig.cache, OTHER, lambda: "new", SQL) == "new"

    assert len(rig.cache._threads._flights) == 0
    rig.let_go()
    assert side.compute(rig.cache, OTHER, lambda: "newer", SQL) in {"new", "newer"}
    assert side(rig.cache.lookup, KNOWN, SQL).result == {"total": [1]}


@pytest.mark.parametrize(("part", "operation"), [("embedder", "embed"), ("store", "put_many")])
def test_what_hangs_raises_where_the_settings_say_so(
    rigs: Callable[..., Rig], side: Side, part: str, operation: str
) -> None:
    rig = rigs(fail_open=False)
    with rig.hanging(part, operation), pytest.raises(DeadlineError):
        side(rig.cache.store, OTHER, SQL, 1)
    with rig.hanging("embedder", "embed"), pytest.raises(DeadlineError):
        side(rig.cache.lookup, ALIKE, SQL)


def test_a_store_that_was_given_up_while_it_embeds_stores_nothing_any_more(
    rig: Rig, side: Side
) -> None:
    with rig.hanging("embedder", "embed") as hang:
        assert side(rig.cache.store, KNOWN, SQL, "old") is None
        assert side(rig.cache.store_many, [(OTHER, SQL, "old")]) == [None]
    assert hang.entered.is_set()
    assert side(rig.cache.store, KNOWN, SQL, "new") is not None

    rig.let_go()

    assert side(rig.cache.lookup, KNOWN, SQL).result == "new"
    assert rig.memory.count() == 1


def test_a_store_that_was_given_up_while_it_writes_writes_all_or_nothing(
    rig: Rig, side: Side
) -> None:
    result = {"rows": [1, 2]}
    with rig.hanging("store", "put_many"):
        assert side(rig.cache.store_many, [(OTHER, SQL, result), ("b", SQL, result)]) == [None] * 2
    result["rows"].append(3)  # the application goes on with its own
    assert side(rig.cache.lookup, OTHER, SQL, 1.0).is_miss

    rig.let_go()

    assert side(rig.cache.lookup, OTHER, SQL).result == {"rows": [1, 2]}
    assert side(rig.cache.lookup, "b", SQL).result == {"rows": [1, 2]}


def test_a_failing_touch_costs_a_hit_and_no_more(rig: Rig, side: Side) -> None:
    rig.store.before["touch"] = raising(StoreError("fire"))

    assert side(rig.cache.lookup, KNOWN, SQL).reason == "error"
    assert side.compute(rig.cache, KNOWN, lambda: "new", SQL) == "new"

    rig.store.before.clear()
    assert side(rig.cache.lookup, KNOWN, SQL).result == "new"


def test_housekeeping_that_fails_or_hangs_leaves_what_was_stored(rig: Rig, side: Side) -> None:
    rig.store.before["maintain"] = raising(StoreError("fire"))
    assert side(rig.cache.store, "a", SQL, 1) is not None
    rig.store.before.clear()
    with rig.hanging("store", "maintain"):
        side(rig.cache.store, "b", SQL, 2)

    assert [side(rig.cache.lookup, text, SQL).result for text in ("a", "b")] == [1, 2]
    assert rig.counted()[0]["maintain"] == 1


def test_a_result_that_cannot_be_decoded_is_a_miss_until_it_is_stored_anew(
    rig: Rig, side: Side
) -> None:
    rig.corrupt()

    found = side(rig.cache.lookup, KNOWN, SQL)
    assert (found.reason, CorruptEntryError.__name__ in found.explanation) == ("error", True)
    assert rig.breaker("reads").state == "closed"
    assert side.compute(rig.cache, KNOWN, lambda: "new", SQL) == "new"
    assert side(rig.cache.lookup, KNOWN, SQL).result == "new"


def test_a_fault_of_one_item_leaves_the_other_items_of_a_batch_alone(rig: Rig, side: Side) -> None:
    rig.corrupt()
    side(rig.cache.store, OTHER, SQL, "b")
    rig.embedder.before["embed"] = raising(ConnectionError())

    found = side(rig.cache.lookup_many, [KNOWN, OTHER, "unknown"], SQL)

    assert [one.reason for one in found] == ["error", "exact", "error"]
    assert "CorruptEntryError" in found[0].explanation
    assert "ConnectionError" in found[2].explanation
    assert rig.counted() == (NO_FAULT | {"lookup": 2}, {"error": 2})


@pytest.mark.parametrize("hangs", [False, True])
@pytest.mark.parametrize(
    ("part", "operation"), [("embedder", "embed"), ("reads", "get"), ("searches", "search")]
)
def test_what_fails_again_and_again_is_left_alone_and_tried_again_later(  # noqa: PLR0913
    rig: Rig, side: Side, clock: FakeClock, part: str, operation: str, *, hangs: bool
) -> None:
    breaker = rig.breaker(part)
    breaker._clock = clock
    broken = rig.part(part)
    if hangs:
        with rig.hanging(part, operation):
            reasons = [side(rig.cache.lookup, OTHER, SQL).reason for _ in range(5)]
    else:
        broken.before[operation] = raising(ConnectionError())
        reasons = [side(rig.cache.lookup, OTHER, SQL).reason for _ in range(5)]
        broken.before.clear()
    assert reasons == ["timeout" if hangs else "error"] * 5
    health = rig.cache.health_check()
    assert health["status"] == "unhealthy"
    assert health["checks"]["breaker"]["ok"] is False
    assert f"{part} open" in health["checks"]["breaker"]["details"]
    rate = health["checks"]["error_rate"]
    assert (rate["ok"], rate["details"]) == (False, "Error rate: 83.3% (5/6)")
    broken.calls.clear()

    found = side(rig.cache.lookup, OTHER, SQL)
    assert UnavailableError.__name__ in found.explanation
    assert side.compute(rig.cache, OTHER, lambda: "new", SQL) == "new"
    assert operation not in broken.calls

    clock.advance(30)
    assert f"{part} half_open" in rig.cache.health_check()["checks"]["breaker"]["details"]
    assert side(rig.cache.lookup, ALIKE, SQL).result == {"total": [1]}
    assert breaker.state == "closed"
    assert rig.cache.health_check()["checks"]["breaker"]["ok"] is True


def test_a_store_that_cannot_be_written_is_read(rig: Rig, side: Side, clock: FakeClock) -> None:
    rig.breaker("writes")._clock = clock
    rig.store.before["put_many"] = raising(OSError(28, "full"))
    for _ in range(5):
        assert side(rig.cache.store, OTHER, SQL, 1) is None
        assert side(rig.cache.lookup, ALIKE, SQL).result == {"total": [1]}
    rig.store.before.clear()

    assert rig.breaker("writes").state == "open"
    assert side(rig.cache.store, OTHER, SQL, 1) is None
    clock.advance(30)
    assert side(rig.cache.store, OTHER, SQL, 1) is not None
    assert rig.breaker("writes").state == "closed"


def test_a_probe_that_fails_leaves_the_part_alone_again(
    rig: Rig, side: Side, clock: FakeClock
) -> None:
    rig.breaker("embedder")._clock = clock
    rig.embedder.before["embed"] = raising(ConnectionError())
    for _ in range(5):
        side(rig.cache.lookup, OTHER, SQL)
    clock.advance(30)
    rig.embedder.calls.clear()

    for _ in range(3):
        assert side(rig.cache.lookup, OTHER, SQL).reason == "error"

    assert rig.embedder.calls == ["embed"]
    assert rig.breaker("embedder").state == "open"


def test_a_part_that_answers_too_late_is_as_good_as_one_that_hangs(rig: Rig, side: Side) -> None:
    for _ in range(5):
        with rig.hanging("embedder", "embed"):
            assert side(rig.cache.lookup, OTHER, SQL).reason == "timeout"
        rig.let_go()  # the answer comes, and nobody waits for it any more

    assert rig.breaker("embedder").state == "open"


def test_exact_hits_do_not_need_the_part_that_is_left_alone(rig: Rig, side: Side) -> None:
    rig.embedder.before["embed"] = raising(ConnectionError())
    for _ in range(6):
        side(rig.cache.lookup, OTHER, SQL)

    assert side(rig.cache.lookup, KNOWN, SQL).result == {"total": [1]}
    assert side.compute(rig.cache, KNOWN, lambda: "new", SQL) == {"total": [1]}


def test_when_all_workers_hang_the_rest_is_refused_and_not_kept_waiting(
    rigs: Callable[..., Rig], side: Side
) -> None:
    rig = rigs(breaker_failures=1000)
    rig.cache._threads._workers._limit = 2
    with rig.hanging("embedder", "embed"):
        for _ in range(2):
            side(rig.cache.lookup, OTHER, SQL)
    with impatient(rig.cache, 1000):  # which does not end what follows
        found = side(rig.cache.lookup, OTHER, SQL)
        assert found.reason == "timeout"
        assert "no thread is free" in found.explanation
        assert side.compute(rig.cache, OTHER, lambda: "new", SQL) == "new"

    rig.let_go()
    assert side(rig.cache.lookup, KNOWN, SQL).result == {"total": [1]}


@pytest.mark.parametrize(
    ("part", "operation", "check"),
    [("embedder", "embed", "embedding"), ("store", "check", "database")],
)
def test_health_says_of_a_part_that_hangs_that_it_does(
    rig: Rig, side: Side, part: str, operation: str, check: str
) -> None:
    with rig.hanging(part, operation):
        health = side(rig.cache.health_check, timeout=0.05)

    assert health["status"] == "unhealthy"
    assert health["checks"][check]["ok"] is False
    assert "DeadlineError" in health["checks"][check]["error"]
    rig.let_go()
    assert side(rig.cache.health_check)["status"] == "healthy"


def test_a_full_disk_costs_what_it_cannot_hold_and_is_over_when_there_is_room(
    tmp_path: Path, side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(io.FileIO):
        def write(self, data: object, /) -> int:
            raise OSError(28, "No space left on device")

    config = CacheConfig(db_uri=str(tmp_path / "store"))
    with Memora(config, embedder=WordEmbedder()) as cache:
        with monkeypatch.context() as patch:
            patch.setattr("memora.stores.disk._journal.io.FileIO", Full)
            assert side.compute(cache, KNOWN, lambda: "new", SQL) == "new"
            assert side(cache.store_many, [(KNOWN, SQL, 1), (OTHER, SQL, 2)]) == [None, None]
            assert cache.get_stats()["errors"] == NO_FAULT | {
                "store": 3
            }  # each of the two of the batch
            assert side(cache.lookup, KNOWN, SQL).is_miss

        assert side.compute(cache, KNOWN, lambda: "newer", SQL) == "newer"
        assert side.compute(cache, KNOWN, lambda: "newest", SQL) == "newer"
        assert not list(tmp_path.rglob("*.flight"))


def test_a_lease_that_cannot_be_taken_or_given_back_is_no_fault_of_the_call(
    tmp_path: Path, side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = CacheConfig(db_uri=str(tmp_path / "store"))
    with Memora(config, embedder=WordEmbedder()) as cache:
        with monkeypatch.context() as patch:
            patch.setattr(
                "memora.concurrency.flights.FileFlights.try_lock",
                raising_method(OSError("no locks")),
            )
            assert side.compute(cache, KNOWN, lambda: "a", SQL) == "a"
        with monkeypatch.context() as patch:
            patch.setattr("memora.concurrency.flights.Lease.release", raising_method(OSError("io")))
            assert side.compute(cache, OTHER, lambda: "b", SQL) == "b"
        assert cache.get_stats()["errors"]["lookup"] == 2


@pytest.fixture
def shared() -> SharedFaultyStore:
    return SharedFaultyStore(MemoryStore(dimension=64))


def sharing(shared: SharedFaultyStore) -> Memora:
    return Memora(CacheConfig(judge="off"), embedder=WordEmbedder(), store=shared)  # type: ignore[arg-type]


@pytest.mark.parametrize("operation", ["try_lock", "refresh", "release"])
def test_a_lead_that_hangs_leaves_a_call_its_value(
    shared: SharedFaultyStore, side: Side, operation: str
) -> None:
    cache, numbers = sharing(shared), count()

    def call() -> bool:  # again, if the machine is so busy that the lookup is given up
        value = side.compute(cache, f"query {next(numbers)}", lambda: "new", SQL)
        return value == "new" and hang.entered.is_set()

    with hanging(shared, operation) as hang, impatient(cache):
        assert until(call)

    assert len(cache._threads._flights) == 0
    hang.released.set()
    assert at_rest(cache)
    assert shared.leases == 0


@pytest.mark.anyio
@pytest.mark.parametrize("operation", ["try_lock", "refresh", "release"])
async def test_a_leader_cancelled_meanwhile_gives_its_lease_back(
    shared: SharedFaultyStore, operation: str
) -> None:
    cache = sharing(shared)
    scope = anyio.CancelScope()

    async def compute() -> int:
        return 1

    async def lead() -> None:
        with scope:
            await cache.aget_or_compute(KNOWN, SQL, compute)

    with hanging(shared, operation) as hang:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lead)
            assert await anyio.to_thread.run_sync(hang.entered.wait, 60)
            scope.cancel()
            await anyio.lowlevel.checkpoint()
            hang.released.set()

    assert at_rest(cache)
    assert shared.leases == 0
    assert len(cache._threads._flights) == 0


@pytest.mark.anyio
async def test_a_leader_cancelled_while_it_computes_has_given_its_lease_back(
    shared: SharedFaultyStore,
) -> None:
    cache = sharing(shared)
    with anyio.CancelScope() as scope:

        async def compute() -> None:
            assert shared.leases == 1
            scope.cancel()
            await anyio.sleep_forever()

        await cache.aget_or_compute(KNOWN, SQL, compute)

    assert scope.cancelled_caught
    assert shared.leases == 0


def test_a_task_cancelled_again_while_its_lease_is_given_back(shared: SharedFaultyStore) -> None:
    cache = sharing(shared)

    async def compute() -> int:
        return 1

    async def main() -> None:
        task = asyncio.create_task(cache.aget_or_compute(KNOWN, SQL, compute))
        assert await asyncio.to_thread(hang.entered.wait, 60)
        for _ in range(2):
            task.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await task

    with hanging(shared, "release") as hang:
        asyncio.run(main())
    hang.released.set()
    assert at_rest(cache)
    assert shared.leases == 0


def test_a_loop_that_was_closed_over_a_leader_keeps_no_lease(shared: SharedFaultyStore) -> None:
    cache = sharing(shared)
    loop = asyncio.new_event_loop()
    computing = asyncio.Event()

    async def compute() -> None:
        computing.set()
        await asyncio.sleep(3600)

    task = loop.create_task(cache.aget_or_compute(KNOWN, SQL, compute))
    loop.run_until_complete(computing.wait())
    assert shared.leases == 1
    loop.close()
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # asyncio would complain, rightly
    del task
    gc.collect()
    assert shared.leases == 0
    assert len(cache._threads._flights) == 0


def test_a_fault_has_no_text_of_the_query_in_the_log(
    rig: Rig, side: Side, capsys: pytest.CaptureFixture[str]
) -> None:
    rig.embedder.before["embed"] = raising(ValueError("cannot embed 'my secret'"))

    side(rig.cache.lookup, "my secret", SQL)
    with rig.hanging("store", "get"):
        side(rig.cache.lookup, "my secret", SQL)

    logged = capsys.readouterr().err
    assert "ValueError" in logged
    assert "DeadlineError" in logged
    assert "secret" not in logged


def test_argument_errors_are_no_faults(rig: Rig, side: Side) -> None:
    for method, arguments in (
        (rig.cache.lookup, (" ",)),
        (rig.cache.lookup_many, ([" "],)),
        (rig.cache.store, ("q", {"a": object()}, 1)),
        (rig.cache.store_many, ([("q", SQL, 1), (" ", SQL, 1)],)),
    ):
        with pytest.raises(MemoraError):
            side(method, *arguments)

    assert rig.counted() == (NO_FAULT, {})
    assert rig.memory.count() == 1
