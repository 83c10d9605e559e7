"""What a shared cache means for many machines: `python benchmarks/planning.py`.

A simulation, not a measurement. It takes what a server spends on each operation from
results/redis.md, and assumes the rest, which its options say: how often the same is asked again,
how many, and how far away the server is. Two questions: what does it gain that machines share one
cache, and how many clients does one server bear?
"""

from __future__ import annotations

import argparse
import heapq
import itertools
from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MACHINES = (1, 4, 16, 64, 256)
CLIENTS = (10, 100, 1000, 2000, 5000, 10_000)
SHARDS = (1, 4)
SECONDS = 20.0  # of traffic, after which the waiting has shown itself
MOST = 200_000  # lookups of a simulated run
BEHIND = 0.95  # of its time busy: a server that cannot keep up for long


# Option: its default, and what it means.
ASSUMED: dict[str, tuple[float, str]] = {
    "seed": (1, "of the random numbers"),
    "exact": (0.15, "share of the same text"),
    "semantic": (0.2, "share of hits by meaning"),
    "rate": (1.0, "lookups a second of a client"),
    "round-trip": (300.0, "microseconds"),
    "zipf": (1.0, "how popularity falls with rank"),
    "asked": (200_000, "queries of all machines"),
    "distinct": (100_000, "of them, at most"),
    "limit": (10_000, "entries a cache keeps"),
    "call": (0.002, "USD that a saved call costs"),
    "server": (100.0, "USD a month of a server"),
}


class Costs(NamedTuple):
    """Microseconds that a server spends, measured; see results/redis.md."""

    entries: int
    exact: float
    search: float
    store: float


class Traffic(NamedTuple):
    """What is assumed of the clients."""

    rate: float
    exact: float
    semantic: float
    round_trip: float


def shared(
    machines: int, queries: Sequence[int], limit: int, rng: np.random.Generator
) -> tuple[float, float]:
    """Return the share of queries that was asked before: of one cache for all, and of one each.

    Each cache keeps `limit` entries, the last used; queries go to machines at random.
    """
    everyone: OrderedDict[int, None] = OrderedDict()
    own = [OrderedDict[int, None]() for _ in range(machines)]
    where = rng.integers(machines, size=len(queries)).tolist()
    found = [0, 0]
    for query, machine in zip(queries, where, strict=True):
        for i, cache in enumerate((everyone, own[machine])):
            if query in cache:
                found[i] += 1
                cache.move_to_end(query)
            else:
                cache[query] = None
                if len(cache) > limit:
                    cache.popitem(last=False)
    return found[0] / len(queries), found[1] / len(queries)


def waits(
    clients: int, shards: int, costs: Costs, traffic: Traffic, rng: np.random.Generator
) -> tuple[float, float, float]:
    """Return p50 and p99 of a lookup, in ms, and the busy share of the busiest server.

    A server does one thing after the other. What has an exact answer asks one shard once; anything
    else has all of them searched; a miss is stored a while later.
    """
    count = min(int(clients * traffic.rate * SECONDS), MOST)
    arrivals = np.cumsum(rng.exponential(1e6 / (clients * traffic.rate), count)).tolist()
    kinds = rng.choice(
        3, count, p=(traffic.exact, traffic.semantic, 1 - traffic.exact - traffic.semantic)
    ).tolist()
    homes = rng.integers(shards, size=count).tolist()
    free, busy, took = [0.0] * shards, [0.0] * shards, [0.0] * count
    order = itertools.count()
    events = [(at, next(order), i, 0) for i, at in enumerate(arrivals)]
    while events:
        at, _, i, step = heapq.heappop(events)
        work = (costs.exact, costs.search, costs.store)[step]
        done = at
        for shard in range(shards) if step == 1 else (homes[i],):
            free[shard] = max(at, free[shard]) + work
            busy[shard] += work
            done = max(done, free[shard])
        done += traffic.round_trip
        last = min(kinds[i], 1)
        if step < last:
            heapq.heappush(events, (done, next(order), i, step + 1))
        elif step == last:
            took[i] = done - arrivals[i]
            if kinds[i] == 2:  # noqa: PLR2004 - a miss: it is computed for a second, then stored
                heapq.heappush(events, (done + 1e6, next(order), i, 2))
    p50, p99 = np.quantile(took, (0.5, 0.99)) / 1e3
    return float(p50), float(p99), max(busy) / arrivals[-1]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, (default, meaning) in ASSUMED.items():
        parser.add_argument(f"--{name}", type=type(default), default=default, help=meaning)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    said = ", ".join(f"--{name.replace('_', '-')} {value}" for name, value in vars(options).items())
    print(f"Assumed: {said}.\n\n## One cache for all, or one each\n")
    _rows(
        ["machines", "served, one for all, %", "served, one each, %"],
        _sharing(options, rng),
    )
    traffic = Traffic(options.rate, options.exact, options.semantic, options.round_trip)
    print("## Clients that one server bears\n")
    head = ["entries", "masters", "clients", "lookups a second", "p50, ms", "p99, ms", "busy, %"]
    _rows(head, _waiting(traffic, rng))
    print("## When it pays\n")
    head = ["lookups a day", "saved a month, USD", "hits from which a server is paid, %"]
    _rows(head, _paying(options))


def _sharing(options: argparse.Namespace, rng: np.random.Generator) -> Iterator[list[str]]:
    weights = np.arange(1, options.distinct + 1) ** -options.zipf
    queries = rng.choice(options.distinct, options.asked, p=weights / weights.sum()).tolist()
    for machines in MACHINES:
        both = shared(machines, queries, options.limit, rng)
        yield [f"{machines}", *(f"{100 * share:.1f}" for share in both)]


def _waiting(traffic: Traffic, rng: np.random.Generator) -> Iterator[list[str]]:
    for costs in MEASURED:
        for shards in SHARDS:
            for clients in CLIENTS:
                p50, p99, busy = waits(clients, shards, costs, traffic, rng)
                late = busy > BEHIND
                times = ["cannot keep up", ""] if late else [f"{p50:.2f}", f"{p99:.2f}"]
                line = [f"{costs.entries:,}", f"{shards}", f"{clients:,}"]
                yield [*line, f"{clients * traffic.rate:,.0f}", *times, f"{100 * busy:.0f}"]
                if late:
                    break


def _paying(options: argparse.Namespace) -> Iterator[list[str]]:
    for lookups in (1000, 10_000, 100_000, 1_000_000):
        calls = 30 * lookups
        saved = calls * (options.exact + options.semantic) * options.call
        share = 100 * options.server / (calls * options.call)
        yield [f"{lookups:,}", f"{saved:,.0f}", f"{share:.1f}" if share <= 100 else "never"]  # noqa: PLR2004


def _rows(head: Sequence[str], rows: Iterator[Sequence[str]]) -> None:
    for row in (head, ["---:"] * len(head), *rows):
        print(f"| {' | '.join(row)} |")
    print(flush=True)


# Server CPU of results/redis.md, the rows of one context: the same text, the store's search, store.
MEASURED = (
    Costs(entries=10_000, exact=88, search=398, store=533),
    Costs(entries=100_000, exact=65, search=454, store=777),
)

if __name__ == "__main__":
    main()
