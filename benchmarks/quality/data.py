"""Labelled streams and pairs, and the one door through which their files are opened."""

from __future__ import annotations

import gzip
import json
import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from memora.context import canonical_query

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

RIGHT: Final = 1
WRONG: Final = 0
UNKNOWN: Final = -1  # the pair has no label
NOBODY: Final = -2  # nothing was compared

ENGLISH = ("mixed", "qqp", "traps", "banking77", "clinc150")
LANGUAGES = ("parakqc_ko", "xsid_multi")
BACKGROUND = "arena_hard"
STREAMS = {
    **{name: f"streams/{name}.jsonl" for name in (*ENGLISH, *LANGUAGES)},
    BACKGROUND: "background/arena_hard_dev.jsonl.gz",  # all distinct: every hit is wrong
}
NEGATIVES = "streams/qqp_negatives.json"
HANDWRITTEN = "handwritten"
FAMILIES = {  # with those of training/families: of each, what `training/families.py` keeps back
    "families": "verifier/families/families_en.jsonl",
    "families_ml": "verifier/families/families_ml.jsonl",
}
WRITTEN = {
    HANDWRITTEN: "pairs/handwritten_dev.jsonl",
    "field": "pairs/field_dev.jsonl",
    "strangers": "pairs/strangers_en_dev.jsonl",
    "strangers_ml": "pairs/strangers_ml_dev.jsonl",
    **FAMILIES,
}
"""Pairs that people wrote to judge by, with kinds and languages."""
PAIRS = {
    **WRITTEN,
    "synthetic": "nearmiss/synthetic_pairs_dev.jsonl",
    "semantoneg": "nearmiss/semantoneg_dev.jsonl.gz",
    "svamp": "nearmiss/svamp_pairs_dev.jsonl.gz",
    "hwu_slots": "nearmiss/hwu_slot_pairs_dev.jsonl",
    "snips_slots": "nearmiss/snips_slot_pairs_dev.jsonl",
    "disflqa": "paraphrase/disflqa_dev.jsonl.gz",
    "pawsx_zh": "multilingual/pawsx_zh_dev.jsonl.gz",
}
_KEPT_BACK = ("test", "heldout", "sealed")
# Every author names kinds of traps in their own way: a kind belongs to the first group of which its
# name holds a word.
_TRAPS = {
    "negation": "negat without",
    "case, signs, operators": "case operator sign bracket wildcard literal flag punct character",
    "direction": "direction sides preposition",
    "number, order, quantity": "number quantity ordinal sequel first last threshold position",
    "unit or currency": "unit currenc",
    "period, tense": "period before after date time tense day duration window",
    "opposite or affix": "opposite antonym affix prefix suffix comparison superlative",
    "name or thing": "entity name place location product drug identifier object letter typo",
    "roles and persons": "role person people asks asker audience order",
    "scope, addition, and/or": "scope quantifier constraint addition and/or and_or condition modal",
    "language, platform, format": "language platform tool format output version",
}


def development_file(path: str | Path, *, final: bool = False) -> Path:
    """Return the path of a file that may be developed against; every file is opened through this.

    Args:
        path: The file.
        final: The result is reported, and nothing is chosen by it any more.

    Raises:
        ValueError: The name or a folder, as written or as resolved, contains "test", "heldout" or
            "sealed": results are judged on those.
    """
    found = Path(path)
    parts = [part.lower() for part in (*found.parts, *found.resolve().parts)]
    if not final and any(word in part for part in parts for word in _KEPT_BACK):
        raise ValueError(
            f"{found} is kept back: a name with {', '.join(_KEPT_BACK)} is opened for the final "
            "report only (--final, or final=True)"
        )
    return found


def records(path: str | Path, *, final: bool = False) -> list[dict[str, Any]]:
    """Read a file of one JSON object a line, `.gz` unpacked."""
    found = development_file(path, final=final)
    content = found.read_bytes()
    content = gzip.decompress(content) if found.suffix == ".gz" else content
    return [json.loads(line) for line in content.splitlines()]


