"""What a cache in a bucket takes: storing alone and together, lookups, opening.

python benchmarks/buckets.py                       against SeaweedFS, which it starts
python benchmarks/buckets.py s3://bucket/prefix    against that, with MEMORA_STORAGE_OPTIONS
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
import uuid
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from memora import CacheConfig
from memora.context import canonical_context, exact_key
from memora.model import Content, Entry
from memora.stores.objects import ObjectStore

if TYPE_CHECKING:
    from collections.abc import Callable

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


def said(name: str, seconds: list[float]) -> None:
    """Print the median and the 99th percentile."""
    p50, p99 = np.percentile(np.array(seconds) * 1000, [50, 99])
    print(f"| {name} | {p50:.2f} | {p99:.2f} |")


def timed(function: Callable[[], Any]) -> float:
    """Return how long a call takes."""
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def main() -> None:
    """Measure."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((ENTRIES, DIMENSION), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    if len(sys.argv) > 1:
        uri, options = sys.argv[1], CacheConfig.load().storage_options
        running: Any = nullcontext()
    else:
        from servers import seaweedfs  # noqa: PLC0415 - of the tests

        running = seaweedfs()
    with tempfile.TemporaryDirectory(), running as server:
        if server is not None:
            uri, options = f"{server.uri}/{uuid.uuid4().hex}", server.storage_options

        def opened(**settings: Any) -> ObjectStore:
            return ObjectStore(
                uri,
                options=options,
                table_name="bench",
                model="bench",
                dimension=DIMENSION,
                **settings,
            )

        print("| | p50, ms | p99, ms |\n|---|---|---|")
        store = opened()
        content = Content(b"x" * PAYLOAD)

        def put(i: int) -> None:
            store.put(entry(i), content, vector=vectors[i])

        alone = ENTRIES // 10
        said("store, one thread", [timed(lambda i=i: put(i)) for i in range(alone)])
        times: list[float] = []

        def work(part: int) -> None:
            times.extend(timed(lambda i=i: put(i)) for i in range(alone + part, ENTRIES, THREADS))

        threads = [threading.Thread(target=work, args=(part,)) for part in range(THREADS)]
        whole = timed(
            lambda: [thread.start() for thread in threads] and [t.join() for t in threads]
        )
        said(f"store, {THREADS} threads ({len(times) / whole:,.0f} a second)", times)
        keys = [exact_key(f"q{i}", CONTEXT) for i in rng.integers(0, ENTRIES, 1000)]
        now = time.time()
        said("exact hit, in RAM", [timed(lambda k=k: store.get(k, now=now)) for k in keys])
        said(
            f"search of {ENTRIES:,} entries in one context",
            [
                timed(lambda v=v: store.search(v, context=CONTEXT.fingerprint, k=5, now=now))
                for v in vectors[:1000]
            ],
        )
        store.compact()
        store.close()
        began = time.perf_counter()
        store = opened(hot_payload_bytes=0)
        print(f"| open, {ENTRIES:,} entries | {(time.perf_counter() - began) * 1000:.0f} | |")
        store._log.recent.clear()  # noqa: SLF001 - the batches of the last moments
        said("exact hit, not in RAM", [timed(lambda k=k: store.get(k, now=now)) for k in keys])
        store.close()


if __name__ == "__main__":
    main()
