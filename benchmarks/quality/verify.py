"""Replays through the library itself, and compares with the fast replay."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
from data import RIGHT, WRONG
from vectors import readable

from memora import CacheConfig, Memora

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from replay import Outcome, Scene

    from memora.protocols import Vector


class Known:
    """An embedder that has every vector already."""

    def __init__(self, identity: str, scene: Scene) -> None:
        self.identity, self.dimension = identity, scene.vectors.shape[1]
        known = readable(scene.vectors)
        self._vectors: dict[str, Vector | None] = {
            text: vector if known[at] else None
            for at, (text, vector) in enumerate(zip(scene.stream.texts, scene.vectors, strict=True))
        }

    def embed(self, texts: Sequence[str], /) -> list[Vector | None]:
        """Look them up."""
        return [self._vectors[text] for text in texts]


def through_library(
    scene: Scene, threshold: float, *, identity: str
) -> tuple[NDArray[np.int32], list[float]]:
    """Replay a stream through `Memora.lookup` and `store`, in RAM and without a limit.

    Args:
        scene: The stream.
        threshold: Of every lookup.
        identity: The model's, by which the library knows what it has learnt for it.

    Returns:
        The place in the stream of what was served to each request, -1 for a miss; and the seconds
        that each lookup took, which do not include any embedding.
    """
    served = np.full(len(scene.stream), -1, np.int32)
    seconds = []
    config = CacheConfig(max_entries=None, similarity_threshold=threshold, log_level="ERROR")
    with Memora(config, embedder=Known(identity, scene)) as cache:
        for request, text in enumerate(scene.stream.texts):
            start = time.perf_counter()
            found = cache.lookup(text)
            seconds.append(time.perf_counter() - start)
            if found.is_hit:
                served[request] = found.result
            elif found.reason == "error":
                raise RuntimeError(found.explanation)
            else:
                cache.store(text, None, request)
    return served, seconds


def compare(scene: Scene, outcome: Outcome, *, identity: str) -> dict[str, Any]:
    """Replay what the fast replay did through the library; counts of both, and where they agree."""
    served, seconds = through_library(scene, outcome.threshold, identity=identity)
    verdicts = scene.stream.verdicts(np.arange(len(served)), served)
    counts = outcome.counts()
    p50, p95 = np.quantile(seconds, [0.5, 0.95])
    return {
        "threshold": outcome.threshold,
        "requests": len(served),
        "same_served": int((served == outcome.served).sum()),
        "same_hit": int(((served >= 0) == outcome.hit).sum()),
        "hits": int((served >= 0).sum()),
        "right": int((verdicts == RIGHT).sum()),
        "wrong": int((verdicts == WRONG).sum()),
        "replay_hits": counts.hits,
        "replay_right": counts.right,
        "replay_wrong": counts.wrong,
        "lookup_ms_p50": 1000 * float(p50),
        "lookup_ms_p95": 1000 * float(p95),
    }
