"""The event loop goes on: what takes time is done elsewhere, what takes none is done at once."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from doubles import WordEmbedder, until
from engine import Faulty, SharedFaultyStore

from memora import CacheConfig, Memora
from memora.codec import Codec
from memora.stores.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

SQL = {"agent": "sql"}
QUERY = "total sales in march for all regions"
ALIKE = "total sales in march for all regions please"
LARGE = "x" * 1_000_000
STORE = [
    *("get", "search", "put_many", "touch", "maintain", "count", "check"),
    *("try_lock", "refresh", "release"),
]


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return request.param


class Ticker:
    """Counts how often a task of the loop has its turn."""

    ticks = 0

    async def tick(self) -> None:
        while True:
            self.ticks += 1
            await anyio.sleep(0.001)

    def block(self) -> None:
        """Block this thread until the loop has gone round 20 times more; it must be another's."""
        enough = self.ticks + 20
        assert until(lambda: self.ticks >= enough), "the event loop stands still"


async def beside_ticks(ticker: Ticker, call: Callable[[], Awaitable[Any]]) -> Any:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ticker.tick)
        found = await call()
        tasks.cancel_scope.cancel()
    return found


class Blocking:
    """A cache whose parts block the thread that calls them for as long as the loop takes 20 turns.

    If that is the loop's own, it takes none, and the call fails after 20 seconds.
    """

    def __init__(self) -> None:
        self.ticker = Ticker()
        self.embedder = Faulty(WordEmbedder())
        self.store = SharedFaultyStore(MemoryStore(dimension=64))
        config = CacheConfig(
            judge="off", embedding_cache_size=0, lookup_timeout_seconds=60, fail_open=False
        )
        self.cache = Memora(config, embedder=self.embedder, store=self.store)  # type: ignore[arg-type]
        self.cache.store(QUERY, SQL, 1)
        self.blocked: list[str] = []
        for operation in STORE:
            self.store.before[operation] = self.blocks(operation)
        self.embedder.before["embed"] = self.blocks("embed")

    def blocks(self, operation: str) -> Callable[[], None]:
        def act() -> None:
            self.ticker.block()
            self.blocked.append(operation)

        return act


@pytest.mark.anyio
async def test_a_lookup_leaves_the_loop_alone() -> None:
    rig = Blocking()

    found = await beside_ticks(rig.ticker, lambda: rig.cache.alookup(ALIKE, SQL))

    assert found.result == 1
    assert rig.blocked == ["get", "embed", "search", "get", "touch"]


@pytest.mark.anyio
async def test_a_batch_of_lookups_leaves_the_loop_alone() -> None:
    rig = Blocking()

    found = await beside_ticks(rig.ticker, lambda: rig.cache.alookup_many([ALIKE, QUERY], SQL))

    assert [one.result for one in found] == [1, 1]
    assert {"get", "embed", "search", "touch"} == set(rig.blocked)


@pytest.mark.anyio
async def test_a_store_leaves_the_loop_alone() -> None:
    rig = Blocking()

    assert await beside_ticks(rig.ticker, lambda: rig.cache.astore("new", SQL, 2)) is not None
    assert await beside_ticks(rig.ticker, lambda: rig.cache.astore_many([("b", SQL, 2)])) != [None]
    assert rig.blocked == ["embed", "put_many", "maintain"] * 2


@pytest.mark.anyio
async def test_a_cached_call_leaves_the_loop_alone() -> None:
    rig = Blocking()

    async def compute() -> int:
        return 2

    assert await beside_ticks(rig.ticker, lambda: rig.cache.aget_or_compute("n", SQL, compute)) == 2
    looked, led = ["get", "embed", "search"], ["try_lock", "refresh", "get"]
    stored = ["embed", "put_many", "maintain"]
    assert rig.blocked == [*looked, *led, *stored, "release"]


@pytest.mark.anyio
async def test_a_health_check_leaves_the_loop_alone() -> None:
    rig = Blocking()

    found = await beside_ticks(rig.ticker, rig.cache.ahealth_check)

    assert found["status"] == "healthy"
    assert sorted(rig.blocked) == ["check", "count", "embed"]  # beside each other


@pytest.mark.anyio
async def test_the_loop_would_be_seen_to_stand_still(monkeypatch: pytest.MonkeyPatch) -> None:
    """The measure itself: a sync call blocks the loop, and that is told."""
    rig = Blocking()
    monkeypatch.setattr(rig.ticker, "block", lambda: rig.blocked.append(str(rig.ticker.ticks)))

    async def call() -> None:
        rig.cache._core.config = rig.cache.config.model_copy(
            update={"lookup_timeout_seconds": None}
        )
        rig.cache.lookup(ALIKE, SQL)

    await beside_ticks(rig.ticker, call)
    ticks = [one for one in rig.blocked if one.isdigit()]
    assert len(ticks) == 5
    assert len(set(ticks)) == 1


class Threads:
    """Notes in which threads results are encoded and decoded."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.encoding: list[int] = []
        self.decoding: list[int] = []
        encode, decode = Codec.encode, Codec.decode

        def noted_encode(codec: Codec, value: Any) -> bytes:
            self.encoding.append(threading.get_ident())
            return encode(codec, value)

        def noted_decode(codec: Codec, payload: bytes) -> Any:
            self.decoding.append(threading.get_ident())
            return decode(codec, payload)

        monkeypatch.setattr(Codec, "encode", noted_encode)
        monkeypatch.setattr(Codec, "decode", noted_decode)


@pytest.mark.anyio
async def test_an_exact_hit_in_ram_does_not_leave_the_loop(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    for uri in ("memory://", str(tmp_path_factory.mktemp("store"))):
        with Memora(CacheConfig(db_uri=uri), embedder=WordEmbedder()) as cache:
            await cache.astore(QUERY, SQL, {"small": 1})
            started = cache._threads._workers._started
            with monkeypatch.context() as patch:
                threads = Threads(patch)
                # Whoever needs a worker now, fails.
                patch.setattr(cache._threads._workers, "_begin", None)
                found = await cache.alookup(QUERY, SQL)
                again = await cache.aget_or_compute(QUERY, SQL, cache.aget_stats)
            assert (found.reason, again) == ("exact", {"small": 1})
            assert threads.decoding == [threading.get_ident()] * 2
            assert cache._threads._workers._started == started


@pytest.mark.anyio
async def test_a_large_result_is_encoded_and_decoded_in_a_worker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Memora(CacheConfig(), embedder=WordEmbedder()) as cache:
        threads = Threads(monkeypatch)
        await cache.astore(QUERY, SQL, LARGE)
        found = await cache.alookup(QUERY, SQL)

    assert found.result == LARGE
    assert len(threads.encoding) == len(threads.decoding) == 1
    assert threading.get_ident() not in threads.encoding + threads.decoding
