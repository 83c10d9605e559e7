"""Recommends a threshold that keeps a budget of wrong answers, from labelled pairs. Pure.

The thresholds are a fixed grid, so that none is fitted to the labels. Each bound is exact (Clopper
and Pearson). Thresholds are tried in a fixed order, from the strictest down to the first that
fails, so the confidence holds for the chosen threshold, not only for one named in advance. Needs
the extra `tuning`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias

import numpy as np

from memora._arguments import is_number
from memora.context import canonical_query
from memora.embedders import CachedEmbedder
from memora.errors import ArgumentError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from memora.judge import Judge
    from memora.protocols import Embedder

    Floats: TypeAlias = NDArray[np.float64]
    Counts: TypeAlias = NDArray[np.int64]
    Flags: TypeAlias = NDArray[np.bool_]

Of: TypeAlias = Literal["all", "hits"]
"""The base of the share of wrong answers: all queries, as in docs/accuracy.md, or the hits."""

GRID: Final = (1.0, 0.999, *(round(number / 200, 3) for number in range(199, 0, -1)))
"""Thresholds that may be recommended, strictest first; 1 serves only the same text."""

_BATCH = 256
_RUNGS = 4  # each sequence starts where this many times as many pairs are served as at the last
_MOST = 1_000_000  # maximum number of pairs that is practical to label
_LOOKS = 8  # thresholds for which the number of pairs needed is computed


class LabelledPair(NamedTuple):
    """A query, a stored query of the same context, and whether one answer serves both."""

    query: str
    candidate: str
    right: bool


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of pairs: arrays with one element per pair."""

    similarity: Floats
    """The value compared with a threshold, in [0, 1]; 0 if no threshold would serve the pair."""
    right: Flags


@dataclass(frozen=True, slots=True)
class Share:
    """A part of a whole, with its interval."""

    count: int
    whole: int
    low: float
    high: float

    @property
    def value(self) -> float:
        """The share, in [0, 1]; 0 if the whole is empty."""
        return self.count / self.whole if self.whole else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """The result of one threshold for the pairs."""

    threshold: float
    served: Share
    """Share of all pairs that are served."""
    wrong_of_all: Share
    wrong_of_hits: Share
    right_served: int

    def wrong(self, of: Of) -> Share:
        """Return the share of wrong answers, of all queries or of the hits."""
        return self.wrong_of_all if of == "all" else self.wrong_of_hits


@dataclass(frozen=True, slots=True)
class Curve:
    """The results of all thresholds, strictest first."""

    points: tuple[Point, ...]
    pairs: int
    right: int
    """Number of pairs that one answer serves: those a perfect cache would serve."""
    confidence: float
    """Confidence of each interval on its own."""

    def at(self, threshold: float) -> Point:
        """Return the point for a threshold of the grid."""
        return next(point for point in self.points if point.threshold == threshold)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """A threshold for a budget of wrong answers, or why there is none."""

    status: Literal["found", "too_few", "out_of_reach"]
    """`too_few`: more pairs could show a threshold. `out_of_reach`: they would not."""
    of: Of
    max_wrong: float
    confidence: float
    point: Point | None
    wrong: Share | None
    """The share at the point; its upper end, corrected for all tries, is within the budget."""
    needed: int | None
    """If there are too few: how many pairs like these would be enough."""


def score(
    pairs: Sequence[LabelledPair],
    *,
    embedder: Embedder,
    judge: Judge,
    progress: Callable[[int, int | None], None] | None = None,
) -> Scores:
    """Score pairs as lookups would, each against a cache that holds only its candidate.

    Raises:
        QueryError: A text is blank.
        EmbedderError: The model failed.
    """
    asked = [canonical_query(pair.query) for pair in pairs]
    stored = [canonical_query(pair.candidate) for pair in pairs]
    # As in lookups: texts with invisible characters have no vector.
    vectors = _embedded({*asked, *stored}, CachedEmbedder(embedder, 0), progress)
    similarity = np.zeros(len(pairs))
    for at, (query, candidate) in enumerate(zip(asked, stored, strict=True)):
        one, other = vectors[query], vectors[candidate]
        if query == candidate:
            similarity[at] = 1.0
        elif one is not None and other is not None:
            (found,) = judge.assess(query, [(candidate, float((one * other).sum()))])
            similarity[at] = 0.0 if found.barred else found.similarity
    return Scores(similarity, np.array([pair.right for pair in pairs], np.bool_))


