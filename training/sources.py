"""What the judge is trained on: pairs of texts, by source, each with its vectors' cosine.

Every file is opened through `data.records`, which refuses what is kept back; and `Sources` drops
every pair with a text that the benchmark asks.
"""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cache, cached_property
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from additive import FEATURES
from data import BACKGROUND, HANDWRITTEN, PAIRS, STREAMS, records
from vectors import readable

from memora.context import canonical_query
from memora.judge._compare import compare
from memora.judge._text import analyse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray
    from vectors import Vectors

Record = dict[str, Any]

OURS: Final = Path(__file__).parent
QUESTIONS: Final = "qqp/questions_train.jsonl.gz"
LABELS: Final = "qqp/pairs_train.jsonl.gz"
FAQ: Final = "banking77/questions_dev.jsonl"
PROMPTS: Final = "background/arena_hard_dev.jsonl.gz"
EVALUATED: Final = (
    *(path for name, path in STREAMS.items() if name != BACKGROUND),
    PAIRS[HANDWRITTEN],
    PAIRS["synthetic"],
    "nearmiss/synthetic_questions_dev.jsonl",
)
"""No text of these is trained on."""

_CANDIDATES = 5  # of a request
_SERVED_AT = (0.8, 0.87, 0.93)  # cosines, in turn: a cache holds what was not served
_CHUNKS, _CHUNK, _ASKED = 6, 18_000, 10_000  # questions
_LARGEST = 60  # questions of a component: larger ones are joined by wrong labels
_UNLABELLED = 0.75  # cosine from which on half of the unlabelled neighbours are duplicates
_WORDINGS, _DRAWS = 4, 40
_FEW_INTENTS, _SMALL_CACHES = 8, 6

_analyse = cache(analyse)  # the judge's own cache is too small for a training set


@dataclass
class Rows:
    """Compared pairs of one source."""

    asked: list[str] = field(default_factory=list)
    stored: list[str] = field(default_factory=list)
    same: list[bool] = field(default_factory=list)
    cosine: list[float] = field(default_factory=list)
    request: list[int] = field(default_factory=list)
    """Rows with one number are candidates for one request."""

    def __len__(self) -> int:
        return len(self.same)

    def add(self, asked: str, stored: str, cosine: float, request: int, *, same: bool) -> None:
        """Add a pair."""
        self.asked.append(asked)
        self.stored.append(stored)
        self.same.append(same)
        self.cosine.append(float(cosine))
        self.request.append(request)

    def features(self) -> NDArray[np.float64]:
        """Compare the texts; a row a pair, FEATURES in order."""
        found = np.empty((len(self), len(FEATURES)))
        for at, (a, b, cosine) in enumerate(zip(self.asked, self.stored, self.cosine, strict=True)):
            seen = compare(_analyse(a), _analyse(b)).features | {"cosine": cosine}
            found[at] = [seen.get(name, 0.0) for name in FEATURES]
        return found

    def best(self, z: NDArray[np.float64]) -> NDArray[np.intp]:
        """Return the row of each request that has the greatest z: what would be served."""
        request = np.array(self.request)
        order = np.lexsort((-z, request))
        first = np.unique(request[order], return_index=True)[1]
        return np.asarray(order[first])


