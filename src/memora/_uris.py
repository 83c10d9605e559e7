"""Which kind of store a `db_uri` names, and how it is shown; all else in it is the store's to read.

Anything that names neither RAM, a server nor a bucket is meant to be a directory.
"""

from __future__ import annotations

import difflib
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
_SCHEME = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.,;-]*(?:\s*:\s*/*|//+)|//+)?")
# What stands before a whole URI by a slip, and would make a path of it.
_SLIP = re.compile(r"[^\w:]+(?=[A-Za-z][A-Za-z0-9+.-]*://)")
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
    """Say what something was meant to be that would be read as a path, or as an unknown scheme.

    `memory` alone, or `redis//host`, would be a directory of that name, and a cache in it that
    nobody looks for: `./memory` names one that is meant.
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
    """Return a URI without the secrets in it, also one that is mistyped; a path as it is."""
    if slip := _SLIP.match(uri):
        return slip[0] + without_password(uri[slip.end() :])
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
