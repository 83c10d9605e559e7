"""The numbers of a replay and of a suite of pairs. Pure."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from data import NOBODY, RIGHT, UNKNOWN, WRONG

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from replay import Counts, Outcome, Replay

TARGETS = (0.005, 0.01, 0.02)
"""Errors at which hits are reported."""
_REFINED = (*TARGETS, 0.05)
_WIDEST = 0.05  # nAUC5 ends here
_GRID = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.88, 0.9, 0.92, 0.94, 0.96, 0.97, 0.98, 0.99)
_ABOVE = (0.995, 0.999, 0.9995, 0.9999, 0.99999, 0.999999)
_BELOW = (0.4, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01, 0.0)
_HALVINGS = 5
_FILLINGS = 6
_Z95 = 1.959964
_BINS = 10


def wilson(hits: int, trials: int) -> tuple[float, float]:
    """Return the 95 % interval of a share."""
    if not trials:
        return 0.0, 1.0
    share, z = hits / trials, _Z95
    middle = share + z * z / (2 * trials)
    half = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    return max((middle - half) / scale, 0.0), min((middle + half) / scale, 1.0)


def frontier(replay: Replay, *, wide: bool = False) -> list[Counts]:
    """Replay at thresholds from above 1 down, closer together where the error meets a target.

    Args:
        replay: What to run.
        wide: Also far beyond 5 % error, which P-CHR AUC takes.
    """
    points: dict[float, Counts] = {}

    def run(threshold: float) -> Counts:
        if threshold not in points:
            points[threshold] = replay.run(threshold).counts()
        return points[threshold]

    run(2.0)  # nothing but the same text
    for threshold in _GRID:
        run(threshold)
    for threshold in _ABOVE:
        if run(threshold).error <= _REFINED[0]:
            break
    for threshold in _BELOW:
        if not wide and points[min(points)].error > _WIDEST:
            break
        run(threshold)
    for target in _REFINED:
        _halve(points, run, target)
    for _ in range(_FILLINGS):
        _fill(points, run)
    return [points[threshold] for threshold in sorted(points, reverse=True)]


def _halve(points: dict[float, Counts], run: Any, target: float) -> None:
    for _ in range(_HALVINGS):
        below = [t for t in points if points[t].error <= target]
        low = max((t for t in points if points[t].error > target), default=None)
        high = min((t for t in below if low is None or t > low), default=None)
        if low is None or high is None or points[low].wrong - points[high].wrong <= 1:
            return
        middle = _between(low, high)
        if middle in points:
            return
        run(middle)


def _fill(points: dict[float, Counts], run: Any) -> None:
    """Run between the neighbours that are farthest apart in hits, within the errors of nAUC5."""
    order = sorted(points)
    gaps = [
        (points[low].right - points[high].right, low, high)
        for low, high in pairwise(order)
        if points[high].error <= _WIDEST
    ]
    if gaps:
        _, low, high = max(gaps)
        run(_between(low, high))


def _between(low: float, high: float) -> float:
    """Halve on the scale of log odds: probabilities crowd at both ends."""
    edge = 1e-9
    odds = [math.log(t / (1 - t)) for t in (min(max(x, edge), 1 - edge) for x in (low, high))]
    return 1 / (1 + math.exp(-sum(odds) / 2))


def best_at(points: Sequence[Counts], error: float, key: str = "hit_rate") -> float:
    """Return the best of a frontier with at most that error, linear between its points."""
    best = 0.0
    for at, point in enumerate(points):
        value = float(getattr(point, key))
        if point.error <= error:
            best = max(best, value)
        for other in points[max(at - 1, 0) : at + 2]:
            if point.error <= error < other.error:
                share = (error - point.error) / (other.error - point.error)
                best = max(best, value + share * (float(getattr(other, key)) - value))
    return best


def threshold_at(points: Sequence[Counts], error: float) -> float:
    """Return the threshold of the measured point with most hits at no more than that error.

    Where there is none, because equal texts have different answers, the highest threshold.
    """
    allowed = [point for point in points if point.error <= error] or points[:1]
    return max(allowed, key=lambda point: (point.hits, point.threshold)).threshold


def nauc5(points: Sequence[Counts]) -> float:
    """Return the mean recall of possible hits over errors from 0 to 5 %."""
    errors = np.linspace(0, _WIDEST, 51)
    return float(np.mean([best_at(points, float(error), "recall") for error in errors]))


def pchr_auc(points: Sequence[Counts]) -> float:
    """Return the area under precision over hit rate, from no hits to those of the last point."""
    order = sorted(points, key=lambda point: point.hits)
    rates = np.array([0.0, *(point.hit_rate for point in order)])
    heights = np.array([order[0].precision, *(point.precision for point in order)])
    return float(np.sum(np.diff(rates) * (heights[1:] + heights[:-1]) / 2))


def at_threshold(counts: Counts) -> dict[str, Any]:
    """Describe a point."""
    low, high = wilson(counts.wrong, counts.requests)
    return {
        "threshold": counts.threshold,
        "hits": counts.hits,
        "right": counts.right,
        "wrong": counts.wrong,
        "unknown": counts.unknown,
        "hit_rate": counts.hit_rate,
        "correct_hit_rate": counts.right / counts.requests,
        "error": counts.error,
        "error_low": low,
        "error_high": high,
        "precision": counts.precision,
        "false_hit_share": 1 - counts.precision,
        "recall": counts.recall,
        "unknown_share": counts.unknown / counts.requests,
    }


def summary(points: Sequence[Counts]) -> dict[str, Any]:
    """Describe a frontier."""
    first = points[0]
    return {
        "requests": first.requests,
        "possible": first.possible / first.requests,
        **{f"hits_at_{100 * error:g}": best_at(points, error) for error in TARGETS},
        "recall_at_1": best_at(points, 0.01, "recall"),
        "nauc5": nauc5(points),
        "threshold_at_1": threshold_at(points, 0.01),
        "exact_hits": first.hits,
        "frontier": [
            {
                "threshold": point.threshold,
                "right": point.right,
                "wrong": point.wrong,
                "unknown": point.unknown,
            }
            for point in points
        ],
    }


def calibration(outcome: Outcome) -> dict[str, Any]:
    """Compare scores with how often the candidate was right: each lookup that compared something.

    Returns:
        `ece` over ten bins of equal width, the number of lookups, and the bins with any.
    """
    verdicts = outcome.verdicts
    used = ~outcome.exact & (verdicts != NOBODY) & (verdicts != UNKNOWN)
    return reliability(outcome.score[used], verdicts[used] == RIGHT)


def reliability(scores: NDArray[np.float64], right: NDArray[np.bool_]) -> dict[str, Any]:
    """Return the expected calibration error, and the table behind it."""
    place = np.minimum((scores * _BINS).astype(int), _BINS - 1)
    bins, total = [], 0.0
    for number in range(_BINS):
        inside = place == number
        count = int(inside.sum())
        if not count:
            continue
        stated, observed = float(scores[inside].mean()), float(right[inside].mean())
        total += count * abs(stated - observed)
        low, high = wilson(int(right[inside].sum()), count)
        bins.append(
            {
                "from": number / _BINS,
                "n": count,
                "stated": stated,
                "observed": observed,
                "low": low,
                "high": high,
            }
        )
    return {"ece": total / max(len(scores), 1), "n": len(scores), "bins": bins}


def traps(outcome: Outcome) -> dict[str, dict[str, Any]]:
    """Count wrong hits by the type of the near miss; only requests that have a type."""
    # Which slot differs is one of 150 types, most of them met a few times.
    types = np.array(
        [
            kind.split("_")[0] if kind.startswith("slot_") else kind
            for kind in outcome.scene.stream.types
        ]
    )
    wrong = outcome.hit & (outcome.verdicts == WRONG)
    right = outcome.hit & (outcome.verdicts == RIGHT)
    possible = outcome.scene.stream.possible()
    found = {}
    for name in sorted(set(types.tolist()) - {""}):
        chosen = types == name
        found[name] = {
            "n": int(chosen.sum()),
            "wrong": int(wrong[chosen].sum()),
            "trap_rate": float(wrong[chosen].mean()),
            "possible": int(possible[chosen].sum()),
            "right": int(right[chosen].sum()),
        }
    return found


def auc(scores: NDArray[np.float64], same: NDArray[np.bool_]) -> float | None:
    """Area under the ROC curve, as the Mann-Whitney statistic; None with one label only."""
    positives, negatives = int(same.sum()), int((~same).sum())
    if not positives or not negatives:
        return None
    _, group, counts = np.unique(scores, return_inverse=True, return_counts=True)
    shared = (np.cumsum(counts) - (counts - 1) / 2)[group]  # ranks from 1, ties share their mean
    above = shared[same].sum() - positives * (positives + 1) / 2
    return float(above / (positives * negatives))


def right_hits(outcome: Outcome) -> NDArray[np.bool_]:
    """Return a mask of the requests with a right hit."""
    found: NDArray[np.bool_] = outcome.hit & (outcome.verdicts == RIGHT)
    return found


def bootstrap(
    one: NDArray[np.bool_], other: NDArray[np.bool_], *, seed: int, resamples: int = 1000
) -> dict[str, float]:
    """Compare the right hits of two policies over the same requests, drawn with repetition.

    With each policy at its own threshold of 1 % error, which is not chosen anew in a resample, it
    approximates the difference in hits at 1 % error.

    Returns:
        The difference in share of requests, one minus other; its 95 % interval; and the share of
        resamples in which it is above 0.
    """
    paired = one.astype(np.int8) - other.astype(np.int8)
    rng = np.random.default_rng(seed)
    # Only how often each of the three differences is drawn matters.
    shares = [float((paired == value).mean()) for value in (-1, 0, 1)]
    drawn = rng.multinomial(len(paired), shares, size=resamples)
    differences = (drawn[:, 2] - drawn[:, 0]) / len(paired)
    low, high = np.quantile(differences, [0.025, 0.975])
    return {
        "difference": float(paired.mean()),
        "low": float(low),
        "high": float(high),
        "above_0": float((differences > 0).mean()),
    }
