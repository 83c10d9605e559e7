"""The labelled pairs that the verifier learns from, and those that judge it.

Every file is opened through `data.records` or `data.development_file`, which refuse what is kept
back. Pairs with a text of a development stream or of an evaluated suite are dropped, and every
tenth family of needs is kept for judging.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from data import PAIRS, development_file, records
from families import kept
from sources import EVALUATED, LABELS, QUESTIONS

from memora.context import canonical_query

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from vectors import Vectors

Record = dict[str, Any]

HERE: Final = Path(__file__).parent
LONGEST: Final = 200
"""Characters of both texts of a training pair together: longer pairs cost time and teach little."""
MIX: Final = {
    "sql_advising": 2_000,
    "sql_spider": 2_500,
    "sgd": 4_000,
    "simplequestions": 2_000,
    "sql_wikisql": 1_000,
    "nl2bash": 2_000,
    "condaqa_edits": 1_000,
    "torque": 800,
    "breaking_nli": 800,
    "negation_conj_nli": 500,
    "monotonicity_nli": 400,
    "checklist_qqp_mft": 1_500,
    "paws_t0": 200,
    "templates_assistant": 6_000,
    "context_preamble": 3_000,
    "synth_qa": 6_000,
    "synth_code": 4_000,
    "synth_table": 1_500,
    "synth_simpleq": 1_000,
    "synth_prompts": 2_500,
    "synth_prompts_constraint": 1_000,
    "gsm8k_perturbed": 300,
    "balance_permissive": 3_000,
}
"""Pairs of each English source of `verifier/permissive`; the proportions of its README, less of
what is synthetic or long."""
MIX_OTHER_LANGUAGES: Final = {
    "mkqa_multilingual": 4_000,
    "templates_multilingual": 3_000,
    "synth_multilingual": 2_000,
}
SLOTS: Final = 500  # pairs of HWU64 and of SNIPS each: all are negative
NEGATIONS: Final = 1_000
OURS_REPEATED: Final = 3
FAMILY_NEGATIVES: Final = 16  # drawn of some thirty per family, beside ten positives
WORDING_VALUES: Final = 12  # pairs of each label per entry of training/families.jsonl
NEIGHBOURS: Final = 8_000
QUESTIONS_MINED: Final = 4_000
MINED_FROM: Final = ("synth_qa", "simplequestions", "sgd", "sql_spider", "synth_code")
SAME_NEED: Final = 0.85  # families with a pair of texts this close may be one need
HIGHEST: Final = 0.75  # cosine up to which two questions of different groups differ
EVALUATED_ONLY: Final = {
    "testers": "pairs/field_dev.jsonl",
    "strangers": "pairs/strangers_en_dev.jsonl",
    "strangers_ml": "pairs/strangers_ml_dev.jsonl",
    "handwritten": PAIRS["handwritten"],
    "synthetic": PAIRS["synthetic"],
}
"""Suites of pairs that are never trained on."""
MARKERS: Final = ("[unused1]", "[unused2]", "[unused3]")
"""The tokens before a word in capitals, in mixed case, and capitalised, for an uncased start."""
_WORD: Final = re.compile(r"[^\W\d_]+")


@dataclass(frozen=True)
class Pair:
    """Two texts, and whether the answer to one is a correct and complete answer to the other."""

    a: str
    b: str
    same: bool
    source: str


def families(data: Path) -> list[Record]:
    """Read the families of needs in the data, then those beside this file."""
    own = HERE / "families"
    paths = [data / f"verifier/families/families_{part}.jsonl" for part in ("en", "ml")]
    paths += sorted(development_file(own).glob("*.jsonl"))
    return [
        family
        | {"lang": family.get("lang", "en"), "family": family.get("family") or f"{path.stem}-{at}"}
        for path in paths
        for at, family in enumerate(records(path))
    ]


def family_pairs(family: Record, draw: random.Random, negatives: int) -> Iterator[Pair]:
    """Pair the wordings of one need with each other, and with the needs that sound like it."""
    source = "families" if family["lang"] == "en" else "families_ml"
    same, near = family["same"], family["near"]
    for a, b in combinations(same, 2):
        yield Pair(a, b, same=True, source=source)
    against = [(a, other["q"]) for a in same for other in near]
    against += [(x["q"], y["q"]) for x, y in combinations(near, 2) if x["kind"] != y["kind"]]
    for a, b in draw.sample(against, min(negatives, len(against))):
        yield Pair(a, b, same=False, source=source)


class TrainingPairs:
    """Reads and draws the training pairs.

    Args:
        data: The folder of labelled data.
        vectors: The embedder, whose neighbours are hard negatives.
        seed: Of every draw; each source has a generator of its own.
        scale: What the sizes in MIX are multiplied by.
        quora: Pairs of Quora's questions to add. Quora's terms are non-commercial.
        languages: Whether to include pairs in languages other than English.
    """

    def __init__(  # noqa: PLR0913
        self,
        data: Path,
        vectors: Vectors,
        *,
        seed: int,
        scale: float = 1.0,
        quora: int = 0,
        languages: bool = True,
    ) -> None:
        self._data, self._vectors, self._seed = data, vectors, seed
        self._scale, self._quora, self._languages = scale, quora, languages
        self._kept_out = frozenset(
            _key(row[side])
            for path in (*EVALUATED, *EVALUATED_ONLY.values())
            for row in records(data / path)
            for side in ("text", "a", "b")
            if side in row
        )

    def all(self) -> list[Pair]:
        """Return all pairs, shuffled, each in a random order of its two texts."""
        pairs = [
            *self._families(),
            *self._permissive(),
            *self._ours(),
            *self._slots(),
            *self._quoras(),
            *self._neighbours(),
        ]
        draw = random.Random(self._seed)
        draw.shuffle(pairs)
        return [
            pair if draw.random() < 0.5 else Pair(pair.b, pair.a, pair.same, pair.source)  # noqa: PLR2004
            for pair in pairs
            if self._admits(pair)
        ]

    def _admits(self, pair: Pair) -> bool:
        return (
            0 < len(pair.a) + len(pair.b) <= LONGEST
            and _key(pair.a) not in self._kept_out
            and _key(pair.b) not in self._kept_out
        )

    def _learned(self) -> list[Record]:
        return [
            family
            for family in families(self._data)
            if not kept(family["family"]) and (self._languages or family["lang"] == "en")
        ]

    def _families(self) -> Iterator[Pair]:
        draw = random.Random(self._seed)
        for family in self._learned():
            yield from family_pairs(family, draw, FAMILY_NEGATIVES)

    def _source(self, name: str) -> list[Record]:
        return records(self._data / f"verifier/permissive/{name}.jsonl.gz")

    def _permissive(self) -> Iterator[Pair]:
        for name, size in (MIX | (MIX_OTHER_LANGUAGES if self._languages else {})).items():
            rows = [r for r in self._source(name) if len(r["a"]) + len(r["b"]) <= LONGEST]
            wanted = min(len(rows), round(size * self._scale))
            for row in random.Random(self._seed).sample(rows, wanted):
                yield _pair(row, name)

    def _ours(self) -> Iterator[Pair]:
        """Pair the project's own examples, and the values and frames of its own families."""
        for _ in range(OURS_REPEATED):
            for name in ("pairs", "examples"):
                yield from (_pair(row, "ours") for row in records(HERE / f"{name}.jsonl"))
        draw = random.Random(self._seed)
        for family in records(HERE / "families.jsonl"):
            values = family["values"]

            def text(value: int, family: Record = family) -> str:
                words = {k: draw.choice(w) for k, w in family["values"][value].items()}
                return str(draw.choice(family["frames"]).format(**words))

            for _ in range(WORDING_VALUES):
                one, other = draw.sample(range(len(values)), 2)
                for pair in (
                    Pair(text(one), text(one), same=True, source="ours_families"),
                    Pair(text(one), text(other), same=False, source="ours_families"),
                ):
                    if pair.a != pair.b:
                        yield pair

    def _slots(self) -> Iterator[Pair]:
        for name, size in (("hwu_slots", SLOTS), ("snips_slots", SLOTS), ("semantoneg", NEGATIONS)):
            rows = [
                row
                for row in records(self._data / PAIRS[name])
                if row["split"] == "dev" and (name != "semantoneg" or not kept(_group(row)))
            ]
            for row in random.Random(self._seed).sample(rows, min(size, len(rows))):
                yield _pair(row, name)

    def _quoras(self) -> Iterator[Pair]:
        if not self._quora:
            return
        questions = records(self._data / QUESTIONS)
        out = {r["component"] for r in questions if _key(r["text"]) in self._kept_out}
        component = {row["text"]: row["component"] for row in questions}
        rows = [
            row
            for row in records(self._data / LABELS)
            if row["split"] == "dev"
            and not out & {component.get(row["a"]), component.get(row["b"])}
        ]
        for row in random.Random(self._seed).sample(rows, min(self._quora, len(rows))):
            yield _pair(row, "qqp")

    def _neighbours(self) -> Iterator[Pair]:
        """Mine hard negatives: the nearest text of another family, and of another question."""
        english = [family for family in self._learned() if family["lang"] == "en"]
        texts = [(text, f["family"]) for f in english for text in _texts(f)]
        yield from self._mined(texts, NEIGHBOURS, same_need=SAME_NEED, source="near_families")
        rows = [(row["a"], row["group"]) for name in MINED_FROM for row in self._source(name)]
        one_each = list({group: (text, group) for text, group in rows}.values())
        questions = random.Random(self._seed).sample(one_each, QUESTIONS_MINED)
        yield from self._mined(
            questions, QUESTIONS_MINED, same_need=HIGHEST, source="near_questions"
        )

    def _mined(
        self, items: Sequence[tuple[str, str]], size: int, *, same_need: float, source: str
    ) -> Iterator[Pair]:
        """Pair texts with their nearest text of another group.

        Args:
            items: Texts and their groups.
            size: Pairs to draw.
            same_need: Groups with two texts of this cosine are not paired: they may be the same.
            source: Name of the result.
        """
        vectors = self._vectors.of([canonical_query(text) for text, _ in items])
        number: dict[str, int] = {}
        group = np.array([number.setdefault(name, len(number)) for _, name in items])
        blocks = [slice(at, at + 1_000) for at in range(0, len(items), 1_000)]
        alike: dict[int, set[int]] = defaultdict(set)
        for block in blocks:
            cosines = vectors[block] @ vectors.T
            for i, j in np.argwhere(cosines >= same_need):
                alike[int(group[block][i])].add(int(group[j]))
        found: list[Pair] = []
        for block in blocks:
            cosines = vectors[block] @ vectors.T
            for i, row in enumerate(cosines, block.start):
                own = group[i]
                row[np.isin(group, [own, *alike[own]])] = -1
                nearest = int(row.argmax())
                found.append(Pair(items[i][0], items[nearest][0], same=False, source=source))
        yield from random.Random(self._seed).sample(found, min(size, len(found)))


