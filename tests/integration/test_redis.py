"""The store on real servers: what several clients do to it at once, and what becomes of faults."""

from __future__ import annotations

import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import servers as parts
from command import memora
from doubles import FakeClock, WordEmbedder, until
from processes import Child, run_script

from memora import CacheConfig, Memora
from memora.context import canonical_context, exact_key
from memora.errors import (
    ArgumentError,
    ConfigError,
    ModelMismatchError,
    StoreError,
    StoreFormatError,
    StorePathError,
)
from memora.model import Content, Entry
from memora.selection import Selection
from memora.stores import open_stored

if TYPE_CHECKING:
    from collections.abc import Iterator

redis = pytest.importorskip("redis")
pytestmark = pytest.mark.servers

from redis.crc import key_slot  # noqa: E402 - as above

from memora.stores.redis import RedisStore  # noqa: E402 - without the extra there is none

DIMENSION = 8
NOW = 1_700_000_000.0
HERE = canonical_context({"agent": "sql"})
NOWHERE = canonical_context({})
KINDS = ["redis search", "redis", "valkey search"]
# By "everysec", a server whose disk is slow may lose two seconds when it is killed.
LOGGED = ("--appendonly", "yes", "--appendfsync", "always")
CLUSTERS = ["redis cluster search", "redis cluster", "valkey cluster search"]


@pytest.fixture
def table() -> str:
    return uuid.uuid4().hex


opened: list[RedisStore] = []


@pytest.fixture(autouse=True)
def all_closed() -> Iterator[None]:
    yield
    while opened:
        with suppress(StoreError):  # its server may be gone
            opened.pop().close()


def open_store(uri: str, table: str, **settings: Any) -> RedisStore:
    settings = {"model": "toy", "dimension": DIMENSION, "clock": lambda: NOW} | settings
    store = RedisStore(uri, table_name=table, **settings)
    opened.append(store)
    return store


def entry(query: str, **rest: Any) -> Entry:
    rest = {"context": HERE, "created_at": NOW, "expires_at": None} | rest
    return Entry(id=uuid.uuid4().hex, key=exact_key(query, rest["context"]), query=query, **rest)


def unit(*values: float) -> Any:
    vector = np.zeros(DIMENSION, np.float32)
    vector[: len(values)] = values
    return vector / np.linalg.norm(vector)


def put(store: RedisStore, query: str, *, vector: Any = None, **rest: Any) -> Entry:
    one = entry(query, **rest)
    store.put(one, Content(query.encode()), vector=unit(1) if vector is None else vector)
    return one


def run_python(script: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script]
    return subprocess.run(command, capture_output=True, text=True, check=True)


def client_of(store: RedisStore) -> Any:
    return store._shards.server._client


def audit(store: RedisStore) -> int:
    """Check that all that is known of a table agrees; return how many entries there are."""
    total = 0
    for shard, prefix in enumerate(store._shards._prefixes):
        client = client_of(store)
        rows = [
            (key, client.hget(key, "b"), client.hget(key, "c"), client.hget(key, "v"))
            for key in client.scan_iter(f"{prefix}e:*", count=1000)
        ]
        assert client.zcard(f"{prefix}order") == len(rows)
        assert int(client.hget(f"{prefix}meta", "bytes") or 0) == sum(int(row[1]) for row in rows)
        contexts: dict[bytes, int] = {}
        for _, _, context, _ in rows:
            contexts[context] = contexts.get(context, 0) + 1
        known = client.hgetall(f"{prefix}contexts")
        assert {name: int(n) for name, n in known.items()} == contexts
        if store._shards.engine == "vset":
            sets = [client.execute_command("VCARD", f"{prefix}v:{c.decode()}") for c in contexts]
            assert sum(sets) == len([row for row in rows if row[3]])
        assert shard == 0 or len(store._shards) > 1
        total += len(rows)
    return total


# Opening.


@pytest.mark.parametrize(
    "uri",
    [
        "redis://",
        "redis://:s3cret@",
        "redis://user:s3cret@host:port",
        "redis://:s3cret@a,b",
        "redis://:s3cret@host/x",
        "redis://:s3cret@host?timeout=0",
        "redis://:s3cret@host?shards=2",
        "redis://:s3cret@host?password=s3cret",
        "redis+cluster://:s3cret@host/1",
        "redis+cluster://:s3cret@host?shards=0",
        "redis+sentinel://:s3cret@host",
        "redis+other://:s3cret@host",
        "postgres://user:s3cret@host",
    ],
)
def test_a_wrong_uri_is_refused_without_its_password(uri: str) -> None:
    with pytest.raises(ConfigError, match="expected") as raised:
        Memora(CacheConfig(db_uri=uri), embedder=WordEmbedder())

    shown = str(raised.value)
    assert "s3cret" not in shown.replace("password=s3cret", "")
    assert raised.value.__cause__ is None


