"""Processes that share a bucket, on real servers of object storage, which may die as they may."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
import uuid
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
import servers
from command import memora
from doubles import FakeClock, WordEmbedder, until
from processes import Child, History, Process, held, run_script
from store_worker import CONTEXTS

from memora import CacheConfig, Memora
from memora.errors import ConfigError, ModelMismatchError, StoreError, StorePathError
from memora.stores import open_store, open_stored
from memora.stores.bucket import _batches, _client, _maintenance, _view
from memora.stores.bucket.store import ObjectStore

if TYPE_CHECKING:
    from collections.abc import Iterator

    from servers import StorageServer

pytestmark = pytest.mark.servers

# What takes minutes and megabytes takes a few entries and seconds.
FLUSHING = {
    "memora.stores.disk._maintenance._FLUSH_BYTES": [1, 1],
    "memora.stores.bucket._maintenance.LEASE_SECONDS": 2.0,
}
COMPACTING = FLUSHING | {
    "memora.stores.bucket._maintenance._DEAD_BYTES": 0,
    "memora.stores.bucket._maintenance._OBJECT_BYTES": 1000,
    "memora.stores.bucket._maintenance._COMPACT_AT": 4,
    "memora.stores.bucket._maintenance.GRACE_SECONDS": 1.0,  # less than others may stand still
}
# Of each of two processes.
STORES = 500 if "STORE_KILL_ROUNDS" in os.environ else 200
ROLES: dict[str, dict[str, Any]] = {"flushing": FLUSHING, "compacting": COMPACTING}


@pytest.fixture
def uri(s3: StorageServer) -> str:
    return f"{s3.uri}/{uuid.uuid4().hex}"


@pytest.fixture
def start(s3: StorageServer, uri: str) -> Iterator[Any]:
    with ExitStack() as processes:

        def begin(name: str, **task: Any) -> Process:
            task.setdefault("settings", {})
            task["settings"] = {
                "storage_options": s3.storage_options,
                "max_staleness_seconds": 0.2,
                **task["settings"],
            }
            process = Process(uri, name, **task)
            processes.callback(process.end)
            return process

        yield begin


def opened(server: StorageServer, uri: str, **settings: Any) -> Memora:
    settings = {
        "storage_options": server.storage_options,
        "max_entries": None,
        "max_staleness_seconds": 0.2,
    } | settings
    clock = settings.pop("clock", time.time)
    return Memora(CacheConfig(db_uri=uri, **settings), embedder=WordEmbedder(), clock=clock)


def store_of(cache: Memora) -> ObjectStore:
    store = cache._ports.store
    assert isinstance(store, ObjectStore)
    return store


@pytest.mark.parametrize("role", ROLES)
def test_two_processes_store_and_withdraw_and_the_counts_are_exact(
    start: Any, s3: StorageServer, uri: str, role: str
) -> None:
    first, second = (start(name, constants=ROLES[role]) for name in ("first", "second"))
    keys = {name: [f"{name} {i}" for i in range(STORES)] for name in ("first", "second")}
    for process in (first, second):
        process.wait_for("ready")
    for i in range(STORES):
        for process, name in ((first, "first"), (second, "second")):
            process.do("store", key=keys[name][i], place=0, tags=[f"tag {i % 10}"])
            if i % 5 == 4:  # one of its own, again and again while the other stores
                process.do("withdraw", query=keys[name][i - 1])
    for process in (first, second):
        for _ in range(STORES):
            assert process.wait_for("stored")["ok"]
        withdrawn = [one["entries"] for one in process.told if one["kind"] == "withdrawn"]
        while len(withdrawn) < STORES // 5:
            withdrawn.append(process.wait_for("withdrawn")["entries"])
        assert withdrawn == [1] * (STORES // 5)
    # What the other has stored, and all of a tag of both.
    first.do("withdraw", query="second 0")
    second.do("withdraw", query="first 0")
    assert first.wait_for("withdrawn")["entries"] == 1
    assert second.wait_for("withdrawn")["entries"] == 1
    second.ask("outdate", tags=["tag 7"])

    expected = {
        f"{name} {i}/0"
        for name in keys
        for i in range(STORES)
        if i % 5 != 3 and i != 0 and i % 10 != 7
    }
    both = [key for some in keys.values() for key in some]
    assert until(
        lambda: (
            [set(one.ask("dump", keys=both)["held"]) for one in (first, second)]
            == [expected, expected]
        ),
        seconds=60,
    )
    for process in (first, second):
        told = process.ask("dump", keys=both)
        assert not any(told["errors"].values())
        process.close()
    for _ in range(2):
        with opened(s3, uri) as fresh:
            assert set(held(fresh, both)) == expected
            fresh.cleanup_expired()
            assert fresh.get_stats()["total_entries"] == len(expected)
            assert fresh.get_index_stats()["quarantined_entries"] == 0


@pytest.mark.parametrize("role", ROLES)
def test_kill_9_of_a_writer_and_of_the_owner_loses_nothing(
    start: Any, s3: StorageServer, uri: str, role: str
) -> None:
    chance = random.Random(5)  # noqa: S311 - a reproducible course of events
    history, keys = History(), [f"key {i}" for i in range(20)]
    survivor = start("survivor", constants=ROLES[role])
    survivor.wait_for("ready")
    for number in range(3):
        process = start(f"killed {number}", constants=ROLES[role])
        process.wait_for("ready")
        process.do("work", seed=chance.randrange(1 << 32), steps=100_000, keys=keys, size=50)
        for _ in range(chance.randrange(50, 150)):
            process.wait_for("stored")
        # The first is the owner, as long as it lives; then the killed one may become it.
        victim = survivor if number == 1 else process
        victim.kill()
        if victim is survivor:
            process.kill()
            history.add(process.told)
            survivor = start("survivor again", constants=ROLES[role])
            survivor.wait_for("ready")
        history.add(victim.told)
        assert history.failed == 0
        with opened(s3, uri) as fresh:
            found = held(fresh, keys)
            history.check(found)
            assert fresh.get_index_stats()["quarantined_entries"] == 0
    assert until(lambda: survivor.ask("dump", keys=keys)["held"] == found)
    survivor.close()


def test_another_takes_over_when_the_owner_is_killed(start: Any) -> None:
    first = start("first", constants=FLUSHING)
    first.wait_for("ready")
    assert until(lambda: first.ask("state")["owner"])
    second = start("second", constants=FLUSHING)
    second.wait_for("ready")
    assert first.ask("store", key="of the first", place=0)["ok"]
    assert not second.ask("state")["owner"]

    first.kill()

    assert second.ask("store", key="of the second", place=0)["ok"]
    assert until(lambda: second.ask("state")["owner"])
    keys = ["of the first", "of the second"]
    assert until(lambda: second.ask("dump", keys=keys)["count"] == 2)
    second.close()


@pytest.mark.parametrize("where", ["before it writes the table", "before it copies entries"])
def test_an_owner_that_stood_still_harms_nothing(  # noqa: PLR0915 - a course of events
    s3: StorageServer, uri: str, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """It goes on where it stood, beside its successor, when all has been forgotten."""
    monkeypatch.setattr(_maintenance, "LEASE_SECONDS", 1.0)
    monkeypatch.setattr(_maintenance, "_DEAD_BYTES", 0)
    monkeypatch.setattr(_maintenance, "GRACE_SECONDS", 0.0)
    monkeypatch.setattr(_view.BucketView, "remember_seconds", 0.0)
    quiet = {"max_staleness_seconds": 60}
    with opened(s3, uri, **quiet) as old, opened(s3, uri, **quiet) as new:
        stopped, successor = store_of(old), store_of(new)
        old.store("q", CONTEXTS[0], "first")
        old.store("gone", CONTEXTS[0], "gone")
        stopped.flush()
        assert stopped._maintenance is not None
        assert successor._maintenance is not None
        assert stopped._maintenance.owner
        old.store("q", CONTEXTS[0], "second")
        inside, goes_on = threading.Event(), threading.Event()
        part = stopped._table if where == "before it writes the table" else stopped._writer
        name = "write" if part is stopped._table else "write_copies"
        go_on = getattr(part, name)

        def stand_still(*args: Any) -> Any:
            inside.set()
            assert goes_on.wait(60)
            return go_on(*args)

        monkeypatch.setattr(part, name, stand_still)

        def keep_on() -> None:
            with pytest.raises(StoreError, match="was suspended"):
                stopped.compact()

        flush = threading.Thread(target=keep_on)
        flush.start()
        assert inside.wait(60)

        def taken_over() -> bool:
            successor.refresh()
            successor.flush()
            return successor._maintenance is not None and successor._maintenance.owner

        assert until(taken_over)
        assert new.store("q", CONTEXTS[0], "third")
        assert new.invalidate(query="gone") == 1
        for _ in range(3):  # nothing is left of what it was about to copy
            successor.refresh()
            assert successor.compact()
        stopped._view._last_read -= 1000.0  # as long as it would have been
        goes_on.set()
        flush.join(60)
        assert not flush.is_alive()
        with opened(s3, uri, **quiet) as fresh:  # the table's last version is not the one to read
            assert fresh.lookup("q", CONTEXTS[0]).result == "third"
            assert fresh.get_stats()["total_entries"] == 1
            assert fresh.get_index_stats()["quarantined_entries"] == 0
        new.store("last", CONTEXTS[0], "last")
        successor.refresh()
        successor.flush()
        assert not new.lookup("gone", CONTEXTS[0], 1.0).is_hit

    with opened(s3, uri) as fresh:
        assert fresh.lookup("q", CONTEXTS[0]).result == "third"
        assert not fresh.lookup("gone", CONTEXTS[0], 1.0).is_hit
        assert fresh.lookup("last", CONTEXTS[0]).result == "last"
        assert fresh.get_stats()["total_entries"] == 2
        assert store_of(fresh)._table.count() == 2  # type: ignore[union-attr]


def test_a_payload_that_has_moved_is_found_where_it_is(
    s3: StorageServer, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_maintenance, "_DEAD_BYTES", 0)
    monkeypatch.setattr(_maintenance, "GRACE_SECONDS", 0.0)
    monkeypatch.setattr(_batches, "_RECENT_BYTES", 1)
    quiet = {"max_staleness_seconds": 60, "hot_payload_bytes": 0}
    with opened(s3, uri, **quiet) as writer:
        for i in range(5):
            writer.store(f"q{i}", CONTEXTS[0], f"{i} " * 2000)
        with opened(s3, uri, **quiet) as reader:
            before = set(store_of(reader)._log.listed)
            owner = store_of(writer)
            for _ in range(3):
                owner.refresh()
                assert owner.compact()
            assert not before & set(owner._log.bucket.list(owner._log.folder))

            for i in range(5):
                assert reader.lookup(f"q{i}", CONTEXTS[0]).result == f"{i} " * 2000
            reader.health_check()
            assert reader.get_stats()["total_entries"] == 5


def test_a_dead_server_makes_misses_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_client, "_RETRIES", 0)
    monkeypatch.setattr(_batches, "_RECENT_BYTES", 1)
    with servers.seaweedfs() as server:
        uri = f"{server.uri}/dead"
        with (
            opened(server, uri, hot_payload_bytes=0, breaker_reset_seconds=0.1) as cache,
            opened(server, uri, fail_open=False) as strict,
        ):
            assert cache.store("kept", CONTEXTS[0], "kept" * 100)
            store_of(strict).refresh()
            assert strict.lookup("kept", CONTEXTS[0]).is_hit
            server.kill()

            found = cache.lookup("kept", CONTEXTS[0])
            assert found.reason == "error"
            assert "cannot read" in (found.explanation or "")
            assert strict.lookup("kept", CONTEXTS[0]).is_hit  # its payload is in RAM
            assert cache.store("unwritten", CONTEXTS[0], "later") is None
            assert until(lambda: not cache.health_check()["checks"]["database"]["ok"])
            said = cache.health_check()["checks"]["database"]["error"]
            assert uri in said
            assert servers.SECRET not in said
            # What is in RAM serves for a while, and no longer: others may have withdrawn it.
            with monkeypatch.context() as soon:
                soon.setattr(_view, "STALE_SECONDS", 0.1)
                with pytest.raises(StoreError, match="has not been reached"):
                    until(lambda: not strict.lookup("kept", CONTEXTS[0]).is_hit)

            server.start()

            assert until(lambda: cache.lookup("kept", CONTEXTS[0]).is_hit)
            assert until(lambda: cache.health_check()["checks"]["database"]["ok"])
            # What was not acknowledged was not forgotten either.
            assert until(lambda: strict.lookup("unwritten", CONTEXTS[0]).is_hit)
            assert cache.store("after", CONTEXTS[0], "after")


def test_kill_9_of_the_server_loses_nothing() -> None:
    with servers.seaweedfs() as server:
        uri = f"{server.uri}/killed"
        acknowledged: list[int] = []
        with opened(server, uri, breaker_failures=1000) as cache:
            for i in range(60):
                if i == 30:
                    server.kill()
                if i == 40:
                    server.start()
                    assert until(lambda: cache.store("again", CONTEXTS[0], 1))
                if cache.store(f"q{i}", CONTEXTS[0], i) is not None:
                    acknowledged.append(i)
        assert {*range(30), *range(40, 60)} <= set(acknowledged)
        with opened(server, uri) as fresh:
            for i in acknowledged:
                assert fresh.lookup(f"q{i}", CONTEXTS[0]).result == i


def test_an_end_that_slides_does_so_for_all(s3: StorageServer, uri: str) -> None:
    """Of several uses that are told together, one before the end moves it, one after does not."""
    clock, slow = FakeClock(), {"flush_interval_seconds": 60}
    with (
        opened(s3, uri, clock=clock, **slow) as first,
        opened(s3, uri, clock=clock, **slow) as second,
    ):
        assert first.store("q", CONTEXTS[0], 1, ttl=10, stale_ttl=5, sliding=True)
        store_of(second).refresh()
        for seconds in (8, 8, 8, 12):  # the last while it is stale
            clock.advance(seconds)
            assert first.lookup("q", CONTEXTS[0]).is_hit
        (ends,) = {one.expires_at for one in first.entries()}
        with store_of(first)._writing:
            store_of(first)._write_uses()
        store_of(first).flush()
        assert {one.expires_at for one in second.entries()} == {ends}
    for _ in range(2):
        with opened(s3, uri, clock=clock) as fresh:
            assert {one.expires_at for one in fresh.entries()} == {ends}


def test_a_lookup_needs_no_request(s3: StorageServer, uri: str, monkeypatch: Any) -> None:
    with opened(s3, uri, max_staleness_seconds=60) as cache:
        for i in range(20):
            cache.store(f"total of q{i}", CONTEXTS[0], i)
        asked: list[str] = []
        monkeypatch.setattr(
            _client.Bucket, "_named", lambda self, operation, name: asked.append(name)
        )

        assert cache.lookup("total of q3", CONTEXTS[0]).result == 3
        assert not cache.lookup("rain in may", CONTEXTS[0]).is_hit
        assert asked == []
        monkeypatch.undo()


FORKED = """
import json, os, sys, warnings
warnings.filterwarnings("ignore")
from doubles import WordEmbedder
from memora import CacheConfig, Memora
config = CacheConfig(db_uri=sys.argv[1], storage_options=json.loads(sys.argv[2]))
cache = Memora(config, embedder=WordEmbedder())
cache.store("q", None, 1)
child = os.fork()
found = cache.lookup("q")
if child == 0:
    assert found.reason == "error", found
    assert "was forked" in found.explanation, found
    cache.close()
    os._exit(0)
