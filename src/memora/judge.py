"""May a stored answer be served? Pure: candidates in, verdict out.

The one place where a request becomes a hit or a miss by similarity. Today the evidence is the
cosine alone, compared with the threshold.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memora.model import Match


_ALMOST_ONE = math.nextafter(1.0, 0.0)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was decided on one lookup, and why."""

    reason: Literal["exact", "semantic", "below_threshold", "no_candidate"]
    explanation: str
    nearest: Match | None
    similarity: float | None

    @property
    def served(self) -> bool:
        """Whether the nearest candidate may be served."""
        return self.reason in {"exact", "semantic"}


def judge(matches: Sequence[Match], *, threshold: float) -> Verdict:
    """Decide over the candidates of one lookup.

    Args:
        matches: Candidates of the query's own context, best first.
        threshold: Least similarity to serve, in [0, 1].
    """
    if not matches:
        return Verdict("no_candidate", "nothing comparable is stored in this context", None, None)
    nearest = matches[0]
    # Below 0 is simply not similar. 1 is kept for the same text, so that a threshold of 1 serves
    # nothing else: a model may give two texts one vector, for one when it folds case.
    similarity = min(max(nearest.cosine, 0.0), _ALMOST_ONE)
    if similarity < threshold:
        return Verdict(
            "below_threshold",
            f"similarity {_shown(similarity)} is below the threshold {threshold}",
            nearest,
            similarity,
        )
    return Verdict(
        "semantic",
        f"similarity {_shown(similarity)} reaches the threshold {threshold}",
        nearest,
        similarity,
    )


def _shown(similarity: float) -> str:
    # Rounded down: a refused 0.8499 must not read as 0.850.
    return f"{math.floor(similarity * 1000) / 1000:.3f}"
