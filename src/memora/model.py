"""The values that flow through Memora. Frozen, without behaviour and without I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

Reason: TypeAlias = Literal[
    "exact",  # hit: the same text in the same context
    "semantic",  # hit: the nearest entry of the context is similar enough
    "no_candidate",  # miss: nothing in this context can be compared
    "below_threshold",  # miss: the nearest entry is not similar enough
    "unreadable",  # miss: the model cannot read all of the text, which was not stored as it is
    "error",  # miss: the cache itself failed; logged, counted, visible in health
]


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


@dataclass(frozen=True, slots=True)
class Content:
    """What was stored under a query."""

    payload: bytes
    """The result, encoded by `memora.codec`."""
    metadata: str = "{}"
    """A JSON object."""


@dataclass(frozen=True, slots=True)
class Match:
    """A candidate that a search found."""

    entry: Entry
    cosine: float
    """Cosine similarity to the query, in [-1, 1]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """The nearest entry of a lookup, served or not."""

    entry_id: str
    query: str
    similarity: float
    age_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LookupResult:
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
    """Raw cosine similarity of a hit's query and the stored one."""
    matched_query: str | None = None
    """The query the served entry was stored under."""
    age_seconds: float | None = None
    """How long ago the served entry was stored."""
    entry_id: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    """What was given to `store` with the served entry."""
    nearest: Candidate | None = None
    """The nearest entry of the context, where one was compared: on a miss, what was refused."""

    @property
    def is_miss(self) -> bool:
        """The opposite of `is_hit`."""
        return not self.is_hit

    def __bool__(self) -> bool:
        return self.is_hit
