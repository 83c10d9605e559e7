"""The steps of a lookup (key, exact, embed, search, judge, serve) and a store (encode, embed, put).

This module runs the steps in order. Which queries are equal is decided by `context`, and which
entries may be served by `judge`. Faults pass through; `memora.core` turns them into misses.
"""

from __future__ import annotations

import json
import uuid
from contextlib import suppress
from dataclasses import dataclass, field, replace
from math import inf
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

from typing_extensions import ParamSpec

from memora._characters import why_unreadable
from memora._faults import contained
from memora._show import fault_line
from memora.concurrency.breaker import Breaker, guarded
from memora.context import canonical_context, canonical_query, exact_key
from memora.errors import CorruptEntryError, JudgeError, SerializationError
from memora.judge import Verdict
from memora.judge._language import NAMES, language_of
from memora.metrics import UNTIMED
from memora.model import (
    AvailabilityCheck,
    Candidate,
    Context,
    Entry,
    Explanation,
    LookupResult,
    Match,
)
from memora.protocols import ALL_TIMES
from memora.shadow import Proposal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from memora.codec import Codec
    from memora.judge import Judge
    from memora.metrics import Timings
    from memora.model import Content, EntryInfo, Evidence, Lifetime, Reason
    from memora.protocols import Clock, Embedder, Store, Vector

P = ParamSpec("P")
T = TypeVar("T")

CANDIDATES = 10
"""The number of entries judged per lookup, because the nearest is not always the right one."""
_BARRED = ("language", "other_language", "unreadable")  # verdicts at any threshold
_SAME_TEXT = "the same text in the same context"
_NOT_STORED = Verdict("no_candidate", "nothing is stored for the same text", None, None)
_ENDED = "the entry for the same text and context has expired"
_UNREADABLE = "the model cannot read all of the text (too long, or characters it does not know)"


class Breakers(NamedTuple):
    """Circuit breakers, which stop calls for a while after repeated failures.

    The store has one per kind of operation: an operation that fails does not block those that
    work, and success of one kind does not close the breaker of another.
    """

    embedder: Breaker
    reads: Breaker
    searches: Breaker
    writes: Breaker


@dataclass(frozen=True, slots=True)
class Ports:
    """The pipeline's dependencies. The methods call them through their breakers: see `guarded`."""

    embedder: Embedder
    store: Store
    codec: Codec
    clock: Clock
    judge: Judge
    breakers: Breakers = field(
        default_factory=lambda: Breakers(Breaker(), Breaker(), Breaker(), Breaker())
    )
    timings: Timings = UNTIMED
    languages: frozenset[str] | None = None
    """The languages that the embedder reads; None if it does not say. See `language_of`."""

    def embed(self, texts: list[str]) -> list[Vector | None]:
        """See `Embedder.embed`."""
        return guarded(self.breakers.embedder, self.embedder.embed, texts)

    def get(self, key: bytes, *, now: float) -> tuple[Entry, Content] | None:
        """See `StoreReader.get`."""
        return guarded(self.breakers.reads, self.store.get, key, now=now)

    def peek(self, key: bytes, *, now: float) -> Entry | None:
        """See `StoreReader.peek`."""
        return guarded(self.breakers.reads, self.store.peek, key, now=now)

    def search(
        self, vector: Vector, *, context: str, k: int, now: float, since: float
    ) -> list[Match]:
        """See `StoreReader.search`."""
        search = self.store.search
        return guarded(
            self.breakers.searches, search, vector, context=context, k=k, now=now, since=since
        )

    def put_many(self, items: list[tuple[Entry, Content, Vector | None]]) -> None:
        """See `Store.put_many`."""
        guarded(self.breakers.writes, self.store.put_many, items)

    def discard(self, entries: list[Entry]) -> int:
        """See `Store.discard`."""
        return guarded(self.breakers.writes, self.store.discard, entries)


@dataclass(frozen=True, slots=True)
class Request:
    """A validated query in its context."""

    text: str
    context: Context
    key: bytes

    @classmethod
    def of(cls, query: str, context: Mapping[str, Any] | None) -> Request:
        """Validate a query and its context; raises QueryError or ContextError."""
        text, canonical = canonical_query(query), canonical_context(context)
        return cls(text, canonical, exact_key(text, canonical))


