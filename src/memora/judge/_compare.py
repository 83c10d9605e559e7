"""Compare two texts: return their differences as features for the model and words for people."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from rapidfuzz.distance import OSA

from memora.judge import _small_words as small
from memora.judge._affixes import affix_relation
from memora.judge._literals import differing
from memora.judge._others import contradiction
from memora.judge._small_words import ARTICLES
from memora.judge._text import MOST_CHARACTERS, meaningful, weight_of
from memora.judge._words import relations, stem, word_set
from memora.model import Evidence

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from memora.judge._text import Text

KINDS: dict[str, tuple[str, ...]] = {
    "numbers": ("numbers",),
    "dates": ("dates", "anchored"),
    "units": ("units",),
    "identifiers": ("identifiers",),
    "names": ("names",),
    "polarity": ("polarity", "polarity_loose"),
    "words": ("substitution", "insertion", "addition"),
    "wording": ("explained",),
    "siblings": ("siblings",),
    "question": ("question",),
    "quantifiers": ("quantifiers",),
    "order": ("order",),
    "bounds": ("bounds",),
}
"""Kinds of evidence, and the features of each."""

# Maximum number of unmatched words per text to pair: more would cost time, and texts that differ in
# more are not repeats.
_MOST_WORDS = 24
_MOST_SHOWN = 4  # words per text, in evidence
_MOST_SHOWN_ATOMS = 3
_MOST_SHOWN_ORDER = 6  # pieces per text, in evidence of a changed order

# Each feature shrinks with the unmatched share of both texts' weight, and is 0 from 1 / factor on.
# `_DECISIVE` is for words such as "not", which decide only between otherwise similar texts;
# `_COVERING` is for synonyms, which matter only if they cover almost all differences.
_DECISIVE = 1.5
_COVERING = 3.0
_LINKED = 0.25  # unmatched share up to which "and" and "or" are compared
_ANCHORED = 1.5  # a common date compensates for some unmatched weight
_ENOUGH_REWORDED = 3  # reworded words beyond this number add no evidence
_FRAME_POWER = 3  # one changed word in an otherwise equal sentence changes its meaning

_ANCHORS = frozenset(("year", "month", "day", "weekday", "period"))
_DATES = _ANCHORS | {"relative"}
_ATOM_KINDS = {
    "number": "numbers", "date": "dates", "identifier": "identifiers", "version": "identifiers",
    "unit": "units",
}  # fmt: skip
# Small words compared as quantifiers; others, such as "all" and "under", are content words.
_QUANTIFIERS = ("any", "only", "some")
# Small words that exclude each other. "From" and "to", "can" and "should" are mostly style.
_SMALL_OPPOSITES = (("on", "off"), ("off", "on"), ("did", "will"), ("will", "did"))
_LEAST_COMMON = 3  # letters at the end of two words that a prefix tells apart
_LINKING = {"and": "and", "plus": "and", "or": "or"}
_SHORTHAND = frozenset("ur")  # for "you are"
_SPECIFIC_QUESTIONS = frozenset((
    "why", "when", "where", "who", "how", "how many", "how much", "how long", "how often",
    "how old", "how far", "how big", "whether",
))  # fmt: skip
_BOUND_NAMES = {"ge": "at least", "le": "at most", "gt": "more", "lt": "less", "eq": "exactly"}
_UNDERSTOOD = frozenset(("", "en"))  # languages

# "A and B" equals "B and A"; "A to B" differs from "B to A", unless the text compares A and B.
_SYMMETRIC = word_set("and or vs versus")
_COMPARING = word_set("compar differ mix combin relat similar versus vs equal better")
_CHOOSING = _COMPARING | {"between"}
_LINKS = word_set("with to from between than")
_PREPOSITIONS = word_set("in on at for from by of to with between since until per during")
# Commands and functions whose two arguments have different roles. Those of `diff` have not: the
# reader sees the same differences.
_COMMANDS = frozenset(map(stem, word_set(
    "cp mv ln copy move rename link scp rsync merge rebase subtract divide power pow log mod "
    "modulo atan2 isinstance substr split replace sub gsub"
)))  # fmt: skip
_ARGUMENTS = 2
_LEAST_SWAP, _LONGEST_SWAP = 3, 40  # pieces of a sequence that is searched for a swap
_LONGEST_PART = 5  # pieces of a swapped part

_POUND = 453.59237  # grams, the base unit of mass
_ROUNDING = 1e-9
_KIBIS = [1.024**power for power in (1, 2, 3, 4)]  # a thousand bytes or 1,024 bytes, up to tera

_ACRONYM = range(2, 6)  # letters
_SMALL_WORD = range(4, 8)  # letters of a small word that may be misspelt
_LEAST_SLIP = 4  # letters; shorter words are too similar to others
_LEAST_STRANGE_SLIP = 6  # the same, if neither word is known
_LONG_WORD = 8  # letters; may have two typos
_MOST_SLIPS = 2


_Only: TypeAlias = "dict[str, tuple[dict[str, str], dict[str, str]]]"
"""By kind: the atoms that only the first text has, and those of the second, as values and text."""


class Comparison(NamedTuple):
    """The differences between two texts."""

    features: dict[str, float]
    """Non-zero features by name; see `KINDS`."""
    evidence: list[Evidence]


class _Unmatched(NamedTuple):
    """What two texts do not share: stems of content words, and pieces between common ends."""

    left: list[str]
    right: list[str]
    one: Sequence[str]
    other: Sequence[str]
    start: int
    """Number of common pieces before `one` and `other`."""
    frame: float
    """Share of the longer text that the common ends cover."""
    share: float
    """Share of both texts' weight that is unmatched."""

    @property
    def near(self) -> float:
        return max(0.0, 1.0 - _DECISIVE * self.share)


