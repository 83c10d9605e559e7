"""Seconds and megabytes of the README's two commands, from a clean clone and an empty cache.

The time to download depends on the network: it is in the seconds. `make test` is measured up to the
point where everything is installed (`make setup`), after `make demo` in the same clone and alone.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import machine

ROOT = Path(__file__).parents[1]
RESULT = Path(__file__).parent / "results" / "install.md"


def timed(clone: Path, verb: str, cache: Path) -> float:
    """Return the seconds of a verb of the Makefile."""
    started = time.perf_counter()
    subprocess.run(
        ["make", verb, f"PYTHON={sys.executable}"],  # noqa: S607 - the make that a newcomer has
        cwd=clone,
        env=os.environ | {"PIP_CACHE_DIR": str(cache)},
        stdout=subprocess.DEVNULL,
        check=True,
    )
    return time.perf_counter() - started


def megabytes(folder: Path) -> float:
    """Return what the files in a folder take on the disk."""
    files = (path.lstat() for path in folder.rglob("*") if path.is_file())
    return sum(stat.st_blocks * 512 for stat in files) / 1e6


def main() -> None:
    """Measure, and write the table."""
    rows = []
    for verbs in (["demo"], ["demo", "setup"], ["setup"]):
        with tempfile.TemporaryDirectory() as folder:
            clone = Path(folder, "clone")
            subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)  # noqa: S607
            seconds = [timed(clone, verb, Path(folder, "cache")) for verb in verbs]
            rows.append((verbs, seconds[-1], megabytes(clone / ".venv")))
    lines = [
        "# What the README's commands install",
        "",
        f"Made by `python benchmarks/install.py`. Machine: {machine()}.",
        "",
        "| command | seconds | `.venv`, MB |",
        "|---|---:|---:|",
    ]
    names = {
        "demo": "`make demo`: install, replay the demo's log, print the table",
        "demo setup": "what `make test` adds after it, before the first check",
        "setup": "what `make test` installs in a clone where it is the first command",
    }
    lines += [
        f"| {names[' '.join(verbs)]} | {seconds:.0f} | {size:.0f} |"
        for verbs, seconds, size in rows
    ]
    RESULT.write_text("\n".join(lines) + "\n", "utf-8")
    print(*lines, sep="\n")


if __name__ == "__main__":
    main()
