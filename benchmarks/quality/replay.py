"""Replays of a stream: fast ones at any threshold, and one through the library.

What is stored depends on the threshold, and so do the candidates of a request. The nearest earlier
requests of each request do not: they are searched once, and a fast replay walks to those that it
has stored, without the cache. `through_library` is the replay of `memora replay`; `compare` holds
the fast one against it.
"""

from __future__ import annotations

import hashlib
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from data import NOBODY, RIGHT, UNKNOWN, WRONG
from policies import DEPTH
from vectors import readable

from memora import CacheConfig, Memora
from memora.cli import replay
from memora.cli.querylog import Record
from memora.metrics import summary

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from data import Stream
    from numpy.typing import NDArray
    from policies import Policy

    from memora.model import LookupResult
    from memora.protocols import Vector

Store: TypeAlias = Literal["miss", "always"]

NEIGHBOURS = 256  # earlier requests that are remembered for each; beyond them, an exact search
_FRONT = 24  # of them that are tried first
_BLOCK = 512


@dataclass(frozen=True)
class Scene:
    """A stream with its vectors and neighbours: all that does not depend on a policy."""

    stream: Stream
    vectors: NDArray[np.float32]
    """Unit rows; zeros: unreadable, so never found."""
    rows: NDArray[np.int32]
    """The nearest earlier requests of each, nearest first; -1 beyond the last."""
    cosines: NDArray[np.float32]
    texts: NDArray[np.int32]
    """Equal numbers for equal texts."""

    @classmethod
    def of(cls, stream: Stream, vectors: NDArray[np.float32], cache: Path | None = None) -> Scene:
        """Search the neighbours, or read them where a folder remembers them."""
        number: dict[str, int] = {}
        texts = np.array([number.setdefault(text, len(number)) for text in stream.texts], np.int32)
        if cache is None:
            return cls(stream, vectors, *nearest(vectors), texts)
        named = hashlib.sha256(vectors.tobytes()).hexdigest()[:16]
        path = cache / f"neighbours-{named}-{NEIGHBOURS}.npz"
        if not path.is_file():
            rows, cosines = nearest(vectors)
            np.savez(path, rows=rows, cosines=cosines)
        with np.load(path) as found:
            return cls(stream, vectors, found["rows"], found["cosines"], texts)

    def candidates(
        self, request: int, stored: NDArray[np.bool_], depth: int
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Return the nearest stored requests, and their cosines, nearest first.

        Args:
            request: A place in the stream.
            stored: For each place, whether a search may return it.
            depth: How many at most.
        """
        rows, cosines = self.rows[request], self.cosines[request]
        at = np.flatnonzero(stored[rows[:_FRONT]])[:depth]
        if len(at) < depth:
            at = np.flatnonzero(stored[rows])[:depth]
            if len(at) < depth and request > NEIGHBOURS:
                kept = np.flatnonzero(stored[:request])
                found = self.vectors[kept] @ self.vectors[request]
                best = np.argsort(-found, kind="stable")[:depth]
                return kept[best].astype(np.int32), found[best]
        return rows[at], cosines[at]


def nearest(vectors: NDArray[np.float32]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return the NEIGHBOURS nearest earlier rows of each, and their cosines; exact."""
    length = len(vectors)
    unreadable = ~readable(vectors)
    rows = np.full((length, NEIGHBOURS), -1, np.int32)
    cosines = np.full((length, NEIGHBOURS), -2, np.float32)
    for start in range(0, length, _BLOCK):
        end = min(start + _BLOCK, length)
        found = vectors[start:end] @ vectors[:end].T
        found[np.arange(end)[None, :] >= np.arange(start, end)[:, None]] = -2
        found[:, unreadable[:end]] = -2
        found[unreadable[start:end]] = -2
        width = min(NEIGHBOURS, end)
        at = np.sort(np.argpartition(-found, width - 1, 1)[:, :width], 1)
        values = np.take_along_axis(found, at, 1)
        order = np.argsort(-values, 1, kind="stable")
        values = np.take_along_axis(values, order, 1)
        at = np.take_along_axis(at, order, 1)
        rows[start:end, :width] = np.where(values > -2, at, -1)  # noqa: PLR2004 - what was excluded
        cosines[start:end, :width] = values
    return rows, cosines


@dataclass(frozen=True)
class Outcome:
    """What one replay did with each request."""

    scene: Scene
    threshold: float
    candidate: NDArray[np.int32]
    """The best candidate's place in the stream; -1 where there was none."""
    score: NDArray[np.float64]
    """Its score; 1 for the same text, nan without a candidate."""
    exact: NDArray[np.bool_]
    """Served as the same text, without any judgement."""
    hit: NDArray[np.bool_]

    @property
    def verdicts(self) -> NDArray[np.int8]:
        """Whether the best candidate, served or not, answers the request."""
        return self.scene.stream.verdicts(np.arange(len(self.hit)), self.candidate)

    @property
    def served(self) -> NDArray[np.int32]:
        """The place in the stream of what was served; -1 for a miss."""
        return np.where(self.hit, self.candidate, -1).astype(np.int32)

    def counts(self, part: slice | None = None) -> Counts:
        """Add up, by default over the whole stream."""
        part = slice(None) if part is None else part
        found = np.where(self.hit, self.verdicts, NOBODY)[part]
        right, wrong, unknown = (int((found == kind).sum()) for kind in (RIGHT, WRONG, UNKNOWN))
        possible = int(self.scene.stream.possible()[part].sum())
        return Counts(self.threshold, len(found), possible, right, wrong, unknown)


@dataclass(frozen=True)
class Counts:
    """A point of a frontier."""

    threshold: float
    requests: int
    possible: int
    """Requests of a class that was met before."""
    right: int
    wrong: int
    unknown: int

    @property
    def hits(self) -> int:
        """All that was served."""
        return self.right + self.wrong + self.unknown

    @property
    def hit_rate(self) -> float:
        """Of all requests."""
        return self.hits / self.requests

    @property
    def error(self) -> float:
        """Wrong hits of all requests."""
        return self.wrong / self.requests

    @property
    def recall(self) -> float:
        """Right hits of the possible ones."""
        return self.right / self.possible if self.possible else 0.0

    @property
    def precision(self) -> float:
        """Right hits of those whose judgement is known; 1 without hits."""
        known = self.right + self.wrong
        return self.right / known if known else 1.0


class Replay:
    """One policy on one stream; remembers what was scored, for the next threshold."""

    def __init__(self, scene: Scene, policy: Policy) -> None:
        self.scene, self.policy = scene, policy
        self.depth: int = getattr(policy, "depth", DEPTH)
        self._seen: dict[tuple[int, bytes], tuple[int, float]] = {}
        self._readable = readable(scene.vectors)

    def best(
        self, request: int, rows: NDArray[np.int32], cosines: NDArray[np.float32]
    ) -> tuple[int, float]:
        """Return the candidate with the highest score, the nearer of equal ones, and the score."""
        key = (request, rows.tobytes())
        found = self._seen.get(key)
        if found is None:
            texts = self.scene.stream.texts
            candidates = [
                (texts[row], cosine)
                for row, cosine in zip(rows.tolist(), cosines.tolist(), strict=True)
            ]
            scores = self.policy.scores(texts[request], candidates)
            at = max(range(len(scores)), key=lambda i: scores[i])  # the first of equal ones
            found = self._seen[key] = (int(rows[at]), float(scores[at]))
        return found

    def run(
        self, threshold: float, *, store: Store = "miss", capacity: int | None = None
    ) -> Outcome:
        """Replay from an empty cache.

        Args:
            threshold: Least score of a hit.
            store: "always" also stores what was served, under its own class: as if the model were
                asked all the same. Only for comparison with others who measure so.
            capacity: Entries that are kept; what was stored longest ago leaves first.
        """
        scene, length = self.scene, len(self.scene.stream)
        stored = np.zeros(length + 1, np.bool_)  # the last one is for -1: no neighbour
        holder = np.full(length, -1, np.int32)  # by text
        queue: deque[int] = deque()
        alive = 0
        candidate = np.full(length, -1, np.int32)
        score = np.full(length, np.nan)
        exact, hit = np.zeros(length, np.bool_), np.zeros(length, np.bool_)
        present = np.zeros(length, np.bool_)  # unlike `stored`, also where unreadable
        for request, text in enumerate(scene.texts.tolist()):
            if (twin := holder[text]) >= 0:
                candidate[request], score[request] = twin, 1.0
                exact[request] = hit[request] = True
            elif self._readable[request]:
                rows, cosines = scene.candidates(request, stored, self.depth)
                if len(rows):
                    candidate[request], value = self.best(request, rows, cosines)
                    score[request] = value
                    hit[request] = value >= threshold
            if hit[request] and store == "miss":
                continue
            if twin >= 0:
                stored[twin] = present[twin] = False
                alive -= 1
            holder[text] = request
            stored[request], present[request] = self._readable[request], True
            alive += 1
            queue.append(request)
            while capacity is not None and alive > capacity:
                oldest = queue.popleft()
                if present[oldest]:
                    stored[oldest] = present[oldest] = False
                    holder[scene.texts[oldest]] = -1
                    alive -= 1
        return Outcome(scene, threshold, candidate, score, exact, hit)


class Known:
    """An embedder that has every vector already."""

    def __init__(self, identity: str, scene: Scene) -> None:
        self.identity, self.dimension = identity, scene.vectors.shape[1]
        known = readable(scene.vectors)
        self._vectors: dict[str, Vector | None] = {
            text: vector if known[at] else None
            for at, (text, vector) in enumerate(zip(scene.stream.texts, scene.vectors, strict=True))
        }
        self._vectors.setdefault("warm up", None)  # asked first by `memora replay`

    def embed(self, texts: Sequence[str], /) -> list[Vector | None]:
        """Look them up."""
        return [self._vectors[text] for text in texts]


class Watched(Memora):
    """A cache that keeps the result of each lookup."""

    found: list[LookupResult]

    def lookup(self, *arguments: Any, **options: Any) -> LookupResult:
        """Look up; raise what the cache hides behind a miss."""
        one = super().lookup(*arguments, **options)
        if one.reason == "error":
            raise RuntimeError(one.explanation)
        self.found.append(one)
        return one


def through_library(
    scene: Scene, answers: Sequence[int], *, identity: str, **settings: Any
) -> tuple[list[LookupResult], replay.Report]:
    """Replay a stream as `memora replay` does: in RAM, without a limit, stored on a miss.

    Args:
        scene: The stream.
        answers: What is stored for each request.
        identity: The model's, by which the library knows what it has learnt for it.
        settings: Of the cache.

    Returns:
        What each lookup returned, and the report, whose times include no embedding.
    """
    config = CacheConfig(max_entries=None, log_level="ERROR", **settings)
    with Watched(config, embedder=Known(identity, scene)) as cache:
        cache.found = []
        played = replay.Replay(cache, examples=1)
        log = enumerate(zip(scene.stream.texts, answers, strict=True))
        for _ in played.run(
            Record(line=at, query=text, context={}, label=None, answer=answer)
            for at, (text, answer) in log
        ):
            pass
    return cache.found, played.reports[0]


def compare(scene: Scene, outcome: Outcome, *, identity: str) -> dict[str, Any]:
    """Replay what the fast replay did through the library; counts of both, and where they agree."""
    length = len(scene.stream)
    found, report = through_library(
        scene, range(length), identity=identity, similarity_threshold=outcome.threshold
    )
    served = np.array([one.result if one.is_hit else -1 for one in found], np.int32)
    verdicts = scene.stream.verdicts(np.arange(length), served)
    counts = outcome.counts()
    times = summary(report.lookups.read())
    return {
        "threshold": outcome.threshold,
        "requests": length,
        "same_served": int((served == outcome.served).sum()),
        "same_hit": int(((served >= 0) == outcome.hit).sum()),
        "hits": int((served >= 0).sum()),
        "right": int((verdicts == RIGHT).sum()),
        "wrong": int((verdicts == WRONG).sum()),
        "replay_hits": counts.hits,
        "replay_right": counts.right,
        "replay_wrong": counts.wrong,
        "lookup_ms_p50": times["p50"],
        "lookup_ms_p95": times["p95"],
    }
