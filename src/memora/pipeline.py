"""The path of a query: key, exact, embed, search, judge, serve; of a result: encode, embed, put.

It orders the steps and decides nothing: `context` says what is the same, `judge` what may be
served. Faults pass through; the cache at the door turns them into misses.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any

from memora.context import canonical_context, canonical_query, exact_key
from memora.errors import JudgeError, SerializationError
from memora.judge import Verdict
from memora.model import (
    AvailabilityCheck,
    Candidate,
    Content,
    Context,
    Entry,
    Explanation,
    LookupResult,
    Match,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from memora.codec import Codec
    from memora.judge import Judge
    from memora.model import Evidence, Lifetime
    from memora.protocols import Clock, Embedder, Store, Vector

_CANDIDATES = 5  # how many the judge sees: the nearest is not always the one that is right
_SAME_TEXT = "the same text in the same context"
_UNREADABLE = (
    "the model cannot read all of the text (too long, or characters it does not know), "
    "so only the very same text matches"
)


@dataclass(frozen=True, slots=True)
class Ports:
    """What the pipeline needs from outside."""

    embedder: Embedder
    store: Store
    codec: Codec
    clock: Clock
    judge: Judge


@dataclass(frozen=True, slots=True)
class Request:
    """A validated query in its context."""

    text: str
    context: Context
    key: bytes

    @classmethod
    def of(cls, query: str, context: Mapping[str, Any] | None) -> Request:
        """Validate; raises QueryError or ContextError."""
        text, canonical = canonical_query(query), canonical_context(context)
        return cls(text, canonical, exact_key(text, canonical))


def lookup(
    ports: Ports, request: Request, *, threshold: float, max_age: float = inf
) -> LookupResult:
    """Find a stored result that may stand in for a fresh one.

    Raises:
        JudgeError: The judge failed.
    """
    now = ports.clock()
    stored = ports.store.get(request.key, now=now)
    if stored is not None and _age(stored[0], now) <= max_age:
        exact = Verdict("exact", _SAME_TEXT, Match(stored[0], 1.0), 1.0)
        return _serve(ports, exact, *stored, now=now)
    matches = _search(ports, request, max_age)
    if matches is None:
        return LookupResult(is_hit=False, reason="unreadable", explanation=_UNREADABLE)
    verdict = _judge(ports, request, matches, threshold)
    now = ports.clock()
    if not verdict.served or verdict.nearest is None:
        return _refuse(verdict, now)
    # By key: if the query was stored again meanwhile, its newest result is served.
    stored = ports.store.get(verdict.nearest.entry.key, now=now)
    if stored is None or stored[0].context.fingerprint != request.context.fingerprint:
        return _gone()
    return _serve(ports, verdict, *stored, now=now)


def check(
    ports: Ports, request: Request, *, threshold: float, max_age: float = inf
) -> AvailabilityCheck:
    """Tell whether `lookup` would hit; no content is read, and no use is counted.

    Raises:
        JudgeError: The judge failed.
    """
    now = ports.clock()
    entry = ports.store.peek(request.key, now=now)
    similarity: float | None = 1.0
    if entry is None or _age(entry, now) > max_age:
        matches = _search(ports, request, max_age)
        if matches is None:
            return AvailabilityCheck(available=False)
        verdict = _judge(ports, request, matches, threshold)
        if not verdict.served or verdict.nearest is None:
            return AvailabilityCheck(available=False)
        entry, similarity, now = verdict.nearest.entry, verdict.similarity, ports.clock()
    return AvailabilityCheck(
        available=True,
        age_seconds=_age(entry, now),
        ttl_remaining_seconds=_remaining(entry, now, used=False),
        similarity=similarity,
    )


def explain(ports: Ports, request: Request, *, threshold: float) -> Explanation:
    """Tell what `lookup` would do, with all that was judged; no result is decoded.

    Raises:
        JudgeError: The judge failed.
    """
    told = partial(Explanation, query=request.text, threshold=threshold)
    entry = ports.store.peek(request.key, now=(now := ports.clock()))
    if entry is not None:
        same = _candidate(Match(entry, 1.0), 1.0, (), now)
        return told(is_hit=True, reason="exact", explanation=_SAME_TEXT, candidates=(same,))
    matches = _search(ports, request)
    if matches is None:
        return told(is_hit=False, reason="unreadable", explanation=_UNREADABLE)
    verdict = _judge(ports, request, matches, threshold)
    judged = ports.judge.assess(
        request.text, [(match.entry.query, match.cosine) for match in matches]
    )
    candidates = [
        _candidate(match, one.similarity, one.evidence, now)
        for match, one in zip(matches, judged, strict=True)
    ]
    candidates.sort(key=lambda one: -one.similarity)  # of two alike the nearer stays first
    return told(
        is_hit=verdict.served,
        reason=verdict.reason,
        explanation=verdict.explanation,
        candidates=tuple(candidates),
    )


def store(  # noqa: PLR0913 - all that makes an entry
    ports: Ports,
    request: Request,
    result: Any,
    *,
    metadata: str,
    lifetime: Lifetime,
    max_payload_bytes: int | None,
) -> str:
    """Store a result, in place of any under the same text and context; return the entry's id.

    Raises:
        SerializationError: The result has no exact form in bytes, or a larger one than allowed.
    """
    payload = encode(ports, result, max_payload_bytes=max_payload_bytes)
    vector = _embed(ports, request.text)  # last: what cannot be stored costs no embedding
    entry = new_entry(request, lifetime, now=ports.clock())
    ports.store.put(entry, Content(payload, metadata), vector=vector)
    return entry.id


def encode(ports: Ports, result: Any, *, max_payload_bytes: int | None) -> bytes:
    """Return a result as it is stored.

    Raises:
        SerializationError: It has no exact form in bytes, or a larger one than allowed.
    """
    payload = ports.codec.encode(result)
    if max_payload_bytes is not None and len(payload) > max_payload_bytes:
        raise SerializationError(
            f"the result takes {len(payload):,} bytes, more than the {max_payload_bytes:,} that "
            "max_payload_bytes and max_bytes allow"
        )
    return payload


def new_entry(request: Request, lifetime: Lifetime, *, now: float) -> Entry:
    """Return the entry that stores a request's result now."""
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