def compare(a: Text, b: Text) -> Comparison:
    """Compare a query with a stored query.

    The features are symmetric; the evidence names the first text first.
    """
    found = Comparison({}, [])
    features = found.features
    start, end = _ends(a.sequence, b.sequence)
    frame = (start + end) / max(len(a.sequence), len(b.sequence), 1)
    one, other = a.sequence[start : -end or None], b.sequence[start : -end or None]
    _compare_atoms(a, b, found)
    left, right = _lacking(a, b), _lacking(b, a)
    opposites, reworded = _pair(a, b, left, right, found)
    opposites += _oppose_small_words(a, b, found)
    understood = a.language in _UNDERSTOOD and b.language in _UNDERSTOOD
    if understood and (one or other):
        opposites += _compare_directions(a, b, one, other, found)
    if a.code and b.code and a.code != b.code:
        _compare_code(a, b, found)
    total = a.weight + b.weight
    share = (weight_of(left) + weight_of(right)) / total if total else 0.0
    unmatched = _Unmatched(left, right, one, other, start, frame, share)
    near = unmatched.near
    if share <= _LINKED:
        opposites += _oppose_links(a, b, found)
    if understood:
        _compare_english(a, b, unmatched, reworded + _rephrased(a, b), found)
    else:
        _compare_foreign(a, b, found)
    if understood and (a.negations - b.negations + opposites) % 2:
        features["polarity"] = near * frame
        features["polarity_loose"] = near * (1.0 - frame)
        if not opposites:
            found.evidence.append(Evidence("negation", "only one of them has a negation"))
    _compare_questions(a, b, near * frame, found)
    _compare_quantifiers(a, b, near, found)
    if "bounds" not in features and a.bounds and b.bounds and a.bounds.isdisjoint(b.bounds):
        features["bounds"] = 1.0
        found.evidence.append(Evidence("bounds", f"{_bounds(a)} / {_bounds(b)}"))
    _compare_order(a, b, unmatched, found)
    if a.rest != b.rest:  # counted as one substituted word
        features["substitution"] = features.get("substitution", 0.0) + 1.0
        differ = f"the texts differ after {MOST_CHARACTERS:,} characters"
        found.evidence.append(Evidence("words", differ))
    if not found.evidence:
        _tell_words(a, b, left, right, found)
    return Comparison({name: value for name, value in features.items() if value}, found.evidence)


