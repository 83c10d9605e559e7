"""Micro-benchmarks: what one call costs, beside what it is compared with.

    python benchmarks/micro.py [CASE ...] [--turns N] [--seed N]

Without a name, all cases run that need no server. `tier` needs a Redis server (`--redis URI`) and
`bucket` object storage (`--bucket URI`, options in MEMORA_STORAGE_OPTIONS); without a URI each
starts a server of the test suite. The rows of a table take turns in one process, so that other load
on the machine reaches all of them. "Times" and "more" compare a row with the first one of its
table: the medians, over the turns, of the ratio and of the difference within a turn.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import random
import statistics
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from functools import partial
from importlib import import_module, resources
from inspect import iscoroutinefunction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from machine import machine

from memora import CacheConfig, Memora
from memora.context import canonical_context, canonical_query, exact_key
from memora.embedders import FunctionEmbedder, load_embedder
from memora.judge import Judge
from memora.judge._text import analyse, forget
from memora.judge.verifier import packaged_verifier
from memora.metrics import HealthCounters, Metrics
from memora.model import Content, Entry, LookupResult

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memora.protocols import Embedder, Vector

Call: TypeAlias = Callable[[], object] | Callable[[], Awaitable[object]]
STORED = 1000  # entries of a cache that is looked up in
BATCH = 256  # texts of a batch
LONG = 9  # turns of batches
ASKED = 200  # queries for the verifier, of which some need it
CONTEXT = {"agent": "support", "model": "m-1", "temperature": 0.2}
ANSWER = "An answer of the usual length, " * 8
QUESTION, OTHER_WORDS = "How do I reset my password?", "How can I reset my password?"
HERE = canonical_context({"agent": "sql"})


class Row(NamedTuple):
    """A call to time, and what is done untimed before each turn."""

    name: str
    call: Call
    before: Callable[[], object] = lambda: None


class Table(NamedTuple):
    """Rows that take turns; the first is what the others are compared with."""

    title: str
    rows: list[Row]
    calls: int = 1
    """Calls that are timed together, for those that are too short for the clock."""
    turns: int = 1_000_000
    """Turns at most, for calls that take seconds."""


class Timing(NamedTuple):
    """Microseconds of a call, and the medians of its ratio to, and distance from, the first row."""

    median: float
    p95: float
    times: float
    more: float


def times(table: Table, turns: int) -> dict[str, Timing]:
    """Time the rows of a table in turns."""
    samples = asyncio.run(_samples(table, min(turns, table.turns)))
    first = samples[0]
    return {
        row.name: Timing(
            statistics.median(found),
            float(np.quantile(found, 0.95)),
            statistics.median(map(float.__truediv__, found, first)),
            statistics.median(map(float.__sub__, found, first)),
        )
        for row, found in zip(table.rows, samples, strict=True)
    }


async def _samples(table: Table, turns: int) -> list[list[float]]:
    samples: list[list[float]] = [[] for _ in table.rows]
    for turn in range(-1, turns):  # the first one starts threads and fills caches
        for row, found in zip(table.rows, samples, strict=True):
            row.before()
            call: Any = row.call
            started = time.perf_counter()
            if iscoroutinefunction(call):
                for _ in range(table.calls):
                    await call()
            else:
                for _ in range(table.calls):
                    call()
            if turn >= 0:
                found.append(1e6 * (time.perf_counter() - started) / table.calls)
    return samples


def show(table: Table, turns: int) -> None:
    """Time a table and print it."""
    _print_row(table.title, "median, µs", "p95, µs", "times", "more, µs")
    _print_row("---", "---:", "---:", "---:", "---:")
    for name, of in times(table, turns).items():
        cells = (f"{of.median:.2f}", f"{of.p95:.2f}", f"{of.times:.2f}", f"{of.more:+.2f}")
        _print_row(name, *cells)
    print(flush=True)


def calls(options: argparse.Namespace) -> Iterator[Table]:
    """Decorated functions, `get_or_compute`, async calls, deadlines and single flight."""
    texts = texts_of_demo(options.seed)
    with TemporaryDirectory() as folder:
        for name, uri, other in (
            ("memory://", "memory://", "memory://"),
            ("directory", f"{folder}/hits", f"{folder}/patient"),
        ):
            with _opened(uri) as cache, _opened(other, lookup_timeout_seconds=None) as patient:
                for one in (cache, patient):
                    one.store_many([(text, CONTEXT, ANSWER) for text in texts[:STORED]])
                    one.store(QUESTION, CONTEXT, ANSWER)
                yield Table(f"exact hit, {name}", _exact(cache), 40)
                yield Table(f"semantic hit, {name}", _semantic(cache, patient), 40)
                yield Table(f"miss, {name}", _misses(cache), 40)


def _exact(cache: Memora) -> list[Row]:
    @cache.cached(query_param="prompt")
    def ask(prompt: str, model: str, temperature: float) -> str:
        raise AssertionError((prompt, model, temperature))

    @cache.cached(query_param="prompt")
    async def aask(prompt: str, model: str, temperature: float) -> str:
        raise AssertionError((prompt, model, temperature))

    def compute() -> str:
        raise AssertionError

    async def acompute() -> str:
        raise AssertionError

    async def alookup() -> object:
        return await cache.alookup(query, context)

    async def aget() -> object:
        return await cache.aget_or_compute(query, context, acompute)

    async def adecorated() -> object:
        return await aask(QUESTION, "m-1", 0.2)

    for function in (ask, aask):
        query, context = function.cache_key(QUESTION, "m-1", 0.2)
        cache.store(query, context, ANSWER)
    query, context = ask.cache_key(QUESTION, "m-1", 0.2)
    return [
        Row("`lookup`", lambda: cache.lookup(query, context)),
        Row("`get_or_compute`", lambda: cache.get_or_compute(query, context, compute)),
        Row("a decorated function", lambda: ask(QUESTION, "m-1", 0.2)),
        Row("`await alookup`", alookup),
        Row("`await aget_or_compute`", aget),
        Row("a decorated `async def`", adecorated),
    ]


def _semantic(cache: Memora, patient: Memora) -> list[Row]:
    for one in (cache, patient):
        if one.lookup(OTHER_WORDS, CONTEXT).reason != "semantic":
            raise SystemExit(f"no semantic hit: {one.explain(OTHER_WORDS, CONTEXT)}")

    async def alookup(one: Memora) -> object:
        return await one.alookup(OTHER_WORDS, CONTEXT)

    return [
        Row("`lookup`, no deadline", lambda: patient.lookup(OTHER_WORDS, CONTEXT)),
        Row("`lookup`, 5 s", lambda: cache.lookup(OTHER_WORDS, CONTEXT)),
        Row("`await alookup`, no deadline", partial(alookup, patient)),
        Row("`await alookup`, 5 s", partial(alookup, cache)),
    ]


def _misses(cache: Memora) -> list[Row]:
    """Return misses, each in a context of its own, with a function that computes nothing."""
    numbers = itertools.count()

    def miss(*, single_flight: bool) -> None:
        cache.get_or_compute(
            QUESTION, {"n": next(numbers)}, lambda: ANSWER, single_flight=single_flight
        )

    return [
        Row(f"`single_flight={one}`", partial(miss, single_flight=one)) for one in (False, True)
    ]


def batches(options: argparse.Namespace) -> Iterator[Table]:
    """Batches of 256 against single calls; vectors of the model, a slow service, or known."""
    texts = texts_of_demo(options.seed)
    asked = texts[STORED : STORED + BATCH]
    model = load_embedder("all-MiniLM-L6-v2", use_onnx=True)
    yield Table(
        f"model alone, {BATCH} texts",
        [
            Row("single calls", lambda: [model.embed([text]) for text in asked]),
            Row("one batch", lambda: model.embed(asked)),
        ],
        turns=LONG,
    )
    service = _service(model, texts[: STORED + BATCH])
    with TemporaryDirectory() as folder:
        known = ("known", model, 10_000)
        for where, (vectors, embedder, size) in (
            *(("memory://", one) for one in (("model", model, 0), ("service", service, 0), known)),
            *((where, known) for where in ("process", "power")),
        ):
            uri = where if where == "memory://" else f"{folder}/{where}"
            kept = {} if where == "memory://" else {"durability": where}
            with _opened(uri, embedder, embedding_cache_size=size, **kept) as cache:
                cache.store_many([(text, CONTEXT, ANSWER) for text in texts[:STORED]])
                cache.lookup_many(asked, CONTEXT)
                named = where if where == "memory://" else f"a directory (durability {where})"
                yield from _batched(cache, f"{named}, vectors: {vectors}", asked)


def _batched(cache: Memora, title: str, asked: Sequence[str]) -> Iterator[Table]:
    turn = itertools.count()

    def one_by_one() -> None:
        number = next(turn)
        for text in asked:
            cache.store(text, {"turn": number}, ANSWER)

    def at_once() -> None:
        number = next(turn)
        cache.store_many([(text, {"turn": number}, ANSWER) for text in asked])

    # `forget`: without it the judge would know the texts from the row before.
    yield Table(
        f"{len(asked)} lookups, {title}",
        [
            Row("single calls", lambda: [cache.lookup(text, CONTEXT) for text in asked], forget),
            Row("one batch", lambda: cache.lookup_many(asked, CONTEXT), forget),
        ],
        turns=LONG,
    )
    yield Table(
        f"{len(asked)} stores, {title}",
        [Row("single calls", one_by_one, forget), Row("one batch", at_once, forget)],
        turns=LONG,
    )


def _service(model: Embedder, texts: Sequence[str]) -> FunctionEmbedder:
    """Return an embedder with the model's vectors that takes 5 ms a call, as a service might."""
    known = dict(zip(texts, model.embed(texts), strict=True))

    def fetch(some: list[str]) -> list[Vector | None]:
        time.sleep(0.005)
        return [known[text] for text in some]

    return FunctionEmbedder(
        fetch,
        identity="service",
        dimension=model.dimension,
        fits=lambda text: known[text] is not None,
    )


