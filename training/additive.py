"""The model: a sum of piecewise-linear contributions, and a map from that sum to a probability."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

_ONE = (0.0, 1.0)
_TWO = (0.0, 1.0, 2.0)
KNOTS: Final[dict[str, tuple[float, ...]]] = {
    "cosine": (0.4, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.84, 0.88, 0.91, 0.94, 0.97, 1.0),
    "numbers": _TWO,
    "dates": _TWO,
    "identifiers": _TWO,
    "units": _TWO,
    "names": _ONE,
    "polarity": _ONE,
    "polarity_loose": _ONE,
    "substitution": (0.0, 0.2, 0.4, 0.7, 1.7),
    "insertion": (0.3, 0.6, 1.2, 2.2),  # a small word more is no other question
    "addition": (0.0, 0.5, 1.0),
    "explained": _ONE,
    "siblings": _TWO,
    "question": _ONE,
    "quantifiers": _ONE,
    "order": _ONE,
    "bounds": _ONE,
}
"""Where each term bends: it is 0 at the first knot and below, constant from the last one on."""
REACH: Final = 0.97
BRIDGE: Final = "anchored"
"""A pair counts as if its cosine were REACH, where it is less, to the degree of this feature."""
SIGNS: Final = dict.fromkeys(KNOTS, -1) | {"cosine": 1, "explained": 1}
"""The direction that a term may take, so that no evidence counts the wrong way round."""
FEATURES: Final = (*KNOTS, BRIDGE)
PROBABILITY: Final = (-9.0, -4.0, -3.0, -2.5, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 9.0)

_RIDGE = 2.0  # in rows of mean weight
_SMOOTH = 10.0  # of the map's slopes, in rows of 10,000 for a list of weight 1
_LIST_ROWS = 10_000
_FLATTEST = 0.25  # of the map, in logits: it rises everywhere
_LEAST_TERM = 0.005  # in logits; a term that is nowhere more is left out
_DIGITS = 4
_LEAST = 1e-4  # a probability, and what it lacks to 1: as rounded, both have a logit

Points = list[list[float]]


@dataclass(frozen=True)
class Form:
    """The terms of a model; one is named cosine."""

    knots: dict[str, tuple[float, ...]]
    """Where each term bends."""
    signs: dict[str, int]
    """The direction that each may take."""
    bridge: str | None
    """The feature that counts as a cosine of REACH."""

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the columns, in order."""
        return (*self.knots, self.bridge) if self.bridge else tuple(self.knots)


JUDGE: Final = Form(KNOTS, SIGNS, BRIDGE)


@dataclass(frozen=True)
class Additive:
    """A fitted model, rounded as it is shipped."""

    intercept: float
    terms: dict[str, Points]
    form: Form = JUDGE

    def z(self, features: Floats) -> Floats:
        """Return the sum of the contributions, for rows of the form's features."""
        columns = dict(zip(self.form.features, features.T, strict=True))
        curves = {name: np.array(points).T for name, points in self.terms.items()}
        total = np.full(len(features), self.intercept)
        for name, curve in curves.items():
            total += np.interp(columns[name], *curve)
        if self.form.bridge:
            near = np.interp(columns["cosine"], *curves["cosine"])
            reached = np.interp(np.maximum(columns["cosine"], REACH), *curves["cosine"])
            total += columns[self.form.bridge] * (reached - near)
        return total


def probability(points: Points, z: Floats) -> Floats:
    """Read the map, which is linear in the logit between its points."""
    x, p = np.array(points).T
    found: Floats = 1 / (1 + np.exp(-np.interp(z, x, np.log(p / (1 - p)))))
    return found


def fit(features: Floats, same: Floats, weights: Floats, form: Form = JUDGE) -> Additive:
    """Fit the contributions by weighted logistic regression with a ridge, under the signs."""
    columns = dict(zip(form.features, features.T, strict=True))
    segments = {name: _segments(columns[name], knots) for name, knots in form.knots.items()}
    if form.bridge:
        reached = _segments(np.maximum(columns["cosine"], REACH), form.knots["cosine"])
        segments["cosine"] += columns[form.bridge][:, None] * (reached - segments["cosine"])
    design = np.hstack(list(segments.values()))
    signs = [form.signs[name] for name, knots in form.knots.items() for _ in knots[1:]]
    bounds = [{1: (0.0, None), -1: (None, 0.0)}[sign] for sign in signs] + [(None, None)]
    weights = weights / weights.mean()

    def loss(t: Floats) -> tuple[float, Floats]:
        value, gradient = _logistic(design, same, weights, t)
        ridge = np.append(t[:-1], 0.0)
        return value + _RIDGE * float(ridge @ ridge), gradient + 2 * _RIDGE * ridge

    found = _minimise(loss, np.zeros(design.shape[1] + 1), bounds)
    terms, at = {}, 0
    for name, knots in form.knots.items():
        heights = np.concatenate([[0.0], np.cumsum(found[at : at + len(knots) - 1])])
        at += len(knots) - 1
        points = [[_short(x), _short(y)] for x, y in zip(knots, heights, strict=True)]
        while len(points) > 1 and points[-1][1] == points[-2][1]:
            points.pop()  # constant from the last point on, anyway
        if name == "cosine" or any(abs(y) >= _LEAST_TERM for _, y in points):
            terms[name] = points
    return Additive(_short(found[-1]), terms, form)


