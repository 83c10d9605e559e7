"""What a cache in a bucket takes: storing alone and together, lookups, opening.

python benchmarks/buckets.py                       against SeaweedFS, which it starts
python benchmarks/buckets.py s3://bucket/prefix    against that, with MEMORA_STORAGE_OPTIONS
"""

from __future__ import annotations

import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from memora import CacheConfig
from memora.context import canonical_context, exact_key
from memora.model import Content, Entry
from memora.stores._settings import TableSettings
from memora.stores.bucket.store import ObjectStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

DIMENSION, ENTRIES, PAYLOAD, THREADS = 384, 10_000, 800, 16
CONTEXT = canonical_context({"agent": "sql"})


def entry(i: int) -> Entry:
    """Return the entry of a number."""
    return Entry(
        id=uuid.uuid4().hex,
        key=exact_key(f"q{i}", CONTEXT),
        query=f"q{i}",
        context=CONTEXT,
        created_at=time.time(),
        expires_at=None,
    )


def said(name: str, function: Callable[[Any], Any], arguments: Iterable[Any]) -> None:
    """Call a function with each argument; print the median and the 99th percentile."""
    p50, p99 = np.percentile(timed(function, arguments), [50, 99]) * 1000
    print(f"| {name} | {p50:.2f} | {p99:.2f} |")


def timed(function: Callable[[Any], Any], arguments: Iterable[Any]) -> list[float]:
    """Return how long a call with each argument takes."""
    times = []
    for argument in arguments:
        began = time.perf_counter()
        function(argument)
        times.append(time.perf_counter() - began)
    return times


def together(function: Callable[[Any], Any], numbers: range) -> None:
    """Call a function in many threads; print what a call takes, and how many are done a second."""
    parts = [numbers[n::THREADS] for n in range(THREADS)]
    began = time.perf_counter()
    with ThreadPoolExecutor(THREADS) as pool:
        times = [one for some in pool.map(partial(timed, function), parts) for one in some]
    rate = len(times) / (time.perf_counter() - began)
    p50, p99 = np.percentile(times, [50, 99]) * 1000
    print(f"| store, {THREADS} threads ({rate:,.0f} a second) | {p50:.2f} | {p99:.2f} |")


def measure(uri: str, options: Mapping[str, str]) -> None:
    """Print a table."""
    vectors = np.random.default_rng(0).standard_normal((ENTRIES, DIMENSION)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    content = Content(b"x" * PAYLOAD)

    def opened(**settings: Any) -> ObjectStore:
        return ObjectStore(
            uri,
            TableSettings(table_name="b", model="b", dimension=DIMENSION, **settings),
            options=options,
        )

    def put(i: int) -> None:
        store.put(entry(i), content, vector=vectors[i])

    def get(i: int) -> None:
        store.get(exact_key(f"q{i}", CONTEXT), now=0.0)

    def search(i: int) -> None:
        store.search(vectors[i], context=CONTEXT.fingerprint, k=5, now=0.0)

    print("| | p50, ms | p99, ms |\n|---|---|---|")
    store = opened()
    said("store, one thread", put, range(ENTRIES // 10))
    together(put, range(ENTRIES // 10, ENTRIES))
    some = range(0, ENTRIES, 10)
    said("exact hit, in RAM", get, some)
    said("search in one context", search, some)
    store.compact()
    store.close()
    began = time.perf_counter()
    store = opened(hot_payload_bytes=0)
    print(f"| open the store | {(time.perf_counter() - began) * 1000:.0f} | |")
    store._log.recent.clear()  # noqa: SLF001 - the batches of the last moments
    said("exact hit, the result not in RAM", get, some)
    store.close()


def main() -> None:
    """Measure what is given, or a server of our own."""
    if len(sys.argv) > 1:
        measure(sys.argv[1], CacheConfig.load().storage_options)
        return
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    with import_module("servers").seaweedfs() as server:
        measure(f"{server.uri}/bench", server.storage_options)


if __name__ == "__main__":
    main()
