"""Numbers with and without a letter or suffix, and names of one letter."""

from __future__ import annotations

import pytest

from memora.judge._compare import compare
from memora.judge._text import analyse

CONFLICTS = {"identifiers", "numbers", "order"}
SAME = [
    ("RTX 3060 Ti price", "RTX 3060Ti price"),
    ("iPhone 13 Pro Max price", "iphone 13 pro max price"),
    ("section 7b says", "section 7B says"),
    ("vitamin K foods", "foods with vitamin k"),
    ("a 5s delay", "a 5 second delay"),
    ("a 10k run", "a 10,000 run"),
    ("ferry at 6pm", "ferry at 6 pm"),
    ("plan a trip", "plan the trip"),
    ("an x-ray", "an xray"),
    ("what is the U.S. budget", "what is the u.s. budget"),
]
DIFFERENT = [
    ("numbers", "Pixel 6 price", "Pixel 6a price"),
    ("numbers", "iPhone 13 price", "iPhone 13 Pro price"),
    ("identifiers", "iPhone 13 Pro price", "iPhone 13 Pro Max price"),
    ("numbers", "RTX 3060 price", "RTX 3060 Ti price"),
    ("identifiers", "Galaxy S21 price", "Galaxy S21 Ultra price"),
    ("numbers", "route 17 leaves", "route 17E leaves"),
    ("numbers", "section 7 says", "section 7a says"),
    ("identifiers", "print on A3 paper", "print on A4 paper"),
    ("identifiers", "release v3 notes", "release v3.1 notes"),
    ("identifiers", "vitamin A foods", "vitamin K foods"),
    ("identifiers", "foods with vitamin D", "foods with vitamin B"),
    ("identifiers", "is plan A cheap", "is plan B cheap"),
    ("identifiers", "format drive D", "format drive E"),
    ("identifiers", "learn C", "learn R"),
    ("identifiers", "learn C", "learn C++"),
    ("identifiers", "is C older than C++", "is C older than C#"),
    ("identifiers", "plot of f over x", "plot of f over z"),
]


@pytest.mark.parametrize(("a", "b"), SAME)
def test_the_same_name_in_another_form_is_no_conflict(a: str, b: str) -> None:
    assert not CONFLICTS & compare(analyse(a), analyse(b)).features.keys()


@pytest.mark.parametrize(("feature", "a", "b"), DIFFERENT)
def test_another_model_or_letter_is_a_conflict_both_ways(feature: str, a: str, b: str) -> None:
    features, evidence = compare(analyse(a), analyse(b))

    assert features[feature] >= 1
    assert feature in {one.kind for one in evidence}
    assert compare(analyse(b), analyse(a)).features == pytest.approx(features)


def test_letters_of_other_scripts_are_not_names() -> None:
    features, _ = compare(analyse("我买的东西"), analyse("请问如何退回"))

    assert "identifiers" not in features
