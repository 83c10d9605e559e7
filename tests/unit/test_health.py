"""Health: each part of a cache is tried, and what is wrong is said within one probe."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from doubles import WordEmbedder, until
from engine import SIDES, Faulty, FaultyStore, Side, at_rest, hanging, impatient, raising

import memora
from memora import CacheConfig, Memora
from memora.embedders import OnnxEmbedder
from memora.errors import ArgumentError
from memora.stores.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Iterator

    from doubles import FakeClock

PACKAGED = Path(memora.__file__).parent / "models" / "all-MiniLM-L6-v2"
SQL = {"agent": "sql"}
PARTS = {"embedding", "database", "index", "error_rate", "scheduler", "workers", "breaker"}


@pytest.fixture(params=SIDES)
def side(request: pytest.FixtureRequest) -> Side:
    return Side(request.param)


@pytest.fixture
def parts() -> tuple[Faulty, FaultyStore]:
    return Faulty(WordEmbedder()), FaultyStore(MemoryStore(dimension=64))


@pytest.fixture
def cache(parts: tuple[Faulty, FaultyStore]) -> Iterator[Memora]:
    # Breakers that never open: what is judged is the part itself.
    config = CacheConfig(embedding_cache_size=0, breaker_failures=1000)
    embedder, store = parts
    with Memora(config, embedder=embedder, store=store) as opened:  # type: ignore[arg-type]
        yield opened


@pytest.fixture
def on_disk(tmp_path: Path) -> Iterator[Memora]:
    config = CacheConfig(db_uri=str(tmp_path / "store"), max_staleness_seconds=0.02)
    with Memora(config, embedder=WordEmbedder()) as opened:
        opened.store("q", SQL, 1)
        yield opened


def is_healthy(cache: Memora) -> bool:
    return bool(cache.health_check()["status"] == "healthy")


def faults(health: dict[str, Any]) -> list[str]:
    """Return which parts are at fault; none says so of the whole, and nothing else does."""
    names = [name for name, check in health["checks"].items() if not check["ok"]]
    assert health["status"] == ("unhealthy" if names else "healthy")
    return names


def test_every_part_is_tried_and_timed(on_disk: Memora, side: Side) -> None:
    health = side(on_disk.health_check)

    assert health["checks"].keys() == PARTS
    assert faults(health) == []
    assert all(check["duration_ms"] >= 0 for check in health["checks"].values())
    assert health["metrics"]["total_entries"] == 1


def test_a_live_process_is_asked_for_nothing_but_itself(
    cache: Memora, parts: tuple[Faulty, FaultyStore], side: Side
) -> None:
    for part in parts:
        part.calls.clear()
        part.before = dict.fromkeys(("embed", "count", "check"), raising(OSError("gone")))

    assert side(cache.health_check, "live")["checks"].keys() == {"scheduler", "workers"}
    assert faults(side(cache.health_check, "live")) == []
    assert [part.calls for part in parts] == [[], []]
    assert faults(side(cache.health_check)) == ["embedding", "database"]


def test_a_probe_scans_nothing(cache: Memora, parts: tuple[Faulty, FaultyStore]) -> None:
    for i in range(50):
        cache.store(f"question {i}", SQL, i)
    embedder, store = parts
    embedder.calls.clear()
    store.calls.clear()

    cache.health_check()

    assert embedder.calls == ["embed"]
    assert store.calls == ["count", "check"]


@pytest.mark.parametrize(
    "arguments", [{"kind": "alive"}, {"timeout": 0}, {"timeout": -1}, {"timeout": "soon"}]
)
def test_wrong_arguments_are_refused(cache: Memora, side: Side, arguments: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match=str(next(iter(arguments)))):
        side(cache.health_check, **arguments)


# Real faults. Each is told by the next probe, and is over when it is repaired.


@pytest.mark.parametrize("folder", ["", "semantic_cache.lance", "semantic_cache.log"])
def test_a_store_whose_directory_has_gone_is_unhealthy_until_it_is_back(
    on_disk: Memora, tmp_path: Path, folder: str
) -> None:
    path = tmp_path / "store" / folder
    path.rename(tmp_path / "elsewhere")

    health = on_disk.health_check()
    assert "database" in faults(health)
    assert "StoreError" in health["checks"]["database"]["error"]
    assert faults(on_disk.health_check("live")) == []

    shutil.rmtree(path, ignore_errors=True)  # what a writer may have made meanwhile
    (tmp_path / "elsewhere").rename(path)
    assert until(lambda: is_healthy(on_disk))
    assert on_disk.lookup("q", SQL).result == 1


def test_another_directory_in_the_place_of_the_store_is_not_taken_for_it(
    on_disk: Memora, tmp_path: Path
) -> None:
    path = tmp_path / "store"
    path.rename(tmp_path / "elsewhere")
    for name in ("semantic_cache.lance", "semantic_cache.log"):
        (path / name).mkdir(parents=True, exist_ok=True)  # a background thread may make it too

    assert "database" in faults(on_disk.health_check())

    path.rename(tmp_path / "not the store")
    (tmp_path / "elsewhere").rename(path)
    assert until(lambda: is_healthy(on_disk))


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads whatever it likes"
)
def test_a_store_that_cannot_be_read_is_unhealthy_until_it_can(
    on_disk: Memora, tmp_path: Path
) -> None:
    (tmp_path / "store").chmod(0)
    try:
        assert "database" in faults(on_disk.health_check())
    finally:
        (tmp_path / "store").chmod(0o700)
    assert until(lambda: is_healthy(on_disk))


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json"])
def test_a_model_whose_file_has_gone_is_unhealthy_until_it_is_back(
    tmp_path: Path, name: str
) -> None:
    directory = tmp_path / "model"
    shutil.copytree(PACKAGED, directory, copy_function=os.symlink)
    (file,) = directory.rglob(name)
    with Memora(CacheConfig(), embedder=OnnxEmbedder(directory)) as cache:
        file.rename(tmp_path / name)

        health = cache.health_check()
        assert faults(health) == ["embedding"]
        assert str(file) in health["checks"]["embedding"]["error"]
        assert faults(cache.health_check("live")) == []  # a restart would make it worse
        assert cache.store("q", SQL, 1) is not None  # and what is loaded works on

        (tmp_path / name).rename(file)
        assert is_healthy(cache)


def test_an_error_rate_above_a_tenth_is_unhealthy_until_enough_succeeds(
    cache: Memora, parts: tuple[Faulty, FaultyStore]
) -> None:
    def look_up(times: int) -> None:
        for i in range(times):
            cache.lookup(f"question {i}", SQL)

    embedder, _ = parts
    look_up(45)
    embedder.before["embed"] = raising(ConnectionError())
    look_up(5)
    embedder.before.clear()
    assert faults(cache.health_check()) == []  # a tenth is not above it

    embedder.before["embed"] = raising(ConnectionError())
    look_up(1)
    embedder.before.clear()
    health = cache.health_check()
    assert faults(health) == ["error_rate"]
    assert health["checks"]["error_rate"]["details"] == "Error rate: 11.8% (6/51)"
    assert health["metrics"]["recent_errors"]["lookup"] == 6

    look_up(9)
    assert faults(cache.health_check()) == []


def test_a_young_cache_is_not_judged_by_its_first_faults(
    cache: Memora, parts: tuple[Faulty, FaultyStore]
) -> None:
    parts[0].before["embed"] = raising(ConnectionError())
    for i in range(4):
        cache.lookup(f"question {i}", SQL)
    parts[0].before.clear()

    assert faults(cache.health_check()) == []


def test_without_traffic_an_error_rate_does_not_stay_bad(
    cache: Memora, parts: tuple[Faulty, FaultyStore], clock: FakeClock
) -> None:
    cache._metrics._clock = clock
    parts[0].before["embed"] = raising(ConnectionError())
    for i in range(10):
        cache.lookup(f"question {i}", SQL)
    parts[0].before.clear()

    clock.advance(60)
    assert faults(cache.health_check()) == ["error_rate"]
    clock.advance(1)
    health = cache.health_check()
    assert faults(health) == []
    assert "none in the last 60 s" in health["checks"]["error_rate"]["details"]


def test_a_scheduler_whose_thread_has_died_is_neither_ready_nor_live(
    cache: Memora, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.start_scheduler(60, initial_delay_seconds=60)
    stats = cache.get_scheduler_stats()
    assert stats is not None
    with monkeypatch.context() as patch:
        patch.setattr(cache._scheduler, "stats", lambda: stats | {"running": False})
        assert faults(cache.health_check()) == ["scheduler"]
        assert faults(cache.health_check("live")) == ["scheduler"]

    assert faults(cache.health_check()) == []
    cache.stop_scheduler()
    assert faults(cache.health_check()) == []  # it was told to


def test_when_all_threads_hang_the_process_is_not_live(
    cache: Memora, parts: tuple[Faulty, FaultyStore], side: Side
) -> None:
    cache._threads._workers._limit = 2
    with hanging(parts[0], "embed") as hang, impatient(cache):
        for i in range(2):
            assert cache.lookup(f"question {i}", SQL).reason == "timeout"
    assert faults(side(cache.health_check, "live")) == ["workers"]

    hang.released.set()
    assert at_rest(cache)
    assert faults(side(cache.health_check, "live")) == []


def test_a_part_that_hangs_takes_one_thread_however_often_it_is_asked_for(
    cache: Memora, parts: tuple[Faulty, FaultyStore], side: Side
) -> None:
    embedder, _ = parts
    embedder.calls.clear()
    with hanging(embedder, "embed") as hang:
        for _ in range(5):
            health = side(cache.health_check, timeout=0.01)
            assert "embedding" in faults(health)
            assert "no answer within" in health["checks"]["embedding"]["error"]
        assert embedder.calls == ["embed"]
        hang.released.set()
    assert until(lambda: is_healthy(cache))


def test_a_fault_without_a_readable_message_breaks_nothing() -> None:
    class MuteError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    class InvalidRow:
        identity, dimension = "broken", 8

        def embed(self, _: list[str]) -> Any:
            raise MuteError

    cache = Memora(CacheConfig(), embedder=InvalidRow())

    assert cache.lookup("q").explanation == "the cache failed: MuteError: <no message>"
    assert cache.explain("q").reason == "error"
    assert cache.health_check()["checks"]["embedding"]["error"] == "MuteError: <no message>"


def test_a_closed_cache_is_unhealthy_and_says_so(cache: Memora) -> None:
    cache.close()

    assert faults(cache.health_check("live")) == ["cache"]
    assert "closed" in cache.health_check()["checks"]["cache"]["error"]