class Decision(NamedTuple):
    """The decision on one query."""

    verdict: Verdict
    now: float
    """The time of the decision; seconds since the epoch."""
    seconds: float = 0.0
    """How long an exact hit took to read from the store."""
    has_ended: bool = False
    """Whether the entry for exactly this query has ended."""

    def outcome(self) -> tuple[Reason, str]:
        """Return the reason of the hit or miss, also in words."""
        reason, told = self.verdict.reason, self.verdict.explanation
        if self.has_ended and not self.verdict.served:
            return "expired", f"{_ENDED}; otherwise: {told}"
        return reason, told


def decide(  # noqa: PLR0913 - the requests, and what to read
    ports: Ports,
    requests: Sequence[Request],
    *,
    threshold: float,
    max_age: float = inf,
    contents: bool = True,
    known: Decision | None = None,
) -> list[Decision | Exception]:
    """Decide for each request which entry may be served: exact, else embed, search and judge.

    Queries without an exact hit are embedded in one batch. A fault of one request becomes its
    result and does not affect the others. Nothing is decoded or counted as a use.

    Args:
        ports: The pipeline's dependencies.
        requests: The queries and their contexts.
        threshold: Minimum similarity to serve.
        max_age: Ignore entries stored more than this many seconds ago.
        contents: Whether to read the contents of exact hits.
        known: The decision of `decide_in_memory` on the only request.
    """
    found: list[Decision | Exception] = [
        caught(_decide_exactly, ports, request, max_age, contents=contents)
        if known is None
        else known
        for request in requests
    ]
    left = [
        (i, one.has_ended)
        for i, one in enumerate(found)
        if isinstance(one, Decision) and one.verdict.nearest is None
    ]
    vectors = caught(_embed, ports, [requests[i].text for i, _ in left]) if left else []
    for n, (i, has_ended) in enumerate(left):
        found[i] = (
            vectors
            if isinstance(vectors, Exception)
            else caught(
                decide_by_meaning,
                ports,
                requests[i],
                vectors[n],
                threshold,
                max_age,
                has_ended=has_ended,
            )
        )
    return found


def decide_in_memory(
    ports: Ports, request: Request, *, max_age: float = inf, largest: float = inf
) -> Decision | None:
    """Decide by the entry for exactly this text and context if that takes only RAM.

    Args:
        ports: The pipeline's dependencies.
        request: The query and its context.
        max_age: As for `decide`.
        largest: Maximum size of the payload in bytes; for a larger one, return None.

    Returns:
        None if the store has to be read.
    """
    now = ports.clock()
    stored = ports.store.get_in_memory(request.key, now=ALL_TIMES)
    if stored is None or (stored and len(stored[1].payload) > largest):
        return None
    return _same(stored or None, now, max_age)


def _decide_exactly(
    ports: Ports, request: Request, max_age: float, *, contents: bool = True
) -> Decision:
    """Decide by the entry for exactly this text and context; takes one read."""
    now, started = ports.clock(), ports.timings.now()
    stored: tuple[Entry, Content | None] | None
    if contents:
        stored = ports.get(request.key, now=ALL_TIMES)
    else:
        entry = ports.peek(request.key, now=ALL_TIMES)
        stored = None if entry is None else (entry, None)
    return _same(stored, now, max_age, seconds=ports.timings.now() - started)


def _same(
    stored: tuple[Entry, Content | None] | None, now: float, max_age: float, seconds: float = 0.0
) -> Decision:
    """Decide by the entry for exactly the query; if it may not be served, there is no nearest."""
    if stored is None:
        return Decision(_NOT_STORED, now)
    entry, content = stored
    if entry.ends_at <= now:
        return Decision(_NOT_STORED, now, has_ended=True)
    if _age(entry, now) > max_age:
        return Decision(_NOT_STORED, now)
    return Decision(Verdict("exact", _SAME_TEXT, Match(entry, 1.0, content), 1.0), now, seconds)


