"""How long an import takes: `python benchmarks/import_time.py`.

Each import runs in a new interpreter, in turn with an empty one, whose time is subtracted; medians.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import subprocess
import sys
import time

IMPORTS = (
    "import memora",
    "from memora import CacheConfig, Memora",
    "import lancedb",
    "import onnxruntime",
)


def seconds(code: str) -> float:
    """Return how long a new interpreter takes to run code."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - started


def main() -> None:
    """Print a table of medians in milliseconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    for code in ("pass", *IMPORTS):  # compiles what is not compiled yet
        seconds(code)
    samples: dict[str, list[float]] = {code: [] for code in IMPORTS}
    for _ in range(rounds):
        for code in IMPORTS:
            samples[code].append(seconds(code) - seconds("pass"))
    print(f"Python {platform.python_version()}, {platform.machine()}, {rounds} rounds\n")
    print("| code | median ms | min | max |\n|---|---:|---:|---:|")
    for code, found in samples.items():
        low, middle, high = (1000 * f(found) for f in (min, statistics.median, max))
        print(f"| `{code}` | {middle:.0f} | {low:.0f} | {high:.0f} |")


if __name__ == "__main__":
    main()