@dataclass(frozen=True)
class Stream:
    """Requests in the order of their replay."""

    name: str
    texts: Sequence[str]
    """As the library compares them: `canonical_query`."""
    classes: NDArray[np.int32]
    """One answer serves all requests of a class."""
    components: NDArray[np.int32]
    """Questions that labels connect, however indirectly; -1 where all is known without."""
    types: Sequence[str]
    """Of the near miss; empty for any other request."""
    negatives: frozenset[tuple[int, int]]
    """Pairs of classes, the smaller first, that a person has told apart."""

    def __len__(self) -> int:
        return len(self.texts)

    @classmethod
    def of(
        cls, name: str, rows: Sequence[dict[str, Any]], negatives: Iterable[Sequence[str]] = ()
    ) -> Stream:
        """Make a stream of its records: `text`, `class`, and perhaps `component` and `type`."""
        number = {label: i for i, label in enumerate(dict.fromkeys(row["class"] for row in rows))}
        known = [(number[a], number[b]) for a, b in negatives if a in number and b in number]
        return cls(
            name,
            [canonical_query(row["text"]) for row in rows],
            np.array([number[row["class"]] for row in rows], np.int32),
            np.array([row.get("component", -1) for row in rows], np.int32),
            [row.get("type", "") for row in rows],
            frozenset((min(pair), max(pair)) for pair in known),
        )

    def verdicts(self, requests: NDArray[Any], served: NDArray[Any]) -> NDArray[np.int8]:
        """Return for each request whether the entry of another one answers it.

        Args:
            requests: Places in the stream.
            served: As many places of stored requests; below 0 for none.

        Returns:
            RIGHT, WRONG, UNKNOWN or NOBODY.
        """
        ours, theirs = self.classes[requests], self.classes[served]
        right = ours == theirs
        component = self.components[requests]
        unclear = ~right & (component >= 0) & (component == self.components[served])
        found = np.where(right, RIGHT, WRONG).astype(np.int8)
        for at in np.flatnonzero(unclear):
            a, b = int(ours[at]), int(theirs[at])
            if (min(a, b), max(a, b)) not in self.negatives:
                found[at] = UNKNOWN
        found[np.asarray(served) < 0] = NOBODY
        return found

    def possible(self) -> NDArray[np.bool_]:
        """Return a mask of the requests whose class occurred before."""
        first = np.unique(self.classes, return_index=True)[1]
        seen = np.ones(len(self), np.bool_)
        seen[first] = False
        return seen


def load_stream(data: Path, name: str, *, final: bool = False) -> Stream:
    """Read a stream by its name in STREAMS."""
    negatives = json.loads(development_file(data / NEGATIVES, final=final).read_bytes())
    return Stream.of(name, records(data / STREAMS[name], final=final), negatives)


@dataclass(frozen=True)
class Pairs:
    """A stored text, a text that is asked, and whether the answer to the one serves the other."""

    name: str
    stored: Sequence[str]
    asked: Sequence[str]
    same: NDArray[np.bool_]
    kinds: Sequence[str]
    languages: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.same)


def load_pairs(data: Path, name: str, *, final: bool = False) -> Pairs:
    """Read a suite of pairs by its name in PAIRS; without those that have a blank side."""
    found = _families(data, name) if name in FAMILIES else records(data / PAIRS[name], final=final)
    rows = [row for row in found if row["a"].strip() and row["b"].strip()]
    return Pairs(
        name,
        [canonical_query(row["a"]) for row in rows],
        [canonical_query(row["b"]) for row in rows],
        np.array([bool(row["same"]) for row in rows]),
        [str(row.get("category", row.get("kind", row.get("type", "")))) for row in rows],
        [row.get("lang", "en") for row in rows],
    )


def _families(data: Path, name: str) -> list[dict[str, Any]]:
    """Return the pairs of the families that are kept for judging, English ones or all others."""
    sys.path.append(str(Path(__file__).parents[2] / "training"))
    families = import_module("families")
    files = [*(data / path for path in FAMILIES.values()), *families.FILES]
    found = families.pairs(families.read_families(*files), judged=True)
    return [pair._asdict() for pair in found if (pair.lang == "en") == (name == "families")]


def trap(kind: str) -> str:
    """Return the group that a kind of trap belongs to."""
    known = (group for group, of in _TRAPS.items() if any(word in kind for word in of.split()))
    return next(known, "what is asked")


def absent(
    data: Path, streams: Iterable[str], pairs: Iterable[str], *, final: bool = False
) -> list[str]:
    """Return the names of the files that are missing."""
    wanted = [STREAMS[name] for name in streams] + [PAIRS[name] for name in pairs] + [NEGATIVES]
    return [name for name in wanted if not development_file(data / name, final=final).is_file()]
