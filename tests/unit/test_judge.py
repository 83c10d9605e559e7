"""The decision to serve."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memora.judge import Judge, Verdict
from memora.model import Context, Entry, Evidence, Match

ALMOST_ONE = math.nextafter(1.0, 0.0)
WITHOUT = Judge("words-1", enabled=False)  # the bare cosine
UNCALIBRATED = Judge("words-1")
CALIBRATED = Judge("all-MiniLM-L6-v2:onnx:sha256=00")


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


def judge(matches: list[Match], *, threshold: float) -> Verdict:
    return WITHOUT.decide("query", matches, threshold=threshold)


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


@given(st.sampled_from([WITHOUT, UNCALIBRATED]), st.floats(-1, 1), st.floats(0, 1), st.floats(0, 1))
def test_a_higher_threshold_never_turns_a_miss_into_a_hit(
    judge: Judge, cosine: float, a: float, b: float
) -> None:
    low, high = sorted((a, b))
    found = [match(cosine, "sales in Q4")]

    if judge.decide("sales in Q3", found, threshold=high).served:
        assert judge.decide("sales in Q3", found, threshold=low).served


@given(st.lists(st.floats(-1, 1.0001), min_size=1, max_size=5), st.floats(0, 1))
def test_without_the_judge_the_similarity_is_the_cosine(
    cosines: list[float], threshold: float
) -> None:
    matches = [match(cosine, f"numbers differ: {n}") for n, cosine in enumerate(cosines)]

    judged = WITHOUT.assess("q", [(one.entry.query, one.cosine) for one in matches])
    verdict = WITHOUT.decide("q", matches, threshold=threshold)

    in_range = [min(max(cosine, 0.0), ALMOST_ONE) for cosine in cosines]
    assert [one.similarity for one in judged] == in_range
    assert [one.evidence for one in judged] == [()] * len(cosines)
    assert (verdict.similarity, verdict.evidence) == (max(in_range), ())
    assert verdict.served == (max(in_range) >= threshold)


def test_what_differs_is_told_in_words() -> None:
    verdict = UNCALIBRATED.decide("sales in Q3", [match(0.9, "sales in Q4")], threshold=0.85)

    assert (verdict.served, verdict.reason) == (False, "below_threshold")
    assert Evidence("dates", "Q3 / Q4") in verdict.evidence
    assert "is below the threshold 0.85; dates: Q3 / Q4" in verdict.explanation


def test_the_likeliest_candidate_decides_not_the_nearest() -> None:
    near, right = match(0.9, "sales in Q4"), match(0.88, "Sales in Q3?")

    verdict = UNCALIBRATED.decide("sales in Q3", [near, right], threshold=0.85)

    assert (verdict.nearest, verdict.served, verdict.evidence) == (right, True, ())


@given(st.floats(0, 1), st.sampled_from(["sales in Q4", "no sales in Q3", "sales in Q3 please"]))
def test_for_a_model_that_is_not_calibrated_evidence_only_lowers_the_cosine(
    cosine: float, stored: str
) -> None:
    (judged,) = UNCALIBRATED.assess("sales in Q3", [(stored, cosine)])

    assert 0 <= judged.similarity <= cosine


def similarity(judge: Judge, query: str, stored: str, cosine: float) -> float:
    (judged,) = judge.assess(query, [(stored, cosine)])
    return judged.similarity


@given(
    st.floats(-1, 1), st.floats(-1, 1), st.sampled_from(["sales in Q4", "What were Q3 revenues?"])
)
def test_a_higher_cosine_never_lowers_the_similarity(a: float, b: float, stored: str) -> None:
    low, high = sorted((a, b))

    assert similarity(CALIBRATED, "Analyze Q3 sales", stored, low) <= similarity(
        CALIBRATED, "Analyze Q3 sales", stored, high
    )


def test_evidence_outweighs_a_high_cosine_and_wording_a_low_one() -> None:
    assert similarity(CALIBRATED, "Analyze Q4 sales data", "Analyze Q3 sales data", 0.905) < 0.1
    assert similarity(CALIBRATED, "What were Q3 revenues?", "Analyze Q3 sales data", 0.591) > 0.85


def test_a_kind_of_evidence_can_be_left_out() -> None:
    without = Judge("all-MiniLM-L6-v2", without="dates")

    assert similarity(without, "sales in Q3", "sales in Q4", 0.9) > 0.5
    assert similarity(without, "sales in 3 shops", "sales in 4 shops", 0.9) < 0.2


SPANISH, ENGLISH = "¿Cómo cancelo mi suscripción?", "How do I cancel my subscription?"


def test_another_language_is_never_served_unless_asked() -> None:
    refused = CALIBRATED.decide(SPANISH, [match(1.0, ENGLISH)], threshold=0.0)

    assert (refused.served, refused.reason) == (False, "other_language")
    assert refused.evidence[0] == Evidence("language", "es / en")
    assert refused.explanation == "the nearest is in another language (es / en)"
    asked = Judge("another-model", cross_lingual=True)
    assert asked.decide(SPANISH, [match(1.0, ENGLISH)], threshold=0.5).served


def test_a_candidate_in_another_language_does_not_hide_one_that_may_be_served() -> None:
    matches = [match(0.99, ENGLISH), match(0.9, "¿Cómo cancelo la suscripción?")]

    verdict = Judge("another-model").decide(SPANISH, matches, threshold=0.5)

    assert (verdict.served, verdict.nearest) == (True, matches[1])


def test_a_language_that_only_the_verifier_judges_is_not_served_without_it() -> None:
    matches = [match(0.99, "¿Cómo cancelo la suscripción?")]

    verdict = CALIBRATED.decide(SPANISH, matches, threshold=0.0)

    assert (verdict.served, verdict.reason, verdict.nearest) == (False, "language", matches[0])
    assert verdict.explanation == (
        "the nearest is in a language that only the verifier judges, and it has not read the pair"
    )


@given(st.floats(0, 1))
def test_in_other_languages_a_judged_similarity_is_never_above_the_cosine(cosine: float) -> None:
    stored = "Welche Kunden haben im Jahr 2023 bezahlt?"

    assert similarity(CALIBRATED, "Welche Kunden bezahlten 2023?", stored, cosine) <= cosine
    assert similarity(CALIBRATED, stored.replace("2023", "2024"), stored, 0.97) < 0.5
