"""Stores against entries, contexts, payloads, threads and processes, beside LanceDB and the peers.

    python benchmarks/stores.py [--quick] [--only NAME ...] [--vectors DIR | --corpus FILE]

Every cell runs in a process of its own (`cells.py`), with the same vectors and payloads for every
engine, and no model: what is timed is the cache. Results are written as JSON after each cell; a
table and, with matplotlib, plots are made of them by `plot_stores.py`. A peer that is not installed
under `--peer-python` is reported by name. See README.md for what is measured, and the bias.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import corpus
from machine import machine
from measure import Spec
from peers import ENGINES, OURS

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
SEED = 20
REPEATS = 3
LIMIT = 1200  # seconds a cell may take
# The largest size: of a row an add, because its time and disk grow with the square; of what
# differs from another engine by its door alone, because a million takes minutes to index.
LARGEST = {"lancedb": 10_000, "memora-store": 100_000, "memora-memory": 100_000}
QUICK_LARGEST = {"lancedb": 1000, "reminiscence": 1000}  # minutes to build otherwise
FEW = 10_000  # entries up to which what has no directory is built again for each repetition
ONCE = 1_000_000  # entries from which a cell is not repeated


class Run:
    """One run: its folder of scratch, its interpreters and its results."""

    def __init__(self, arguments: argparse.Namespace, vectors: Path, scratch: Path) -> None:
        self.arguments, self.vectors, self.scratch = arguments, vectors, scratch
        count = arguments.blas_threads
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        self.threads = {name: str(count) for name in names if count}
        brief = arguments.quick or arguments.brief
        self.repeats = 1 if brief else REPEATS
        self.rivals = ("memora",) if brief else ("memora", "mneme", "lancedb-batch")
        self.largest = LARGEST | (QUICK_LARGEST if arguments.quick else {})
        self.missing: dict[str, str] = {}
        self.cells: list[dict[str, Any]] = []
        self.about: dict[str, Any] = {
            "command": f"python benchmarks/stores.py{' --quick' * arguments.quick}",
            "machine": machine("numpy"),
            "vectors": (vectors / "about.txt").read_text("utf-8").strip(),
            "seed": SEED,
            "blas_threads": count or "default",
            "started": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
            "load_at_start": os.getloadavg()[0],
            "versions": {},
        }

    def python(self, engine: str) -> str:
        """Return the interpreter of an engine."""
        return sys.executable if engine in OURS else str(self.arguments.peer_python)

    def available(self, engine: str) -> bool:
        """Ask the engine's interpreter for its versions, once."""
        versions = self.about["versions"]
        if engine not in versions and engine not in self.missing:
            code = f"import json, peers; print(json.dumps(peers.versions({engine!r})))"
            command = [self.python(engine), "-c", code]
            asked = subprocess.run(command, check=False, capture_output=True, text=True, cwd=HERE)
            if asked.returncode:
                self.missing[engine] = asked.stderr.strip().splitlines()[-1]
                print(f"{engine}: not measured, {self.missing[engine]}", flush=True)
            else:
                versions[engine] = json.loads(asked.stdout)
        return engine in versions

    def wanted(self, scene: str, engine: str) -> bool:
        """Whether `--only` asks for it, and it is installed."""
        only = set(self.arguments.only)
        engines, scenes = only & set(ENGINES), only - set(ENGINES)
        asked = (not scenes or scene in scenes) and (not engines or engine in engines)
        asked &= scene == "sizes" or engine in OURS or not self.arguments.brief
        return asked and self.available(engine)

    def cell(self, scene: str, spec: Spec, *, note: dict[str, Any] | None = None) -> bool:
        """Run one cell in a process of its own and keep its result; return whether it ended."""
        values = asdict(spec)
        command = [
            self.python(spec.engine),
            str(HERE / "cells.py"),
            json.dumps(values, default=str),
        ]
        start = time.perf_counter()
        found: dict[str, Any] = {}
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, **self.threads},
        )
        try:
            limit = LIMIT if spec.engine in OURS else self.arguments.limit
            out, errors = process.communicate(timeout=limit)
            if process.returncode:
                lines = errors.strip().splitlines() or [f"exit {process.returncode}"]
                found["error"] = lines[-1][:300]
            else:
                found["result"] = json.loads(out.splitlines()[-1])
        except subprocess.TimeoutExpired:
            found["error"] = f"not done within {self.arguments.limit} s"
        finally:
            if process.poll() is None or "error" in found:
                _stop(process)
        seconds = round(time.perf_counter() - start, 1)
        kept = {k: values[k] for k in ("cell", "engine", "entries", "contexts", "payload")}
        kept |= {"options": spec.options, **(note or {}), "wall": seconds}
        self.cells.append({"scene": scene, **kept, **found})
        self.save()
        shown = found.get("error") or _brief(found["result"])
        label = f"{scene} {spec.cell} {spec.engine} {spec.entries:,}"
        extra = {**spec.options, **spec.extra, **(note or {})}
        print(f"{label} {extra or ''} {seconds} s: {shown}", flush=True)
        return "result" in found

    def save(self) -> None:
        """Write what there is."""
        self.about["load_at_end"] = os.getloadavg()[0]
        found = {"about": self.about, "missing": self.missing, "cells": self.cells}
        self.arguments.out.write_text(json.dumps(found, indent=1) + "\n", "utf-8")

    def spec(self, cell: str, engine: str, entries: int, **rest: Any) -> Spec:
        """Return a spec with a directory of its own."""
        corpus.nearest(self.vectors, entries)  # made once, by this process
        path = self.scratch / f"{engine}-{entries}-{len(self.cells)}" / "data"
        path.parent.mkdir(parents=True, exist_ok=True)
        rest = {"seconds": 0.5 if self.arguments.quick else 2.0, **rest}
        return Spec(cell, engine, self.vectors, rest.pop("path", path), entries, seed=SEED, **rest)

    def build_and_serve(self, scene: str, engine: str, entries: int, **rest: Any) -> None:
        """Build once; open and look up in fresh processes."""
        note = rest.pop("note", {})
        if not ENGINES[engine][1]:
            repeats = self.repeats if entries <= FEW else 1
            for repeat in range(repeats):
                spec = self.spec("serve", engine, entries, **rest)
                spec.extra["build"] = True
                if not self.cell(scene, spec, note={**note, "repeat": repeat}):
                    break
            return
        extra = rest.pop("extra", {})
        built = self.spec("build", engine, entries, extra=dict(extra), **rest)
        built.extra["batch"] = engine.endswith("-batch")
        if self.cell(scene, built, note=note):
            for repeat in range(1 if entries >= ONCE else self.repeats):
                spec = self.spec("serve", engine, entries, path=built.path, **rest)
                spec.extra |= extra
                if not self.cell(scene, spec, note={**note, "repeat": repeat}):
                    break
        shutil.rmtree(built.path.parent, ignore_errors=True)


