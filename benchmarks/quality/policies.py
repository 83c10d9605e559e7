"""What decides whether a candidate is served, behind one protocol; Memora's judge is one of them.

This is the only place that knows how the library's judge and its verifier are called.
"""

from __future__ import annotations

import math
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Protocol

from vectors import Logits, default_cache

from memora import judge
from memora.embedders import PACKAGED, load_embedder
from memora.judge import VERIFIED, Assessment, Judge
from memora.judge._calibration import Calibration
from memora.judge.verifier import COMBINATION, packaged_verifier
from memora.pipeline import CANDIDATES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from memora.protocols import Verifier

DEPTH = CANDIDATES  # that a policy sees, unless it says `depth`
_COMPARED = 2**17  # pairs of texts that are remembered
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


class _Verified:
    """The verifier without the judge, by its own share or with the shipped weight of the cosine."""

    depth = VERIFIED

    def __init__(self, verifier: Verifier, *, cosine: bool) -> None:
        self.name = "cosine-and-verifier" if cosine else "verifier-alone"
        self._verifier = verifier
        self._combination = Calibration.read(COMBINATION) if cosine else None

    def scores(self, query: str, candidates: Sequence[tuple[str, float]]) -> list[float]:
        """Return probabilities; 0 for a pair that the verifier cannot read in full."""
        logits = self._verifier.logits([(stored, query) for stored, _ in candidates])
        return [
            0.0 if math.isnan(logit) else self._score(logit, cosine)
            for logit, (_, cosine) in zip(logits, candidates, strict=True)
        ]

    def _score(self, logit: float, cosine: float) -> float:
        if self._combination is None:
            return min(0.5 + 0.5 * math.tanh(logit / 2), _ALMOST_ONE)
        return min(self._combination.probability({"verifier": logit}, cosine), _ALMOST_ONE)


KINDS: tuple[str, ...] = tuple(judge.KINDS)
"""The kinds of evidence that `judge_policy` can leave out."""


class _OnceEach(Judge):
    """The judge, who compares two texts once: a replay at many thresholds asks again and again."""

    @lru_cache(maxsize=_COMPARED)  # noqa: B019 - policies live as long as the process
    def _assess(self, query: str, stored: str, cosine: float) -> Assessment:
        return super()._assess(query, stored, cosine)


class _Judged:
    """The probability by the library's judge."""

    def __init__(self, name: str, judge: Judge) -> None:
        self.name, self._judge = name, judge

    def scores(self, query: str, candidates: Sequence[tuple[str, float]]) -> list[float]:
        """Return the probabilities that the stored answers are right."""
        assessed = self._judge.assess(query, candidates)
        return [0.0 if one.barred else one.similarity for one in assessed]


def judge_policy(
    without: str | None = None, *, kept: Path | None = None, verified: bool = True
) -> Policy:
    """Return the judge that Memora ships, for the packaged model.

    Args:
        without: A kind of evidence that it shall not use, of KINDS.
        kept: The folder of the verifier's logits, by default this user's.
        verified: Whether the verifier is asked.
    """
    if without is not None and without not in KINDS:
        raise ValueError(f"the judge has no kind of evidence named {without!r}")
    name = "memora" if verified else "judge-alone"
    name += f" without {without}" if without else ""
    verifier = kept_verifier(kept or default_cache()) if verified else None
    return _Judged(name, _OnceEach(_identity(), without=without, verifier=verifier))


@cache
def _identity() -> str:
    return load_embedder(PACKAGED, use_onnx=True).identity


@cache
def kept_verifier(kept: Path) -> Logits | None:
    """Return the packaged verifier, with its logits in a folder; None if there is none."""
    found = packaged_verifier()
    return None if found is None else Logits(kept, COMBINATION.with_name("model.onnx"), found)


def _parts(kept: Path, *, cosine: bool) -> Policy:
    verifier = kept_verifier(kept)
    if verifier is None:
        raise ValueError("this installation has no verifier")
    return _Verified(verifier, cosine=cosine)


POLICIES: dict[str, Callable[[Path], Policy]] = {
    "memora": lambda kept: judge_policy(kept=kept),
    "judge-alone": lambda kept: judge_policy(kept=kept, verified=False),
    "cosine": lambda _: Cosine(),
    "verifier-alone": lambda kept: _parts(kept, cosine=False),
    "cosine-and-verifier": lambda kept: _parts(kept, cosine=True),
}
PARTS = ("verifier-alone", "cosine-and-verifier")
"""Policies of POLICIES that show what the verifier is worth without the judge."""
