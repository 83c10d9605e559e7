"""Curves, exact intervals and recommendations, on counts that can be checked by hand."""

from __future__ import annotations

import sys
from fractions import Fraction
from math import comb

import numpy as np
import pytest
from doubles import WordEmbedder

from memora.errors import ArgumentError, MissingExtraError
from memora.judge import Judge
from memora.tuning import (
    GRID,
    LabelledPair,
    curve,
    enough,
    interval,
    recommend,
    score,
)


def tail(count: int, whole: int, share: float, *, upper: bool) -> float:
    """Return the exact probability of so many or more (upper), or so many or fewer."""
    p = Fraction(share)
    outcomes = range(count, whole + 1) if upper else range(count + 1)
    return float(sum(comb(whole, k) * p**k * (1 - p) ** (whole - k) for k in outcomes))


def scored(*groups: tuple[float, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return similarities and labels of groups: similarity, right ones, wrong ones."""
    similarity = [s for s, right, wrong in groups for _ in range(right + wrong)]
    labels = [at < right for _, right, wrong in groups for at in range(right + wrong)]
    return np.array(similarity), np.array(labels)


@pytest.mark.parametrize(
    ("count", "whole"), [(0, 1), (0, 299), (1, 7), (3, 10), (10, 10), (17, 200), (199, 200)]
)
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.999])
def test_an_interval_ends_where_the_binomial_tails_are_half_of_the_doubt(
    count: int, whole: int, confidence: float
) -> None:
    low, high = (
        float(end[0]) for end in interval(np.array([count]), np.array([whole]), confidence)
    )

    half = (1 - confidence) / 2
    if count:
        assert tail(count, whole, low, upper=True) == pytest.approx(half, rel=1e-6)
    else:
        assert low == 0
    if count < whole:
        assert tail(count, whole, high, upper=False) == pytest.approx(half, rel=1e-6)
    else:
        assert high == 1


def test_of_nothing_nothing_is_known() -> None:
    low, high = interval(np.array([0]), np.array([0]), 0.95)

    assert (low[0], high[0]) == (0, 1)


def test_a_large_count_has_a_narrow_interval() -> None:
    low, high = interval(np.array([10_000]), np.array([1_000_000]), 0.95)

    assert 0.0098 < low[0] < 0.01 < high[0] < 0.0102


def test_a_curve_counts_what_reaches_each_threshold() -> None:
    found = curve(*scored((1.0, 2, 1), (0.9, 5, 0), (0.5, 1, 3), (0.0, 0, 4)))

    assert (found.pairs, found.right) == (16, 8)
    assert [point.threshold for point in found.points] == list(GRID)
    for threshold, served, right, wrong in [
        (1.0, 3, 2, 1),
        (0.905, 3, 2, 1),
        (0.9, 8, 7, 1),
        (0.505, 8, 7, 1),
        (0.5, 12, 8, 4),
        (0.005, 12, 8, 4),
    ]:
        point = found.at(threshold)
        assert (point.served.count, point.right_served) == (served, right)
        assert (point.wrong_of_all.count, point.wrong_of_all.whole) == (wrong, 16)
        assert (point.wrong_of_hits.count, point.wrong_of_hits.whole) == (wrong, served)


def test_thresholds_read_from_text_are_those_of_the_grid() -> None:
    assert len(GRID) == 201
    assert all(float(f"{threshold:g}") == threshold for threshold in GRID)
    assert list(GRID) == sorted(GRID, reverse=True)


def test_what_serves_most_and_keeps_the_budget_is_recommended() -> None:
    found = curve(*scored((0.9, 500, 0), (0.8, 480, 2), (0.7, 480, 50), (0.1, 0, 100)))

    advice = recommend(found, 0.01)

    assert advice.status == "found"
    assert advice.point == found.at(0.8)
    assert advice.wrong == found.at(0.8).wrong_of_all
    assert advice.wrong.high <= 0.01
    assert found.at(0.7).wrong_of_all.high > 0.01


def test_where_several_serve_the_same_the_strictest_is_recommended() -> None:
    found = curve(*scored((0.9, 500, 0), (0.4, 0, 100)))

    assert found.at(0.405).wrong_of_all.high <= 0.01
    assert recommend(found, 0.01).point == found.at(0.9)


def test_of_the_hits_the_start_is_where_enough_are_served() -> None:
    found = curve(*scored((0.95, 20, 0), (0.9, 1000, 0), (0.8, 200, 1), (0.7, 200, 80)))

    advice = recommend(found, 0.01, of="hits")

    assert advice.point == found.at(0.8)
    assert advice.wrong is not None
    assert (advice.wrong.count, advice.wrong.whole) == (1, 1221)
    # Two sequences: each at half of the doubt, so the interval is wider than that of one.
    assert found.at(0.8).wrong_of_hits.high < advice.wrong.high <= 0.01


def test_of_the_hits_a_later_start_passes_over_wrong_ones_at_the_top() -> None:
    """Of all, wrong ones only become more; of the hits, their share may fall again."""
    found = curve(*scored((0.9, 380, 20), (0.6, 40_000, 0), (0.3, 0, 10_000)))

    assert found.at(0.9).wrong_of_hits.low > 0.01
    assert recommend(found, 0.01, of="hits").point == found.at(0.6)


def test_a_sequence_ends_at_the_first_that_fails() -> None:
    found = curve(*scored((0.9, 1200, 0), (0.8, 0, 120), (0.7, 2500, 0)))

    assert found.at(0.7).wrong_of_hits.high < 0.045  # it would do, were it looked at
    assert recommend(found, 0.05, of="hits").point == found.at(0.9)


def test_too_few_pairs_are_told_with_how_many_it_takes() -> None:
    found = curve(*scored((0.9, 50, 0), (0.3, 0, 50)))

    advice = recommend(found, 0.01)

    assert (advice.status, advice.point, advice.wrong) == ("too_few", None, None)
    assert advice.needed == enough(0.01) == 368
    assert recommend(curve(*scored((0.9, 184, 0), (0.3, 0, 184))), 0.01).status == "found"
    assert recommend(found, 0.01, of="hits").needed == 2 * 368


def test_where_no_threshold_keeps_the_budget_more_pairs_are_not_asked_for() -> None:
    found = curve(*scored((0.99, 90, 10), (0.5, 900, 100)))

    advice = recommend(found, 0.001)

    assert (advice.status, advice.needed) == ("out_of_reach", None)


def test_a_threshold_that_serves_nothing_is_not_recommended() -> None:
    found = curve(*scored((0.99, 0, 500), (0.5, 500, 0)))

    assert recommend(found, 0.01).status == "out_of_reach"


def test_more_confidence_takes_more_pairs() -> None:
    assert enough(0.01, confidence=0.9) == 299
    assert enough(0.01, confidence=0.99) == 528
    few, many = enough(0.01, share=0.002), enough(0.01, share=0.008)
    assert few is not None
    assert many is not None
    assert 368 < few < many
    assert enough(0.01, share=0.01) is None


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5, float("nan"), True, "1%"])
def test_shares_are_between_0_and_1(share: float) -> None:
    found = curve(*scored((0.9, 5, 5)))

    with pytest.raises(ArgumentError, match="max_wrong="):
        recommend(found, share)
    with pytest.raises(ArgumentError, match="confidence="):
        recommend(found, 0.01, confidence=share)
    with pytest.raises(ArgumentError, match="confidence="):
        curve(*scored((0.9, 5, 5)), confidence=share)


def test_a_curve_needs_a_pair() -> None:
    with pytest.raises(ArgumentError, match="no pairs"):
        curve(np.array([]), np.array([], np.bool_))


def test_pairs_are_scored_as_lookups_are() -> None:
    embedder = WordEmbedder(window=6)
    judge = Judge(embedder.identity)
    same, near = "what was revenue in q3", "what was revenue in q4"
    pairs = [
        LabelledPair(f"  {same} ", same, right=True),  # the same in canonical form
        LabelledPair(same, near, right=False),
        LabelledPair("a text of more words than the window", same, right=True),
    ]
    told: list[tuple[int, int | None]] = []

    found = score(
        pairs,
        embedder=embedder,
        judge=judge,
        progress=lambda done, total: told.append((done, total)),
    )

    one, other = embedder.embed([same, near])
    assert one is not None
    assert other is not None
    cosine = float((one * other).sum())
    assert found.similarity.tolist() == [
        1.0,
        judge.assess(same, [(near, cosine)])[0].similarity,
        0.0,
    ]
    assert found.right.tolist() == [True, False, True]
    assert told == [(3, 3)]
    assert found.similarity[1] < cosine


def test_a_pair_in_two_languages_is_served_at_no_threshold() -> None:
    embedder = WordEmbedder()
    pair = LabelledPair(
        "Wie setze ich mein Passwort in SAP zurück?",
        "How do I reset my password in SAP?",
        right=True,
    )
    barred = score([pair], embedder=embedder, judge=Judge("words-1"))
    allowed = score([pair], embedder=embedder, judge=Judge("words-1", cross_lingual=True))

    assert barred.similarity[0] == 0
    assert allowed.similarity[0] > 0


def test_without_the_extra_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.special", None)

    with pytest.raises(MissingExtraError, match=r"memora-cache\[tuning\]"):
        curve(np.array([0.5]), np.array([True]))
