"""Periods relative to now: the same one in other words, and another one."""

from __future__ import annotations

import pytest

from memora.judge._compare import compare
from memora.judge._text import analyse

SAME = [
    ("refunds this month", "refunds in the current month"),
    ("refunds last month", "refunds of the previous month"),
    ("refunds in the past quarter", "refunds in the last quarter"),
    ("refunds next week", "refunds in the following week"),
    ("refunds this past weekend", "refunds last weekend"),
    ("refunds in the past 14 days", "refunds in the last 14 days"),
    ("refunds this fiscal year", "refunds in the current FY"),
    ("refunds last financial year", "refunds last fiscal year"),
    ("refunds next term", "refunds next semester"),
    ("refunds last fall", "refunds last autumn"),
    ("refunds YTD", "refunds year to date"),
    ("refunds on the previous day", "refunds yesterday"),
    ("alarms tonight", "alarms this evening"),
    ("standup this Tuesday", "standup Tuesday"),
    ("last week's refunds", "refunds last week"),
    ("refunds this week", "refunds this week please"),
]
DIFFERENT = [
    ("refunds this month", "refunds last month"),
    ("refunds this month", "refunds next month"),
    ("refunds in the current year", "refunds in the previous year"),
    ("refunds last week", "refunds last month"),
    ("refunds last week", "refunds last weekend"),
    ("refunds last week", "refunds in the last 7 days"),
    ("refunds in the last 30 days", "refunds in the next 30 days"),
    ("refunds this year", "refunds this fiscal year"),
    ("refunds this tax year", "refunds next tax year"),
    ("refunds YTD", "refunds MTD"),
    ("refunds last quarter", "refunds quarter to date"),
    ("refunds last week", "refunds the week before last"),
    ("remind me tomorrow", "remind me the day after tomorrow"),
    ("refunds today", "refunds this week"),
    ("refunds yesterday", "refunds last week"),
    ("standup next Tuesday", "standup last Tuesday"),
    ("bugs of this sprint", "bugs of the next sprint"),
]


@pytest.mark.parametrize(("a", "b"), SAME)
def test_the_same_period_in_other_words_is_no_conflict(a: str, b: str) -> None:
    features, _ = compare(analyse(a), analyse(b))

    assert not {"dates", "numbers", "siblings", "substitution"} & features.keys()


@pytest.mark.parametrize(("a", "b"), DIFFERENT)
def test_another_period_is_a_conflict_both_ways(a: str, b: str) -> None:
    features, evidence = compare(analyse(a), analyse(b))

    assert features["dates"] >= 1
    assert "dates" in {one.kind for one in evidence}
    assert compare(analyse(b), analyse(a)).features["dates"] >= 1


@pytest.mark.parametrize(
    "text",
    [
        "the last week of May", "this is wrong", "the next episode", "what is this", "day by day",
        "what may happen next", "the past", "this may be last", "a month to remember",
    ],
)  # fmt: skip
def test_these_words_do_not_always_name_a_period(text: str) -> None:
    assert "relative" not in {kind for kind, _ in analyse(text).atoms}


def test_a_relative_period_does_not_bridge_a_low_cosine() -> None:
    features, _ = compare(analyse("refunds paid this year"), analyse("refunds paid this year?"))

    assert "anchored" not in features
