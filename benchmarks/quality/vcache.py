"""The policy of vCache, from its paper: a threshold an entry, learned online, for an error budget.

Written from a description in words (arXiv 2502.03771); none of vCache's code was used. Where the
description leaves a choice, it is named below. There is no exact tier in it.
"""

from __future__ import annotations

import random
from statistics import NormalDist
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
from replay import Outcome, Store
from vectors import readable

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from replay import Scene

Table: TypeAlias = Literal["variance", "deviation"]

_SEEDED = ((0.0, 0.0), (1.0, 1.0))  # observations that every entry begins with
_LEAST = 6  # observations, those two included, before an entry may be served
_SEPARATED = ((6, 0.0354), (48, 0.0153))
"""Variance of the threshold by observations, where right and wrong ones do not overlap. These two
are known of a table; between them linear in the logarithms is our choice."""
_STEEPEST, _FLATTEST = 1e3, 1e-6
_ITERATIONS, _TOLERANCE = 100, 1e-4  # the fit has no optimum under perfect separation: it stops

_EPSILONS = np.linspace(1e-6, 1 - 1e-6, 50)  # evenly in (0, 1): our choice
_QUANTILES = np.array([NormalDist().inv_cdf(1 - epsilon) for epsilon in _EPSILONS])


class _Entry:
    """What was observed of a stored answer."""

    __slots__ = ("_right", "_similar", "_steepness", "_table", "_thresholds")

    def __init__(self, table: Table) -> None:
        self._table = table
        self._similar = [similarity for similarity, _ in _SEEDED]
        self._right = [right for _, right in _SEEDED]
        self._thresholds: NDArray[np.float64] | None = None
        self._steepness = 0.0

    def observe(self, similarity: float, *, right: bool) -> None:
        self._similar.append(similarity)
        self._right.append(float(right))
        self._thresholds = None

    def explore(self, similarity: float, budget: float) -> float:
        """Return the probability with which the model is to be asked."""
        if len(self._similar) < _LEAST:
            return 1.0
        if self._thresholds is None:
            x, y = np.array(self._similar), np.array(self._right)
            self._steepness, middle, variance = _fit(x, y, self._table)
            self._thresholds = np.clip(middle + _QUANTILES * np.sqrt(variance), 0, 1)
        odds = self._steepness * (similarity - self._thresholds)
        sure = (1 - _EPSILONS) / (1 + np.exp(-np.clip(odds, -500, 500)))
        return float(np.min(1 - budget / (1 - sure)))


def _fit(
    x: NDArray[np.float64], y: NDArray[np.float64], table: Table
) -> tuple[float, float, float]:
    """Return steepness, threshold and the threshold's variance of a logistic curve."""
    intercept, steepness = 0.0, 0.0
    weights = np.ones_like(x)
    for _ in range(_ITERATIONS):
        chance = 1 / (1 + np.exp(-np.clip(intercept + steepness * x, -500, 500)))
        off = y - chance
        gradient = off.sum(), (off * x).sum()
        if max(abs(gradient[0]), abs(gradient[1])) < _TOLERANCE * len(x):
            break
        weights = np.maximum(chance * (1 - chance), 1e-12)
        a, b, c = weights.sum(), (weights * x).sum(), (weights * x * x).sum()
        scale = a * c - b * b
        if scale <= 0:
            break
        step = (
            (c * gradient[0] - b * gradient[1]) / scale,
            (a * gradient[1] - b * gradient[0]) / scale,
        )
        shrink = min(1.0, 20 / max(abs(step[0]), abs(step[1]), 1e-12))
        intercept, steepness = intercept + shrink * step[0], steepness + shrink * step[1]
        if abs(steepness) > _STEEPEST:
            break
    steepness = max(steepness, _FLATTEST)
    middle = min(max(-intercept / steepness, 0.0), 1.0)
    if x[y > 0].min() > x[y == 0].max():
        return steepness, middle, _separated(len(x), table)
    a, b, c = weights.sum(), (weights * x).sum(), (weights * x * x).sum()
    # Of -intercept / steepness, by the delta method.
    determinant = max(a * c - b * b, 1e-12)
    one, other = -1 / steepness, intercept / steepness**2
    variance = (one * one * c - 2 * one * other * b + other * other * a) / determinant
    return steepness, middle, float(max(variance, 0.0))


def _separated(observations: int, table: Table) -> float:
    counts, values = np.log(np.array(_SEPARATED)).T
    found = float(np.exp(np.interp(np.log(observations), counts, values)))
    return found if table == "variance" else found**2


def run(
    scene: Scene,
    budget: float,
    *,
    seed: int,
    store: Store = "miss",
    table: Table = "variance",
) -> Outcome:
    """Replay a stream from an empty cache.

    Args:
        scene: The stream.
        budget: The error that it may make; its delta.
        seed: Of the draws between asking and serving.
        store: "miss" stores what was asked and answered otherwise than by the neighbour, as the
            paper's authors do; "always" stores every request under its own class.
        table: What the values are that stand in for the variance where it cannot be computed: the
            description says variances; read as deviations, they serve more, and wrong more often.
    """
    length = len(scene.stream)
    stored = np.zeros(length + 1, np.bool_)
    entries: dict[int, _Entry] = {}
    candidate, score = np.full(length, -1, np.int32), np.full(length, np.nan)
    hit = np.zeros(length, np.bool_)
    draw = random.Random(seed)  # noqa: S311
    calls = 0
    classes = scene.stream.classes
    known = readable(scene.vectors)
    for request in range(length):
        rows, cosines = scene.candidates(request, stored, 1)
        if not known[request] or not len(rows):
            keep = True
        else:
            nearest = candidate[request] = int(rows[0])
            similarity = round(float(cosines[0]), 3)
            explore = entries[nearest].explore(similarity, budget)
            score[request] = 1 - min(max(explore, 0.0), 1.0)
            if draw.random() > explore:
                hit[request] = True
                keep = store == "always"
            else:
                calls += 1
                same = bool(classes[request] == classes[nearest])
                entries[nearest].observe(similarity, right=same)
                keep = store == "always" or not same
        if keep and known[request]:
            stored[request] = True
            entries[request] = _Entry(table)
    return Outcome(scene, budget, candidate, score, np.zeros(length, np.bool_), hit, calls)
