"""The steps of a lookup (key, exact, embed, search, judge, serve) and a store (encode, embed, put).

This module orders the steps and decides nothing: `context` decides which queries are equal, and
`judge` which entries may be served. Faults pass through; `memora.core` turns them into misses.
"""

from __future__ import annotations

import json
import uuid
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from typing_extensions import ParamSpec

from memora._characters import why_unreadable
from memora._faults import contained
from memora._show import fault_line
from memora.concurrency.breaker import Breaker
from memora.context import canonical_context, canonical_query, exact_key
from memora.errors import (
    CorruptEntryError,
    DeadlineError,
    JudgeError,
    SerializationError,
    UnavailableError,
)
from memora.judge import Verdict
from memora.metrics import UNTIMED
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
from memora.protocols import ALL_TIMES
from memora.shadow import Proposal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from memora.codec import Codec
    from memora.judge import Judge
    from memora.metrics import Timings
    from memora.model import EntryInfo, Evidence, Lifetime
    from memora.protocols import Clock, Embedder, Store, Vector

P = ParamSpec("P")
T = TypeVar("T")

_CANDIDATES = 5  # entries judged per lookup, as the nearest is not always the right one
_BARRED = ("other_language", "unreadable")  # verdicts at any threshold
_SAME_TEXT = "the same text in the same context"
_UNREADABLE = "the model cannot read all of the text (too long, or characters it does not know)"


class Breakers(NamedTuple):
    """Circuit breakers, which stop calls for a while after repeated failures.

    The store has one per kind of operation: an operation that fails does not block those that
    work, and their success does not close its breaker.
    """

    embedder: Breaker
    reads: Breaker
    searches: Breaker
    writes: Breaker


@dataclass(frozen=True, slots=True)
class Ports:
    """The pipeline's dependencies."""

    embedder: Embedder
    store: Store
    codec: Codec
    clock: Clock
    judge: Judge
    breakers: Breakers = field(
        default_factory=lambda: Breakers(Breaker(), Breaker(), Breaker(), Breaker())
    )
    timings: Timings = UNTIMED


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


def lookup(
    ports: Ports, request: Request, *, threshold: float, max_age: float = inf
) -> LookupResult:
    """Find a stored result that may be served for the query.

    Raises:
        JudgeError: The judge failed.
    """
    found, has_ended = _exactly(ports, request, max_age)
    if found is not None:
        return found
    (vector,) = _embed(ports, [request.text])
    if vector is None:
        return _unreadable(request)
    return _decide(ports, request, vector, threshold, max_age, has_ended=has_ended)


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
    now = ports.clock()
    stored, has_ended = _stored(ports, request, now, max_age)
    if stored is not None:
        same = Verdict("exact", _SAME_TEXT, Match(stored[0], 1.0), 1.0)
        return _shadowed(same, now), Proposal(Match(stored[0], 1.0), 1.0, stored[1])
    (vector,) = _embed(ports, [request.text])
    if vector is None:
        return _unreadable(request), None
    verdict = _verdict(ports, request, vector, threshold, max_age)
    now, nearest, similarity = ports.clock(), verdict.nearest, verdict.similarity
    found = (
        _shadowed(verdict, now) if verdict.served else _missed(verdict, now, has_ended=has_ended)
    )
    if nearest is None or similarity is None or verdict.reason in _BARRED:
        return found, None
    stored = _guarded(ports.breakers.reads, ports.store.get, nearest.entry.key, now=now)
    if stored is None or stored[0].context.fingerprint != request.context.fingerprint:
        return _gone(), None
    return found, Proposal(Match(stored[0], nearest.cosine), similarity, stored[1])


@contained
def get_in_memory(
    ports: Ports, request: Request, *, max_age: float = inf, largest: float = inf
) -> LookupResult | None:
    """Return an exact hit if that takes only RAM and its payload has at most `largest` bytes."""
    now, started = ports.clock(), ports.timings.now()
    stored = ports.store.get_in_memory(request.key, now=now)
    if stored is None or len(stored[1].payload) > largest or _age(stored[0], now) > max_age:
        return None
    return _serve_exactly(ports, *stored, now=now, started=started)


def exact(ports: Ports, request: Request, *, max_age: float = inf) -> LookupResult | None:
    """Return the hit for exactly this text and context, if there is one."""
    return _exactly(ports, request, max_age)[0]


def _exactly(ports: Ports, request: Request, max_age: float) -> tuple[LookupResult | None, bool]:
    """Return the same as `exact`, and whether there is an entry that has ended."""
    now, started = ports.clock(), ports.timings.now()
    stored, has_ended = _stored(ports, request, now, max_age)
    if stored is None:
        return None, has_ended
    return _serve_exactly(ports, *stored, now=now, started=started), False


