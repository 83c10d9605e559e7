"""Find what the words of a text leave out: operators, and the signs and letter case of code.

Signs and letter case carry meaning in code, commands and patterns, and little in prose. Each such
part of a text is a mark: a key and a spelling. Two texts conflict if both have the key and spell it
differently, such as `*args` and `**args`, or `curl -o` and `curl -O`. A mark whose key only one
text has is no conflict, because the other may say the same in words.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeAlias

from memora.judge._words import relations, stem, word_set

if TYPE_CHECKING:
    from collections.abc import Iterator

Mark: TypeAlias = "tuple[str, str, str]"
"""Kind of evidence, key, spelling."""

_PUNCTUATION = ".,;:!?"
_LONGEST = 200  # characters of a word, which is not compared if it is longer

_COMPARING = frozenset("<>≤≥")
_OPERATOR = re.compile(r"[-<>=!&|+*/:^%≤≥]{1,3}(?![-<>=!&|+*/:^%≤≥])")
_COMPARISONS = word_set("<=> != !== == === <> < > <= >= << >> ≤ ≥ += -= := *= /= => -> = && || |")
_TAG = re.compile(r"</?[^<>\s=]{1,60}>|</?[A-Za-z][\w-]{0,30} [^<>=]{0,60}=[^<>]{0,200}>")
_MARKER = re.compile(r"^[ \t]*(?:>+|[-*+])[ \t]", re.MULTILINE)  # of a quotation or a list
_LEFT = re.compile(r"([\w.]{1,60})['\"`)\]]{0,3}[ \t]{0,3}\Z")
_RIGHT = re.compile(r"[ \t]{0,3}['\"`($]{0,3}(-?[\w.%]{1,60})")
# A quick check: an arithmetic operator between digits or single letters.
_BETWEEN = re.compile(r".{0,2}?(?:\d[ )]?|\b[A-Za-z] ?)[-+*/^%]{1,2} ?(?:[\d(]|[A-Za-z]\b)")
_REACH = 68  # characters: the longest match of `_LEFT`
_ARITHMETIC = frozenset(("+", "-", "*", "/", "^", "%", "**"))
_COMMUTATIVE = frozenset("+*")
_OPERAND = re.compile(r"\d{1,3}|\d+\.\d+|[A-Za-z]")  # four digits are mostly a year
_CHAIN = re.compile(r"[-/.]\d")  # of numbers, as in a date
_SAME_OPERATORS = {"<>": "!=", "!==": "!=", "≤": "<=", "≥": ">=", "**": "^"}
_TURNED = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}
_BOUNDS = {">": "gt", "<": "lt", ">=": "ge", "<=": "le"}

_SIGNS = frozenset("*^\\[](){}<>=|&#@~+_≤≥/")
_DOUBTFUL = frozenset("-.!'\"")
# Each of these begins with a set of characters, which makes a search fast.
_HIDDEN = re.compile(r"[-.!'\"](?:(?<!\w.)\S|(?<=\d-)\d|(?<=\w-)(?!\w)|(?<=\.)\.)")
# Units, and chemical elements beside compounds, that differ only in case.
_EXACT = word_set(
    "KB kB Kb MB Mb GB Gb TB Tb PB Pb mW MW mg Mg mJ MJ mV MV mA MA mHz MHz mPa MPa mM mm Mm ms Ms "
    "mS nm nM Nm Co CO No NO Hf HF Cs CS Po PO Os OS Sn SN Si SI Ho HO Np NP Nb NB Sc SC Cf CF"
)
_CAPITALS = re.compile(
    r"[A-Z](?:(?<=[a-z].)|(?<![A-Za-z].)(?:(?<![AI])(?![A-Za-z'])"
    rf"|(?:{'|'.join(sorted({f'(?<={unit[0]}){unit[1]}' for unit in _EXACT}))})(?![A-Za-z])))"
)
_SMALL_UNIT = re.compile(r"\d ?(?:m[gms]|nm)\b")

_ADDRESS = re.compile(r"^www\.|[\w.+-]@[\w-]+\.\w")
_LINK = re.compile(r"https?://[^/]+(/.+)")
_SIGNED = re.compile(r"[*^\\\[\](){}<>=|&%$#@~+_]|\.\.|\A[.!-]\w")
_SIGNED_DIGITS = re.compile(r"[\[\]{}^\\|]")  # "$5", "5%" and "#5" are numbers
_EMPHASIS = re.compile(r"(\*{1,3}|_{1,2}|~~)(?=\w)(.+)(?<=\w)\1")
_ASIDE = re.compile(r"(?<![\w\])])\((\w[\w'-]*)\)(?!\w)")
_LETTER = re.compile(r"[A-Za-z](?:[+#]{0,2}|-)")  # and grades, languages: C, C++, B-

_FLAG = re.compile(r"-[A-Za-z]{1,5}")
_PATTERN = re.compile(r"[\w/~.-]*\*[\w/.*-]*\.\w+|\.\w+")  # of file names
_ESCAPE = re.compile(r"\\[A-Za-z]")
_CODE = re.compile(r"(?=.*\d)(?=.*[A-Z])[A-Za-z0-9+_-]{7,64}={0,2}")
_HUMP = re.compile(r"[a-z][A-Z]")
_TURN = re.compile(r"[a-z0-9][A-Z]")
_QUOTED = re.compile(r"(['\"])([^'\"\s]{1,60})\1")
_BEFORE_LITERAL = word_set("like in glob regexp then values equals")
_BEFORE_QUOTE = "=<>(,"
_OF_PATHS = re.compile(
    r"\b(?:s3|keys?|paths?|files?|folder|directory|bucket|branch|route|endpoint|url)\b"
)
_OF_CASE = re.compile(r"\bcase[- ]?sensitiv|\b(?:upper|lower)[- ]?case")
_MEASURE = re.compile(r"[\d.,]*([A-Za-z]{2,3})(?:/\w+)?")
_SHOUTED = 4  # capitals per small letter from which on their case means nothing
_PRONOUNS = frozenset(("a", "I", "i"))
_UNQUOTED = str.maketrans("", "", "'\"`")


def code_of(text: str) -> str:
    """Return the text if it may have marks, "" if it is prose."""
    return "" if _is_prose(text) else text


def differing(one: str, other: str) -> list[tuple[str, str, str]]:
    """Return kind, spelling and other spelling of the marks that two texts spell differently."""
    here, there = one.split(), other.split()
    mine = _words(one, here, without=frozenset(there))
    theirs = _words(other, there, without=frozenset(here)) if mine else set()
    # With the same operators, only other places can make a difference.
    if _OPERATOR.findall(one) != _OPERATOR.findall(other) or sorted(here) == sorted(there):
        mine.update(_operators(one))
        theirs.update(_operators(other))
    if not mine:
        return []
    left = {mark[:2]: mark[2] for mark in mine - theirs}
    right = {mark[:2]: mark[2] for mark in theirs - mine}
    return [(key[0], left[key], right[key]) for key in sorted(left.keys() & right)]


def bounds_of(code: str) -> set[str]:
    """Return the bounds that comparison operators set; see `Text.bounds`."""
    if _COMPARING.isdisjoint(code):
        return set()
    return {_BOUNDS[sign] for _, _, sign in _operators(code) if sign in _BOUNDS}


def _words(text: str, words: list[str], *, without: frozenset[str]) -> set[Mark]:
    """Return the marks of the words of a text, except some."""
    found: set[Mark] = set()
    cased: set[Mark] = set()
    of_case = "case" in text and _OF_CASE.search(text)
    before = ""
    for word in words:
        if word not in without:
            bare = word.rstrip(_PUNCTUATION)
            if of_case and before and bare.isalpha():
                cased.add(("identifiers", f"case {bare.lower()}", bare))
            elif not _is_word(bare) and len(bare) <= _LONGEST:
                found.update(_signs(bare))
                cased.update(_cases(bare, before, text))
        before = word
    if cased and sum(map(str.isupper, text)) < _SHOUTED * sum(map(str.islower, text)):
        found |= cased
    return found


def _is_prose(text: str) -> bool:
    """Return whether a text surely has no marks, in a few microseconds."""
    return (
        _SIGNS.isdisjoint(text)
        and (text[1:].islower() or not _CAPITALS.search(text))
        and (_DOUBTFUL.isdisjoint(text[:-1]) or not _HIDDEN.search(text))
        and not _SMALL_UNIT.search(text)
        and "case" not in text
    )


def _is_word(text: str) -> bool:
    """Return whether a text is an ordinary word, in lower case or capitalised."""
    if len(text) <= 2:  # noqa: PLR2004 - "Co" and "-r" have two
        return text in _PRONOUNS
    return text.isalpha() and (text.islower() or text[1:].islower())


def _operators(text: str) -> Iterator[Mark]:
    """Yield comparison and arithmetic operators, by their operands."""
    text = _MARKER.sub("", _TAG.sub(" ", text))
    for match in _OPERATOR.finditer(text):
        sign = _SAME_OPERATORS.get(match[0], match[0])
        if sign in _ARITHMETIC:
            if not _BETWEEN.match(text, max(0, match.start() - 2)):
                continue
        elif sign not in _COMPARISONS:
            continue
        left = _LEFT.search(text, max(0, match.start() - _REACH), match.start())
        right = _RIGHT.match(text, match.end())
        if left is None or right is None:
            continue
        one, other = left[1].lower(), right[1].lower()
        if sign not in _ARITHMETIC:
            yield _comparison(one, sign, other)
        elif (
            _OPERAND.fullmatch(one)
            and _OPERAND.fullmatch(other)
            and not _CHAIN.match(text, right.end())
            and text[max(0, left.start() - 1)] not in "-/."
        ):
            low, high = sorted((one, other))
            first, last = (low, high) if sign in _COMMUTATIVE else (one, other)
            yield ("identifiers", f"of {low} {high}", f"{first} {sign} {last}")


def _comparison(left: str, sign: str, right: str) -> Mark:
    """Return the mark of a comparison: by its value if it has one, else by both sides."""
    if left[0].isdigit() or (not right[0].isdigit() and right < left):
        left, sign, right = right, _TURNED.get(sign, sign), left
    key = right if right.lstrip("-")[0].isdigit() else f"{left} {right}"
    return ("bounds", key, sign)


def _signs(word: str) -> Iterator[Mark]:
    """Yield a word with signs."""
    word = _EMPHASIS.sub(r"\2", _ASIDE.sub(r"\1", word.translate(_UNQUOTED))).strip("=")
    if "(" not in word:
        word = word.rstrip(")")
    if ")" not in word:
        word = word.lstrip("(")
    if _FLAG.fullmatch(word):
        yield ("identifiers", "flag", "".join(sorted(word)))
    if _LETTER.fullmatch(word):
        yield ("identifiers", f"letter {word[0].lower()}", word.lower())
        return
    if not _SIGNED.search(word) or _ADDRESS.search(word) or "://" in word:
        return
    if _PATTERN.fullmatch(word):
        yield ("identifiers", "pattern", word.lower().removeprefix("*"))  # as ".txt files"
        return
    key = "".join(filter(str.isalnum, word)).lower()
    if key and (not key.isdigit() or _SIGNED_DIGITS.search(word)):
        yield ("identifiers", key, word.lower())


def _cases(word: str, before: str, text: str) -> Iterator[Mark]:
    """Yield the parts of a word whose letter case has a meaning."""
    spelling = ""
    quoted = _QUOTED.search(word)
    bare = word.translate(_UNQUOTED)
    if link := _LINK.fullmatch(word):
        spelling = link[1]
    elif (
        _ESCAPE.search(word)
        or ("_" in word and not word.startswith("_"))
        or (_CODE.fullmatch(word) and (word.endswith("=") or len(_TURN.findall(word)) > 1))
        or ("/" in word and (word[0] in "/~." or _OF_PATHS.search(text)))
    ):
        spelling = bare
    elif quoted:
        earlier = word[: quoted.start()] or before
        if (
            len(quoted[2]) == 1
            or earlier.endswith(tuple(_BEFORE_QUOTE))
            or earlier.lower() in _BEFORE_LITERAL
        ):
            spelling = quoted[2]
    elif (measure := _MEASURE.fullmatch(bare)) and measure[1] in _EXACT:
        first = not before and bare == measure[1] and bare.istitle()  # as any first word
        spelling = "" if first else measure[1]
    elif _HUMP.search(bare) and bare.isalpha() and stem(bare.lower()) not in relations().rarity:
        spelling = bare[0].lower() + bare[1:]  # "macOS" is also written "MacOS"
    if spelling:
        yield ("identifiers", f"case {spelling.lower()}", spelling)