def sizes(run: Run, scale: list[int]) -> None:
    """Measure every engine against the number of entries."""
    for entries in scale:
        for engine in ENGINES:
            largest = entries if engine in OURS else run.arguments.peers_up_to or entries
            if entries <= min(run.largest.get(engine, entries), largest) and run.wanted(
                "sizes", engine
            ):
                run.build_and_serve("sizes", engine, entries)


def contexts(run: Run, scale: list[int]) -> None:
    """Measure the same entries in one context, in a hundred, and each in its own."""
    entries = scale[-1] if len(scale) < 3 else 100_000  # noqa: PLR2004
    for count in (1, 100, entries):
        for engine in run.rivals:
            if run.wanted("contexts", engine):
                run.build_and_serve("contexts", engine, entries, contexts=count)


def payloads(run: Run, scale: list[int]) -> None:
    """Measure payload sizes, and what hot payloads are worth."""
    del scale
    for payload, entries in ((128, 5000), (10_240, 5000), (102_400, 1000), (1_048_576, 100)):
        for engine in run.rivals:
            if run.wanted("payloads", engine):
                run.build_and_serve("payloads", engine, entries, payload=payload)


def memory(run: Run, scale: list[int]) -> None:
    """Measure bytes of RAM an entry, with payloads hot and without."""
    entries = min(scale[-1], 100_000)
    for hot in (0, 1 << 28):
        if run.wanted("memory", "memora-store"):
            run.build_and_serve(
                "memory",
                "memora-store",
                entries,
                options={"hot_payload_bytes": hot},
                extra={"touch": True},
            )


def durability(run: Run, scale: list[int]) -> None:
    """Measure acknowledgements."""
    del scale
    for engine in ("memora", "memora-store"):
        for mode in ("memory", "process", "power"):
            for threads in (1, 8):
                if run.wanted("durability", engine):
                    options, extra = {"durability": mode}, {"threads": threads}
                    entries = 1000 if mode == "power" else 5000
                    spec = run.spec("acks", engine, entries, options=options, extra=extra)
                    run.cell("durability", spec, note=extra)


