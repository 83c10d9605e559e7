"""Compares two texts: what differs, in kinds, as numbers for the model and in words for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from rapidfuzz.distance import OSA

from memora.judge._text import weight_of
from memora.judge._words import relations
from memora.model import Evidence

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from memora.judge._text import Text

KINDS: dict[str, tuple[str, ...]] = {
    "numbers": ("numbers",),
    "dates": ("dates", "anchored"),
    "units": ("units",),
    "identifiers": ("identifiers",),
    "names": ("names", "name_extra"),
    "polarity": ("polarity", "polarity_loose"),
    "words": ("substitution", "insertion"),
    "wording": ("explained", "covered"),
    "siblings": ("siblings",),
    "question": ("question",),
    "quantifiers": ("quantifiers",),
    "modals": ("modals",),
    "directions": ("directions",),
    "order": ("order",),
    "bounds": ("bounds",),
    "language": ("foreign",),
}
"""Kinds of evidence, and the features that carry each."""

# Words left over on a side that are paired with the other side's: more would cost time, and texts
# that differ in more are not repeats.
_MOST_WORDS = 24
_DATES = frozenset(("year", "month", "day", "weekday", "period"))
_ATOM_KINDS = {
    "number": "numbers", "date": "dates", "identifier": "identifiers", "version": "identifiers",
    "unit": "units",
}  # fmt: skip
_QUANTIFIERS = frozenset("all every each any some both either only most".split())
_MODALS = frozenset("will would should must may might did can could".split())
_DIRECTIONS = frozenset(
    "on before after from to into out with about up down off over under".split()
)
_NEGATING_PREFIXES = ("un", "in", "im", "ir", "il", "dis", "non", "de", "mis")
_SPECIFIC_QUESTIONS = frozenset((
    "why", "when", "where", "who", "how", "how many", "how much", "how long", "how often",
    "how old", "how far", "how big", "whether",
))  # fmt: skip
# "A and B" is "B and A"; "A to B" is not "B to A", unless the two are compared.
_SYMMETRIC = frozenset("and or vs versus".split())
_COMPARING = frozenset("compar differ mix combin relat similar versus vs equal better".split())
_LINKS = frozenset("with to from between than".split())
_PREPOSITIONS = frozenset("in on at for from by of to with between since until per during".split())
_ARTICLES = frozenset(("a", "an", "the"))
_LONGEST_SWAP = 40  # pieces that are searched for a swap
_LONGEST_PART = 5  # pieces of a part that changed places
_POUND = 453.59237  # grams; the table's mass is in grams


class Comparison(NamedTuple):
    """How two texts differ."""

    features: dict[str, float]
    """By name, those that are not 0; see `KINDS`."""
    evidence: list[Evidence]


def compare(a: Text, b: Text) -> Comparison:
    """Compare a query with a stored one.

    The same features come out if the two change places; the evidence is worded the other way
    round.
    """
    found = Comparison({}, [])
    features = found.features
    start, end = _ends(a.sequence, b.sequence)
    frame = (start + end) / max(len(a.sequence), len(b.sequence), 1)
    _compare_atoms(a, b, found)

    left = [word for word, count in a.content.items() if count > b.content.get(word, 0)]
    right = [word for word, count in b.content.items() if count > a.content.get(word, 0)]
    opposites, reworded = _pair(a, b, left, right, found)
    left_weight, right_weight = sum(map(weight_of, left)), sum(map(weight_of, right))
    total = a.weight + b.weight
    share = (left_weight + right_weight) / total if total else 0.0
    # A word such as "not" or "before" decides between texts that are otherwise alike; in a long
    # story beside a short question it does not.
    near = max(0.0, 1.0 - 1.5 * share)
    foreign = not {a.language, b.language} <= {"", "en"}
    if foreign:
        # The word lists are English: of other languages only what is exact is compared.
        features["foreign"] = 1.0
        features["languages"] = float(a.language != b.language and "" not in {a.language, b.language})
    else:
        covered = max(0.0, 1.0 - 3.0 * share)
        features["covered"] = covered
        features["explained"] = covered * min(reworded, 3) / 3
        if any(kind in _DATES and (kind, value) in b.atoms for kind, value in a.atoms):
            features["anchored"] = min(1.0, 1.5 * covered)
        features["substitution"] = frame**3 * min(left_weight, right_weight)
        features["insertion"] = frame * abs(left_weight - right_weight)
        _compare_names(a, b, left, right, found)
    negation = a.negations - b.negations
    if (negation + opposites) % 2:
        features["polarity"] = near * frame
        features["polarity_loose"] = near * (1.0 - frame)
        if not opposites:
            found.evidence.append(Evidence("negation", "only one of them says no"))
    _compare_questions(a, b, near * frame, found)
    _compare_small_words(a, b, near, found)
    if a.bounds and b.bounds and a.bounds.isdisjoint(b.bounds):
        features["bounds"] = 1.0
        found.evidence.append(Evidence("bounds", f"{_bounds(a)} / {_bounds(b)}"))
    middle = a.sequence[start : len(a.sequence) - end], b.sequence[start : len(b.sequence) - end]
    compared = bool(_COMPARING & a.content.keys())
    if a.passive == b.passive and _swapped(*middle, compared=compared):
        features["order"] = 1.0
        one, other = (" ".join(part[:6]) for part in middle)
        found.evidence.append(Evidence("order", f"{one} / {other}"))
    elif not compared and _turned(a, b):
        features["order"] = 1.0
        shown = f"to {_some(sorted(a.targets))} / to {_some(sorted(b.targets))}"
        found.evidence.append(Evidence("order", shown))
    if not found.evidence and (left or right):
        found.evidence.append(_wording(a, b, left, right))
    return found


def _compare_atoms(a: Text, b: Text, found: Comparison) -> None:
    """Compare what is exact: an atom of a kind on each side that the other lacks is a conflict."""
    if not a.atoms and not b.atoms:
        return
    only: dict[str, tuple[dict[str, str], dict[str, str]]] = {}
    for side, atoms, others in ((0, a.atoms, b.atoms), (1, b.atoms, a.atoms)):
        for (kind, value), shown in atoms.items():
            if (kind, value) not in others:
                group, key = ("date", f"{kind} {value}") if kind in _DATES else (kind, value)
                only.setdefault(group, ({}, {}))[side][key] = shown
    if "number" in only:
        _drop_equal_numbers(*only["number"])
    for kind, (one, other) in only.items():
        if one and other:
            name = _ATOM_KINDS[kind]
            found.features[name] = found.features.get(name, 0.0) + min(len(one), len(other))
            found.evidence.append(Evidence(name, f"{_some(one.values())} / {_some(other.values())}"))
    sides = {bool(one) for one, other in only.values() if bool(one) != bool(other)}
    if len(sides) > 1:  # "in 2019" against "for 5 years"
        found.features["numbers"] = found.features.get("numbers", 0.0) + 1.0


def _drop_equal_numbers(one: dict[str, str], other: dict[str, str]) -> None:
    """Drop numbers that are equal but for a unit that one side leaves out or writes otherwise."""
    for value in list(one)[:_MOST_WORDS]:
        for match in list(other)[:_MOST_WORDS]:
            if _equal(value, match):
                del one[value], other[match]
                break


def _equal(one: str, other: str) -> bool:
    (x, _, unit), (y, _, other_unit) = one.partition(" "), other.partition(" ")
    if ":" in x or ":" in y:  # a time of day
        return x.removesuffix(":00") == y.removesuffix(":00")
    first, second = float(x), float(y)
    units = {unit, other_unit}
    if units == {"percent", ""}:
        part, whole = (second, first) if unit else (first, second)
        return part == whole or abs(part - whole / 100) < 1e-9  # noqa: PLR2004 - 0.25 or 25
    if "" in units:
        return first == second
    if units == {"data"}:
        return 0.9 * second < first < 1.1 * second  # a thousand, or 1,024
    if units == {"mass", "GBP"}:  # pounds: the scanner takes them for a weight
        weight, money = (first, second) if unit == "mass" else (second, first)
        return abs(weight / _POUND - money) <= 1e-6 * money  # noqa: PLR2004
    return False


def _pair(
    a: Text, b: Text, left: list[str], right: list[str], found: Comparison
) -> tuple[int, int]:
    """Take out of both lists what means the same, or the opposite.

    Returns:
        How many pairs are opposites, and how many the same in other words.
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
    for word in left[:_MOST_WORDS]:
        synonyms = known.synonyms.get(word, frozenset())
        antonyms = known.antonyms.get(word, frozenset())
        for other in right[:_MOST_WORDS]:
            if other in antonyms or _is_negated(word, other):
                opposites += 1
                shown = f"{_show(a, [word])} / {_show(b, [other])}"
                found.evidence.append(Evidence("opposites", shown))
            elif not synonyms.isdisjoint(known.synonyms.get(other, ())):
                if known.exclusive.get(word, 0) & known.exclusive.get(other, 0):
                    continue  # "second" and "minute" are also words for a moment
                reworded += 1
            elif _is_slip(a, word, b, other):
                reworded += 1
            else:
                continue
            left.remove(word)
            right.remove(other)
            break
    return opposites, reworded


