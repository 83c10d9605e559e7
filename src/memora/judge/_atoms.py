"""Find the exact parts of a text: numbers with units, dates, identifiers, addresses.

An atom is a kind and a canonical value, so that "5 km" and "5,000 metres", "Q3" and "the third
quarter", "$10k" and "ten thousand dollars" are equal atoms.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from memora.judge._periods import STARTS, read_period
from memora.judge._words import MONTHS, SCALES, UNITS, WEEKDAYS, word_set

if TYPE_CHECKING:
    from collections.abc import Callable


class Atom(NamedTuple):
    """An exact part of a text: equal atoms mean the same, different atoms of one kind do not."""

    kind: str
    value: str
    shown: str
    """The original text."""


class Token(NamedTuple):
    """A token of the text, with the class the scanner gave it."""

    kind: str
    text: str
    lower: str


_Found = tuple[tuple[Atom, ...], int]
"""The atoms found and the number of tokens used; empty and 0 if there are none."""

# Order matters: longer readings come first, except for plain words, which no other pattern can
# match and which are most of any text. Every repetition is bounded, or ends where no other can
# begin on the same characters, so a scan takes linear time.
_TOKENS = re.compile(
    r"\s?(?:"
    r"(?P<plain>[A-Za-z]+(?=[\s,?!]|$))"
    r"|(?P<mail>(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,5})"
    r"|(?P<link>https?://[^\s<>\"']{1,300}|www\.[^\s<>\"']{1,300})"
    r"|(?P<iso>\b\d{4}(?:-\d{1,2}-|/\d{1,2}/)\d{1,2}\b|\b\d{4}-(?:0[1-9]|1[0-2])\b(?!-))"
    r"|(?P<slash>\b\d{1,2}/\d{1,2}/\d{2,4}\b)"
    r"|(?P<fraction>\b[1-9]/[2-9]\b(?!/))"
    r"|(?P<point>\b\d{1,2}\.\d{1,2}\.\d{4}\b)"
    r"|(?P<clock>\b\d{1,2}:\d{2}(?::\d{2})?\b)"
    r"|(?P<version>\bv?\d+(?:\.\d+){2,5}\b|\bv\d+(?:\.\d+)?\b)"
    r"|(?P<path>(?:~|\.{1,2})?/[\w.-]+(?:/[\w.-]+)+|\b[A-Za-z]:\\[\w.\\-]+)"
    r"|(?P<flag>(?<![\w-])--[A-Za-z][\w-]*)"
    r"|(?P<ordinal>\b\d{1,9}(?:st|nd|rd|th)\b)"
    r"|(?P<id>\b[A-Za-z]{1,12}[-_]?\d[\w-]*(?:\.\d+)*\+*"
    r"|\b\d{1,20}[-_](?:\d{1,20}[-_]){0,8}[A-Za-z][\w-]*"
    r"|\b\d+[A-Za-z]+\d\w*|\b[A-Za-z]+_[\w]+)"
    r"|(?P<short>'\d{2}\b)"
    r"|(?P<decade>\b(?:1[0-9]|20)?\d0'?s\b)"
    r"|(?P<part>\b\d{1,6}(?:\.\d{1,4})?(?:[aeinoqrzAEINS]|ac|ax|be|[Tt]i|SE|X[LTSR])\b)"
    r"|(?P<number>(?:-(?<![\w.%)\]]-)(?<!\d -)(?=\d[\d,.]{0,30}(?![\d/:-])))?"
    r"(?:\d{1,30}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?))"
    r"|(?P<dotted>\b[A-Za-z_]\w*(?:\.[A-Za-z_]\w+)+(?:\(\))?)"
    r"|(?P<symbol>[A-Za-z](?:\+\+|\#)|°[CFcf]?|%|(?:-(?<![\w.%)\]]-)(?=.\d))?[$€£¥₹])"
    r"|(?P<and>&&?)|(?P<or>\|\|)"
    r"|(?P<to>(?<=\d)\s?[:-]\s?(?=\d))"
    r"|(?P<wide>[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af])"
    r"|(?P<word>[^\W\d_]+(?:'[^\W\d_]+)?))"
)
_TOKEN_KINDS = {"plain": "word", "and": "word", "or": "word", "to": "word", "part": "id"}
_SIGN_WORDS = word_set("and or to")
_PERIOD = re.compile(r"(?:(\d{4})[-_]?)?(?:(?:q|quarter)([1-4])|h([12]))(?:[-_]?(\d{4}))?")
_FISCAL = re.compile(r"fy(\d{2}|\d{4})")
_NAMED_MONTH = re.compile(r"(?:(\d{1,2})[-_])?([a-z]{3,9})[-_](\d{2}|\d{4})")

_YEARS = range(1000, 2200)  # four digits in this range are a year, unless context says otherwise
_PIVOT = 69  # two-digit years from here on are in the 20th century, as in POSIX
_LAST_MONTH = 12
_DAY_DIGITS = 2
_SHORT_DAY = 3  # letters; "sun" and "sat" are weekdays only if capitalised
# A float keeps 15 digits, of which twelve survive a unit conversion. Longer numbers, such as order
# or account numbers, are compared as text.
_EXACT_DIGITS = 12

_MOST_SCALES = 3  # "2 hundred thousand million" has three

_VERSION = word_set("version versions release")
# Names of versioned software, for which 3.10 differs from 3.1.
_VERSIONED = word_set(
    "python java node ruby php go django react angular kubernetes postgres postgresql mysql ubuntu"
)

# Words that name another product after a model's number. Those in capitals are also ordinary words.
_SUFFIXES = word_set("pro ultra ti lite fe xl xt")
_SECOND_SUFFIXES = word_set("max plus")
_CAPITAL_SUFFIXES = word_set("Max Plus Mini Air Super Edge Fold Flip SE S")

_MONEY = frozenset("$€£¥₹")
_CURRENCIES = {"US": "USD", "us": "USD", "canadian": "CAD", "australian": "AUD", "swiss": "CHF"}
_DEGREES = {"c": "celsius", "f": "fahrenheit"}
_HALVES = frozenset(("am", "pm"))
_RELATIVE = word_set("today tomorrow yesterday tonight")
_DECADES = {
    name: f"19{digit}0s"
    for digit, name in enumerate(
        ("twenties", "thirties", "forties", "fifties", "sixties", "seventies", "eighties",
         "nineties"), start=2
    )
}  # fmt: skip
# Month names that are also words, or abbreviations that are, in lower case.
_DOUBTFUL_MONTHS = word_set("may march mar jan dec sep oct")
_BEFORE_MONTHS = word_set("in of since until")
# Dimensions whose units carry meaning without a number: "in dollars".
_BARE = word_set(
    "celsius fahrenheit kelvin USD EUR GBP JPY INR CHF percent length mass volume data speed power "
    "pressure"
)
_OTHER_MEANINGS = word_set("cup foot yard ton kilo")
_NO_UNITS = word_set("in second")  # not a unit after a number: "5 in all", "2 second hand phones"
_NEGATIVE = frozenset(("minus", "negative"))
_STARTS = (
    STARTS | _NEGATIVE | MONTHS.keys() | WEEKDAYS.keys() | _RELATIVE | _DECADES.keys() | {"fiscal"}
    | {
        name for name, unit in UNITS.items()
        if unit.dimension in _BARE and len(name) > 1 and name not in _OTHER_MEANINGS
    }
)  # fmt: skip
"""Words that may begin an atom."""

_NOTHING: _Found = ((), 0)
_END = Token("", "", "")
_LOOKAHEAD = 3 + _MOST_SCALES  # tokens


def tokens_of(text: str) -> list[Token]:
    """Return the tokens of a text, in order; anything unrecognised is dropped."""
    tokens = []
    for match in _TOKENS.finditer(text):
        kind = match.lastgroup or ""
        found = match[kind]
        if kind in _TOKEN_KINDS:
            if kind in _SIGN_WORDS:
                found = kind  # "&" is read as "and"
            kind = _TOKEN_KINDS[kind]
        tokens.append(Token(kind, found, found.lower()))
    return tokens


def take_atoms(tokens: list[Token]) -> tuple[list[Atom], list[Token | Atom]]:
    """Return the atoms, and the sequence with each atom in place of its tokens."""
    atoms: list[Atom] = []
    sequence: list[Token | Atom] = []
    padded = [*tokens, *[_END] * _LOOKAHEAD]
    at = 0
    while at < len(tokens):
        token = tokens[at]
        found, used = _NOTHING
        if token.kind != "word" or token.lower in _STARTS:
            read = _READERS.get(token.kind)
            if read:
                found, used = read(padded, at)
        if found:
            atoms += found
            sequence += found
            at += used
        else:
            sequence.append(token)
            at += 1
    return atoms, sequence


def _one(kind: str, value: str, shown: str, used: int = 1) -> _Found:
    return (Atom(kind, value, shown),), used


def _word(tokens: list[Token], at: int) -> _Found:
    lower = tokens[at].lower
    if lower in STARTS:
        return _relative(tokens, at)
    return _negative(tokens, at) if lower in _NEGATIVE else _named(tokens, at)


def _relative(tokens: list[Token], at: int) -> _Found:
    period = read_period(tokens, at)
    if period is None:
        return _NOTHING
    shown = " ".join([token.text for token in tokens[at : at + period.used]])
    return _one(period.kind, period.value, shown, period.used)


def _named(tokens: list[Token], at: int) -> _Found:
    _, text, lower = tokens[at]
    if lower in MONTHS:
        return _month(tokens, at)
    if lower in WEEKDAYS:
        named = text[0].isupper() or len(lower) > _SHORT_DAY
        return _one("weekday", str(WEEKDAYS[lower]), text) if named else _NOTHING
    if lower == "fiscal":
        return _one("period", "fiscal", "fiscal year", 1 + (tokens[at + 1].lower == "year"))
    if lower in UNITS:
        if currency := _currency_before(tokens, at):
            return _one("unit", currency, f"{tokens[at - 1].text} {text}")
        return _one("unit", _unit(lower), text)
    return _one("year" if lower in _DECADES else "day", _DECADES.get(lower, lower), text)


def _negative(tokens: list[Token], at: int) -> _Found:
    """Read "minus 5", which is not a subtraction."""
    number = tokens[at + 1]
    if number.kind != "number" or (at and tokens[at - 1].kind == "number"):
        return _NOTHING
    tokens[at + 1] = Token("number", f"-{number.text.lstrip('-')}", number.lower)
    found, used = _number(tokens, at + 1)
    return found, used + 1


def _month(tokens: list[Token], at: int) -> _Found:
    """Read a month and a following day; return nothing if it is an ordinary word, such as "may"."""
    (_, text, lower), after = tokens[at], tokens[at + 1]
    is_day = after.kind == "ordinal" or (after.kind == "number" and len(after.text) <= _DAY_DIGITS)
    if lower in _DOUBTFUL_MONTHS and not (
        is_day
        or (text[0].isupper() and (at or after.kind == "number"))
        or (at and (tokens[at - 1].lower in _BEFORE_MONTHS or tokens[at - 1].kind == "number"))
    ):
        return _NOTHING
    month = Atom("month", str(MONTHS[lower]), text)
    if is_day:
        return (month, Atom("day", after.lower.rstrip("stndrh").lstrip("0"), after.text)), 2
    return (month,), 1


def _ordinal(tokens: list[Token], at: int) -> _Found:
    (_, text, lower), after = tokens[at], tokens[at + 1]
    number = lower[:-2].lstrip("0") or "0"
    if after.lower in {"quarter", "half"}:
        return _one("period", after.lower[0] + number, f"{text} {after.text}", 2)
    ahead = 2 if after.lower == "of" else 1
    if tokens[at + ahead].lower in MONTHS:
        found, used = _month(tokens, at + ahead)
        return (Atom("day", number, text), *found), ahead + used
    return _one("number", number, text)


def _identifier(tokens: list[Token], at: int) -> _Found:
    _, text, lower = tokens[at]
    if match := _PERIOD.fullmatch(lower):
        before, quarter, half, after = match.groups()
        period = Atom("period", f"q{quarter}" if quarter else f"h{half}", text)
        year = before or after
        return ((period, Atom("year", year, text)) if year else (period,)), 1
    if match := _FISCAL.fullmatch(lower):
        return (Atom("period", "fiscal", text), Atom("year", _year(match[1]), text)), 1
    if (match := _NAMED_MONTH.fullmatch(lower)) and match[2] in MONTHS:
        day = (match[1],) if match[1] else ()
        return _date(text, _year(match[3]), str(MONTHS[match[2]]), *day)
    return _model(tokens, at, lower) or _one("identifier", lower, text)


def _model(tokens: list[Token], at: int, name: str) -> _Found | None:
    """Read the suffixes of a model's name, such as "15 Pro Max"; None if there are none."""
    used = 1
    while used < _LOOKAHEAD and (
        (after := tokens[at + used]).lower in _SUFFIXES
        or after.text in _CAPITAL_SUFFIXES
        or (used > 1 and after.lower in _SECOND_SUFFIXES)
    ):
        used += 1
    if used == 1:
        return None
    texts = [token.text for token in tokens[at : at + used]]
    return _one("identifier", name + "".join(texts[1:]).lower(), " ".join(texts), used)