def judge(options: argparse.Namespace) -> Iterator[Table]:
    """Five candidates of twenty words, judged; texts of the packaged demo log."""
    draw = random.Random(options.seed)  # noqa: S311 - no secret
    words = [word for record in _log() for word in f"{record['query']} {record['answer']}".split()]
    starts = [draw.randrange(len(words) - 20) for _ in range(500)]
    texts = [words[start : start + 20] for start in starts]
    ours = Judge("all-MiniLM-L6-v2")
    query: str = ""
    stored: list[tuple[str, float]] = []

    def seen() -> None:
        forget()
        for text, _ in stored:
            analyse(text)

    def new() -> None:
        """Choose a query, and five texts that share most of its words."""
        nonlocal query
        forget()
        chosen = draw.choice(texts)
        query = " ".join(chosen)
        stored.clear()
        for _ in range(5):
            changed, others = list(chosen), draw.choice(texts)
            for at in draw.choices(range(20), k=draw.randint(1, 6)):
                changed[at] = others[at]
            stored.append((" ".join(changed), 0.9))

    yield Table(
        "five candidates",
        [
            Row("texts new to this process", lambda: ours.assess(query, stored), new),
            Row("stored texts seen before", lambda: ours.assess(query, stored), seen),
        ],
    )


def verifier(options: argparse.Namespace) -> Iterator[Table]:
    """The verifier: a pair, and lookups on a directory; one call at a time takes one core."""
    model = packaged_verifier()
    if model is None:
        print("This installation has no verifier.\n")
        return
    stored = list(dict.fromkeys(one["query"] for one in _log() if one["kind"] == "first"))
    asked = sorted({canonical_query(one["query"]) for one in _log()} - set(stored))
    random.Random(options.seed).shuffle(asked)  # noqa: S311 - no secret
    with TemporaryDirectory() as folder, ExitStack() as stack:
        uris = ("memory://", "on"), (f"{folder}/on", "on"), (f"{folder}/off", "off")
        probe, on, off = (stack.enter_context(_opened(uri, verifier=one)) for uri, one in uris)
        for cache, text in itertools.product((probe, on, off), stored):
            cache.store(text, CONTEXT, ANSWER)  # one by one: each has its own deadline
        read = {text: _read(probe, text) for text in asked[:ASKED]}
        pairs = [pair for one in read.values() for pair in one]
        some = itertools.cycle(pairs or [(stored[0], stored[1])])
        yield Table("verifier", [Row("one pair", lambda: model.logits([next(some)]))])
        plain, doubtful = (
            [text for text, pairs in read.items() if bool(pairs) is wanted]
            for wanted in (False, True)
        )
        turns = min(len(plain), len(doubtful)) - 1  # each query once: logits are remembered
        if turns < 1:
            print(f"{len(doubtful)} of {ASKED} queries need the verifier: no lookups are timed.\n")
            return
        queries = zip(plain, doubtful, strict=False)
        chosen = ("", "")

        def choose() -> None:
            nonlocal chosen
            chosen = next(queries)

        def ask(cache: Memora, at: int) -> object:
            return cache.lookup(chosen[at], CONTEXT)

        yield Table(
            "lookup",
            [
                Row("no verifier needed", partial(ask, on, 0), choose),
                Row("verifier needed", partial(ask, on, 1)),
                Row("the first query, `verifier` off", partial(ask, off, 0)),
                Row("the second query, `verifier` off", partial(ask, off, 1)),
            ],
            turns=turns,
        )


