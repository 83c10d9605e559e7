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


# What a URI, or what is meant to be one, begins with: a scheme and its slashes, or one of them.
_SCHEME = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.,;-]*(?::/*|//+)|//+)?")
# To the last "@": one within a password should be quoted, and may not be. Of a name alone nobody
# can tell whether it is a password.
_LOGIN = re.compile(r"(?P<user>[^:/?#@]*):.*@|[^:/?#@]+@", re.DOTALL)
_NO_PORT = re.compile(r"(\[[^\]]*\])|(?<=:)(?!\d{1,5}(?:[,?#]|$))[^,?#]+")
_PARAMETER = re.compile(r"([?&;#][^=&;#]*=)[^&;#]+")
_HARMLESS = re.compile(r"[?&;](?:timeout|shards)=[\d.]{0,8}(?=[&;#]|$)")
_NAMED = re.compile(
    r"((?:key|secret|token|passw(?:or)?d|pwd|sas|sig(?:nature)?|credentials?)=)[^;&\s]+",
    re.IGNORECASE,
)
MASK = "***"
"""What stands in the place of a secret."""


def without_password(uri: str) -> str:
    """Return a URI without the secrets in it, also one that is mistyped; a path as it is."""
    if re.match(r"[./~]|[A-Za-z]:[\\/]", uri) and not uri.startswith("//"):
        return _NAMED.sub(rf"\1{MASK}", uri)
    start = _SCHEME.match(uri)
    scheme = start[0] if start else ""
    rest = uri[len(scheme) :]
    if login := _LOGIN.match(rest):
        # Without a scheme, "name@" may also begin a path.
        if login["user"] is not None or (scheme and scheme != "file://"):
            user = "" if login["user"] is None else f"{login['user']}:"
            rest = f"{user}{MASK}@{rest[login.end() :]}"
    elif scheme:  # nor what stands in the place of a port
        place, slash, path = rest.partition("/")
        rest = _NO_PORT.sub(lambda found: found[1] or MASK, place) + slash + path
    harmless = {found.start() for found in _HARMLESS.finditer(rest)}
    rest = _PARAMETER.sub(
        lambda found: found[0] if found.start() in harmless else f"{found[1]}{MASK}", rest
    )
    return scheme + _NAMED.sub(rf"\1{MASK}", rest)