def test_the_extra_is_asked_for_by_name() -> None:
    script = (
        "import sys; sys.modules['redis'] = None\n"
        "from memora import CacheConfig, Memora\n"
        "from memora.errors import MissingExtraError\n"
        "try: Memora(CacheConfig(db_uri='redis://localhost'))\n"
        "except MissingExtraError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )

    assert "pip install 'memora-cache[redis]'" in done.stdout


def test_importing_memora_imports_no_client() -> None:
    script = "import sys, memora; memora.Memora; print('redis' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )

    assert done.stdout == "False\n"


@pytest.mark.parametrize("said", ["redis://:wrong-s3cret@", "redis://someone:wrong-s3cret@"])
def test_wrong_credentials_are_told_and_never_shown(
    said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with parts.running(parts.redis_program(), "--requirepass", "right-s3cret") as server:
        place = f"127.0.0.1:{server.port}"
        with pytest.raises(StoreError, match="password of db_uri") as raised:
            open_store(f"{said}{place}", "t")
        with pytest.raises(StoreError, match="password of db_uri"):
            open_store(f"redis://{place}", "t")

        assert "s3cret" not in str(raised.value)
        config = CacheConfig(db_uri=f"redis://:right-s3cret@{place}", log_level="DEBUG")
        cache = Memora(config, embedder=WordEmbedder())
        assert cache.store("q", {}, 1)
        for shown in (repr(config), str(config), str(cache.get_stats()), str(cache.health_check())):
            assert "s3cret" not in shown
        cache.close()
        logged = capsys.readouterr().err
        assert place in logged
        assert "s3cret" not in logged
        for command, code in (("stats", 0), ("doctor", 1)):  # whose model is another
            told = memora(command, "--db", config.db_uri, "--json", code=code)
            assert place in told
            assert "s3cret" not in told


def test_a_server_without_vector_search_says_what_to_install(
    servers: parts.Servers, table: str
) -> None:
    for create in (True, False):
        with pytest.raises(StoreError, match="no vector search: use Redis 8"):
            open_store(servers.uri("valkey"), table, create=create)
    found = json.loads(memora("doctor", "--db", servers.uri("valkey"), "--json", code=1))[
        "findings"
    ]
    assert [one["name"] for one in found if one["state"] == "problem"] == ["store"]


@pytest.mark.parametrize("search", [True, False])
def test_a_user_without_the_rights_is_told_which_are_missing(*, search: bool) -> None:
    options = parts.query_engine() if search else ()
    with parts.running(parts.redis_program(), *options) as server:
        with redis.Redis(port=server.port, protocol=2) as admin:
            rules = ["+@read", "+@write", "+@scripting", "+@connection"]
            admin.execute_command("ACL", "SETUSER", "who", "on", ">password", "~memora:*", *rules)
        uri = server.uri.replace("redis://", "redis://who:password@")
        for create in (True, False):
            with pytest.raises(StoreError, match=r"lacks rights that a search needs.*VADD"):
                open_store(uri, "t", create=create)
        open_store(server.uri, "t")
        with pytest.raises(StoreError, match=r"table 't'.* lacks rights that a search needs"):
            open_store(uri, "t")


def test_commands_look_at_a_store_on_a_server(servers: parts.Servers, table: str) -> None:
    there = ("--json", "--db", servers.uri("redis"), "--table", table)

    def found() -> dict[str, str]:
        told = json.loads(memora("doctor", *there))["findings"]
        return {one["name"]: one["state"] for one in told if one["name"] in {"store", "vectors"}}

    assert found() == {"store": "warning"}
    assert "there is no table" in memora("health", *there, code=1)
    Memora(CacheConfig(db_uri=there[2], table_name=table)).close()
    assert found() == {"store": "ok", "vectors": "ok"}
    assert '"healthy"' in memora("health", *there)
    memora("health", "--db", "redis://127.0.0.1:1/one", code=2)


@pytest.mark.parametrize("scheme", ["redis", "redis+cluster", "redis+sentinel"])
def test_nobody_there_is_a_clear_error(scheme: str, table: str) -> None:
    service = "/main" if scheme == "redis+sentinel" else ""
    with pytest.raises(StoreError, match="is out of reach"):
        open_store(f"{scheme}://127.0.0.1:{parts.free_port()}{service}", table)


def test_a_certificate_has_to_be_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The packaged servers are built without TLS: the wire before one speaks it.
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl, which makes the certificate")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    made = ("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost")
    names = ("-addext", "subjectAltName=DNS:localhost")
    uses = ("-addext", "keyUsage=critical,digitalSignature,keyCertSign")
    where = ("-keyout", key, "-out", certificate)
    subprocess.run([openssl, *made, *names, *uses, *where], check=True, capture_output=True)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    with (
        parts.running(parts.redis_program()) as server,
        closing(parts.Wire(server.port, tls=tls)) as wire,
    ):
        uri = f"rediss://localhost:{wire.port}?timeout=5"
        with pytest.raises(StoreError, match=r"certificate .*SSL_CERT_FILE.*self-signed"):
            open_store(uri, "t")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        store = open_store(uri, "t")
        one = put(store, "q")
        assert store.peek(one.key, now=NOW) == one
        with pytest.raises(StoreError, match="certificate"):  # of another name
            open_store(uri.replace("localhost", "127.0.0.1"), "t")
        for other in (uri.replace("rediss", "redis"), f"rediss://localhost:{server.port}"):
            with pytest.raises(StoreError):
                open_store(other, "t")


@pytest.mark.parametrize("kind", [*KINDS, "redis cluster search"])
def test_a_table_of_another_kind_is_refused(servers: parts.Servers, kind: str, table: str) -> None:
    uri = servers.uri(kind)
    with pytest.raises(StorePathError, match="no table"):
        open_store(uri, table, create=False)
    open_store(uri, table)

    with pytest.raises(ModelMismatchError, match=r"'toy' with 8 dimensions.*'toy' with 9"):
        open_store(uri, table, dimension=9)
    with pytest.raises(ModelMismatchError, match=r"'toy'.*'other'"):
        open_store(uri, table, model="other")


@pytest.mark.parametrize("kind", KINDS)
def test_a_table_of_the_english_model_is_served_as_before(
    servers: parts.Servers, kind: str, table: str
) -> None:
    config = CacheConfig(db_uri=servers.uri(kind), table_name=table)
    english = config.model_copy(update={"model_name": "all-MiniLM-L6-v2"})
    with Memora(english) as cache:
        cache.store("How do I cancel my contract?", None, 7)

    with Memora(config) as cache:
        assert cache.lookup("how can I cancel my contract").result == 7
        assert cache.lookup("¿Cómo cancelo mi contrato?").reason == "language"


@pytest.mark.parametrize("kind", [*KINDS, "redis cluster search"])
def test_a_table_of_a_newer_memora_is_left_alone(
    servers: parts.Servers, kind: str, table: str
) -> None:
    uri = servers.uri(kind)
    there = ("--db", uri, "--table", table)
    config = CacheConfig(db_uri=uri, table_name=table, breaker_reset_seconds=0.05)
    with closing(Memora(config)) as cache:
        assert cache.store("q", None, 1)
        store: Any = cache._ports.store
        client, meta = client_of(store), f"{store._shards._prefixes[0]}meta"
        own = client.hget(meta, "table")
        # As one that takes a table over would: those who have it open find another.
        client.hset(meta, mapping={"format": "2", "table": "another"})
        before = client.hgetall(meta), sorted(client.keys(f"memora:{{{table}:0}}:*"))

        assert {cache.lookup(f"q{i}").reason for i in range(3)} == {"error"}
        found = cache.health_check()["checks"]["database"]["error"]
        assert "has format 2, this Memora knows 1" in found
        with pytest.raises(StoreFormatError, match="has format 2, this Memora knows 1"):
            open_store(uri, table)
        for command in ("doctor", "health"):
            assert "has format 2" in memora(command, "--json", *there, code=1)
        assert (client.hgetall(meta), sorted(client.keys(f"memora:{{{table}:0}}:*"))) == before

        client.hset(meta, mapping={"format": "1", "table": own})
        assert until(lambda: cache.lookup("q").is_hit)


def test_a_policy_of_the_application_is_refused(servers: parts.Servers, table: str) -> None:
    class Own:
        name = "fifo"

    with pytest.raises(ArgumentError, match="Own"):
        open_store(servers.uri("redis"), table, policy=Own())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--maxmemory-policy", "allkeys-lru"], "maxmemory-policy is allkeys-lru"),
        (["--maxmemory-policy", "volatile-lru"], "appendonly is no"),
    ],
)
def test_settings_that_do_not_suit_are_told(options: list[str], said: str) -> None:
    with parts.running(parts.redis_program(), *options) as server:
        store = open_store(server.uri, "t")
        store.close()
        looked = json.loads(memora("doctor", "--json", "--db", server.uri, "--table", "t", code=1))

    assert any(text.startswith(said) for text in store.unsuitable)
    told = [one for one in looked["findings"] if one["name"] == "server"]  # the model is another
    assert [one["state"] for one in told] == ["warning"] * len(store.unsuitable)
    assert any(one["details"].startswith(said) for one in told)


@pytest.mark.parametrize("kind", KINDS)
def test_a_table_can_be_opened_by_who_does_not_know_its_model(
    servers: parts.Servers, kind: str, table: str
) -> None:
    store = open_store(servers.uri(kind), table, max_entries=5)
    one = put(store, "q")

    found, embedder = open_stored(CacheConfig(db_uri=servers.uri(kind), table_name=table))
    assert isinstance(found, RedisStore)
    opened.append(found)

    assert (embedder.identity, embedder.dimension) == ("toy", DIMENSION)
    assert [held.entry for held in found.select(Selection(), now=NOW)] == [one]


