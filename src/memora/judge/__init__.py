"""Decide whether a stored answer may be served: a query and candidates in, a verdict out. No I/O.

This is the only place where similarity decides between hit and miss. A candidate's cosine says that
two texts are on the same subject; the judge compares the texts themselves (`_compare`) and converts
both into one calibrated probability that the stored answer is right for the query (`_calibration`).
If that is in doubt, a model that reads both texts is asked (`verifier`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, NamedTuple

from memora._characters import difference, without_emoji
from memora._show import rounded
from memora.judge._calibration import (
    DEFAULT_CALIBRATION,
    Calibration,
    calibrated_models,
    log_odds,
)
from memora.judge._compare import KINDS, compare
from memora.judge._text import analyse
from memora.judge.verifier import COMBINATION, OTHERS_COMBINATION
from memora.model import Evidence

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memora.judge._text import Text
    from memora.model import Match
    from memora.protocols import Verifier

__all__ = ["KINDS", "Assessment", "Judge", "Verdict"]

VERIFIED = 3
"""The number of candidates per lookup that the verifier reads, the likeliest by the judge."""
LEAST_LOGIT = -1.0
"""The verifier's log odds below which a candidate in another language than English is refused.

There no evidence of words stands beside the cosine, which is high for many near misses."""
DECISIVE = frozenset((
    "bounds", "dates", "identifiers", "numbers", "order", "polarity", "units",
))  # fmt: skip
"""Features that in another language than English refuse a candidate: they hold in any."""
_REFUSED = 0.25  # maximum similarity then
_BARRED = {
    "language": "is in a language that only the verifier judges, and it has not read the pair",
    "other_language": "is in another language",
    "unreadable": "differs in characters that an embedding model may not read",
}
_ALMOST_ONE = math.nextafter(1.0, 0.0)


@dataclass(frozen=True, slots=True)
class Assessment:
    """The judge's result for one candidate."""

    similarity: float
    """Probability that the stored answer is right, in [0, 1)."""
    evidence: tuple[Evidence, ...]
    barred: Literal["language", "other_language", "unreadable"] | None = None
    """Why the candidate may not be served at any threshold; None if it may be.

    Only the verifier can judge its language, it is in another language than the query, or it
    differs in characters that the embedding model may not read.
    """
    combination: Calibration | None = field(default=None, compare=False, repr=False)
    """How a verifier may change the similarity; None if it may not."""


class Verdict(NamedTuple):
    """The decision on one lookup, with its reason."""

    reason: Literal[
        "exact",
        "semantic",
        "below_threshold",
        "other_language",
        "unreadable",
        "language",
        "no_candidate",
    ]
    explanation: str
    nearest: Match | None
    """The candidate most likely to be right."""
    similarity: float | None
    evidence: tuple[Evidence, ...] = ()
    judged: tuple[tuple[Match, Assessment], ...] = ()
    """All candidates, nearest first."""

    @property
    def served(self) -> bool:
        """True if the nearest candidate may be served."""
        return self.reason in {"exact", "semantic"}