def _compare_foreign(a: Text, b: Text, found: Comparison) -> None:
    """Compare texts that are not both English, for which most word lists say nothing.

    "foreign" and "languages" have no weight: the first chooses the calibration, the second bars the
    candidate.
    """
    found.features["foreign"] = 1.0
    if a.language != b.language:
        found.features["languages"] = float(bool(a.language and b.language))
    elif excluded := contradiction(a.marks, b.marks):
        found.features["polarity"] = 1.0
        found.evidence.append(excluded)


def _compare_english(
    a: Text, b: Text, unmatched: _Unmatched, reworded: int, found: Comparison
) -> None:
    features, (left, right, one, other, start, frame, share) = found.features, unmatched
    covered = max(0.0, 1.0 - _COVERING * share)
    features["explained"] = covered * min(reworded, _ENOUGH_REWORDED) / _ENOUGH_REWORDED
    if a.atoms and any(kind in _ANCHORS and (kind, value) in b.atoms for kind, value in a.atoms):
        features["anchored"] = min(1.0, _ANCHORED * covered)
    left_weight, right_weight = weight_of(left), weight_of(right)
    features["substitution"] = frame**_FRAME_POWER * min(left_weight, right_weight)
    features["insertion"] = frame * abs(left_weight - right_weight)
    _compare_names(a, b, left, right, found)
    _compare_scope(a, b, unmatched.near, found)
    if added := _addition(a, b, (left, right), (one, other), start):
        features["addition"] = unmatched.near * frame
        found.evidence.append(Evidence("words", f"only one of them says {added}"))
    _compare_letters(a, b, (left, right), unmatched.near, found)


def _lacking(text: Text, other: Text) -> list[str]:
    """Return the stems that occur more often in a text than in the other."""
    there = other.content
    return [word for word, count in text.content.items() if count > there.get(word, 0)]


def _rephrased(a: Text, b: Text) -> int:
    """Count the phrases that both texts have in different words."""
    shared = (a.phrased | b.phrased) & a.content.keys() & b.content.keys()
    return sum([a.shown[word].lower() != b.shown[word].lower() for word in shared])


def _compare_atoms(a: Text, b: Text, found: Comparison) -> None:
    """Compare atoms: a kind with an unmatched atom in both texts is a conflict."""
    if not a.atoms and not b.atoms:
        return
    only: _Only = {}
    for side, atoms, others in ((0, a.atoms, b.atoms), (1, b.atoms, a.atoms)):
        for (kind, value), shown in atoms.items():
            if (kind, value) not in others:
                group, key = ("date", f"{kind} {value}") if kind in _DATES else (kind, value)
                only.setdefault(group, ({}, {}))[side][key] = shown
    if "number" in only and "date" in only:
        _drop_years(only["number"], only["date"])
    if "number" in only:
        _drop_equal_numbers(*only["number"])
    for kind, (one, other) in only.items():
        if one and other:
            name = _ATOM_KINDS[kind]
            found.features[name] = found.features.get(name, 0.0) + min(len(one), len(other))
            shown = f"{_some(one.values())} / {_some(other.values())}"
            found.evidence.append(Evidence(name, shown))
    _compare_sides(a, b, only, found)


def _compare_sides(a: Text, b: Text, only: _Only, found: Comparison) -> None:
    """Compare what only one of the texts has: a conflict if both have some, or with a range."""
    mine = [shown for one, other in only.values() if not other for shown in one.values()]
    theirs = [shown for one, other in only.values() if not one for shown in other.values()]
    if mine and theirs:  # "in 2019" against "for 5 years"
        found.features["numbers"] = found.features.get("numbers", 0.0) + 1.0
        found.evidence.append(Evidence("numbers", f"{_some(mine)} / {_some(theirs)}"))
    elif (mine and _widens(a, only)) or (theirs and _widens(b, only)):
        found.features["numbers"] = found.features.get("numbers", 0.0) + 1.0
        found.evidence.append(Evidence("numbers", f"only one of them says {_some(mine or theirs)}"))


