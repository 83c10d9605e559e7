"""The store on a Redis server beside RedisVL's SemanticCache: `python benchmarks/redis_server.py`.

Both fill one server with the same vectors and payloads, in one context each, and are then asked in
turns: so many queries of one, the same of the other, round by round. No model runs. A query counts
as a hit from one cosine on, for both. Client CPU is this process's, server CPU what the server says
of itself; memory is what it says after one and the other was filled. Needs the dependency groups
`servers` and `bench`.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import statistics
import sys
import time
import uuid
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import corpus
import numpy as np
import redis
from corpus import DIMENSION, HIT, MISS, THRESHOLD, Payloads
from machine import machine

from memora import CacheConfig, Memora
from memora.context import canonical_context
from memora.model import Content, Context, Entry
from memora.stores.redis import RedisStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
servers = import_module("servers")

PAYLOAD = 1024
LENGTHS = (100, 1000, 10_000)
BARE: dict[str, Any] = {"model": "bench", "dimension": DIMENSION}
WAYS = ("hit", "miss")
CONTEXT = {"agent": "bench"}
CANDIDATES = 10  # as `memora.pipeline` asks for
BATCH = 64
PATIENCE = 10  # seconds; a shared machine stands still at times
NEAR = 1e-5  # cosines that are equal, as text of a server says them


@dataclass
class Tally:
    """What calls of one kind took, by round."""

    times: list[list[float]] = field(default_factory=list)
    client: float = 0.0
    server: float = 0.0
    wrong: int = 0

    @property
    def calls(self) -> int:
        """How many there were."""
        return sum(map(len, self.times))

    def p(self, share: float) -> float:
        """Return milliseconds that this share of the calls did not exceed."""
        return 1e3 * float(np.quantile(np.concatenate(self.times), share))

    def over(self, other: Tally) -> float:
        """Return the median over the rounds of how many times longer the median call took."""
        return statistics.median(
            statistics.median(mine) / statistics.median(theirs)
            for mine, theirs in zip(self.times, other.times, strict=True)
        )


class Bench:
    """One server that both use."""

    def __init__(self, uri: str, vectors: Path, entries: int, seed: int) -> None:
        self.uri, self.entries = uri, entries
        self.vectors, self.queries = corpus.load(vectors)
        nearest, best = corpus.nearest(vectors, entries)
        found = {int(nearest[query]): int(query) for query in np.flatnonzero(best >= HIT)}
        self.asked = {"hit": list(found.values()), "miss": np.flatnonzero(best < MISS).tolist()}
        # What a judge can agree with: a hit says of the nearest entry what that says.
        self.texts = {query: f"Tell me where order {row:08d} is" for row, query in found.items()}
        self.texts |= {query: f"Did client {query:08d} pay?" for query in self.asked["miss"]}
        self.rng = random.Random(seed)  # noqa: S311
        self.payload = Payloads(PAYLOAD, seed)
        self.admin = redis.Redis.from_url(uri, protocol=2)
        self.tallies: dict[tuple[str, str], Tally] = {}
        self.bytes: dict[str, float] = {}

    def server_cpu(self) -> float:
        """Return CPU seconds of the server until now."""
        said: dict[str, float] = self.admin.info("cpu")
        return said["used_cpu_user"] + said["used_cpu_sys"]

    def memory(self) -> int:
        """Return the bytes that the server has allocated."""
        return int(self.admin.info("memory")["used_memory"])

    def timed(self, name: str, kind: str, calls: Sequence[Callable[[], object]]) -> list[object]:
        """Time calls, one after the other, as one round; return what they did."""
        tally = self.tallies.setdefault((name, kind), Tally())
        times, answers = [], []
        server, client = self.server_cpu(), time.process_time()
        for call in calls:
            started = time.perf_counter()
            answers.append(call())
            times.append(time.perf_counter() - started)
        tally.client += time.process_time() - client
        tally.server += self.server_cpu() - server
        tally.times.append(times)
        return answers


class Precomputed:
    """An embedder that looks vectors up, by text."""

    identity = "precomputed"
    dimension = DIMENSION

    def __init__(self, bench: Bench) -> None:
        self._vectors = bench.vectors
        self._queries = {text: bench.queries[query] for query, text in bench.texts.items()}

    def embed(self, texts: Sequence[str], /) -> list[NDArray[np.float32] | None]:
        """Return rows."""
        return [self._of(text) for text in texts]

    def _of(self, text: str) -> NDArray[np.float32]:
        known = self._queries.get(text)
        row: NDArray[np.float32] = self._vectors[int(text[-8:])] if known is None else known
        return row


def entry_text(number: int) -> str:
    """Return the text of an entry, which ends with its number."""
    return f"Where is order {number:08d}"


class RedisVL:
    """RedisVL's SemanticCache, given vectors and a filter."""

    def __init__(self, bench: Bench) -> None:
        llm = import_module("redisvl.extensions.cache.llm")
        vectorizers = import_module("redisvl.utils.vectorize")
        tag = import_module("redisvl.query.filter").Tag
        self._bench = bench
        self._here = tag("agent") == "bench"
        self._cache = llm.SemanticCache(
            name="peer",
            redis_url=bench.uri,
            vectorizer=vectorizers.CustomVectorizer(embed=lambda _: [1.0] + [0.0] * 383),
            distance_threshold=1 - THRESHOLD,
            filterable_fields=[{"name": "agent", "type": "tag"}],
        )

    def storing(self, number: int) -> Callable[[], object]:
        """Return the storing of an entry."""
        vector = self._bench.vectors[number].tolist()
        said = {"prompt": entry_text(number), "response": self._bench.payload(number)}
        return lambda: self._cache.store(**said, vector=vector, filters={"agent": "bench"})

    def fill(self, count: int) -> None:
        """Store the first entries."""
        for number in range(count):
            self.storing(number)()

    def looking(self, query: int, *, filtered: bool) -> Callable[[], str | None]:
        """Return the lookup of a query."""
        vector = self._bench.queries[query].tolist()
        here = self._here if filtered else None

        def look() -> str | None:
            found = self._cache.check(vector=vector, filter_expression=here)
            return found[0]["response"] if found else None

        return look