def decide_by_meaning(  # noqa: PLR0913 - the request, and facts about it
    ports: Ports,
    request: Request,
    vector: Vector | None,
    threshold: float,
    max_age: float = inf,
    *,
    has_ended: bool = False,
) -> Decision:
    """Decide by the entries of the context that are nearest to the query's vector.

    Raises:
        JudgeError: The judge failed.
    """
    if vector is None:
        return Decision(_unread(ports, request.text), ports.clock())
    context, timings = request.context.fingerprint, ports.timings
    started = timings.now()
    now = ports.clock()  # read again: an entry may have expired while the text was embedded
    matches = ports.search(vector, context=context, k=CANDIDATES, now=now, since=now - max_age)
    searched = timings.now()
    timings.lookup_search(searched - started)
    try:
        with contained:
            verdict = ports.judge.decide(request.text, matches, threshold=threshold)
    except Exception as fault:
        raise JudgeError(fault_line(fault)) from fault
    timings.lookup_judge(timings.now() - searched)
    return Decision(verdict, ports.clock(), has_ended=has_ended)


def _unread(ports: Ports, text: str) -> Verdict:
    """Return why a text has no vector."""
    reason: Literal["language", "unreadable"] = "unreadable"
    because = why_unreadable(text)
    if not because and ports.languages is not None:
        language = language_of(text)
        if language not in ports.languages:
            reason, because = "language", f"the model does not read {NAMES[language]}"
    told = f"{because or _UNREADABLE}, so only the very same text matches"
    return Verdict(reason, told, None, None)


def lookup(
    ports: Ports,
    request: Request,
    *,
    threshold: float,
    max_age: float = inf,
    known: Decision | None = None,
) -> LookupResult:
    """Find a stored result that may be served for the query.

    Raises:
        JudgeError: The judge failed.
    """
    decision = _only(decide(ports, [request], threshold=threshold, max_age=max_age, known=known))
    return serve(ports, request, decision)


def lookup_many(
    ports: Ports, requests: Sequence[Request], *, threshold: float, max_age: float = inf
) -> list[LookupResult | Exception]:
    """Look up several requests; a fault of one becomes its result."""
    decisions = decide(ports, requests, threshold=threshold, max_age=max_age)
    return [
        one if isinstance(one, Exception) else caught(contained(serve), ports, request, one)
        for request, one in zip(requests, decisions, strict=True)
    ]


def exact(ports: Ports, request: Request, *, max_age: float = inf) -> LookupResult | None:
    """Return the hit for exactly this text and context, if there is one."""
    decision = _decide_exactly(ports, request, max_age)
    return serve(ports, request, decision) if decision.verdict.served else None


def shadow(
    ports: Ports, request: Request, *, threshold: float, max_age: float = inf
) -> tuple[LookupResult, Proposal | None]:
    """Look up as `lookup` does, but serve nothing and count no use.

    Returns:
        A miss, with the reason "shadow" if `lookup` would hit; and the nearest entry, whether
        `lookup` would serve it or not.

    Raises:
        JudgeError: The judge failed.
    """
    decision = _only(decide(ports, [request], threshold=threshold, max_age=max_age))
    verdict, found = decision.verdict, _refuse(decision)
    if verdict.served:
        told = f"shadow mode serves nothing; otherwise: {verdict.explanation}"
        found = replace(found, reason="shadow", explanation=told)
    nearest, similarity = verdict.nearest, verdict.similarity
    if nearest is None or similarity is None or verdict.reason in _BARRED:
        return found, None
    if (stored := _read(ports, request, nearest, decision.now)) is None:
        return _gone(), None
    return found, Proposal(stored[0], similarity, stored[1].payload)


def check(
    ports: Ports, request: Request, *, threshold: float, max_age: float = inf
) -> AvailabilityCheck:
    """Return whether `lookup` would hit, without reading contents or counting a use.

    Raises:
        JudgeError: The judge failed.
    """
    decision = _foresee(ports, request, threshold=threshold, max_age=max_age)
    verdict, now = decision.verdict, decision.now
    if not verdict.served or verdict.nearest is None:
        return AvailabilityCheck(available=False)
    return AvailabilityCheck(
        available=True,
        age_seconds=_age(verdict.nearest.entry, now),
        ttl_remaining_seconds=_remaining(verdict.nearest.entry, now, used=False),
        similarity=verdict.similarity,
    )


