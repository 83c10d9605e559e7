"""What calls cost besides a plain `lookup`: `python benchmarks/calls.py`.

Decorated functions, `get_or_compute`, the async twins, deadlines, single flight, and batches
against single calls. What is compared takes turns in one process, so that whatever else the machine
does meets all of it; a difference is the median of the differences within a turn.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from machine import machine

from memora import CacheConfig, Memora
from memora.embedders import FunctionEmbedder, load_embedder
from memora.judge._text import forget

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Unpack

    from memora.calls import CallOptions
    from memora.protocols import Embedder, Vector

CALLS = 40  # that are timed together
STORED = 1000  # entries of a cache that lookups meet
BATCH = 256
SERVICE_SECONDS = 0.005  # a call of an embedding service, however many texts it is given
CONTEXT = {"agent": "support", "model": "m-1", "temperature": 0.2}
ANSWER = "An answer of the usual length, " * 8
OTHER_WORDS = "How can I reset my password?"
QUESTION = "How do I reset my password?"

Timed: TypeAlias = Callable[[], Awaitable[object]]


class Row(NamedTuple):
    """A line of a table: what costs how much, and how much more than the line it refers to."""

    name: str
    median: float
    more: float | None


class Batched(NamedTuple):
    """Median seconds of both, and how many times one is the other."""

    single: float
    batch: float
    times: float


def main() -> None:
    """Print tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=100, help="turns of calls")
    parser.add_argument("--batches", type=int, default=9, help="turns of batches")
    options = parser.parse_args()
    texts, origin = _texts(options.data, options.seed)
    print(
        f"{machine('onnxruntime', 'lancedb')}; seed {options.seed}; {origin}; "
        f"{options.rounds} turns of {CALLS} calls, {options.batches} of batches; load at the "
        f"start {_load()}\n"
    )
    with ExitStack() as stack:
        place = Path(stack.enter_context(TemporaryDirectory()))
        asyncio.run(_hits(place, texts, options.rounds))
        asyncio.run(_flights(place, options.rounds))
        _batches(place, texts, options.batches)
    print(f"\nLoad at the end: {_load()}.")


def _load() -> str:
    """Say how much else the machine does, where the system tells."""
    return f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"


def _texts(data: Path, seed: int) -> tuple[list[str], str]:
    """Return distinct questions, shuffled, and where they come from."""
    stream = data / "streams" / "qqp.jsonl"
    if stream.is_file():
        origin, lines = "questions of people (qqp)", stream.read_text("utf-8").splitlines()
        found = [str(json.loads(line)["text"]) for line in lines]
    else:
        log = resources.files("memora") / "demo" / "queries.jsonl"
        origin, lines = "the packaged demo log, numbered", log.read_text("utf-8").splitlines()
        queries = [str(json.loads(line)["query"]) for line in lines]
        found = [f"{query} ({n})" for n in range(1, 4) for query in queries]
    texts = sorted(set(found))
    random.Random(seed).shuffle(texts)  # noqa: S311 - no secret
    return texts, origin


def _opened(uri: str, embedder: Embedder | None = None, **settings: Any) -> Memora:
    config = CacheConfig(db_uri=uri, max_entries=1_000_000, log_level="ERROR", **settings)
    return Memora(config, embedder=embedder)


async def _hits(place: Path, texts: Sequence[str], rounds: int) -> None:
    print(
        f"## Hits\n\nMicroseconds a call, {STORED:,} entries, a result of {len(ANSWER)} "
        "characters. *More*: than the last row\nabove without such a figure. No model runs: an "
        "exact hit needs none, and the other words are\nremembered. Five seconds is the default "
        "of `lookup_timeout_seconds`.\n"
    )
    _print_head(["store", "call", "median", "more"])
    for name, uri, other in (
        ("memory://", "memory://", "memory://"),
        ("a directory", str(place / "hits"), str(place / "patient")),
    ):
        with _opened(uri) as cache, _opened(other, lookup_timeout_seconds=None) as patient:
            for one in (cache, patient):
                one.store_many([(text, CONTEXT, ANSWER) for text in texts[:STORED]])
                one.store(QUESTION, CONTEXT, ANSWER)
            for calls in (_exact(cache), _semantic(cache, patient)):
                _print_rows(name, await _compared(calls, rounds))


