"""Find two words that an affix tells apart: "weekly" and "biweekly", "nitrate" and "nitrite"."""

from __future__ import annotations

from typing import Literal

from memora.judge._words import word_set

Relation = Literal["", "opposite", "other"]
"""How two words differ: not by an affix, by one that negates, or by another."""

_LEAST_ROOT = 3  # letters
_LONGEST_COMMON = 3  # letters
_NOT = word_set("un in im ir il dis non")
_NEGATING = _NOT | word_set("de mis anti")
_PREFIXES = _NEGATING | word_set(
    "bi tri semi re pre post over under out up down hyper hypo inter intra macro micro mono multi "
    "uni sub super counter fore co en ex mid trans auto tele nano mega kilo milli centi pseudo"
)
# Of prefixes with two letters, most are also the start of a typo: "rereport". The rest is longer.
_SHORT_PREFIX, _LEAST_AFTER_SHORT = 2, 4
# Endings of the names of chemical compounds, and what they are appended to.
_COMPOUNDS = (
    word_set("ate ite ide ine ene ane yne ol anol enol one anone al anal yl ic ous ium oic anoic"),
    word_set("ose ase"),
)
_ROOTS = (
    "nitr", "sulf", "sulph", "chlor", "phosph", "brom", "iod", "fluor", "carbon", "carb", "meth",
    "eth", "prop", "but", "pent", "hex", "hept", "oct", "non", "dec", "benz", "acet", "silic",
    "arsen", "selen", "mangan", "chrom", "bor", "cyan", "tolu", "xyl", "glyc", "lact", "sucr",
    "fruct", "malt", "amyl", "lip", "prote", "form", "ferr", "cupr", "stann", "plumb", "ox",
    "hydr", "sulfon", "amm", "thi", "vanad", "tungst", "titan",
)  # fmt: skip


def affix_relation(one: str, other: str) -> Relation:
    """Compare two different words in lower case."""
    short, long = _singular(one), _singular(other)
    if len(short) > len(long):
        short, long = long, short
    if not short:
        return ""
    if short[0] == long[0] and (found := _by_suffix(short, long)):
        return found
    if short[-_LEAST_ROOT:] == long[-_LEAST_ROOT:]:
        return _by_prefix(short, long)
    return ""


def _singular(word: str) -> str:
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word


def _by_prefix(short: str, long: str) -> Relation:
    if long.endswith(short):
        return _prefixes("", long[: -len(short)], len(short))
    same = 0
    while same < len(short) and short[-1 - same] == long[-1 - same]:
        same += 1
    # The prefixes may end in common letters: "hyper" and "hypo" before "osmotic".
    for root in range(same, _LEAST_ROOT - 1, -1):
        if found := _prefixes(short[:-root], long[:-root], root):
            return found
    return ""


def _prefixes(one: str, other: str, root: int) -> Relation:
    if other not in _PREFIXES or (one and one not in _PREFIXES):
        return ""
    negated = other in _NEGATING and not one
    if root < (_LEAST_ROOT if negated else _LEAST_AFTER_SHORT) and len(other) <= _SHORT_PREFIX:
        return ""
    if one and (other.startswith(one) or {one, other} <= _NOT):  # "un-" and "uni-" may be a typo
        return ""
    return "opposite" if negated else "other"


def _by_suffix(short: str, long: str) -> Relation:
    same = 0
    while same < len(short) and short[same] == long[same]:
        same += 1
    # The endings may begin with common letters: "ane" and "anol" after "meth".
    for root in range(same, max(same - _LONGEST_COMMON, _LEAST_ROOT) - 1, -1):
        base, one, other = short[:root], short[root:], long[root:]
        if {one, other} == {"ee", "er"} or {one, other} == {"ee", "or"}:
            return "other"
        if "less" in {one, other} and {one, other} <= {"less", "", "ful", "ed", "d", "y"}:
            return "opposite"
        if base.endswith(_ROOTS) and any({one, other} <= endings for endings in _COMPOUNDS):
            return "other"
    return ""
