"""Compares two texts: what differs, in kinds, as numbers for the model and in words for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from memora.judge._text import weight_of
from memora.judge._words import relations
from memora.model import Evidence

if TYPE_CHECKING:
    from collections.abc import Iterable

    from memora.judge._text import Text

_MOST_PAIRS = 24  # leftover words a side that are paired with the other side's
_GROUP = {"year": "date", "month": "date", "day": "date", "weekday": "date", "period": "date"}
_QUANTIFIERS = frozenset("all every each any some both either only most".split())
_MODALS = frozenset("will would should must may might did can could".split())
_PLACES = frozenset("on before after from to into out with about up down off over under".split())
_ORDERED = ("number ", "unit ", "identifier ", "version ")
_NOTHING: frozenset[str] = frozenset()
_DATED = ("year ", "month ", "day ", "weekday ", "period ")
_PREFIXES = ("un", "in", "im", "ir", "il", "dis", "non", "de", "mis")
_SYMMETRIC = frozenset("and or vs versus".split())
# With one of these, "to", "with" and the like are symmetric too.
_COMPARING = frozenset("compar differ differ mix combin relat similar versus vs equal better".split())
_LINKS = frozenset("with to from between than".split())
_PREPOSITIONS = frozenset("in on at for from by of to with between since until per during".split())
_ARTICLES = frozenset(("a", "an", "the"))
_SPECIFIC = frozenset(
    "why when where who how many|how much|how long|how often|how old|how far|how big|whether|how".replace("why when where who how many", "why|when|where|who|how many").split("|")
)


class Comparison(NamedTuple):
    """How two texts differ."""

    features: dict[str, float]
    conflicts: list[Evidence]


def compare(a: Text, b: Text) -> Comparison:
    """Compare a query with a stored one. The two may change places, but for the order shown."""
    known = relations()
    features: dict[str, float] = dict.fromkeys(FEATURES, 0.0)
    conflicts: list[Evidence] = []

    frame = features["frame"] = _frame(a.sequence, b.sequence)
    _atoms(a, b, features, conflicts)

    left = [w for w, n in a.content.items() if n > b.content.get(w, 0)]
    right = [w for w, n in b.content.items() if n > a.content.get(w, 0)]
    total = a.weight + b.weight
    rarity = known.rarity
    opposite = 0
    if left and right:
        opposite = _pair(a, b, left, right, features, conflicts)
    for words, other in ((left, b), (right, a)):
        for word in words[:_MOST_PAIRS]:  # a misspelt small word
            if word not in rarity and 3 < len(word) < 8 and any(  # noqa: PLR2004
                abs(len(small) - len(word)) < 2 and _distance(word, small) == 1  # noqa: PLR2004
                for small in other.function
                if len(small) > 3  # noqa: PLR2004
            ):
                words.remove(word)
                features["typos"] += 1
    la = sum(map(weight_of, left))
    lb = sum(map(weight_of, right))
    features["left_sum"] = la + lb
    features["left_both"] = min(la, lb)
    features["left_extra"] = abs(la - lb)
    features["left_max"] = max(map(weight_of, (*left, *right)), default=0.0)
    features["left_share"] = (la + lb) / total if total else 0.0
    both = min(
        max(map(weight_of, left), default=0.0),
        max(map(weight_of, right), default=0.0),
    )
    features["left_rare"] = both
    names_a = [w for w in left if w in a.names]
    names_b = [w for w in right if w in b.names]
    if names_a and names_b:
        features["names"] = 1.0
        conflicts.append(Evidence("names", f"{_show(a, names_a)} / {_show(b, names_b)}"))
    elif names_a or names_b:
        features["name_extra"] = 1.0
    unknown_a = any(w not in rarity for w in left)
    unknown_b = any(w not in rarity for w in right)
    features["unknown"] = float(unknown_a and unknown_b)
    features["unknown_extra"] = float(unknown_a != unknown_b)

    # A word such as "not" or "before" decides between texts that are otherwise alike; in a long
    # story beside a short question it does not.
    near = max(0.0, 1.0 - 1.5 * features["left_share"])
    covered = max(0.0, 1.0 - 3.0 * features["left_share"])
    features["covered"] = covered
    features["explained"] = covered * min(features["typos"] + features["acronyms"] + features["synonyms"], 3) / 3
    if any(_GROUP.get(kind) == "date" and (kind, value) in b.atoms for kind, value in a.atoms):
        features["anchored"] = covered
    if a.language != "en" or b.language != "en":
        _forget(a, b, features)
    negation = a.negations - b.negations
    if (negation + opposite) % 2:
        features["polarity"] = near * frame
        features["polarity_loose"] = near * (1.0 - frame)
        if not opposite:
            conflicts.append(Evidence("negation", "only one of them says no"))
    elif opposite or negation:
        features["polarity_even"] = near

    _questions(a, b, near, features, conflicts)
    _functions(a, b, near, features, conflicts)
    _order(a, b, left, right, features, conflicts)
    if a.quoted != b.quoted and a.quoted and b.quoted:
        features["quoted"] = 1.0
        conflicts.append(Evidence("quotation", "what is quoted differs"))
    short, long = sorted((a.words, b.words))
    features["length"] = short / long if long else 1.0
    features["short"] = min(short, 12) / 12
    features["content"] = min(min(len(a.content) + len(a.atoms), len(b.content) + len(b.atoms)), 8) / 8
    if left and right and not conflicts:
        conflicts.append(Evidence("words", f"{_show(a, left[:4])} / {_show(b, right[:4])}"))
    elif (left or right) and not conflicts:
        one, words = (a, left) if left else (b, right)
        conflicts.append(Evidence("words", f"only one of them says {_show(one, words[:4])}"))
    return Comparison(features, conflicts)


FEATURES = (
    "numbers", "number_extra", "dates", "date_extra", "identifiers", "identifier_extra", "units",
    "unit_extra", "shared", "left_sum", "left_both", "left_extra", "left_max", "left_share",
    "left_rare", "names", "name_extra", "unknown", "unknown_extra", "polarity", "polarity_even",
    "polarity_loose", "question_loose", "subst", "subst_tight", "insert", "reorder", "covered", "explained", "anchored",
    "foreign", "languages",     "antonyms", "siblings", "synonyms", "typos", "acronyms", "question", "question_soft",
    "quantifiers", "modals", "directions", "swap", "slot", "slot_size", "frame", "quoted", "length",
    "short", "content",
)  # fmt: skip


def _atoms(a: Text, b: Text, features: dict[str, float], conflicts: list[Evidence]) -> None:
    if not a.atoms and not b.atoms:
        return
    sides: dict[str, tuple[list[tuple[str, str]], list[tuple[str, str]]]] = {}
    shared = 0
    for key, shown in a.atoms.items():
        if key in b.atoms:
            shared += 1
        else:
            sides.setdefault(_GROUP.get(key[0], key[0]), ([], []))[0].append((key[1], shown))
    for key, shown in b.atoms.items():
        if key not in a.atoms:
            sides.setdefault(_GROUP.get(key[0], key[0]), ([], []))[1].append((key[1], shown))
    if "number" in sides:
        shared += _equal_numbers(*sides["number"])
    features["shared"] = float(min(shared, 3))
    # A year beside a number without a unit may be either.
    for kind, (one, other) in sides.items():
        group = _KINDS[kind]
        if one and other:
            features[group] += min(len(one), len(other))
            conflicts.append(Evidence(_NAMES[group], f"{_shown(one)} / {_shown(other)}"))
        features[_EXTRAS[group]] += abs(len(one) - len(other))
    dangling = [kind for kind, (one, other) in sides.items() if bool(one) != bool(other)]
    if len(dangling) > 1:  # "in 2019" against "for 5 years"
        sided = {bool(sides[kind][0]) for kind in dangling}
        features["numbers"] += float(len(sided) > 1)


_KINDS = {
    "number": "numbers", "date": "dates", "identifier": "identifiers", "version": "identifiers",
    "unit": "units",
}  # fmt: skip
_EXTRAS = {
    "numbers": "number_extra", "dates": "date_extra", "identifiers": "identifier_extra",
    "units": "unit_extra",
}  # fmt: skip
_NAMES = {"numbers": "numbers", "dates": "dates", "identifiers": "identifiers", "units": "units"}


def _forget(a: Text, b: Text, features: dict[str, float]) -> None:
    """Without word lists for a language, leave out what they would have told."""
    if a.language in {"", "en"} and b.language in {"", "en"}:
        return
    features["foreign"] = 1.0
    features["languages"] = float("" not in {a.language, b.language} and a.language != b.language)
    for name in (
        "left_sum", "left_both", "left_extra", "left_max", "left_share", "left_rare", "names",
        "name_extra", "unknown", "unknown_extra", "covered", "explained", "anchored",
    ):  # fmt: skip
        features[name] = 0.0


def _pair(
    a: Text,
    b: Text,
    left: list[str],
    right: list[str],
    features: dict[str, float],
    conflicts: list[Evidence],
) -> int:
    """Take out of both lists what means the same or the opposite; return how many opposites."""
    known = relations()
    opposites = 0
    for word in left[:_MOST_PAIRS]:
        groups = known.synonyms.get(word)
        against = known.antonyms.get(word)
        for other in right[:_MOST_PAIRS]:
            if (against and other in against) or _prefixed(word, other):
                features["antonyms"] += 1
                opposites += 1
                conflicts.append(Evidence("opposites", f"{_show(a, [word])} / {_show(b, [other])}"))
            elif groups and not groups.isdisjoint(known.synonyms.get(other, ())):
                if known.exclusive.get(word, 0) & known.exclusive.get(other, 0):
                    continue  # "second" and "minute" are also words for a moment
                features["synonyms"] += 1
            elif _misspelt(a, word, b, other):
                features["typos"] += 1
            else:
                continue
            left.remove(word)
            right.remove(other)
            break
    for one, text, words, rest in ((left, b, right, a), (right, a, left, b)):
        for word in one[:_MOST_PAIRS]:
            shown = rest.shown[word]
            if 2 <= len(shown) <= 5 and (shown.isupper() or word not in known.rarity):  # noqa: PLR2004
                at = text.initials.find(shown.lower())
                if at >= 0 and any(w in words for w in text.sequence[at : at + len(shown)]):
                    one.remove(word)
                    for part in text.sequence[at : at + len(shown)]:
                        if part in words:
                            words.remove(part)
                    features["acronyms"] += 1
            if word in one and word not in known.rarity and (parts := _apart(word, text)):
                one.remove(word)
                for part in parts:
                    if part in words:
                        words.remove(part)
    for word in left[:_MOST_PAIRS]:
        groups = known.siblings.get(word)
        if groups:
            for other in right[:_MOST_PAIRS]:
                common = groups & known.siblings.get(other, frozenset())
                if common:
                    features["siblings"] += 1
                    kind = known.kinds[min(common)]
                    conflicts.append(Evidence(kind, f"{_show(a, [word])} / {_show(b, [other])}"))
                    break
    return opposites


def _apart(word: str, text: Text) -> tuple[str, str] | None:
    """Return two neighbours in a text that are written as one word elsewhere: "check out"."""
    pieces = text.sequence
    for first, second in zip(pieces, pieces[1:]):
        if word.startswith(first) and len(first) + len(second) >= len(word) and first + second == word:
            return first, second
    return None


def _questions(
    a: Text, b: Text, near: float, features: dict[str, float], conflicts: list[Evidence]
) -> None:
    if a.question == b.question:
        return
    if a.question in _SPECIFIC and b.question in _SPECIFIC:
        features["question"] = near * features["frame"]
        features["question_loose"] = near * (1.0 - features["frame"])
        conflicts.append(Evidence("question", f"{a.question} / {b.question}"))
    elif a.question in _SPECIFIC or b.question in _SPECIFIC:
        features["question_soft"] = near


def _functions(
    a: Text, b: Text, near: float, features: dict[str, float], conflicts: list[Evidence]
) -> None:
    one, other = a.function.keys() - b.function.keys(), b.function.keys() - a.function.keys()
    if not one and not other:
        return
    for name, words in (("modals", _MODALS), ("directions", _PLACES)):
        x, y = one & words, other & words
        if x and y:
            features[name] = near
            conflicts.append(Evidence(name, f"{_some(sorted(x))} / {_some(sorted(y))}"))
    x, y = (one & _QUANTIFIERS), (other & _QUANTIFIERS)
    features["quantifiers"] = near * (len(x) + len(y)) / 2


def _order(
    a: Text,
    b: Text,
    left: list[str],
    right: list[str],
    features: dict[str, float],
    conflicts: list[Evidence],
) -> None:
    one, other = a.sequence, b.sequence
    start, end = _ends(one, other)
    if not features["foreign"]:
        features["subst"] = features["frame"] * features["left_both"]
        features["subst_tight"] = features["frame"] ** 3 * features["left_both"]
        features["insert"] = features["frame"] * features["left_extra"]
    middle_a, middle_b = one[start : len(one) - end], other[start : len(other) - end]
    if not middle_a and not middle_b:
        return
    if middle_a and middle_b and start + end >= 2:  # noqa: PLR2004 - a frame around it
        features["slot"] = float(not features["foreign"] and any(w in middle_a for w in left) and any(w in middle_b for w in right))
        features["slot_size"] = min(len(middle_a) + len(middle_b), 12) / 12
    if len(a.atoms) > 1 and len(b.atoms) > 1:
        x = [word for word in one if word.startswith(_ORDERED) and word in other]
        y = [word for word in other if word.startswith(_ORDERED) and word in one]
        features["reorder"] = float(x != y and sorted(x) == sorted(y))
    if a.passive == b.passive and _swapped(middle_a, middle_b, _LINKS if _COMPARING & a.content.keys() else _NOTHING):
        features["swap"] = 1.0
        conflicts.append(Evidence("order", f"{' '.join(middle_a[:6])} / {' '.join(middle_b[:6])}"))


def _ends(one: tuple[str, ...], other: tuple[str, ...]) -> tuple[int, int]:
    """Return how many pieces two sequences share at the start, and then at the end."""
    size = min(len(one), len(other))
    start = 0
    while start < size and one[start] == other[start]:
        start += 1
    end = 0
    while end < size - start and one[-1 - end] == other[-1 - end]:
        end += 1
    return start, end


def _frame(one: tuple[str, ...], other: tuple[str, ...]) -> float:
    """Return the share of the longer sequence that stands around the differences."""
    return sum(_ends(one, other)) / max(len(one), len(other), 1)


def _swapped(one: tuple[str, ...], other: tuple[str, ...], links: frozenset[str]) -> bool:
    """Return whether two parts changed places around a middle that is not symmetric."""
    one = tuple(word for word in one if word not in _ARTICLES)
    other = tuple(word for word in other if word not in _ARTICLES)
    size = len(one)
    if size != len(other) or not 3 <= size <= 40 or sorted(one) != sorted(other):  # noqa: PLR2004
        return False
    # one = X M Y, other = Y M X
    for first in range(1, min(size - 1, 6)):
        if other[size - first :] != one[:first]:
            continue
        for last in range(1, min(size - first, 6)):
            middle = one[first : size - last]
            if other[:last] != one[size - last :] or middle != other[last : size - first]:
                continue
            if {one[0], one[size - last]} & _PREPOSITIONS:
                return False  # each took its preposition along
            if one[0].startswith(_DATED) or one[-1].startswith(_DATED):
                return False
            return not all(word in _SYMMETRIC or word in links for word in middle)
    return False


def _misspelt(a: Text, word: str, b: Text, match: str) -> bool:
    """Return whether one of two words is a slip of the pen for the other."""
    rarity = relations().rarity
    known = (word in rarity) + (match in rarity)
    named = word in a.names and match in b.names
    one, other = a.shown[word].lower(), b.shown[match].lower()
    longest = max(len(one), len(other))
    if known == 2 or longest < 4 or abs(len(one) - len(other)) > 2:  # noqa: PLR2004
        return False
    # Two names that nobody knows, or two short words, may be two things.
    if named or not known:
        return longest > 5 and one[0] == other[0] and _distance(one, other) <= 1  # noqa: PLR2004
    return _distance(one, other) <= (1 if longest < 6 else 2)  # noqa: PLR2004


def _distance(one: str, other: str) -> int:
    from rapidfuzz.distance import OSA

    return OSA.distance(one, other, score_cutoff=2)


def _prefixed(one: str, other: str) -> bool:
    short, long = (one, other) if len(one) < len(other) else (other, one)
    return len(short) > 2 and long.endswith(short) and long[: -len(short)] in _PREFIXES  # noqa: PLR2004


def _show(text: Text, words: Iterable[str]) -> str:
    return " ".join(text.shown.get(word, word) for word in words)


def _shown(atoms: list[tuple[str, str]]) -> str:
    return ", ".join(shown for _, shown in atoms[:3])


def _equal_numbers(one: list[tuple[str, str]], other: list[tuple[str, str]]) -> int:
    """Take out numbers that are equal but for a unit that one leaves out; return how many."""
    found = 0
    for atom in one[:_MOST_PAIRS]:
        for match in other[:_MOST_PAIRS]:
            if _same_number(atom[0], match[0]):
                one.remove(atom)
                other.remove(match)
                found += 1
                break
    return found


def _same_number(one: str, other: str) -> bool:
    (x, _, unit), (y, _, unit2) = one.partition(" "), other.partition(" ")
    if ":" in x or ":" in y:
        return x.removesuffix(":00") == y.removesuffix(":00")
    if not unit or not unit2:
        if unit == "percent" or unit2 == "percent":
            p, q = (float(x), float(y)) if unit else (float(y), float(x))
            return abs(p / 100 - q) < 1e-9 or p == q  # noqa: PLR2004
        return x == y
    if unit == unit2 == "data":
        return 0.9 < float(x) / (float(y) or 1) < 1.1  # noqa: PLR2004 - 1,000 or 1,024
    pounds = {unit, unit2} == {"mass", "GBP"}
    return pounds and abs(float(x) / 0.45359237 - float(y)) < 1e-6 * float(y) or pounds and abs(float(y) / 0.45359237 - float(x)) < 1e-6 * float(x)  # noqa: PLR2004


def _some(words: list[str]) -> str:
    return ", ".join(words[:3])