def evaluation(data: Path, *, most: int = 2_000, seed: int = 1) -> dict[str, list[Pair]]:
    """Return the suites that judge a verifier: none of their texts or families is trained on.

    Args:
        data: The folder of labelled data.
        most: Pairs of a suite, drawn where it has more.
        seed: Of the draws.
    """
    suites = {
        name: [_pair(row, name) for row in records(data / path)]
        for name, path in EVALUATED_ONLY.items()
    }
    suites["negations"] = [
        _pair(row, "negations")
        for row in records(data / PAIRS["semantoneg"])
        if row["split"] == "dev" and kept(_group(row))
    ]
    draw = random.Random(seed)
    for family in families(data):
        if kept(family["family"]):
            name = "families" if family["lang"] == "en" else "families_ml"
            suites.setdefault(name, []).extend(family_pairs(family, draw, 100))
    return {
        name: pairs if len(pairs) <= most else random.Random(seed).sample(pairs, most)
        for name, pairs in suites.items()
    }


def texts_for_vocabulary(data: Path, *, languages: bool = True) -> Iterator[str]:
    """Yield the texts whose word pieces a pruned vocabulary must have."""
    for name in MIX | (MIX_OTHER_LANGUAGES if languages else {}):
        for row in records(data / f"verifier/permissive/{name}.jsonl.gz"):
            yield row["a"]
            yield row["b"]
    for family in families(data):
        if not kept(family["family"]):
            yield from (
                _texts(family) * 5
            )  # a piece in a family is worth more than one in a template


