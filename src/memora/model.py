"""The data classes of Memora. Frozen, and without I/O."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from html import escape
from math import inf
from typing import Any, Literal, TypeAlias

from memora._show import duration, one_line, preview, rounded

Reason: TypeAlias = Literal[
    "exact",  # hit: the same text in the same context
    "semantic",  # hit: the stored answer is likely enough to be right
    "no_candidate",  # miss: no entry in this context can be compared
    "below_threshold",  # miss: no stored answer is likely enough to be right
    "expired",  # miss: the entry for the same text and context has ended
    "other_language",  # miss: the near entries are in another language, and cross_lingual is off
    "language",  # miss: there is no exact hit, and the model does not read the query's language
    "shadow",  # miss: mode is "shadow"; otherwise it would have been a hit
    # miss: there is no exact hit, and the model may not read all of the query or the nearest text
    "unreadable",
    # Misses because of faults: logged, counted, visible in health.
    "timeout",  # miss: the cache took longer than `lookup_timeout_seconds`
    "error",  # miss: the cache itself failed
]
FAULTS: tuple[Reason, ...] = ("timeout", "error")
"""The reasons of misses caused by faults."""


class _Shown:
    """Mixin that shows the non-empty fields, with large values abbreviated."""

    __slots__ = ()

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={preview(value)}" for name, value in self._shown_fields())
        return f"{type(self).__name__}({shown})"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align:left'>{escape(name)}</th>"
            f"<td style='text-align:left'>{escape(text)}</td></tr>"
            for name, value in self._shown_fields()
            for text in [value[:2000] if isinstance(value, str) else preview(value, 2000)]
        )
        return f"<table><caption>{escape(type(self).__name__)}</caption>{rows}</table>"

    def _shown_fields(self) -> list[tuple[str, Any]]:
        """Return the fields that are not empty; on a hit always the result."""
        always = ("result",) if getattr(self, "is_hit", False) else ()
        values = [(one.name, getattr(self, one.name)) for one in fields(self)]  # type: ignore[arg-type] # of dataclasses
        return [
            (name, value)
            for name, value in values
            if name in always or not (_is_empty(value) or (name == "is_stale" and not value))
        ]


def _is_empty(value: Any) -> bool:
    return value is None or (type(value) in {tuple, dict} and not value)


Unkeyed: TypeAlias = Literal[
    "query",  # the query is blank, None, not a text, or has a lone surrogate; or key= failed
    "context",  # a value has no canonical form; or context= failed
    "tags",  # a tag is blank, or its value has no obvious text
    "closed",  # the cache was closed
]
"""Why a cached call has no key, and so bypassed the cache."""


@dataclass(frozen=True, slots=True)
class Context:
    """An exact context, in canonical form."""

    canonical: str
    """Readable JSON; see `memora.context`."""
    fingerprint: str
    """SHA-256 of the canonical form, in hex."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A stored query with its attributes, without vector and content."""

    id: str
    """32 hexadecimal digits."""
    key: bytes
    """Identifies context and text, in 16 bytes. There is one entry per key."""
    query: str
    context: Context
    created_at: float
    """Seconds since the epoch."""
    expires_at: float | None
    """Seconds since the epoch; None never expires."""
    stale_seconds: float = 0.0
    """How long after `expires_at` the entry may still be served, as stale."""
    sliding_seconds: float | None = None
    """Each hit moves `expires_at` to this many seconds after the hit; None if it is fixed."""
    tags: tuple[str, ...] = ()
    """Sorted, without duplicates."""
    cost: float = 1.0
    """Cost of computing the result, in any unit that all entries share."""

    @property
    def ends_at(self) -> float:
        """The end of the stale period, from which it is not served any more; infinity for never."""
        return inf if self.expires_at is None else self.expires_at + self.stale_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifetime:
    """The attributes that decide how long an entry lives."""

    ttl_seconds: float | None = None
    stale_seconds: float = 0.0
    sliding: bool = False
    tags: tuple[str, ...] = ()
    cost: float = 1.0


