"""What a store and its probes take: `python benchmarks/operations.py`, some minutes.

Bytes an entry, on disk and in RAM, by the size of results; how long opening takes, a health check
inside a process, and `memora health`. Vectors are random and texts made up: neither matters here.
Each store is built in one process and opened in another; RAM is what that one grew by, beyond a
store of ten entries.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from machine import machine

from memora import CacheConfig, Memora
from memora.embedders import load_embedder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from memora.protocols import Vector

SIZES = (100, 1_000, 10_000)  # bytes of a result
BATCH = 1_000
PROBES = 21
COLUMNS = (
    *("result, bytes", "disk B/entry", "RAM B/entry", "RAM of ten entries, MB"),
    *("first answer, s", "health check, ms", "`memora health`, s"),
)


class Random:
    """Gives random unit vectors under the packaged model's name."""

    def __init__(self) -> None:
        model = load_embedder("all-MiniLM-L6-v2", use_onnx=True)
        self.identity, self.dimension = model.identity, model.dimension
        self._random = np.random.default_rng(0)

    def embed(self, texts: Sequence[str], /) -> list[Vector | None]:
        """Return a vector a text."""
        found = self._random.standard_normal((len(texts), self.dimension), dtype=np.float32)
        return list(found / np.linalg.norm(found, axis=1, keepdims=True))


def build(path: str, entries: int, size: int) -> None:
    """Make a store: contexts of a thousand entries, results of text that does not compress."""
    random = np.random.default_rng(1)
    with Memora(CacheConfig(db_uri=path, max_entries=None), embedder=Random()) as cache:
        for first in range(0, entries, BATCH):
            cache.store_many(
                (
                    f"How many orders did customer {number} place in the last quarter?",
                    {"tenant": f"tenant {first}"},
                    random.bytes(size // 2).hex(),
                )
                for number in range(first, min(first + BATCH, entries))
            )


def look(path: str) -> dict[str, float]:
    """Open a store as an application does, with the model; return what that takes."""
    started = time.perf_counter()
    with Memora(CacheConfig(db_uri=path, max_entries=None)) as cache:
        cache.lookup("Which one?", {"tenant": "tenant 0"})
        opened = time.perf_counter() - started
        probes = []
        for _ in range(PROBES):
            started = time.perf_counter()
            if cache.health_check()["status"] != "healthy":
                raise SystemExit("the store is not well")
            probes.append(time.perf_counter() - started)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return {
            "first_answer_seconds": opened,
            "health_check_ms": 1000 * statistics.median(probes),
            "resident_bytes": pages * os.sysconf("SC_PAGE_SIZE"),
        }


def apart(part: Callable[..., Any], *arguments: Any) -> Any:
    """Run a function of this file in a new process; return its result."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(part, *arguments).result()


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=50_000)
    entries = parser.parse_args().entries
    print(f"{machine('lancedb', 'memora-cache')}; {entries:,} entries\n")
    print(f"| {' | '.join(COLUMNS)} |\n|{'---:|' * len(COLUMNS)}")
    for size in SIZES:
        print(row(entries, size), flush=True)


def row(entries: int, size: int) -> str:
    """Return what a store of results of one size takes."""
    with tempfile.TemporaryDirectory() as folder:
        few, many = f"{folder}/few", f"{folder}/many"
        apart(build, few, 10, size)
        apart(build, many, entries, size)
        disk = sum(path.stat().st_size for path in Path(many).rglob("*") if path.is_file())
        small, large = apart(look, few), apart(look, many)
        started = time.perf_counter()
        code = "from memora.cli import main; main()"
        command = [sys.executable, "-c", code, "health", "--db", many]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stdout + done.stderr)
        probe = time.perf_counter() - started
    grown = large["resident_bytes"] - small["resident_bytes"]
    figures = (
        f"{size:,}",
        f"{disk / entries:,.0f}",
        f"{grown / entries:,.0f}",
        f"{small['resident_bytes'] / 1e6:.0f}",
        f"{large['first_answer_seconds']:.2f}",
        f"{large['health_check_ms']:.1f}",
        f"{probe:.1f}",
    )
    return f"| {' | '.join(figures)} |"


if __name__ == "__main__":
    main()
