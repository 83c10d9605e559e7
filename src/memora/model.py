"""The values that flow through Memora. Frozen, and without I/O."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from html import escape
from typing import Any, Literal, TypeAlias

from memora._show import duration, one_line, preview, rounded

Reason: TypeAlias = Literal[
    "exact",  # hit: the same text in the same context
    "semantic",  # hit: the stored answer is likely enough to be right
    "no_candidate",  # miss: nothing in this context can be compared
    "below_threshold",  # miss: no stored answer is likely enough to be right
    "expired",  # miss: what is stored under the same text and context has ended
    "other_language",  # miss: what is near is in another language, and cross_lingual is off
    "shadow",  # miss: mode is "shadow"; otherwise it would have been a hit
    # miss: the model may not read all of the text, which was not stored as it is, or of the nearest
    "unreadable",
    "timeout",  # miss: the cache took longer than `lookup_timeout_seconds`; the same
    "error",  # miss: the cache itself failed; logged, counted, visible in health
]
FAULTS: tuple[Reason, ...] = ("timeout", "error")
"""The reasons of misses that were no answer."""


class _Shown:
    """Shows the fields that say something, each in short, however large its value is."""

    __slots__ = ()

    def __repr__(self) -> str:
        told = ", ".join(f"{name}={preview(value)}" for name, value in self._said())
        return f"{type(self).__name__}({told})"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align:left'>{escape(name)}</th>"
            f"<td style='text-align:left'>{escape(text)}</td></tr>"
            for name, value in self._said()
            for text in [value[:2000] if isinstance(value, str) else preview(value, 2000)]
        )
        return f"<table><caption>{escape(type(self).__name__)}</caption>{rows}</table>"

    def _said(self) -> list[tuple[str, Any]]:
        """Return the fields that are not empty; on a hit also a result that is."""
        always = ("result",) if getattr(self, "is_hit", False) else ()
        said = [(one.name, getattr(self, one.name)) for one in fields(self)]  # type: ignore[arg-type] # of dataclasses
        return [
            (name, value)
            for name, value in said
            if name in always
            or not (
                value is None
                or (type(value) in {tuple, dict} and not value)
                or (name == "is_stale" and not value)
            )
        ]


Unkeyed: TypeAlias = Literal[
    "query",  # it is blank, None, not a text, or has a lone surrogate; or key= failed
    "context",  # a value has no canonical form; or context= failed
    "tags",  # a tag is blank, or its value has no obvious text
    "closed",  # the cache was closed
]
"""Why a cached call was only run: it has no key to look up or to store."""


@dataclass(frozen=True, slots=True)
class Context:
    """An exact context, in canonical form."""

    canonical: str
    """JSON, readable; see `memora.context`."""
    fingerprint: str
    """SHA-256 of the canonical form, in hex."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A stored query, without its vector and content."""

    id: str
    """32 hexadecimal digits."""
    key: bytes
    """Identity: context and text, in 16 bytes. One entry a key."""
    query: str
    context: Context
    created_at: float
    """Seconds since the epoch."""
    expires_at: float | None
    """Seconds since the epoch; None never expires."""
    stale_seconds: float = 0.0
    """How long after `expires_at` it may still be served, as stale."""
    sliding_seconds: float | None = None
    """Each hit moves `expires_at` to so long after it; None where that is fixed."""
    tags: tuple[str, ...] = ()
    """Sorted, each once."""
    cost: float = 1.0
    """What computing the result took, in any unit, the same for all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifetime:
    """How long an entry lives, and what else decides when it goes."""

    ttl_seconds: float | None = None
    stale_seconds: float = 0.0
    sliding: bool = False
    tags: tuple[str, ...] = ()
    cost: float = 1.0


@dataclass(frozen=True, slots=True)
class Content:
    """What was stored under a query."""

    payload: bytes
    """The result, encoded by `memora.codec`."""
    metadata: str = "{}"
    """A JSON object."""


@dataclass(frozen=True, slots=True)
class Holding:
    """An entry as a store holds it."""

    entry: Entry
    uses: int
    """How often it has been served, as far as this process knows; also what it replaced."""
    last_used_at: float | None
    """Seconds since the epoch."""
    bytes: int
    """What it takes in the store: texts, vector, metadata and payload."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measures:
    """How large a store is, and which entries have left it of its own accord."""

    bytes: int
    """What its entries take: texts, vectors, metadata and payloads."""
    payload_bytes: int | None
    """What of this are payloads; None where it does not know."""
    index_bytes: int
    """What its indexes of vectors take in RAM."""
    evicted: int
    """Entries that this process has evicted, as the policy said, to keep to the limits."""
    ended: int
    """Entries that this process has removed because they had ended or were outdated."""


