"""What a tier in RAM saves in front of a Redis server: `python benchmarks/tier.py redis://...`.

Exact lookups are timed with and without it. How many are answered from RAM is counted over a
replay: keys by Zipf's law, time told and not waited for, while another client stores. The table is
made for the run, and removed.
"""

from __future__ import annotations

import argparse
import statistics
import time
import uuid
from pathlib import Path

import numpy as np
import redis
from machine import machine

from memora.context import canonical_context, exact_key
from memora.model import Content, Entry
from memora.stores.redis import RedisStore
from memora.stores.tiered import TieredStore

KEYS, LOOKUPS, STALENESS, CLIENTS = 10_000, 20_000, 1.0, 100
RESULTS = Path(__file__).parent / "results" / "tier.md"
HERE = canonical_context({"agent": "sql"})


class Unasked(TieredStore):
    """Is asked for changes by this script alone."""

    def _begin_following(self) -> None:
        pass


class Clock:
    """Is told the time."""

    now = 0.0

    def __call__(self) -> float:
        """Return it."""
        return self.now


def entry(i: int) -> Entry:
    """Return the entry of one key."""
    query = f"what were the sales of shop {i} in march"
    return Entry(
        id=uuid.uuid4().hex,
        key=exact_key(query, HERE),
        query=query,
        context=HERE,
        created_at=1.0,
        expires_at=None,
    )


def timed(store: RedisStore | TieredStore, keys: list[bytes]) -> float:
    """Return the median of a lookup's microseconds."""
    taken = []
    for key in keys:
        begun = time.perf_counter()
        store.get(key, now=2.0)
        taken.append(time.perf_counter() - begun)
    return 1e6 * statistics.median(taken)


def share(shared: RedisStore, *, rate: float, puts: float, told: bool) -> float:
    """Return which share of lookups needs no round trip, at so many lookups and puts a second."""
    random, clock = np.random.default_rng(1), Clock()
    tier = Unasked(shared, max_bytes=2**26, max_staleness_seconds=STALENESS, clock=clock)
    weights = 1 / np.arange(1, KEYS + 1)
    asked = random.choice(KEYS, LOOKUPS, p=weights / weights.sum()).tolist()
    keys = [entry(i).key for i in range(KEYS)]
    answered, follow_at, put_at = 0, 0.0, 0.0
    for i in asked:
        clock.now += 1 / rate
        while put_at < clock.now:
            put_at += 1 / puts
            shared.put(entry(int(random.integers(KEYS))), Content(bytes(500)), vector=None)
        if told and clock.now >= follow_at:
            tier.follow()
            follow_at = clock.now + STALENESS / 3
        answered += tier.get_in_memory(keys[i], now=2.0) is not None
        tier.get(keys[i], now=2.0)
    return answered / len(asked)


def put_times(uri: str, table: str, shared: RedisStore) -> tuple[float, float]:
    """Return the microseconds of a put: alone, and with so many clients who are told of it."""

    def timed_puts() -> float:
        taken = []
        for i in range(1000):
            begun = time.perf_counter()
            shared.put(entry(i), Content(bytes(500)), vector=None)
            taken.append(time.perf_counter() - begun)
        return 1e6 * statistics.median(taken)

    alone = timed_puts()
    told = [RedisStore(uri, table_name=table, model="none", dimension=8) for _ in range(CLIENTS)]
    for store in told:
        store.changes()
    with_told = timed_puts()
    for store in told:
        store.close()
    return alone, with_told


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("uri")
    uri = parser.parse_args().uri
    table = f"bench-{uuid.uuid4().hex}"
    shared = RedisStore(uri, table_name=table, model="none", dimension=8)
    try:
        shared.put_many([(entry(i), Content(bytes(500)), None) for i in range(KEYS)])
        clock = Clock()
        tier = Unasked(shared, max_bytes=2**26, max_staleness_seconds=STALENESS, clock=clock)
        keys = [entry(i).key for i in range(2000)]
        from_server = timed(shared, keys)
        for key in keys:
            tier.get(key, now=2.0)
        from_tier = timed(tier, keys)
        tier.follow()
        begun = time.perf_counter()
        for _ in range(200):
            tier.follow()
        asking = (time.perf_counter() - begun) / 200 * 1e6
        rows = [
            (
                *(rate, puts),
                share(shared, rate=rate, puts=puts, told=False),
                share(shared, rate=rate, puts=puts, told=True),
            )
            for rate, puts in [(5, 1), (50, 1), (50, 50), (500, 50)]
        ]
        alone, with_told = put_times(uri, table, shared)
    finally:
        client = redis.Redis.from_url(uri)
        for name in client.scan_iter(f"memora:{{{table}:*"):
            client.delete(name)
        shared.close()
    shares = "\n".join(f"| {a} | {b} | {read:.0%} | {told:.0%} |" for a, b, read, told in rows)
    text = f"""# A tier in RAM before Redis

`python benchmarks/tier.py redis://...`, a server on the same machine; \
{machine("memora-cache", "redis")}

| median | µs |
|---|---:|
| exact lookup, server | {from_server:.1f} |
| exact lookup, tier | {from_tier:.1f} |
| asking what has changed, once a third of a second | {asking:.1f} |
| put, nobody told | {alone:.1f} |
| put, {CLIENTS} clients told | {with_told:.1f} |

Lookups answered from RAM, of {LOOKUPS:,}, with `max_staleness_seconds=1`: {KEYS:,} keys by \
Zipf's law, the tier empty at first, others putting any of the keys again. A simulation: time is \
told, the server is real.

| lookups/s | puts/s of others | each confirmed by being read | all confirmed by the server |
|---:|---:|---:|---:|
{shares}
"""
    RESULTS.write_text(text, "utf-8")
    print(text)


if __name__ == "__main__":
    main()
