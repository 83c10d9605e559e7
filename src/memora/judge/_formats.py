"""Rewrite amounts, times of day and fractions that can be written in several ways to one form."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from memora.judge._words import relations, stem

if TYPE_CHECKING:
    from collections.abc import Callable

_NUMBER_WORDS = (
    "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve",
)  # fmt: skip
_WORTH = {word: number for number, word in enumerate(_NUMBER_WORDS, start=1)}
_ROMAN = ("I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X", "XI", "XII")
_N = rf"(?:\d{{1,6}}(?:\.\d{{1,3}})?|{'|'.join(_NUMBER_WORDS)})"
_SPANS = r"(?:minute|hour|day|week|month|year|decade)"
_HALVED = (
    rf"(?:{_SPANS}|mile|kilomet(?:er|re)|kilo|met(?:er|re)|pound|lit(?:er|re)|gallon|cup|teaspoon"
    r"|tablespoon|dozen)"
)
# After "I" as a number: "type I diabetes", not "the type I like".
_NOT_A_VERB = (
    r"(?!(?:\w+ed|am|was|have|had|want|need|like|love|can|could|do|did|don|didn|read|use|get|got|see"
    r"|saw|should|would|will|think|bought|live|work|prefer|chose|choose|mean|know|wrote|just|also"
    r"|really|must|might|may)\b)\w"
)
# A unit after "a" is an amount only where the phrase ends: not in "for a day trip".
_PHRASE_ENDS = (
    r"(?=\s*(?:[.,?!;)]|\Z)|\s(?:of|or|and|in|on|at|to|from|before|after|ago|later|without|with|if"
    r"|when|long)\b)"
)


class _Rule(NamedTuple):
    triggers: tuple[str, ...]
    """Parts in lower case; a text without any of them is not searched."""
    pattern: re.Pattern[str]
    write: Callable[[re.Match[str]], str] | str


def _rule(triggers: str, pattern: str, write: Callable[[re.Match[str]], str] | str) -> _Rule:
    return _Rule(tuple(triggers.split("|")), re.compile(pattern, re.IGNORECASE), write)


def in_one_form(text: str) -> str:
    """Return a text with amounts rewritten; its number words above twelve are digits already."""
    lower = text.lower()
    for triggers, pattern, write in _RULES_OF_DIGITS + _RULES if _DIGIT.search(text) else _RULES:
        for trigger in triggers:
            if trigger in lower:
                text = pattern.sub(write, text)
                break
    return text


def _worth(number: str) -> float:
    return _WORTH.get(number.lower()) or float(number)


def _minutes(match: re.Match[str]) -> str:
    return f"{60 * _worth(match[1]) + int(match[2]):g} minutes"


def _inches(match: re.Match[str]) -> str:
    return f"{12 * int(match[1]) + int(match[2])} inches"


def _fraction(match: re.Match[str]) -> str:
    lower = match[2]
    return f"{_worth(match[1]):g}/{lower[0] if lower[0].isdigit() else 4}"


def _separate(match: re.Match[str]) -> str:
    # "7-abc" is an identifier, "7-day" is not.
    return f"{match[1]} " if stem(match[2]) in relations().rarity else match[0]


_PREPOSITIONS = (
    r"\b(in|for|within|after|over|than|under|least|most|about|around|only|just|lasts?|takes?)"
)
_TIMES = r"\b(at|by|before|until|till|after|from)"
_RULES = (
    _rule(" and a half", rf"\b({_N}) and a half\b", lambda match: f"{_worth(match[1]) + 0.5:g}"),
    _rule(" and a half", rf"\b(?:an?|one|1) ({_HALVED}) and a half\b", r"1.5 \1s"),
    _rule("half a", r"\bhalf a (\d{1,12})\b", lambda match: f"{int(match[1]) / 2:g}"),
    _rule("half a|half dozen", rf"\bhalf (?:an? (?={_HALVED}\b)|(?=dozen\b))", "0.5 "),
    _rule("half of", r"\bhalf of\b", "50 percent of"),
    _rule("clock", rf"\b({_N}) o'? ?clock\b", r"\1"),
    _rule("noon|midday", rf"{_TIMES} (?:12 )?(?:noon|midday)\b", r"\1 12:00"),
    _rule("midnight", rf"{_TIMES} (?:12 )?midnight\b", r"\1 0:00"),
    _rule(
        "quarter|3rd|4th|5th|6th|7th|8th|9th",
        r"\b(\d|one|two|three|four|five|six|seven) (\d(?:rd|th)(?:s\b|(?= of\b))"
        r"|quarters?(?= of an?\b| of the\b))",
        _fraction,
    ),
    _rule(
        " a minute| an hour| a day| a week| a month| a year| a decade",
        rf"{_PREPOSITIONS} an? ({_SPANS}\b){_PHRASE_ENDS}",
        r"\1 1 \2",
    ),
    _rule("hour of|day of|week of|month of|year of", rf"\ban? ({_SPANS})(?= of\b)", r"1 \1"),
    _rule("a dozen", r"\ba (?=dozen\b)", "1 "),
    _rule(
        "twice|thrice", r"\bt(w|h)r?ice\b", lambda match: f"{2 if match[1] in 'wW' else 3} times"
    ),
    _rule(
        " ii| iv| v| x|war i|type i|phase i|stage i|part i|chapter i|volume i|act i",
        r"\b(war|part|chapter|volume|vol|phase|type|level|section|episode|season|stage|article"
        r"|title|tier|act|book) ((?-i:I{2,3}|I[VX]|VI{0,3}|XI{0,2}"
        r"|I(?=\s*(?:[.,?!:;)]|\Z))"
        rf"|(?:(?<=ar )|(?<=ype )|(?<=hase )|(?<=tage ))I(?= {_NOT_A_VERB})))\b",
        lambda match: f"{match[1]} {_ROMAN.index(match[2]) + 1}",
    ),
)
_RULES_OF_DIGITS = (
    _rule(
        " m",
        rf"\b({_N}) ?h(?:ours?|rs?)?,?(?: and)? (\d{{1,2}}) ?m(?:in(?:ute)?s?)?\b",
        _minutes,
    ),
    _rule("h0|h1|h2|h3|h4|h5", r"\b(\d{1,2})h([0-5]\d)(?:m(?:in)?)?\b", _minutes),
    _rule(
        "ft|feet|foot|'",
        r"(?<![\w.])(\d) ?(?:ft\.?|feet|foot|') ?(\d{1,2}) ?(?:inch(?:es)?\b|in\b|\"|'')",
        _inches,
    ),
    _rule(".m|. m", r"(?<=\d) ?([ap])\. ?m\b\.?", r" \1m"),
    _rule(
        "x ",
        r"(?<=\d)x(?= (?:as|faster|slower|more|less|bigger|larger|better|cheaper)\b)",
        " times",
    ),
    _rule("-", r"(?<![\w.-])(\d{1,4})-(?=((?-i:[a-z]{3,}))\b(?!-\d))", _separate),
    _rule(" 000", r"\b\d{1,3}(?: 000){1,4}\b", lambda match: match[0].replace(" ", "")),
    _rule("no.", r"\bno\.(?= ?\d)", "number "),
)
_DIGIT = re.compile(r"\d")