def _exact(cache: Memora) -> dict[str, Timed]:
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

    for function in (ask, aask):
        query, context = function.cache_key(QUESTION, "m-1", 0.2)
        cache.store(query, context, ANSWER)
    query, context = ask.cache_key(QUESTION, "m-1", 0.2)
    return {
        "`lookup`, exact": _each(lambda: cache.lookup(query, context)),
        "`get_or_compute`": _each(lambda: cache.get_or_compute(query, context, compute)),
        "a decorated function": _each(lambda: ask(QUESTION, "m-1", 0.2)),
        "`await alookup`": _aeach(lambda: cache.alookup(query, context)),
        "`await aget_or_compute`": _aeach(lambda: cache.aget_or_compute(query, context, acompute)),
        "a decorated `async def`": _aeach(lambda: aask(QUESTION, "m-1", 0.2)),
    }


def _semantic(cache: Memora, patient: Memora) -> dict[str, Timed]:
    for one in (cache, patient):
        if one.lookup(OTHER_WORDS, CONTEXT).reason != "semantic":
            raise SystemExit(f"no semantic hit: {one.explain(OTHER_WORDS, CONTEXT)}")
    return {
        "`lookup`, semantic, no deadline": _each(lambda: patient.lookup(OTHER_WORDS, CONTEXT)),
        "`lookup`, five seconds": _each(lambda: cache.lookup(OTHER_WORDS, CONTEXT)),
        "`await alookup`, no deadline": _aeach(lambda: patient.alookup(OTHER_WORDS, CONTEXT)),
        "`await alookup`, five seconds": _aeach(lambda: cache.alookup(OTHER_WORDS, CONTEXT)),
    }


async def _flights(place: Path, rounds: int) -> None:
    print(
        "\n## Misses, uncontended\n\nMicroseconds a `get_or_compute` that misses, computes nothing "
        "to speak of and stores; each in a context\nof its own, its text remembered. *More*: than "
        "without single flight.\n"
    )
    _print_head(["store", "call", "median", "more"])
    for name, uri in (("memory://", "memory://"), ("a directory", str(place / "flights"))):
        with _opened(uri) as cache:
            cache.lookup(QUESTION)
            found = await _compared(
                {
                    "`single_flight=False`": _missing(cache, "without", single_flight=False),
                    "`single_flight=True`": _missing(cache, "with", single_flight=True),
                },
                rounds,
            )
            _print_rows(name, found)


def _missing(cache: Memora, name: str, **options: Unpack[CallOptions]) -> Timed:
    number = iter(range(1_000_000_000))
    return _each(
        lambda: cache.get_or_compute(QUESTION, {name: next(number)}, lambda: ANSWER, **options)
    )


def _batches(place: Path, texts: Sequence[str], rounds: int) -> None:
    print(
        f"\n## Batches\n\nMilliseconds for {BATCH} questions; lookups among {STORED:,} entries, "
        "nearly all misses. *Times*: how much\nfaster the batch is. Vectors: *model*, the packaged "
        "model reads each text (no cache of embeddings);\n*service*, a stand-in for one that takes "
        f"{1e3 * SERVICE_SECONDS:g} ms a call, however many texts; *known*, they are "
        "remembered,\nso that the time is the cache's own.\n"
    )
    _print_head(["store", "operation", "vectors", "single calls", "one batch", "times"])
    asked = texts[STORED : STORED + BATCH]
    model = load_embedder("all-MiniLM-L6-v2", use_onnx=True)
    service = _service(model, texts[: STORED + BATCH])
    alone = _alternated(
        lambda _: [model.embed([text]) for text in asked], lambda _: model.embed(asked), rounds
    )
    _print_batch("none", "the model alone", "model", alone)
    for store, uri in (("memory://", "memory://"), ("a directory", str(place / "batches"))):
        for vectors, embedder, size in (
            ("model", model, 0),
            ("service", service, 0),
            ("known", model, 10_000),
        ):
            own = uri if "//" in uri else f"{uri}-{vectors}"
            with _opened(own, embedder, embedding_cache_size=size) as cache:
                cache.store_many([(text, CONTEXT, ANSWER) for text in texts[:STORED]])
                cache.lookup_many(asked, CONTEXT)
                _print_batch(store, "lookup", vectors, _looked_up(cache, asked, rounds))
                _print_batch(store, "store", vectors, _stored(cache, asked, rounds))
    with _opened(str(place / "power"), durability="power") as cache:
        cache.lookup_many(asked, CONTEXT)
        found = _stored(cache, asked, rounds)
        _print_batch('`durability="power"`', "store", "known", found)


