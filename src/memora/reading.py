"""Snapshots of a cache's metrics: frozen values, for exporters and `get_stats`.

All exporters use the same families, so that their numbers agree.
`Memora.read_metrics()` returns a `MetricsSnapshot` of these:

| counter | labels | counts |
|---|---|---|
| `lookups` | result, reason | lookups: hit or miss, and `LookupResult.reason` |
| `stale_hits` | reason | hits that served a stale result |
| `refusals` | kind | misses decided by the judge, by the kind of the first evidence |
| `stores` | result | results: stored, not_stored (no exact form in bytes, or too large) |
| `uncacheable` | reason | cached calls that bypassed the cache: query, context, tags, closed |
| `errors` | operation | faults of the cache |
| `evictions` | policy | entries that left to keep to the limits |
| `removals` | reason | entries that left otherwise: expired, invalidated, cleared |
| `outdated_tags` | | tags outdated |
| `saved_calls`, `saved_seconds`, `saved_tokens`, `saved_cost` | | what fresh hits saved |

| gauge | labels | |
|---|---|---|
| `entries`, `limit_entries`, `limit_bytes` | | number of stored entries, and the limits |
| `entry_bytes`, `payload_bytes`, `index_bytes` | | sizes, as far as the store knows |
| `error_ratio` | | share of the operations of the last minutes that failed |

| histogram, in seconds | labels | |
|---|---|---|
| `lookup`, `store` | | calls: one per batch |
| `stage` | operation, stage | lookup: embed (one per batch), search, judge, payload (a hit) |
| | | store: encode, embed, put (one per batch) |
| `embedding` | | calls of the model; cached vectors need none |
| `compute` | | calls that missed, by `get_or_compute` and `cached` |
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Generic, Literal, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping

Unit: TypeAlias = Literal["", "seconds", "bytes", "ratio", "tokens"]
Labels: TypeAlias = tuple[str, ...]
"""The values of a family's labels, in order; () if it has none."""

V = TypeVar("V")


@dataclass(frozen=True)
class Distribution:
    """Durations of an operation, counted in buckets."""

    bounds: tuple[float, ...]
    """Ascending; a bucket includes its bound. The last is infinite."""
    counts: tuple[int, ...]
    """Cumulative: the number of durations up to the bound at the same index."""
    sum: float

    @property
    def count(self) -> int:
        """Number of durations."""
        return self.counts[-1]

    def up_to(self, bound: float) -> int:
        """Return the number of durations up to a bound.

        Raises:
            ValueError: The bound is not one of `bounds`, so the number is unknown.
        """
        at = bisect_left(self.bounds, bound)
        if at == len(self.bounds) or self.bounds[at] != bound:
            raise ValueError(f"{bound!r} is no bound of a bucket")
        return self.counts[at]

    def quantile(self, share: float) -> float | None:
        """Return the quantile for a share: the middle of a bucket; None if there are no durations.

        Within the range of the bounds, the error is at most half a bucket.
        """
        if not self.count:
            return None
        at = bisect_left(self.counts, max(math.ceil(share * self.count), 1))
        low = self.bounds[at - 1] if at else 0.0
        return low if math.isinf(self.bounds[at]) else (low + self.bounds[at]) / 2


@dataclass(frozen=True)
class Family(Generic[V]):
    """One metric, with a value for each combination of labels that has occurred."""

    name: str
    """Name without prefix, unit and suffixes, which an exporter adds by its conventions."""
    help: str
    unit: Unit
    labels: tuple[str, ...]
    """The names of the labels."""
    values: Mapping[Labels, V]

    def __getitem__(self, labels: Labels) -> V:
        return self.values[labels]


@dataclass(frozen=True)
class MetricsSnapshot:
    """A snapshot of all metrics of one cache."""

    counters: tuple[Family[float], ...]
    """Counters only grow, from 0 when the process opened the cache or was forked."""
    gauges: tuple[Family[float], ...]
    """Gauges that could not be read are left out."""
    histograms: tuple[Family[Distribution], ...]

    @cached_property
    def _by_name(self) -> dict[str, Family[float]]:
        return {family.name: family for family in (*self.counters, *self.gauges)}

    def number(self, name: str, *labels: str) -> float:
        """Return the value of a counter or gauge; 0 if its labels have not occurred.

        Raises:
            KeyError: There is no such family.
        """
        return self._by_name[name].values.get(labels, 0)

    def distribution(self, name: str, *labels: str) -> Distribution:
        """Return the distribution of a histogram.

        Raises:
            KeyError: There is no such family, or its labels have not occurred.
        """
        return next(one for one in self.histograms if one.name == name).values[labels]