def _iso(tokens: list[Token], at: int) -> _Found:
    text = tokens[at].text
    year, month, *day = re.split("[-/]", text)
    return _date(text, year, month, *day)


def _slash(tokens: list[Token], at: int) -> _Found:
    """Read an American date (month first), unless the first number can only be a day."""
    text = tokens[at].text
    month, day, year = text.split("/")
    if int(month) > _LAST_MONTH:
        month, day = day, month
    return _date(text, _year(year), month, day)


def _point(tokens: list[Token], at: int) -> _Found:
    text = tokens[at].text
    day, month, year = text.split(".")
    return _date(text, year, month, day)


def _date(text: str, year: str, month: str, *day: str) -> _Found:
    date = Atom("year", year, text), Atom("month", month.lstrip("0"), text)
    return (*date, *(Atom("day", one.lstrip("0"), text) for one in day)), 1


def _year(digits: str) -> str:
    """Return a year with its century."""
    if len(digits) > 2:  # noqa: PLR2004 - "99" has two
        return digits
    return f"{19 if int(digits) >= _PIVOT else 20}{digits}"


def _short(tokens: list[Token], at: int) -> _Found:
    text = tokens[at].text
    return _one("year", _year(text[1:]), text)


def _decade(tokens: list[Token], at: int) -> _Found:
    _, text, lower = tokens[at]
    digits = lower.rstrip("s").rstrip("'")
    if len(digits) == 2:  # noqa: PLR2004 - "90s" is the 1990s; "twenties" is the 1920s
        digits = ("20" if digits < "20" else "19") + digits
    return _one("year", f"{digits}s", text)


