"""Replay a query log through a cache, and count its savings and wrong answers."""

from __future__ import annotations

import heapq
import time
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from memora.cli.querylog import BadLine, Record
from memora.context import canonical_context
from memora.errors import ContextError, QueryError
from memora.metrics import Histogram, summary

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from memora.cache import Memora
    from memora.model import Evidence, LookupResult

_LABEL = "class"  # metadata key of a replayed entry's class

Verdict: TypeAlias = Literal["right", "wrong", "unlabelled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A query and the stored query it was compared with."""

    query: str
    stored: str
    similarity: float
    cosine: float
    explanation: str
    evidence: tuple[Evidence, ...]
    verdict: Verdict
    """Whether the decision (to serve or to refuse) was right."""


class _Extremes:
    """The examples with the highest or lowest similarity, at most one per stored query."""

    def __init__(self, size: int, *, highest: bool) -> None:
        self._size, self._sign = size, 1.0 if highest else -1.0
        self._best: dict[str, tuple[float, int, Example]] = {}  # by stored query
        self._seen = 0

    def offer(self, example: Example) -> None:
        self._seen += 1
        rank = (self._sign * example.similarity, -self._seen, example)
        key = example.stored
        if key not in self._best or rank[:2] > self._best[key][:2]:
            self._best[key] = rank
        if len(self._best) > self._size:
            del self._best[min(self._best, key=lambda stored: self._best[stored][:2])]

    def examples(self) -> list[Example]:
        return [example for *_, example in heapq.nlargest(self._size, self._best.values())]


@dataclass(kw_only=True)
class Report:
    """The result of a replay. Counts are of queries."""

    examples: int = 4
    """Maximum number of examples of each kind."""
    queries: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    """Counts by reason of the lookup."""
    labelled_hits: int = 0
    wrong_hits: int = 0
    possible_hits: int | None = None
    """Queries whose class occurred before in their context; None without labels."""
    skipped_lines: int = 0
    first_problem: str | None = None
    lookups: Histogram = field(default_factory=Histogram)
    elapsed_seconds: float = 0.0

    def __post_init__(self) -> None:
        self._paraphrases = _Extremes(self.examples, highest=False)
        self._mistakes = _Extremes(self.examples, highest=True)
        self._refusals = _Extremes(self.examples, highest=True)
        self._contexts: dict[str, set[str]] = {}  # fingerprint -> classes seen in it

    @property
    def hits(self) -> int:
        """Hits by identical text and by meaning."""
        return self.outcomes["exact"] + self.outcomes["semantic"]

    @property
    def contexts(self) -> int:
        """Number of distinct contexts."""
        return len(self._contexts)

    @property
    def paraphrases(self) -> list[Example]:
        """Served paraphrases, least similar first."""
        return self._paraphrases.examples()

    @property
    def mistakes(self) -> list[Example]:
        """Hits that are wrong by their labels, most similar first."""
        return self._mistakes.examples()

    @property
    def refusals(self) -> list[Example]:
        """Refused candidates, most similar first."""
        return self._refusals.examples()

    def seconds_saved(self, call_seconds: float) -> float:
        """Return the seconds saved by hits minus the time of all lookups.

        A hit that is known to be wrong saves nothing.
        """
        return (self.hits - self.wrong_hits) * call_seconds - self.lookups.read().sum

    def count(
        self, record: Record, found: LookupResult, labels: Mapping[str, str | None]
    ) -> Example | None:
        """Count one lookup; return it as an example if it had a candidate."""
        self.queries += 1
        self.outcomes[found.reason] += 1
        classes = self._contexts.setdefault(canonical_context(record.context).fingerprint, set())
        if record.label is not None:
            self.possible_hits = (self.possible_hits or 0) + (record.label in classes)
            classes.add(record.label)
        same = _same(record, found, labels)
        if found.is_hit and same is not None:
            self.labelled_hits += 1
            self.wrong_hits += not same
        if found.nearest is None:
            return None
        right = None if same is None else same == found.is_hit
        example = Example(
            query=record.query,
            stored=found.nearest.query,
            similarity=found.nearest.similarity,
            cosine=found.nearest.cosine,
            explanation=found.explanation,
            evidence=found.evidence,
            verdict="unlabelled" if right is None else "right" if right else "wrong",
        )
        if found.is_miss:
            self._refusals.offer(example)
        elif found.reason == "exact":
            pass  # carries no information on the decision
        elif same is False:
            self._mistakes.offer(example)
        else:
            self._paraphrases.offer(example)
        return example

    def skip(self, line: BadLine) -> None:
        """Count a line that is no query."""
        self.skipped_lines += 1
        self.first_problem = self.first_problem or f"line {line.line}: {line.problem}"

    def as_dict(self, *, call_seconds: float) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {
            "queries": self.queries,
            "contexts": self.contexts,
            "hits": self.hits,
            "hit_rate": self.hits / self.queries if self.queries else 0.0,
            "outcomes": dict(sorted(self.outcomes.items())),
            "labelled_hits": self.labelled_hits,
            "wrong_hits": self.wrong_hits,
            "possible_hits": self.possible_hits,
            "lookup_ms": summary(self.lookups.read()),
            "elapsed_seconds": self.elapsed_seconds,
            "assumed_call_seconds": call_seconds,
            "seconds_saved": self.seconds_saved(call_seconds),
            "skipped_lines": self.skipped_lines,
            "paraphrases": [asdict(example) for example in self.paraphrases],
            "mistakes": [asdict(example) for example in self.mistakes],
            "refusals": [asdict(example) for example in self.refusals],
        }


class OneSided:
    """Queries that only one of two caches served."""

    def __init__(self, size: int) -> None:
        self.verdicts: Counter[Verdict] = Counter()
        self._examples = _Extremes(size, highest=True)

    @property
    def examples(self) -> list[Example]:
        """Examples, most similar first; their explanation and evidence are the other cache's."""
        return self._examples.examples()

    def count(self, served: Example, refused: LookupResult) -> None:
        """Count one query."""
        self.verdicts[served.verdict] += 1
        why, evidence = refused.explanation, refused.evidence
        if refused.nearest is not None and refused.nearest.query != served.stored:
            why, evidence = f"it met {refused.nearest.query!r}: {why}", ()  # of other texts
        self._examples.offer(replace(served, explanation=why, evidence=evidence))

    def as_dict(self) -> dict[str, Any]:
        """Return the counts and examples as JSON values."""
        counts = {verdict: self.verdicts[verdict] for verdict in get_args(Verdict)}
        return counts | {"examples": [asdict(example) for example in self.examples]}


class Replay:
    """Replay of one log through one cache, or through two at once."""

    def __init__(self, *caches: Memora, examples: int) -> None:
        self._caches = caches
        self.interrupted = False
        self._labels: list[dict[str, str | None]] = [{} for _ in caches]  # entry id -> class
        self.reports = [Report(examples=examples) for _ in caches]
        self.only = [OneSided(examples) for _ in caches]  # queries that only this cache served

    def run(self, log: Iterable[Record | BadLine]) -> Iterator[Report]:
        """Look up each query and store it on a miss, as an application would; yield per line."""
        for cache in self._caches:
            cache.check_availability("warm up")  # load the model before the first timed query
        started = time.perf_counter()
        for record in log:
            try:
                if isinstance(record, BadLine):
                    self._skip(record)
                else:
                    self._step(record)
            except (QueryError, ContextError) as error:  # the same for all caches
                self._skip(BadLine(record.line, str(error)))
            for report in self.reports:
                report.elapsed_seconds = time.perf_counter() - started
            yield self.reports[0]

    def _skip(self, line: BadLine) -> None:
        for report in self.reports:
            report.skip(line)

    def _step(self, record: Record) -> None:
        outcomes = []
        for cache, report, labels in zip(self._caches, self.reports, self._labels, strict=True):
            before = time.perf_counter()
            found = cache.lookup(record.query, record.context)
            report.lookups.add(time.perf_counter() - before)
            outcomes.append((found, report.count(record, found, labels)))
            if found.is_miss:
                answer = record.label if record.answer is None else record.answer
                entry_id = cache.store(record.query, record.context, answer, {_LABEL: record.label})
                if entry_id is not None:
                    labels[entry_id] = record.label
        for only, (found, example), (other, _) in zip(
            self.only, outcomes, reversed(outcomes), strict=True
        ):
            if found.is_hit and other.is_miss and example is not None:
                only.count(example, other)


def _same(record: Record, found: LookupResult, labels: Mapping[str, str | None]) -> bool | None:
    """Return whether the nearest entry has the record's class; None if a class is unknown."""
    if record.label is None or found.nearest is None:
        return None
    # A hit carries its class, even if an earlier replay stored it on disk.
    stored = found.metadata.get(_LABEL, labels.get(found.nearest.entry_id))
    return None if stored is None else bool(stored == record.label)
