"""Copies of the entries of one store in another, embedded by another model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memora._clock import SteadyClock
from memora._uris import is_in_ram, is_on_disk, without_password
from memora.codec import Codec
from memora.embedders import CachedEmbedder, load_embedder
from memora.errors import ArgumentError
from memora.judge import Judge
from memora.pipeline import Ports
from memora.selection import Selection
from memora.stores import local_path, open_store, open_stored
from memora.transfer._importer import Importer
from memora.transfer._rows import ImportRow

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from memora.config import CacheConfig
    from memora.model import EntryInfo
    from memora.protocols import Embedder, StoreReader
    from memora.transfer._importer import ImportReport, Progress
    from memora.transfer._rows import Problem


def reembed(
    source: CacheConfig,
    target: CacheConfig,
    *,
    embedder: Embedder | None = None,
    progress: Progress | None = None,
) -> ImportReport:
    """Copy all entries of one table to another one, for another embedding model.

    The source is not changed, and needs no model. Run this again after an interruption, or to copy
    newly stored entries: entries that the target already has are skipped.

    Args:
        source: Settings with the source's `db_uri` and `table_name`.
        target: Settings of the target: its table, created if missing, its model and its limits.
        embedder: Used instead of the target's model.
        progress: Called with the number of entries done and the total.

    Raises:
        ArgumentError: Source and target are the same table, or one is in memory.
        ModelMismatchError: The target holds vectors of a third model.
        MemoraError: A store or the model failed; run it again.
    """
    if is_in_ram(target.db_uri):
        raise ArgumentError("memory:// ends with this process; re-embed into a directory")
    if not is_in_ram(source.db_uri) and _table_of(source) == _table_of(target):
        shown = without_password(source.db_uri)
        raise ArgumentError(
            f"both are table {source.table_name!r} in {shown!r}: a table has the vectors "
            "of one model; name another table to copy to"
        )
    stored, _ = open_stored(source)
    try:
        chosen = embedder or load_embedder(target.model_name, use_onnx=target.use_onnx)
        clock = SteadyClock()
        ports = Ports(
            embedder=CachedEmbedder(chosen, 0),  # validates the application's vectors
            store=open_store(target, embedder=chosen, clock=clock),
            codec=Codec(),
            clock=clock,
            judge=Judge(chosen.identity),
        )
        try:
            return copy_entries(stored, ports, target, progress=progress)
        finally:
            ports.store.close()
    finally:
        stored.close()


def copy_entries(
    source: StoreReader, ports: Ports, config: CacheConfig, *, progress: Progress | None = None
) -> ImportReport:
    """Copy the live entries of a store to a cache, embedded by the cache's model.

    Args:
        source: The store.
        ports: The cache's ports.
        config: The cache's limits.
        progress: Called with the number of entries done and the total.

    Raises:
        ArgumentError: The store is the cache's own.
        MemoraError: A store or the model failed; run it again.
    """
    if source is ports.store:
        raise ArgumentError("a store cannot be copied to itself")
    infos = source.select(Selection(), now=ports.clock())
    importer = Importer(ports, config, embeds=True, progress=progress)
    rows = _fetched(source, infos, ports)
    return importer.store_all(rows, name="reembed", total=len(infos), strict=True)


def _fetched(
    source: StoreReader, infos: Sequence[EntryInfo], ports: Ports
) -> Iterator[ImportRow | Problem]:
    for info in infos:
        found = source.fetch(info.entry.key, now=ports.clock())
        if found is not None:  # otherwise it was removed in the meantime
            yield ImportRow(
                entry=found[0],
                content=found[1],
                uses=info.uses,
                last_used_at=info.last_used_at,
            )


def _table_of(config: CacheConfig) -> tuple[str | Path, str]:
    uri = config.db_uri
    place = local_path(uri).resolve() if is_on_disk(uri) else uri.rstrip("/")
    return place, config.table_name