def _read(cache: Memora, query: str) -> list[tuple[str, str]]:
    """Return the pairs that the verifier reads for a query."""
    found = cache.explain(query, CONTEXT).candidates
    return [
        (one.query, query) for one in found if any(of.kind == "verifier" for of in one.evidence)
    ]


def recording(options: argparse.Namespace) -> Iterator[Table]:
    """What a lookup records, with `enable_metrics` and without."""
    del options
    exact = LookupResult(is_hit=True, reason="exact", explanation="the same", similarity=1.0)
    saved = {"tokens": 812, "cost": 0.0021, "seconds": 1.5}
    priced = LookupResult(
        is_hit=True, reason="semantic", explanation="near", similarity=0.9, metadata=saved
    )

    def hit(metrics: HealthCounters, found: LookupResult, stages: Sequence[Any]) -> None:
        now, total = metrics.timings.now, metrics.timings.lookup
        started = now()
        for record in stages:
            record(now() - started)
        total(now() - started)
        metrics.count_lookup(found)

    for name, metrics in (("on", Metrics()), ("off", HealthCounters())):
        to = metrics.timings
        every = (to.lookup_embed, to.lookup_search, to.lookup_judge, to.lookup_payload)
        yield Table(
            f"`enable_metrics`: {name}",
            [
                Row("nothing", lambda: None),
                Row("one duration", partial(to.lookup, 0.001)),
                Row("exact hit", partial(hit, metrics, exact, every[-1:])),
                Row("semantic hit, with saved tokens", partial(hit, metrics, priced, every)),
            ],
            1000,
        )


