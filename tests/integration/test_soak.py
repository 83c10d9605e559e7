"""A store that works for long stays small: on disk, in files, in versions, in RAM."""

from __future__ import annotations

import gc
import os
import random
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from doubles import WordEmbedder

from memora import CacheConfig, Memora
from memora.stores.disk import _maintenance, _table, _view
from memora.stores.disk import store as lance_module
from memora.stores.disk.store import LanceStore

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memora.protocols import Vector

STORES = int(os.environ.get("STORE_SOAK_STORES", "12000"))
LIMIT = 500
PAYLOAD = 400
SEED = 5
# A segment, the share that may be dead, the least that is worth moving, and the table: what there
# is beside the living, however few those are.
CONSTANT = 3_000_000


def size_of(path: Path) -> int:
    total = 0
    for file in path.rglob("*"):
        try:
            total += file.stat().st_size if file.is_file() else 0
        except FileNotFoundError:  # it has just been cleared away
            continue
    return total


def memory_of_this_process() -> int:
    """Return the bytes that are resident; 0 where the system does not tell.

    Not tracemalloc: in Python 3.11 its `stop` crashes beside threads of other runtimes (gh-128679).
    """
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else 0


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make everything due soon: what takes hours happens in seconds."""
    monkeypatch.setattr(_maintenance, "_FLUSH_BYTES", (100_000, 100_000))
    monkeypatch.setattr(_maintenance, "_FLUSH_SECONDS", 0.2)
    monkeypatch.setattr(_maintenance, "_DEAD_BYTES", 100_000)
    monkeypatch.setattr(_maintenance, "_FILE_BYTES", 10_000)
    monkeypatch.setattr(_maintenance, "_SEGMENT_BYTES", (50_000, 200_000))
    monkeypatch.setattr(_maintenance, "_LOOK_SECONDS", 0.05)
    for module in (_maintenance, _view, lance_module):
        if hasattr(module, "GRACE_SECONDS"):
            monkeypatch.setattr(module, "GRACE_SECONDS", 1.0)
    monkeypatch.setattr(_view.LogView, "remember_seconds", 0.5)
    monkeypatch.setattr(_table, "_COMPACT_AT", 16)
    monkeypatch.setattr(_table, "_KEEP_SECONDS", 0.2)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("hot_index", ["int8", "off"])
def test_a_long_life_leaves_little_behind(tmp_path: Path, hot_index: str) -> None:
    chance = random.Random(SEED)  # noqa: S311 - a reproducible course of events
    config = CacheConfig(
        db_uri=str(tmp_path),
        max_entries=LIMIT,
        max_staleness_seconds=0.05,
        hot_index=hot_index,
        hot_payload_bytes=100_000,
        embedding_cache_size=0,
    )
    live = LIMIT * (PAYLOAD + 4 * 64 + 200)
    disk, files, versions, memory = [], [], [], []
    with Memora(config, embedder=Forgetful()) as cache:
        store = cache._ports.store
        assert isinstance(store, LanceStore)
        for i in range(STORES):
            number = chance.randrange(2 * LIMIT)
            assert cache.store(f"question {number}", {"n": number % 20}, "x" * PAYLOAD) is not None
            if i % (50 if hot_index == "off" else 10) == 0:  # without the index, LanceDB scans
                assert cache.lookup(f"question {number} please", {"n": number % 20}, 0.5).is_hit
            if (i + 1) % (STORES // 12) == 0:
                disk.append(size_of(tmp_path))
                files.append(sum(1 for file in tmp_path.rglob("*") if file.is_file()))
                versions.append(len(list(tmp_path.glob("*.lance/_versions/*"))))
                gc.collect()
                memory.append(memory_of_this_process())
        stats = cache.get_stats()
        assert stats["total_entries"] == LIMIT
        assert not any(stats["errors"].values())
        assert cache.get_index_stats()["quarantined_entries"] == 0
        assert len(store._view.deleted) < 5 * LIMIT
        assert len(store._view.segments) < 60
        assert len(store._view.hot._keys) < 2 * LIMIT
        assert store._view.contents.currsize <= 100_000
    print(f"{disk=} {files=} {versions=} {memory=}")  # noqa: T201 - shown where the test fails
    assert max(disk) <= 2.5 * live + CONSTANT
    assert max(files) < 400
    assert max(versions) < 120
    assert memory[-1] < memory[3] + 80_000_000  # after a third: LanceDB takes time to settle

    with Memora(config, embedder=Forgetful()) as cache:
        assert cache.get_stats()["total_entries"] == LIMIT
        assert size_of(tmp_path) <= 2.5 * live + CONSTANT


class Forgetful(WordEmbedder):
    """Keeps no list of what it embedded, which would grow."""

    def embed(self, texts: Sequence[str], /) -> list[Vector | None]:
        return [self._one(text) for text in texts]