def _widens(text: Text, only: _Only) -> bool:
    """Return whether a text has a range, of which the other text has one end."""
    if "to" not in text.function:
        return False
    more = {f"number {value}" for side in only.get("number", ()) for value in side}
    sequence = text.sequence
    return any(
        piece == "to"
        and sequence[at].startswith("number ")
        and sequence[at + 2].startswith("number ")
        and (sequence[at] in more) != (sequence[at + 2] in more)
        and sequence[at] != "number 1"  # "lines 1 to 20" are the first 20 lines
        for at, piece in enumerate(sequence[1:-1])
    )


def _drop_years(
    numbers: tuple[dict[str, str], dict[str, str]], dates: tuple[dict[str, str], dict[str, str]]
) -> None:
    """Drop a year that equals a number of the other text, such as "1000" and "1k"."""
    for years, others in zip(dates, reversed(numbers), strict=True):
        for key in list(years):
            kind, _, year = key.partition(" ")
            same = [value for value in others if value.partition(" ")[0] == year]
            if kind == "year" and same:
                del years[key], others[same[0]]


def _drop_equal_numbers(one: dict[str, str], other: dict[str, str]) -> None:
    """Drop numbers that are equal except for a unit that is missing or written differently."""
    matches = list(other)[:_MOST_WORDS]
    for value in list(one)[:_MOST_WORDS]:
        for match in matches:
            if _equal(value, match):
                del one[value], other[match]
                matches.remove(match)
                break


def _equal(one: str, other: str) -> bool:
    (x, _, unit), (y, _, other_unit) = one.partition(" "), other.partition(" ")
    if ":" in x or ":" in y:  # a time of day
        return x.removesuffix(":00") == y.removesuffix(":00")
    if "*" in x or "*" in y:
        return x == y and not (unit and other_unit)
    if unit and other_unit:
        return _same_measure(float(x), unit, float(y), other_unit)
    if "percent" in {unit, other_unit}:
        part, whole = (float(y), float(x)) if unit else (float(x), float(y))
        return part == whole or abs(part - whole / 100) < _ROUNDING  # 0.25 or 25
    # An account number may have more digits than a float keeps.
    return x == y if x.isdigit() and y.isdigit() else float(x) == float(y)


def _same_measure(first: float, unit: str, second: float, other_unit: str) -> bool:
    if unit == other_unit == "data":
        low, high = sorted((first, second))
        return any(abs(high - low * kibi) < _ROUNDING * high for kibi in _KIBIS)
    if {unit, other_unit} == {"mass", "GBP"}:  # pounds: the scanner reads them as a weight
        weight, money = (first, second) if unit == "mass" else (second, first)
        return abs(weight / _POUND - money) <= _ROUNDING * money
    return False


def _pair(
    a: Text, b: Text, left: list[str], right: list[str], found: Comparison
) -> tuple[int, int]:
    """Remove pairs of equal or opposite meaning from both lists.

    Returns:
        The number of pairs of opposites, and of reworded pairs.
    """
    opposites = reworded = 0
    if left and right:
        opposites, reworded = _pair_words(a, b, left, right, found)
        for one, text, others, rest in ((left, b, right, a), (right, a, left, b)):
            reworded += _expand(one, rest, others, text)
        _compare_siblings(a, b, left, right, found)
    return opposites, reworded + _drop_slips(left, b) + _drop_slips(right, a)


