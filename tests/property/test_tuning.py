"""What a recommendation promises, on queries whose truth is known."""

from __future__ import annotations

from math import comb
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memora.tuning import GRID, curve, recommend

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from memora.tuning import Of

    Floats = NDArray[np.float64]

OF: tuple[Of, ...] = ("all", "hits")
RUNS = 200
CONFIDENCE = 0.9  # low, so that a promise that does not hold shows soon


def honest(similarity: Floats) -> Floats:
    """Return how likely an answer is right, where the similarity says so."""
    return similarity


def boastful(similarity: Floats) -> Floats:
    """Return the same, where it is less likely than the similarity says."""
    return similarity**1.5 * 0.995


def uneven(similarity: Floats) -> Floats:
    """Return the same, where most that is wrong is at the top."""
    return np.where(similarity > 0.97, 0.9, np.where(similarity > 0.6, 0.995, 0.5))


def truth(likely: Callable[[Floats], Floats], of: Of) -> dict[float, float]:
    """Return the share that each threshold really serves wrongly, from a fine grid of quantiles."""
    similarity = np.random.default_rng(1).beta(2, 1, 400_000)
    wrong = 1 - likely(similarity)
    found = {}
    for threshold in GRID:
        served = similarity >= threshold
        whole = served.sum() if of == "hits" else len(similarity)
        found[threshold] = float(wrong[served].sum() / max(whole, 1))
    return found


def allowed(runs: int, share: float) -> int:
    """Return how many of the runs may fail, if each does with this probability: to 99.9 %."""
    total = 0.0
    for count in range(runs + 1):
        total += comb(runs, count) * share**count * (1 - share) ** (runs - count)
        if total > 0.999:
            return count
    return runs


@pytest.mark.parametrize("pairs", [400, 20_000])
@pytest.mark.parametrize("likely", [honest, boastful, uneven])
def test_the_budget_is_kept_as_often_as_the_confidence_says(
    likely: Callable[[Floats], Floats], pairs: int
) -> None:
    budget = 0.03
    real = {of: truth(likely, of) for of in OF}
    draw = np.random.default_rng(pairs)
    broken, found = dict.fromkeys(OF, 0), dict.fromkeys(OF, 0)
    for _ in range(RUNS):
        similarity = draw.beta(2, 1, pairs)
        right = draw.random(pairs) < likely(similarity)
        drawn = curve(similarity, right, confidence=CONFIDENCE)
        for of in OF:
            advice = recommend(drawn, budget, of=of, confidence=CONFIDENCE)
            if advice.point is not None:
                found[of] += 1
                broken[of] += real[of][advice.point.threshold] > budget
    # Of all runs, not of those with a recommendation: the promise is about what is recommended.
    assert max(broken.values()) <= allowed(RUNS, 1 - CONFIDENCE)
    if pairs > 1000 and likely is not boastful:
        # A promise that is kept by saying nothing is worth nothing.
        assert min(found.values()) > RUNS / 2


@given(
    st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=80),
    st.floats(0.01, 0.5),
    st.sampled_from(["all", "hits"]),
)
def test_a_recommendation_is_a_point_of_the_curve_that_keeps_the_budget(
    rows: list[tuple[float, bool]], budget: float, of: Of
) -> None:
    similarity = np.array([similarity for similarity, _ in rows])
    right = np.array([label for _, label in rows])

    found = curve(similarity, right)
    advice = recommend(found, budget, of=of)

    served = [point.served.count for point in found.points]
    wrong = [point.wrong_of_all.count for point in found.points]
    assert served == sorted(served)
    assert wrong == sorted(wrong)
    for point in found.points:
        assert point.served.count == int((similarity >= point.threshold).sum())
        for share in (point.served, point.wrong_of_all, point.wrong_of_hits):
            assert 0 <= share.low <= share.value <= share.high <= 1 or not share.whole
    assert (advice.status == "found") == (advice.point is not None)
    if advice.point is not None:
        assert advice.point in found.points
        assert advice.point.served.count
        assert advice.wrong is not None
        assert advice.wrong.value <= advice.wrong.high <= budget
    if advice.status == "too_few":
        assert advice.needed is not None
        assert advice.needed > len(rows)


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60))
def test_a_larger_budget_never_serves_less(rows: list[tuple[float, bool]]) -> None:
    similarity = np.array([similarity for similarity, _ in rows])
    found = curve(similarity, np.array([label for _, label in rows]))

    thresholds = [
        1.1 if (advice := recommend(found, budget)).point is None else advice.point.threshold
        for budget in (0.05, 0.1, 0.2, 0.4)
    ]

    assert thresholds == sorted(thresholds, reverse=True)
