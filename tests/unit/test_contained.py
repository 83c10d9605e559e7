"""What a part raises is its fault; what stops the application passes; closing raises nothing."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any

import anyio
import pytest
import trio
from doubles import WordEmbedder, until
from engine import SIDES, Faulty, FaultyStore, Side, raising

from memora import CacheConfig, Memora
from memora._faults import contained, is_fault
from memora.errors import MemoraError, PartError, StoreError
from memora.stores.disk import _journal
from memora.stores.memory import MemoryStore

if TYPE_CHECKING:
    from pathlib import Path

SQL = {"agent": "sql"}
KNOWN, OTHER = "total sales in march", "rainfall of april"


class Panic(BaseException):
    """As pyo3's, of a library written in Rust."""


FAULTS = [Panic("index out of bounds"), SystemExit(3)]
STOPS = [KeyboardInterrupt(), GeneratorExit(), asyncio.CancelledError()]
PARTS = [
    ("embedder", "embed"),
    ("store", "get"),
    ("store", "search"),
    ("store", "put_many"),
    ("store", "maintain"),
    ("store", "touch"),
    ("store", "get_in_memory"),
]


class Rig:
    def __init__(self, **settings: Any) -> None:
        self.embedder = Faulty(WordEmbedder())
        self.store = Faulty(MemoryStore(dimension=64))
        config = CacheConfig(judge="off", embedding_cache_size=0, **settings)
        self.cache = Memora(config, embedder=self.embedder, store=self.store)  # type: ignore[arg-type]
        assert self.cache.store(KNOWN, SQL, 1) is not None

    def part(self, name: str) -> Faulty:
        return self.embedder if name == "embedder" else self.store

    def errors(self) -> int:
        return sum(self.cache.get_stats()["errors"].values())


@pytest.fixture(params=SIDES)
def side(request: pytest.FixtureRequest) -> Side:
    return Side(request.param)


