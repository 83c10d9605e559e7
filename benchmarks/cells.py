"""One cell of the benchmark of stores, in a process of its own: `python cells.py SPEC`.

SPEC is JSON, and so is the last line printed. `stores.py` calls it; a peer's cell runs under the
peer's interpreter, so this file and those it imports need numpy and nothing of Memora.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from engines import text
from measure import (
    Bench,
    Spec,
    build,
    look_up,
    measured_memory,
    on_disk,
    quantiles,
    resident,
    settle,
    timed,
    warmed,
)
from peers import open_engine

if TYPE_CHECKING:
    from engines import Engine

RATE = 200  # entries a second, of the writer beside lookups
SAMPLES = 40  # points of a churn
STAMPED = range(50_000_000, 50_000_020)  # entries that nothing else stores


def opened(bench: Bench) -> Engine:
    """Open the engine of a cell."""
    spec = bench.spec
    return open_engine(spec.engine, spec.path, bench.vectors, spec.options)


def cell_build(bench: Bench) -> dict[str, Any]:
    """Build an engine's directory."""
    engine = opened(bench)
    found = build(bench, engine)
    start = time.perf_counter()
    engine.close()
    closed = time.perf_counter() - start
    disk = on_disk(bench.spec.path)
    each = round(disk / bench.spec.entries)
    return {**found, "close": round(closed, 3), "disk": disk, "disk_per_entry": each}


def cell_serve(bench: Bench) -> dict[str, Any]:
    """Open what was built and look up; an engine without a directory is built here."""
    spec = bench.spec
    before = warmed(bench)
    query, context, _ = bench.hits()[0]
    start = time.perf_counter()
    engine = opened(bench)
    found: dict[str, Any] = {"open": round(time.perf_counter() - start, 4)}
    if spec.extra.get("build"):
        found = {"build": build(bench, engine)}
    engine.lookup(query, context)
    if "open" in found:
        found["first"] = round(time.perf_counter() - start, 4)
        found["early"] = _early(bench, engine)
    found["settled"] = settle(_patience(bench))
    found |= look_up(bench, engine)
    found["memory"] = measured_memory(bench, engine, before)
    if spec.extra.get("touch"):  # every payload once, so that what is kept hot is hot
        for number in range(spec.entries):
            engine.lookup(*bench.item(number)[:2])
        found["memory_touched"] = measured_memory(bench, engine, before)
    engine.close()
    return found


def _patience(bench: Bench) -> float:
    return 120 + bench.spec.entries / 1500


def _early(bench: Bench, engine: Engine) -> dict[str, Any]:
    """Look up in the first second, while an engine may still load behind."""
    hits = bench.hits()
    calls = (lambda q=q, c=c: engine.lookup(q, c) for q, c, _ in hits)
    return quantiles(timed(calls, 1.0))


def cell_acks(bench: Bench) -> dict[str, Any]:
    """Time `store` until it is acknowledged, on some threads, and one sync of the same disk."""
    spec = bench.spec
    spec.path.mkdir(parents=True, exist_ok=True)
    syncs = []
    with (spec.path.parent / "sync").open("wb") as file:
        for _ in range(100):
            file.write(b"x" * (spec.payload + 2048))
            file.flush()
            start = time.perf_counter_ns()
            os.fdatasync(file.fileno())
            syncs.append(time.perf_counter_ns() - start)
    engine = opened(bench)
    numbers = iter(range(spec.entries))
    times: list[int] = []
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            item = bench.item(number)
            start = time.perf_counter_ns()
            engine.store(*item)
            times.append(time.perf_counter_ns() - start)

    started = time.perf_counter()
    _on_threads([work] * spec.extra.get("threads", 1))
    rate = len(times) / (time.perf_counter() - started)
    engine.close()
    return {"store": quantiles(times), "per_second": round(rate), "sync": quantiles(syncs)}


def cell_threads(bench: Bench) -> dict[str, Any]:
    """Look up on some threads at once."""
    engine = opened(bench)
    settle(_patience(bench))
    hits = bench.hits()
    times: list[list[int]] = []

    def work(shift: int) -> None:
        calls = (
            lambda q=q, c=c: engine.lookup(q, c)
            for q, c, _ in itertools.islice(itertools.cycle(hits), shift, None)
        )
        times.append(timed(calls, bench.spec.seconds))

    work(0)
    times.clear()
    start = time.perf_counter()
    count = bench.spec.extra.get("threads", 1)
    _on_threads([lambda shift=i: work(shift * 97) for i in range(count)])
    rate = sum(map(len, times)) / (time.perf_counter() - start)
    engine.close()
    return {"hit": quantiles([*itertools.chain(*times)]), "per_second": round(rate)}


def cell_writer(bench: Bench) -> dict[str, Any]:
    """Look up alone, then beside a thread that stores 200 entries a second."""
    engine = opened(bench)
    settle(_patience(bench))
    hits = bench.hits()
    stop = threading.Event()
    stores: list[int] = []

    def read() -> dict[str, Any]:
        calls = (lambda q=q, c=c: engine.lookup(q, c) for q, c, _ in itertools.cycle(hits))
        return quantiles(timed(calls, bench.spec.seconds))

    read()
    quiet = read()
    writer = threading.Thread(target=lambda: stores.extend(_pace(bench, engine, stop)))
    writer.start()
    busy = read()
    stop.set()
    writer.join()
    engine.close()
    return {"quiet": quiet, "busy": busy, "store": quantiles(stores)}


