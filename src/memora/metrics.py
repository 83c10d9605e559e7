"""Counters and latencies of one cache, in bounded memory. No I/O."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from contextlib import suppress
from itertools import accumulate
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np

from memora.concurrency.fork import register_for_reinit
from memora.concurrency.reentry import inside
from memora.model import FAULTS, Reason, Unkeyed
from memora.reading import Distribution, Family, MetricsSnapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from memora.model import LookupResult, Measures
    from memora.protocols import Clock
    from memora.reading import Labels, Unit

Operation: TypeAlias = Literal[
    "lookup", "judge", "verify", "store", "maintain", "cleanup", "refresh"
]
OPERATIONS: tuple[Operation, ...] = get_args(Operation)
Left: TypeAlias = Literal["evicted", "expired", "invalidated", "cleared"]

_HITS: tuple[Reason, ...] = ("exact", "semantic")
# Misses decided by the judge; the evidence against the nearest entry is the reason.
_REFUSALS: tuple[Reason, ...] = ("below_threshold", "other_language")
# The error rate covers the last five minutes, in slots: long enough for one probe per minute.
_SLOT_SECONDS = 10.0
_SLOTS = 30


def _bounds() -> tuple[float, ...]:
    """Return the bounds of all buckets: 1 µs to 1000 s, 70 per decade, and infinity.

    Within a decade they are 0.05 apart up to 2, then 0.1 up to 5, then 0.25. No bucket is wider
    than 5 % of its lower bound, so its middle is within 2.5 % of every value in it. The bounds are
    round numbers, so that they include an exporter's usual bounds, such as 0.025.
    """
    steps = [*range(100, 200, 5), *range(200, 500, 10), *range(500, 1000, 25)]
    decimals = [f"{step}e{power - 2}" for power in range(-6, 3) for step in steps]
    return (*map(float, decimals), 1000.0, math.inf)


BOUNDS = _bounds()
_BOUNDS = np.array(BOUNDS)
_BATCH = 1024  # durations sorted into buckets at once


# Our own, because it is in Prometheus's form and about four times as fast as a library's sketch;
# see docs/decisions/0017.
class Histogram:
    """Counts of durations in buckets. Thread-safe."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Reset to empty; also after a fork, which may have interrupted any operation."""
        # Guards counts and sum. Reentrant: a signal handler may look up, or read, at any time.
        self._lock = threading.RLock()
        self._new: list[float] = []  # adding and taking are atomic
        self._counts = np.zeros(len(BOUNDS), np.int64)
        self._sum = 0.0

    def add(self, seconds: float) -> None:
        """Add a duration; one below 0 was left out completely, see `Metrics.leave_out`."""
        self._new.append(max(seconds, 0.0))
        if len(self._new) >= _BATCH:
            self._sort()

    def read(self) -> Distribution:
        """Return the distribution so far."""
        self._sort()
        with self._lock:
            counts, total = self._counts.tolist(), self._sum
        return Distribution(BOUNDS, tuple(accumulate(counts)), total)

    def _sort(self) -> None:
        with inside, self._lock:
            taken = []
            with suppress(IndexError):  # an interrupting call may empty the list first
                while True:
                    taken.append(self._new.pop())
            counts = np.bincount(np.searchsorted(_BOUNDS, taken), minlength=len(BOUNDS))
            total = sum(taken)
            self._counts += counts
            self._sum += total


class Timings(NamedTuple):
    """Functions that record the durations of operations, in seconds by `now`."""

    now: Callable[[], float]
    lookup: Callable[[float], None]
    lookup_embed: Callable[[float], None]
    lookup_search: Callable[[float], None]
    lookup_judge: Callable[[float], None]
    lookup_payload: Callable[[float], None]
    """Reading and decoding the served entry, and recording its use."""
    store: Callable[[float], None]
    store_encode: Callable[[float], None]
    store_embed: Callable[[float], None]
    store_put: Callable[[float], None]
    embedding: Callable[[float], None]
    """Calls of the model itself."""
    compute: Callable[[float], None]
    """Calls of the application's function on a miss."""


