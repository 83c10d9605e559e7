"""A small store on disk, as the current version writes it, for later versions to read.

As a script with the name of an archive, it writes one. Each format has one archive, written by the
last version with this format and never replaced: `tests/data/store-<format>.tar.gz`.
"""

from __future__ import annotations

import datetime as dt
import decimal
import hashlib
import os
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from doubles import FakeClock

from memora import CacheConfig, Memora
from memora.embedders import FunctionEmbedder

SQL, FAQ = {"agent": "sql"}, {"agent": "faq", "tenant": "acme"}
BEGAN = 1_700_000_000.0
RESULTS: dict[str, Any] = {
    "plain": {"rows": [1, 2.5, None], "day": dt.date(2026, 7, 1)},
    "bytes": b"\x00\xff" * 20,
    "amount": decimal.Decimal("12.50"),
    "naïve Zürich 🍞": ("a tuple", {"a", "set"}),
}


def vectors(texts: list[str]) -> list[list[float]]:
    """Return eight numbers per text."""
    return [[byte - 127.5 for byte in hashlib.sha256(t.encode()).digest()[:8]] for t in texts]


def opened(path: Path, clock: FakeClock, **settings: Any) -> Memora:
    config = CacheConfig(
        **({"db_uri": str(path), "max_entries": None, "judge": "off"} | settings),
        log_level="ERROR",
    )
    embedder = FunctionEmbedder(
        vectors, identity="eight", dimension=8, fits=lambda text: "unreadable" not in text
    )
    return Memora(config, embedder=embedder, clock=clock)


def fill(cache: Memora, clock: FakeClock) -> None:
    """Store the entries of the table, then those that stay in the log."""
    for query, result in RESULTS.items():
        cache.store(query, SQL, result, metadata={"source": "table"})
    cache.store("plain", FAQ, "in another context", tags=["faq", "public"], cost=2.5)
    cache.store("long lived", SQL, 1, ttl=10_000, stale_ttl=500)
    cache.store("short lived", SQL, 2, ttl=100)
    cache.store("sliding", SQL, 3, ttl=1000, sliding=True)
    cache.store("unreadable", SQL, "only as it is")
    cache.store("replaced in the table", SQL, "old")
    cache.store("replaced in the table", SQL, "new")
    cache.store("replaced in the log", SQL, "old")
    for place in ("table", "log"):
        cache.store(f"withdrawn in the {place}", SQL, "withdrawn")
        cache.store(f"outdated in the {place}", SQL, "outdated", tags=[f"{place} prices", "all"])
    cache.invalidate(query="withdrawn in the table")
    cache.outdate("table prices")
    clock.advance(900)
    assert cache.lookup("sliding", SQL, 1.0).is_hit
    cache._ports.store.flush()  # type: ignore[attr-defined]
    cache.store("in the log", SQL, RESULTS["plain"], metadata={"source": "log"}, tags=["log"])
    cache.store("unreadable log", SQL, "only as it is", ttl=10_000)
    cache.store("replaced in the log", SQL, "new")
    cache.store("withdrawn in the log too", SQL, "withdrawn")
    cache.invalidate(query="withdrawn in the log")
    cache.invalidate(query="withdrawn in the log too")
    cache.outdate("log prices")


def look(cache: Memora) -> dict[str, Any]:
    """Return the answer to each exact query."""
    found = {}
    for query, context in [
        *((query, SQL) for query in RESULTS),
        ("plain", FAQ),
        ("long lived", SQL),
        ("short lived", SQL),
        ("sliding", SQL),
        ("unreadable", SQL),
        ("replaced in the table", SQL),
        ("replaced in the log", SQL),
        ("withdrawn in the table", SQL),
        ("withdrawn in the log", SQL),
        ("withdrawn in the log too", SQL),
        ("outdated in the table", SQL),
        ("outdated in the log", SQL),
        ("in the log", SQL),
        ("unreadable log", SQL),
    ]:
        one = cache.lookup(query, context, 1.0)
        found[f"{query} / {context['agent']}"] = one.result if one.is_hit else None
    return found


EXPECTED: dict[str, Any] = {
    **{f"{query} / sql": result for query, result in RESULTS.items()},
    "plain / faq": "in another context",
    "long lived / sql": 1,
    "short lived / sql": None,
    "sliding / sql": 3,
    "unreadable / sql": "only as it is",
    "replaced in the table / sql": "new",
    "replaced in the log / sql": "new",
    "withdrawn in the table / sql": None,
    "withdrawn in the log / sql": None,
    "withdrawn in the log too / sql": None,
    "outdated in the table / sql": None,
    "outdated in the log / sql": None,
    "in the log / sql": RESULTS["plain"],
    "unreadable log / sql": "only as it is",
}
"""Result of `look` at 1,000 seconds after `BEGAN`."""


def make(archive: Path) -> None:
    """Make a store, leave it as `kill -9` does, and archive it with an export of it."""
    with tempfile.TemporaryDirectory() as folder:
        alive, dead, clock = Path(folder) / "alive", Path(folder) / "store", FakeClock(BEGAN)
        with opened(alive, clock, max_staleness_seconds=60) as cache:
            cache.store("of an earlier process", SQL, "earlier")
        with opened(alive, clock, max_staleness_seconds=60) as cache:
            fill(cache, clock)
            shutil.copytree(alive, dead)
            clock.advance(100)
            assert look(cache) == EXPECTED
            cache.export_entries(Path(folder) / "export.parquet")
        with tarfile.open(archive, "w:gz") as packed:
            packed.add(dead, "store")
            packed.add(Path(folder) / "export.parquet", "export.parquet")


if __name__ == "__main__":
    make(Path(sys.argv[1]))
    os._exit(0)
