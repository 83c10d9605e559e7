"""Parse a `redis://` URI, and show it without its password."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import parse_qsl, unquote, urlsplit

from memora._uris import without_password
from memora.errors import ConfigError

Kind = Literal["server", "sentinel", "cluster"]

_SCHEMES: dict[str, tuple[Kind, bool]] = {
    "redis": ("server", False),
    "rediss": ("server", True),
    "redis+sentinel": ("sentinel", False),
    "rediss+sentinel": ("sentinel", True),
    "redis+cluster": ("cluster", False),
    "rediss+cluster": ("cluster", True),
}
_PORTS: dict[Kind, int] = {"server": 6379, "sentinel": 26379, "cluster": 6379}
_EXPECTED = (
    "expected redis://[user:password@]host[:port][/database], the same with rediss:// for TLS, "
    "redis+cluster://host:port,host:port, or redis+sentinel://host:port,host:port/service; "
    "with ?timeout=seconds and, in a cluster, ?shards=number"
)
_TIMEOUT_SECONDS = 0.5
_MOST_SHARDS = 256


@dataclass(frozen=True, slots=True)
class Address:
    """Address of a server, a cluster, or a master behind Sentinels."""

    kind: Kind
    tls: bool
    hosts: tuple[tuple[str, int], ...]
    username: str | None
    password: str | None
    database: int = 0
    service: str = ""
    """Name of the master in the Sentinels' configuration."""
    timeout: float = _TIMEOUT_SECONDS
    """Timeout in seconds of connecting and of each answer."""
    shards: int | None = None
    """Number of shards of a new table; None for one, or in a cluster one per master."""

    def __repr__(self) -> str:
        hosts = ",".join(f"{host}:{port}" for host, port in self.hosts)
        return f"<{self.kind} {hosts}>"


def parse(db_uri: str) -> Address:
    """Parse a URI.

    Raises:
        ConfigError: It is not a valid one; shown without its password.
    """
    try:
        return _parse(db_uri)
    except (KeyError, ValueError):
        pass
    # Raised apart from the original error, whose message may quote the URI.
    raise ConfigError(f"db_uri={without_password(db_uri)!r}: {_EXPECTED}")


def _parse(db_uri: str) -> Address:
    parts = urlsplit(db_uri)
    kind, tls = _SCHEMES[parts.scheme]
    login, _, hosts = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    path = unquote(parts.path.strip("/"))
    service, _, number = path.partition("/") if kind == "sentinel" else ("", "", path)
    options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    timeout = float(options.pop("timeout", _TIMEOUT_SECONDS))
    shards = int(options.pop("shards")) if kind == "cluster" and "shards" in options else None
    database = int(number or 0)
    wrong = (
        options
        or parts.fragment
        or not 0 < timeout <= 60  # noqa: PLR2004 - a minute
        or not 1 <= (1 if shards is None else shards) <= _MOST_SHARDS
        or database < 0
        or (kind == "sentinel") != bool(service)
        or (kind == "cluster" and database)
        or (kind == "server" and "," in hosts)
    )
    if wrong:
        raise ValueError
    return Address(
        kind=kind,
        tls=tls,
        hosts=tuple(_host(host, _PORTS[kind]) for host in hosts.split(",")),
        username=unquote(user) or None,
        password=unquote(password) or None,
        database=database,
        service=service,
        timeout=timeout,
        shards=shards,
    )


def _host(host: str, port: int) -> tuple[str, int]:
    parts = urlsplit(f"//{host}")  # parses [::1]:6379 too
    host = parts.hostname or ""
    if not re.fullmatch(r"[\w.:%-]+", host):
        raise ValueError
    return host, parts.port or port