def _nothing(_: float) -> None:
    """Record nothing."""


# `float` is the clock: `float()` returns 0.0 and is the cheapest callable.
UNTIMED = Timings(float, *[_nothing] * (len(Timings._fields) - 1))


class Lately(NamedTuple):
    """Operations and faults of the last five minutes."""

    operations: int
    faults: dict[Operation, int]
    """Number of failed operations by kind; `verify` counts lookups that worked without it."""
    quiet_seconds: float
    """Time since the last operation that failed."""

    @property
    def failed(self) -> int:
        """Total number of failed operations, without those that only went unverified."""
        return sum(self.faults.values()) - self.faults["verify"]

    @property
    def error_rate(self) -> float:
        """Share of operations that failed; 0 if there were none."""
        return self.failed / self.operations if self.operations else 0.0


class Timed:
    """Context manager that records the duration of its block."""

    __slots__ = ("_now", "_started", "_took")

    def __init__(self, now: Callable[[], float], took: Callable[[float], None]) -> None:
        self._now, self._took = now, took

    def __enter__(self) -> None:
        self._started = self._now()

    def __exit__(self, *_: object) -> None:
        self._took(self._now() - self._started)


class HealthCounters:
    """Counts of faults and successes, always recorded because health depends on them.

    Each process counts separately: a forked child begins at 0.

    Args:
        clock: Returns seconds since any fixed time.
        policy: Name of the eviction policy.
    """

    timings = UNTIMED

    def __init__(self, *, clock: Clock = time.monotonic, policy: str = "fifo") -> None:
        self._clock, self._policy = clock, policy
        register_for_reinit(self)

    def reinit_after_fork(self) -> None:
        """See `ReinitAfterFork`."""
        # Guards all counters. Reentrant for the same reason as that of `Histogram`.
        self._lock = threading.RLock()
        self._faults: Counter[Operation] = Counter()
        self._unstored = 0
        self._uncacheable: Counter[Unkeyed] = Counter()
        self._slot = 0
        self._worked = [0] * _SLOTS  # by slot of time
        self._failed: list[Counter[Operation]] = [Counter() for _ in range(_SLOTS)]
        self._failed_at = -math.inf

    def leave_out(self, _seconds: float, /) -> None:
        """Exclude these seconds, which have just passed, from latencies. Does nothing here."""

    def count_lookup(self, found: LookupResult, /) -> None:
        """Record the outcome of a lookup; for a fault, in addition to `count_fault`."""
        if found.reason not in FAULTS:
            self.count_check()

    @inside
    def count_check(self) -> None:
        """Record an operation of any kind that worked."""
        with self._lock:
            self._note_success()

    def count_store(self) -> None:
        """Record a store that worked."""
        with self._lock:
            self._note_success()

    def count_skip(self) -> None:
        """Record a result that could not be stored: not serialisable, or too large."""
        with self._lock:
            self._note_success()
            self._unstored += 1

    def count_uncacheable(self, reason: Unkeyed) -> None:
        """Record a cached call that bypassed the cache for lack of a key."""
        with self._lock:
            self._uncacheable[reason] += 1

    def count_fault(self, operation: Operation, times: int = 1) -> None:
        """Record a fault of the cache, `times` times if it failed that many items of a batch."""
        with self._lock:
            self._turn()
            self._failed[self._slot % _SLOTS][operation] += times
            self._faults[operation] += times
            if operation != "verify":
                self._failed_at = self._clock()

    def count_left(self, _why: Left, _entries: int, /) -> None:
        """Record entries that left the cache."""

    def count_outdated(self) -> None:
        """Record that a tag was outdated."""

    @inside
    def lately(self) -> Lately:
        """Return the operations and faults of the last five minutes."""
        with self._lock:
            self._turn()
            faults: dict[Operation, int] = {
                name: sum(one[name] for one in self._failed) for name in OPERATIONS
            }
            lately = Lately(sum(self._worked), faults, self._clock() - self._failed_at)
            return lately._replace(operations=lately.operations + lately.failed)

    @inside
    def read(
        self, *, gauges: Mapping[str, float | None] | None = None, measures: Measures | None = None
    ) -> MetricsSnapshot:
        """Return all metrics recorded so far.

        Args:
            gauges: Additional values by name; None is left out.
            measures: The store's measures; its own counts of removed entries are included.
        """
        values = {"error_ratio": self.lately().error_rate, **(gauges or {})}
        return MetricsSnapshot(
            counters=tuple(
                _family(COUNTERS, name, found) for name, found in self._totals(measures).items()
            ),
            gauges=tuple(
                _family(GAUGES, name, {(): value})
                for name, value in values.items()
                if value is not None
            ),
            histograms=tuple(
                _family(_HISTOGRAMS, name, found) for name, found in self._durations().items()
            ),
        )

    def _totals(self, measures: Measures | None) -> dict[str, dict[Labels, float]]:
        with self._lock:
            return {name: {} for name in COUNTERS} | {
                "stores": {("not_stored",): self._unstored},
                "uncacheable": {(why,): self._uncacheable[why] for why in get_args(Unkeyed)},
                "errors": {(name,): self._faults[name] for name in OPERATIONS},
                "evictions": {} if measures is None else {(self._policy,): measures.evicted},
                "removals": {} if measures is None else {("expired",): measures.expired},
            }

    def _durations(self) -> dict[str, dict[Labels, Distribution]]:
        return {name: {} for name in _HISTOGRAMS}

    def _note_success(self) -> None:
        """Count a success. Needs the lock."""
        if int(self._clock() // _SLOT_SECONDS) != self._slot:
            self._turn()
        self._worked[self._slot % _SLOTS] += 1

    def _turn(self) -> None:
        """Move to the current slot of time, and clear slots that are too old. Needs the lock."""
        slot = int(self._clock() // _SLOT_SECONDS)
        # If the clock went back, keep using the last slot.
        for gone in range(max(self._slot, slot - _SLOTS) + 1, slot + 1):
            self._worked[gone % _SLOTS] = 0
            self._failed[gone % _SLOTS].clear()
        self._slot = max(self._slot, slot)


class Metrics(HealthCounters):
    """All metrics of a cache."""

    def __init__(self, *, clock: Clock = time.monotonic, policy: str = "fifo") -> None:
        self._histograms = {name: Histogram() for name in Timings._fields[1:]}
        self._left_out = 0.0
        self.timings = Timings(
            self._now, *(histogram.add for histogram in self._histograms.values())
        )
        super().__init__(clock=clock, policy=policy)

    def reinit_after_fork(self) -> None:
        """See `ReinitAfterFork`."""
        super().reinit_after_fork()
        self._lookups: Counter[Reason] = Counter()
        self._stale: Counter[Reason] = Counter()
        self._refusals: Counter[str] = Counter()
        self._stored = 0
        self._left: Counter[Left] = Counter()
        self._outdated = 0
        self._saved: dict[str, float] = dict.fromkeys(_SAVED, 0)
        for histogram in self._histograms.values():
            histogram.clear()

    def count_lookup(self, found: LookupResult, /) -> None:
        """Record the outcome of a lookup; for a fault, in addition to `count_fault`."""
        reason = found.reason
        with self._lock:
            if reason not in FAULTS:
                self._note_success()
            self._lookups[reason] += 1
            if not found.is_hit:
                if reason in _REFUSALS and found.evidence:
                    self._refusals[found.evidence[0].kind] += 1
            elif found.is_stale:  # saves nothing, as it is refreshed
                self._stale[reason] += 1
            elif found.metadata:
                self._save(found.metadata)

    def leave_out(self, seconds: float, /) -> None:
        """Set back the clock of latencies, for all measurements in progress."""
        self._left_out += seconds

    def _now(self) -> float:
        return time.perf_counter() - self._left_out

    def count_store(self) -> None:
        """Record a store that worked."""
        with self._lock:
            self._note_success()
            self._stored += 1

    @inside
    def count_left(self, why: Left, entries: int, /) -> None:
        """Record entries that left the cache."""
        with self._lock:
            self._left[why] += entries

    @inside
    def count_outdated(self) -> None:
        """Record that a tag was outdated."""
        with self._lock:
            self._outdated += 1

    def _save(self, metadata: Mapping[str, Any]) -> None:
        for name in _SAVED:
            saved: Any = metadata.get(name)
            # The application may use this key of its metadata for something else.
            if type(saved) in _NUMBERS and 0 <= saved <= _ABSURD:
                self._saved[name] += saved

    def _totals(self, measures: Measures | None) -> dict[str, dict[Labels, float]]:
        totals = super()._totals(measures)
        with self._lock:
            left = self._left.copy()
            if measures is not None:
                left["evicted"], left["expired"] = measures.evicted, measures.expired
            totals["lookups"] = {
                ("hit" if reason in _HITS else "miss", reason): self._lookups[reason]
                for reason in get_args(Reason)
            }
            totals["stale_hits"] = {(reason,): self._stale[reason] for reason in _HITS}
            totals["refusals"] = {(kind,): n for kind, n in sorted(self._refusals.items())}
            totals["stores"][("stored",)] = self._stored
            totals["evictions"] = {(self._policy,): left.pop("evicted", 0)}
            totals["removals"] = {(why,): left[why] for why in _REMOVALS}
            totals["outdated_tags"] = {(): self._outdated}
            totals["saved_calls"] = {
                (): sum(self._lookups[reason] - self._stale[reason] for reason in _HITS)
            }
            for name, saved in self._saved.items():
                totals[f"saved_{name}"] = {(): saved}
        return totals

    def _durations(self) -> dict[str, dict[Labels, Distribution]]:
        found = super()._durations()
        for field, histogram in self._histograms.items():
            name, _, stage = field.partition("_")
            labels = (name, stage) if stage else ()
            found["stage" if stage else name][labels] = histogram.read()
        return found


_SAVED = ("seconds", "tokens", "cost")  # keys of an entry's metadata
_NUMBERS = frozenset({int, float})  # without bool
_ABSURD = 1e15  # more than any call can save
_REMOVALS: tuple[Left, ...] = ("expired", "invalidated", "cleared")

# name -> description, unit, names of labels
COUNTERS: dict[str, tuple[str, Unit, tuple[str, ...]]] = {
    "lookups": ("Lookups.", "", ("result", "reason")),
    "stale_hits": ("Hits that served a stale result.", "", ("reason",)),
    "refusals": ("Misses that evidence in the texts led to, by its kind.", "", ("kind",)),
    "stores": ("Results given to store.", "", ("result",)),
    "uncacheable": ("Cached calls that were only run, for want of a key.", "", ("reason",)),
    "errors": ("Faults of the cache itself.", "", ("operation",)),
    "evictions": ("Entries evicted because of the limits.", "", ("policy",)),
    "removals": ("Entries that left for other reasons.", "", ("reason",)),
    "outdated_tags": ("Tags outdated.", "", ()),
    "saved_calls": ("Calls that hits made unnecessary, stale ones excepted.", "", ()),
    "saved_seconds": ("What computing the served results had taken.", "seconds", ()),
    "saved_tokens": ("Tokens of the served results, by their metadata.", "tokens", ()),
    "saved_cost": ("Cost of the served results, by their metadata.", "", ()),
}
GAUGES: dict[str, tuple[str, Unit, tuple[str, ...]]] = {
    "error_ratio": ("Share of the operations of the last five minutes that failed.", "ratio", ()),
    "entries": ("Entries stored, also expired ones that are not removed yet.", "", ()),
    "limit_entries": ("Entries that may be stored.", "", ()),
    "limit_bytes": ("Bytes that entries may take.", "bytes", ()),
    "entry_bytes": ("Bytes that entries take.", "bytes", ()),
    "payload_bytes": ("Bytes of these that are encoded results.", "bytes", ()),
    "index_bytes": ("Bytes of RAM that the indexes of vectors take.", "bytes", ()),
}
_HISTOGRAMS: dict[str, tuple[str, Unit, tuple[str, ...]]] = {
    "lookup": ("How long lookups took, one a batch.", "seconds", ()),
    "store": ("How long stores took, one a batch.", "seconds", ()),
    "embedding": ("How long the model took, one a batch.", "seconds", ()),
    "compute": ("How long calls took that missed.", "seconds", ()),
    "stage": ("How long the stages of lookups and stores took.", "seconds", ("operation", "stage")),
}


def _family(
    table: dict[str, tuple[str, Unit, tuple[str, ...]]], name: str, values: dict[Labels, Any]
) -> Family[Any]:
    description, unit, labels = table[name]
    return Family(name, description, unit, labels, MappingProxyType(values))


def stats_of(reading: MetricsSnapshot) -> dict[str, Any]:
    """Return a reading as the keys that `get_stats` documents."""
    found: dict[str, Mapping[Labels, Any]] = {
        family.name: family.values
        for families in (reading.counters, reading.histograms)
        for family in families
    }
    outcomes = {labels: n for labels, n in sorted(found["lookups"].items()) if n}
    hits = {reason: n for (result, reason), n in outcomes.items() if result == "hit"}
    misses = {reason: n for (result, reason), n in outcomes.items() if result == "miss"}
    total = sum(hits.values()) + sum(misses.values())
    stages: dict[str, dict[str, Any]] = {"lookup": {}, "store": {}}
    for (operation, stage), durations in found["stage"].items():
        stages[operation][stage] = summary(durations)
    return {
        "hits": sum(hits.values()),
        "misses": sum(misses.values()),
        "total_requests": total,
        "hit_rate": f"{sum(hits.values()) / total:.2%}" if total else "0.00%",
        "hit_ratio": sum(hits.values()) / total if total else 0.0,
        "hits_by_reason": hits,
        "misses_by_reason": misses,
        "stale_hits": sum(found["stale_hits"].values()),
        "refusals_by_kind": _by_label(found["refusals"]),
        "uncacheable": _by_label(found["uncacheable"]),
        "errors": _by_label(found["errors"]),
        "error_rate": reading.number("error_ratio"),
        "results_stored": reading.number("stores", "stored"),
        "results_not_stored": reading.number("stores", "not_stored"),
        "evictions_by_policy": _by_label(found["evictions"]),
        "removals_by_reason": _by_label(found["removals"]),
        "outdated_tags": reading.number("outdated_tags"),
        "saved": {name: reading.number(f"saved_{name}") for name in ("calls", *_SAVED)},
        **{
            f"{name}_latency_ms": summary(found[name].get(()))
            for name in ("lookup", "store", "embedding", "compute")
        },
        "stage_latency_ms": stages,
    }


def summary(durations: Distribution | None) -> dict[str, float | int | None]:
    """Return samples, p50, p95 and p99, in milliseconds; None without samples."""
    found: dict[str, float | int | None] = {"samples": 0 if durations is None else durations.count}
    for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
        seconds = None if durations is None else durations.quantile(share)
        found[name] = None if seconds is None else 1000 * seconds
    return found


def _by_label(values: Mapping[Labels, float]) -> dict[str, float]:
    return {label: value for (label,), value in values.items()}
