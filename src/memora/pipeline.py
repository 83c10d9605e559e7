"""The path of a query: key, exact, embed, search, judge, serve; of a result: encode, embed, put.

It orders the steps and decides nothing: `context` says what is the same, `judge` what may be
served. Faults pass through; the cache at the door turns them into misses.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from memora.context import canonical_context, canonical_query, exact_key
from memora.errors import SerializationError
from memora.judge import Verdict, judge
from memora.model import Candidate, Context, Entry, LookupResult, Match

if TYPE_CHECKING:
    from collections.abc import Mapping

    from memora.codec import Codec
    from memora.metrics import Metrics
    from memora.protocols import Clock, Embedder, Store, Vector

_CANDIDATES = 5  # how many the judge sees
_BEYOND_WINDOW = "the text is longer than the model reads, so only the very same text matches"


@dataclass(frozen=True, slots=True)
class Ports:
    """What the pipeline needs from outside."""

    embedder: Embedder
    store: Store
    codec: Codec
    clock: Clock
    metrics: Metrics


@dataclass(frozen=True, slots=True)
class Request:
    """A validated query in its context."""

    text: str
    context: Context
    key: str

    @classmethod
    def of(cls, query: str, context: Mapping[str, Any] | None) -> Request:
        """Validate; raises QueryError or ContextError."""
        text, canonical = canonical_query(query), canonical_context(context)
        return cls(text, canonical, exact_key(text, canonical))


def lookup(ports: Ports, request: Request, *, threshold: float) -> LookupResult:
    """Find a stored result that may stand in for a fresh one."""
    now = ports.clock()
    entry = ports.store.get(request.key, now=now)
    if entry is not None:
        verdict = Verdict("exact", "the same text in the same context", Match(entry, 1.0), 1.0)
    else:
        vector = _embed(ports, request.text)
        if vector is None:
            return LookupResult(is_hit=False, reason="beyond_window", explanation=_BEYOND_WINDOW)
        fingerprint = request.context.fingerprint
        matches = ports.store.search(vector, context=fingerprint, k=_CANDIDATES, now=now)
        verdict = judge(matches, threshold=threshold)
    return _serve(ports, verdict, now=now) if verdict.served else _refuse(verdict, now=now)


def store(  # noqa: PLR0913 - all that makes an entry
    ports: Ports,
    request: Request,
    result: Any,
    *,
    metadata: dict[str, Any],
    ttl_seconds: float | None,
    max_payload_bytes: int | None,
    max_entries: int | None,
) -> str:
    """Store a result, in place of any under the same text and context; return the entry's id.

    Raises:
        SerializationError: The result has no exact form in bytes, or a larger one than allowed.
    """
    payload = ports.codec.encode(result)  # first: what cannot be stored costs no embedding
    if max_payload_bytes is not None and len(payload) > max_payload_bytes:
        raise SerializationError(
            f"the result takes {len(payload):,} bytes, more than max_payload_bytes="
            f"{max_payload_bytes:,}"
        )
    vector = _embed(ports, request.text)
    now = ports.clock()
    entry = Entry(
        id=uuid.uuid4().hex,
        key=request.key,
        query=request.text,
        context=request.context,
        created_at=now,
        expires_at=None if ttl_seconds is None else now + ttl_seconds,
        metadata=metadata,
    )
    ports.store.put(entry, payload, vector=vector)
    if max_entries is not None and (surplus := ports.store.count() - max_entries) > 0:
        ports.store.drop(ports.store.oldest(surplus))
    return entry.id


def _serve(ports: Ports, verdict: Verdict, *, now: float) -> LookupResult:
    match = verdict.nearest
    payload = None if match is None else ports.store.payload(match.entry.id)
    if match is None or payload is None:  # evicted or replaced since it was found
        return LookupResult(
            is_hit=False, reason="no_candidate", explanation="the entry was removed meanwhile"
        )
    return LookupResult(
        is_hit=True,
        reason=verdict.reason,
        explanation=verdict.explanation,
        result=ports.codec.decode(payload),
        similarity=verdict.similarity,
        cosine=match.cosine,
        matched_query=match.entry.query,
        age_seconds=_age(match.entry, now),
        entry_id=match.entry.id,
        metadata=match.entry.metadata,
        nearest=_candidate(verdict, now),
    )


def _refuse(verdict: Verdict, *, now: float) -> LookupResult:
    return LookupResult(
        is_hit=False,
        reason=verdict.reason,
        explanation=verdict.explanation,
        nearest=_candidate(verdict, now),
    )


def _candidate(verdict: Verdict, now: float) -> Candidate | None:
    match, similarity = verdict.nearest, verdict.similarity
    if match is None or similarity is None:
        return None
    return Candidate(
        entry_id=match.entry.id,
        query=match.entry.query,
        similarity=similarity,
        age_seconds=_age(match.entry, now),
    )


def _age(entry: Entry, now: float) -> float:
    return max(now - entry.created_at, 0.0)  # a clock set back does not make an entry of the future


def _embed(ports: Ports, text: str) -> Vector | None:
    with ports.metrics.timed("embedding"):
        return ports.embedder.embed([text])[0]