@dataclass(frozen=True, slots=True)
class Match:
    """A candidate that a search found."""

    entry: Entry
    cosine: float
    """Cosine similarity to the query, in [-1, 1]."""
    content: Content | None = None
    """What was stored under it, where the search brought it along: for who serves it at once."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Something in two texts that speaks against one answer for both."""

    kind: str
    """What differs: "numbers", "dates", "names", "negation", ..."""
    detail: str
    """How: the query's words / the stored query's words."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Candidate(_Shown):
    """An entry that was judged, served or not."""

    entry_id: str
    query: str
    similarity: float
    """Probability that its answer is right for the query, in [0, 1]; 1 is the same text."""
    cosine: float
    """Raw cosine similarity of the two texts, in [-1, 1]."""
    age_seconds: float
    evidence: tuple[Evidence, ...] = ()
    """What speaks against it."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class LookupResult(_Shown):
    """The outcome of a lookup: a hit with its result, or a miss with its reason.

    True in a boolean context when it is a hit, so `if (found := cache.lookup(...)):` reads right
    even where the stored result is None or 0.
    """

    is_hit: bool
    reason: Reason
    """What decided; see `memora.model.Reason`."""
    explanation: str
    """The reason in words, with the numbers that decided."""
    result: Any = None
    """What was stored, on a hit. A fresh object each time."""
    similarity: float | None = None
    """What the threshold was compared with: 1.0 on an exact hit; None on a miss."""
    cosine: float | None = None
    """Raw cosine similarity of the query and `nearest`'s, on hits and misses."""
    evidence: tuple[Evidence, ...] = ()
    """What speaks against `nearest`: on a miss, what refused it; few hits have any."""
    matched_query: str | None = None
    """The query the served entry was stored under."""
    age_seconds: float | None = None
    """How long ago the served entry was stored."""
    ttl_remaining_seconds: float | None = None
    """How long the served entry still is fresh; None for ever, 0 where it is stale."""
    is_stale: bool = False
    """Whether the served entry has expired, and is in its `stale_ttl`: serve it, and refresh it."""
    entry_id: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    """What was given to `store` with the served entry."""
    nearest: Candidate | None = None
    """The entry whose answer is most likely right: on a hit the served one, on a miss refused."""

    @property
    def is_miss(self) -> bool:
        """The opposite of `is_hit`."""
        return not self.is_hit

    def __bool__(self) -> bool:
        return self.is_hit


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class AvailabilityCheck(_Shown):
    """Whether a lookup would hit now, without its result. True in a boolean context if so."""

    available: bool
    age_seconds: float | None = None
    """How long ago the entry was stored; None where there is none, as in the other fields."""
    ttl_remaining_seconds: float | None = None
    """How long it still is fresh; None also where it never expires, 0 where it is stale."""
    similarity: float | None = None

    def __bool__(self) -> bool:
        return self.available


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Selected(_Shown):
    """An entry that an invalidation concerns, or that a listing shows."""

    entry_id: str
    query: str
    context: str
    """In canonical form: JSON."""
    created_at: float
    """Seconds since the epoch."""
    expires_at: float | None
    """Seconds since the epoch; None never."""
    tags: tuple[str, ...]
    uses: int
    last_used_at: float | None
    """Seconds since the epoch."""
    bytes: int
    similarity: float | None = None
    """To the query that was asked for: probability that its answer is right for it, in [0, 1]."""
    cosine: float | None = None
    """Raw cosine similarity to that query, in [-1, 1]."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Explanation(_Shown):
    """What a lookup would do, and why. `print` it, or read its fields."""

    query: str
    is_hit: bool
    reason: Reason
    explanation: str
    """The reason in words, with the numbers that decide."""
    threshold: float
    candidates: tuple[Candidate, ...] = ()
    """What was judged, the most likely right first; one, the same text, for an exact hit."""
    would_hit_at: float | None = None
    """The highest threshold that would have made this miss a hit; None where none would."""
    elsewhere: tuple[Selected, ...] = ()
    """Where that was asked for: what would be served in other contexts, the most similar first."""

    @property
    def served(self) -> Candidate | None:
        """The candidate whose result a lookup would return."""
        return self.candidates[0] if self.is_hit else None

    def __str__(self) -> str:
        lines = [
            f"{'hit' if self.is_hit else 'miss'} ({self.reason}): {one_line(self.query)}",
            f"  {one_line(self.explanation, 400)}",
        ]
        if self.would_hit_at is not None:
            lines.append(f"  a threshold of {rounded(self.would_hit_at)} would have hit")
        for rank, one in enumerate(self.candidates, start=1):
            verdict = "served" if one is self.served else "not served"
            similarity, cosine = rounded(one.similarity), rounded(one.cosine)
            age = duration(one.age_seconds)
            lines.append(f"{rank}. {verdict}: {one_line(one.query)}")
            lines.append(f"   similarity {similarity}, cosine {cosine}, {age} old")
            lines += [f"   {one_line(f'{said.kind}: {said.detail}')}" for said in one.evidence]
        for other in self.elsewhere:
            lines.append(f"in another context, {one_line(other.context)}:")
            lines.append(f"   {one_line(other.query)}; similarity {rounded(other.similarity or 0)}")
        return "\n".join(lines)
