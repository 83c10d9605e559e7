"""The decision to serve."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memora.judge import judge
from memora.model import Context, Entry, Match


def match(cosine: float, query: str = "q") -> Match:
    entry = Entry(
        id=query,
        key=query.encode(),
        query=query,
        context=Context("{}", ""),
        created_at=0,
        expires_at=None,
    )
    return Match(entry, cosine)


@pytest.mark.parametrize(
    ("cosine", "threshold", "reason"),
    [
        (0.85, 0.85, "semantic"),
        (0.849, 0.85, "below_threshold"),
        (1.0000001, 1.0, "below_threshold"),  # 1 is for the same text, which needs no judge
        (1.0000001, 0.999, "semantic"),
        (0.0, 0.0, "semantic"),
        (-0.5, 0.0, "semantic"),
        (-0.5, 0.01, "below_threshold"),
    ],
)
def test_the_threshold_decides(cosine: float, threshold: float, reason: str) -> None:
    assert judge([match(cosine)], threshold=threshold).reason == reason


def test_nothing_to_compare_is_its_own_reason() -> None:
    verdict = judge([], threshold=0.0)

    assert (verdict.reason, verdict.nearest, verdict.served) == ("no_candidate", None, False)


def test_the_explanation_has_the_numbers_that_decided() -> None:
    verdict = judge([match(0.712, "near"), match(0.3, "far")], threshold=0.85)

    assert verdict.explanation == "similarity 0.712 is below the threshold 0.85"
    assert verdict.nearest is not None
    assert verdict.nearest.entry.query == "near"


def test_a_refusal_never_reads_as_if_it_had_reached_the_threshold() -> None:
    verdict = judge([match(0.84999)], threshold=0.85)

    assert verdict.explanation == "similarity 0.849 is below the threshold 0.85"


@given(st.floats(-1, 1), st.floats(0, 1), st.floats(0, 1))
def test_a_higher_threshold_never_turns_a_miss_into_a_hit(
    cosine: float, a: float, b: float
) -> None:
    low, high = sorted((a, b))

    if judge([match(cosine)], threshold=high).served:
        assert judge([match(cosine)], threshold=low).served
