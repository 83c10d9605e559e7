"""Word lists, loaded once per process: readable text, one group per line, `#` for comments."""

from __future__ import annotations

from functools import cache, lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, NamedTuple

import Stemmer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_stemmer = Stemmer.Stemmer("english", 0)  # 0: no cache of its own

_LONGEST_WORD = 40  # characters; a longer string gets no stem and is not cached
_STEMS = 65_536  # cache size; the lists have 15,000


def word_set(words: str) -> frozenset[str]:
    """Return the words of a line as a set."""
    return frozenset(words.split())


def _numbered(names: str) -> dict[str, int]:
    """Map names to their group's number, from 1."""
    return {
        name: number
        for number, group in enumerate(names.split("|"), start=1)
        for name in group.split()
    }


# The stemmer cuts these words to the stem of another: "human", "import", "author", "engine".
_OWN_STEMS = {
    word: group.split()[0]
    for group in (
        "humane", "morale", "heroine heroines", "carbonate carbonates", "bicarbonate bicarbonates",
        "customer customers", "important importance importantly", "authority authorities",
        "department departments departmental", "position positions positioned", "physics",
        "engineer engineers engineering engineered",
    )
    for word in group.split()
}  # fmt: skip
MONTHS = _numbered(
    "jan january|feb february|mar march|apr april|may|jun june|jul july|aug august|"
    "sep sept september|oct october|nov november|dec december"
)
WEEKDAYS = _numbered(
    "monday mon|tuesday tue tues|wednesday wed|thursday thu thurs|friday fri|saturday sat|"
    "sunday sun"
)
SCALES = {
    "hundred": 1e2, "k": 1e3, "thousand": 1e3, "lakh": 1e5, "m": 1e6, "mn": 1e6, "million": 1e6,
    "crore": 1e7, "b": 1e9, "bn": 1e9, "billion": 1e9, "trillion": 1e12, "dozen": 12.0,
}  # fmt: skip


def stem(word: str) -> str:
    """Return the stem of a lower-case word."""
    return _stem(word) if len(word) <= _LONGEST_WORD else word


@lru_cache(maxsize=_STEMS)
def _stem(word: str) -> str:
    return _OWN_STEMS.get(word) or str(_stemmer.stemWord(word))


def lines_of(name: str) -> Iterator[str]:
    text = (files("memora.judge") / "words" / f"{name}.txt").read_text("utf-8")
    for line in text.splitlines():
        if line and not line.startswith("#"):
            yield line


class Unit(NamedTuple):
    """The meaning of a unit's name."""

    dimension: str
    """The measured dimension, such as "length"; for money, the currency code in capitals."""
    factor: float
    """Size in the dimension's base units."""


def _units() -> dict[str, Unit]:
    units = {}
    for line in lines_of("units"):
        dimension, factor, *names = line.split()
        for name in names:
            units[name] = Unit(dimension, float(factor))
    return units


UNITS = _units()
_LAST_OF_OURS = "season"  # last of Memora's own groups in the file of siblings
_RAREST = 20  # the highest level in the file of frequencies


class Phrase(NamedTuple):
    """Another way to write a word."""

    words: tuple[str, ...]
    stems: tuple[str, ...]
    particle: str
    """Stem that follows after a gap: "off" of "call the meeting off"; "" if there is no gap."""
    word: str
    """The word that it stands for; "" if it has no meaning."""

    def matches(self, words: Sequence[str]) -> bool:
        """Return whether lower-case words with these stems are inflections of the phrase.

        "Year" has the stem of "yearly", without being a form of it.
        """
        return all(map(str.startswith, words, [word[:-1] for word in self.words]))


@cache
def phrases() -> dict[str | tuple[str, str], tuple[Phrase, ...]]:
    """Return the phrases by their first two stems, or by their only one; the longest first."""
    found: dict[str | tuple[str, str], list[Phrase]] = {}
    for line in lines_of("phrases"):
        word, _, others = line.partition(":")
        for phrase in others.split(","):
            before, _, particle = phrase.partition("*")
            words = tuple(before.split())
            stems = tuple(map(stem, words))
            first, *further = stems
            meant = "" if word == "-" else word
            found.setdefault((first, further[0]) if further else first, []).append(
                Phrase(words, stems, stem(particle.strip()), meant)
            )
    return {
        key: tuple(sorted(those, key=lambda phrase: -len(phrase.stems)))
        for key, those in found.items()
    }


class Relations(NamedTuple):
    """Relations between words, all by stem."""

    antonyms: dict[str, frozenset[str]]
    synonyms: dict[str, frozenset[int]]
    """Numbers of a word's groups."""
    siblings: dict[str, frozenset[int]]
    exclusive: dict[str, int]
    """Memora's own sibling groups, as bits; they override WordNet's synonyms."""
    kinds: list[str]
    """Names of the sibling groups."""
    rarity: dict[str, float]
    """0 for a word in every other text, 1 for one that is hardly ever used."""


def _groups(name: str) -> tuple[dict[str, frozenset[int]], list[str]]:
    found: dict[str, set[int]] = {}
    kinds = []
    for number, line in enumerate(lines_of(name)):
        kind, colon, members = line.partition(":")
        kinds.append(kind if colon else "")
        for word in (members if colon else line).split():
            found.setdefault(stem(word), set()).add(number)
    return {word: frozenset(numbers) for word, numbers in found.items()}, kinds


@cache
def relations() -> Relations:
    """Load the lists when the first text is analysed, in some tens of milliseconds."""
    antonyms: dict[str, set[str]] = {}
    for line in lines_of("antonyms"):
        left, right = ({stem(word) for word in side.split()} for side in line.split("|"))
        for one in left:
            antonyms.setdefault(one, set()).update(right)
        for one in right:
            antonyms.setdefault(one, set()).update(left)
    siblings, kinds = _groups("siblings")
    ours = kinds.index(_LAST_OF_OURS) + 1
    exclusive = {
        word: sum(1 << number for number in numbers if number < ours)
        for word, numbers in siblings.items()
    }
    rarity: dict[str, float] = {}
    for line in lines_of("frequency"):
        level, *words = line.split()
        for word in words:
            key = stem(word)
            rarity[key] = min(rarity.get(key, 1.0), int(level) / _RAREST)
    return Relations(
        {word: frozenset(others) for word, others in antonyms.items()},
        _groups("synonyms")[0],
        siblings,
        exclusive,
        kinds,
        rarity,
    )