@dataclass(frozen=True, slots=True)
class Content:
    """The result and metadata stored under a query."""

    payload: bytes
    """The result, encoded by `memora.codec`."""
    metadata: str = "{}"
    """A JSON object."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measures:
    """The size of a store, and how many entries it removed on its own."""

    bytes: int
    """Size of its entries: texts, vectors, metadata and payloads."""
    payload_bytes: int | None
    """The share of payloads in `bytes`; None if the store does not know."""
    index_bytes: int
    """Size of its vector indexes in RAM."""
    evicted: int
    """Number of entries that this process evicted, by the policy, to keep to the limits."""
    expired: int
    """Number of entries that this process removed because they had ended or were outdated."""


@dataclass(frozen=True, slots=True)
class Match:
    """An entry found by a search."""

    entry: Entry
    cosine: float
    """Cosine similarity to the query, in [-1, 1]."""
    content: Content | None = None
    """The entry's content, if the search returned it too, so that no second read is needed."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """A difference between two texts that speaks against one answer for both.

    The kind "verifier" may also speak for it.
    """

    kind: str
    """What differs: "numbers", "dates", "names", "negation", ...; or "verifier"."""
    detail: str
    """The words that differ: the query's / the stored query's. Of a verifier: how it reads them."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Candidate(_Shown):
    """An entry that was judged, whether served or not."""

    entry_id: str
    query: str
    similarity: float
    """Probability that its answer is right for the query, in [0, 1]; 1 means the same text."""
    cosine: float
    """Raw cosine similarity of the two texts, in [-1, 1]."""
    age_seconds: float
    evidence: tuple[Evidence, ...] = ()
    """The differences that speak against it."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class LookupResult(_Shown):
    """The outcome of a lookup: a hit with its result, or a miss with its reason.

    True in a boolean context if it is a hit, so `if (found := cache.lookup(...)):` is right even if
    the stored result is None or 0.
    """

    is_hit: bool
    reason: Reason
    """The reason of the hit or miss; see `memora.model.Reason`."""
    explanation: str
    """The reason in words, with the numbers that decided."""
    result: Any = None
    """The stored result, on a hit. A new object each time."""
    similarity: float | None = None
    """The value compared with the threshold: 1.0 on an exact hit; None on a miss."""
    cosine: float | None = None
    """Raw cosine similarity of the query and that of `nearest`, on hits and misses."""
    evidence: tuple[Evidence, ...] = ()
    """The differences that speak against `nearest`: on a miss, its refusal; few hits have any."""
    matched_query: str | None = None
    """The query under which the served entry was stored."""
    age_seconds: float | None = None
    """How long ago the served entry was stored."""
    ttl_remaining_seconds: float | None = None
    """How long the served entry stays fresh; None if it never expires, 0 if it is stale."""
    is_stale: bool = False
    """Whether the served entry has expired but is within its `stale_ttl`: use it and refresh it."""
    entry_id: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    """The metadata stored with the served entry."""
    nearest: Candidate | None = None
    """The entry most likely to be right: served on a hit, refused on a miss."""

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
    """How long ago the entry was stored; None, like the other fields, if there is no entry."""
    ttl_remaining_seconds: float | None = None
    """How long the entry stays fresh; None also if it never expires, 0 if it is stale."""
    similarity: float | None = None

    def __bool__(self) -> bool:
        return self.available


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class EntryInfo(_Shown):
    """A stored entry with its statistics, as listed, selected by an invalidation, or exported."""

    entry: Entry
    uses: int
    """How often the entry, or one it replaced, was served, as far as this process knows."""
    last_used_at: float | None
    """Seconds since the epoch."""
    bytes: int
    """Size in the store: texts, vector, metadata and payload."""
    similarity: float | None = None
    """Probability that its answer is right for the query of the call, in [0, 1]."""
    cosine: float | None = None
    """Raw cosine similarity to that query, in [-1, 1]."""

    @property
    def entry_id(self) -> str:
        """The entry's id: 32 hexadecimal digits."""
        return self.entry.id

    @property
    def query(self) -> str:
        """The query under which it is stored."""
        return self.entry.query

    @property
    def context(self) -> str:
        """Its context in canonical form: JSON."""
        return self.entry.context.canonical

    @property
    def created_at(self) -> float:
        """When it was stored, in seconds since the epoch."""
        return self.entry.created_at

    @property
    def expires_at(self) -> float | None:
        """When it expires, in seconds since the epoch; None if never."""
        return self.entry.expires_at

    @property
    def tags(self) -> tuple[str, ...]:
        """Its tags, sorted."""
        return self.entry.tags

    def shown(self) -> dict[str, Any]:
        """Return what applications and the command line show of it, by name."""
        return {name: getattr(self, name) for name in _SHOWN_OF_ENTRIES}

    def _shown_fields(self) -> list[tuple[str, Any]]:
        return [(name, value) for name, value in self.shown().items() if not _is_empty(value)]


_SHOWN_OF_ENTRIES = (
    *("entry_id", "query", "context", "created_at", "expires_at", "tags"),
    *("uses", "last_used_at", "bytes", "similarity", "cosine"),
)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Explanation(_Shown):
    """The outcome that a lookup would have, and why. `print` it, or read its fields."""

    query: str
    is_hit: bool
    reason: Reason
    explanation: str
    """The reason in words, with the numbers that decide."""
    threshold: float
    candidates: tuple[Candidate, ...] = ()
    """The judged entries, most similar first; for an exact hit only the entry of the same text."""
    would_hit_at: float | None = None
    """The highest threshold at which this miss would have been a hit; None if there is none."""
    elsewhere: tuple[EntryInfo, ...] = ()
    """If requested: entries that would be served in other contexts, most similar first."""

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
            lines += [
                f"   {one_line(f'{signal.kind}: {signal.detail}')}" for signal in one.evidence
            ]
        for other in self.elsewhere:
            lines.append(f"in another context, {one_line(other.context)}:")
            lines.append(f"   {one_line(other.query)}; similarity {rounded(other.similarity or 0)}")
        return "\n".join(lines)
