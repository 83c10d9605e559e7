"""The path of a query: key, exact, embed, search, judge, serve; of a result: encode, embed, put.

It orders the steps and decides nothing: `context` says what is the same, `judge` what may be
served. Faults pass through; the cache at the door turns them into misses.
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
from memora.calls._breaker import Breaker
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
    from memora.model import Evidence, Lifetime, Selected
    from memora.protocols import Clock, Embedder, Store, Vector

P = ParamSpec("P")
T = TypeVar("T")

_CANDIDATES = 5  # how many the judge sees: the nearest is not always the one that is right
_BARRED = ("other_language", "unreadable")  # verdicts at any threshold
_SAME_TEXT = "the same text in the same context"
_UNREADABLE = "the model cannot read all of the text (too long, or characters it does not know)"


class Breakers(NamedTuple):
    """What is left alone for a while when it fails again and again.

    Of a store one for each thing it does: what works goes on, and does not speak for what fails.
    """

    embedder: Breaker
    reads: Breaker
    searches: Breaker
    writes: Breaker


@dataclass(frozen=True, slots=True)
class Ports:
    """What the pipeline needs from outside."""

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
    """Find as `lookup` does, and serve nothing; nothing is counted as used.

    Returns:
        A miss; its reason is "shadow" where `lookup` would hit. And what is nearest, served or not.

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
def glance(
    ports: Ports, request: Request, *, max_age: float = inf, largest: float = inf
) -> LookupResult | None:
    """Return an exact hit, if that takes nothing but RAM and no more than so many bytes decoded."""
    now, started = ports.clock(), ports.timings.now()
    stored = ports.store.glance(request.key, now=now)
    if stored is None or len(stored[1].payload) > largest or _age(stored[0], now) > max_age:
        return None
    return _serve_exactly(ports, *stored, now=now, started=started)


def exact(ports: Ports, request: Request, *, max_age: float = inf) -> LookupResult | None:
    """Return the hit of the very same text in the very same context, if there is one."""
    return _exactly(ports, request, max_age)[0]


def _exactly(ports: Ports, request: Request, max_age: float) -> tuple[LookupResult | None, bool]:
    """Return what `exact` does; and whether what is stored has ended."""
    now, started = ports.clock(), ports.timings.now()
    stored, has_ended = _stored(ports, request, now, max_age)
    if stored is None:
        return None, has_ended
    return _serve_exactly(ports, *stored, now=now, started=started), False


def _stored(
    ports: Ports, request: Request, now: float, max_age: float
) -> tuple[tuple[Entry, Content] | None, bool]:
    """Return what may be served of the very same text and context; and whether that has ended.

    One question, which a store on a server takes a round trip to answer.
    """
    stored = _guarded(ports.breakers.reads, ports.store.get, request.key, now=ALL_TIMES)
    if stored is None:
        return None, False
    entry, _ = stored
    if entry.expires_at is not None and entry.expires_at + entry.stale_seconds <= now:
        return None, True
    return (stored if _age(entry, now) <= max_age else None), False


def fresh_for(ports: Ports, request: Request) -> float:
    """Return for how many seconds yet the very same query is answered by what is not stale."""
    now = ports.clock()
    entry = _guarded(ports.breakers.reads, ports.store.peek, request.key, now=now)
    if entry is None:
        return 0.0
    left = _remaining(entry, now, used=False)
    return inf if left is None else left


def lookup_many(
    ports: Ports, requests: Sequence[Request], *, threshold: float, max_age: float = inf
) -> list[LookupResult | Exception]:
    """Do as `lookup` for each, and embed those together that no exact hit answers.

    A fault of one is its result, and leaves the others alone.
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
    """Return what it returns, or what it raises."""
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


def _decide(  # noqa: PLR0913 - what is asked, and what is known of it
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


def explain(
    ports: Ports, request: Request, *, threshold: float, elsewhere: tuple[Selected, ...] = ()
) -> Explanation:
    """Tell what `lookup` would do, with all that was judged; no result is decoded.

    Args:
        ports: What it uses.
        request: The query and its context.
        threshold: As for `lookup`.
        elsewhere: What has been found in other contexts, to be told with it.

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
    """What is to be stored, its result encoded."""

    request: Request
    content: Content
    lifetime: Lifetime


def store(ports: Ports, drafts: Sequence[Draft]) -> list[str]:
    """Store results, each in place of any under the same text and context; return the ids."""
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
    (vector,) = _embed_many(ports, [request.text])
    return None if vector is None else _near(ports, request, vector, max_age)


def _near(ports: Ports, request: Request, vector: Vector, max_age: float) -> list[Match]:
    now = ports.clock()  # anew: what expired while the text was embedded is not served
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


def _serve(  # noqa: PLR0913 - what is served, and when
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
        with suppress(Exception):  # the damage is told of, by whoever catches it
            _guarded(ports.breakers.writes, ports.store.discard, [entry])
        raise
    ports.store.touch(entry.key, now=now)  # only what is served counts as used
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
    told = f"what is stored for the same text and context has ended; else: {missed.explanation}"
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
    # The clock of who stored it may be ahead.
    return max(now - entry.created_at, 0.0)


def _remaining(entry: Entry, now: float, *, used: bool) -> float | None:
    """Return how long an entry is fresh, used now or not; 0 where it is stale, None for ever."""
    if entry.expires_at is None:
        return None
    left = max(entry.expires_at - now, 0.0)
    slides = used and left > 0 and entry.sliding_seconds is not None
    return entry.sliding_seconds if slides else left


def _embed_many(ports: Ports, texts: list[str]) -> list[Vector | None]:
    return _guarded(ports.breakers.embedder, ports.embedder.embed, texts)


class Wait:
    """Somebody waits for a function of the pipeline, and no longer than agreed."""

    def __init__(self) -> None:
        self._calling: list[Breaker] = []  # of what is being called: one, or none
        self._over = False

    def check(self) -> None:
        """Do nothing while somebody waits.

        Raises:
            DeadlineError: Nobody does any more. What is stored so late might replace newer.
        """
        if self._over:
            raise DeadlineError("nobody waits for this any more")

    def begin(self, breaker: Breaker) -> None:
        """Note that a part is being called."""
        self._calling.append(breaker)

    def end(self, breaker: Breaker) -> bool:
        """Tell whether somebody still waits; else the breaker has been told of a failure."""
        try:
            self._calling.remove(breaker)  # atomic: either this or `give_up` has it
        except ValueError:
            return False
        return True

    def give_up(self) -> None:
        """Wait no longer: what is being called has failed, whatever it returns yet."""
        self._over = True
        with suppress(IndexError):
            self._calling.pop().failed()


waiting: ContextVar[Wait | None] = ContextVar("waiting", default=None)
"""Who waits for what runs in this context; None where it is awaited to its end."""


def _guarded(breaker: Breaker, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a part of the cache, unless it has failed again and again.

    Raises:
        UnavailableError: It has.
        DeadlineError: Nobody waits for it any more.
    """
    wait = waiting.get()
    if wait is not None:
        wait.check()  # first: a breaker that is half open allows one, who then has to call
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
    except CorruptEntryError:  # of one entry, which is dropped
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
