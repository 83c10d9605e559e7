"""Counts and latencies of one cache, in bounded memory. No I/O."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np

from memora._fork import renew_after_fork

if TYPE_CHECKING:
    from memora.model import LookupResult, Reason

Operation: TypeAlias = Literal["lookup", "judge", "store", "maintain", "cleanup", "refresh"]
OPERATIONS: tuple[Operation, ...] = get_args(Operation)
Stage: TypeAlias = Literal["lookup", "store", "embedding"]

_SAMPLES = 1000  # latencies kept a stage: enough for a p99
_RECENT = 400  # operations the error rate is taken over


class Metrics:
    """What happened, counted.

    Faults are always counted, because health depends on them; hits, misses and latencies only
    where `enabled`.
    """

    def __init__(self, *, enabled: bool) -> None:
        self._enabled = enabled
        renew_after_fork(self)
        self._outcomes: Counter[tuple[bool, str]] = Counter()  # (hit, reason)
        self._faults: Counter[Operation] = Counter()
        self._skipped = 0
        self._recent: deque[Operation | None] = deque(maxlen=_RECENT)  # which failed; None: worked
        self._seconds: dict[Stage, deque[float]] = {
            "lookup": deque(maxlen=_SAMPLES),
            "store": deque(maxlen=_SAMPLES),
            "embedding": deque(maxlen=_SAMPLES),
        }

    def renew(self) -> None:
        """Make the lock."""
        self._lock = threading.Lock()  # guards counters and latencies

    def timed(self, stage: Stage) -> AbstractContextManager[None]:
        """Record how long the block takes."""
        return _Timer(self._seconds[stage]) if self._enabled else _NOTHING

    def count_lookup(self, found: LookupResult) -> None:
        """Record the outcome of a lookup that worked."""
        with self._lock:
            self._recent.append(None)
            if self._enabled:
                self._outcomes[found.is_hit, found.reason] += 1

    def count_store(self) -> None:
        """Record a store that worked."""
        with self._lock:
            self._recent.append(None)

    def count_skip(self) -> None:
        """Record a result that could not be stored: not serialisable, or too large."""
        with self._lock:
            self._recent.append(None)
            self._skipped += 1

    def count_fault(self, operation: Operation) -> None:
        """Record that the cache itself failed."""
        with self._lock:
            self._recent.append(operation)
            self._faults[operation] += 1

    def count_miss(self, reason: Reason) -> None:
        """Record that a lookup failed; the fault itself is counted apart."""
        with self._lock:
            if self._enabled:
                self._outcomes[False, reason] += 1

    def recent(self) -> tuple[dict[Operation, int], int]:
        """Return how many of the last operations, 400 at most, failed, and how many there were."""
        with self._lock:
            failed = Counter(self._recent)
            return {name: failed[name] for name in OPERATIONS}, len(self._recent)

    def snapshot(self) -> dict[str, Any]:
        """Return the counters and latencies under the names `get_stats` documents."""
        with self._lock:
            outcomes = dict(self._outcomes)
            skipped = self._skipped
            faults = {name: self._faults[name] for name in OPERATIONS}
            seconds = {stage: list(samples.copy()) for stage, samples in self._seconds.items()}
        hits = {reason: n for (hit, reason), n in sorted(outcomes.items()) if hit}
        misses = {reason: n for (hit, reason), n in sorted(outcomes.items()) if not hit}
        total = sum(outcomes.values())
        return {
            "hits": sum(hits.values()),
            "misses": sum(misses.values()),
            "total_requests": total,
            "hit_rate": f"{sum(hits.values()) / total:.2%}" if total else "0.00%",
            "hits_by_reason": hits,
            "misses_by_reason": misses,
            "errors": faults,
            "results_not_stored": skipped,
            **{f"{stage}_latency_ms": percentiles(found) for stage, found in seconds.items()},
        }


class _Timer:
    """Appends the duration of its block. A class, as a generator takes twice as long."""

    __slots__ = ("_samples", "_started")

    def __init__(self, samples: deque[float]) -> None:
        self._samples = samples

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._samples.append(time.perf_counter() - self._started)  # atomic, as of any deque


_NOTHING = nullcontext()


def percentiles(seconds: list[float]) -> dict[str, float | int | None]:
    """Return samples, p50, p95 and p99 of durations, in milliseconds; None without samples."""
    if not seconds:
        return {"samples": 0, "p50": None, "p95": None, "p99": None}
    p50, p95, p99 = (float(value) * 1000 for value in np.percentile(seconds, (50, 95, 99)))
    return {"samples": len(seconds), "p50": p50, "p95": p95, "p99": p99}
