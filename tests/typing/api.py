"""The public API as a user types it. Never run: mypy and pyright read it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from memora import CacheConfig, Evidence, Explanation, LookupResult, Memora
from memora.embedders import CachedEmbedder, FunctionEmbedder
from memora.prometheus import MemoraCollector, MetricsServer, serve
from memora.stores.memory import MemoryStore
from memora.transfer import ImportReport, reembed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memora.protocols import Embedder, Store, Vector
    from memora.reading import MetricsSnapshot


@dataclass
class Answer:
    """A class of the application's."""

    text: str


class Mine:
    """An embedder of the application's."""

    @property
    def identity(self) -> str:
        return "mine"

    @property
    def dimension(self) -> int:
        return 3

    def embed(self, texts: Sequence[str], /) -> list[Vector | None]:
        return [np.ones(3, np.float32) for _ in texts]


def vectors(texts: list[str]) -> list[list[float]]:
    return [[1.0] for _ in texts]


def told_of(done: int, total: int | None) -> None: ...


config: CacheConfig = CacheConfig(max_entries=None, ttl_seconds=60, eviction_policy="lru")
CacheConfig(max_entries="many")  # type: ignore[arg-type]
CacheConfig(eviction_policy="mru")  # type: ignore[arg-type]
CacheConfig(judge="off", verifier="off", cross_lingual=True)
CacheConfig(judge=False)  # type: ignore[arg-type]
threshold: float = CacheConfig.load().similarity_threshold

embedder: Embedder = Mine()
store: Store = MemoryStore(dimension=3)
with Memora(config, embedder=embedder, store=store) as cache:
    found: LookupResult = cache.lookup("q", {"a": 1}, similarity_threshold=0.9)
    result: Any = found.result
    hit: bool = found.is_hit and not found.is_miss
    similarity: float | None = found.similarity
    if found.nearest is not None:
        nearest: str = found.nearest.query
        cosine: float = found.nearest.cosine
    evidence: tuple[Evidence, ...] = found.evidence
    told: Explanation = cache.explain("q", {"a": 1}, 0.9)
    reasons: list[str] = [one.query for one in told.candidates if one is not told.served]
    entry_id: str | None = cache.store("q", None, result, {"cost": 1}, ttl=timedelta(minutes=1))
    cache.register_type(Answer, encode=lambda answer: answer.text, decode=Answer)
    exported: ImportReport = cache.export_entries(Path("e.parquet"), progress=told_of)
    imported: int = cache.import_entries("e.jsonl", skip_errors=True, reembed=False).written
    warmed: int = cache.warm([{"query": "q", "result": result}, ("q", None, 1), ("q", {}, 1)])
    cache.warm(item for item in [("q", None, 1)])
    cache.warm("answers.jsonl", progress=lambda done, total: None)
    cache.warm(3)  # type: ignore[arg-type]
    stats: dict[str, Any] = cache.get_stats()
    reading: MetricsSnapshot = cache.read_metrics()
    median: float | None = reading.distribution("lookup").quantile(0.5)
    server: MetricsServer = cache.start_metrics_server(range(9464, 9472), name="answers")
    serve({"answers": cache, "others": cache}, server.port, host="0.0.0.0")  # noqa: S104
    MemoraCollector(cache)
    MemoraCollector({"answers": 3})  # type: ignore[dict-item]
    health: dict[str, Any] = cache.health_check()
    live: dict[str, Any] = cache.health_check("live", timeout=0.5)
    cache.lookup(3)  # type: ignore[arg-type]
    cache.store("q")  # type: ignore[call-arg]

Memora(embedder=vectors)
Memora(embedder=CachedEmbedder(FunctionEmbedder(vectors, identity="v"), 10))
copied: ImportReport = reembed(config, CacheConfig(table_name="new"), embedder=embedder)
Memora("./cache", ttl="1h", max_entries=500)
Memora(Path("cache"), ttl=timedelta(hours=1), eviction_policy="lru")
Memora(db_uri="memory://", similarity_threshold=0.9, lookup_timeout_seconds="2s")
Memora(config, ttl_seconds=None)
Memora(treshold=0.9)  # type: ignore[call-arg]
Memora(ttl=[1])  # type: ignore[arg-type]
Memora(eviction_policy="mru")  # type: ignore[arg-type]
