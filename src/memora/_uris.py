"""Which kind of store a `db_uri` names; what follows the scheme is the store's to read."""

from __future__ import annotations

BUCKETS = ("s3", "gs", "az")
"""Schemes of object storage."""


def is_bucket(db_uri: str) -> bool:
    """Tell whether a URI names a bucket."""
    return db_uri.startswith(tuple(f"{scheme}://" for scheme in BUCKETS))