def _clock(tokens: list[Token], at: int) -> _Found:
    (_, text, _), after = tokens[at], tokens[at + 1]
    hour, minute, *seconds = text.split(":")
    time = ":".join([minute, *(second for second in seconds if second != "00")])
    if after.lower in _HALVES:
        return _one("number", f"{_hour(hour, after.lower)}:{time}", f"{text} {after.text}", 2)
    return _one("number", f"{int(hour)}:{time}", text)


def _hour(hour: str, half: str) -> int:
    return int(hour) % 12 + (12 if half == "pm" else 0)


def _address(tokens: list[Token], at: int) -> _Found:
    _, text, lower = tokens[at]
    return _one("identifier", lower.rstrip(".,;:!?)"), text)


def _version(tokens: list[Token], at: int) -> _Found:
    _, text, lower = tokens[at]
    return _one("version", lower.lstrip("v"), text)


def _symbol(tokens: list[Token], at: int) -> _Found:
    (_, text, lower), after = tokens[at], tokens[at + 1]
    if text[0] == "-":
        minus, text, lower = text[0], text[1:], lower[1:]
    else:
        minus = ""
    if text in _MONEY and after.kind == "number":
        amount = _amount(tokens, at + 1, money=True)
        used = 1 + amount.used
        currency = UNITS[text].dimension
        last = tokens[at + used].lower
        if last in UNITS and UNITS[last].dimension == currency:  # "$5 dollars"
            used += 1
        return _one(
            "number", f"{minus}{amount.exact} {currency}", minus + text + amount.shown, used
        )
    if lower in UNITS:
        return _one("unit", _unit(lower), text)
    return _one("identifier", lower, text) if text[0].isalpha() else _NOTHING


