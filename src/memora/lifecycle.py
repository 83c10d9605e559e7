"""Operations on stored entries: list, invalidate, clear and sweep.

Faults are raised, because the caller has to know if an answer was not deleted.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import chain, repeat
from typing import TYPE_CHECKING

from memora._faults import contained
from memora.concurrency.reentry import alone
from memora.errors import ArgumentError
from memora.protocols import ALL_TIMES
from memora.selection import Selection

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memora.model import EntryInfo
    from memora.pipeline import Ports, Request
    from memora.protocols import Vector

_SEARCHED = 256  # entries of a context compared at first; four times as many if all are similar
# Entries of a context that are judged, as the judge also accepts some below the cosine threshold.
_JUDGED = 64
_CANDIDATES = 5  # judged per context, as in a lookup; also the number of contexts reported
_SWEPT = 4096  # entries removed in one go


@alone
@contained
def find(
    ports: Ports,
    selection: Selection,
    *,
    meaning: str | None = None,
    threshold: float = 0.0,
    now: float = ALL_TIMES,
) -> list[EntryInfo]:
    """Return the entries that meet all criteria: the most similar first, else the oldest.

    Args:
        ports: The pipeline's dependencies.
        selection: All criteria except the meaning.
        meaning: A text to which the entries' queries must be similar, by the judge or the cosine.
        threshold: Minimum similarity.
        now: Exclude entries that have ended at this time.

    Raises:
        ArgumentError: The model cannot read the meaning.
    """
    infos = ports.store.select(selection, now=now)
    if meaning is None:
        return infos
    vector = ports.embedder.embed([meaning])[0]
    if vector is None:
        raise ArgumentError(
            f"the model cannot read all of the query {meaning[:80]!r}, so nothing can be compared "
            "with it; without similarity_threshold it names the entries of exactly this text"
        )
    wanted = {info.entry.id: info for info in infos}
    contexts = {info.entry.context.fingerprint for info in infos}
    found = [
        replace(info, similarity=similarity, cosine=cosine)
        for context in contexts
        for entry_id, similarity, cosine in _similar(
            ports, meaning, vector, context=context, threshold=threshold, now=now
        )
        if (info := wanted.get(entry_id)) is not None
    ]
    return sorted(found, key=lambda one: -(one.similarity or 0.0))


@alone
@contained
def elsewhere(ports: Ports, request: Request, *, threshold: float) -> list[EntryInfo]:
    """Return entries that a lookup would serve in other contexts: the best of each, and only a few.

    Reads every entry, so use it only to explain to a person why there was no hit.
    """
    vector = ports.embedder.embed([request.text])[0]
    contexts: dict[str, dict[str, EntryInfo]] = {}
    now = ports.clock()
    for info in ports.store.select(Selection(), now=now):
        entry = info.entry
        if entry.context.fingerprint != request.context.fingerprint:
            contexts.setdefault(entry.context.fingerprint, {})[entry.id] = info
    found = []
    for context, infos in contexts.items():
        same = [one for one in infos.values() if one.entry.query == request.text]
        if same:
            found.append(replace(same[0], similarity=1.0, cosine=1.0))
        elif vector is not None:
            matches = ports.store.search(vector, context=context, k=_CANDIDATES, now=now)
            verdict = ports.judge.decide(request.text, matches, threshold=threshold)
            if verdict.served and verdict.nearest and verdict.nearest.entry.id in infos:
                nearest = verdict.nearest
                info = infos[nearest.entry.id]
                found.append(replace(info, similarity=verdict.similarity, cosine=nearest.cosine))
    return sorted(found, key=lambda one: -(one.similarity or 0.0))[:_CANDIDATES]


@alone
@contained
def withdraw(ports: Ports, found: list[EntryInfo]) -> int:
    """Delete entries, except those replaced meanwhile; return how many."""
    return ports.store.discard(one.entry for one in found)


def clear(ports: Ports) -> tuple[int, int]:
    """Delete all entries; return how many, and how many more were already ended or outdated."""
    return withdraw(ports, find(ports, Selection())), sweep(ports)


@alone
@contained
def sweep(ports: Ports) -> int:
    """Remove all entries that have ended; return how many."""
    removed = 0
    while part := ports.store.sweep(now=ports.clock(), limit=_SWEPT):
        removed += part
    return removed


def _similar(  # noqa: PLR0913 - what a search needs
    ports: Ports, text: str, vector: Vector, *, context: str, threshold: float, now: float
) -> Iterator[tuple[str, float, float]]:
    """Yield the ids of a context's similar entries, with similarity and cosine.

    An entry is similar if the judge's probability or the cosine reaches the threshold. Keeping a
    wrong answer is worse than having to compute a deleted one again.
    """
    asked = _SEARCHED
    while True:
        matches = ports.store.search(vector, context=context, k=asked, now=now)
        if len(matches) < asked or matches[-1].cosine < threshold:
            break
        asked *= 4
    pairs = [(match.entry.query, match.cosine) for match in matches[:_JUDGED]]
    judged = [one.similarity for one in ports.judge.assess(text, pairs)]
    for match, said in zip(matches, chain(judged, repeat(0.0)), strict=False):
        same = match.entry.query == text
        similarity = 1.0 if same else min(max(said, match.cosine), 1.0)
        if similarity >= threshold:
            yield match.entry.id, similarity, match.cosine