def tier(options: argparse.Namespace) -> Iterator[Table]:
    """An exact lookup on a Redis server and in the tier in RAM; a put that 100 clients hear of."""
    from memora.stores.redis import RedisStore  # noqa: PLC0415 - needs an extra
    from memora.stores.tiered import TieredStore  # noqa: PLC0415

    class Unasked(TieredStore):
        """A tier that asks for changes when this script does."""

        def _begin_following(self) -> None:
            pass

    with ExitStack() as stack:
        uri = options.redis
        if uri is None:
            servers = _servers()
            uri = stack.enter_context(servers.running(servers.redis_program())).uri

        def opened(table: str) -> RedisStore:
            store = RedisStore(uri, table_name=table, model="none", dimension=8)
            return stack.enter_context(closing(store))

        tables = [f"bench-{uuid.uuid4().hex}" for _ in range(2)]
        alone, followed = map(opened, tables)
        client = import_module("redis").Redis.from_url(uri)
        stack.callback(_drop, client, tables)
        number = itertools.cycle(range(2000))
        for store in (alone, followed):
            store.put_many([(_entry(i), Content(bytes(500)), None) for i in range(2000)])
        ram = Unasked(alone, max_bytes=2**26, max_staleness_seconds=1.0, clock=lambda: 0.0)
        keys = [_entry(i).key for i in range(2000)]
        ram.follow()  # the first time, it forgets everything
        for key in keys:
            ram.get(key, now=2.0)
        yield Table(
            "exact lookup",
            [
                Row("server", lambda: alone.get(keys[next(number)], now=2.0)),
                Row("tier", lambda: ram.get(keys[next(number)], now=2.0)),
                Row("asking what has changed", ram.follow),
            ],
            20,
        )
        for _ in range(100):
            opened(tables[1]).changes()

        def put(store: RedisStore) -> None:
            store.put(_entry(next(number)), Content(bytes(500)), vector=None)

        yield Table(
            "put",
            [
                Row("of a table without a tier", partial(put, alone)),
                Row("of a table with 100 clients that follow it", partial(put, followed)),
            ],
            10,
        )


def _drop(client: Any, tables: Sequence[str]) -> None:
    """Delete the tables that were made for a run."""
    for table in tables:
        for name in client.scan_iter(f"memora:{{{table}:*"):
            client.delete(name)


