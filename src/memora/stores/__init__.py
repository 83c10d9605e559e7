"""Stores of entries: `open_store` opens one by its URI."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from memora._log import make_logger
from memora._uris import (
    MEMORY,
    is_bucket,
    is_in_ram,
    is_on_server,
    mistaken,
    without_password,
)
from memora.embedders import ByLanguage, FunctionEmbedder
from memora.errors import ArgumentError, ConfigError, EmbedderError, ModelMismatchError
from memora.eviction import make_policy
from memora.stores._settings import TableSettings

if TYPE_CHECKING:
    from collections.abc import Callable

    from memora.config import CacheConfig
    from memora.eviction import EvictionPolicy
    from memora.protocols import Clock, Embedder, Store
    from memora.stores.disk._identity import TableIdentity

__all__ = ["REEMBED", "local_path", "open_for", "open_store", "open_stored"]

REEMBED = (
    "its texts in other languages match equal texts only, until `memora reembed --model packaged` "
    "has copied it to another table"
)
"""What to know of a table that holds vectors of the English model alone."""


def open_store(  # noqa: PLR0913 - arguments that replace settings
    config: CacheConfig,
    *,
    embedder: Embedder,
    create: bool = True,
    policy: EvictionPolicy | None = None,
    clock: Clock = time.time,
    keep: bool = True,
) -> Store:
    """Open the store that `db_uri` names.

    The URI is `memory://`, a path, `file://` with an absolute path, a `redis://` of some kind, or a
    bucket. A policy replaces the one that the settings name. For `keep` see `LanceStore`.

    Raises:
        ConfigError: The URI is of another kind.
        StoreError: See `memora.stores.disk.store.LanceStore`, `memora.stores.redis.RedisStore`.
    """
    if policy is None and config.eviction_policy != "fifo":  # stores use FIFO without a policy
        policy = make_policy(config.eviction_policy)
    settings = TableSettings(
        table_name=config.table_name,
        model=embedder.identity,
        dimension=embedder.dimension,
        create=create,
        durability=config.durability,
        hot_index=config.hot_index,
        hot_payload_bytes=config.hot_payload_bytes,
        max_staleness_seconds=config.max_staleness_seconds,
        max_entries=config.max_entries,
        max_bytes=config.max_bytes,
        policy=policy,
        flush_interval_seconds=config.flush_interval_seconds,
        clock=clock,
        index_at=config.index_threshold_entries if config.auto_create_index else None,
        keep=keep,
    )
    for is_of_kind, open_kind in _KINDS:
        if is_of_kind(config.db_uri):
            return open_kind(config, settings)
    return _open_disk(config, settings)


def open_for(  # noqa: PLR0913 - as `open_store`
    config: CacheConfig,
    *,
    embedder: Embedder,
    create: bool = True,
    policy: EvictionPolicy | None = None,
    clock: Clock = time.time,
    keep: bool = True,
) -> tuple[Store, Embedder]:
    """Open the store, also one that an earlier version made with the English model alone.

    Returns:
        The store and its embedder: the one given, or the English part of it.

    Raises:
        MemoraError: See `open_store`.
    """
    open_with = partial(open_store, config, create=create, policy=policy, clock=clock, keep=keep)
    try:
        return open_with(embedder=embedder), embedder
    except ModelMismatchError as mismatch:
        if not isinstance(embedder, ByLanguage):
            raise
        english = embedder.english_only
        try:
            return open_with(embedder=english), english
        except ModelMismatchError:
            raise mismatch from None


def _open_memory(_: CacheConfig, settings: TableSettings) -> Store:
    from memora.stores.memory import MemoryStore  # noqa: PLC0415 - only for this store

    graph = settings.view.graph or "int8"
    return MemoryStore(dimension=settings.dimension, graph=graph, policy=settings.policy)


def _open_server(config: CacheConfig, settings: TableSettings) -> Store:
    from memora.stores.redis import RedisStore  # noqa: PLC0415 - only for this store

    shared = RedisStore(
        config.db_uri,
        table_name=settings.table_name,
        model=settings.model,
        dimension=settings.dimension,
        create=settings.create,
        max_entries=settings.max_entries,
        max_bytes=settings.max_bytes,
        policy=settings.policy,
        flush_interval_seconds=settings.flush_interval_seconds,
        clock=settings.clock,
    )
    if shared.unsuitable:
        own_log = make_logger(config.log_level, json_logs=config.json_logs)
        for problem in shared.unsuitable:
            own_log.warning("server_setting", problem=problem)
    if not config.local_tier_bytes:
        return shared
    from memora.stores.tiered import TieredStore  # noqa: PLC0415 - as above

    return TieredStore(
        shared,
        max_bytes=config.local_tier_bytes,
        max_staleness_seconds=settings.max_staleness_seconds,
        clock=settings.clock,
    )


def _open_bucket(config: CacheConfig, settings: TableSettings) -> Store:
    from memora.stores.bucket.store import ObjectStore  # noqa: PLC0415 - only for this store

    # "off" comes from a command, which does not search.
    settings = replace(settings, hot_index=settings.view.graph or "int8", index_at=None)
    return ObjectStore(config.db_uri, settings, options=config.storage_options)


def _open_disk(config: CacheConfig, settings: TableSettings) -> Store:
    path = local_path(config.db_uri)
    from memora.stores.disk.store import LanceStore  # noqa: PLC0415 - only for this store

    return LanceStore(path, settings)


_KINDS: list[tuple[Callable[[str], bool], Callable[[CacheConfig, TableSettings], Store]]] = [
    (is_in_ram, _open_memory),
    (is_on_server, _open_server),
    (is_bucket, _open_bucket),
]


def open_stored(
    config: CacheConfig, *, clock: Clock = time.time, keep: bool = True
) -> tuple[Store, Embedder]:
    """Open an existing table, whatever its embedder, to inspect or copy it.

    Nothing is evicted: the caller's limits may differ from the application's. For `keep` see
    `LanceStore`.

    Returns:
        The store, and a substitute for its embedder that has the identity and dimension but cannot
        embed.

    Raises:
        ArgumentError: The URI is `memory://`, which is empty in a new process.
        ConfigError: The URI is of another kind.
        StoreError: See `memora.stores.disk.store.LanceStore`.
    """
    limitless = config.model_copy(update={"max_entries": None, "max_bytes": None})
    if is_on_server(config.db_uri):
        from memora.stores.redis import RedisStore  # noqa: PLC0415 - only for this store

        store = RedisStore(config.db_uri, table_name=config.table_name, create=False, clock=clock)
        embedder = FunctionEmbedder(_refuse, identity=store.model, dimension=store.dimension)
        return store, embedder
    from memora.stores.disk import _guards  # noqa: PLC0415 - only for this store

    _guards.check_process()
    identity = _identity_of(config)
    embedder = FunctionEmbedder(_refuse, identity=identity.model, dimension=identity.dimension)
    found = open_store(limitless, embedder=embedder, create=False, clock=clock, keep=keep)
    return found, embedder


def _identity_of(config: CacheConfig) -> TableIdentity:
    if is_bucket(config.db_uri):
        from memora.stores.bucket import store as bucket  # noqa: PLC0415 - only for this store

        return bucket.read_identity(config.db_uri, config.storage_options, config.table_name)
    from memora.stores.disk import _guards, _table  # noqa: PLC0415 - as above

    path = local_path(config.db_uri)
    _guards.check_directory(path, create=False)
    return _table.read_identity(path, config.table_name)


def _refuse(texts: list[str]) -> list[list[float]]:
    raise EmbedderError(f"the store was opened without its model, which {len(texts)} texts need")


def local_path(db_uri: str) -> Path:
    """Return the directory that a URI names.

    Raises:
        ArgumentError: It is `memory://`, which is empty in a new process.
        ConfigError: It names no directory.
    """
    if is_in_ram(db_uri):
        raise ArgumentError(f"{MEMORY} is empty at each start; name a directory")
    expected = f"expected {MEMORY}, the path of a directory, or file:// and an absolute path"
    if is_on_server(db_uri) or is_bucket(db_uri):
        shown = without_password(db_uri)
        raise ConfigError(f"db_uri={shown!r}: {expected}; this works on a disk only")
    expected += ", or redis://, s3://, gs:// or az://"
    refused = f"{expected}; no other is supported by this version"
    if meant := mistaken(db_uri):
        raise ConfigError(f"db_uri={without_password(db_uri)!r}: {refused}; {meant}")
    # At least two letters before the colon, so that a Windows drive is not a scheme.
    if not re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", db_uri):
        shown = without_password(db_uri)
        if shown != db_uri and re.search("[@?;&]", db_uri):
            raise ConfigError(
                f"db_uri={shown!r}: {expected}; a server's begins with its scheme, and ./ with "
                "a directory of this name"
            )
        try:
            return Path(db_uri).expanduser()
        except RuntimeError as error:  # "~user" of an unknown user
            raise ConfigError(f"db_uri={db_uri!r}: {expected}; {error}") from error
    try:
        parts = urlsplit(db_uri)
    except ValueError:  # its message may quote the URI
        parts = urlsplit("")
    if parts.scheme != "file" or parts.netloc or not parts.path.startswith("/"):
        shown = without_password(db_uri)
        raise ConfigError(f"db_uri={shown!r}: {refused}")
    return Path(unquote(parts.path))
