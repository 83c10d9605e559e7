"""What the metrics of a cache say at one moment: frozen values, for exporters and `get_stats`.

Every exporter goes through the same families, so that what they show agrees number by number.
`Memora.read_metrics()` returns a `Reading` of these:

| counter | labels | what is counted |
|---|---|---|
| `lookups` | result, reason | lookups: hit or miss, and `LookupResult.reason` |
| `stale_hits` | reason | hits that served a stale result |
| `refusals` | kind | misses of which the judge decided, by the kind of the first evidence |
| `stores` | result | results: stored, not_stored (no exact form in bytes, or too large) |
| `uncacheable` | reason | cached calls that were only run: query, context, tags, closed |
| `errors` | operation | faults of the cache |
| `evictions` | policy | entries that left to keep to the limits |
| `removals` | reason | entries that left otherwise: expired, invalidated, cleared |
| `outdated_tags` | | tags outdated |
| `saved_calls`, `saved_seconds`, `saved_tokens`, `saved_cost` | | what fresh hits saved |

| gauge | labels | |
|---|---|---|
| `entries`, `limit_entries`, `limit_bytes` | | what is stored, and may be |
| `entry_bytes`, `payload_bytes`, `index_bytes` | | what it takes, as far as the store knows |
| `error_ratio` | | share of the operations of the last minutes that failed |

| histogram, in seconds | labels | |
|---|---|---|
| `lookup`, `store` | | calls: one a batch |
| `stage` | operation, stage | lookup: embed (one a batch), search, judge, payload (a hit) |
| | | store: encode, embed, put (one a batch) |
| `embedding` | | calls of the model; what is remembered needs none |
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
"""The values of a family's labels, in their order; () where it has none."""

V = TypeVar("V")


@dataclass(frozen=True)
class Distribution:
    """How long something took, each time, in buckets."""

    bounds: tuple[float, ...]
    """Ascending; a bucket includes its bound. The last is infinite."""
    counts: tuple[int, ...]
    """Cumulative: how many were at most the bound in the same place."""
    sum: float

    @property
    def count(self) -> int:
        """How many there were."""
        return self.counts[-1]

    def up_to(self, bound: float) -> int:
        """Return how many were at most a bound.

        Raises:
            ValueError: It is none of `bounds`: nobody knows.
        """
        at = bisect_left(self.bounds, bound)
        if at == len(self.bounds) or self.bounds[at] != bound:
            raise ValueError(f"{bound!r} is no bound of a bucket")
        return self.counts[at]

    def quantile(self, share: float) -> float | None:
        """Return what a share of them stayed below: the middle of a bucket; None of none.

        Within the range of the bounds it is off by half a bucket at most, either way.
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
    """Without the cache's name, unit and suffixes, which an exporter adds by its conventions."""
    help: str
    unit: Unit
    labels: tuple[str, ...]
    """Their names."""
    values: Mapping[Labels, V]

    def __getitem__(self, labels: Labels) -> V:
        return self.values[labels]


@dataclass(frozen=True)
class Reading:
    """All metrics of one cache; none of a family's values changes any more."""

    counters: tuple[Family[float], ...]
    """Only ever grow, from 0 when the process opened the cache, or was forked."""
    gauges: tuple[Family[float], ...]
    """What could not be read is left out."""
    histograms: tuple[Family[Distribution], ...]

    @cached_property
    def _by_name(self) -> dict[str, Family[float]]:
        return {family.name: family for family in (*self.counters, *self.gauges)}

    def number(self, name: str, *labels: str) -> float:
        """Return the value of a counter or gauge; 0 where its labels have not occurred.

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
