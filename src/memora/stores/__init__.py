"""Where entries live: `open_store` turns a URI into a store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memora.errors import ConfigError

if TYPE_CHECKING:
    from memora.protocols import Embedder, Store

__all__ = ["open_store"]


def open_store(db_uri: str, *, table_name: str, embedder: Embedder, create: bool = True) -> Store:
    """Open the store behind a URI: `memory://`, `file://PATH` or a path.

    Raises:
        ConfigError: The scheme is not supported.
        StoreError: See `memora.stores.lancedb.LanceStore`.
    """
    scheme, separator, rest = db_uri.partition("://")
    if separator and scheme == "memory":
        from memora.stores.memory import MemoryStore  # noqa: PLC0415 - one store's imports only

        return MemoryStore(dimension=embedder.dimension)
    if separator and scheme != "file":
        raise ConfigError(
            f"db_uri={db_uri!r}: expected memory:// or the path of a directory; "
            f"{scheme}:// is not supported by this version"
        )
    from memora.stores.lancedb import LanceStore  # noqa: PLC0415 - one store's imports only

    return LanceStore(
        rest if separator else db_uri,
        table_name=table_name,
        model=embedder.identity,
        dimension=embedder.dimension,
        create=create,
    )
