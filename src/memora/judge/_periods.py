"""Read periods relative to now, such as "last week" and "year to date"."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from memora.judge._words import MONTHS, UNITS, WEEKDAYS, word_set

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memora.judge._atoms import Token

_DIRECTIONS = {
    "this": "this", "current": "this", "last": "last", "previous": "last", "prior": "last",
    "past": "last", "next": "next", "following": "next",
}  # fmt: skip
_NOUNS = {
    name: name
    for name in word_set(
        "week weekend month quarter year hour semester season decade century sprint cycle period "
        "summer winter spring autumn"
    )
} | {
    "term": "semester",
    "fall": "autumn",
    "wk": "week",
    "qtr": "quarter",
    "yr": "year",
    "fy": "fiscal year",
}
_ADJECTIVES = {
    "fiscal": "fiscal ", "financial": "fiscal ", "calendar": "", "tax": "tax ", "pay": "pay ",
    "school": "school ", "academic": "school ", "billing": "billing ", "business": "business ",
}  # fmt: skip
_DAYS = {("current", "day"): "today", ("previous", "day"): "yesterday"}
_TONIGHT = frozenset(("evening", "night"))
_BEYOND = {"tomorrow": "after", "next": "after", "yesterday": "before", "last": "before"}
_UP_TO_NOW = {"wtd": "week", "mtd": "month", "qtd": "quarter", "ytd": "year"}
_UP_TO = _UP_TO_NOW.values()

STARTS = _DIRECTIONS.keys() | {"day"} | set(_UP_TO) | _UP_TO_NOW.keys()
"""Words that may begin a relative period."""


class Period(NamedTuple):
    """A relative period; equal values of one kind mean the same time."""

    kind: str
    value: str
    used: int
    """Number of tokens."""


def read_period(  # noqa: PLR0911 - one form after the other
    tokens: Sequence[Token], at: int
) -> Period | None:
    """Read the relative period that begins at a token; None if there is none.

    Args:
        tokens: With at least six more tokens behind the last one of the text.
        at: Index of a word in STARTS.
    """
    first, second = tokens[at].lower, tokens[at + 1].lower
    if first not in _DIRECTIONS:
        return _read_fixed(first, second, tokens[at + 2].lower)
    used = 1
    if first == "this" and second in _DIRECTIONS:  # "this past week"
        first, used = second, 2
    direction = _DIRECTIONS[first]
    noun = tokens[at + used].lower
    if day := _DAYS.get((first, noun)):
        return Period("day", day, used + 1)
    if noun in WEEKDAYS or noun in MONTHS:  # it is read by itself
        named = tokens[at + used].text[0].isupper()
        return Period("relative", f"{direction} {noun[:3]}", used) if named else None
    if tokens[at + used].kind == "number":  # "the last 7 days"
        unit = UNITS.get(tokens[at + used + 1].lower)
        spans = direction != "this" and unit is not None and unit.dimension == "time"
        return Period("relative", f"{direction} span", used) if spans else None
    adjective = _ADJECTIVES.get(noun)
    if adjective is not None:
        used += 1
        noun = tokens[at + used].lower
    if direction == "this" and noun in _TONIGHT:
        return Period("day", "tonight", used + 1)
    name = _NOUNS.get(noun)
    # In "the last week of May" it means the final one.
    if name is None or (tokens[at + used + 1].lower == "of" and direction == "last"):
        return None
    return Period("relative", f"{direction} {adjective or ''}{name}", used + 1)


def _read_fixed(first: str, second: str, third: str) -> Period | None:
    """Read "year to date", "the day after tomorrow" and "the week before last"."""
    if first in _UP_TO_NOW:
        return Period("relative", f"{_UP_TO_NOW[first]} to date", 1)
    if first in _UP_TO and (second, third) == ("to", "date"):
        return Period("relative", f"{first} to date", 3)
    if _BEYOND.get(third) == second:
        kind = "day" if first == "day" else "relative"
        return Period(kind, f"{first} {second} {third}", 3)
    return None
