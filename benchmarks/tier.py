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

import numpy as np
import redis

from memora.context import canonical_context, exact_key
from memora.model import Content, Entry
from memora.stores.redis import RedisStore
from memora.stores.tiered import TieredStore

KEYS, LOOKUPS, STALENESS = 10_000, 20_000, 1.0
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
        answered += tier.glance(keys[i], now=2.0) is not None
        tier.get(keys[i], now=2.0)
    return answered / len(asked)


def main() -> None:
    """Print all figures."""
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
        print(f"exact lookup, server: {timed(shared, keys):.1f} µs")
        for key in keys:
            tier.get(key, now=2.0)
        print(f"exact lookup, tier:   {timed(tier, keys):.1f} µs")
        tier.follow()
        begun = time.perf_counter()
        for _ in range(200):
            tier.follow()
        print(f"asking for changes:   {(time.perf_counter() - begun) / 200 * 1e6:.1f} µs")
        print("| lookups/s | puts/s of others | confirmed by reading | and by being told |")
        print("|---:|---:|---:|---:|")
        for rate, puts in [(5, 1), (50, 1), (50, 50), (500, 50)]:
            plain = share(shared, rate=rate, puts=puts, told=False)
            told = share(shared, rate=rate, puts=puts, told=True)
            print(f"| {rate} | {puts} | {plain:.0%} | {told:.0%} |")
    finally:
        client = redis.Redis.from_url(uri)
        for name in client.scan_iter(f"memora:{{{table}:*"):
            client.delete(name)
        shared.close()


if __name__ == "__main__":
    main()
