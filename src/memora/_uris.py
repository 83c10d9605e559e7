"""Recognises the kind of store in a `db_uri`, and masks secrets; the store parses the rest.

A URI that names neither RAM, a server nor a bucket is a directory.
"""

from __future__ import annotations

import difflib
import re

MEMORY = "memory://"
BUCKETS = ("s3", "gs", "az")
"""Schemes of object storage."""


def is_in_ram(db_uri: str) -> bool:
    """Return whether a URI names a store in the RAM of this process."""
    return db_uri == MEMORY


def is_on_server(db_uri: str) -> bool:
    """Return whether a URI names a Redis or Valkey server, or a group of servers."""
    return re.match(r"rediss?(\+[a-z]+)?://", db_uri) is not None


def is_bucket(db_uri: str) -> bool:
    """Return whether a URI names a bucket."""
    return db_uri.startswith(tuple(f"{scheme}://" for scheme in BUCKETS))


def is_on_disk(db_uri: str) -> bool:
    """Return whether a URI names a directory of this machine, or is unsupported."""
    return not (is_in_ram(db_uri) or is_on_server(db_uri) or is_bucket(db_uri))


# The beginning of a URI, or of a mistyped one: a scheme, slashes, or both.
_SCHEME = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.,;-]*(?:\s*:\s*/*|//+)|//+)?")
# What precedes a whole URI by mistake, and would make it a path.
_SLIP = re.compile(r"[^\w:]+(?=[A-Za-z][A-Za-z0-9+.-]*://)")
# Up to the last "@", as one in a password may be unquoted. A name alone may be a password.
_LOGIN = re.compile(r"(?P<user>[^:/?#@]*):.*@|[^:/?#@]+@", re.DOTALL)
_NO_PORT = re.compile(r"(\[[^\]]*\])|(?<=:)(?!\d{1,5}(?:[,?#]|$))[^,?#]+")
_PARAMETER = re.compile(r"([?&;#][^=&;#]*=)[^&;#]+")
_HARMLESS = re.compile(r"[?&;](?:timeout|shards)=[\d.]{0,8}(?=[&;#]|$)")
_NAMED = re.compile(
    r"((?:key|secret|token|passw(?:or)?d|pwd|sas|sig(?:nature)?|credentials?)=)[^;&\s]+",
    re.IGNORECASE,
)
MASK = "***"
"""Replaces a secret."""
_RAM = ("memory", "mem", "ram", "in-memory", "in_memory", "inmemory")
_SCHEMES = ("memory", "redis", "rediss", "s3", "gs", "az", "file")
_MEANT = {
    **dict.fromkeys(_RAM, "memory"),
    **dict.fromkeys(("valkey", "valkeys", "keydb", "dragonfly"), "redis"),
    **dict.fromkeys(("s3a", "s3n", "minio"), "s3"),
    **dict.fromkeys(("gcs", "google"), "gs"),
    **dict.fromkeys(("azure", "abfs", "abfss", "wasb", "wasbs", "adl"), "az"),
    **dict.fromkeys(("lance", "lancedb", "sqlite", "sqlite3", "duckdb", "disk", "dir"), "file"),
}


def mistaken(db_uri: str) -> str | None:
    """Return a hint for a mistyped URI that would be read as a path, or as an unknown scheme.

    `memory` or `redis//host` would become a directory of that name, with a cache by mistake. For
    such a directory on purpose, write `./memory`.
    """
    bare = db_uri.strip()
    word = bare.strip(":/").lower()
    if word in (*_RAM, "redis", "rediss") and not bare.startswith("/"):
        named = "" if ":" in bare else f" ./{bare.strip('/')} would be a directory of that name"
        return f"did you mean '{_MEANT.get(word, word)}://'?{named}"
    if bare != db_uri:
        return f"did you mean {without_password(bare)!r}, without the blanks around it?"
    if slip := _SLIP.match(bare):
        return f"did you mean {without_password(bare[slip.end() :])!r}?"
    if re.match(r"([A-Za-z][\w.-]+|\d+(\.\d+){3}):\d+(/\d*)?$", bare):  # a host and its port
        return f"did you mean {f'redis://{bare}'!r}?"
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]+)(://|:/|//|:(?=[^\\]))", bare)
    return None if found is None else _scheme_meant(found[1], found[2])


def _scheme_meant(scheme: str, mark: str) -> str | None:
    low = scheme.lower()
    if mark == "//" and low not in _SCHEMES:
        return None  # a path with two slashes
    meant = _MEANT.get(low) or next(iter(difflib.get_close_matches(low, _SCHEMES, n=1)), None)
    if meant is None or (meant == scheme and mark == "://"):
        return None
    if meant == "file":
        return "a directory is named by its path alone, such as './cache'"
    return f"did you mean '{meant}://'?"


def without_password(uri: str) -> str:
    """Return a URI with its secrets masked, even if it is mistyped; a path is unchanged."""
    if slip := _SLIP.match(uri):
        return slip[0] + without_password(uri[slip.end() :])
    if re.match(r"[./~]|[A-Za-z]:[\\/]", uri) and not uri.startswith("//"):
        return _NAMED.sub(rf"\1{MASK}", uri)
    start = _SCHEME.match(uri)
    scheme = start[0] if start else ""
    rest = uri[len(scheme) :]
    if login := _LOGIN.match(rest):
        # Without a scheme, "name@" may also be the beginning of a path.
        if login["user"] is not None or (scheme and scheme != "file://"):
            user = "" if login["user"] is None else f"{login['user']}:"
            rest = f"{user}{MASK}@{rest[login.end() :]}"
    elif scheme:  # also mask an invalid port
        place, slash, path = rest.partition("/")
        rest = _NO_PORT.sub(lambda found: found[1] or MASK, place) + slash + path
    harmless = {found.start() for found in _HARMLESS.finditer(rest)}
    rest = _PARAMETER.sub(
        lambda found: found[0] if found.start() in harmless else f"{found[1]}{MASK}", rest
    )
    return scheme + _NAMED.sub(rf"\1{MASK}", rest)