def cell_reader(bench: Bench) -> dict[str, Any]:
    """Look up for a while, from the moment that is given: one of several processes."""
    engine = opened(bench)
    hits = bench.hits()
    engine.lookup(*hits[0][:2])
    settle(bench.spec.extra["at"] - time.time() - 1)
    time.sleep(max(bench.spec.extra["at"] - time.time(), 0))
    calls = (lambda q=q, c=c: engine.lookup(q, c) for q, c, _ in itertools.cycle(hits))
    times = timed(calls, bench.spec.seconds)
    engine.close()
    return {"hit": quantiles(times), "per_second": round(len(times) / bench.spec.seconds)}


def cell_pacer(bench: Bench) -> dict[str, Any]:
    """Store 200 entries a second for a while: the writer among several processes."""
    engine = opened(bench)
    stop = threading.Event()
    time.sleep(max(bench.spec.extra["at"] - time.time(), 0))
    timer = threading.Timer(bench.spec.seconds, stop.set)
    timer.start()
    times = _pace(bench, engine, stop)
    engine.close()
    return {"store": quantiles(times)}


def cell_processes(bench: Bench) -> dict[str, Any]:
    """Look up in several processes, beside one that stores 200 entries a second if asked."""
    spec = bench.spec
    at = time.time() + 6 + spec.entries / 2500  # until all have opened and settled
    cells = ["reader"] * spec.extra["processes"] + ["pacer"] * bool(spec.extra.get("writer"))
    children = [_child(replace(spec, cell=cell, extra={"at": at})) for cell in cells]
    found = [json.loads(child.communicate()[0].splitlines()[-1]) for child in children]
    readers = [result for result in found if "hit" in result]
    return {
        "p50": max(result["hit"]["p50"] for result in readers),  # of the slowest process
        "p99": max(result["hit"]["p99"] or 0 for result in readers),
        "per_second": sum(result["per_second"] for result in readers),
        "store": next((result["store"] for result in found if "store" in result), None),
    }


def cell_visible(bench: Bench) -> dict[str, Any]:
    """Time how long an entry that another process stored is not seen by a reader."""
    spec = bench.spec
    engine = opened(bench)
    engine.lookup(*bench.item(0)[:2])
    child = _child(replace(spec, cell="stamps"))
    times = []
    end = time.time() + 60
    for number in STAMPED:
        query, context, _ = bench.item(number)
        while time.time() < end:
            found = engine.lookup(query, context)
            # A similar entry may be served before the one that is waited for.
            if found and found.startswith(f"{number:08d}"):
                times.append(int(1e9 * (time.time() - float(found[8:26]))))
                break
            time.sleep(0.001)
    child.wait()
    engine.close()
    return {"delay": quantiles(times), "max": round(max(times, default=0) / 1e6, 2)}


def cell_stamps(bench: Bench) -> dict[str, Any]:
    """Store twenty entries that say when, a quarter of a second apart."""
    engine = opened(bench)
    for number in STAMPED:
        query, context, payload = bench.item(number)
        time.sleep(0.25)
        stamp = f"{payload[:8]}{time.time():018.6f}"
        engine.store(query, context, stamp + payload[len(stamp) :])
    engine.close()
    return {}


def cell_churn(bench: Bench) -> dict[str, Any]:
    """Store many times what may stay, and watch disk, RAM and the time of a store."""
    spec = bench.spec
    engine = opened(bench)
    stores = spec.extra["stores"]
    step = max(stores // SAMPLES, 1)
    points = []
    end = time.perf_counter() + spec.seconds
    started = time.perf_counter()
    for first in range(0, stores, step):
        times = []
        for number in range(first, first + step):
            item = bench.item(number)
            start = time.perf_counter_ns()
            engine.store(*item)
            times.append(time.perf_counter_ns() - start)
        points.append(
            {
                "stores": first + step,
                "seconds": round(time.perf_counter() - started, 2),
                "disk": on_disk(spec.path),
                "ram": resident(without=spec.folder / "vectors.npy")["total"],
                "store": quantiles(times),
            }
        )
        if time.perf_counter() > end:
            break
    engine.close()
    return {
        "points": points,
        "live": min(spec.options["max_entries"], points[-1]["stores"]),
        "data": _size(bench),
        "closed": on_disk(spec.path),
    }


def _size(bench: Bench) -> int:
    """Return the bytes that an entry is: its text, vector and payload."""
    query, context, payload = bench.item(0)
    return len(query) + len(context) + len(payload) + bench.vectors(query).nbytes


def _pace(bench: Bench, engine: Engine, stop: threading.Event) -> list[int]:
    times: list[int] = []
    due = time.perf_counter()
    for number in itertools.count(bench.spec.entries):
        due += 1 / RATE
        if stop.wait(max(due - time.perf_counter(), 0)):
            return times
        item = (text("e", number), *bench.item(number)[1:])
        start = time.perf_counter_ns()
        engine.store(*item)
        times.append(time.perf_counter_ns() - start)
    return times


def _on_threads(work: list[Any]) -> None:
    threads = [threading.Thread(target=one) for one in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _child(spec: Spec) -> subprocess.Popen[str]:
    line = json.dumps(asdict(spec), default=str)
    command = [sys.executable, __file__, line]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


CELLS = {
    name.removeprefix("cell_"): cell
    for name, cell in list(globals().items())
    if name.startswith("cell_")
}


def main() -> None:
    """Measure one cell."""
    spec = Spec.of(sys.argv[1])
    load = os.getloadavg()[0]
    found = CELLS[spec.cell](Bench(spec))
    print(json.dumps({**found, "load": [round(load, 2), round(os.getloadavg()[0], 2)]}))
    sys.stdout.flush()
    os._exit(0)  # a peer's threads are not waited for


if __name__ == "__main__":
    main()