def _expand(words: list[str], text: Text, others: list[str], other: Text) -> int:
    """Take out acronyms, with what they stand for, and words that the other text writes in two."""
    known, acronyms = relations().rarity, 0
    for word in words[:_MOST_WORDS]:
        shown = text.shown[word]
        parts: Sequence[str] = ()
        if 2 <= len(shown) <= 5 and (shown.isupper() or word not in known):  # noqa: PLR2004
            at = other.initials.find(shown.lower())
            if at >= 0:
                parts = [part for part in other.sequence[at : at + len(shown)] if part in others]
                acronyms += bool(parts)
        if not parts and word not in known:
            parts = _apart(word, other.sequence)
            if not parts:
                continue
        elif not parts:
            continue
        words.remove(word)
        for part in parts:
            if part in others:
                others.remove(part)
    return acronyms


def _apart(word: str, sequence: Sequence[str]) -> tuple[str, ...]:
    """Return two neighbours that make up a word: "check" and "out"."""
    for first, second in zip(sequence, sequence[1:], strict=False):
        if word.startswith(first) and first + second == word:
            return first, second
    return ()


def _drop_slips(words: list[str], other: Text) -> int:
    """Drop misspelt small words: "shoud" where the other text has "should"."""
    known, slips = relations().rarity, 0
    for word in words[:_MOST_WORDS]:
        if word in known or not 4 <= len(word) <= 7:  # noqa: PLR2004 - as long as small words are
            continue
        if any(
            abs(len(small) - len(word)) < 2 and OSA.distance(word, small, score_cutoff=1) == 1  # noqa: PLR2004
            for small in other.function
            if len(small) > 3  # noqa: PLR2004
        ):
            words.remove(word)
            slips += 1
    return slips