def explain(
    ports: Ports, request: Request, *, threshold: float, elsewhere: tuple[EntryInfo, ...] = ()
) -> Explanation:
    """Return what `lookup` would do, with all judged candidates, without decoding results.

    Args:
        ports: The pipeline's dependencies.
        request: The query and its context.
        threshold: As for `lookup`.
        elsewhere: Entries found in other contexts, to include in the explanation.

    Raises:
        JudgeError: The judge failed.
    """
    decision = _foresee(ports, request, threshold=threshold)
    verdict, now = decision.verdict, decision.now
    candidates = [
        _candidate(match, one.similarity, one.evidence, now) for match, one in verdict.judged
    ]
    candidates.sort(key=lambda one: -one.similarity)  # of two alike the nearer stays first
    if verdict.reason == "exact" and (same := _nearest(decision)):
        candidates = [same]
    reason, explanation = decision.outcome()
    return Explanation(
        query=request.text,
        is_hit=verdict.served,
        reason=reason,
        explanation=explanation,
        threshold=threshold,
        candidates=tuple(candidates),
        would_hit_at=verdict.similarity if verdict.reason == "below_threshold" else None,
        elsewhere=elsewhere,
    )


def _foresee(ports: Ports, request: Request, *, threshold: float, max_age: float = inf) -> Decision:
    """Decide as `lookup` does, but read no contents and time nothing: only lookups are timed."""
    untimed = replace(ports, timings=UNTIMED)
    return _only(decide(untimed, [request], threshold=threshold, max_age=max_age, contents=False))


def fresh_for(ports: Ports, request: Request) -> float:
    """Return for how many more seconds the entry for exactly this query is fresh."""
    now = ports.clock()
    entry = ports.peek(request.key, now=now)
    if entry is None:
        return 0.0
    left = _remaining(entry, now, used=False)
    return inf if left is None else left


