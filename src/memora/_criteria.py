"""Criteria of an invalidation or a listing, as the application gives them."""

from __future__ import annotations

import json
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple

from memora import lifecycle
from memora._arguments import is_number, share, tags_of
from memora._durations import seconds
from memora.context import canonical_context, canonical_query, exact_key
from memora.errors import ArgumentError
from memora.protocols import ALL_TIMES
from memora.selection import Selection

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import timedelta

    from memora.model import EntryInfo
    from memora.pipeline import Ports


class Criteria(NamedTuple):
    """Unchecked criteria, combined with AND; see `Memora.invalidate`."""

    query: str | None
    context: Mapping[str, Any] | None
    older_than_seconds: float | str | timedelta | None
    context_contains: Mapping[str, Any] | None
    tags: str | Iterable[str] | None
    entry_id: str | None
    similarity_threshold: float | None

    @property
    def is_empty(self) -> bool:
        return all(one is None for one in self)

    def find(self, ports: Ports, *, now: float = ALL_TIMES) -> list[EntryInfo]:
        """Check the criteria, and return the entries that meet them and have not ended at `now`.

        Raises:
            MemoraError: As by `Memora.invalidate`.
        """
        threshold = self.similarity_threshold
        if threshold is not None:
            threshold = share("similarity_threshold", threshold)
        wanted = tags_of(self.tags)
        text = None if self.query is None else canonical_query(self.query)
        if threshold is not None and text is None:
            raise ArgumentError("similarity_threshold needs a query to compare with")
        if self.entry_id is not None and not isinstance(self.entry_id, str):
            raise ArgumentError(f"entry_id must be a text, got {self.entry_id!r}")
        place = None if self.context is None else canonical_context(self.context)
        exact = text is not None and threshold is None
        before = inf
        if self.older_than_seconds is not None:
            before = ports.clock() - _age("older_than_seconds", self.older_than_seconds)
        part = None if self.context_contains is None else canonical_context(self.context_contains)
        if part is not None and not json.loads(part.canonical):
            raise ArgumentError(
                "context_contains={} is part of every context: expected one key, at least; "
                "clear() deletes all entries"
            )
        selection = Selection(
            key=exact_key(text, place) if exact and text and place else None,
            query=text if exact else None,
            entry_id=self.entry_id,
            fingerprint=None if place is None else place.fingerprint,
            contains=None if part is None else part.canonical,
            tags=frozenset(wanted),
            before=before,
        )
        if self.tags is not None and not wanted:  # no entry has one of no tags
            return []
        return lifecycle.find(
            ports, selection, meaning=None if exact else text, threshold=threshold or 0.0, now=now
        )


def _age(name: str, value: float | str | timedelta) -> float:
    # 0 is allowed: it selects all entries stored before now.
    return 0.0 if is_number(value) and value == 0 else seconds(name, value)