def _compare_siblings(
    a: Text, b: Text, left: list[str], right: list[str], found: Comparison
) -> None:
    """Look for words that exclude each other: two colours, two rooms, two cities."""
    known = relations()
    for word in left[:_MOST_WORDS]:
        groups = known.siblings.get(word)
        if not groups:
            continue
        for other in right[:_MOST_WORDS]:
            if common := groups & known.siblings.get(other, frozenset()):
                found.features["siblings"] = found.features.get("siblings", 0.0) + 1.0
                shown = f"{_show(a, [word])} / {_show(b, [other])}"
                found.evidence.append(Evidence(known.kinds[min(common)], shown))
                break


def _compare_names(
    a: Text, b: Text, left: list[str], right: list[str], found: Comparison
) -> None:
    one = [word for word in left if word in a.names]
    other = [word for word in right if word in b.names]
    if one and other:
        found.features["names"] = 1.0
        found.evidence.append(Evidence("names", f"{_show(a, one)} / {_show(b, other)}"))
    elif one or other:
        found.features["name_extra"] = 1.0


def _compare_questions(a: Text, b: Text, weight: float, found: Comparison) -> None:
    if a.question != b.question and {a.question, b.question} <= _SPECIFIC_QUESTIONS:
        found.features["question"] = weight
        found.evidence.append(Evidence("question", f"{a.question} / {b.question}"))


