"""Compare small words: directions, persons, moods, conjunctions, and additions that narrow a query.

Functions that return text return evidence for people, or "" if they found none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memora.judge._words import word_set

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from memora.judge._text import Text

ARTICLES = frozenset(("a", "an", "the"))
_EMPTY = ARTICLES | {"of", "not"}
_MOST_REPLACED = 3  # pieces of a text for which another small word stands
_MOST_ADDED = 6  # words that are looked at
_LONGEST_PHRASE = 3  # words after a preposition

# Small words, and content words by their stem, that exclude each other in one place. With "not",
# the opposites mean the same; the others do not.
_Sides = tuple[tuple[frozenset[str], frozenset[str]], ...]
OPPOSITES: _Sides = (
    (word_set("in into"), word_set("out")),
    (word_set("on over onto abov upon"), word_set("under below beneath underneath")),
)
WAYS: _Sides = (
    (word_set("with"), word_set("after befor")),
    (word_set("to into onto toward"), word_set("from by")),
    (word_set("for"), word_set("from by")),
)
_AND, _OR = word_set("and plus"), "or"

_PERSONS = {
    "i": "I", "me": "I", "my": "I", "mine": "I", "we": "I", "us": "I", "our": "I",
    "you": "you", "your": "you", "yours": "you", "he": "he", "him": "he", "his": "he",
    "she": "she", "her": "she", "they": "they", "them": "they", "their": "they",
}  # fmt: skip
_AGREEING = word_set("am is are was were be do does have has ve re s m d ll")
_CASES = {
    "i": "me", "we": "us", "he": "him", "she": "her", "they": "them", "does": "do", "has": "have",
    "am": "is", "are": "is",
}  # fmt: skip
# Moods of questions in which "I" and "you" may mean anybody: "can you park here".
_GENERAL = word_set("may should would")
_WHO = word_set("who what which whom")
_DO = word_set("do does did")
_PASSIVE = word_set("by is are was were be been being") | _DO

_MOODS = {
    "can": "may", "could": "may", "may": "may", "might": "may", "must": "must",
    "should": "should", "shall": "should", "ought": "should", "would": "would",
    "will": "future", "did": "did", "was": "was", "were": "was",
    "do": "does", "does": "does", "is": "is", "are": "is", "am": "is",
}  # fmt: skip
_BEFORE_TO = {
    "have": "must", "has": "must", "need": "must", "requir": "must", "oblig": "must",
    "mandatori": "must", "compulsori": "must", "necessari": "must", "allow": "may",
    "permit": "may", "possibl": "may", "abl": "may", "suppos": "should", "advis": "should",
}  # fmt: skip
_MOOD_WITHIN, _TO_WITHIN = 5, 5  # pieces
_EXCLUSIVE_MOODS = {
    frozenset(pair.split("-"))
    for pair in (
        "may-must", "may-should", "must-should", "future-should", "future-must",
        "was-future", "did-does",
    )
}  # fmt: skip
_NOW_AND_THEN = frozenset(("was", "is"))
_DATED = word_set("when whether") | {"how many", "how much", "how often"}

# Qualifiers that narrow what they are added to.
_QUALIFIERS = word_set(
    "second third fourth fifth last next previous return used new old free cheap expensive "
    "electric diesel hybrid red blue green black white small large big junior senior adult child "
    "children kid baby toddler pregnant elderly beginner vegan vegetarian gluten organic "
    "digital international domestic foreign local public private commercial residential "
    "open closed active inactive unpaid overdue pending failed successful average median maximum "
    "minimum total net gross female male men women pro ultra mini lite premium plus"
)
_PREPOSITIONS = word_set(
    "for in at on near with from under over during within after through via insid outsid as except "
    "exclud unless if given assum provid"
)
# After a preposition, these add nothing.
_NOTHING_NEW = word_set(
    "world life general detail short fact advance exampl instance earth term sentence word simpl "
    "moment home time now today quora internet onlin step quick brief whole history future real "
    "usual way best good free sure long easili order me us you it this that these those them kind "
    "thank peopl person someon univers line myself plain better everyon"
)
_NEAR = word_set("near nearbi back")
_ORDINAL = ("st", "nd", "rd", "th")
_OWNERS_OF_ALL = word_set("world one someon anyon everyon person somebodi today nation peopl")
_ALL = word_set("all every each any")
_PARTICLES = {("off",), ("in", "to")}
_POSSESSIVES = word_set("my our your his her their")


def conjunction(a: Text, b: Text) -> str:
    """Find "A and B" against "A or B"."""
    if (_OR in a.function) == (_OR in b.function):
        return ""
    for one, other in ((a, b), (b, a)):
        if _OR in one.function and "and" not in one.function:
            joined = _joined(one.sequence, {_OR})
            if joined and not joined.isdisjoint(_joined(other.sequence, _AND)):
                return "and / or" if other is a else "or / and"
    return ""


def _joined(sequence: Sequence[str], words: Iterable[str]) -> set[tuple[str, str]]:
    """Return the pieces before and after each of the words."""
    pieces = [piece for piece in sequence if piece not in ARTICLES]
    return {
        (pieces[at - 1], pieces[at + 1]) for at in range(1, len(pieces) - 1) if pieces[at] in words
    }


def replaces(one: Sequence[str], other: Sequence[str]) -> bool:
    """Return whether differing pieces are few enough to be one word in place of another."""
    return 0 < len(one) <= _MOST_REPLACED and 0 < len(other) <= _MOST_REPLACED


def exchanged(a: Text, b: Text, one: Sequence[str], other: Sequence[str], sides: _Sides) -> str:
    """Find a small word that replaces another, and nothing else: "in stock", "out of stock"."""
    left, right = _meant(one), _meant(other)
    if len(left) != 1 or len(right) != 1:
        return ""
    x, y = left[0], right[0]
    if x in a.content and y in b.content:  # compared as other words are
        return ""
    for here, there in sides:
        if (x in here and y in there) or (y in here and x in there):
            return f"{x} / {y}"
    return ""


def _meant(pieces: Sequence[str]) -> list[str]:
    """Drop what says no direction: the "to" of "in to", articles."""
    found = [piece for piece in pieces if piece not in _EMPTY]
    return found[:1] if found[1:] == ["to"] else found


def up_or_down(a: Text, b: Text) -> bool:
    """Return whether the text without "down" has an "up", which the other lacks."""
    up, down = (a, b) if "down" in b.content else (b, a)
    return "up" in up.function and "up" not in down.function


def person(a: Text, b: Text, one: Sequence[str], other: Sequence[str]) -> str:
    """Find another person in a text that is otherwise equal: "my salary", "his salary"."""
    left, right = _persons(one), _persons(other)
    if not left or not right or not left.isdisjoint(right):
        return ""
    if {"I", "you"} == left | right and (
        not {a.question, b.question} <= {"", "whether"} or not _GENERAL.isdisjoint((a.mood, b.mood))
    ):
        return ""
    return f"{' '.join(sorted(left))} / {' '.join(sorted(right))}"


def _persons(pieces: Sequence[str]) -> set[str]:
    """Return the persons of pronouns and of what agrees with them; nothing if there is more."""
    found = set()
    for piece in pieces:
        if piece in _PERSONS:
            found.add(_PERSONS[piece])
        elif piece not in _AGREEING:
            return set()
    return found


def turned_about(a: Text, b: Text) -> bool:
    """Return whether "to X" in one text is "from X" in the other, about much the same."""
    if not (_from_instead(a, b) or _from_instead(b, a)):
        return False
    return 2 * len(a.content.keys() & b.content.keys()) >= max(len(a.content), len(b.content))


def _from_instead(one: Text, other: Text) -> bool:
    """Return whether the other text comes from a place that only this one goes to."""
    places = (one.targets & other.origins) - one.origins - other.targets
    return any(not other.shown.get(place, "").endswith("ing") for place in places)


def same_forms(pieces: Iterable[str]) -> list[str]:
    """Write pronouns in one case and verbs in one person, without articles."""
    return [_CASES.get(piece, piece) for piece in pieces if piece not in ARTICLES]


def other_agent(a: Text, b: Text, one: Sequence[str], other: Sequence[str]) -> bool:
    """Return whether subject and object are exchanged in otherwise equal words.

    "Who does Ada know" against "who knows Ada", and "which cats chase dogs" against "which cats
    are chased by dogs".
    """
    if a.passive != b.passive:
        return len(a.content) > 1 and _active(a) == _active(b)
    if a.question != b.question or _WHO.isdisjoint(a.function):
        return False
    left, right = (same_forms(piece for piece in x if piece not in _DO) for x in (one, other))
    return (
        len(left) == len(right) > 1
        and (len(left) < len(one)) != (len(right) < len(other))
        and _MOODS.keys().isdisjoint(left)
        and any(left[at:] + left[:at] == right for at in range(1, len(left)))
    )


def _active(text: Text) -> list[str]:
    return [piece for piece in text.sequence if piece not in _PASSIVE and piece not in ARTICLES]


def mood_of(sequence: list[str]) -> str:
    """Return whether a question asks what may, must or should be, what was, is or will be."""
    for at, piece in enumerate(sequence[:_MOOD_WITHIN]):
        mood = _MOODS.get(piece)
        if piece == "if":
            return ""
        if mood is None:
            continue
        if mood in {"is", "does"}:
            for further in range(at + 1, min(at + _TO_WITHIN, len(sequence) - 1)):
                if sequence[further] in _BEFORE_TO and "to" in sequence[further + 1 : further + 5]:
                    return _BEFORE_TO[sequence[further]]
        polite = at == 0 and sequence[1:2] == ["you"]  # "can you tell me"
        return "" if polite else mood
    return ""


def other_mood(a: Text, b: Text) -> str:
    """Find "can I" against "must I", and "did it" against "does it"."""
    if a.mood == b.mood or not a.mood or not b.mood or a.question != b.question:
        return ""
    moods = frozenset((a.mood, b.mood))
    # "What was" and "what is", "how can I" and "how should I" often ask the same.
    if a.question not in _DATED or not (
        moods in _EXCLUSIVE_MOODS
        or (moods == _NOW_AND_THEN and (a.question != "whether" or "go" in a.content))
    ):
        return ""
    return f"{a.mood} / {b.mood}"


def small_addition(text: Text, other: Text, inserted: Sequence[str], at: int) -> str:
    """Find an addition of small words, measures and ordinals: "all my files", "in inches".

    Args:
        text: The longer text.
        other: The shorter text.
        inserted: The pieces that only it has.
        at: Where they are in its sequence.
    """
    added = [piece for piece in inserted[:_MOST_REPLACED] if piece not in _EMPTY]
    before = text.sequence[at - 1] if at else ""
    if added and (
        (added[-1] in _POSSESSIVES and before in _ALL)
        or (tuple(added) in _PARTICLES and before in text.content)
    ):
        return " ".join((text.shown.get(before, before), *added))
    return _added_measure(text, other) if text.atoms else ""


def addition(text: Text, other: Text, words: Sequence[str]) -> str:
    """Find an addition that narrows a question: "for children", "second", "in inches".

    Args:
        text: The longer text.
        other: The shorter text, which has no word that the longer lacks.
        words: Stems that only the longer text has.
    """
    if text.atoms and (found := _added_measure(text, other)):
        return found
    for word in words[:_MOST_ADDED]:
        spelt, at = text.shown[word], text.sequence.index(word)
        after = text.sequence[at + 1] if at + 1 < len(text.sequence) else ""
        if word in text.owners and word not in _OWNERS_OF_ALL:
            return f"{spelt}'s"
        if word in _NEAR or (spelt.lower() in _QUALIFIERS and after in other.content):
            return spelt
        if len(words) <= _LONGEST_PHRASE and " " not in after and not spelt.endswith("ing"):
            before = _preposition(text.sequence, at)
            if before and _NOTHING_NEW.isdisjoint(text.sequence[at : at + _LONGEST_PHRASE]):
                return f"{before} {spelt}"
    return ""


def _added_measure(text: Text, other: Text) -> str:
    """Find a unit or an ordinal: "in inches", "the third"."""
    for (kind, value), shown in text.atoms.items():
        if kind == "unit" and not any(kind == "unit" for kind, _ in other.atoms):
            return f"in {shown}"
        ordinal = kind == "number" and shown.endswith(_ORDINAL) and shown[:-2].isdigit()
        if ordinal and (kind, value) not in other.atoms:
            return shown
    return ""


def _preposition(sequence: Sequence[str], at: int) -> str:
    """Return the preposition in front of a piece and of its article or possessive."""
    for before in reversed(sequence[max(at - 2, 0) : at]):
        if before in _PREPOSITIONS:
            return before
        if before not in ARTICLES and before not in _POSSESSIVES:
            break
    return ""
