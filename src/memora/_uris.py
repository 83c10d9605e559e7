"""Which kind of store a `db_uri` names, and how it is shown; all else in it is the store's to read.

Anything that names neither RAM, a server nor a bucket is meant to be a directory.
"""

from __future__ import annotations

import re

MEMORY = "memory://"
BUCKETS = ("s3", "gs", "az")
"""Schemes of object storage."""


def is_in_ram(db_uri: str) -> bool:
    """Tell whether a URI names a store in the RAM of this process."""
    return db_uri == MEMORY


def is_on_server(db_uri: str) -> bool:
    """Tell whether a URI names a server of Redis or Valkey, or several that are one."""
    return re.match(r"rediss?(\+[a-z]+)?://", db_uri) is not None


def is_bucket(db_uri: str) -> bool:
    """Tell whether a URI names a bucket."""
    return db_uri.startswith(tuple(f"{scheme}://" for scheme in BUCKETS))


def is_on_disk(db_uri: str) -> bool:
    """Tell whether a URI names a directory of this machine, or nothing that is supported."""
    return not (is_in_ram(db_uri) or is_on_server(db_uri) or is_bucket(db_uri))


def without_password(uri: str) -> str:
    """Return a URI without the password in it; anything else as it is."""
    # To the last "@" of the authority: one within a password should be quoted, and may not be.
    return re.sub(r"(?<=://)([^:/?#]*):.*@", r"\1:***@", uri)
