"""The path of a query: key, exact, embed, search, judge, serve; of a result: encode, embed, put.

It orders the steps and decides nothing: `context` says what is the same, `judge` what may be
served. Faults pass through; the cache at the door turns them into misses.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from memora.context import canonical_context, canonical_query, exact_key
from memora.errors import SerializationError
from memora.judge import Verdict, judge
from memora.model import Candidate, Content, Context, Entry, LookupResult, Match

if TYPE_CHECKING:
    from collections.abc import Mapping

    from memora.codec import Codec
    from memora.protocols import Clock, Embedder, Store, Vector

_CANDIDATES = 1  # how many the judge sees: it compares no more than the nearest
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


def lookup(ports: Ports, request: Request, *, threshold: float) -> LookupResult:
    """Find a stored result that may stand in for a fresh one."""
    stored = ports.store.get(request.key, now=ports.clock())
    if stored is not None:
        verdict = Verdict("exact", "the same text in the same context", Match(stored[0], 1.0), 1.0)
        return _serve(ports, verdict, *stored)
    vector = _embed(ports, request.text)
    if vector is None:
        return LookupResult(is_hit=False, reason="unreadable", explanation=_UNREADABLE)
    now = ports.clock()  # again: what expired while the text was embedded is not served
    fingerprint = request.context.fingerprint
    matches = ports.store.search(vector, context=fingerprint, k=_CANDIDATES, now=now)
    verdict = judge(matches, threshold=threshold)
    if not verdict.served or verdict.nearest is None:
        return _refuse(ports, verdict)
    # By key: if the query was stored again meanwhile, its newest result is served.
    stored = ports.store.get(verdict.nearest.entry.key, now=now)
    if stored is None or stored[0].context.fingerprint != fingerprint:
        return _gone()
    return _serve(ports, verdict, *stored)


def store(  # noqa: PLR0913 - all that makes an entry
    ports: Ports,
    request: Request,
    result: Any,
    *,
    metadata: str,
    ttl_seconds: float | None,
    max_payload_bytes: int | None,
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
    )
    ports.store.put(entry, Content(payload, metadata), vector=vector)
    return entry.id


def _serve(ports: Ports, verdict: Verdict, entry: Entry, content: Content) -> LookupResult:
    return LookupResult(
        is_hit=True,
        reason=verdict.reason,
        explanation=verdict.explanation,
        result=ports.codec.decode(content.payload),
        similarity=verdict.similarity,
        cosine=None if verdict.nearest is None else verdict.nearest.cosine,
        matched_query=entry.query,
        age_seconds=_age(ports, entry),
        entry_id=entry.id,
        metadata={} if content.metadata == "{}" else json.loads(content.metadata),
        nearest=_candidate(ports, verdict),
    )


def _gone() -> LookupResult:
    return LookupResult(
        is_hit=False, reason="no_candidate", explanation="the nearest entry has just left the store"
    )


def _refuse(ports: Ports, verdict: Verdict) -> LookupResult:
    return LookupResult(
        is_hit=False,
        reason=verdict.reason,
        explanation=verdict.explanation,
        nearest=_candidate(ports, verdict),
    )


def _candidate(ports: Ports, verdict: Verdict) -> Candidate | None:
    match, similarity = verdict.nearest, verdict.similarity
    if match is None or similarity is None:
        return None
    return Candidate(
        entry_id=match.entry.id,
        query=match.entry.query,
        similarity=similarity,
        age_seconds=_age(ports, match.entry),
    )


def _age(ports: Ports, entry: Entry) -> float:
    # A clock set back does not make an entry of the future.
    return max(ports.clock() - entry.created_at, 0.0)


def _embed(ports: Ports, text: str) -> Vector | None:
    return ports.embedder.embed([text])[0]
