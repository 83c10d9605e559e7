"""Finds what is exact in a text: numbers with their units, dates, identifiers, addresses.

An atom is a kind and a canonical value, so that "5 km" and "5,000 metres", "Q3" and "the third
quarter", "$10k" and "ten thousand dollars" are the same one.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from memora.judge._words import MONTHS, SCALES, UNITS, WEEKDAYS


class Atom(NamedTuple):
    """Something exact: equal atoms mean the same, other atoms of the kind do not."""

    kind: str
    value: str
    shown: str
    """As it stands in the text."""


class Token(NamedTuple):
    """A piece of text, with its class as the scanner saw it."""

    kind: str
    text: str
    lower: str


# Order matters: the longest reading first. No repetition nests in another one over the same
# characters, so a scan is linear.
_TOKENS = re.compile(
    r"(?P<mail>[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,5})"
    r"|(?P<link>https?://[^\s<>\"']{1,300}|www\.[^\s<>\"']{1,300})"
    r"|(?P<iso>\b\d{4}-\d{2}-\d{2}\b)"
    r"|(?P<slash>\b\d{1,2}/\d{1,2}/\d{2,4}\b)"
    r"|(?P<point>\b\d{1,2}\.\d{1,2}\.\d{4}\b)"
    r"|(?P<clock>\b\d{1,2}:\d{2}(?::\d{2})?\b)"
    r"|(?P<version>\bv?\d+(?:\.\d+){2,5}\b|\bv\d+(?:\.\d+)?\b)"
    r"|(?P<path>(?:~|\.{1,2})?/[\w.-]+(?:/[\w.-]+)+|\b[A-Za-z]:\\[\w.\\-]+)"
    r"|(?P<flag>(?<![\w-])--[A-Za-z][\w-]*)"
    r"|(?P<ordinal>\b\d{1,9}(?:st|nd|rd|th)\b)"
    r"|(?P<id>\b[A-Za-z]{1,12}[-_]?\d[\w-]*(?:\.\d+)*\+*|\b\d+[-_](?:\d+[-_])*[A-Za-z][\w-]*"
    r"|\b\d+[A-Za-z]+\d\w*|\b[A-Za-z]+_[\w]+)"
    r"|(?P<short>'\d{2}\b)"
    r"|(?P<decade>\b(?:1[0-9]|20)?\d0'?s\b)"
    r"|(?P<number>\d{1,30}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?)"
    r"|(?P<dotted>\b[A-Za-z_]\w*(?:\.[A-Za-z_]\w+)+(?:\(\))?)"
    r"|(?P<symbol>[A-Za-z](?:\+\+|\#)|°[CFcf]?|%|[$€£¥₹])"
    r"|(?P<wide>[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af])"
    r"|(?P<word>[^\W\d_]+(?:'[^\W\d_]+)?)"
)
_QUARTER = re.compile(r"(?:q|quarter)([1-4])", re.IGNORECASE)
_HALF = re.compile(r"h([12])", re.IGNORECASE)
_FISCAL = re.compile(r"fy(\d{2}|\d{4})", re.IGNORECASE)

_MONEY = {"$", "€", "£", "¥", "₹"}
_MONEY_NAMES = {"US": "USD", "us": "USD", "canadian": "CAD", "australian": "AUD", "swiss": "CHF"}
RELATIVE = {"today", "tomorrow", "yesterday", "tonight"}
_YEARS = range(1000, 2200)
_CENTURY = 100


def tokens_of(text: str) -> list[Token]:
    """Split into tokens, in order; what is none of them is dropped."""
    return [
        Token(match.lastgroup or "", found := match.group(), found.lower())
        for match in _TOKENS.finditer(text)
    ]


def take_atoms(tokens: list[Token]) -> tuple[list[Atom], list[Token | Atom]]:
    """Return the atoms, and the sequence with every atom in place of its tokens."""
    atoms: list[Atom] = []
    sequence: list[Token | Atom] = []
    at = 0
    while at < len(tokens):
        token = tokens[at]
        if token.kind == "word" and token.lower not in _STARTS:
            sequence.append(token)
            at += 1
            continue
        found, used = _read(tokens, at)
        if not found:
            sequence.append(token)
            at += 1
            continue
        atoms += found
        sequence += found
        at += used
    return atoms, sequence


def _read(tokens: list[Token], at: int) -> tuple[list[Atom], int]:  # noqa: PLR0911, PLR0912, C901
    token = tokens[at]
    kind, text, lower = token
    after = tokens[at + 1] if at + 1 < len(tokens) else _NONE
    if kind == "word":
        if lower in MONTHS:
            return _month(tokens, at)
        if lower in WEEKDAYS and (text[0].isupper() or len(lower) > 3):  # noqa: PLR2004 - "sun"
            return [Atom("weekday", str(WEEKDAYS[lower]), text)], 1
        if lower in _DECADES:
            return [Atom("year", _DECADES[lower], text)], 1
        if lower in RELATIVE:
            return [Atom("day", lower, text)], 1
        if lower == "fiscal":
            used = 1 + (after.lower == "year")
            return [Atom("period", "fiscal", "fiscal year")], used
        if lower in UNITS and UNITS[lower].dimension in _BARE:
            return [Atom("unit", _currency(tokens, at) or _unit(lower), text)], 1
        return [], 0
    if kind == "ordinal":
        number = lower[:-2].lstrip("0") or "0"
        if after.lower in {"quarter", "half"}:
            return [Atom("period", after.lower[0] + number, f"{text} {after.text}")], 2
        if after.lower == "of" and at + 2 < len(tokens) and tokens[at + 2].lower in MONTHS:
            found, used = _month(tokens, at + 2)
            return [Atom("day", number, text), *found], used + 2
        if after.lower in MONTHS:
            found, used = _month(tokens, at + 1)
            return [Atom("day", number, text), *found], used + 1
        return [Atom("number", number, text)], 1
    if kind == "id":
        if match := _QUARTER.fullmatch(lower):
            return [Atom("period", f"q{match[1]}", text)], 1
        if match := _HALF.fullmatch(lower):
            return [Atom("period", f"h{match[1]}", text)], 1
        if match := _FISCAL.fullmatch(lower):
            year = match[1] if len(match[1]) > 2 else f"20{match[1]}"  # noqa: PLR2004
            return [Atom("period", "fiscal", text), Atom("year", year, text)], 1
        return [Atom("identifier", lower, text)], 1
    if kind == "iso":
        year, month, day = text.split("-")
        return _date(year, month, day, text), 1
    if kind == "slash":
        month, day, year = text.split("/")
        if int(month) > 12:  # noqa: PLR2004 - then it is the day
            month, day = day, month
        return _date(year if len(year) > 2 else f"20{year}", month, day, text), 1  # noqa: PLR2004
    if kind == "point":
        day, month, year = text.split(".")
        return _date(year, month, day, text), 1
    if kind == "clock":
        return _clock(text, after)
    if kind in {"mail", "link", "path", "flag", "dotted"}:
        return [Atom("identifier", lower.rstrip(".,;:!?)"), text)], 1
    if kind == "version":
        return [Atom("version", lower.lstrip("v"), text)], 1
    if kind == "symbol":
        if text in _MONEY and after.kind == "number":
            found, used = _number(tokens, at + 1)
            value = found[0].value.split(" ")[0]
            return [Atom("number", f"{value} {UNITS[text].dimension}", text + found[0].shown)], used + 1
        if lower in UNITS:
            return [Atom("unit", _unit(lower), text)], 1
        return ([Atom("identifier", lower, text)], 1) if text[0].isalpha() else ([], 0)
    if kind == "number":
        return _number(tokens, at)
    if kind == "decade":
        return [Atom("year", f"{text.rstrip('s').rstrip(_APOSTROPHE)[-2:]}s", text)], 1
    if kind == "short":
        return [Atom("year", f"20{text[1:]}", text)], 1
    return [], 0


def _number(tokens: list[Token], at: int) -> tuple[list[Atom], int]:  # noqa: PLR0911
    text = tokens[at].text
    digits = text.replace(",", "")
    shown, used = text, 1
    after = tokens[at + 1] if at + 1 < len(tokens) else _NONE
    if len(digits) == 4 and digits.isdigit() and int(digits) in _YEARS and "," not in text:  # noqa: PLR2004, SIM102
        if after.lower not in UNITS or after.lower == "second":
            return [Atom("year", digits, text)], 1
    if after.lower in MONTHS and len(digits) <= 2:  # noqa: PLR2004 - 5 March
        found, more = _month(tokens, at + 1)
        return [Atom("day", digits.lstrip("0"), text), *found], 1 + more
    value = float(digits) if len(digits) <= 300 else float("inf")  # noqa: PLR2004 - beyond a float
    while after.lower in SCALES and (after.lower not in UNITS or after.text.isupper()):
        value *= SCALES[after.lower]
        shown, used = f"{shown} {after.text}", used + 1
        after = tokens[at + used] if at + used < len(tokens) else _NONE
    exact = digits if value == float("inf") else f"{value:.12g}"
    if after.lower in {"am", "pm"} and used == 1:
        return [Atom("number", f"{_hour(int(float(digits)), after.lower)}:00", f"{shown} {after.text}")], 2
    if after.text == "°" or after.lower in {"degree", "degrees"}:
        further = tokens[at + used + 1] if at + used + 1 < len(tokens) else _NONE
        name = {"c": "celsius", "f": "fahrenheit"}.get(further.lower, further.lower)
        if name in UNITS:
            return [Atom("number", f"{exact} {UNITS[name].dimension}", f"{shown} {further.text}")], used + 2
    if after.lower in UNITS and after.lower not in {"in", "second"}:
        dimension, factor = UNITS[after.lower]
        if dimension.isupper():
            dimension = _currency(tokens, at + used) or dimension
        return [Atom("number", f"{value * factor:.12g} {dimension}", f"{shown} {after.text}")], used + 1
    further = tokens[at + used + 1] if at + used + 1 < len(tokens) else _NONE
    if after.text in _MONEY_NAMES or after.lower in _MONEY_NAMES and further.lower in UNITS:
        name = _MONEY_NAMES.get(after.text) or _MONEY_NAMES[after.lower]
        if further.lower in UNITS:
            return [Atom("number", f"{exact} {name}", f"{shown} {after.text} {further.text}")], used + 2
    return [Atom("number", exact, shown)], used


def _unit(name: str) -> str:
    dimension, factor = UNITS[name]
    return dimension if dimension.isupper() else f"{factor:g} {dimension}"


def _currency(tokens: list[Token], at: int) -> str | None:
    """Return the currency that the word before names: "Canadian dollars"."""
    if not at:
        return None
    before = tokens[at - 1]
    return _MONEY_NAMES.get(before.text) or _MONEY_NAMES.get(before.lower)


def _month(tokens: list[Token], at: int) -> tuple[list[Atom], int]:
    token = tokens[at]
    after = tokens[at + 1] if at + 1 < len(tokens) else _NONE
    is_day = after.kind == "ordinal" or (after.kind == "number" and len(after.text) <= 2)  # noqa: PLR2004
    if token.lower in {"may", "march", "mar", "jan", "dec", "sep", "oct"} and not (
        is_day or token.text[0].isupper() and (at or after.kind == "number") or _dated(tokens, at)
    ):
        return [], 0
    month = Atom("month", str(MONTHS[token.lower]), token.text)
    if is_day:
        return [month, Atom("day", after.text.rstrip("stndrh").lstrip("0"), after.text)], 2
    return [month], 1


def _dated(tokens: list[Token], at: int) -> bool:
    """Return whether a number or a preposition of time stands before: "in may", "5 march"."""
    return at > 0 and (tokens[at - 1].lower in {"in", "of", "since", "until"} or tokens[at - 1].kind == "number")


def _date(year: str, month: str, day: str, text: str) -> list[Atom]:
    return [
        Atom("year", year, text),
        Atom("month", month.lstrip("0"), text),
        Atom("day", day.lstrip("0"), text),
    ]


def _clock(text: str, after: Token) -> tuple[list[Atom], int]:
    hour, _, rest = text.partition(":")
    half = after.lower if after.lower in {"am", "pm"} else ""
    return [Atom("number", f"{_hour(int(hour), half)}:{rest}", f"{text} {half}".strip())], 1 + bool(half)


def _hour(hour: int, half: str) -> int:
    if half:
        return hour % 12 + (12 if half == "pm" else 0)
    return hour


_APOSTROPHE = "'"
_DECADES = {
    name: f"{digit}0s"
    for digit, name in enumerate(
        "twenties thirties forties fifties sixties seventies eighties nineties".split(), start=2
    )
}
_NONE = Token("", "", "")
_BARE = {
    "celsius", "fahrenheit", "kelvin", "USD", "EUR", "GBP", "JPY", "INR", "CHF", "percent",
    "length", "mass", "volume", "data", "speed", "power", "pressure",
}  # fmt: skip
# Words that may begin an atom.
_STARTS = (
    MONTHS.keys() | WEEKDAYS.keys() | RELATIVE | _DECADES.keys() | {"fiscal"}
    | {name for name, unit in UNITS.items() if unit.dimension in _BARE and len(name) > 1 and name not in {"cup", "foot", "yard", "ton", "kilo"}}
)  # fmt: skip