def curve(similarity: Floats, right: Flags, *, confidence: float = 0.95) -> Curve:
    """Count the right and wrong answers that each threshold of the grid would serve.

    Args:
        similarity: Similarity of each pair, in [0, 1].
        right: Whether one answer serves both queries of the pair.
        confidence: Confidence of the intervals, which are two-sided.

    Raises:
        ArgumentError: There is no pair, or the confidence is out of range.
    """
    _check("confidence", confidence)
    if not len(right):
        raise ArgumentError("there are no pairs")
    order = np.argsort(-similarity, kind="stable")
    falling = -similarity[order]
    served = np.searchsorted(falling, -np.array(GRID), side="right").astype(np.int64)
    wrongs = np.concatenate([[0], np.cumsum(~right[order])]).astype(np.int64)[served]
    whole = np.full(len(GRID), len(right), np.int64)
    of_all = _shares(served, whole, confidence)
    wrong_of_all = _shares(wrongs, whole, confidence)
    wrong_of_hits = _shares(wrongs, served, confidence)
    points = (
        Point(
            threshold=threshold,
            served=of_all[at],
            wrong_of_all=wrong_of_all[at],
            wrong_of_hits=wrong_of_hits[at],
            right_served=int(served[at] - wrongs[at]),
        )
        for at, threshold in enumerate(GRID)
    )
    return Curve(tuple(points), len(right), int(right.sum()), confidence)


def recommend(
    curve: Curve, max_wrong: float, *, of: Of = "all", confidence: float = 0.95
) -> Recommendation:
    """Choose the lowest threshold that keeps a budget of wrong answers, with a given confidence.

    A threshold keeps the budget if the upper end of the interval of its wrong answers does.
    Thresholds are tried from the strictest down to the first that fails. As a share of the hits,
    wrong answers cannot be bounded before there are about a hundred hits. So several sequences
    start at thresholds that serve enough pairs, which depends on no label, and share the allowed
    error probability. See docs/decisions/0018-bound-wrong-answers-exactly.md.

    Args:
        curve: The curve of the pairs.
        max_wrong: The budget, a share above 0 and below 1.
        of: The base of the share.
        confidence: Probability that the budget is kept, for queries like the pairs.

    Raises:
        ArgumentError: A share is out of range.
    """
    _check("max_wrong", max_wrong)
    _check("confidence", confidence)
    served = np.array([point.served.count for point in curve.points], np.int64)
    wrong = np.array([point.wrong(of).count for point in curve.points], np.int64)
    whole = np.array([point.wrong(of).whole for point in curve.points], np.int64)
    starts = _starts(whole, enough(max_wrong, confidence=confidence))
    split = 1 - (1 - confidence) / max(len(starts), 1)
    lows, highs = interval(wrong, whole, split)
    chosen = max((_last(highs <= max_wrong, start) for start in starts), default=-1)
    if chosen >= 0 and curve.points[chosen].served.count:
        # The strictest of those that serve the same pairs, which do not tell them apart.
        chosen = int(np.argmax(served == served[chosen]))
        share = Share(
            int(wrong[chosen]), int(whole[chosen]), float(lows[chosen]), float(highs[chosen])
        )
        found, needed = curve.points[chosen], None
        status: Literal["found", "too_few", "out_of_reach"] = "found"
    else:
        found, share, needed = None, None, _needed(curve, max_wrong, of, split)
        status = "out_of_reach" if needed is None else "too_few"
    return Recommendation(
        status=status,
        of=of,
        max_wrong=max_wrong,
        confidence=confidence,
        point=found,
        wrong=share,
        needed=needed,
    )