def _service(model: Embedder, texts: Sequence[str]) -> FunctionEmbedder:
    """Return an embedder that knows the model's vectors, and takes as long as a service."""
    known = dict(zip(texts, model.embed(texts), strict=True))

    def fetch(some: list[str]) -> list[Vector | None]:
        time.sleep(SERVICE_SECONDS)
        return [known[text] for text in some]

    return FunctionEmbedder(
        fetch,
        identity="service",
        dimension=model.dimension,
        fits=lambda text: known[text] is not None,
    )


def _looked_up(cache: Memora, asked: Sequence[str], rounds: int) -> Batched:
    return _alternated(
        lambda _: [cache.lookup(text, CONTEXT) for text in asked],
        lambda _: cache.lookup_many(asked, CONTEXT),
        rounds,
    )


def _stored(cache: Memora, asked: Sequence[str], rounds: int) -> Batched:
    return _alternated(
        lambda turn: [cache.store(text, {"single": turn}, ANSWER) for text in asked],
        lambda turn: cache.store_many([(text, {"batch": turn}, ANSWER) for text in asked]),
        rounds,
    )


def _alternated(
    single: Callable[[int], object], batch: Callable[[int], object], rounds: int
) -> Batched:
    """Time both in turns."""
    samples: tuple[list[float], list[float]] = ([], [])
    for turn in range(rounds):
        for call, found in zip((single, batch), samples, strict=True):
            forget()  # or the judge would know the texts from the other
            started = time.perf_counter()
            call(turn)
            found.append(time.perf_counter() - started)
    times = map(float.__truediv__, *samples)
    return Batched(*map(statistics.median, (*samples, times)))


async def _compared(calls: dict[str, Timed], rounds: int) -> list[Row]:
    """Time all in turns; a row each, compared with the first."""
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        await call()  # starts threads, fills what is remembered
    for _ in range(rounds):
        for name, call in calls.items():
            started = time.perf_counter()
            await call()
            samples[name].append(1e6 * (time.perf_counter() - started) / CALLS)
    first = next(iter(samples.values()))
    return [
        Row(
            name,
            statistics.median(found),
            None if found is first else statistics.median(map(float.__sub__, found, first)),
        )
        for name, found in samples.items()
    ]


def _each(call: Callable[[], object]) -> Timed:
    async def timed() -> None:
        for _ in range(CALLS):
            call()

    return timed


def _aeach(call: Callable[[], Awaitable[object]]) -> Timed:
    async def timed() -> None:
        for _ in range(CALLS):
            await call()

    return timed


def _print_rows(store: str, rows: list[Row]) -> None:
    for row in rows:
        more = "" if row.more is None else f"{row.more:+.1f}"
        _print_row([store, row.name, f"{row.median:.1f}", more])


def _print_batch(store: str, operation: str, vectors: str, found: Batched) -> None:
    cells = [1e3 * found.single, 1e3 * found.batch, found.times]
    _print_row([store, operation, vectors, *(f"{cell:.1f}" for cell in cells)])


def _print_head(names: Sequence[str]) -> None:
    _print_row(names)
    words = {"store", "call", "operation", "vectors"}
    _print_row(["---" if name in words else "---:" for name in names])


def _print_row(cells: Sequence[object]) -> None:
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    main()