def company(run: Run, scale: list[int]) -> None:
    """Measure lookups beside a writer, on threads and in processes."""
    for entries in [size for size in scale if size in {10_000, 100_000}] or scale[-1:]:
        for engine in ("memora", "mneme", "lancedb-batch"):
            if not run.wanted("company", engine):
                continue
            built = run.spec("build", engine, entries, extra={"batch": True})
            if not run.cell("company", built):
                continue
            for count in (1, 2, 4, 8):
                again = {"path": built.path, "extra": {"threads": count}}
                spec = run.spec("threads", engine, entries, **again)
                run.cell("company", spec, note={"threads": count})
            spec = run.spec("writer", engine, entries, path=built.path)
            run.cell("company", spec)
            if engine == "memora":
                _processes(run, entries, built.path)
            shutil.rmtree(built.path.parent, ignore_errors=True)


def _processes(run: Run, entries: int, path: Path) -> None:
    for count, writer in ((1, False), (2, False), (4, False), (1, True), (2, True)):
        note = {"processes": count, "writer": writer}
        spec = run.spec("processes", "memora", entries, path=path, extra=note)
        run.cell("company", spec, note=note)
    run.cell("company", run.spec("visible", "memora", entries, path=path))


def churn(run: Run, scale: list[int]) -> None:
    """Store many times more than may stay."""
    live = min(scale[-1], 10_000)
    for engine, stays, stores in (
        ("memora", live, 20 * live),
        ("mneme", live, 20 * live),
        ("lancedb", 1000, 5000),
    ):
        if run.wanted("churn", engine):
            spec = run.spec(
                "churn",
                engine,
                stays,
                options={"max_entries": stays},
                extra={"stores": stores},
                seconds=5.0 if run.arguments.quick else 60.0,
            )
            run.cell("churn", spec)
            shutil.rmtree(spec.path.parent, ignore_errors=True)


SCENES = (sizes, contexts, payloads, memory, durability, company, churn)


def _stop(process: subprocess.Popen[str]) -> None:
    """End a cell and what it started, all of which are in its session."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def _brief(result: dict[str, Any]) -> str:
    def lines() -> Iterator[str]:
        for name, value in result.items():
            if isinstance(value, dict) and "p50" in value:
                yield f"{name} {value['p50']}/{value['p99']}"
            elif isinstance(value, (int, float)):
                yield f"{name} {value}"
            elif name.startswith("memory"):
                yield f"{name} {value['total']}"

    return ", ".join(lines())


def main() -> None:
    """Run every scene, and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="1K and 10K entries only")
    parser.add_argument("--brief", action="store_true", help="once each; peers by size only")
    parser.add_argument("--peers-up-to", type=int, metavar="ENTRIES", help="for peers")
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help="scenes or engines")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "stores.json")
    parser.add_argument("--corpus", type=Path, help="texts: JSONL or a text a line")
    parser.add_argument("--vectors", type=Path, help="a folder as corpus.py makes it")
    parser.add_argument("--cache", type=Path, default=HERE.parent / ".cache" / "benchmarks")
    parser.add_argument("--peer-python", type=Path, default=Path(sys.executable))
    parser.add_argument("--sizes", type=int, nargs="*", help="instead of 1K to 1M entries")
    parser.add_argument(
        "--blas-threads", type=int, default=1, help="of OpenBLAS and OpenMP; 0 for their defaults"
    )
    parser.add_argument("--limit", type=int, default=LIMIT, help="seconds a peer's cell may take")
    arguments = parser.parse_args()
    known = {scene.__name__ for scene in SCENES} | set(ENGINES)
    if unknown := set(arguments.only) - known:
        parser.error(f"--only knows {', '.join(sorted(known))}, not {', '.join(sorted(unknown))}")
    scale = arguments.sizes or [1000, 10_000, 100_000, 1_000_000][: 2 if arguments.quick else 4]
    vectors = arguments.vectors or corpus.prepare(
        arguments.cache, scale[-1], corpus=arguments.corpus, seed=SEED
    )
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="memora-bench-", ignore_cleanup_errors=True) as scratch:
        run = Run(arguments, vectors, Path(scratch))
        for scene in SCENES:
            scene(run, scale)
    command = [sys.executable, str(HERE / "plot_stores.py"), str(arguments.out)]
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
