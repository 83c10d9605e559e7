"""What finding expired entries costs: `python benchmarks/expiry.py`.

Queues of so many entries, filled one by one or loaded at once. Their ends are drawn over a day, as
those of a store are that a day of traffic has filled; or each entry ends in a second of its own,
the worst case for the memory.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
import tracemalloc
from typing import TYPE_CHECKING

import numpy as np
from machine import machine

from memora.stores._expiry import ExpiryQueue

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

SIZES = (1_000, 100_000, 1_000_000)
NOW, DAY = 1_700_000_000.0, 86_400
BATCH = 100  # calls that are timed together
CALLS = 20_000
LIMIT = 64  # slots a call of `due`


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES)
    options = parser.parse_args()
    print(
        f"{machine('numpy')}; seed {options.seed}\n\n"
        f"Microseconds. An add and an idle due, which finds nothing: the median over batches of "
        f"{BATCH} calls.\nA due slot: the median over calls that take {LIMIT} each. Loading: the "
        "median of five.\n"
    )
    columns = ["add", "a due slot, added", "a due slot, loaded", "idle due", "load, ms"]
    columns += ["bytes an entry, added", "bytes an entry, loaded"]
    _print_row(["ends", "entries", *columns])
    _print_row(["---", *("---:" for _ in range(len(columns) + 1))])
    for name in ("over a day", "a second each"):
        for size in options.sizes:
            draw = np.random.default_rng(options.seed)
            over_a_day, each = draw.uniform(0, DAY, size), draw.permutation(size) + 0.5
            ends = NOW + (over_a_day if name == "over a day" else each)
            _print_row([name, f"{size:,}", *_measured(ends, draw)])


def _measured(ends: NDArray[np.float64], draw: np.random.Generator) -> list[str]:
    loaded, added = ExpiryQueue(), ExpiryQueue()
    gc.collect()
    gc.disable()
    load = statistics.median(_seconds(lambda: loaded.load(ends)) for _ in range(5))
    _fill(added, ends)
    idle = _median(lambda: added.due(NOW, LIMIT))
    due = [_due(queue, ends.max() + 1) for queue in (added, loaded)]
    _fill(added, ends)
    more = iter(draw.choice(ends, CALLS).tolist())
    add = _median(lambda: added.add(1, next(more)))
    gc.enable()
    cells = [f"{1e6 * seconds:.2f}" for seconds in (add, *due, idle)]
    memory = [_bytes(lambda queue: _fill(queue, ends)), _bytes(lambda queue: queue.load(ends))]
    return [*cells, f"{1e3 * load:.2f}", *(f"{size / len(ends):.0f}" for size in memory)]


def _fill(queue: ExpiryQueue, ends: NDArray[np.float64]) -> None:
    for slot, end in enumerate(ends.tolist()):
        queue.add(slot, end)


def _due(queue: ExpiryQueue, now: float) -> float:
    """Empty a queue; return seconds a slot."""
    times = []
    while len(queue) >= LIMIT:
        times.append(_seconds(lambda: queue.due(now, LIMIT)) / LIMIT)
    return statistics.median(times)


def _bytes(fill: Callable[[ExpiryQueue], None]) -> int:
    """Return what a queue allocates."""
    gc.collect()
    tracemalloc.start()
    queue = ExpiryQueue()
    fill(queue)
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


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _print_row(cells: Sequence[object]) -> None:
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    main()