# What it costs.


@pytest.mark.parametrize("kind", KINDS)
def test_a_hit_is_one_round_trip_and_a_search_another(
    servers: parts.Servers, kind: str, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = CacheConfig(db_uri=servers.uri(kind), table_name=table, judge="off", max_entries=9)
    cache = Memora(config, embedder=WordEmbedder())
    cache.store("sales in march", {}, 1)
    cache.lookup("sales in march")
    cache.lookup("march in sales")  # by now the server knows all scripts
    asked: list[str] = []
    server = cache._ports.store._shards.server  # type: ignore[attr-defined]
    execute = server._client.execute_command
    monkeypatch.setattr(
        server._client, "execute_command", lambda *a, **k: (asked.append(a[0]), execute(*a, **k))[1]
    )

    assert cache.lookup("sales in march").reason == "exact"
    assert asked == ["EVALSHA"]
    assert cache.lookup("in march sales", similarity_threshold=0.9).reason == "semantic"
    assert asked == ["EVALSHA"] * 3
    assert cache.lookup("costs in may", similarity_threshold=0.9).reason == "below_threshold"
    assert asked == ["EVALSHA"] * 5
    assert cache.store("sales in april", {}, 2)
    assert asked == ["EVALSHA"] * 6
    cache.close()


@pytest.mark.parametrize("kind", ["redis", "redis cluster"])
def test_many_threads_are_served_at_once(servers: parts.Servers, kind: str, table: str) -> None:
    store, threads = open_store(servers.uri(kind), table), 48
    one = put(store, "q")
    everywhere = {"target_nodes": "primaries"} if "cluster" in kind else {}
    client_of(store).execute_command("CLIENT", "PAUSE", 500, "ALL", **everywhere)

    with ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(lambda _: store.get(one.key, now=NOW), range(threads)))

    assert [answer and answer[0] for answer in found] == [one] * threads


@pytest.mark.parametrize("kind", ["redis search", "redis"])
def test_large_contexts_are_searched_well(servers: parts.Servers, kind: str, table: str) -> None:
    chance = np.random.default_rng(5)
    vectors = chance.standard_normal((6000, 32)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    store = open_store(servers.uri(kind), table, dimension=32)
    for start in range(0, len(vectors), 500):
        some = range(start, min(start + 500, len(vectors)))
        store.put_many([(entry(f"q{i}"), Content(b""), vectors[i]) for i in some])
    queries = vectors[:200] + 0.1 * chance.standard_normal((200, 32)).astype(np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)

    found = [
        store.search(query, context=HERE.fingerprint, k=1, now=NOW)[0].entry.query
        for query in queries
    ]

    best = [f"q{np.argmax(vectors @ query)}" for query in queries]
    assert sum(a == b for a, b in zip(found, best, strict=True)) >= 198
    store.close()


# Several clients.

WORKER = """
import sys, uuid
import numpy as np
from memora.context import canonical_context, exact_key
from memora.model import Content, Entry
from memora.selection import Selection
from memora.stores.redis import RedisStore

uri, table, name, limit = sys.argv[1:]
store = RedisStore(
    uri, table_name=table, model="toy", dimension=8, max_entries=int(limit) or None
)
context = canonical_context({"agent": "sql"})
vector = np.eye(8, dtype=np.float32)
gone = 0
channel.send("ready")
channel.recv()
for i in range(500):
    query = f"{name} {i}"
    key = exact_key(query, context)
    one = Entry(id=uuid.uuid4().hex, key=key, query=query, context=context, created_at=1.7e9,
                expires_at=None, tags=(f"{name}:{i % 5}",))
    store.put(one, Content(query.encode()), vector=vector[i % 8])
    store.maintain(max_entries=int(limit) or None, now=1.7e9)
    if i % 10 == 9:
        gone += store.discard([one])
    if i % 100 == 99:
        store.invalidate_tag(f"{name}:0")
store.close()
channel.send(gone)
"""


def work_together(uri: str, table: str, *, limit: int) -> list[int]:
    """Have two processes store 500 entries each; return how many each discarded."""
    with ExitStack() as stack:
        workers = [Child(run_script, WORKER, uri, table, name, str(limit)) for name in "ab"]
        for worker in workers:
            stack.callback(worker.end)
        assert [worker.channel.recv() for worker in workers] == ["ready"] * 2
        for worker in workers:
            worker.channel.send("go")
        return [worker.channel.recv() for worker in workers]


@pytest.mark.parametrize("kind", [*KINDS, *CLUSTERS])
def test_two_processes_lose_and_resurrect_nothing(
    servers: parts.Servers, kind: str, table: str
) -> None:
    assert work_together(servers.uri(kind), table, limit=0) == [50, 50]

    store = open_store(servers.uri(kind), table)
    # Each has withdrawn every tenth, which are not of the tag that it outdated: every fifth.
    expected = {f"{n} {i}" for n in "ab" for i in range(500) if i % 10 != 9 and i % 5 != 0}
    assert {held.entry.query for held in store.select(Selection(), now=NOW)} == expected
    for query in ("a 1", "b 499", "a 5", "b 10"):
        found = store.get(exact_key(query, HERE), now=NOW)
        assert (found is not None) == (query in expected)
    searched = store.search(unit(0, 1), context=HERE.fingerprint, k=2000, now=NOW)
    assert {match.entry.query for match in searched} == expected
    store.sweep(now=NOW, limit=9999)
    assert store.count() == audit(store) == len(expected)
    store.close()


@pytest.mark.parametrize("kind", [*KINDS, "redis cluster search"])
@pytest.mark.parametrize("policy", ["fifo", "lru"])
def test_a_limit_is_exact_for_all_writers(
    servers: parts.Servers, kind: str, table: str, policy: str
) -> None:
    from memora.eviction import make_policy  # noqa: PLC0415

    store = open_store(servers.uri(kind), table, policy=make_policy(policy))

    work_together(servers.uri(kind), table, limit=37)

    store.sweep(now=NOW, limit=9999)
    put(store, "newest")
    for i in range(40):
        put(store, f"more {i}")
    store.maintain(max_entries=37, now=NOW)
    assert store.count() == audit(store) == 37
    store.close()


@pytest.mark.parametrize("kind", KINDS)
def test_no_writer_sees_more_than_the_limit(servers: parts.Servers, kind: str, table: str) -> None:
    store = open_store(servers.uri(kind), table, max_entries=10)
    counts: list[int] = []

    def work(name: int) -> None:
        for i in range(50):
            put(store, f"{name} {i}")
            counts.append(store.count())

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(counts) == 200
    assert max(counts) == 10 == audit(store)
    store.close()


@pytest.mark.parametrize("kind", CLUSTERS)
def test_a_cluster_is_searched_whole_or_not_at_all(
    servers: parts.Servers, kind: str, table: str
) -> None:
    store = open_store(servers.uri(kind), table)
    for i in range(60):
        put(store, f"q{i}", vector=unit(1, i / 60))

    found = store.search(unit(1), context=HERE.fingerprint, k=60, now=NOW)

    assert [match.entry.query for match in found] == [f"q{i}" for i in range(60)]
    assert len(store._shards) == 3
    sizes = [one[0] for one in store._shards.run_all("sizes", 1)]
    assert sum(sizes) == 60
    assert min(sizes) > 0
    store.close()


def test_a_search_in_a_cluster_is_one_round_trip_to_each_shard(
    servers: parts.Servers, table: str
) -> None:
    store = open_store(servers.uri("redis cluster"), table)
    store.search(unit(1), context=HERE.fingerprint, k=1, now=NOW)  # by now all know the script
    client = client_of(store)

    def asked() -> tuple[int, int]:
        stats = [client.info("commandstats", target_nodes=one) for one in client.get_primaries()]
        # The library asks a server for the keys of what it does not know how to send.
        names = ("cmdstat_evalsha", "cmdstat_command|getkeys")
        scripts, keys = (
            sum(one.get(name, {"calls": 0})["calls"] for one in stats) for name in names
        )
        return scripts, keys

    before = asked()
    store.search(unit(1), context=HERE.fingerprint, k=1, now=NOW)
    assert asked() == (before[0] + 3, before[1])


def test_a_client_that_lost_the_slots_finds_them_again(servers: parts.Servers, table: str) -> None:
    store = open_store(servers.uri("redis cluster"), table)
    one = put(store, "q")
    for ask in (
        lambda: store.search(unit(1), context=HERE.fingerprint, k=1, now=NOW)[0].entry,
        lambda: store.peek(one.key, now=NOW),
    ):
        client_of(store).nodes_manager.slots_cache.clear()  # as of a cluster that is being made
        with pytest.raises(StoreError, match="is out of reach"):
            ask()
        assert ask() == one


@pytest.mark.parametrize("search", [True, False])
def test_a_slot_that_moves_to_another_master_takes_nothing_along(*, search: bool) -> None:
    options = parts.query_engine() if search else ()
    with parts.cluster(parts.redis_program(), *options) as nodes, ExitStack() as stack:
        store = open_store(f"redis+cluster://127.0.0.1:{nodes[0].port}?timeout=10&shards=1", "t")
        kept = [put(store, f"q{i}") for i in range(10)]
        slot = key_slot(store._shards._prefixes[0].encode())
        clients = [stack.enter_context(redis.Redis(port=node.port, protocol=2)) for node in nodes]
        clients.sort(key=lambda one: -one.execute_command("CLUSTER", "COUNTKEYSINSLOT", slot))
        source, target = clients[:2]
        port = target.connection_pool.connection_kwargs["port"]
        names = [one.execute_command("CLUSTER", "MYID") for one in (source, target)]
        target.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", names[0])
        source.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", names[1])

        def refused() -> None:
            for change in (
                lambda: put(store, "q0"),
                lambda: store.invalidate_tag("doc:1"),
                lambda: store.discard(kept),
            ):
                with pytest.raises(StoreError):
                    change()

        refused()
        keys = source.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 100)
        for i, key in enumerate(sorted(keys, key=lambda key: not key.endswith(b"meta"))):
            source.execute_command("MIGRATE", "127.0.0.1", port, key, 0, 5000)  # none is there yet
            if i in {0, 5}:
                refused()
        refused()
        for one in (target, source):
            one.execute_command("CLUSTER", "SETSLOT", slot, "NODE", names[1])

        assert [store.peek(one.key, now=NOW) for one in kept] == kept
        assert audit(store) == len(kept)
        store.close()