def _compare_small_words(a: Text, b: Text, weight: float, found: Comparison) -> None:
    one, other = a.function.keys() - b.function.keys(), b.function.keys() - a.function.keys()
    for kind, words in (("modals", _MODALS), ("directions", _DIRECTIONS)):
        if one & words and other & words:
            found.features[kind] = weight
            shown = f"{_some(sorted(one & words))} / {_some(sorted(other & words))}"
            found.evidence.append(Evidence(kind, shown))
    if quantifiers := (one | other) & _QUANTIFIERS:
        found.features["quantifiers"] = weight * len(quantifiers) / 2
        shown = f"only one of them says {_some(sorted(quantifiers))}"
        found.evidence.append(Evidence("quantifiers", shown))


def _wording(a: Text, b: Text, left: list[str], right: list[str]) -> Evidence:
    """Say what differs where nothing else is known of it."""
    if left and right:
        return Evidence("words", f"{_show(a, left[:4])} / {_show(b, right[:4])}")
    text, words = (a, left) if left else (b, right)
    return Evidence("words", f"only one of them says {_show(text, words[:4])}")


def _ends(one: Sequence[str], other: Sequence[str]) -> tuple[int, int]:
    """Return how many pieces two sequences share at the start, and then at the end."""
    size = min(len(one), len(other))
    start = 0
    while start < size and one[start] == other[start]:
        start += 1
    end = 0
    while end < size - start and one[-1 - end] == other[-1 - end]:
        end += 1
    return start, end


def _swapped(one: Sequence[str], other: Sequence[str], *, compared: bool) -> bool:
    """Return whether two parts changed places around a middle that is not symmetric."""
    one = [piece for piece in one if piece not in _ARTICLES]
    other = [piece for piece in other if piece not in _ARTICLES]
    size = len(one)
    if size != len(other) or not 3 <= size <= _LONGEST_SWAP or sorted(one) != sorted(other):  # noqa: PLR2004
        return False
    symmetric = _SYMMETRIC | _LINKS if compared else _SYMMETRIC
    for first in range(1, min(size - 2, _LONGEST_PART) + 1):
        if other[size - first :] != one[:first]:
            continue
        for last in range(1, min(size - first - 1, _LONGEST_PART) + 1):
            middle = one[first : size - last]
            if other[:last] != one[size - last :] or middle != other[last : size - first]:
                continue
            if one[0] in _PREPOSITIONS or one[size - last] in _PREPOSITIONS:
                return False  # a part took its preposition along
            if {one[0].split(" ")[0], one[-1].split(" ")[0]} & _DATES:
                return False
            return not symmetric.issuperset(middle)
    return False


def _turned(a: Text, b: Text) -> bool:
    """Return whether "to" points elsewhere: at what the other text also names."""
    return (
        bool(a.targets and b.targets)
        and a.targets.isdisjoint(b.targets)
        and a.targets.issubset(b.sequence)
        and b.targets.issubset(a.sequence)
    )


def _bounds(text: Text) -> str:
    names = {"ge": "at least", "le": "at most", "gt": "more", "lt": "less", "eq": "exactly"}
    return _some(sorted(names[bound] for bound in text.bounds))


def _is_slip(a: Text, word: str, b: Text, match: str) -> bool:
    """Return whether one of two words is a slip of the pen for the other."""
    rarity = relations().rarity
    known = (word in rarity) + (match in rarity)
    one, other = a.shown[word].lower(), b.shown[match].lower()
    longest = max(len(one), len(other))
    if known == 2 or longest < 4 or abs(len(one) - len(other)) > 2:  # noqa: PLR2004
        return False
    # Two names, or two words that nobody knows, may well be two things.
    if not known or (word in a.names and match in b.names):
        return longest > 5 and one[0] == other[0] and _distance(one, other) <= 1  # noqa: PLR2004
    return _distance(one, other) <= (1 if longest < 8 else 2)  # noqa: PLR2004


def _distance(one: str, other: str) -> int:
    return OSA.distance(one, other, score_cutoff=2)


def _is_negated(one: str, other: str) -> bool:
    """Return whether one word is the other with a negating prefix."""
    short, long = (one, other) if len(one) < len(other) else (other, one)
    prefix = long[: -len(short)]
    return len(short) > 2 and prefix in _NEGATING_PREFIXES and long.endswith(short)  # noqa: PLR2004


def _show(text: Text, words: Iterable[str]) -> str:
    return " ".join(text.shown[word] for word in words)


def _some(words: Iterable[str]) -> str:
    return ", ".join(list(words)[:3])