def _search(ports: Ports, request: Request, max_age: float = inf) -> list[Match] | None:
    """Return the nearest entries of the context; None if the model cannot read the query."""
    vector = _embed(ports, request.text)
    if vector is None:
        return None
    now = ports.clock()  # anew: what expired while the text was embedded is not served
    return ports.store.search(
        vector,
        context=request.context.fingerprint,
        k=_CANDIDATES,
        now=now,
        since=now - max_age,
    )


def _judge(ports: Ports, request: Request, matches: list[Match], threshold: float) -> Verdict:
    try:
        return ports.judge.decide(request.text, matches, threshold=threshold)
    except Exception as fault:
        raise JudgeError(f"{type(fault).__name__}: {fault}") from fault


def _serve(
    ports: Ports, verdict: Verdict, entry: Entry, content: Content, *, now: float
) -> LookupResult:
    result = ports.codec.decode(content.payload)
    ports.store.touch(entry.key, now=now)  # only what is served counts as used
    remaining = _remaining(entry, now, used=True)
    return LookupResult(
        is_hit=True,
        reason=verdict.reason,
        explanation=verdict.explanation,
        result=result,
        similarity=verdict.similarity,
        cosine=None if verdict.nearest is None else verdict.nearest.cosine,
        evidence=verdict.evidence,
        matched_query=entry.query,
        age_seconds=_age(entry, now),
        ttl_remaining_seconds=remaining,
        is_stale=remaining == 0,
        entry_id=entry.id,
        metadata={} if content.metadata == "{}" else json.loads(content.metadata),
        nearest=_nearest(verdict, now),
    )


def _gone() -> LookupResult:
    return LookupResult(
        is_hit=False, reason="no_candidate", explanation="the nearest entry has just left the store"
    )


def _refuse(verdict: Verdict, now: float) -> LookupResult:
    return LookupResult(
        is_hit=False,
        reason=verdict.reason,
        explanation=verdict.explanation,
        cosine=None if verdict.nearest is None else verdict.nearest.cosine,
        evidence=verdict.evidence,
        nearest=_nearest(verdict, now),
    )


def _nearest(verdict: Verdict, now: float) -> Candidate | None:
    if verdict.nearest is None or verdict.similarity is None:
        return None
    return _candidate(verdict.nearest, verdict.similarity, verdict.evidence, now)


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
    # The clock of who stored it may be ahead.
    return max(now - entry.created_at, 0.0)


def _remaining(entry: Entry, now: float, *, used: bool) -> float | None:
    """Return how long an entry is fresh, used now or not; 0 where it is stale, None for ever."""
    if entry.expires_at is None:
        return None
    left = max(entry.expires_at - now, 0.0)
    slides = used and left > 0 and entry.sliding_seconds is not None
    return entry.sliding_seconds if slides else left


def _embed(ports: Ports, text: str) -> Vector | None:
    return ports.embedder.embed([text])[0]