class Judge:
    """Judge of the candidates of lookups; its only state is its weights.

    Args:
        model: Identity of the embedder of the cosines: a model name, optionally followed by a
            colon and details. If the model has no calibration, evidence can only lower the cosine.
        enabled: If False, a candidate's similarity is its cosine.
        cross_lingual: Whether a candidate in another language than the query may be served.
        without: A kind of evidence to leave out, for ablations; see `KINDS`.
        verifier: Reads the candidates that the evidence leaves in doubt; only used with a
            calibrated model.
        combination: Weights of the judge's and the verifier's log odds for English; by default
            those of the packaged verifier.
        others: The same for other languages.
    """

    def __init__(  # noqa: PLR0913 - what evaluations vary
        self,
        model: str,
        *,
        enabled: bool = True,
        cross_lingual: bool = False,
        without: str | None = None,
        verifier: Verifier | None = None,
        combination: Calibration | None = None,
        others: Calibration | None = None,
    ) -> None:
        name = model.partition(":")[0].removeprefix("sentence-transformers/")
        self._enabled = enabled
        self._cross_lingual = cross_lingual
        self._ignored = KINDS[without] if without else ()
        self._calibrated = name in calibrated_models()
        self._weights = Calibration.of(name if self._calibrated else DEFAULT_CALIBRATION)
        self._verifier: Verifier | None = None
        self._english = self._others = None
        if verifier is not None and enabled and self._calibrated:
            self._verifier = verifier
            self._english = combination or Calibration.read(COMBINATION)
            self._others = others or Calibration.read(OTHERS_COMBINATION)

    @property
    def verifies(self) -> bool:
        """Whether a verifier reads candidates."""
        return self._verifier is not None

    def assess(self, query: str, candidates: Sequence[tuple[str, float]]) -> list[Assessment]:
        """Judge stored queries with their cosines, nearest first; return one assessment each."""
        found = [self._assess(query, stored, cosine) for stored, cosine in candidates]
        if self._verifier is None:
            return found
        doubtful = [at for at, one in enumerate(found) if _is_in_band(one)]
        doubtful.sort(key=lambda at: -found[at].similarity)
        read, unread = doubtful[:VERIFIED], doubtful[VERIFIED:]
        if read:
            asked = without_emoji(query)
            pairs = [(without_emoji(candidates[at][0]), asked) for at in read]
            logits = self._verifier.logits(pairs)
            for at, logit in zip(read, logits, strict=True):
                found[at] = self._combined(found[at], logit, candidates[at][1])
            if not all(map(math.isnan, logits)):
                # The judge preferred all that were read, so an unread candidate may not win.
                below = math.nextafter(max(found[at].similarity for at in read), 0.0)
                for at in unread:
                    found[at] = replace(found[at], similarity=min(found[at].similarity, below))
        return found

    def _combined(self, judged: Assessment, logit: float, cosine: float) -> Assessment:
        if math.isnan(logit) or judged.combination is None:
            return judged
        share = 0.5 + 0.5 * math.tanh(logit / 2)  # the logistic function, without overflow
        if judged.combination is self._others and logit < LEAST_LOGIT:
            similarity = share
        else:
            odds = {"judge": log_odds(judged.similarity), "verifier": logit}
            similarity = _inside(judged.combination.probability(odds, cosine))
        read = "one question" if logit > 0 else "two questions"
        told = Evidence("verifier", f"reads them as {read} ({100 * share:.0f} %)")
        return Assessment(similarity, (*judged.evidence, told))

    def _assess(self, query: str, stored: str, cosine: float) -> Assessment:
        if found := difference(query, stored):
            return Assessment(0.0, (Evidence("characters", found),), barred="unreadable")
        if not self._enabled:
            return Assessment(_inside(cosine), ())
        texts = analyse(without_emoji(query)), analyse(without_emoji(stored))
        return self._compared(*texts, cosine)

    def _compared(self, query: Text, stored: Text, cosine: float) -> Assessment:
        features, evidence = compare(query, stored)
        if self._ignored:
            features = {name: x for name, x in features.items() if name not in self._ignored}
        english = "foreign" not in features  # the calibration is of English texts
        weigh = self._weights.probability if self._calibrated and english else self._weights.lowered
        similarity = _inside(weigh(features, cosine))
        if "languages" in features and not self._cross_lingual:
            languages = Evidence("language", f"{query.language} / {stored.language}")
            return Assessment(similarity, (languages, *evidence), "other_language")
        if english or not self._calibrated:
            return Assessment(similarity, tuple(evidence), combination=self._english)
        if not DECISIVE.isdisjoint(features):
            return Assessment(min(similarity, _REFUSED), tuple(evidence))
        return Assessment(similarity, tuple(evidence), "language", self._others)

    def decide(self, query: str, matches: Sequence[Match], *, threshold: float) -> Verdict:
        """Decide on the candidates of one lookup.

        Args:
            query: The text of the lookup.
            matches: Candidates of the query's own context, nearest first.
            threshold: Minimum similarity to serve, in [0, 1].
        """
        if not matches:
            nothing = "nothing comparable is stored in this context"
            return Verdict("no_candidate", nothing, None, None)
        assessments = self.assess(query, [(match.entry.query, match.cosine) for match in matches])
        best = max(
            range(len(matches)),
            key=lambda at: (not assessments[at].barred, assessments[at].similarity),
        )
        return _verdict(tuple(zip(matches, assessments, strict=True)), best, threshold)


def _verdict(judged: tuple[tuple[Match, Assessment], ...], best: int, threshold: float) -> Verdict:
    match, assessment = judged[best]
    similarity, evidence = assessment.similarity, assessment.evidence
    if assessment.barred:
        told = f"the nearest {_BARRED[assessment.barred]}"
        if assessment.barred != "language":
            told += f" ({evidence[0].detail})"
        return Verdict(assessment.barred, told, match, similarity, evidence, judged)
    served = similarity >= threshold
    said = "; ".join(f"{one.kind}: {one.detail}" for one in evidence)
    explanation = (
        f"similarity {rounded(similarity)} "
        f"{'reaches' if served else 'is below'} the threshold {threshold}"
        f"{'; ' + said if said else ''}"
    )
    reason: Literal["semantic", "below_threshold"] = "semantic" if served else "below_threshold"
    return Verdict(reason, explanation, match, similarity, evidence, judged)


def _is_in_band(judged: Assessment) -> bool:
    if judged.combination is None:
        return False
    low, high = judged.combination.band
    return low <= judged.similarity <= high


def _inside(similarity: float) -> float:
    # Negative values become 0. 1 is reserved for identical text, so that a threshold of 1 serves
    # nothing else.
    return min(max(similarity, 0.0), _ALMOST_ONE)