class Ours:
    """Memora: its door, with and without the judge, and the store alone."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._doors = {
            judge: Memora(
                CacheConfig(
                    db_uri=f"{bench.uri}?timeout={PATIENCE}",
                    table_name="ours",
                    max_entries=None,
                    similarity_threshold=THRESHOLD,
                    judge=judge,
                    embedding_cache_size=0,
                    log_level="ERROR",
                ),
                embedder=Precomputed(bench),
            )
            for judge in ("off", "on")
        }
        self._store = RedisStore(
            f"{bench.uri}?timeout={PATIENCE}",
            table_name="ours",
            model=Precomputed.identity,
            dimension=DIMENSION,
        )
        self._fingerprint = canonical_context(CONTEXT).fingerprint

    def storing(self, number: int) -> Callable[[], object]:
        """Return the storing of an entry."""
        said = entry_text(number), CONTEXT, self._bench.payload(number)
        return lambda: self._doors["off"].store(*said)

    def fill(self, count: int) -> None:
        """Store the first entries."""
        for start in range(0, count, BATCH):
            numbers = range(start, min(start + BATCH, count))
            said = [(entry_text(i), CONTEXT, self._bench.payload(i)) for i in numbers]
            if None in self._doors["off"].store_many(said):
                raise RuntimeError("not stored")

    def looking(self, query: int, judge: str) -> Callable[[], str | None]:
        """Return the lookup of a query."""
        return partial(self._look, self._doors[judge], self._bench.texts[query])

    def exact(self, number: int) -> Callable[[], str | None]:
        """Return the lookup of a text that was stored."""
        return partial(self._look, self._doors["off"], entry_text(number))

    @staticmethod
    def _look(door: Memora, query: str) -> str | None:
        found = door.lookup(query, CONTEXT)
        return found.result if found.is_hit else None

    def searching(self, query: int) -> Callable[[], bytes | None]:
        """Return the search of the store for a query, held against the threshold."""
        vector = self._bench.queries[query]

        def search() -> bytes | None:
            now = time.time()
            found = self._store.search(vector, context=self._fingerprint, k=CANDIDATES, now=now)
            if not found or found[0].cosine < THRESHOLD or found[0].content is None:
                return None
            return found[0].content.payload

        return search

    def planning(self, query: int, where: str, hint: str) -> Callable[[], object]:
        """Return a bare search of the index, by the part of the filter and the hint named."""
        ends, since = f" @x:[({time.time()} +inf]", " @a:[-inf +inf]"
        here = f"@c:{{{self._fingerprint}}}"
        parts = {"all": "*", "context": f"({here})", "and end": f"({here}{ends})"}
        known = parts | {"and time of storing": f"({here}{ends}{since})"}
        asked = f"{known[where]}=>[KNN {CANDIDATES} @v $q{hint} AS d]"
        vector = self._bench.queries[query].tobytes()
        words = ("PARAMS", 2, "q", vector, "LIMIT", 0, CANDIDATES, "RETURN", 1, "d", "DIALECT", 2)
        run: Callable[..., object] = self._bench.admin.execute_command
        return lambda: run("FT.SEARCH", "memora:{ours:0}:idx", asked, *words)

    def close(self) -> None:
        """Close all."""
        self._store.close()
        for door in self._doors.values():
            door.close()


PEER, BARE_PEER = "RedisVL `check`, filter", "RedisVL `check`, no filter"
STORE, DOOR, JUDGED = "Memora, the store's search", "Memora `lookup`, no judge", "Memora `lookup`"
EXACT = "Memora `lookup`, the same text"
FILTERS = ("all", "context", "and end", "and time of storing")
HINT = " HYBRID_POLICY BATCHES BATCH_SIZE 16"  # as `search.lua` gives for large contexts
ROWS = (PEER, BARE_PEER, STORE, DOOR, JUDGED, EXACT)
STORES = ("RedisVL `store`", "Memora `store`")


def compare(bench: Bench, rounds: int, calls: int) -> None:
    """Fill, then time stores and lookups in turns."""
    timed_stores = rounds * calls
    first = bench.entries - timed_stores
    peer, ours = RedisVL(bench), Ours(bench)
    engines: dict[str, RedisVL | Ours] = {"RedisVL": peer, "Memora": ours}
    for name, engine in engines.items():
        before = bench.memory()
        engine.fill(first)
        bench.bytes[name] = (bench.memory() - before) / first
    for turn in range(rounds):
        numbers = range(first + turn * calls, first + (turn + 1) * calls)
        for name, engine in zip(STORES, engines.values(), strict=True):
            bench.timed(name, "store", [engine.storing(number) for number in numbers])
    ways: dict[str, Callable[[int], Callable[[], object]]] = {
        PEER: partial(peer.looking, filtered=True),
        BARE_PEER: partial(peer.looking, filtered=False),
        STORE: ours.searching,
        DOOR: partial(ours.looking, judge="off"),
        JUDGED: partial(ours.looking, judge="on"),
    }
    for turn in range(-1, rounds):  # the first warms up
        for kind in WAYS:
            queries = bench.rng.choices(bench.asked[kind], k=calls)
            for name in bench.rng.sample(list(ways), len(ways)):
                answers = bench.timed(name, kind, [ways[name](query) for query in queries])
                tally = bench.tallies[name, kind]
                tally.wrong += sum((answer is None) == (kind == "hit") for answer in answers)
        texts = [ours.exact(bench.rng.randrange(bench.entries)) for _ in range(calls)]
        bench.timed(EXACT, "hit", texts)
        if turn < 0:
            bench.tallies = {key: one for key, one in bench.tallies.items() if key[1] == "store"}
    plans = [(where, hint) for where in FILTERS for hint in ("", HINT)[: 1 + (where != "all")]]
    for _ in range(rounds):
        queries = bench.rng.choices(bench.asked["hit"], k=calls)
        for where, hint in plans:
            name = f"{where}{', in batches' if hint else ''}"
            bench.timed(name, "plan", [ours.planning(query, where, hint) for query in queries])
    ours.close()


def report(bench: Bench) -> None:
    """Print the tables of one size."""
    print(f"\n## {bench.entries:,} entries\n")
    head = ["", "calls", "p50, ms", "p99, ms", f"p50, times {PEER}", "client CPU, µs"]
    head += ["server CPU, µs", "other answer than exact search"]
    for kind in WAYS:
        print(f"{kind.capitalize()}:\n")
        _rows(head, _lines(bench, kind, PEER))
    print("Store, of the last:\n")
    head[4] = f"p50, times {STORES[0]}"
    _rows(head[:-1], (line[:-1] for line in _lines(bench, "store", STORES[0])))
    print("Plans of the query engine, without a script:\n")
    head[4] = f"p50, times {FILTERS[0]}"
    _rows(head[:-1], (line[:-1] for line in _lines(bench, "plan", FILTERS[0])))
    shown = ", ".join(f"{name} {found:,.0f}" for name, found in bench.bytes.items())
    print(f"Bytes of the server's memory an entry: {shown}.", flush=True)


def _place(item: tuple[tuple[str, str], Tally]) -> int:
    ((name, _), _) = item
    return ROWS.index(name) if name in ROWS else len(ROWS)


def _lines(bench: Bench, kind: str, base: str) -> Iterator[list[str]]:
    for (name, its_kind), one in sorted(bench.tallies.items(), key=_place):
        if its_kind == kind:
            yield [
                *(name, f"{one.calls}", f"{one.p(0.5):.3f}", f"{one.p(0.99):.2f}"),
                f"{one.over(bench.tallies[base, kind]):.2f}",
                *(f"{1e6 * cpu / one.calls:.0f}" for cpu in (one.client, one.server)),
                f"{one.wrong}",
            ]


def recall(uri: str, folder: Path, sizes: Sequence[int]) -> None:
    """Search contexts of many sizes in one table, against exact search."""
    vectors, queries = corpus.load(folder)
    store = RedisStore(
        f"{uri}?timeout={PATIENCE}", table_name="recall", model="bench", dimension=DIMENSION
    )
    engine = store.index_stats()["engine"]
    contexts = [Context(f"{size}", hashlib.sha256(b"%d" % size).hexdigest()) for size in sizes]
    for size, context in zip(sizes, contexts, strict=True):
        for start in range(0, size, BATCH):
            numbers = range(start, min(start + BATCH, size))
            store.put_many([_bare(context, number, vectors[number]) for number in numbers])
    for size, context in zip(sizes, contexts, strict=True):
        _, best = corpus.nearest(folder, size)
        near = best >= THRESHOLD
        right = np.zeros(len(queries), bool)
        started = time.perf_counter()
        for i, query in enumerate(queries):
            found = store.search(query, context=context.fingerprint, k=CANDIDATES, now=time.time())
            right[i] = bool(found) and found[0].cosine >= best[i] - NEAR
        took = 1e3 * (time.perf_counter() - started) / len(queries)
        share = f"{right[near].mean():.4f}" if near.any() else "-"
        line = [engine, f"{size:,}", f"{right.mean():.4f}", share, f"{near.sum()}", f"{took:.2f}"]
        print(f"| {' | '.join(line)} |", flush=True)
    store.close()


def weigh(uri: str, folder: Path, entries: int) -> None:
    """Fill tables with results of several sizes; print what an entry takes."""
    vectors, _ = corpus.load(folder)
    rng = np.random.default_rng(0)
    with redis.Redis.from_url(uri, protocol=2) as admin:
        for length in LENGTHS:
            store = RedisStore(f"{uri}?timeout={PATIENCE}", table_name=f"of-{length}", **BARE)
            context = Context("weigh", hashlib.sha256(b"%d" % length).hexdigest())
            before = admin.info("memory")["used_memory"]
            for start in range(0, entries, BATCH):
                numbers = range(start, min(start + BATCH, entries))
                result = [rng.bytes(length) for _ in numbers]
                store.put_many(
                    [
                        _bare(context, number, vectors[number], payload)
                        for number, payload in zip(numbers, result, strict=True)
                    ]
                )
            took = (admin.info("memory")["used_memory"] - before) / entries
            line = [store.index_stats()["engine"], f"{length:,}", f"{took:,.0f}"]
            print(f"| {' | '.join(line)} |", flush=True)
            store.close()


def _bare(
    context: Context, number: int, vector: NDArray[np.float32], payload: bytes = b"answer"
) -> tuple[Entry, Content, NDArray[np.float32]]:
    key = hashlib.sha256(f"{context.canonical} {number}".encode()).digest()[:16]
    entry = Entry(
        id=uuid.uuid4().hex,
        key=key,
        query=entry_text(number),
        context=context,
        created_at=time.time(),
        expires_at=None,
    )
    return entry, Content(payload), vector


def _rows(head: Sequence[str], rows: Iterable[Sequence[str]] = (), end: str = "\n") -> None:
    for row in (head, ["---", *("---:" for _ in head[1:])], *rows):
        print(f"| {' | '.join(row)} |")
    print(end=end, flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vectors", type=Path, required=True, help="a folder of corpus.py")
    parser.add_argument("--sizes", type=int, nargs="*", default=[1000, 3000, 10_000, 100_000])
    parser.add_argument("--recall", type=int, nargs="*", default=[10, 100, 1000, 10_000, 100_000])
    parser.add_argument("--memory", type=int, default=10_000, help="entries")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--calls", type=int, default=25, help="of one kind, in a round")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    search = (servers.redis_program(), *servers.query_engine())
    about = (options.vectors / "about.txt").read_text("utf-8").strip()
    print(
        f"{machine('redis', 'redisvl', 'numpy')}; {about}; "
        f"payloads of {PAYLOAD} bytes; a hit from cosine {THRESHOLD} on; seed {options.seed}"
    )
    for size in options.sizes:
        with servers.running(*search) as server:
            bench = Bench(server.uri, options.vectors, size, options.seed)
            if size == options.sizes[0]:
                print(f"Redis {bench.admin.info('server')['redis_version']}")
            compare(bench, options.rounds, options.calls)
            report(bench)
    engines = (search, search[:1])
    if options.recall:
        print("\n## Recall\n")
        head = ["engine", "entries of the context", "recall@1", "of those that are hits", "such"]
        _rows([*head, "ms a search"], end="")
    for program, *extra in engines if options.recall else ():
        with servers.running(program, *extra) as server:
            recall(server.uri, options.vectors, options.recall)
    if options.memory:
        print(f"\n## Memory, {options.memory:,} entries\n")
        _rows(["engine", "result, bytes", "bytes an entry"], end="")
    for program, *extra in engines if options.memory else ():
        with servers.running(program, *extra) as server:
            weigh(server.uri, options.vectors, options.memory)


if __name__ == "__main__":
    main()
