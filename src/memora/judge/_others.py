"""Compare words of other languages than English: negations, and words that exclude each other."""

from __future__ import annotations

import re
from functools import cache
from typing import NamedTuple

from memora.judge._words import lines_of
from memora.model import Evidence

_WORD = re.compile(r"[^\W\d_]+")
_ANYWHERE = frozenset(("ja", "ko", "th", "zh"))  # words are not always separated
# Negations of polite questions and apologies, and of "A or not A".
_POLITE = re.compile(
    r"ませんか|ないですか|すみません|くれない|不好意思|对不起|對不起|不客气|不客氣|(.)不\1"
)


class Marks(NamedTuple):
    """Words of a text that another text may contradict."""

    sides: frozenset[tuple[str, str]]
    """The line of `others.txt` and the side of it, for each that the text has words of."""
    negated: bool


class _Side(NamedTuple):
    line: str
    side: str
    words: frozenset[str]
    starts: tuple[str, ...]
    longer: tuple[str, ...]
    """Words of the other sides, in which one of these may be contained."""


NO_MARKS = Marks(frozenset(), negated=False)


def marks_of(text: str, language: str) -> Marks:
    """Return the marks of a lower-case text; none in English or a language without a list."""
    sides = _lists().get(language)
    if sides is None:
        return NO_MARKS
    if language in _ANYWHERE:
        text = _POLITE.sub(" ", text)
        found = [one for one in sides if any(_has(text, word, one.longer) for word in one.words)]
    else:
        words = frozenset(_WORD.findall(text))
        found = [
            one
            for one in sides
            if not one.words.isdisjoint(words)
            or (one.starts and any(word.startswith(one.starts) for word in words))
        ]
    return Marks(
        frozenset((one.line, one.side) for one in found if one.line),
        negated=any(not one.line for one in found),
    )


def contradiction(a: Marks, b: Marks) -> Evidence | None:
    """Return how two texts exclude each other; None if they do not."""
    if a.negated is not b.negated:
        return Evidence("negation", "only one of them has a negation")
    ours, theirs = ({line: set[str]() for line, _ in one.sides} for one in (a, b))
    for found, one in ((ours, a), (theirs, b)):
        for line, side in one.sides:
            found[line].add(side)
    for line in ours.keys() & theirs.keys():
        if ours[line].isdisjoint(theirs[line]):
            left, right = (" ".join(sorted(found[line])) for found in (ours, theirs))
            return Evidence("opposites", f"{left} / {right}")
    return None


def _has(text: str, word: str, longer: tuple[str, ...]) -> bool:
    for other in longer:
        if word in other:
            text = text.replace(other, " ")
    return word in text


@cache
def _lists() -> dict[str, list[_Side]]:
    found: dict[str, list[_Side]] = {}
    for line in lines_of("others"):
        language, _, rest = line.partition(": ")
        kind, _, negations = rest.partition(" ")
        is_negation = kind == "not"
        sides = [side.split() for side in ([negations] if is_negation else rest.split("|"))]
        for words in sides:
            longer = tuple(word for other in sides if other is not words for word in other)
            exact = frozenset(word for word in words if not word.endswith("*"))
            starts = tuple(word[:-1] for word in words if word.endswith("*"))
            one = _Side("" if is_negation else line, words[0].rstrip("*"), exact, starts, longer)
            found.setdefault(language, []).append(one)
    return found
