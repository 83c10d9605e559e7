"""Small words that change a question: directions, persons, moods, and additions that narrow it."""

from __future__ import annotations

import pytest

from memora.judge import Judge
from memora.judge._compare import Comparison, compare
from memora.judge._text import analyse

JUDGE = Judge("all-MiniLM-L6-v2")

DIRECTIONS = [
    ("roll the window up", "roll the window down"),
    ("why did my score go up", "why did my score go down"),
    ("is the ferry in service", "is the ferry out of service"),
    ("clock in", "clock out"),
    ("how do I opt in to alerts", "how do I opt out of alerts"),
    ("pour it into the jar", "pour it out of the jar"),
    ("row over the line", "row under the line"),
    ("is it on the desk", "is it under the desk"),
    ("the label above the field", "the label below the field"),
    ("can I swim before lunch", "can I swim after lunch"),
    ("a salad with nuts", "a salad without nuts"),
    ("inbound calls per agent", "outbound calls per agent"),
    ("how to import a playlist", "how to export a playlist"),
    ("can I buy a kayak here", "can I sell a kayak here"),
    ("how to send a parcel", "how to receive a parcel"),
    ("may I lend a tent", "may I borrow a tent"),
]
REVERSED = [
    ("ferries to Crete", "ferries from Crete"),
    ("ferries towards Crete", "ferries from Crete"),
    ("can I swim with a meal", "can I swim after a meal"),
    ("a gift for Lena", "a gift from Lena"),
    ("messages sent to Lena", "messages sent by Lena"),
    ("move the funds from Lisbon to Porto", "move to Lisbon the funds from Porto"),
    ("can my neighbor sue me", "can I sue my neighbor"),
    ("does my cat trust me", "do I trust my cat"),
    ("did he call them", "did they call him"),
    ("can you hear me", "can I hear you"),
    ("who reports to Lena", "who does Lena report to"),
    ("which team did Ajax beat", "which team beat Ajax"),
    ("which clients pay us", "which clients do we pay"),
    ("which tasks block bugs", "which tasks are blocked by bugs"),
    ("what is my bonus", "what is his bonus"),
    ("what is her bonus", "what is his bonus"),
    ("when is our lease up", "when is their lease up"),
    ("am I on the list", "is she on the list"),
    ("did I lock the car", "did you lock the car"),
    ("my parcel is lost", "your parcel is lost"),
]
MOODS = [
    ("can guests smoke", "must guests smoke"),
    ("may I pay in cash", "must I pay in cash"),
    ("should I chill the dough", "can I chill the dough"),
    ("should I chill the dough", "must I chill the dough"),
    ("do I have to enroll", "can I enroll"),
    ("am I allowed to enroll", "do I need to enroll"),
    ("are visitors required to park here", "can visitors park here"),
    ("when can I claim", "when must I claim"),
    ("will the bank cut rates", "should the bank cut rates"),
    ("did the job succeed", "does the job succeed"),
    ("was it going to rain", "is it going to rain"),
    ("how many seats were free", "how many seats are free"),
]
JOINED = [
    ("rooms with a desk and a balcony", "rooms with a desk or a balcony"),
    ("songs by Bach or Brahms", "songs by Bach and Brahms"),
    ("flats with a lift plus parking", "flats with a lift or parking"),
]
ADDED = [
    ("dose of ibuprofen", "dose of ibuprofen for children"),
    ("a tour of the castle", "a tour of the castle for adults"),
    ("book a flight to Rome", "book a return flight to Rome"),
    ("the largest lake", "the second largest lake"),
    ("the highest peak", "the third highest peak"),
    ("width of the door", "width of the door in inches"),
    ("price of a tractor", "price of a used tractor"),
    ("price of a tractor", "price of a new tractor"),
    ("parking at the pier", "free parking at the pier"),
    ("delete all drafts", "delete all my drafts"),
    ("delete all drafts", "delete all of my drafts"),
    ("vets open now", "vets near me open now"),
    ("what is the bonus", "what is the manager's bonus"),
    ("what is my bonus", "what is my manager's bonus"),
    ("salary of a nurse", "salary of a nurse in Texas"),
    ("stain removal", "stain removal with vinegar"),
    ("when should I go the store", "when should I go in to the store"),
    ("when can I call", "when can I call back"),
]
SAME = [
    ("please send the report", "send the report"),
    ("hi, where is the pier", "where is the pier"),
    ("thanks, where is the pier", "where is the pier"),
    ("can you tell me where the pier is", "where the pier is"),
    ("explain tides for me", "explain tides"),
    ("explain tides in simple words", "explain tides"),
    ("explain tides in detail", "explain tides"),
    ("where in the world is Malta", "where is Malta"),
    ("the world's largest lake", "the largest lake"),
    ("how do you poach an egg", "how do I poach an egg"),
    ("how can I fix my accent", "how can you fix your accent"),
    ("should I buy gold", "should you buy gold"),
    ("how do I reset my router", "how to reset a router"),
    ("how should I dress", "how can I dress"),
    ("how would it end", "how will it end"),
    ("must I enroll", "do I have to enroll"),
    ("can I enroll", "am I allowed to enroll"),
    ("what was the cause of the war", "what is the cause of the war"),
    ("how far is it from Rome to Pisa", "how far is it to Pisa from Rome"),
    ("trains for Bonn", "trains to Bonn"),
    ("sign up to the list", "sign up for the list"),
    ("open on Sunday", "open Sunday"),
    ("roll the window up", "roll up the window"),
    ("is it in stock", "is it not out of stock"),
    ("who wrote Emma", "who was Emma written by"),
    ("what does my plan cover", "what is covered by my plan"),
    ("Ada taught Grace", "Grace was taught by Ada"),
    ("the gap between tea and coffee prices", "the gap between coffee and tea prices"),
    ("compare tea and coffee", "compare tea or coffee"),
    ("a film of ten thousand frames", "a film of frames"),
    ("is it sorted by date", "is it sorted by the date"),
    ("how do I fill in the form", "how do I fill the form"),
    ("she told me about my bonus", "about my bonus she told me"),
]  # fmt: skip
AGAINST = {"polarity", "order", "question", "quantifiers", "addition", "names", "siblings"}


