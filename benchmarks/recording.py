"""Time what recording a lookup costs, and what is left of it with enable_metrics=False.

    python benchmarks/recording.py

Writes benchmarks/results/recording.md.
"""

from __future__ import annotations

import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from machine import machine

from memora.metrics import HealthCounters, Metrics
from memora.model import LookupResult

if TYPE_CHECKING:
    from collections.abc import Callable

RESULTS = Path(__file__).parent / "results" / "recording.md"
CALLS = 100_000
ROUNDS = 15
THREADS = 4
LIMIT_US = 2.0

EXACT = LookupResult(is_hit=True, reason="exact", explanation="the same", similarity=1.0)
PRICED = LookupResult(
    is_hit=True,
    reason="semantic",
    explanation="near",
    similarity=0.9,
    metadata={"tokens": 812, "cost": 0.0021, "seconds": 1.5},
)


def duration(metrics: HealthCounters) -> Callable[[], None]:
    """Return what takes one duration down, which was measured before."""
    return partial(metrics.timings.lookup, 0.001)


def exact(metrics: HealthCounters) -> Callable[[], None]:
    """Return what a hit of the very same text records: two durations and its outcome."""
    timings = metrics.timings
    now, total, payload = timings.now, timings.lookup, timings.lookup_payload

    def record() -> None:
        started, began = now(), now()
        payload(now() - began)
        total(now() - started)
        metrics.count_lookup(EXACT)

    return record


def semantic(metrics: HealthCounters) -> Callable[[], None]:
    """Return what any other hit records: five durations, its outcome and what it saved."""
    timings = metrics.timings
    now = timings.now

    def record() -> None:
        started, began = now(), now()
        timings.lookup_embed(now() - began)
        began = now()
        timings.lookup_search(now() - began)
        began = now()
        judged = now()
        timings.lookup_judge(judged - began)
        timings.lookup_payload(now() - judged)
        timings.lookup(now() - started)
        metrics.count_lookup(PRICED)

    return record


def microseconds(record: Callable[[], None], calls: int = CALLS) -> float:
    """Return what one call takes: the best of several rounds, without the loop itself."""

    def spent(function: Callable[[], None]) -> float:
        started = time.process_time()
        for _ in range(calls):
            function()
        return time.process_time() - started

    nothing = min(spent(lambda: None) for _ in range(ROUNDS))
    return 1e6 * (min(spent(record) for _ in range(ROUNDS)) - nothing) / calls


def together(record: Callable[[], None]) -> float:
    """Return what one call takes where several threads record at once, of the processor."""
    begin = threading.Barrier(THREADS + 1)

    def work() -> None:
        begin.wait()
        for _ in range(CALLS // THREADS):
            record()

    best = float("inf")
    for _ in range(ROUNDS):
        threads = [threading.Thread(target=work) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        begin.wait()
        started = time.process_time()
        for thread in threads:
            thread.join()
        best = min(best, time.process_time() - started)
    return 1e6 * best / CALLS


def main() -> None:
    """Measure, print and write."""
    on, off = Metrics(), HealthCounters()
    rows = [
        ("one duration", microseconds(duration(on)), microseconds(duration(off))),
        ("exact hit", microseconds(exact(on)), microseconds(exact(off))),
        (
            "semantic hit, with saved tokens",
            microseconds(semantic(on)),
            microseconds(semantic(off)),
        ),
        (f"the same, {THREADS} threads", together(semantic(on)), together(semantic(off))),
    ]
    started = time.process_time()
    for _ in range(100):
        on.read()
    read_ms = 10 * (time.process_time() - started)
    table = "\n".join(f"| {name} | {a:.2f} | {b:.2f} |" for name, a, b in rows)
    text = f"""# What recording costs

`python benchmarks/recording.py`; {machine("memora-cache")}

| µs | `enable_metrics=True` | `enable_metrics=False` |
|---|---|---|
{table}

Time of the processor, best of {ROUNDS} rounds of {CALLS:,}; the limit is {LIMIT_US:.0f} µs. \
What is left without metrics is the count of what worked and failed, which health needs. Reading \
all metrics, as a scrape does, takes {read_ms:.1f} ms.
"""
    RESULTS.write_text(text, "utf-8")
    print(text)


if __name__ == "__main__":
    main()