def count(pairs: Iterable[Pair]) -> dict[str, tuple[int, int]]:
    """Count the pairs of each source, and the positives among them."""
    found: dict[str, tuple[int, int]] = {}
    for pair in pairs:
        n, same = found.get(pair.source, (0, 0))
        found[pair.source] = n + 1, same + pair.same
    return found


def _pair(row: Record, source: str) -> Pair:
    return Pair(row["a"], row["b"], bool(row["same"]), source)


def _texts(family: Record) -> list[str]:
    return [*family["same"], *(other["q"] for other in family["near"])]


def _group(row: Record) -> str:
    """Return the sentence that a pair of SemAntoNeg was made of: `san-9-0` is of `san-9`."""
    return str(row["id"].rsplit("-", 1)[0])


def _key(text: str) -> str:
    return canonical_query(text).casefold() if text.strip() else ""


def mark_case(text: str) -> str:
    """Put a marker token before each word that lower-casing would change.

    The first word of a text is left alone when only its first letter is a capital.
    """

    def marked(match: re.Match[str]) -> str:
        word = match.group()
        if word == word.lower():
            return word
        if word == word.upper():
            kind = 0
        elif word[1:] == word[1:].lower():
            kind = 2
        else:
            kind = 1
        return word if kind == 2 and match.start() == 0 else f"{MARKERS[kind]} {word}"  # noqa: PLR2004

    return _WORD.sub(marked, text)