@pytest.mark.parametrize("timeout", [5.0, None])
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
@pytest.mark.parametrize(("part", "operation"), PARTS)
def test_what_is_no_exception_is_a_fault_of_the_part(
    side: Side, part: str, operation: str, fault: BaseException, timeout: float | None
) -> None:
    rig = Rig(lookup_timeout_seconds=timeout, breaker_failures=1000)
    rig.part(part).before[operation] = raising(fault)

    found = side(rig.cache.lookup, KNOWN, SQL)
    assert found.is_hit or found.reason == "error"
    side(rig.cache.store, OTHER, SQL, 2)
    assert side.compute(rig.cache, "answer of the application", lambda: "computed", SQL) == (
        "computed"
    )
    assert rig.errors() > 0
    rig.part(part).before.clear()
    assert side(rig.cache.lookup, KNOWN, SQL).is_hit


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
def test_a_condition_or_a_codec_that_raises_it_costs_no_answer(
    side: Side, fault: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig()

    def condition(_: object) -> bool:
        raise fault

    computed = side.compute(rig.cache, OTHER, lambda: "computed", SQL, condition=condition)
    assert computed == "computed"
    with monkeypatch.context() as patch:
        patch.setattr(rig.cache._ports.codec, "decode", lambda _: raising(fault)())
        assert side(rig.cache.lookup, KNOWN, SQL).reason == "error"
        patch.setattr(rig.cache._ports.codec, "encode", lambda _: raising(fault)())
        assert side(rig.cache.store, OTHER, SQL, 2) is None
    with monkeypatch.context() as patch:
        patch.setattr(rig.cache._ports.judge, "decide", lambda *_, **__: raising(fault)())
        assert side(rig.cache.lookup, f"{KNOWN} please", SQL).reason == "error"
    assert side(rig.cache.lookup, KNOWN, SQL).is_hit


def test_it_trips_the_breaker_and_shows_in_health() -> None:
    rig = Rig(breaker_failures=2)
    rig.embedder.before["embed"] = raising(Panic("again and again"))
    for _ in range(3):
        rig.cache.lookup(OTHER, SQL)

    assert rig.cache._ports.breakers.embedder.state == "open"
    checks = rig.cache.health_check()["checks"]
    assert checks["embedding"]["error"] == "Panic: again and again"
    assert not checks["breaker"]["ok"]


def test_it_is_an_error_of_ours_for_who_asks_for_errors() -> None:
    rig = Rig(fail_open=False)
    rig.store.before["get_in_memory"] = raising(Panic("index out of bounds"))
    with pytest.raises(PartError, match="Panic: index out of bounds"):
        rig.cache.lookup(OTHER, SQL)
    rig.store.before = {"select": raising(SystemExit(1))}
    with pytest.raises(MemoraError, match="SystemExit: 1"):
        rig.cache.invalidate(KNOWN)


@pytest.mark.parametrize("stop", STOPS, ids=lambda stop: type(stop).__name__)
def test_what_stops_the_application_passes(stop: BaseException) -> None:
    rig = Rig(lookup_timeout_seconds=None)
    rig.embedder.before["embed"] = raising(stop)
    with pytest.raises(type(stop)):
        rig.cache.lookup(OTHER, SQL)
    with pytest.raises(type(stop)):
        rig.cache.store(OTHER, SQL, 1)
    assert not is_fault(stop)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_cancelled_task_is_no_fault(backend: str) -> None:
    rig = Rig()
    entered = threading.Event()

    def wait() -> None:
        entered.set()
        assert released.wait(60)

    released = threading.Event()
    rig.embedder.before["embed"] = wait

    async def run() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(rig.cache.alookup, OTHER, SQL)
            await anyio.to_thread.run_sync(entered.wait)
            group.cancel_scope.cancel()

    anyio.run(run, backend=backend)
    released.set()
    assert rig.errors() == 0
    assert not is_fault(trio.Cancelled._create(source="deadline"))


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="Windows has none of these signals")
@pytest.mark.parametrize("timeout", [5.0, None])
def test_a_signal_that_ends_the_process_does_so_in_the_midst_of_a_lookup(
    timeout: float | None,
) -> None:
    rig = Rig(lookup_timeout_seconds=timeout)

    def end(*_: object) -> None:
        sys.exit(7)

    ended = threading.Event()

    def interrupt() -> None:
        os.kill(os.getpid(), signal.SIGUSR1)
        ended.wait(2)  # while the main thread is interrupted

    rig.embedder.before["embed"] = interrupt
    former = signal.signal(signal.SIGUSR1, end)
    try:
        with pytest.raises(SystemExit, match="7"):
            rig.cache.lookup(OTHER, SQL)
    finally:
        ended.set()
        signal.signal(signal.SIGUSR1, former)


def test_the_boundary_changes_no_exception() -> None:
    with pytest.raises(ValueError, match="as it is"), contained:
        raise ValueError("as it is")
    with pytest.raises(PartError) as raised, contained:
        raise SystemExit("bye")
    assert isinstance(raised.value.__cause__, SystemExit)


def opened(path: Path, **settings: Any) -> Memora:
    return Memora(
        CacheConfig(db_uri=str(path), max_staleness_seconds=60.0, **settings),
        embedder=WordEmbedder(),
    )


def _remove(path: Path) -> None:
    shutil.rmtree(path)


def _a_file_instead(path: Path) -> None:
    shutil.rmtree(path)
    path.write_text("not a directory")


def _owner_lock_a_directory(path: Path) -> None:
    lock = path / "semantic_cache.log" / "owner.lock"
    lock.unlink(missing_ok=True)
    lock.mkdir()


def _owner_lock_a_link(path: Path) -> None:
    lock = path / "semantic_cache.log" / "owner.lock"
    lock.unlink(missing_ok=True)
    lock.symlink_to(path / "elsewhere")