def fit_map(lists: Sequence[tuple[float, Floats, Floats]]) -> Points:
    """Fit the rising map from z to a probability.

    Args:
        lists: A weight, z of what would be served, and how likely that is right by its label;
            whatever its length, a list counts by its weight.
    """
    z = np.concatenate([z for _, z, _ in lists])
    same = np.concatenate([right for *_, right in lists])
    weights = np.concatenate([np.full(len(z), weight / len(z)) for weight, z, _ in lists])
    knots = PROBABILITY[1:]  # below, nothing is known that would tell more
    widths = np.diff(knots)
    design = _segments(z, knots) * widths  # slopes, which are smoothed

    def loss(t: Floats) -> tuple[float, Floats]:
        value, gradient = _logistic(design, same, weights * _LIST_ROWS, t)
        steps = np.diff(t[:-1])
        gradient[1:-1] += 2 * _SMOOTH * steps
        gradient[:-2] -= 2 * _SMOOTH * steps
        return value + _SMOOTH * float(steps @ steps), gradient

    start = np.append(np.ones(len(widths)), -4.0)
    bounds: list[tuple[float | None, float | None]] = [(_FLATTEST, None)] * len(widths)
    found = _minimise(loss, start, [*bounds, (None, None)])
    logits = found[-1] + np.concatenate([[0.0, 0.0], np.cumsum(found[:-1] * widths)])
    heights = np.clip(1 / (1 + np.exp(-logits)), _LEAST, 1 - _LEAST)
    return [[_short(x), _short(p)] for x, p in zip(PROBABILITY, heights, strict=True)]


def document(fitted: Additive, points: Points, **about: Any) -> str:
    """Write the calibration as JSON, a term a line."""
    lines = [f'  "{name}": {json.dumps(value)},' for name, value in about.items()]
    lines += [f'  "intercept": {json.dumps(fitted.intercept)},', '  "terms": {']
    lines += [f'    "{name}": {json.dumps(value)},' for name, value in fitted.terms.items()]
    lines[-1] = lines[-1].rstrip(",")
    lines += [
        "  },",
        f'  "reach": {REACH},',
        f'  "bridge": {json.dumps({fitted.form.bridge: 1.0} if fitted.form.bridge else {})},',
        f'  "probability": {json.dumps(points)}',
    ]
    return "\n".join(["{", *lines, "}", ""])


def differences(one: Any, other: Any, where: str = "") -> list[tuple[str, float]]:
    """Name the numbers in which two calibrations differ, and by how much; inf for any other."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = list(dict.fromkeys([*one, *other]))
        pairs: list[tuple[Any, Any, Any]] = [(k, one.get(k), other.get(k)) for k in keys]
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        pairs = [(at, *both) for at, both in enumerate(zip(one, other, strict=True))]
    elif one == other:
        return []
    elif isinstance(one, int | float) and isinstance(other, int | float):
        return [(where, abs(one - other))]
    else:
        return [(where, float("inf"))]
    return [found for at, a, b in pairs for found in differences(a, b, f"{where}/{at}")]


def _segments(x: Floats, knots: Sequence[float]) -> Floats:
    """Return how far x has come in each segment, from 0 to 1."""
    return np.column_stack([np.clip((x - a) / (b - a), 0.0, 1.0) for a, b in pairwise(knots)])


def _logistic(design: Floats, same: Floats, weights: Floats, t: Floats) -> tuple[float, Floats]:
    z = design @ t[:-1] + t[-1]
    off = weights * (1 / (1 + np.exp(-z)) - same)
    value = float(np.sum(weights * (np.logaddexp(0.0, z) - same * z)))
    return value, np.append(design.T @ off, off.sum())


def _minimise(
    loss: Callable[[Floats], tuple[float, Floats]],
    start: Floats,
    bounds: Sequence[tuple[float | None, float | None]],
) -> Floats:
    from scipy.optimize import minimize  # noqa: PLC0415 - the tests read this module without scipy

    # To the optimum, which there is only one of: then it does not depend on the machine.
    options = {"maxiter": 20_000, "maxfun": 50_000, "ftol": 1e-14, "gtol": 1e-5, "maxcor": 50}
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    if not found.success:
        raise RuntimeError(f"the fit did not end: {found.message}")
    return np.asarray(found.x, np.float64)


def _short(value: float) -> float:
    rounded = round(float(value), _DIGITS)
    return int(rounded) if rounded == int(rounded) else rounded
