"""What eviction policies keep, and what they cost: `python benchmarks/eviction.py`.

Keeps: labelled streams, each class an entry. A request is a hit where its class is held; what is
not is stored, and what is then too many evicted. Costs: policies of so many entries, full, in this
process; every entry is stored, used, withdrawn.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import statistics
import sys
import time
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING

from eviction_candidates import Clairvoyant, S3FIFOTwice, Sieve, WTinyLFU
from machine import machine

from memora.eviction import POLICIES, make_policy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from eviction_candidates import Cache

    from memora.eviction import EvictionPolicy

SHARES = (0.10, 0.25, 0.50)
SIZES = (1_000, 100_000, 1_000_000)
BATCH = 100  # calls that are timed together
CALLS = 20_000


class Held:
    """A cache whose evictions one of Memora's policies decides."""

    def __init__(self, name: str, capacity: int, costs: dict[str, float] | None = None) -> None:
        self._policy, self._capacity = make_policy(name), capacity
        self._costs = costs or {}
        self._held: set[str] = set()

    def request(self, key: str) -> bool:
        """See `Cache`."""
        if key in self._held:
            self._policy.touch(key.encode())
            return True
        self._policy.admit(key.encode(), cost=self._costs.get(key, 1.0))
        self._held.add(key)
        if len(self._held) > self._capacity:
            self._held.difference_update(key.decode() for key in self._policy.evict(1))
        return False