assert found.is_hit, found
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert cache.store("r", None, 2)
cache.close()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_forked_child_misses_and_says_why(s3: StorageServer, uri: str) -> None:
    child = Child(run_script, FORKED, uri, json.dumps(s3.storage_options))
    try:
        child.wait()
    finally:
        child.end()
    with opened(s3, uri) as cache:
        assert cache.get_stats()["total_entries"] == 2


def test_concurrent_stores_share_batches(s3: StorageServer, uri: str) -> None:
    with opened(s3, uri, max_staleness_seconds=60) as cache:
        before = len(store_of(cache)._log.bucket.list("semantic_cache.log"))
        threads = [
            threading.Thread(
                target=lambda n=n: [
                    cache.store(f"{n} {i}", CONTEXTS[0], "x" * 20_000) for i in range(10)
                ]
            )
            for n in range(16)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        written = len(store_of(cache)._log.bucket.list("semantic_cache.log")) - before
        assert written < 160
    with opened(s3, uri) as fresh:
        assert fresh.get_stats()["total_entries"] == 160


@pytest.mark.parametrize("service", ["azurite", "gcs"])
def test_azure_and_google_keep_entries_too(service: str) -> None:
    with getattr(servers, service)() as server:
        uri = f"{server.uri}/caches"
        with opened(server, uri) as first, opened(server, uri) as second:
            for i in range(20):
                assert first.store(f"q{i}", CONTEXTS[0], i, tags=[f"{i % 2}"])
            assert until(lambda: second.get_stats()["total_entries"] == 20)
            assert second.invalidate(tags=["0"]) == 10
            assert store_of(first).compact() or store_of(second).compact()
            assert second.store("large", CONTEXTS[0], "x" * 12_000_000)
        for _ in range(2):
            with opened(server, uri) as fresh:
                assert fresh.get_stats()["total_entries"] == 11
                assert fresh.lookup("q7", CONTEXTS[0]).result == 7
                assert len(fresh.lookup("large", CONTEXTS[0]).result) == 12_000_000


def test_a_server_without_conditional_writes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with servers.s3rver() as server:
        uri = f"{server.uri}/caches"
        with pytest.raises(StoreError, match="If-None-Match"):
            opened(server, uri)
        monkeypatch.setenv("MEMORA_STORAGE_OPTIONS", json.dumps(server.storage_options))
        told = json.loads(memora("doctor", "--db", uri, "--json", code=1))["findings"]
        (writes,) = (one for one in told if one["name"] == "writes")
        assert writes["state"] == "problem"
        assert "If-None-Match" in writes["details"]


def test_what_cannot_be_opened_says_why(s3: StorageServer, uri: str) -> None:
    wrong = s3.storage_options | {"secret_access_key": "an-altogether-wrong-one"}
    with pytest.raises(StorePathError, match=r"403 .*check the credentials") as refused:
        opened(s3, uri, storage_options=wrong)
    assert "an-altogether-wrong-one" not in str(refused.value)
    with pytest.raises(StorePathError, match="make the bucket first"):
        opened(s3, "s3://nosuchbucket/caches")
    with pytest.raises(ConfigError, match="nonsense"):
        opened(s3, uri, storage_options=s3.storage_options | {"nonsense": "1"})
    for bad in ("s3://", "s3:///caches", "s3://key:secret@memora/x"):
        with pytest.raises(ConfigError, match="expected s3://, gs:// or az://"):
            opened(s3, bad)
    gone = s3.storage_options | {"endpoint": f"http://127.0.0.1:{servers.free_port()}"}
    began = time.monotonic()
    with pytest.raises(StoreError, match="no answer"):
        opened(s3, uri, storage_options=gone)
    assert time.monotonic() - began < 60
    with pytest.raises(ConfigError, match="hot_index='off'"):
        CacheConfig(db_uri=uri, hot_index="off")


def test_doctor_looks_into_a_bucket(
    s3: StorageServer, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(db: str, code: int) -> dict[str, str]:
        told = memora("doctor", "--db", db, "--json", code=code)
        assert s3.storage_options["secret_access_key"] not in told
        findings = json.loads(told)["findings"]
        return {one["name"]: one["state"] for one in findings if one["name"] in looked_at}

    looked_at = {"store", "vectors", "writes"}
    monkeypatch.setenv("MEMORA_STORAGE_OPTIONS", json.dumps(s3.storage_options))
    assert found(uri, 0) == {"store": "warning", "writes": "ok"}
    opened(s3, uri).close()
    assert found(uri, 1) == {"store": "ok", "vectors": "problem", "writes": "ok"}
    log = _client.Bucket(uri, s3.storage_options).list("semantic_cache.log")
    assert not any(name.startswith("probe") for name in log)
    assert found("s3://nosuchbucket/caches", 1) == {"store": "problem"}


def test_a_table_of_the_english_model_is_served_as_before(s3: StorageServer, uri: str) -> None:
    config = CacheConfig(db_uri=uri, storage_options=s3.storage_options)
    with Memora(config.model_copy(update={"model_name": "all-MiniLM-L6-v2"})) as cache:
        cache.store("How do I cancel my contract?", None, 7)

    with Memora(config) as cache:
        assert cache.lookup("how can I cancel my contract").result == 7
        assert cache.lookup("¿Cómo cancelo mi contrato?").reason == "language"


def test_a_table_of_another_model_is_refused(s3: StorageServer, uri: str) -> None:
    config = CacheConfig(db_uri=uri, storage_options=s3.storage_options)
    with opened(s3, uri) as cache:
        cache.store("q", CONTEXTS[0], 1)
    other = WordEmbedder()
    other.identity = "another"
    with pytest.raises(ModelMismatchError, match="another"):
        open_store(config, embedder=other)
    with pytest.raises(StorePathError, match="there is no table"):
        open_store(
            config.model_copy(update={"table_name": "none"}), embedder=WordEmbedder(), create=False
        )

    store, stated = open_stored(config)  # to look at it, whatever its model
    assert (store.count(), stated.identity) == (1, WordEmbedder().identity)
    store.close()


def test_a_stopped_server_does_not_hold_up_a_lookup(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes connections, as a partition or an overloaded service does, and does not answer."""
    with servers.seaweedfs() as server:
        monkeypatch.setattr(_batches, "_RECENT_BYTES", 1)
        settings = {"lookup_timeout_seconds": 0.3, "hot_payload_bytes": 0}
        options = server.storage_options | {"timeout": "1s"}
        with opened(server, f"{server.uri}/x", storage_options=options, **settings) as cache:
            assert until(lambda: cache.store("q", CONTEXTS[0], "x"))
            server.signal(signal.SIGSTOP)
            try:
                assert cache.lookup("q", CONTEXTS[0]).reason == "timeout"
            finally:
                server.signal(signal.SIGCONT)
            assert until(lambda: cache.lookup("q", CONTEXTS[0]).is_hit)