def compared(a: str, b: str) -> Comparison:
    return compare(analyse(a), analyse(b))


def similarity(a: str, b: str) -> float:
    (judged,) = JUDGE.assess(a, [(b, 0.97)])
    return judged.similarity


@pytest.mark.parametrize(("a", "b"), [*DIRECTIONS, *REVERSED, *MOODS, *JOINED])
def test_a_small_word_makes_another_question(a: str, b: str) -> None:
    assert similarity(a, b) < 0.85
    assert similarity(b, a) < 0.85


@pytest.mark.parametrize(
    ("feature", "a", "b"),
    [
        *[("polarity", *pair) for pair in DIRECTIONS],
        *[("order", *pair) for pair in REVERSED],
        *[("question", *pair) for pair in MOODS],
        *[("quantifiers", *pair) for pair in JOINED],
        *[("addition", *pair) for pair in ADDED],
    ],
)
def test_each_kind_has_its_feature_and_evidence(feature: str, a: str, b: str) -> None:
    features, evidence = compared(a, b)

    assert features[feature] > 0
    assert evidence
    assert compared(b, a).features == pytest.approx(features)


@pytest.mark.parametrize(("a", "b"), SAME)
def test_another_wording_of_the_same_has_nothing_against_it(a: str, b: str) -> None:
    assert not AGAINST & compared(a, b).features.keys()
    assert not AGAINST & compared(b, a).features.keys()


@pytest.mark.parametrize(
    ("a", "b", "kind", "detail"),
    [
        ("ferries to Crete", "ferries from Crete", "order", "to / from"),
        ("is it in use", "is it out of use", "opposites", "in / out"),
        ("roll it down", "roll it up", "opposites", "down / up"),
        ("what is my bonus", "what is his bonus", "order", "I / he"),
        ("can I go", "must I go", "question", "may / must"),
        ("tea and milk", "tea or milk", "quantifiers", "and / or"),
        ("find a vet", "find a vet for horses", "words", "only one of them says for horses"),
        ("find a bus", "find a vet's bus", "words", "only one of them says vet's"),
        ("its width", "its width in inches", "words", "only one of them says in inches"),
        ("read all logs", "read all my logs", "words", "only one of them says all my"),
    ],
)
def test_the_evidence_reads_well(a: str, b: str, kind: str, detail: str) -> None:
    assert (kind, detail) in [(one.kind, one.detail) for one in compared(a, b).evidence]


def test_other_languages_are_not_read_as_english() -> None:
    assert (
        not AGAINST
        & compared("wer kommt in die Schule", "wer kommt out die Schule").features.keys()
    )
    assert not AGAINST & compared("voy a casa", "voy a casa or casa").features.keys()
