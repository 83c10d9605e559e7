"""Criteria that select entries for an invalidation or a listing. Pure: no I/O."""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from memora.model import Context, Entry


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Criteria, combined with AND; without criteria, all entries are selected.

    A store may use any of them to read fewer entries, and must return those that `takes` accepts.
    """

    key: bytes | None = None
    """Key of one query in one context."""
    query: str | None = None
    """The exact text, as `canonical_query` returns it, in any context."""
    entry_id: str | None = None
    fingerprint: str | None = None
    """Fingerprint of the exact context."""
    contains: str | None = None
    """Part of the context, in canonical form: see `contains_part`."""
    tags: frozenset[str] = frozenset()
    """The entry has at least one of these tags; if empty, tags do not matter."""
    before: float = inf
    """The entry was stored earlier than this; seconds since the epoch."""

    def takes(self, entry: Entry) -> bool:
        """Return whether an entry meets all criteria."""
        return (
            (self.key is None or entry.key == self.key)
            and (self.query is None or entry.query == self.query)
            and (self.entry_id is None or entry.id == self.entry_id)
            and (not self.tags or not self.tags.isdisjoint(entry.tags))
            and entry.created_at < self.before
            and self.takes_context(entry.context)
        )

    def takes_context(self, context: Context) -> bool:
        """Return whether entries of a context can meet the criteria."""
        return (self.fingerprint is None or context.fingerprint == self.fingerprint) and (
            self.contains is None
            or contains_part(json.loads(context.canonical), json.loads(self.contains))
        )


def contains_part(whole: Any, part: Any) -> bool:
    """Return whether canonical JSON contains other canonical JSON.

    A mapping contains another if it has all its keys, with values that contain the other's. Any
    other value contains only values that are equal and of the same type.
    """
    if isinstance(whole, dict) and isinstance(part, dict):
        return all(key in whole and contains_part(whole[key], part[key]) for key in part)
    return json.dumps(whole, sort_keys=True) == json.dumps(part, sort_keys=True)