def _pair_words(
    a: Text, b: Text, left: list[str], right: list[str], found: Comparison
) -> tuple[int, int]:
    known = relations()
    opposites = reworded = 0
    others = right[:_MOST_WORDS]
    nothing: frozenset[int] = frozenset()
    for word in left[:_MOST_WORDS]:
        antonyms = known.antonyms.get(word, ())
        synonyms = known.synonyms.get(word, nothing)
        familiar, ending = word in known.rarity, word[-_LEAST_COMMON:]
        for other in others:
            affix = affix_relation(word, other) if other.endswith(ending) else ""
            if other in antonyms or affix == "opposite":
                opposites += 1
                shown = f"{a.shown[word]} / {b.shown[other]}"
                found.evidence.append(Evidence("opposites", shown))
            elif not synonyms.isdisjoint(known.synonyms.get(other, nothing)):
                if known.exclusive.get(word, 0) & known.exclusive.get(other, 0):
                    continue  # "second" and "minute" are also synonyms, for a moment
                reworded += 1
            elif affix:
                _note_affix(a, word, b, other, found)
                continue
            elif (familiar and other in known.rarity) or not _is_slip(a, word, b, other):
                continue
            elif known.exclusive.get(word, 0) & known.exclusive.get(other, 0):
                continue  # "stationery" is rare, but no typo
            elif affix_relation(a.shown[word].lower(), b.shown[other].lower()):
                _note_affix(a, word, b, other, found)
                continue
            else:
                reworded += 1
            left.remove(word)
            right.remove(other)
            others.remove(other)
            break
    return opposites, reworded


def _note_affix(a: Text, word: str, b: Text, other: str, found: Comparison) -> None:
    found.features["siblings"] = found.features.get("siblings", 0.0) + 1.0
    found.evidence.append(Evidence("affix", f"{a.shown[word]} / {b.shown[other]}"))


def _is_slip(a: Text, word: str, b: Text, match: str) -> bool:
    """Return whether two words, at least one of them unknown, differ by a typo."""
    one, other = a.shown[word].lower(), b.shown[match].lower()
    longest = max(len(one), len(other))
    if longest < _LEAST_SLIP or abs(len(one) - len(other)) > _MOST_SLIPS:
        return False
    known = relations().rarity
    # Two names, or two unknown words, may well mean different things.
    if (word not in known and match not in known) or (word in a.names and match in b.names):
        return longest >= _LEAST_STRANGE_SLIP and one[0] == other[0] and _distance(one, other) <= 1
    return _distance(one, other) <= (1 if longest < _LONG_WORD else _MOST_SLIPS)


def _distance(one: str, other: str) -> int:
    return OSA.distance(one, other, score_cutoff=_MOST_SLIPS)


def _expand(words: list[str], text: Text, others: list[str], other: Text) -> int:
    """Remove acronyms and their expansions, and words that the other text splits in two."""
    known, acronyms = relations().rarity, 0
    for word in words[:_MOST_WORDS]:
        shown = text.shown[word]
        parts: Sequence[str] = ()
        if len(shown) in _ACRONYM and (shown.isupper() or word not in known):
            at = other.initials.find(shown.lower())
            if at >= 0:
                parts = [part for part in other.sequence[at : at + len(shown)] if part in others]
                acronyms += bool(parts)
        if not parts and word not in known:
            parts = _apart(word, other.sequence)
        if parts:
            words.remove(word)
            for part in parts:
                if part in others:
                    others.remove(part)
    return acronyms


def _apart(word: str, sequence: Sequence[str]) -> tuple[str, ...]:
    """Return two adjacent words that form a word: "check" and "out"."""
    for first, second in pairwise(sequence):
        if word.startswith(first) and first + second == word:
            return first, second
    return ()


def _drop_slips(words: list[str], other: Text) -> int:
    """Drop misspelt small words: "shoud" if the other text has "should"."""
    known, slips = relations().rarity, 0
    for word in words[:_MOST_WORDS]:
        if word not in known and len(word) in _SMALL_WORD and any(
            OSA.distance(word, small, score_cutoff=1) == 1
            for small in other.function
            if len(small) >= _SMALL_WORD.start
        ):  # fmt: skip
            words.remove(word)
            slips += 1
    return slips


