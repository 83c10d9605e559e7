"""May a stored answer be served? Pure: a query and candidates in, a verdict out.

The one place where a request becomes a hit or a miss by similarity. A candidate's cosine says that
two texts are about the same; the judge compares the texts themselves (`_compare`), and turns both
into one calibrated probability that the stored answer is right for the query (`_calibration`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from memora.judge._calibration import Calibration
from memora.judge._compare import compare
from memora.judge._text import analyse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memora.model import Evidence, Match

__all__ = ["Assessment", "Judge", "Verdict"]

_ALMOST_ONE = math.nextafter(1.0, 0.0)


@dataclass(frozen=True, slots=True)
class Assessment:
    """What the judge makes of one candidate."""

    similarity: float
    """Probability that the stored answer is right, in [0, 1)."""
    evidence: tuple[Evidence, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was decided on one lookup, and why."""

    reason: Literal["exact", "semantic", "below_threshold", "no_candidate"]
    explanation: str
    nearest: Match | None
    """The candidate that is most likely right."""
    similarity: float | None
    evidence: tuple[Evidence, ...] = ()

    @property
    def served(self) -> bool:
        """Whether the nearest candidate may be served."""
        return self.reason in {"exact", "semantic"}


class Judge:
    """Decides over the candidates of lookups; holds no state but its calibration.

    Args:
        model: Identity of the embedder that the cosines come from. For a model that has not been
            calibrated, evidence only lowers the cosine.
        enabled: Without, a candidate's similarity is its cosine.
        cross_lingual: Whether a candidate in another language than the query may be served.
        without: A kind of evidence to leave out, for ablations.
    """

    def __init__(
        self,
        model: str,
        *,
        enabled: bool = True,
        cross_lingual: bool = False,
        without: str | None = None,
    ) -> None:
        self._enabled = enabled
        self._cross_lingual = cross_lingual
        self._calibration = Calibration.of(model)

    def assess(self, query: str, candidates: Sequence[tuple[str, float]]) -> list[Assessment]:
        """Judge stored queries with their cosines, nearest first; one assessment each, in order."""
        if not self._enabled:
            return [Assessment(min(max(cosine, 0.0), _ALMOST_ONE), ()) for _, cosine in candidates]
        text = analyse(query)
        found = []
        for stored, cosine in candidates:
            comparison = compare(text, analyse(stored))
            probability = self._calibration.probability(comparison.features, cosine)
            found.append(Assessment(min(probability, _ALMOST_ONE), tuple(comparison.conflicts)))
        return found

    def decide(self, query: str, matches: Sequence[Match], *, threshold: float) -> Verdict:
        """Decide over the candidates of one lookup.

        Args:
            query: The text that is looked up.
            matches: Candidates of the query's own context, nearest first.
            threshold: Least similarity to serve, in [0, 1].
        """
        if not matches:
            return Verdict("no_candidate", "nothing comparable is stored in this context", None, None)
        assessments = self.assess(query, [(match.entry.query, match.cosine) for match in matches])
        best = max(range(len(matches)), key=lambda at: assessments[at].similarity)
        return _verdict(matches[best], assessments[best], threshold)


def _verdict(match: Match, assessment: Assessment, threshold: float) -> Verdict:
    similarity, evidence = assessment.similarity, assessment.evidence
    served = similarity >= threshold
    said = "; ".join(f"{one.kind}: {one.detail}" for one in evidence)
    explanation = (
        f"similarity {_shown(similarity)} "
        f"{'reaches' if served else 'is below'} the threshold {threshold}"
        f"{': ' + said if said else ''}"
    )
    return Verdict(
        "semantic" if served else "below_threshold", explanation, match, similarity, evidence
    )


def _shown(similarity: float) -> str:
    # Rounded down: a refused 0.8499 must not read as 0.850.
    return f"{math.floor(similarity * 1000) / 1000:.3f}"