def _stored(
    ports: Ports, request: Request, now: float, max_age: float
) -> tuple[tuple[Entry, Content] | None, bool]:
    """Return the entry for exactly this text and context, and whether it has ended.

    Takes one read, because a store on a server takes a round trip for each.
    """
    stored = _guarded(ports.breakers.reads, ports.store.get, request.key, now=ALL_TIMES)
    if stored is None:
        return None, False
    entry, _ = stored
    if entry.ends_at <= now:
        return None, True
    return (stored if _age(entry, now) <= max_age else None), False


def fresh_for(ports: Ports, request: Request) -> float:
    """Return for how many more seconds the entry for exactly this query is fresh."""
    now = ports.clock()
    entry = _guarded(ports.breakers.reads, ports.store.peek, request.key, now=now)
    if entry is None:
        return 0.0
    left = _remaining(entry, now, used=False)
    return inf if left is None else left


def lookup_many(
    ports: Ports, requests: Sequence[Request], *, threshold: float, max_age: float = inf
) -> list[LookupResult | Exception]:
    """Look up several requests; embed those without an exact hit in one batch.

    A fault of one request becomes its result and does not affect the others.
    """
    asked = [caught(_exactly, ports, request, max_age) for request in requests]
    found = [one if isinstance(one, Exception) else one[0] for one in asked]
    left = [i for i, one in enumerate(found) if one is None]
    vectors = caught(_embed, ports, [requests[i].text for i in left]) if left else []
    for n, i in enumerate(left):
        vector = vectors if isinstance(vectors, Exception) else vectors[n]
        found[i] = (
            vector
            if isinstance(vector, Exception)
            else _unreadable(requests[i])
            if vector is None
            else caught(
                _decide,
                ports,
                requests[i],
                vector,
                threshold,
                max_age,
                has_ended=asked[i] == (None, True),
            )
        )
    return [one for one in found if one is not None]