def _compare_siblings(
    a: Text, b: Text, left: list[str], right: list[str], found: Comparison
) -> None:
    """Find words that exclude each other: two colours, two rooms, two cities."""
    known = relations()
    left = [word for word in left[:_MOST_WORDS] if word in known.siblings]
    if not left:
        return
    right = [word for word in right[:_MOST_WORDS] if word in known.siblings]
    matched: set[str] = set()
    count = 0
    for word in left:
        groups = known.siblings[word]
        others = [other for other in right if not groups.isdisjoint(known.siblings[other])]
        if others:
            count += 1
            kind = known.kinds[min(groups & known.siblings[others[0]])]
            found.evidence.append(Evidence(kind, f"{a.shown[word]} / {b.shown[others[0]]}"))
            matched.update(others)
    if count:
        count = min(count, len(matched))
        found.features["siblings"] = found.features.get("siblings", 0.0) + count


def _compare_names(a: Text, b: Text, left: list[str], right: list[str], found: Comparison) -> None:
    if not a.names or not b.names:
        return
    one = [word for word in left if word in a.names]
    other = [word for word in right if word in b.names]
    if one and other:
        found.features["names"] = 1.0
        found.evidence.append(Evidence("names", f"{_show(a, one)} / {_show(b, other)}"))


def _compare_questions(a: Text, b: Text, weight: float, found: Comparison) -> None:
    if a.question != b.question and {a.question, b.question} <= _SPECIFIC_QUESTIONS:
        found.features["question"] = weight
        found.evidence.append(Evidence("question", f"{a.question} / {b.question}"))


def _oppose_small_words(a: Text, b: Text, found: Comparison) -> int:
    """Count small words of one text whose opposite occurs only in the other."""
    one, other = a.function, b.function
    opposites = 0
    for here, there in _SMALL_OPPOSITES:
        if here in one and there in other and here not in other and there not in one:
            opposites += 1
            found.evidence.append(Evidence("opposites", f"{here} / {there}"))
    return opposites


def _oppose_links(a: Text, b: Text, found: Comparison) -> int:
    """Return 1 if "and" and "or" link the same two words, unless a text compares these."""
    if a.function.get("or", 0) == b.function.get("or", 0) or not (
        _CHOOSING.isdisjoint(a.content) and _CHOOSING.isdisjoint(b.content)
    ):
        return 0
    there = _links(b.sequence)
    for words, link in _links(a.sequence).items():
        other = there.get(words, link)
        if other != link:
            found.evidence.append(Evidence("opposites", f"{link} / {other}"))
            return 1
    return 0


def _links(sequence: Sequence[str]) -> dict[frozenset[str], str]:
    """Return "and" or "or" by the two words it links."""
    words = [piece for piece in sequence if piece not in ARTICLES]
    return {
        frozenset((words[at - 1], words[at + 1])): _LINKING[link]
        for at, link in enumerate(words[:-1])
        if at and link in _LINKING
    }


def _compare_letters(
    a: Text, b: Text, lacking: tuple[list[str], list[str]], near: float, found: Comparison
) -> None:
    """Find names of one letter that differ: vitamin A and B, C and R."""
    left, right = lacking
    one = [word for word in left if len(word) == 1 and a.shown[word] not in _SHORTHAND]
    other = [word for word in right if len(word) == 1 and b.shown[word] not in _SHORTHAND]
    if not one or not other:
        return
    beside = not _beside(a.sequence, one).isdisjoint(_beside(b.sequence, other))
    if size := 1.0 if beside else near:
        found.features["identifiers"] = found.features.get("identifiers", 0.0) + size
        found.evidence.append(Evidence("identifiers", f"{_show(a, one)} / {_show(b, other)}"))


