"""Words that an affix tells apart are neither typos of each other nor one word."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memora.judge import Judge
from memora.judge._affixes import affix_relation
from memora.judge._words import stem

JUDGE = Judge("all-MiniLM-L6-v2")

DIFFERENT = [
    *[(f"send the {a} digest", f"send the {b} digest") for a, b in (
        ("monthly", "bimonthly"), ("annual", "semiannual"), ("weekly", "triweekly"),
        ("weekly", "bi-weekly"), ("weekly", "semi-weekly"), ("final", "semifinal"),
        ("refundable", "nonrefundable"), ("refundable", "non-refundable"),
        ("subscribed", "unsubscribed"), ("approved", "disapproved"), ("compressed", "decompressed"),
        ("interpreted", "misinterpreted"), ("order", "preorder"), ("ordered", "reordered"),
        ("prenatal", "postnatal"), ("overweight", "underweight"), ("inflow", "outflow"),
        ("hyperglycemia", "hypoglycemia"), ("interstate", "intrastate"),
        ("macroeconomic", "microeconomic"), ("macronutrients", "micronutrients"),
        ("painful", "painless"), ("cord", "cordless"), ("sugary", "sugarless"),
        ("licensor", "licensee"), ("mentor", "mentee"), ("trainers", "trainees"),
        ("payer", "payee"), ("employer", "employee"), ("lender", "borrower"),
    )],
    *[(f"how toxic is {a} in water", f"how toxic is {b} in water") for a, b in (
        ("phosphate", "phosphite"), ("bromide", "bromate"), ("fluorine", "fluoride"),
        ("methane", "methanol"), ("ethylene", "ethane"), ("pentane", "pentene"),
        ("hexanol", "hexane"), ("potassium perchlorate", "potassium perchloride"),
        ("carbon", "carbonate"),
    )],
    ("is stationary free here", "is stationery free here"),
    ("how to boost morale in a team", "how to boost moral in a team"),
    ("reports for each custom", "reports for each customer"),
]  # fmt: skip
TYPOS = [
    ("send the mothly digest", "send the monthly digest"),
    ("is it a definate date", "is it a definite date"),
    ("my recieved parcels", "my received parcels"),
    ("the enviroment of the office", "the environment of the office"),
    ("acommodation in town", "accommodation in town"),
    ("a restaraunt in town", "a restaurant in town"),
    ("resubmitt the claim", "resubmit the claim"),
    ("unsubscibe from the list", "unsubscribe from the list"),
    ("nitrte levels in water", "nitrate levels in water"),
]
SAME = [
    ("send the bi-weekly digest", "send the biweekly digest"),
    ("a non refundable fare", "a non-refundable fare"),
    ("preorder the game", "pre-order the game"),
    ("the importance of sleep", "how important is sleep"),
    ("the customer's orders", "the customers orders"),
    ("how to train a dog", "how to train dogs"),
]


def similarity(a: str, b: str, cosine: float) -> float:
    (judged,) = JUDGE.assess(a, [(b, cosine)])
    return judged.similarity


@pytest.mark.parametrize(("a", "b"), DIFFERENT)
def test_an_affix_makes_another_word(a: str, b: str) -> None:
    assert similarity(a, b, 0.97) < 0.8
    assert similarity(b, a, 0.97) < 0.8


@pytest.mark.parametrize(("a", "b"), TYPOS)
def test_a_typo_remains_a_typo(a: str, b: str) -> None:
    assert similarity(a, b, 0.8) > 0.85
    assert similarity(b, a, 0.8) > 0.85


@pytest.mark.parametrize(("a", "b"), SAME)
def test_another_spelling_or_form_is_the_same_word(a: str, b: str) -> None:
    assert similarity(a, b, 0.92) > 0.85


def test_the_evidence_names_the_words() -> None:
    (judged,) = JUDGE.assess("list the payers", [("list the payees", 0.97)])

    assert [(one.kind, one.detail) for one in judged.evidence] == [("affix", "payers / payees")]


@pytest.mark.parametrize(
    ("one", "other", "relation"),
    [
        ("known", "unknown", "opposite"),
        ("hopeful", "hopeless", "opposite"),
        ("flow", "outflow", "other"),
        ("hypertension", "hypotension", "other"),
        ("nitrates", "nitrite", "other"),
        ("port", "sport", ""),  # no affix
        ("form", "inform", "opposite"),  # by its letters
        ("set", "reset", ""),  # too short to be sure
        ("define", "definite", ""),
        ("propose", "propane", ""),
        ("s", "ss", ""),
    ],
)
def test_the_relation_of_two_words(one: str, other: str, relation: str) -> None:
    assert affix_relation(one, other) == affix_relation(other, one) == relation


@given(st.text("aeinrstulos", min_size=1, max_size=12), st.text("abdeilnorstu", max_size=12))
def test_any_two_words_can_be_compared(one: str, other: str) -> None:
    assert affix_relation(one, other) == affix_relation(other, one)


def test_unrelated_words_have_stems_of_their_own() -> None:
    for one, other in (("humane", "human"), ("customer", "custom"), ("engineers", "engine")):
        assert stem(one) != stem(other)
    assert stem("customers") == stem("customer")
    assert stem("importance") == stem("important")