@pytest.mark.parametrize(
    "harm", [_remove, _a_file_instead, _owner_lock_a_directory, _owner_lock_a_link]
)
@pytest.mark.parametrize("durability", ["memory", "process", "power"])
def test_closing_raises_nothing_and_says_what_was_wrong(
    tmp_path: Path, harm: Any, durability: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "store"
    with opened(path, durability=durability) as cache:
        cache.store(KNOWN, SQL, 1)
        harm(path)
        assert cache.lookup(KNOWN, SQL).result == 1
    assert cache.health_check()["metrics"]["recent_errors"]["maintain"] >= 1
    assert "cache_close_failed" in capsys.readouterr().err
    cache.close()  # once more, and nothing


def test_what_was_acknowledged_and_is_lost_is_named_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with opened(tmp_path, durability="memory") as cache:
        cache.store(OTHER, SQL, 1)
        monkeypatch.setattr(_journal, "_write_all", refuse)
        assert cache.store(KNOWN, SQL, "x" * 1000) is not None
    said = capsys.readouterr().err
    assert "bytes that were acknowledged are lost" in said
    assert KNOWN not in said


@pytest.mark.parametrize("fault", [*FAULTS, OSError("gone"), StoreError("full"), RuntimeError()])
def test_a_store_that_cannot_be_closed_harms_nobody(fault: BaseException) -> None:
    store = FaultyStore(MemoryStore(dimension=64))
    store.before["close"] = raising(fault)

    async def run() -> None:
        config = CacheConfig()
        async with Memora(config, embedder=WordEmbedder(), store=store):  # type: ignore[arg-type]
            pass

    anyio.run(run)
    with Memora(CacheConfig(), embedder=WordEmbedder(), store=store) as cache:  # type: ignore[arg-type]
        pass
    assert cache.health_check()["metrics"]["recent_errors"]["maintain"] == 1


def test_work_in_the_background_goes_on_after_it() -> None:
    rig = Rig()
    rig.store.before["sweep"] = raising(Panic("once"))
    rig.cache.start_scheduler(0.01, initial_delay_seconds=0.0)
    try:
        assert until(lambda: rig.cache.get_scheduler_stats()["errors"] >= 2)  # type: ignore[index]
        assert rig.cache.get_scheduler_stats()["running"]  # type: ignore[index]
    finally:
        rig.cache.stop_scheduler()


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("option", ["key", "context"])
def test_what_makes_a_key_may_raise_it(fault: BaseException, option: str) -> None:
    with Memora(CacheConfig(), embedder=WordEmbedder()) as cache:
        function = cache.cached(lambda query: query.upper(), **{option: raising(fault)})

        assert function(KNOWN) == KNOWN.upper()
        assert len(function.cache_info().uncacheable) == 1


@pytest.mark.parametrize("fault", FAULTS)
def test_what_identifies_an_object_may_raise_it(fault: BaseException) -> None:
    class Agent:
        def ask(self, query: str) -> str:
            return query.upper()

    class Strange(dict[str, str]):
        def items(self) -> Any:
            raise fault

    with Memora(CacheConfig(), embedder=WordEmbedder()) as cache:
        ask = cache.cached(Agent().ask, instance=raising(fault))
        assert ask(KNOWN) == KNOWN.upper()
        assert ask.cache_info().uncacheable == {"context": 1}
        assert cache.get_or_compute(KNOWN, Strange(a="b"), lambda: 1) == 1
        assert cache.get_stats()["uncacheable"]["context"] == 2


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("call", ["export_entries", "import_entries", "warm"])
def test_who_asks_for_work_is_told_by_an_exception(
    tmp_path: Path, fault: BaseException, call: str
) -> None:
    store = FaultyStore(MemoryStore(dimension=64))
    with Memora(CacheConfig(), embedder=WordEmbedder(), store=store) as cache:  # type: ignore[arg-type]
        cache.store(KNOWN, SQL, 1)
        cache.export_entries(tmp_path / "there.parquet")
        for name in ("select", "peek", "put_many"):
            store.before[name] = raising(fault)
        given: dict[str, Any] = {
            "export_entries": tmp_path / "new.parquet",
            "import_entries": tmp_path / "there.parquet",
            "warm": [(OTHER, SQL, 2)],
        }
        with pytest.raises(PartError):
            getattr(cache, call)(given[call])
