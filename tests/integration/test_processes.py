"""Several processes on one store: they agree, lose nothing, and one may die at any moment."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

import pytest
from doubles import WordEmbedder, until
from processes import PATIENCE, History, Process, held
from store_worker import CONTEXTS

from memora import CacheConfig, Memora
from memora.stores.disk._checkpoint import read_checkpoint
from memora.stores.disk._journal import MAGIC

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TABLE = "semantic_cache"
# What takes minutes and megabytes takes a few entries.
FLUSHING = {"memora.stores.disk._maintenance._FLUSH_BYTES": [1, 1]}
COMPACTING = FLUSHING | {
    "memora.stores.disk._maintenance._SEGMENT_BYTES": [2000, 2000],
    "memora.stores.disk._maintenance._DEAD_BYTES": 0,
    "memora.stores.disk._maintenance._LIST_SECONDS": -1.0,
    "memora.stores.disk._maintenance._FILE_BYTES": 0,
    "memora.stores.disk._maintenance.GRACE_SECONDS": 1.0,
    "memora.stores.disk._view.GRACE_SECONDS": 1.0,
    "memora.stores.disk.store.GRACE_SECONDS": 1.0,
    "memora.stores.disk._table._COMPACT_AT": 4,
    "memora.stores.disk._table._KEEP_SECONDS": 0.1,
}
KILL_ROUNDS = int(os.environ.get("STORE_KILL_ROUNDS", "0"))


def a_seed(usual: int) -> int:
    """Return the usual seed, or where many rounds are asked for, a new one."""
    seed = random.randrange(1 << 32) if KILL_ROUNDS else usual  # noqa: S311
    print(f"seed {seed}")  # noqa: T201 - shown where the test fails
    return seed


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Any]:
    with ExitStack() as processes:

        def begin(name: str, **task: Any) -> Process:
            process = Process(tmp_path / "store", name, **task)
            processes.callback(process.end)
            return process

        yield begin


def opened(path: Path, **settings: Any) -> Memora:
    settings = {"max_entries": None, "max_staleness_seconds": 0.05} | settings
    return Memora(CacheConfig(db_uri=str(path), **settings), embedder=WordEmbedder())


@pytest.mark.parametrize("clock", [0, -3600], ids=["one clock", "a clock an hour behind"])
@pytest.mark.parametrize(
    ("settings", "constants"),
    [({}, {}), ({"hot_index": "off", "hot_payload_bytes": 0}, COMPACTING)],
    ids=["as is", "off and compacting"],
)
def test_processes_agree_in_the_end(
    start: Any, tmp_path: Path, settings: dict[str, Any], constants: dict[str, Any], clock: int
) -> None:
    seed = a_seed(1)
    settings = {"max_staleness_seconds": 0.05, **settings}
    shared = [f"shared {i}" for i in range(8)]
    own = {name: [f"of {name} {i}" for i in range(8)] for name in "abc"}
    processes = {
        name: start(name, settings=settings, constants=constants, clock=clock if name == "c" else 0)
        for name in "abc"
    }
    for n, (name, process) in enumerate(processes.items()):
        process.wait_for("ready")
        process.do("work", seed=seed + n, steps=250, keys=shared + own[name])
    for process in processes.values():
        process.wait_for("worked")
    keys = shared + [key for some in own.values() for key in some]

    def dumps() -> list[dict[str, str]]:
        return [process.ask("dump", keys=keys)["held"] for process in processes.values()]

    assert until(lambda: all(held == found[0] for held in found) if (found := dumps()) else False)
    agreed = dumps()[0]
    history = History()
    for process in processes.values():
        last = process.ask("dump", keys=keys)
        assert not any(last["errors"].values())
        assert last["count"] == len(agreed)
        history.add(process.told)
    assert history.failed == 0
    if not clock:  # without a common clock, which of two that have not seen each other is last?
        history.check(agreed)
    with opened(tmp_path / "store") as fresh:
        assert held(fresh, keys) == agreed
    for process in processes.values():
        process.close()
    with opened(tmp_path / "store") as fresh:
        assert held(fresh, keys) == agreed
        assert fresh.get_index_stats()["quarantined_entries"] == 0


def test_processes_together_keep_the_limit(start: Any, tmp_path: Path) -> None:
    settings = {"max_entries": 50, "max_staleness_seconds": 0.05}
    processes = [start(name, settings=settings) for name in "abcd"]
    for process in processes:
        process.wait_for("ready")
    for process in processes:
        for i in range(100):
            process.do("store", key=f"{id(process)} {i}", place=0)

    for process in processes:
        for _ in range(100):
            assert process.wait_for("stored")["ok"]

    def counts() -> set[int]:
        return {process.ask("state")["count"] for process in processes}

    assert until(lambda: len(found := counts()) == 1 and 0 < max(found) <= 50)
    with opened(tmp_path / "store", max_entries=50) as fresh:
        assert 0 < fresh.get_stats()["total_entries"] <= 50


@pytest.mark.parametrize("policy", ["lru", "lfu"])
def test_what_one_process_uses_others_do_not_evict(start: Any, tmp_path: Path, policy: str) -> None:
    settings = {
        "max_entries": 50,
        "max_staleness_seconds": 0.05,
        "flush_interval_seconds": 0.1,
        "eviction_policy": policy,
    }
    reader, *writers = (start(name, settings=settings) for name in ("reader", "a", "b"))
    for process in (reader, *writers):
        process.wait_for("ready")
    hot = [f"hot {i}" for i in range(5)]
    for key in hot:
        assert writers[0].ask("store", key=key, place=0)["ok"]

    def all_know(uses: dict[str, int]) -> bool:
        return all(
            uses.items() <= process.ask("uses")["uses"].items() for process in (reader, *writers)
        )

    # Each round stores fewer than there are other places, and begins when all know the last one.
    last = dict.fromkeys(hot, 0)
    for used in range(1, 9):
        assert until(lambda last=last: all_know(last))
        for key in hot:
            assert reader.ask("look", key=key, place=0)["reason"] == "exact"
        assert until(lambda used=used: all_know(dict.fromkeys(hot, used)))
        for i in range(10):
            for writer in writers:
                assert writer.ask("store", key=f"{id(writer)} {used} {i}", place=0)["ok"]
        last = {f"{id(writer)} {used} 9": 0 for writer in writers}

    def counts() -> set[int]:
        return {process.ask("state")["count"] for process in (reader, *writers)}

    # Never more. Fewer by what two evict at one moment, each for what it stores: it does not add
    # up, as nobody evicts below the limit.
    assert until(lambda: len(found := counts()) == 1 and 46 <= max(found) <= 50)
    for process in (reader, *writers):
        told = process.ask("dump", keys=hot)
        assert set(told["held"]) == {f"{key}/0" for key in hot}
        assert not any(told["errors"].values())
        process.close()
    with opened(tmp_path / "store", max_entries=50, eviction_policy=policy) as fresh:
        assert 46 <= fresh.get_stats()["total_entries"] <= 50
        assert set(held(fresh, hot)) == {f"{key}/0" for key in hot}


def test_uses_survive_a_kill_once_they_are_written(start: Any, tmp_path: Path) -> None:
    settings = {"max_staleness_seconds": 0.05, "flush_interval_seconds": 0.1}
    user, watcher = (start(name, settings=settings) for name in ("user", "watcher"))
    for process in (user, watcher):
        process.wait_for("ready")
    for key in ("a", "b", "c"):
        assert user.ask("store", key=key, place=0)["ok"]
    for key in "abbc":
        user.ask("look", key=key, place=0)
    expected = {"a": 1, "b": 2, "c": 1}
    assert until(lambda: watcher.ask("uses")["uses"] == expected)

    user.kill()
    watcher.kill()

    with opened(tmp_path / "store") as fresh:
        assert {one.query: one.uses for one in fresh.entries()} == expected
    with opened(tmp_path / "store", max_entries=2, eviction_policy="lfu") as fresh:
        fresh.store("d", CONTEXTS[0], "d")
        assert until(lambda: {one.query for one in fresh.entries()} == {"b", "d"})


def test_what_one_withdraws_others_miss(start: Any, tmp_path: Path) -> None:
    settings = {"max_staleness_seconds": 0.2}
    first, other = (start(name, settings=settings) for name in ("first", "other"))
    keys = ["plain", "red", "blue", "both"]
    for process in (first, other):
        process.wait_for("ready")
    for key, tags in zip(keys, [[], ["red"], ["blue"], ["red", "blue"]], strict=True):
        assert first.ask("store", key=key, place=0, tags=tags)["ok"]
    assert until(lambda: set(other.ask("dump", keys=keys)["held"]) == {f"{k}/0" for k in keys})

    assert other.ask("withdraw", query="plain")["entries"] == 1
    assert until(lambda: "plain/0" not in first.ask("dump", keys=keys)["held"])
    other.ask("outdate", tags=["red"])
    assert set(other.ask("dump", keys=keys)["held"]) == {"blue/0"}
    assert until(lambda: set(first.ask("dump", keys=keys)["held"]) == {"blue/0"})

    assert first.ask("store", key="red", place=0, tags=["red"])["ok"]
    assert until(lambda: set(other.ask("dump", keys=keys)["held"]) == {"blue/0", "red/0"})
    first.close()
    other.kill()
    with opened(tmp_path / "store") as fresh:
        assert set(held(fresh, keys)) == {"blue/0", "red/0"}


def test_what_another_has_just_stored_is_withdrawn_too(start: Any, tmp_path: Path) -> None:
    settings = {"max_staleness_seconds": 60}  # nobody looks by itself
    first, other = (start(name, settings=settings) for name in ("first", "other"))
    for process in (first, other):
        process.wait_for("ready")

    assert first.ask("store", key="a", place=0, tags=["red"])["ok"]
    assert other.ask("withdraw", tags=["red"])["entries"] == 1
    assert first.ask("store", key="b", place=0, tags=["red"])["ok"]
    other.ask("outdate", tags=["red"])
    assert first.ask("store", key="c", place=0, tags=["red"])["ok"]

    with opened(tmp_path / "store") as fresh:
        assert {one.query for one in fresh.entries()} == {"c"}


def test_another_takes_over_when_the_owner_is_killed(start: Any, tmp_path: Path) -> None:
    settings = {"max_staleness_seconds": 0.05}
    first = start("first", settings=settings, constants=FLUSHING)
    first.wait_for("ready")
    assert until(lambda: first.ask("state")["owner"])
    second = start("second", settings=settings, constants=FLUSHING)
    second.wait_for("ready")
    assert first.ask("store", key="of the first", place=0)["ok"]
    assert not second.ask("state")["owner"]

    first.kill()

    assert second.ask("store", key="of the second", place=0)["ok"]
    assert until(lambda: second.ask("state")["owner"])
    log = tmp_path / "store" / f"{TABLE}.log"

    def flushed() -> bool:
        checkpoint = read_checkpoint(log)
        return checkpoint is not None and all(
            checkpoint.done.get(file.name) == file.stat().st_size for file in log.glob("*-*.log")
        )

    assert until(flushed)
    assert second.ask("dump", keys=["of the first", "of the second"])["count"] == 2
    second.close()


def test_what_one_does_others_see(start: Any, tmp_path: Path) -> None:
    settings = {"max_staleness_seconds": 0.2}
    other = start("other", settings=settings)
    other.wait_for("ready")
    with opened(tmp_path / "store", **settings) as cache:

        def seen() -> str | None:
            return held(cache, ["q"]).get("q/0")

        assert seen() is None
        other.ask("store", key="q", place=0)
        assert until(lambda: seen() == "other 1")
        other.ask("store", key="q", place=0)
        assert until(lambda: seen() == "other 2")
        other.do("delete", key="q", place=0).wait_for("deleted")
        assert until(lambda: seen() is None)
        cache.store("q", CONTEXTS[0], ["q", 0, "mine"])
        assert until(lambda: other.ask("dump", keys=["q"])["held"] == {"q/0": "mine"})
    other.close()


def survives(history: History, image: Path, keys: list[str], durability: str) -> None:
    """Open what a crash left, twice, and compare it with what was acknowledged."""
    for _ in range(2):
        with opened(image, durability=durability) as cache:
            found = held(cache, keys)
            assert cache.get_index_stats()["quarantined_entries"] == 0
            history.check(found)


ROLES: dict[str, dict[str, Any]] = {"writer": {}, "flusher": FLUSHING, "compactor": COMPACTING}


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("durability", ["process", "power"])
def test_kill_9_at_any_moment_loses_nothing(
    start: Any, tmp_path: Path, durability: str, role: str
) -> None:
    seed = a_seed(11)
    chance = random.Random(seed)  # noqa: S311 - a reproducible course of events
    history, keys = History(), [f"key {i}" for i in range(30)]
    settings = {"max_staleness_seconds": 0.02, "durability": durability}
    for number in range(KILL_ROUNDS or 2):
        process = start(f"{role} {number}", settings=settings, constants=ROLES[role])
        process.wait_for("ready")
        process.do("work", seed=chance.randrange(1 << 32), steps=100_000, keys=keys, size=50)
        for _ in range(chance.randrange(1, 400)):
            process.wait_for("stored")
        process.kill()
        history.add(process.told)
        assert history.failed == 0
        image = tmp_path / f"image {number}"  # the next begins with what this one left
        shutil.copytree(tmp_path / "store", image)
        survives(history, image, keys, durability)
        shutil.rmtree(image)


def test_kill_9_without_durability_loses_no_more_than_the_end(start: Any, tmp_path: Path) -> None:
    seed = a_seed(12)
    chance = random.Random(seed)  # noqa: S311 - a reproducible course of events
    keys = [f"key {i}" for i in range(10)]
    settings = {"max_staleness_seconds": 0.02, "durability": "memory"}
    before: dict[str, str] = {}
    for number in range(KILL_ROUNDS or 3):
        constants = list(ROLES.values())[number % 3]
        process = start(f"round {number}", settings=settings, constants=constants)
        process.wait_for("ready")
        process.do("work", seed=chance.randrange(1 << 32), steps=100_000, keys=keys, size=50)
        for _ in range(chance.randrange(1, 400)):
            process.wait_for("stored")
        process.kill()

        states, state = [dict(before)], dict(before)
        for one in process.told:
            if one["kind"] == "storing":
                state[f"{one['key']}/{one['place']}"] = one["number"]
                states.append(dict(state))
            elif one["kind"] == "deleting":
                state.pop(f"{one['key']}/{one['place']}", None)
                states.append(dict(state))
        with opened(tmp_path / "store") as cache:
            before = held(cache, keys)
            assert before in states
            assert cache.get_index_stats()["quarantined_entries"] == 0


def test_a_process_that_stood_still_agrees_again(start: Any, tmp_path: Path) -> None:
    settings = {"max_staleness_seconds": 0.02}
    # It stands still for longer than this.
    constants = COMPACTING | {
        "memora.stores.disk._maintenance.GRACE_SECONDS": 0.4,
        "memora.stores.disk._view.GRACE_SECONDS": 0.4,
        "memora.stores.disk.store.GRACE_SECONDS": 0.4,
    }
    keys = [f"key {i}" for i in range(20)]
    sleeper = start("sleeper", settings=settings, constants=constants)
    sleeper.wait_for("ready")
    other = start("other", settings=settings, constants=constants)
    other.wait_for("ready")
    for round_number in range(4):
        sleeper.do("work", seed=round_number, steps=100, keys=keys, size=50)
        sleeper.wait_for("stored")
        os.kill(sleeper.pid, signal.SIGSTOP)
        other.do("work", seed=100 + round_number, steps=300, keys=keys, size=50)
        other.wait_for("worked")
        os.kill(sleeper.pid, signal.SIGCONT)
        sleeper.wait_for("worked")

    def agree() -> bool:
        return bool(sleeper.ask("dump", keys=keys)["held"] == other.ask("dump", keys=keys)["held"])

    assert until(agree)
    history = History()
    history.add(sleeper.told)
    history.add(other.told)
    assert history.failed == 0
    history.check(other.ask("dump", keys=keys)["held"])
    sleeper.close()
    other.close()
    with opened(tmp_path / "store") as fresh:
        assert held(fresh, keys) == other.told[-2]["held"]
        assert fresh.get_index_stats()["quarantined_entries"] == 0


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on the size of files")
@pytest.mark.parametrize("durability", ["process", "power"])
def test_a_full_disk_is_a_failed_store_and_nothing_else(
    start: Any, tmp_path: Path, durability: str
) -> None:
    settings = {
        "max_staleness_seconds": 0.02,
        "durability": durability,
        "breaker_failures": 1000,  # each store is tried
    }
    worker = start("worker", settings=settings, constants=FLUSHING)
    worker.wait_for("ready")
    keys = [f"key {i}" for i in range(40)]
    for key in keys[:10]:
        assert worker.ask("store", key=key, place=0)["ok"]
    worker.ask("limit", size=len(MAGIC) + 100)  # nor is there room for another segment
    for key in keys[10:20]:
        assert not worker.ask("store", key=key, place=0)["ok"]
    full = worker.ask("dump", keys=keys)
    assert set(full["held"]) == {f"{key}/0" for key in keys[:10]}
    assert full["errors"]["store"] == 10
    assert full["errors"]["lookup"] == 0

    worker.ask("limit", size=0)
    assert not worker.ask("store", key=keys[20], place=0)["ok"]
    worker.ask("limit", size=None)
    for key in keys[20:30]:
        assert worker.ask("store", key=key, place=0)["ok"]
    assert until(lambda: worker.ask("state")["healthy"])
    worker.close()

    with opened(tmp_path / "store") as cache:
        assert set(held(cache, keys)) == {f"{key}/0" for key in keys[:10] + keys[20:30]}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if (
        mount is None
        or subprocess.run(
            [mount, "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)],
            check=False,
            capture_output=True,
            timeout=PATIENCE,
        ).returncode
    ):
        pytest.skip("no file system can be mounted here")
    yield folder
    umount = shutil.which("umount")
    assert umount is not None
    subprocess.run([umount, "-l", str(folder)], check=True, timeout=PATIENCE)


def test_a_disk_that_runs_full_and_has_room_again(small_disk: Path) -> None:
    store = small_disk / "store"
    filler = small_disk / "filler"
    keys = [f"key {i}" for i in range(300)]
    acknowledged: dict[str, str] = {}
    with opened(store) as cache:

        def put(key: str, number: str) -> bool:
            result = [key, 0, number, "x" * 20_000]
            if cache.store(key, CONTEXTS[0], result) is None:
                return False
            acknowledged[f"{key}/0"] = number
            return True

        for key in keys[:20]:
            assert put(key, "before")
        filler.write_bytes(bytes(1_000_000))
        assert not all(put(key, "full") for key in keys[20:])
        for _ in range(5):
            put(keys[0], "full")
            assert held(cache, keys) == acknowledged
        assert cache.get_stats()["errors"]["store"] > 0

        filler.unlink()
        assert until(lambda: put(keys[1], "after"))
        for key in keys[2:10]:
            assert put(key, "after")
        assert held(cache, keys) == acknowledged
        assert until(lambda: cache.health_check()["checks"]["database"]["ok"])
    with opened(store) as cache:
        assert held(cache, keys) == acknowledged


def test_a_directory_that_is_deleted_under_an_open_store_is_told(tmp_path: Path) -> None:
    with ExitStack() as closing:
        cache = opened(tmp_path / "store", hot_payload_bytes=0)

        def close() -> None:
            with suppress(OSError):  # it cannot flush
                cache.close()

        closing.callback(close)
        for i in range(10):
            assert cache.store(f"key {i}", CONTEXTS[0], [f"key {i}", 0, str(i)]) is not None
        for _ in range(10):  # a background thread may write a file meanwhile
            shutil.rmtree(tmp_path / "store", ignore_errors=True)
        assert not (tmp_path / "store").exists()

        assert len(held(cache, [f"key {i}" for i in range(10)])) == 10
        cache.store("later", CONTEXTS[0], ["later", 0, "1"])
        assert until(lambda: not cache.health_check()["checks"]["database"]["ok"])
        assert len(held(cache, [f"key {i}" for i in range(10)])) == 10
    with opened(tmp_path / "store") as fresh:
        assert fresh.get_stats()["total_entries"] == 0
        assert fresh.store("q", CONTEXTS[0], ["q", 0, "1"]) is not None
