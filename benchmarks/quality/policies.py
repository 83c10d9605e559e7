"""What decides whether a candidate is served, behind one protocol; Memora's judge is one of them.

`judge_policy` is the only place that knows how the library's judge is called.
"""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING, Protocol

from vectors import MODEL

from memora import judge
from memora.embedders import load_embedder
from memora.judge import Judge

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

DEPTH = 5  # candidates that a policy sees, unless it says `depth`
_ALMOST_ONE = math.nextafter(1.0, 0.0)


class Policy(Protocol):
    """Scores candidates; the highest is served where it reaches the threshold."""

    name: str

    def scores(self, query: str, candidates: Sequence[tuple[str, float]]) -> list[float]:
        """Return a score in [0, 1] for each candidate.

        Args:
            query: What is asked.
            candidates: Stored texts with their cosine to the query, nearest first; one or more.
        """
        ...


class Cosine:
    """The cosine of the nearest, and nothing else."""

    name = "cosine"
    depth = 1

    def scores(self, query: str, candidates: Sequence[tuple[str, float]]) -> list[float]:
        """Return the cosines; 1 is kept for the same text, as the library does."""
        del query
        return [min(max(cosine, 0.0), _ALMOST_ONE) for _, cosine in candidates]


KINDS: tuple[str, ...] = tuple(judge.KINDS)
"""The kinds of evidence that `judge_policy` can leave out."""


class _Judged:
    """The probability by the library's judge."""

    def __init__(self, name: str, judge: Judge) -> None:
        self.name, self._judge = name, judge

    def scores(self, query: str, candidates: Sequence[tuple[str, float]]) -> list[float]:
        """Return the probabilities that the stored answers are right."""
        assessed = self._judge.assess(query, candidates)
        return [0.0 if one.barred else one.similarity for one in assessed]


def judge_policy(without: str | None = None) -> Policy:
    """Return the judge that Memora ships, for the packaged model.

    Args:
        without: A kind of evidence that it shall not use, of KINDS.
    """
    if without is not None and without not in KINDS:
        raise ValueError(f"the judge has no kind of evidence named {without!r}")
    name = "memora" if without is None else f"memora without {without}"
    return _Judged(name, Judge(_identity(), without=without))


@cache
def _identity() -> str:
    return load_embedder(MODEL, use_onnx=True).identity


POLICIES: dict[str, Callable[[], Policy]] = {"memora": judge_policy, "cosine": Cosine}