def bucket(options: argparse.Namespace) -> Iterator[Table]:
    """A store of `--entries` entries in object storage: stores, hits, searches, opening."""
    from memora.stores._settings import TableSettings  # noqa: PLC0415 - as the next
    from memora.stores.bucket.store import ObjectStore  # noqa: PLC0415 - needs an extra

    count, threads = options.entries, 16
    vectors = np.random.default_rng(options.seed).standard_normal((count, 384)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    content = Content(b"x" * 800)
    with ExitStack() as stack:
        uri, given = options.bucket, CacheConfig.load().storage_options
        if uri is None:
            server = stack.enter_context(_servers().seaweedfs())
            uri, given = f"{server.uri}/bench", server.storage_options

        def opened(**settings: Any) -> ObjectStore:
            wanted = TableSettings(table_name="b", model="b", dimension=384, **settings)
            return ObjectStore(uri, wanted, options=given)

        def put(number: int) -> None:
            store.put(_entry(number), content, vector=vectors[number % count])

        def get() -> None:
            store.get(_entry(next(some)).key, now=0.0)

        def search() -> None:
            store.search(vectors[next(some)], context=HERE.fingerprint, k=5, now=0.0)

        some, fresh = itertools.cycle(range(0, count, 10)), itertools.count(count)
        pool = stack.enter_context(ThreadPoolExecutor(threads))
        store = opened()
        list(pool.map(put, range(count)))
        at_once = range(threads)
        yield Table(
            "store",
            [
                Row("one", lambda: put(next(fresh))),
                Row("16 in as many threads", lambda: list(pool.map(put, at_once))),
            ],
        )
        yield Table("lookup", [Row("exact hit, in RAM", get), Row("search in one context", search)])
        store.compact()
        store.close()
        yield Table("opening", [Row("open and close the store", lambda: opened().close())])
        store = opened(hot_payload_bytes=0)
        stack.callback(store.close)
        forget_batches = store._log.recent.clear  # noqa: SLF001 - batches of the last moments
        yield Table("read", [Row("exact hit, the result not in RAM", get, forget_batches)])


def _servers() -> Any:
    """Return the test suite's module of servers."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    return import_module("servers")


def _entry(number: int) -> Entry:
    """Return the entry of a number."""
    query = f"what were the sales of shop {number} in march"
    return Entry(
        id=uuid.uuid4().hex,
        key=exact_key(query, HERE),
        query=query,
        context=HERE,
        created_at=1.0,
        expires_at=None,
    )


def _opened(uri: str, embedder: Embedder | None = None, **settings: Any) -> Memora:
    config = CacheConfig(db_uri=uri, max_entries=1_000_000, log_level="ERROR", **settings)
    return Memora(config, embedder=embedder)


def _log() -> list[dict[str, str]]:
    """Return the packaged demo log."""
    log = resources.files("memora") / "demo" / "queries.jsonl"
    return [json.loads(line) for line in log.read_text("utf-8").splitlines()]


def texts_of_demo(seed: int) -> list[str]:
    """Return the distinct queries of the demo log, numbered so that there are enough, shuffled."""
    queries = sorted({canonical_query(record["query"]) for record in _log()})
    texts = [f"{query} ({number})" for number in range(1, 4) for query in queries]
    random.Random(seed).shuffle(texts)  # noqa: S311 - no secret
    return texts


def _print_row(*cells: str) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)


def _load() -> str:
    """Return the system's load average, where it has one."""
    return f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"


CASES: dict[str, Callable[[argparse.Namespace], Iterator[Table]]] = {
    one.__name__: one for one in (calls, batches, judge, verifier, recording, tier, bucket)
}
ALONE = [name for name in CASES if name not in {"tier", "bucket"}]


def main() -> None:
    """Print the tables of the chosen cases."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}")
    parser.add_argument("--turns", type=int, default=100, help="timings of each row")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--entries", type=int, default=10_000, help="of the store in a bucket")
    parser.add_argument("--redis", help="URI of a server, for `tier`")
    parser.add_argument("--bucket", help="URI of a folder in object storage, for `bucket`")
    options = parser.parse_args()
    if unknown := set(options.cases) - set(CASES):
        parser.error(f"the cases are {', '.join(CASES)}, not {', '.join(sorted(unknown))}")
    print(
        f"{machine('memora-cache', 'numpy', 'onnxruntime')}; seed {options.seed}; "
        f"{options.turns} turns; load average {_load()}\n"
    )
    for name in options.cases or ALONE:
        print(f"## {name}\n\n{CASES[name].__doc__}\n", flush=True)
        for table in CASES[name](options):
            show(table, options.turns)
    print(f"Load average at the end: {_load()}.")


if __name__ == "__main__":
    main()