def caught(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | Exception:
    """Call a function; return its value, or the exception it raises."""
    try:
        with contained:
            return function(*args, **kwargs)
    except Exception as fault:  # noqa: BLE001 - the caller reports it
        return fault


def _embed(ports: Ports, texts: list[str]) -> list[Vector | None]:
    started = ports.timings.now()
    vectors = _embed_many(ports, texts)
    ports.timings.lookup_embed(ports.timings.now() - started)
    return vectors


def _verdict(
    ports: Ports, request: Request, vector: Vector, threshold: float, max_age: float
) -> Verdict:
    started = ports.timings.now()
    matches = _near(ports, request, vector, max_age)
    searched = ports.timings.now()
    ports.timings.lookup_search(searched - started)
    verdict = _judge(ports, request, matches, threshold)
    ports.timings.lookup_judge(ports.timings.now() - searched)
    return verdict


def _decide(  # noqa: PLR0913 - the request, and facts about it
    ports: Ports,
    request: Request,
    vector: Vector,
    threshold: float,
    max_age: float,
    *,
    has_ended: bool,
) -> LookupResult:
    verdict = _verdict(ports, request, vector, threshold, max_age)
    now, judged = ports.clock(), ports.timings.now()
    if not verdict.served or verdict.nearest is None:
        return _missed(verdict, now, has_ended=has_ended)
    nearest = verdict.nearest
    if nearest.content is not None:
        return _serve(ports, verdict, nearest.entry, nearest.content, now=now, started=judged)
    # By key: if the query was stored again meanwhile, its newest result is served.
    stored = _guarded(ports.breakers.reads, ports.store.get, nearest.entry.key, now=now)
    if stored is None or stored[0].context.fingerprint != request.context.fingerprint:
        return _gone()
    return _serve(ports, verdict, *stored, now=now, started=judged)


def check(
    ports: Ports, request: Request, *, threshold: float, max_age: float = inf
) -> AvailabilityCheck:
    """Return whether `lookup` would hit, without reading contents or counting a use.

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
    told = partial(Explanation, query=request.text, threshold=threshold, elsewhere=elsewhere)
    entry = ports.store.peek(request.key, now=(now := ports.clock()))
    if entry is not None:
        same = _candidate(Match(entry, 1.0), 1.0, (), now)
        return told(is_hit=True, reason="exact", explanation=_SAME_TEXT, candidates=(same,))
    matches = _search(ports, request)
    if matches is None:
        return told(is_hit=False, reason="unreadable", explanation=_why_unreadable(request))
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
        would_hit_at=verdict.similarity if verdict.reason == "below_threshold" else None,
    )


class Draft(NamedTuple):
    """An encoded result that is to be stored."""

    request: Request
    content: Content
    lifetime: Lifetime


def store(ports: Ports, drafts: Sequence[Draft]) -> list[str]:
    """Store results and return their ids; each replaces any entry of the same text and context."""
    timings, started = ports.timings, ports.timings.now()
    vectors = _embed_many(ports, [draft.request.text for draft in drafts])
    timings.store_embed(timings.now() - started)
    now = ports.clock()
    entries = [new_entry(draft.request, draft.lifetime, now=now) for draft in drafts]
    contents = (draft.content for draft in drafts)
    items = list(zip(entries, contents, vectors, strict=True))
    started = timings.now()
    _guarded(ports.breakers.writes, ports.store.put_many, items)
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


def _search(ports: Ports, request: Request, max_age: float = inf) -> list[Match] | None:
    """Return the nearest entries of the context; None if the model cannot read the query."""
    (vector,) = _embed_many(ports, [request.text])
    return None if vector is None else _near(ports, request, vector, max_age)


def _near(ports: Ports, request: Request, vector: Vector, max_age: float) -> list[Match]:
    now = ports.clock()  # read again: an entry may have expired while the text was embedded
    return _guarded(
        ports.breakers.searches,
        ports.store.search,
        vector,
        context=request.context.fingerprint,
        k=_CANDIDATES,
        now=now,
        since=now - max_age,
    )


def _judge(ports: Ports, request: Request, matches: list[Match], threshold: float) -> Verdict:
    try:
        with contained:
            return ports.judge.decide(request.text, matches, threshold=threshold)
    except Exception as fault:
        raise JudgeError(fault_line(fault)) from fault


def _serve(  # noqa: PLR0913 - the entry, and times
    ports: Ports,
    verdict: Verdict,
    entry: Entry,
    content: Content,
    *,
    now: float,
    started: float,
) -> LookupResult:
    try:
        result = ports.codec.decode(content.payload)
    except CorruptEntryError:
        with suppress(Exception):  # the damage itself is reported by the caller
            _guarded(ports.breakers.writes, ports.store.discard, [entry])
        raise
    ports.store.touch(entry.key, now=now)  # only serving counts as a use
    ports.timings.lookup_payload(ports.timings.now() - started)
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


def _serve_exactly(
    ports: Ports, entry: Entry, content: Content, *, now: float, started: float
) -> LookupResult:
    same = Verdict("exact", _SAME_TEXT, Match(entry, 1.0), 1.0)
    return _serve(ports, same, entry, content, now=now, started=started)


def _unreadable(request: Request) -> LookupResult:
    return LookupResult(is_hit=False, reason="unreadable", explanation=_why_unreadable(request))


def _why_unreadable(request: Request) -> str:
    return f"{why_unreadable(request.text) or _UNREADABLE}, so only the very same text matches"


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


def _missed(verdict: Verdict, now: float, *, has_ended: bool) -> LookupResult:
    missed = _refuse(verdict, now)
    if not has_ended:
        return missed
    told = f"the entry for the same text and context has expired; otherwise: {missed.explanation}"
    return replace(missed, reason="expired", explanation=told)


def _shadowed(verdict: Verdict, now: float) -> LookupResult:
    miss = _refuse(verdict, now)
    told = f"shadow mode serves nothing; otherwise: {verdict.explanation}"
    return replace(miss, reason="shadow", explanation=told)


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


def _embed_many(ports: Ports, texts: list[str]) -> list[Vector | None]:
    return _guarded(ports.breakers.embedder, ports.embedder.embed, texts)


class Wait:
    """A caller's wait with a deadline, checked before each call of a port."""

    def __init__(self) -> None:
        self._calling: list[Breaker] = []  # the breaker of the current call: one, or none
        self._over = False

    def check(self) -> None:
        """Check that the deadline has not passed.

        Raises:
            DeadlineError: The caller has given up. A store so late might replace a newer entry.
        """
        if self._over:
            raise DeadlineError("the caller no longer waits for this")

    def begin(self, breaker: Breaker) -> None:
        """Record that a call of a port begins."""
        self._calling.append(breaker)

    def end(self, breaker: Breaker) -> bool:
        """Finish a call of a port; False if the caller gave up, which counts as a failure."""
        try:
            self._calling.remove(breaker)  # atomic: either this or `give_up` gets it
        except ValueError:
            return False
        return True

    def give_up(self) -> None:
        """Stop waiting, and count the current call as failed, whatever it returns later."""
        self._over = True
        with suppress(IndexError):
            self._calling.pop().failed()


waiting: ContextVar[Wait | None] = ContextVar("waiting", default=None)
"""The wait for the code that runs in this context; None if it has no deadline."""


def _guarded(breaker: Breaker, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a part of the cache, unless its breaker is open.

    Raises:
        UnavailableError: The breaker is open after repeated failures.
        DeadlineError: The caller has given up.
    """
    wait = waiting.get()
    if wait is not None:
        wait.check()  # first: a half-open breaker allows one call, which then must be made
    if not breaker.allows():
        raise UnavailableError(
            f"{getattr(function, '__qualname__', function)} has failed again and again, and is "
            "left alone for a while"
        )
    if wait is not None:
        wait.begin(breaker)
    tell: Callable[[], None] | None = None
    try:
        with contained:
            result = function(*args, **kwargs)
    except CorruptEntryError:  # damage of one entry, which is dropped; the store works
        tell = breaker.succeeded
        raise
    except Exception:
        tell = breaker.failed
        raise
    else:
        tell = breaker.succeeded
        return result
    finally:
        if (wait is None or wait.end(breaker)) and tell is not None:
            tell()