class _Amount(NamedTuple):
    exact: str
    shown: str
    used: int


def _amount(tokens: list[Token], at: int, *, money: bool = False) -> _Amount:
    """Read digits and scale words; "m" means million only for money, or as "M"."""
    text, after = tokens[at].text, tokens[at + 1]
    digits, shown, used, scale = text.replace(",", ""), text, 1, 1.0
    if after.kind == "fraction" and len(digits) <= _DAY_DIGITS and digits.isdigit():  # "1 1/2"
        digits, shown, used = f"{int(digits) + _divided(after):g}", f"{text} {after.text}", 2
    elif tokens[at].kind == "fraction":
        digits = f"{_divided(tokens[at]):g}"
    while (
        used <= _MOST_SCALES
        and (after := tokens[at + used]).lower in SCALES
        and (money or after.text.isupper() or after.lower not in UNITS)
    ):
        scale *= SCALES[after.lower]
        shown, used = f"{shown} {after.text}", used + 1
    return _Amount(_times(digits, scale), shown, used)


def _divided(fraction: Token) -> float:
    upper, lower = fraction.text.split("/")
    return int(upper) / int(lower)


def _times(digits: str, factor: float) -> str:
    """Multiply; a number with more digits than a float keeps stays text."""
    if len(digits) > _EXACT_DIGITS:
        digits = digits.lstrip("0") or "0"
        return digits if factor == 1 else f"{digits}*{factor:g}"
    value = float(digits) * factor
    return f"{value:.0f}" if value.is_integer() else f"{value:.12g}"


