"""What a cell of the benchmark of stores is made of: entries, queries, clocks, RAM and disk."""

from __future__ import annotations

import gc
import json
import math
import os
import random
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import corpus
import numpy as np
from engines import Vectors, text
from peers import open_engine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from engines import Engine, Item

HIT = 0.82  # a query is a hit where the exact cosine of its nearest is above; THRESHOLD is 0.80
MISS = 0.78  # and a miss where it is below
LAST = 1000  # the last stores of a build are timed
ONE_BY_ONE = 10_000  # beyond, an engine that can store many at once does
_POOL = 1 << 20
_SLOW = 10_000_000  # nanoseconds
SINGLE = 20  # stores one by one after a batch
_IDLE_SECONDS, _IDLE_SHARE = 1.0, 0.05


@dataclass
class Spec:
    """What to measure."""

    cell: str
    engine: str
    folder: Path
    path: Path
    entries: int
    contexts: int = 1
    payload: int = 1024
    seed: int = 20
    seconds: float = 2.0
    options: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, line: str) -> Spec:
        """Read what `stores.py` wrote."""
        values = json.loads(line)
        return cls(**values | {"folder": Path(values["folder"]), "path": Path(values["path"])})


class Bench:
    """The entries and queries of a cell, and its clock."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.rng = random.Random(spec.seed)  # noqa: S311
        vectors, queries = corpus.load(spec.folder)
        self.vectors = Vectors(vectors, queries)
        rows, best = corpus.nearest(spec.folder, spec.entries)
        self.nearest, self.best = rows, best
        # Not compressible, as encoded results often are not; the same for every engine.
        pool = np.random.default_rng(spec.seed).integers(33, 127, _POOL, np.uint8)
        self._pool = pool.tobytes().decode("ascii") * (1 + spec.payload // _POOL)

    def context(self, number: int) -> str:
        """Return the context of an entry."""
        return f"agent-{number % self.spec.contexts}"

    def item(self, number: int) -> Item:
        """Return an entry; its payload begins with its number."""
        length = self.spec.payload - 8
        start = number * 7919 % (len(self._pool) - length)
        payload = f"{number:08d}{self._pool[start : start + length]}"
        return text("e", number), self.context(number), payload

    def hits(self) -> list[tuple[str, str, float]]:
        """Return queries with an entry near enough: text, context, exact cosine."""
        found = [
            (text("q", int(query)), self.context(int(self.nearest[query])), float(self.best[query]))
            for query in np.flatnonzero(self.best >= HIT)
        ]
        self.rng.shuffle(found)
        return found

    def misses(self) -> list[tuple[str, str]]:
        """Return queries without one, in the context of some entry."""
        return [
            (text("q", int(query)), self.context(int(self.nearest[query])))
            for query in np.flatnonzero(self.best < MISS)
        ]

    def stored(self, count: int) -> list[tuple[str, str]]:
        """Return texts of entries, for exact lookups."""
        chosen = self.rng.sample(range(self.spec.entries), min(count, self.spec.entries))
        return [self.item(number)[:2] for number in chosen]

    def cosine(self, query: str, payload: str) -> float:
        """Return the cosine of a query and the entry that a payload belongs to."""
        entry = self.vectors(text("e", int(payload[:8])))
        return float(self.vectors(query) @ entry)


def quantiles(times: list[int]) -> dict[str, float | int | None]:
    """Summarise nanoseconds as milliseconds; p99 from a hundred on."""
    if not times:
        return {"n": 0}
    ordered = np.sort(np.array(times)) / 1e6

    def at(share: float) -> float:
        # The nearest rank: never between two samples.
        return round(float(ordered[max(math.ceil(share * len(ordered)) - 1, 0)]), 5)

    enough = len(ordered) >= 100  # noqa: PLR2004
    return {"p10": at(0.1), "p50": at(0.5), "p99": at(0.99) if enough else None, "n": len(ordered)}


def timed(calls: Iterable[Callable[[], object]], seconds: float) -> list[int]:
    """Return nanoseconds of each call, until it is enough."""
    times: list[int] = []
    for call in calls:
        start = time.perf_counter_ns()
        call()
        times.append(time.perf_counter_ns() - start)
        if enough(times, seconds):
            break
    return times


def enough(times: list[int], seconds: float) -> bool:
    """Whether they took so long: twenty calls at least, or five of a slow engine."""
    if len(times) < 5:  # noqa: PLR2004
        return False
    if times[-1] > _SLOW or len(times) % 16 == 0:
        return sum(times) > seconds * (1e9 if len(times) >= 20 else 4e9)  # noqa: PLR2004
    return False


def build(bench: Bench, engine: Engine) -> dict[str, Any]:
    """Store the entries, one by one or most of them at once; time the last ones."""
    spec = bench.spec
    many = getattr(engine, "store_all", None)
    at_once = 0
    if many and (spec.entries > ONE_BY_ONE or spec.extra.get("batch")):
        at_once = spec.entries - SINGLE
    started = time.perf_counter()
    if many and at_once:
        for start in range(0, at_once, 50_000):
            many([bench.item(i) for i in range(start, min(start + 50_000, at_once))])
    times = []
    for number in range(at_once, spec.entries):
        item = bench.item(number)
        start = time.perf_counter_ns()
        engine.store(*item)
        times.append(time.perf_counter_ns() - start)
    seconds = time.perf_counter() - started
    return {"seconds": round(seconds, 3), "at_once": at_once, "store": quantiles(times[-LAST:])}


def look_up(bench: Bench, engine: Engine) -> dict[str, Any]:
    """Time hits, exact hits and misses; check every answer of the first round."""
    seconds = bench.spec.seconds
    hits = bench.hits()
    warm = (lambda q=q, c=c: engine.lookup(q, c) for q, c, _ in hits[:20])
    timed(warm, seconds / 2)
    right, served = 0, 0
    times: list[int] = []
    for index in range(max(3000, len(hits))):
        query, context, best = hits[index % len(hits)]
        start = time.perf_counter_ns()
        found = engine.lookup(query, context)
        times.append(time.perf_counter_ns() - start)
        if index < len(hits):
            served += found is not None
            right += found is not None and bench.cosine(query, found) >= best - 1e-5
        if enough(times, seconds):
            break
    asked = min(len(times), len(hits))
    exact, wrong = bench.stored(1000), 0
    exact_times: list[int] = []
    for query, context in exact:
        start = time.perf_counter_ns()
        found = engine.lookup(query, context)
        exact_times.append(time.perf_counter_ns() - start)
        wrong += found is None or text("e", int(found[:8])) != query
        if enough(exact_times, seconds):
            break
    misses = [lambda q=q, c=c: engine.lookup(q, c) for q, c in bench.misses()]
    return {
        "hit": quantiles(times),
        "recall": round(right / asked, 4),
        "served": round(served / asked, 4),
        "queries": asked,
        "exact": quantiles(exact_times),
        "exact_wrong": wrong,
        "miss": quantiles(timed(misses, seconds / 2)),
    }


def resident(*, without: Path, pid: int | None = None) -> dict[str, int]:
    """Return bytes in RAM, all and those of no file, without the mapped vectors; Linux only."""
    maps = Path(f"/proc/{pid or os.getpid()}/smaps")
    found = {"total": 0, "anonymous": 0}
    counted = True
    for line in maps.read_text("utf-8").splitlines() if maps.is_file() else ():
        name, _, rest = line.partition(":")
        if "-" in name.partition(" ")[0]:  # a mapping begins
            counted = not line.endswith(f"/{without.name}")
        elif counted and name in {"Rss", "Anonymous"}:
            key = "total" if name == "Rss" else "anonymous"
            found[key] += int(rest.split()[0]) * 1024
    return found


def on_disk(path: Path) -> int:
    """Return the bytes of the files below a directory."""
    files = (Path(folder) / name for folder, _, names in os.walk(path) for name in names)
    return sum(_size(file) for file in files)


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:  # tidied up meanwhile
        return 0


def measured_memory(bench: Bench, engine: Engine, before: dict[str, int]) -> dict[str, int]:
    """Return bytes in RAM per entry beyond what the process held before."""
    gc.collect()
    after = resident(without=bench.spec.folder / "vectors.npy")
    after = _with_server(after, engine)
    share = {key: round((after[key] - before[key]) / bench.spec.entries) for key in after}
    return {**share, "process": after["total"]}


def _with_server(found: dict[str, int], engine: Engine) -> dict[str, int]:
    """Add what a server that belongs to the engine holds."""
    process = getattr(engine, "process", None)
    if process is None:
        return found
    server = resident(without=Path("vectors.npy"), pid=process.pid)
    return {key: found[key] + server[key] for key in found}


def settle(limit: float) -> float:
    """Wait until nothing works in the background; return how long that took.

    An engine may build indexes behind its first lookups: the process is idle once they are made.
    """
    started = time.perf_counter()
    while time.perf_counter() < started + limit:
        used = time.process_time()
        time.sleep(_IDLE_SECONDS)
        if time.process_time() - used < _IDLE_SHARE * _IDLE_SECONDS:
            break
    return round(time.perf_counter() - started - _IDLE_SECONDS, 2)


def warmed(bench: Bench) -> dict[str, int]:
    """Load what an engine loads late, with a cache of ten entries; return the memory then."""
    spec = bench.spec
    with tempfile.TemporaryDirectory(dir=spec.path.parent, ignore_cleanup_errors=True) as folder:
        small = open_engine(spec.engine, Path(folder) / "warm", bench.vectors, spec.options)
        for number in range(10):
            small.store(*bench.item(number))
        for query, context in bench.stored(10):
            small.lookup(query, context)
        gc.collect()
        found = _with_server(resident(without=spec.folder / "vectors.npy"), small)
        small.close()
    return found
