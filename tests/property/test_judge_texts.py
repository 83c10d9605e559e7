"""Whatever a text is made of, it is taken apart and compared: no exception, in bounded time."""

from __future__ import annotations

import datetime as dt
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memora.judge._compare import compare
from memora.judge._text import MOST_CHARACTERS, analyse, forget

# Generous: for a pair it takes some milliseconds, and seconds where time grows with the square.
BOUNDED = settings(deadline=dt.timedelta(seconds=2), max_examples=150)

SHARES = {"polarity", "polarity_loose", "question", "explained", "anchored"}
FLAGS = {"names", "order", "bounds", "foreign", "languages"}

FRAGMENTS = [
    "99/99/9999", "0/0/00", "0000-00-00", "2020/13/45", "31-Foo-2020", "00-Jan-00", "Q9", "H3",
    "FY00", "'00", "0s", "1st", "000th", "00:00", "99:99:99", "12.30.2020", "5 pm", "99 am",
    "5.333 am", "9" * 400, "9" * 400 + " am", "9" * 400 + " million km", "0" * 50, "1,000,000.5",
    "1e999", "1e-999", "million " * 30, "5 k k k k", "5 m", "5 M", "1/2", "1 1/2", "½", "1½",
    "²", "10²", "x²", "٣", "٣/٣/٢٠٢٠", "१२", "\U0001d7d9\U0001d7da", "①", "Ⅳ",
    "\uff15\uff10\uff05", "\uff04\uff15", "㎏", "5㎞", "°", "5°",
    "5 ° F", "20 degrees", "$", "$ $ 5", "$5 March", "5 US", "US dollars", "UK", "1.2.3.4.5.6.7",
    "v1", "v1.", "Python 3.", "version 10", "a@b.c", "@", "https://", "www.", "~/", "/a/b", "C:\\",
    "--", "--x", "a_", "_1", "C++", "c#", "f()", "a.b.c", "n't", "don't", "'s", "o'", "'", '"', "`",
    "[x]", "you are a", "answer the question:", "user:", "hi", "please", "how many", "what is the",
    "at least", "or more", "to", "to the", "from", "by", "is", "not", "pas", "nicht", "never",
    "fiscal", "first", "second quarter", "3rd half", "of", "may", "May", "mar", "sun", "Sun",
    "twenties", "today", "one", "zero", "point", "twenty one", "dozen", "compare", "vs", "NATO",
    "İ", "ß", "\u017f", "ǅ", "ﬁ", "ﷺ", "e\u0301\u0323", "שלום", "\u202e", "مرحبا", "パン", "한국",
    "👩‍👩‍👧",
    "\u200b", "\x00", "\x1f", "\x85", "\ud800", "\udfff", "\U0010ffff", "\n", "\t", "(", ")", "{",
]  # fmt: skip

SOUPS = [
    r"[0-9/.:,\-' ]{0,40}",
    r"(\$|€)?[0-9]{1,20}([.,][0-9]{1,4}){0,3} ?(k|m|M|bn|km|GB|%|am|pm|st|th)?",
    r"([a-zA-Z]{0,3}[-_/.@+#:\\]{0,3}[0-9]{0,3}){0,12}",
    r"([A-Z][a-z]{1,6}('s|n't)? ){0,6}\d{0,4}",
]

texts = st.one_of(
    st.text(max_size=60),
    st.text(st.characters(), max_size=60),  # with halves of surrogate pairs
    st.one_of([st.from_regex(soup, fullmatch=True) for soup in SOUPS]),
    st.lists(st.sampled_from(FRAGMENTS), max_size=10).map(" ".join),
    st.lists(st.sampled_from(FRAGMENTS), max_size=10).map("".join),
)
repeated = st.tuples(
    texts, st.lists(st.sampled_from(FRAGMENTS), min_size=1, max_size=3).map("".join), texts
).map(lambda parts: parts[0] + (parts[1] * MOST_CHARACTERS)[: 2 * MOST_CHARACTERS] + parts[2])


def assert_comparable(a: str, b: str) -> None:
    one, other = analyse(a), analyse(b)
    features, evidence = compare(one, other)

    assert all(math.isfinite(value) and value > 0 for value in features.values())
    assert all(features[name] <= 1 + 1e-9 for name in SHARES & features.keys())
    assert all(features[name] == 1 for name in FLAGS & features.keys())
    assert all(found.kind and found.detail for found in evidence)
    assert compare(other, one).features == pytest.approx(features)


@BOUNDED
@given(texts, texts)
def test_any_two_texts_can_be_compared(a: str, b: str) -> None:
    assert_comparable(a, b)


@BOUNDED
@given(texts, st.sampled_from(FRAGMENTS), st.integers(0, 60))
def test_a_text_can_be_compared_with_itself_changed_in_one_place(
    text: str, fragment: str, at: int
) -> None:
    assert_comparable(text, f"{text[:at]} {fragment} {text[at:]}")


@settings(BOUNDED, max_examples=40)
@given(repeated, repeated)
def test_long_and_hostile_texts_take_bounded_time(a: str, b: str) -> None:
    forget()

    assert_comparable(a, b)


@pytest.mark.parametrize(
    "piece",
    [
        "a", "9", "1,", "1-", "1.", "1/", "1:", "-", "'", '"', "(", "[", "[a] ", "a.", "aa.", "@",
        "a@", "a@a.", "/a", "./", "C:\\", "--a", "a_", "v1.", "how many ", "what is the ", "one ",
        "one hundred ", "million ", "5 k ", "may ", "to a ", "ok, ", "please ", "you are a ",
        "q: ", "$1 ", "n't ", "not ", " ", "\n", "\x00", "²", "٣", "½", "ﷺ", "東", "\u0301\u0323",
        "\u202eש ", "👩‍👩‍👧", "\ud800",
    ],
)  # fmt: skip
@settings(deadline=dt.timedelta(seconds=2), max_examples=1)
@given(st.just(100_000))
def test_a_piece_repeated_takes_bounded_time(piece: str, characters: int) -> None:
    forget()
    text = (piece * characters)[:characters]

    assert_comparable(text, f"x {text}")


@given(st.integers(10**12, 10**40), st.integers(1, 10**12))
def test_long_numbers_differ_in_their_last_digits(number: int, more: int) -> None:
    features, _ = compare(analyse(f"invoice {number}"), analyse(f"invoice {number + more}"))

    assert features["numbers"] == 1


@given(st.dates(dt.date(1969, 1, 1), dt.date(2068, 12, 31)))
def test_a_date_is_the_same_in_every_format(date: dt.date) -> None:
    forms = [
        f"{date:%Y-%m-%d}", f"{date:%Y/%m/%d}", f"{date:%d.%m.%Y}", f"{date:%m/%d/%Y}",
        f"{date:%m/%d/%y}", f"{date:%d-%b-%Y}", f"{date.day} {date:%B %Y}", f"{date:%b %d, %Y}",
    ]  # fmt: skip

    assert len({frozenset(analyse(f"paid on {form}").atoms) for form in forms}) == 1