def main() -> None:
    """Print tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES)
    options = parser.parse_args()
    print(f"{machine()}; seed {options.seed}\n")
    folder = options.data / "streams"
    if folder.is_dir():
        streams = {path.stem: _classes(path) for path in sorted(folder.glob("*.jsonl"))}
        _print_hits(streams)
        _print_savings(streams, options.seed)
    else:
        print(f"no streams in {folder}: hit rates are left out", file=sys.stderr)
    _print_costs(options.sizes, options.seed)


def _classes(path: Path) -> list[str]:
    with path.open(encoding="utf-8") as lines:
        return [str(json.loads(line)["class"]) for line in lines]


def _caches(capacity: int, stream: Sequence[str]) -> dict[str, Cache]:
    found: dict[str, Cache] = {name: Held(name, capacity) for name in POLICIES}
    found["*SIEVE*"] = Sieve(capacity)
    found["*W-TinyLFU*"] = WTinyLFU(capacity)
    found["*S3-FIFO, two uses*"] = S3FIFOTwice(capacity)
    found["*clairvoyant*"] = Clairvoyant(capacity, stream)
    return found


def _cells(streams: dict[str, list[str]]) -> Iterator[tuple[str, float, list[str], int]]:
    for name, stream in streams.items():
        for share in SHARES:
            yield name, share, stream, max(int(share * len(set(stream))), 1)


def _print_hits(streams: dict[str, list[str]]) -> None:
    print(
        "## Hits\n\nPercent of all requests; all cost the same. *Slanted*: candidates not "
        "taken, and the bound.\n"
    )
    names = list(_caches(1, []))
    _print_head(["stream", "requests", "classes", "held", *names])
    rates: dict[str, list[float]] = {name: [] for name in names}
    for name, share, stream, capacity in _cells(streams):
        caches = _caches(capacity, stream).items()
        row = {each: 100 * sum(map(cache.request, stream)) / len(stream) for each, cache in caches}
        for each, rate in row.items():
            rates[each].append(rate)
        cells = [f"{rate:.1f}" for rate in row.values()]
        _print_row([name, len(stream), len(set(stream)), f"{share:.0%}", *cells])
    _print_row(["mean", "", "", "", *(f"{statistics.mean(all_):.2f}" for all_ in rates.values())])
    wins = [sum(a > b for a, b in zip(all_, rates["lru"], strict=True)) for all_ in rates.values()]
    losses = [
        sum(a < b for a, b in zip(all_, rates["lru"], strict=True)) for all_ in rates.values()
    ]
    against = (f"{won} : {lost}" for won, lost in zip(wins, losses, strict=True))
    _print_row(["better : worse than lru", "", "", "", *against])


def _print_savings(streams: dict[str, list[str]], seed: int) -> None:
    print(
        "\n## Computing saved\n\nPercent of what all requests would cost. The cost of a class is "
        "drawn: log-normal, sigma 1,\nso that a tenth of the classes costs more than 3.6 times "
        "the median.\n"
    )
    _print_head(["stream", "held", *POLICIES])
    rates: dict[str, list[float]] = {name: [] for name in POLICIES}
    for name, share, stream, capacity in _cells(streams):
        draw = random.Random(seed)  # noqa: S311 - no secret
        costs = {key: draw.lognormvariate(0, 1) for key in sorted(set(stream))}
        total = sum(costs[key] for key in stream)
        cells = []
        for each in POLICIES:
            cache = Held(each, capacity, costs)
            rate = 100 * sum(costs[key] for key in stream if cache.request(key)) / total
            rates[each].append(rate)
            cells.append(f"{rate:.1f}")
        _print_row([name, f"{share:.0%}", *cells])
    _print_row(["mean", "", *(f"{statistics.mean(all_):.2f}" for all_ in rates.values())])


def _print_costs(sizes: Sequence[int], seed: int) -> None:
    print(
        f"\n## Cost\n\nMicroseconds a call, the median over {CALLS // BATCH} batches of {BATCH}; "
        "keys are drawn evenly, the worst\ncase for caches of memory. *After all were used*: one "
        "eviction, every entry used three times since the last.\n"
    )
    columns = ["use", "store and evict", "withdraw and store", "evict after all were used, ms"]
    columns += ["bytes an entry"]
    _print_head(["policy", "entries", *columns])
    for name in POLICIES:
        for size in sizes:
            _print_row([name, f"{size:,}", *_measured(name, size, random.Random(seed))])  # noqa: S311


def _measured(name: str, size: int, draw: random.Random) -> list[str]:
    keys = [draw.randbytes(16) for _ in range(size)]
    fresh = [draw.randbytes(16) for _ in range(CALLS)]
    coming, gone = iter(fresh), set[bytes]()
    costs = [draw.lognormvariate(0, 1) for _ in range(1000)]
    policy = make_policy(name)
    gc.collect()
    gc.disable()
    for number, key in enumerate(keys):
        policy.admit(key, cost=costs[number % 1000])
    chosen = iter(draw.choices(keys, k=CALLS))
    used = _median(lambda: policy.touch(next(chosen)))

    def store() -> None:
        policy.admit(next(coming), cost=costs[0])
        gone.update(policy.evict(1))

    stored = _median(store)
    present = [key for key in [*keys, *fresh] if key not in gone]
    leaving = iter(draw.choices(present, k=CALLS))

    def withdraw() -> None:
        key = next(leaving)
        policy.remove(key)
        policy.admit(key)

    withdrawn = _median(withdraw)
    for key in present:
        policy.touch(key, times=3)
    once = _once(lambda: policy.evict(1))
    gc.enable()
    cells = [f"{1e6 * seconds:.2f}" for seconds in (used, stored, withdrawn)]
    return [*cells, f"{1e3 * once:.3f}", f"{_bytes(make_policy(name), keys) / size:.0f}"]


def _bytes(policy: EvictionPolicy, keys: Sequence[bytes]) -> int:
    """Return what a policy allocates besides the keys."""
    gc.collect()
    tracemalloc.start()
    for key in keys:
        policy.admit(key)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return size


def _median(call: Callable[[], object]) -> float:
    times = []
    for _ in range(CALLS // BATCH):
        started = time.perf_counter()
        for _ in range(BATCH):
            call()
        times.append((time.perf_counter() - started) / BATCH)
    return statistics.median(times)


def _once(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _print_head(names: Sequence[str]) -> None:
    _print_row(names)
    _print_row(["---", *("---:" for _ in names[1:])])


def _print_row(cells: Sequence[object]) -> None:
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    main()