def _number(tokens: list[Token], at: int) -> _Found:
    text = tokens[at].text
    before, after = tokens[at - 1] if at else _END, tokens[at + 1]
    if before.kind == "word" and (model := _model(tokens, at, text)):
        return model
    if text[0] == "-" and text[1:].isdigit() and int(text[1:]) in _YEARS:
        text = text[1:]  # "sales -2019" has a dash
    if before.lower in _VERSION or ("." in text and before.lower in _VERSIONED):
        return _one("version", text, text)
    if len(text) == 4 and text.isdigit() and int(text) in _YEARS:  # noqa: PLR2004 - a year's digits
        if after.lower not in UNITS or after.lower == "second":
            return _one("year", text, text)
    elif len(text) <= _DAY_DIGITS and after.lower in MONTHS:
        found, more = _month(tokens, at + 1)
        return (Atom("day", text.lstrip("0"), text), *found), 1 + more
    elif after.lower in _HALVES:
        hour, _, minute = text.partition(".")
        if len(hour) <= 2 and len(minute) in {0, 2}:  # noqa: PLR2004 - "5" or "5.30"
            time = f"{_hour(hour, after.lower)}:{minute or '00'}"
            return _one("number", time, f"{text} {after.text}", 2)
    return _quantity(tokens, at)


def _quantity(tokens: list[Token], at: int) -> _Found:
    """Read an amount with its unit or currency."""
    exact, shown, used = _amount(tokens, at)
    after, further = tokens[at + used], tokens[at + used + 1]
    both = f"{shown} {after.text} {further.text}"
    if after.text == "°" or after.lower in {"degree", "degrees"}:
        name = _DEGREES.get(further.lower, further.lower)
        if name in UNITS:
            return _one("number", f"{exact} {UNITS[name].dimension}", both, used + 2)
    currency = _CURRENCIES.get(after.text) or _CURRENCIES.get(after.lower)
    if currency and further.lower in UNITS:
        return _one("number", f"{exact} {currency}", both, used + 2)
    if after.lower in UNITS and after.lower not in _NO_UNITS:
        if after.text in _MONEY and further.kind == "number":  # it belongs to the next number
            return _one("number", exact, shown, used)
        unit = UNITS[after.lower]
        dimension = unit.dimension
        if dimension.isupper():
            dimension = _currency_before(tokens, at + used) or dimension
        value = _times(exact, unit.factor)
        return _one("number", f"{value} {dimension}", f"{shown} {after.text}", used + 1)
    return _one("number", exact, shown, used)


def _unit(name: str) -> str:
    dimension, factor = UNITS[name]
    return dimension if dimension.isupper() else f"{factor:g} {dimension}"


def _currency_before(tokens: list[Token], at: int) -> str | None:
    """Return the currency that the preceding word names: "Canadian dollars"."""
    if not at:
        return None
    before = tokens[at - 1]
    return _CURRENCIES.get(before.text) or _CURRENCIES.get(before.lower)


_READERS: dict[str, Callable[[list[Token], int], _Found]] = {
    "word": _word, "ordinal": _ordinal, "id": _identifier, "iso": _iso, "slash": _slash,
    "point": _point, "clock": _clock, "mail": _address, "link": _address, "path": _address,
    "flag": _address, "dotted": _address, "version": _version, "symbol": _symbol,
    "number": _number, "fraction": _quantity, "decade": _decade, "short": _short,
}  # fmt: skip