def caught(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | Exception:
    """Call a function; return its value, or the exception it raises."""
    try:
        return function(*args, **kwargs)
    except Exception as fault:  # noqa: BLE001 - the caller reports it
        return fault


def _only(found: list[T | Exception]) -> T:
    """Return the only item of a list, or raise it if it is a fault."""
    one = found.pop()
    if isinstance(one, Exception):
        raise one
    return one


class Draft(NamedTuple):
    """An encoded result that is to be stored."""

    request: Request
    content: Content
    lifetime: Lifetime


def store(ports: Ports, drafts: Sequence[Draft]) -> list[str]:
    """Store results and return their ids; each replaces any entry of the same text and context."""
    timings, started = ports.timings, ports.timings.now()
    vectors = ports.embed([draft.request.text for draft in drafts])
    timings.store_embed(timings.now() - started)
    now = ports.clock()
    entries = [new_entry(draft.request, draft.lifetime, now=now) for draft in drafts]
    contents = (draft.content for draft in drafts)
    items = list(zip(entries, contents, vectors, strict=True))
    started = timings.now()
    ports.put_many(items)
    timings.store_put(timings.now() - started)
    return [entry.id for entry in entries]


@contained
def encode(ports: Ports, result: Any, *, max_payload_bytes: int | None) -> bytes:
    """Encode a result for storage.

    Raises:
        SerializationError: The result has no exact form in bytes, or the form is too large.
    """
    payload = ports.codec.encode(result)
    if max_payload_bytes is not None and len(payload) > max_payload_bytes:
        raise SerializationError(
            f"the result takes {len(payload):,} bytes, more than the {max_payload_bytes:,} that "
            "max_payload_bytes and max_bytes allow"
        )
    return payload


def new_entry(request: Request, lifetime: Lifetime, *, now: float) -> Entry:
    """Return a new entry for a request, stored at `now`."""
    return Entry(
        id=uuid.uuid4().hex,
        key=request.key,
        query=request.text,
        context=request.context,
        created_at=now,
        expires_at=None if lifetime.ttl_seconds is None else now + lifetime.ttl_seconds,
        stale_seconds=0.0 if lifetime.ttl_seconds is None else lifetime.stale_seconds,
        sliding_seconds=lifetime.ttl_seconds if lifetime.sliding else None,
        tags=lifetime.tags,
        cost=lifetime.cost,
    )


def _embed(ports: Ports, texts: list[str]) -> list[Vector | None]:
    started = ports.timings.now()
    vectors = ports.embed(texts)
    ports.timings.lookup_embed(ports.timings.now() - started)
    return vectors


def _read(ports: Ports, request: Request, match: Match, now: float) -> tuple[Entry, Content] | None:
    """Return a match with its content; None if it has just left the store."""
    if match.content is not None:
        return match.entry, match.content
    # By key: if the query was stored again meanwhile, its newest result is served.
    stored = ports.get(match.entry.key, now=now)
    if stored is None or stored[0].context.fingerprint != request.context.fingerprint:
        return None
    return stored


def serve(ports: Ports, request: Request, decision: Decision) -> LookupResult:
    """Decode the result of a hit and count its use; return a miss as it is."""
    verdict, now, started = decision.verdict, decision.now, ports.timings.now()
    if not verdict.served or verdict.nearest is None:
        return _refuse(decision)
    entry, content = verdict.nearest.entry, verdict.nearest.content
    if content is None:
        if (stored := _read(ports, request, verdict.nearest, now)) is None:
            return _gone()
        entry, content = stored
    try:
        result = ports.codec.decode(content.payload)
    except CorruptEntryError:
        with suppress(Exception):  # the damage itself is reported by the caller
            ports.discard([entry])
        raise
    ports.store.touch(entry.key, now=now)  # only serving counts as a use
    ports.timings.lookup_payload(decision.seconds + ports.timings.now() - started)
    remaining = _remaining(entry, now, used=True)
    return LookupResult(
        is_hit=True,
        reason=verdict.reason,
        explanation=verdict.explanation,
        result=result,
        similarity=verdict.similarity,
        cosine=verdict.nearest.cosine,
        evidence=verdict.evidence,
        matched_query=entry.query,
        age_seconds=_age(entry, now),
        ttl_remaining_seconds=remaining,
        is_stale=remaining == 0,
        entry_id=entry.id,
        metadata={} if content.metadata == "{}" else json.loads(content.metadata),
        nearest=_nearest(decision),
    )


def _refuse(decision: Decision) -> LookupResult:
    nearest, (reason, explanation) = decision.verdict.nearest, decision.outcome()
    return LookupResult(
        is_hit=False,
        reason=reason,
        explanation=explanation,
        cosine=None if nearest is None else nearest.cosine,
        evidence=decision.verdict.evidence,
        nearest=_nearest(decision),
    )


def _gone() -> LookupResult:
    return LookupResult(
        is_hit=False, reason="no_candidate", explanation="the nearest entry has just left the store"
    )


def _nearest(decision: Decision) -> Candidate | None:
    verdict = decision.verdict
    if verdict.nearest is None or verdict.similarity is None:
        return None
    return _candidate(verdict.nearest, verdict.similarity, verdict.evidence, decision.now)


def _candidate(
    match: Match, similarity: float, evidence: tuple[Evidence, ...], now: float
) -> Candidate:
    return Candidate(
        entry_id=match.entry.id,
        query=match.entry.query,
        similarity=similarity,
        cosine=match.cosine,
        age_seconds=_age(match.entry, now),
        evidence=evidence,
    )


def _age(entry: Entry, now: float) -> float:
    # The clock of the process that stored the entry may be ahead.
    return max(now - entry.created_at, 0.0)


def _remaining(entry: Entry, now: float, *, used: bool) -> float | None:
    """Return how long an entry stays fresh; 0 if it is stale, None if it never expires.

    With `used`, include the extension of a sliding TTL by a hit now.
    """
    if entry.expires_at is None:
        return None
    left = max(entry.expires_at - now, 0.0)
    slides = used and left > 0 and entry.sliding_seconds is not None
    return entry.sliding_seconds if slides else left