def _beside(sequence: Sequence[str], words: Sequence[str]) -> set[tuple[bool, str]]:
    """Return the neighbours of words: whether before or after, and the piece."""
    pairs = list(pairwise(sequence))
    return {(True, one) for one, word in pairs if word in words} | {
        (False, other) for word, other in pairs if word in words
    }


def _compare_code(a: Text, b: Text, found: Comparison) -> None:
    """Find operators, signs and letter case that differ."""
    for kind, one, other in differing(a.code, b.code):
        if not found.features.get(kind):
            found.features[kind] = 1.0
            found.evidence.append(Evidence(kind, f"{one} / {other}"))


def _compare_quantifiers(a: Text, b: Text, weight: float, found: Comparison) -> None:
    one, other = a.function, b.function
    if quantifiers := [word for word in _QUANTIFIERS if (word in one) != (word in other)]:
        found.features["quantifiers"] = weight * len(quantifiers) / 2
        shown = f"only one of them says {_some(quantifiers)}"
        found.evidence.append(Evidence("quantifiers", shown))


def _compare_directions(
    a: Text, b: Text, one: Sequence[str], other: Sequence[str], found: Comparison
) -> int:
    """Return 1 if small words have opposite directions: "up" and "down", "in" and "out of"."""
    if ("down" in a.content) != ("down" in b.content) and small.up_or_down(a, b):
        shown = "up / down" if "down" in b.content else "down / up"
    elif small.replaces(one, other):
        shown = small.exchanged(a, b, one, other, small.OPPOSITES)
    else:
        return 0
    if shown:
        found.evidence.append(Evidence("opposites", shown))
    return int(bool(shown))


def _compare_scope(a: Text, b: Text, weight: float, found: Comparison) -> None:
    """Compare moods and conjunctions."""
    if mood := small.other_mood(a, b):
        found.features["question"] = max(found.features.get("question", 0.0), weight)
        found.evidence.append(Evidence("question", mood))
    if (joined := small.conjunction(a, b)) and not _compares(a, b):
        found.features["quantifiers"] = found.features.get("quantifiers", 0.0) + weight
        found.evidence.append(Evidence("quantifiers", joined))


def _addition(
    a: Text,
    b: Text,
    lacking: tuple[list[str], list[str]],
    differing: tuple[Sequence[str], Sequence[str]],
    start: int,
) -> str:
    """Return what narrows one text, if it has all that the other has."""
    (left, right), (one, other) = lacking, differing
    if left:
        return "" if right else small.addition(a, b, left)
    if right:
        return small.addition(b, a, right)
    if one and other:
        return ""
    if one:
        return small.small_addition(a, b, one, start)
    return small.small_addition(b, a, other, start) if other else ""


def _bounds(text: Text) -> str:
    return _some(sorted(_BOUND_NAMES[bound] for bound in text.bounds))


def _ends(one: Sequence[str], other: Sequence[str]) -> tuple[int, int]:
    """Return the lengths of the common prefix and of the common suffix, without overlap."""
    size = min(len(one), len(other))
    start = 0
    while start < size and one[start] == other[start]:
        start += 1
    end = 0
    while end < size - start and one[-1 - end] == other[-1 - end]:
        end += 1
    return start, end


def _compare_order(a: Text, b: Text, unmatched: _Unmatched, found: Comparison) -> None:
    one, other, start = unmatched.one, unmatched.other, unmatched.start
    shown = ""
    if (
        one
        and other
        and a.content == b.content
        and (
            (
                a.passive == b.passive
                and (
                    _swapped(one, other, compared=_compares(a, b))
                    or _swapped_arguments(a, one, other, start)
                )
            )
            or small.other_agent(a, b, one, other)
        )
    ):
        shown = f"{_spell(a, one)} / {_spell(b, other)}"
    elif _turned(a, b) and not _compares(a, b):
        shown = f"to {_spell(a, sorted(a.targets))} / to {_spell(b, sorted(b.targets))}"
    elif (a.origins or b.origins) and small.turned_about(a, b):
        shown = "to / from" if a.targets & b.origins else "from / to"
    elif small.replaces(one, other):
        shown = small.exchanged(a, b, one, other, small.WAYS) or small.person(a, b, one, other)
    if shown:
        found.features["order"] = 1.0
        found.evidence.append(Evidence("order", shown))