def enough(max_wrong: float, *, share: float = 0.0, confidence: float = 0.95) -> int | None:
    """Return how many pairs show that a budget is kept, if `share` of the answers is wrong.

    None if that would take more pairs than is practical to label.
    """

    def shows(count: int) -> bool:
        wrong = np.array([math.ceil(share * count)])
        return bool(interval(wrong, np.array([count]), confidence)[1][0] <= max_wrong)

    low, high = 0, 1
    while not shows(high):
        low, high = high, 2 * high
        if high > _MOST:
            return None
    while high - low > 1:  # a binary search: monotonic but for rounding up the wrong answers
        middle = (low + high) // 2
        low, high = (low, middle) if shows(middle) else (middle, high)
    return high


def interval(count: Counts, whole: Counts, confidence: float) -> tuple[Floats, Floats]:
    """Return both ends of the exact two-sided interval of shares, by Clopper and Pearson."""
    try:
        from scipy.special import betaincinv  # noqa: PLC0415 - an extra, and slow to import
    except ImportError as error:
        raise MissingExtraError("memora.tuning", extra="tuning") from error

    tail = (1 - confidence) / 2
    right = whole - count
    # Counts of 0, for which the distribution is undefined, are replaced; `where` sets those ends.
    low = betaincinv(np.maximum(count, 1), right + 1, tail)
    high = betaincinv(count + 1, np.maximum(right, 1), 1 - tail)
    return np.where(count > 0, low, 0.0), np.where(right > 0, high, 1.0)


def _embedded(
    texts: Iterable[str],
    embedder: Embedder,
    progress: Callable[[int, int | None], None] | None,
) -> dict[str, Any]:
    # Sorted by length, as the model pads a batch to its longest text.
    order = sorted(texts, key=lambda text: (len(text), text))
    vectors: dict[str, Any] = {}
    for start in range(0, len(order), _BATCH):
        batch = order[start : start + _BATCH]
        vectors.update(zip(batch, embedder.embed(batch), strict=True))
        if progress is not None:
            progress(len(vectors), len(order))
    return vectors


def _check(name: str, value: float) -> None:
    if not is_number(value) or not 0 < value < 1:
        raise ArgumentError(f"{name}={value!r}: expected a number above 0 and below 1")


def _shares(count: Counts, whole: Counts, confidence: float) -> list[Share]:
    ends = zip(count, whole, *interval(count, whole, confidence), strict=True)
    return [Share(int(k), int(n), float(low), float(high)) for k, n, low, high in ends]


def _starts(whole: Counts, least: int | None) -> list[int]:
    """Return the starts of the sequences: where 1, 4, 16 ... times the pairs needed are served."""
    starts: list[int] = []
    while least is not None and least <= whole[-1]:
        at = int(np.argmax(whole >= least))
        starts += [] if at in starts else [at]
        least *= _RUNGS
    return starts


def _last(passes: Flags, start: int) -> int:
    """Return the last index of the unbroken run of passes from `start`; -1 if `start` fails."""
    fails = np.flatnonzero(~passes[start:])
    end = start + int(fails[0]) if len(fails) else len(passes)
    return end - 1 if end > start else -1


def _needed(curve: Curve, max_wrong: float, of: Of, confidence: float) -> int | None:
    """Return how many pairs like these would show that a threshold keeps the budget."""
    keeping = [
        point for point in curve.points if point.served.count and point.wrong(of).value < max_wrong
    ]
    found = []
    for point in keeping[:: len(keeping) // _LOOKS + 1]:
        count = enough(max_wrong, share=point.wrong(of).value, confidence=confidence)
        if count is not None:
            found.append(math.ceil(count / (1.0 if of == "all" else point.served.value)))
    needed = max(min(found, default=_MOST), curve.pairs + 1)
    return needed if needed < _MOST else None