def test_a_cluster_that_lacks_masters_raises_and_comes_back() -> None:
    options = (*LOGGED, *parts.query_engine())
    with parts.cluster(parts.redis_program(), *options) as nodes:
        store = open_store(f"redis+cluster://127.0.0.1:{nodes[0].port}?timeout=5", "t")
        kept = [put(store, f"q{i}") for i in range(30)]
        for node in (nodes[1], nodes[0], nodes[2]):
            node.kill()
            with pytest.raises(StoreError):
                store.search(unit(1), context=HERE.fingerprint, k=30, now=NOW)
        with pytest.raises(StoreError):
            store.peek(kept[0].key, now=NOW)
        for node in nodes:
            node.start()

        faults: list[Exception] = []

        def whole() -> bool:
            try:
                return len(store.search(unit(1), context=HERE.fingerprint, k=30, now=NOW)) == 30
            except StoreError as error:
                faults.append(error)
                return False

        assert until(whole, seconds=60), faults[-1]
        assert all(store.get(one.key, now=NOW) for one in kept)
        store.close()


def test_sentinels_name_the_master_and_the_one_after_it(tmp_path: Path) -> None:
    program = parts.redis_program()
    with ExitStack() as stack:
        master = stack.enter_context(parts.running(program))
        of = ("--replicaof", "127.0.0.1", str(master.port), "--repl-diskless-sync-delay", "0")
        replica = stack.enter_context(parts.running(program, *of))
        clients = [
            stack.enter_context(redis.Redis(port=one.port, decode_responses=True))
            for one in (master, replica)
        ]
        assert replicated(*clients)
        settings = tmp_path / "sentinel.conf"
        settings.write_text(
            f"sentinel monitor main 127.0.0.1 {master.port} 1\n"
            "sentinel down-after-milliseconds main 1000\n"
            "sentinel failover-timeout main 5000\n"
        )
        sentinel = parts.Server(program, tmp_path, (), settings=settings)
        sentinel.start()
        stack.callback(sentinel.kill)
        watch = stack.enter_context(redis.Redis(port=sentinel.port, decode_responses=True))
        assert until(lambda: len(watch.sentinel_slaves("main")) == 1, seconds=60)
        uri = f"redis+sentinel://127.0.0.1:{sentinel.port}/main"
        cache = stack.enter_context(cache_on(uri, judge="off"))
        fill(cache)
        assert serves_what_was_filled(cache)
        assert replicated(*clients)
        master.kill()

        assert not serves_what_was_filled(cache)
        assert not cache.health_check()["checks"]["database"]["ok"]
        assert until(lambda: serves_what_was_filled(cache), seconds=60)
        assert clients[1].role()[0] == "master"
        near = cache.lookup("number question 7", similarity_threshold=0.99)
        assert near.result == 7
        assert cache.invalidate("question number 3") == 1
        assert comes_back(cache)

        master.start()  # empty, and a master as far as it knows
        assert serves_what_was_filled(cache, but=3)
        assert cache.health_check()["checks"]["database"]["ok"]
        cache.cleanup_expired()
        assert audit(cache._ports.store) == 30  # type: ignore[arg-type]