def _compares(a: Text, b: Text) -> bool:
    return not (_COMPARING.isdisjoint(a.content) and _COMPARING.isdisjoint(b.content))


def _swapped(one: Sequence[str], other: Sequence[str], *, compared: bool) -> bool:
    """Return whether two parts changed places around an asymmetric middle."""
    if max(len(one), len(other)) > 2 * _LONGEST_SWAP:
        return False
    one, other = small.same_forms(one), small.same_forms(other)
    start, end = _ends(one, other)
    one, other = one[start : len(one) - end], other[start : len(other) - end]
    size = len(one)
    if size != len(other) or not _LEAST_SWAP <= size <= _LONGEST_SWAP:
        return False
    if sorted(one) != sorted(other):
        return False
    # In "mix tea with milk" both are equal, in "mix at a ratio of 2 to 1" they are not.
    symmetric = _SYMMETRIC | _LINKS if compared and "number" not in one[0] else _SYMMETRIC
    swapped = False
    for first in range(1, min(size - 2, _LONGEST_PART) + 1):
        if other[size - first :] != one[:first]:
            continue
        for last in range(1, min(size - first - 1, _LONGEST_PART) + 1):
            middle = one[first : size - last]
            if other[:last] != one[size - last :] or middle != other[last : size - first]:
                continue
            if one[0] in _PREPOSITIONS or one[size - last] in _PREPOSITIONS:
                return False  # a part moved together with its preposition
            if any(map(_is_date, one[:first] + one[size - last :])) or symmetric >= set(middle):
                return False
            swapped = True
    return swapped


def _swapped_arguments(a: Text, one: Sequence[str], other: Sequence[str], start: int) -> bool:
    """Return whether the two arguments of a command changed places: "mv x y" and "mv y x"."""
    return (
        len(one) == _ARGUMENTS
        and one[::-1] == other
        and not _COMMANDS.isdisjoint(a.sequence[max(0, start - _ARGUMENTS) : start])
    )


def _is_date(piece: str) -> bool:
    kind, atom, _ = piece.partition(" ")
    return bool(atom) and kind in _DATES


def _turned(a: Text, b: Text) -> bool:
    """Return whether "to" has another target, while each text names both targets."""
    return (
        bool(a.targets and b.targets)
        and a.targets.isdisjoint(b.targets)
        and a.targets.issubset(b.sequence)
        and b.targets.issubset(a.sequence)
    )


def _tell_words(a: Text, b: Text, left: list[str], right: list[str], found: Comparison) -> None:
    """Add the unmatched words as evidence, unless they carry almost no meaning."""
    one, other = meaningful(left), meaningful(right)
    if one and other:
        found.evidence.append(Evidence("words", f"{_show(a, one)} / {_show(b, other)}"))
    elif one or other:
        shown = _show(a, one) or _show(b, other)
        found.evidence.append(Evidence("words", f"only one of them says {shown}"))


def _show(text: Text, words: Iterable[str]) -> str:
    return " ".join([text.shown[word] for word in words][:_MOST_SHOWN])


def _spell(text: Text, pieces: Iterable[str]) -> str:
    """Return pieces of a sequence as the text spells them, where known."""
    words = []
    for piece in pieces:
        kind, _, value = piece.partition(" ")
        words.append(text.atoms.get((kind, value)) or text.shown.get(piece, piece))
    return " ".join(words[:_MOST_SHOWN_ORDER])


def _some(words: Iterable[str]) -> str:
    return ", ".join(list(dict.fromkeys(words))[:_MOST_SHOWN_ATOMS])
