"""Convert evidence to a probability with an additive model, whose weights are readable files.

Each feature adds its own piecewise-linear function to the log odds, so the file shows the effect of
each piece of evidence. `training/train.py` in the repository fits the weights.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_FOLDER = Path(__file__).parent / "calibrations"
DEFAULT_CALIBRATION = "all-MiniLM-L6-v2"
"""The model whose weights are used for a model without its own."""
_LEAST = 1e-6  # clamps a probability, to keep its log odds finite


class Curve:
    """A piecewise-linear function, constant beyond its first and last point."""

    __slots__ = ("_first", "_last", "_slopes", "_xs", "_ys")

    def __init__(self, points: Sequence[tuple[float, float]]) -> None:
        self._xs = [float(x) for x, _ in points]
        self._ys = [float(y) for _, y in points]
        pairs = pairwise(points)
        self._slopes = [(y1 - y0) / (x1 - x0) for (x0, y0), (x1, y1) in pairs]

    def __call__(self, x: float) -> float:
        at = bisect_right(self._xs, x) - 1
        if at < 0:
            return self._ys[0]
        if at >= len(self._slopes):
            return self._ys[-1]
        return self._ys[at] + self._slopes[at] * (x - self._xs[at])


class Calibration:
    """Weights of the evidence, fitted to the cosines of one embedding model."""

    def __init__(self, weights: Mapping[str, Any]) -> None:
        terms = {name: Curve(points) for name, points in weights["terms"].items()}
        self._cosine = terms.pop("cosine")
        self._terms = terms
        self._bridge: Mapping[str, float] = weights["bridge"]
        self._reach = self._cosine(weights["reach"])
        self._intercept = float(weights["intercept"])
        self._log_odds = Curve([(z, log_odds(p)) for z, p in weights["probability"]])
        low, high = weights.get("band", (0.0, 1.0))
        self.band: tuple[float, float] = (low, high)
        """The judge's probabilities between which a verifier is asked."""

    @classmethod
    @cache
    def of(cls, model: str) -> Calibration:
        """Return the packaged calibration of a model by name."""
        return cls.read(_FOLDER / f"{model}.json")

    @classmethod
    def read(cls, path: Path) -> Calibration:
        """Read a file."""
        return cls(json.loads(path.read_text("utf-8")))

    def probability(self, features: Mapping[str, float], cosine: float) -> float:
        """Return the probability that one answer is right for both texts.

        Args:
            features: How the texts differ; see `_compare.KINDS`.
            cosine: Of the calibrated model, in [-1, 1].
        """
        near = self._cosine(cosine)
        total, bridged = self._intercept + near, 0.0
        for name, value in features.items():
            if name in self._terms:
                total += self._terms[name](value)
            elif name in self._bridge:
                bridged += self._bridge[name] * value
        if near < self._reach:
            # Shared content raises the probability only where the cosine is low.
            total += min(bridged, 1.0) * (self._reach - near)
        return _probability(self._log_odds(total))

    def lowered(self, features: Mapping[str, float], cosine: float) -> float:
        """Return a cosine of any model, lowered by the evidence against the candidate."""
        against = sum(
            min(self._terms[name](value), 0.0)
            for name, value in features.items()
            if name in self._terms
        )
        if not against:
            return cosine
        return min(cosine, _probability(log_odds(cosine) + against))


@cache
def calibrated_models() -> frozenset[str]:
    """Return the names of the models that have their own calibration."""
    return frozenset(file.stem for file in _FOLDER.glob("*.json"))


def log_odds(probability: float) -> float:
    """Return the log odds of a probability in [0, 1], limited to finite values."""
    inside = min(max(probability, _LEAST), 1.0 - _LEAST)
    return math.log(inside / (1.0 - inside))


def _probability(log_odds: float) -> float:
    return 1.0 / (1.0 + math.exp(-log_odds))