def test_a_replica_of_a_cluster_takes_over() -> None:
    with (
        parts.cluster(parts.redis_program(), *parts.query_engine(), replicas=1) as nodes,
        redis.Redis(port=nodes[0].port, decode_responses=True) as killed,
        redis.Redis(port=nodes[3].port, decode_responses=True) as replica,
    ):
        # Whose first shard is on the first master.
        table = next(f"t{i}" for i in range(99) if key_slot(f"t{i}:0".encode()) < 16384 // 3)
        uri = f"redis+cluster://127.0.0.1:{nodes[1].port}"
        with cache_on(uri, judge="off", table_name=table) as cache:
            fill(cache)
            assert serves_what_was_filled(cache)
            assert replicated(killed, replica)
            nodes[0].kill()

            assert not serves_what_was_filled(cache)
            assert not cache.health_check()["checks"]["database"]["ok"]
            assert until(lambda: serves_what_was_filled(cache), seconds=60)
            assert replica.role()[0] == "master"
            near = cache.lookup("number question 7", similarity_threshold=0.99)
            assert near.result == 7
            for i in range(30):
                assert cache.store(f"another {i}", {}, i)
                assert cache.invalidate(f"another {i}") == 1
            assert cache.invalidate("question number 3") == 1

            nodes[0].start()
            assert until(lambda: killed.role()[0] == "slave", seconds=60)
            assert until(lambda: serves_what_was_filled(cache, but=3), seconds=60)
            assert cache.health_check()["checks"]["database"]["ok"]
            cache.cleanup_expired()
            assert audit(cache._ports.store) == 29  # type: ignore[arg-type]


# Who leads.


@pytest.mark.parametrize("kind", ["redis", "redis cluster"])
def test_one_leads_a_key(servers: parts.Servers, kind: str, table: str) -> None:
    one, other = (open_store(servers.uri(kind), table) for _ in range(2))
    key, another = entry("q").key, entry("r").key

    lease = one.try_lock(key)

    assert lease is not None
    assert other.try_lock(key) is None
    free = other.try_lock(another)
    assert free is not None
    lease.release()
    lease.release()
    again = other.try_lock(key)
    assert again is not None
    lease.release()
    assert one.try_lock(key) is None
    one.close()
    other.close()


LEADER = """
import sys, time
from memora.stores.redis import RedisStore, _leases
_leases.SECONDS = 1.0
store = RedisStore(sys.argv[1], table_name=sys.argv[2], model="toy", dimension=8)
assert store.try_lock(bytes(16)) is not None
channel.send("leads")
time.sleep(600)
"""


def test_a_killed_leader_is_replaced(servers: parts.Servers, table: str) -> None:
    uri = servers.uri("redis")
    store = open_store(uri, table)
    leader = Child(run_script, LEADER, uri, table)
    try:
        assert leader.channel.recv() == "leads"
        left = client_of(store).pttl(f"{store._shards._prefixes[0]}l:{bytes(16).hex()}")
        assert 0 < left <= 1000
        assert store.try_lock(bytes(16)) is None
    finally:
        leader.end()
    assert until(lambda: store.try_lock(bytes(16)), seconds=60)
    store.close()


def test_a_leader_holds_on_while_it_lives(servers: parts.Servers, table: str) -> None:
    one, other = (open_store(servers.uri("redis"), table) for _ in range(2))
    assert one.try_lock(bytes(16)) is not None
    lease = f"{one._shards._prefixes[0]}l:{bytes(16).hex()}"
    client_of(one).pexpire(lease, 1)  # nearly over

    assert until(lambda: not client_of(one).exists(lease))
    successor = other.try_lock(bytes(16))
    assert successor is not None
    client_of(one).pexpire(lease, 2000)
    other.keep()
    assert client_of(one).pttl(lease) > 2000
    one.keep()  # which lost it, and takes nothing back
    assert other._leases.fence(bytes(16)) == client_of(one).get(lease).decode()
    one.close()
    other.close()


@pytest.mark.parametrize("landed", [False, True], ids=["while another leads", "after it"])
def test_a_leader_that_was_replaced_overwrites_nothing(
    servers: parts.Servers, table: str, *, landed: bool
) -> None:
    slow, quick = (open_store(servers.uri("redis search"), table) for _ in range(2))
    key = entry("q").key
    assert slow.try_lock(key) is not None
    client_of(slow).delete(f"{slow._shards._prefixes[0]}l:{key.hex()}")  # it stood still too long
    lease = quick.try_lock(key)
    assert lease is not None
    newer = put(quick, "q")
    if landed:
        lease.release()

    put(slow, "q")

    assert quick.peek(key, now=NOW) == newer
    slow.close()
    quick.close()


# Faults.


@contextmanager
def cache_on(
    server: parts.Server | str, *, timeout: float = 2.0, **settings: Any
) -> Iterator[Memora]:
    uri = server if isinstance(server, str) else server.uri
    config = CacheConfig(
        db_uri=f"{uri}?timeout={timeout}",
        lookup_timeout_seconds=20,
        breaker_reset_seconds=0.05,
        **settings,
    )
    cache = Memora(config, embedder=WordEmbedder())
    try:
        yield cache
    finally:
        cache.close()


def fill(cache: Memora) -> None:
    """Store thirty, and what is to stay gone."""
    for i in range(30):
        assert cache.store(f"question number {i}", {}, i)
        assert cache.store(f"withdrawn question {i}", {}, i)
        assert cache.store(f"outdated question {i}", {}, i, tags="old")
        assert cache.invalidate(f"withdrawn question {i}") == 1
    cache.outdate("old")


def serves_what_was_filled(cache: Memora, *, but: int | None = None) -> bool:
    """Tell whether all thirty are found; never one that had gone, or a wrong one."""
    served = [cache.lookup(f"question number {i}") for i in range(30)]
    gone = [
        cache.lookup(f"{kind} question {i}")
        for i in range(30)
        for kind in ("withdrawn", "outdated")
    ]
    missed = [i for i, one in enumerate(served) if one.is_miss]
    assert {one.result for one in gone} == {None}
    assert all(one.result == i for i, one in enumerate(served) if i not in missed)
    assert "timeout" not in {one.reason for one in (*served, *gone)}  # the store gave up before
    return missed == ([] if but is None else [but])


def replicated(master: Any, replica: Any) -> bool:
    """Tell whether a replica has all that its master had when asked."""
    wanted = master.info("replication")["master_repl_offset"]
    return until(
        lambda: replica.info("replication").get("slave_repl_offset", -1) >= wanted, seconds=60
    )


def comes_back(cache: Memora) -> bool:
    return until(lambda: cache.store("back", {}, 2) and cache.lookup("back").is_hit)


@pytest.mark.parametrize("search", [True, False], ids=["query engine", "vector sets"])
def test_a_killed_server_that_kept_a_log_loses_nothing(*, search: bool) -> None:
    options = [*LOGGED, *(parts.query_engine() if search else ())]
    with parts.running(parts.redis_program(), *options) as server, cache_on(server) as cache:
        for i in range(50):
            assert cache.store(f"question number {i}", {}, i)
        server.kill()

        assert cache.lookup("question number 7").reason == "error"
        assert cache.store("while it is away", {}, 1) is None
        assert cache.health_check()["status"] == "unhealthy"
        assert "out of reach" in cache.health_check()["checks"]["database"]["error"]
        server.start()

        assert until(lambda: cache.lookup("question number 7").is_hit)
        found = [cache.lookup(f"question number {i}") for i in range(50)]
        assert [one.result for one in found] == list(range(50))
        near = cache.lookup("number question 7", similarity_threshold=0.9)
        assert near.result == 7
        assert comes_back(cache)
        assert cache.get_stats()["total_entries"] == 51
        assert audit(cache._ports.store) == 51  # type: ignore[arg-type]


@pytest.mark.parametrize("search", [True, False], ids=["query engine", "vector sets"])
def test_a_server_that_comes_back_empty_is_filled_anew(*, search: bool) -> None:
    options = parts.query_engine() if search else ()
    with (
        parts.running(parts.redis_program(), *options) as server,
        cache_on(server, judge="off") as cache,
    ):
        store: Any = cache._ports.store
        for empty in (server.kill, lambda: client_of(store).flushall()):
            assert cache.store("sales in march", {}, 1)
            empty()
            if not server.answers():
                server.start()

            assert until(lambda: cache.lookup("in march sales").reason == "no_candidate")
            assert comes_back(cache)
            assert cache.store("sales in march", {}, 2)
            assert cache.lookup("in march sales").result == 2
            assert audit(store) == 2


def test_an_index_that_was_dropped_is_made_again(servers: parts.Servers, table: str) -> None:
    store = open_store(servers.uri("redis search"), table)
    one = put(store, "q")
    client_of(store).execute_command("FT.DROPINDEX", f"{store._shards._prefixes[0]}idx")

    def found() -> list[Entry]:  # the server reads what is there in the background
        matches = store.search(unit(1), context=HERE.fingerprint, k=1, now=NOW)
        return [match.entry for match in matches]

    assert until(lambda: found() == [one])
    assert store.create_index(index_type="IVF_PQ")
    assert until(lambda: found() == [one])
    with pytest.raises(ArgumentError, match="num_partitions=3"):
        store.create_index(num_partitions=3)
    store.close()


@pytest.mark.parametrize("kind", ["redis search", "redis"])
def test_who_asks_for_many_misses_none(servers: parts.Servers, kind: str, table: str) -> None:
    numbers = np.random.default_rng(0)
    vectors = numbers.normal(size=(5000, 64)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    store = open_store(servers.uri(kind), table, dimension=64)
    store.put_many([(entry(f"q{i}"), Content(b"1"), vector) for i, vector in enumerate(vectors)])

    for asked in vectors[:5]:
        found = store.search(asked, context=HERE.fingerprint, k=500, now=NOW)
        nearest = np.argsort(-(vectors @ asked))[:500]
        assert {match.entry.query for match in found} == {f"q{i}" for i in nearest}


def test_who_asks_for_many_gets_all_or_is_told() -> None:
    with parts.running(parts.redis_program(), *parts.query_engine()) as server:
        store = open_store(f"{server.uri}?timeout=30", "t")
        items = [(entry(f"q{i}"), Content(b"1"), unit(1, i / 1000)) for i in range(4000)]
        store.put_many(items)
        client_of(store).execute_command("FT.CONFIG", "SET", "TIMEOUT", "1")  # what it has by then

        def found() -> int:
            return len(store.search(unit(1), context=HERE.fingerprint, k=5000, now=NOW))

        def found_again() -> bool:
            try:
                numbers.append(found())
            except StoreError as error:
                said.add(str(error).partition(" refuses: ")[2])
            return bool(numbers)

        numbers: list[int] = []
        said: set[str] = set()
        assert found() == len(items)
        store.create_index()
        assert until(found_again, seconds=60)
        assert numbers == [len(items)]
        assert said <= {"the index is still being built, so not all is found yet; try again"}
        store.close()


def test_a_server_that_stands_still_costs_misses_and_no_more() -> None:
    with (
        parts.running(parts.redis_program(), *parts.query_engine()) as server,
        cache_on(server, timeout=0.5) as cache,
    ):
        assert cache.store("q", {}, 1)
        server.signal(signal.SIGSTOP)
        try:
            found = [cache.lookup("q") for _ in range(8)]
            stored = cache.store("r", {}, 1)
        finally:
            server.signal(signal.SIGCONT)

        assert {one.reason for one in found} == {"error"}  # before the time is up
        assert stored is None
        assert until(lambda: cache.lookup("q").is_hit)
        assert comes_back(cache)


@pytest.fixture
def wire() -> Iterator[tuple[parts.Server, parts.Wire]]:
    with (
        parts.running(parts.redis_program(), *parts.query_engine()) as server,
        closing(parts.Wire(server.port)) as wire,
    ):
        yield server, wire


def test_a_partition_costs_misses_and_no_more(wire: tuple[parts.Server, parts.Wire]) -> None:
    _, line = wire
    with cache_on(f"redis://127.0.0.1:{line.port}", timeout=0.5) as cache:
        assert until(lambda: cache.store("q", {}, 1))
        line.stop()
        silent = [cache.lookup("q") for _ in range(8)]
        assert cache.store("r", {}, 1) is None
        line.cut()
        refused = [cache.lookup("q") for _ in range(8)]
        line.mend()

        assert {one.reason for one in silent + refused} == {"error"}  # before the time is up
        assert until(lambda: cache.lookup("q").is_hit)
        assert comes_back(cache)
        line.stop()
        assert cache.lookup("q").reason == "error"
        line.mend()
        assert until(lambda: cache.lookup("q").is_hit)


def test_a_leader_that_was_cut_off_overwrites_nothing(
    wire: tuple[parts.Server, parts.Wire],
) -> None:
    server, line = wire
    with (
        cache_on(f"redis://127.0.0.1:{line.port}") as slow,
        cache_on(server) as quick,
        redis.Redis(port=server.port) as client,
    ):
        lease = f"memora:{{{slow._config.table_name}:0}}:l:{exact_key('q', NOWHERE).hex()}"

        def compute() -> str:
            assert client.exists(lease)
            line.stop()
            client.pexpire(lease, 1)
            assert until(lambda: not client.exists(lease), seconds=60)
            assert quick.get_or_compute("q", None, lambda: "newer") == "newer"
            line.mend()
            return "older"

        assert slow.get_or_compute("q", None, compute) == "older"
        assert quick.lookup("q").result == "newer"
        assert until(lambda: slow.lookup("q").result == "newer")
        assert quick.invalidate("q") == 1
        assert slow.get_or_compute("q", None, lambda: "newest") == "newest"
        assert quick.lookup("q").result == "newest"


def test_closing_gives_a_server_that_stands_still_one_chance(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with parts.running(parts.redis_program()) as server:
        store = open_store(server.uri, "t")
        for i in range(1000):  # of which some hundred ride with a call
            store.touch(i.to_bytes(16, "big"), now=NOW)
        asked, execute = list[str](), client_of(store).execute_command
        monkeypatch.setattr(
            client_of(store), "execute_command", lambda *a: (asked.append(a[0]), execute(*a))[1]
        )
        server.signal(signal.SIGSTOP)
        try:
            store.close()
        finally:
            server.signal(signal.SIGCONT)

        assert asked == ["EVALSHA"]


def test_a_full_server_serves_what_it_has_and_says_so() -> None:
    options = ("--maxmemory", "60mb", *parts.query_engine())
    with (
        parts.running(parts.redis_program(), *options) as server,
        cache_on(server, max_entries="none") as cache,
    ):
        assert cache.store("q", {}, 1)
        store = cache._ports.store
        for size in (1_000_000, 1000):
            while cache.store(uuid.uuid4().hex, {}, "x" * size):
                pass

        def says_so() -> bool:
            # What the server takes for a large request it gives back a while later.
            cache.store(uuid.uuid4().hex, {}, "x" * 1000)
            error = cache.health_check()["checks"]["database"]["error"] or ""
            return "is full: raise its maxmemory, or lower max_entries" in error

        assert until(says_so, seconds=60)
        assert cache.lookup("q").result == 1
        assert audit(store) == cache.get_stats()["total_entries"]  # type: ignore[arg-type]
        client_of(store).config_set("maxmemory", "0")  # type: ignore[arg-type]
        assert comes_back(cache)


@pytest.mark.parametrize("search", [True, False])
def test_a_full_server_does_what_it_is_told_beside_what_it_cannot_note(*, search: bool) -> None:
    options = parts.query_engine() if search else ()
    with parts.running(parts.redis_program(), *options) as server:
        store = open_store(f"{server.uri}?timeout=30", "t")
        kept = [put(store, f"q{i}", tags=("doc:1",)) for i in range(4)]
        client_of(store).config_set("maxmemory", "1")

        def serve() -> None:
            for one in kept[:3]:  # rides with the next call
                store.touch(one.key, now=NOW)

        serve()
        assert store.peek(kept[3].key, now=NOW) == kept[3]
        serve()
        assert len(store.search(unit(1), context=HERE.fingerprint, k=5, now=NOW)) == 4
        serve()
        assert store.discard([kept[3]]) == 1
        serve()
        with pytest.raises(StoreError, match="is full"):
            store.invalidate_tag("doc:1")
        store.close()


def test_a_large_entry_makes_many_small_ones_leave(servers: parts.Servers, table: str) -> None:
    store = open_store(servers.uri("redis"), table, max_bytes=100_000)
    for i in range(100):
        store.put(entry(f"q{i}"), Content(b"x" * 500), vector=None)
    large = entry("large")
    store.put(large, Content(b"x" * 90_000), vector=None)
    left = store.maintain(max_entries=None, max_bytes=100_000, now=NOW)

    assert store.measure().bytes <= 100_000
    assert store.peek(large.key, now=NOW) == large
    assert store.count() == 101 - left == audit(store)


@pytest.mark.parametrize("policy", ["fifo", "lru", "s3fifo"])
def test_a_server_that_dropped_the_order_is_not_held_up(
    servers: parts.Servers, table: str, policy: str
) -> None:
    from memora.eviction import make_policy  # noqa: PLC0415

    store = open_store(servers.uri("redis"), table, max_entries=3, policy=make_policy(policy))
    for i in range(4):
        put(store, f"q{i}", expires_at=NOW + 60)
    client_of(store).delete(f"{store._shards._prefixes[0]}order")  # as by allkeys-lru
    for i in range(8):
        put(store, f"r{i}")
    store.sweep(now=NOW + 61, limit=100)

    assert store.count() == audit(store) == 3


@pytest.mark.parametrize("seconds", [1e16, 1e300])
def test_an_entry_may_end_in_any_future(servers: parts.Servers, table: str, seconds: float) -> None:
    store = open_store(servers.uri("redis search"), table)
    one = put(store, "q", expires_at=NOW + seconds, stale_seconds=seconds)

    assert store.peek(one.key, now=NOW) == one
    assert store.search(unit(1), context=HERE.fingerprint, k=1, now=NOW)[0].entry == one


@pytest.mark.parametrize("kind", ["redis search", "redis"])
def test_what_the_server_dropped_is_missed_and_forgotten(
    servers: parts.Servers, kind: str, table: str
) -> None:
    store = open_store(servers.uri(kind), table, max_entries=3)
    dropped = put(store, "dropped", tags=("doc:1",))
    again = put(store, "again")
    for one in (dropped, again):  # as under maxmemory, or by its own expiry
        client_of(store).delete(f"{store._shards._prefixes[0]}e:{one.key.hex()}")

    assert store.get(dropped.key, now=NOW) is None
    assert store.search(unit(1), context=HERE.fingerprint, k=5, now=NOW) == []
    assert store.select(Selection(), now=NOW) == []
    again = put(store, "again")
    for i in range(2):
        put(store, f"q{i}")
    assert store.peek(again.key, now=NOW) == again
    assert store.count() == 3 == audit(store)
    store.close()


def test_the_server_itself_drops_entries_long_after_their_end(
    servers: parts.Servers, table: str
) -> None:
    store = open_store(servers.uri("redis"), table)
    ending = put(store, "q", expires_at=NOW + 60, stale_seconds=40.0)
    lasting = put(store, "r")

    client, prefix = client_of(store), store._shards._prefixes[0]
    left = client.pttl(f"{prefix}e:{ending.key.hex()}") / 1000
    assert 86_400 < left <= 86_400 + 100
    assert client.pttl(f"{prefix}e:{lasting.key.hex()}") == -1
    store.close()


def test_a_damaged_entry_is_dropped_and_the_rest_serve(servers: parts.Servers, table: str) -> None:
    from memora.errors import CorruptEntryError  # noqa: PLC0415

    store = open_store(servers.uri("redis search"), table)
    bad, worse, good = put(store, "bad"), put(store, "worse"), put(store, "good")
    for one in (bad, worse):
        client_of(store).hset(f"{store._shards._prefixes[0]}e:{one.key.hex()}", "e", b"\xffno")

    with pytest.raises(CorruptEntryError):
        store.get(bad.key, now=NOW)
    found = store.search(unit(1), context=HERE.fingerprint, k=3, now=NOW)
    assert [match.entry for match in found] == [good]
    assert store.count() == 1 == audit(store)
    client_of(store).hset(f"{store._shards._prefixes[0]}e:{good.key.hex()}", "e", b"\xffno")
    last = put(store, "last")
    assert [held.entry for held in store.select(Selection(), now=NOW)] == [last]
    assert store.count() == 1 == audit(store)
    store.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
@pytest.mark.parametrize("kind", ["redis search", "redis cluster"])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_has_connections_of_its_own(
    servers: parts.Servers, kind: str, table: str
) -> None:
    store = open_store(servers.uri(kind), table)
    lease = store.try_lock(bytes(16))
    assert lease is not None
    put(store, "parent")

    child = os.fork()
    if child == 0:
        status = 1
        try:
            assert store.peek(entry("parent").key, now=NOW)
            lease.release()  # the parent's
            put(store, "child")
            store.close()
            status = 0
        finally:
            os._exit(status)
    for i in range(50):
        put(store, f"q{i}")
    assert os.waitpid(child, 0)[1] == 0

    assert store.peek(entry("child").key, now=NOW)
    assert store.count() == 52
    assert open_store(servers.uri(kind), table).try_lock(bytes(16)) is None
    store.close()


def test_another_policy_takes_over(servers: parts.Servers, table: str) -> None:
    from memora.eviction import make_policy  # noqa: PLC0415

    store = open_store(servers.uri("redis"), table)
    used = put(store, "used")
    for i in range(3):
        put(store, f"q{i}")
    store.touch(used.key, now=time.time(), times=3)
    store.close()

    for policy in ("lru", "cost", "s3fifo", "lfu"):
        store = open_store(servers.uri("redis"), table, policy=make_policy(policy))
        put(store, f"by {policy}")
        store.maintain(max_entries=4, now=NOW)
        assert store.peek(used.key, now=NOW) == used
        assert store.count() == 4 == audit(store)
        store.close()


@pytest.mark.parametrize("policy", ["lru", "s3fifo", "lfu"])
def test_a_policy_that_was_half_taken_over_keeps_what_is_new(
    servers: parts.Servers, table: str, policy: str
) -> None:
    from memora.eviction import make_policy  # noqa: PLC0415

    store = open_store(servers.uri("redis"), table)
    for i in range(4):
        put(store, f"old {i}")
    store._shards.run("rank", 0, policy, b"0", 1)  # and whoever did that was killed
    store.close()

    store = open_store(servers.uri("redis"), table, policy=make_policy(policy), max_entries=4)
    for i in range(3):
        put(store, f"new {i}")
    kept = {held.entry.query for held in store.select(Selection(), now=NOW)}
    assert kept == {"old 3", "new 0", "new 1", "new 2"}


@pytest.mark.parametrize("kind", ["redis search", "redis"])
def test_lookups_rid_themselves_of_outdated_entries_that_crowd_them(
    servers: parts.Servers, kind: str, table: str
) -> None:
    store = open_store(servers.uri(kind), table)
    old = [
        (entry(f"q{i}", tags=("doc:1",)), Content(b"1"), unit(1, i / 10_000)) for i in range(800)
    ]
    store.put_many(old)
    living = put(store, "living", vector=unit(1, 1))
    store.invalidate_tag("doc:1")

    found: list[Entry] = []
    for _ in range(20):  # each looks at so many, and holds up others no longer
        matches = store.search(unit(1), context=HERE.fingerprint, k=5, now=NOW)
        found = [match.entry for match in matches]
        if found:
            break
    assert found == [living]
    assert audit(store) == store.count() <= len(old)


# Time.


class Apart:
    """The clock of a machine, so far from the server's."""

    def __init__(self, hours: float) -> None:
        self.hours, self._real = hours, time.time

    def __call__(self) -> float:
        return self._real() + 3600 * self.hours


def open_apart(
    uri: str, table: str, clock: Apart, monkeypatch: pytest.MonkeyPatch, **settings: Any
) -> RedisStore:
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", clock)
        return open_store(uri, table, clock=clock, **settings)


# Half a minute to each side, as a measure under load may be off by some seconds.
@pytest.mark.parametrize("kind", [*KINDS, *CLUSTERS])
def test_entries_end_by_the_servers_clock(
    servers: parts.Servers, kind: str, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    machines = []
    for n, hours in enumerate([0, -1, 1, -1000]):
        store = open_apart(servers.uri(kind), table, clock := Apart(hours), monkeypatch)
        machines.append((store, now := clock()))
        sliding = 70.0 if n == 3 else None
        put(store, f"q{n}", created_at=now, expires_at=now + 60, sliding_seconds=sliding)
    store.touch(entry("q3").key, now=now + 30)
    store._shards.send_uses()

    def found(store: RedisStore, now: float, since: float) -> set[str]:
        matches = store.search(unit(1), context=HERE.fingerprint, k=9, now=now, since=since)
        return {match.entry.query for match in matches}

    for store, now in machines:
        assert found(store, now, now - 1000) == {"q0", "q1", "q2", "q3"}
        assert found(store, now + 30, now - 30) == {"q0", "q1", "q2", "q3"}
        assert found(store, now, now + 30) == set()
        assert found(store, now + 85, now - 1000) == {"q3"}
        assert found(store, now + 130, now - 1000) == set()
        assert store.sweep(now=now, limit=9) == 0
        holdings = store.select(Selection(), now=now)
        assert len(holdings) == 4
        for held in holdings:
            one = store.peek(held.entry.key, now=now)
            assert one is not None
            assert one.id == held.entry.id
            assert one.created_at == pytest.approx(now, abs=30)
            lasts = 100 if one.query == "q3" else 60
            assert one.expires_at == pytest.approx(now + lasts, abs=30)
            assert held.entry.expires_at == pytest.approx(now + lasts, abs=30)
            if one.query == "q3":
                assert held.last_used_at == pytest.approx(now + 30, abs=30)
            assert store.get(one.key, now=now + 130) is None
            prefix = store._shards._prefixes[store._shards.of(one.key)]
            left = client_of(store).pttl(f"{prefix}e:{one.key.hex()}") / 1000
            assert left == pytest.approx(86_400 + lasts, abs=30)
    (first, _), (store, now), *_ = machines
    assert store.sweep(now=now + 95, limit=9) == 3
    assert first.count() == 1


def test_a_store_keeps_limits_by_the_servers_clock(
    servers: parts.Servers, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, now = servers.uri("redis"), time.time()
    lasting = put(open_store(uri, table), "q", created_at=now, expires_at=now + 600)
    clock = Apart(1)  # by which that ended long ago
    store = open_apart(uri, table, clock, monkeypatch, max_entries=2)

    for query in ("r", "s"):
        put(store, query, created_at=clock())
        assert store.measure().expired == 0

    assert store.peek(lasting.key, now=clock()) is None  # the first in
    assert store.measure().evicted == 1


def test_a_clock_that_is_set_takes_nothing_away(
    servers: parts.Servers, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_apart(servers.uri("redis"), table, clock := Apart(0), monkeypatch)
    one = put(store, "q", created_at=clock(), expires_at=clock() + 60)

    clock.hours = 1

    found = store.peek(one.key, now=(now := clock()))
    assert found is not None
    assert found.created_at == pytest.approx(now, abs=30)
    assert store.peek(one.key, now=now + 95) is None


ANOTHER_TIME = """
import sys, time
real, hours = time.time, float(sys.argv[1])
time.time = lambda: real() + 3600 * hours
sys.path.insert(0, sys.argv[2])
from doubles import WordEmbedder
from memora import CacheConfig, Memora

config = CacheConfig(db_uri=sys.argv[3], table_name=sys.argv[4], judge="off")
with Memora(config, embedder=WordEmbedder()) as cache:
    for query in ("ended", "sales in march", "march in sales"):
        found = cache.lookup(query, similarity_threshold=0.9, max_age=300)
        left = found.ttl_remaining_seconds
        print(found.is_hit, found.age_seconds, left, sep=",")
"""


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_cache_on_a_machine_whose_clock_is_wrong(
    servers: parts.Servers, table: str, hours: int
) -> None:
    uri = servers.uri("redis search")
    config = CacheConfig(db_uri=uri, table_name=table)
    with Memora(config, embedder=WordEmbedder()) as cache:
        cache.store("sales in march", {}, 1, ttl=600)
        cache.store("ended", {}, 2, ttl=0.01)
        assert until(lambda: cache.lookup("ended").is_miss)

    there = [str(hours), str(Path(__file__).parents[1]), uri, table]
    done = subprocess.run(
        [sys.executable, "-c", ANOTHER_TIME, *there], capture_output=True, text=True, check=True
    )

    ended, *living = [line.split(",") for line in done.stdout.splitlines()]
    assert ended[0] == "False"
    for is_hit, age, left in living:
        assert is_hit == "True"
        assert 0 <= float(age) < 300
        assert 300 < float(left) <= 601


def test_a_clock_that_is_given_is_taken_for_the_servers(servers: parts.Servers, table: str) -> None:
    clock = FakeClock()
    config = CacheConfig(db_uri=servers.uri("redis search"), table_name=table)
    cache = Memora(config, embedder=WordEmbedder(), clock=clock)
    cache.store("q", {}, 1, ttl=60)

    assert cache.lookup("q").ttl_remaining_seconds == 60
    clock.advance(60)
    assert cache.lookup("q").is_miss
    assert cache.cleanup_expired() == 1
    cache.close()