class Sources:
    """Reads the sources below a folder of data, and those beside this file.

    Args:
        data: The folder.
        vectors: Of texts.
        seed: Of every draw; each source has a generator of its own.
        split: "dev" leaves out the rows that an earlier split, part of the data's history, marks
            otherwise.
    """

    def __init__(
        self, data: Path, vectors: Vectors, *, seed: int, split: Literal["all", "dev"] = "all"
    ) -> None:
        self._data, self._vectors, self._seed, self._split = data, vectors, seed, split

    def qqp(self) -> Rows:
        """Real questions with human labels, asked one after the other of a cache that fills."""
        questions = self._read(QUESTIONS)
        answer = {row["text"]: row["class"] for row in questions}
        apart = {
            frozenset((answer[row["a"]], answer[row["b"]]))
            for row in self._read(LABELS)
            if not row["same"] and row["a"] in answer and row["b"] in answer
        }
        kept_out = {row["component"] for row in questions if row["text"] in self.kept_out}
        components: dict[int, list[Record]] = defaultdict(list)
        for row in questions:
            if row["component"] not in kept_out:
                components[row["component"]].append(row)
        draw = random.Random(self._seed)
        order = sorted(components)
        draw.shuffle(order)
        chunks: list[list[Record]] = [[]]
        for component in order:
            if len(components[component]) <= _LARGEST:
                chunks[-1] += components[component]
                if len(chunks[-1]) >= _CHUNK:
                    chunks.append([])
        rows = Rows()
        for chunk, served_at in zip(chunks[:-1][:_CHUNKS], cycle(_SERVED_AT), strict=False):
            asked = self._alone(chunk)
            draw.shuffle(asked)
            asked = asked[:_ASKED]

            def label(i: int, j: int, asked: list[Record] = asked) -> bool | None:
                a, b = asked[i], asked[j]
                if a["class"] == b["class"]:
                    return True
                unclear = a["component"] == b["component"]
                return None if unclear and {a["class"], b["class"]} not in apart else False

            self._ask([row["text"] for row in asked], label, rows, least=0.45, served_at=served_at)
        return rows

    def families(self) -> Rows:
        """Ours: one question in several wordings with several values, as in a busy cache."""
        draw = random.Random(self._seed)
        items: list[tuple[str, tuple[int, int]]] = []
        for number, family in enumerate(records(OURS / "families.jsonl")):
            for value, words in enumerate(family["values"]):
                texts: dict[str, None] = {}  # in order, unlike a set
                for _ in range(_DRAWS):
                    frame = draw.choice(family["frames"])
                    texts[frame.format(**{k: draw.choice(w) for k, w in words.items()})] = None
                    if len(texts) >= _WORDINGS:
                        break
                items += [(text, (number, value)) for text in texts if self._admits(text)]
        draw.shuffle(items)
        rows = Rows()
        self._ask(
            [text for text, _ in items],
            lambda i, j: items[i][1] == items[j][1],
            rows,
            least=0.4,
            served=lambda right: any(right) and draw.random() < 0.5,  # noqa: PLR2004
        )
        return rows

    def banking77(self) -> Rows:
        """Questions of the benchmark's intents that it does not ask, for the map alone."""
        faq = [row for row in self._read(FAQ) if self._admits(row["text"])]
        draw = random.Random(self._seed)
        rows = Rows()
        intents = sorted({row["class"] for row in faq})
        caches = [(faq, served_at) for served_at in (0.75, 0.85, 0.92)]
        for _ in range(_SMALL_CACHES):
            few = set(draw.sample(intents, _FEW_INTENTS))
            caches.append(([row for row in faq if row["class"] in few], 0.85))
        for asked, served_at in caches:
            self._ask_classes(asked, draw, rows, served_at)
        return rows

    def arena(self) -> Rows:
        """Long prompts that are all distinct."""
        prompts = [row for row in self._read(PROMPTS) if self._admits(row["text"])]
        rows = Rows()
        self._ask_classes(prompts, random.Random(self._seed), rows, served_at=0.95)
        return rows

    def pairs(self, path: str | Path) -> Rows:
        """Pairs that are judged each for itself."""
        found = self._read(path)
        return self._pair([r for r in found if self._admits(r["a"]) and self._admits(r["b"])])

    def evaluation(self, path: str) -> Rows:
        """Pairs to measure a fitted model on."""
        return self._pair(_canonical(records(self._data / path)))

    @cached_property
    def kept_out(self) -> frozenset[str]:
        """The texts that are evaluated on."""
        return frozenset(
            row[side]
            for path in EVALUATED
            for row in _canonical(records(self._data / path))
            for side in ("text", "a", "b")
            if side in row
        )

    def _pair(self, found: Sequence[Record]) -> Rows:
        a, b = ([row[side] for row in found] for side in "ab")
        left, right = self._vectors.of(a), self._vectors.of(b)
        rows = Rows()
        for at in np.flatnonzero(readable(left) & readable(right)).tolist():
            rows.add(a[at], b[at], left[at] @ right[at], len(rows), same=bool(found[at]["same"]))
        return rows

    def _admits(self, text: str) -> bool:
        return bool(text) and text not in self.kept_out

    def _read(self, path: str | Path) -> list[Record]:
        rows = records(self._data / path)  # an absolute path stays as it is
        kept = [row for row in rows if self._split == "all" or row.get("split", "dev") == "dev"]
        return _canonical(kept)

    def _alone(self, questions: list[Record]) -> list[Record]:
        """Leave out the components that have a near neighbour in another: nobody labelled it."""
        vectors = self._vectors.of([row["text"] for row in questions])
        component = np.array([row["component"] for row in questions])
        near: set[int] = set()
        for start in range(0, len(questions), 2_000):
            block = slice(start, start + 2_000)
            cosines = vectors[block] @ vectors.T
            cosines[component[block, None] == component[None, :]] = -1
            near |= set(component[block][cosines.max(axis=1) >= _UNLABELLED].tolist())
        kept = readable(vectors)
        return [
            row for at, row in enumerate(questions) if kept[at] and row["component"] not in near
        ]

    def _ask_classes(
        self, items: Iterable[Record], draw: random.Random, rows: Rows, served_at: float
    ) -> None:
        asked = list(items)
        draw.shuffle(asked)
        texts, classes = [row["text"] for row in asked], [row["class"] for row in asked]
        self._ask(
            texts, lambda i, j: classes[i] == classes[j], rows, least=0.4, served_at=served_at
        )

    def _ask(  # noqa: PLR0913
        self,
        texts: Sequence[str],
        label: Callable[[int, int], bool | None],
        rows: Rows,
        *,
        least: float,
        served_at: float = 2.0,
        served: Callable[[list[bool | None]], bool] = lambda _: False,
    ) -> None:
        """Ask texts one after the other, and add each with its candidates.

        Args:
            texts: In order.
            label: Whether one answer serves two of them; None where nobody knows.
            rows: Where to.
            least: Cosine of a candidate.
            served_at: Cosine of the nearest with which a text is served, and so not stored.
            served: The same by the labels of all candidates.
        """
        vectors = self._vectors.of(texts)
        stored = np.zeros(len(texts), np.bool_)
        first = rows.request[-1] + 1 if rows.request else 0
        can_read = readable(vectors)
        for i in range(len(texts)):
            if not can_read[i]:
                continue
            cosines = np.where(stored[:i], vectors[:i] @ vectors[i], -1)
            nearest = np.flatnonzero(cosines >= least)
            nearest = nearest[np.argsort(-cosines[nearest], kind="stable")[:_CANDIDATES]]
            labels = [label(i, j) for j in nearest.tolist()]
            for j, right in zip(nearest.tolist(), labels, strict=True):
                if right is not None:
                    rows.add(texts[i], texts[j], cosines[j], first + i, same=right)
            stored[i] = not served(labels) and not (
                len(nearest) and cosines[nearest[0]] >= served_at
            )


def _canonical(rows: Iterable[Record]) -> list[Record]:
    """Return records with their texts as the library compares them; blank ones stay blank."""
    return [
        row
        | {
            side: canonical_query(row[side]) if row[side].strip() else ""
            for side in ("text", "a", "b")
            if side in row
        }
        for row in rows
    ]
