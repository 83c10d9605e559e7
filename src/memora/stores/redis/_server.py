"""Use of the client library: connections, scripts, and the meaning of its faults."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from memora.errors import MissingExtraError, StoreError
from memora.stores.redis._scripts import script

try:
    import redis
    from redis.backoff import NoBackoff
    from redis.cluster import ClusterNode, RedisCluster
    from redis.exceptions import (
        AuthenticationError,
        AuthorizationError,
        ClusterDownError,
        NoPermissionError,
        NoScriptError,
        RedisClusterException,
        RedisError,
        ResponseError,
        SlotNotCoveredError,
    )
    from redis.retry import Retry
    from redis.sentinel import Sentinel
except ImportError as error:
    raise MissingExtraError("db_uri redis://", extra="redis") from error

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from memora.stores.redis._address import Address

_CONNECTIONS = 32
# For a cluster's node, and for the master behind Sentinels: their pools raise when exhausted, while
# the other waits, so they have more connections than a cache has threads that can hang.
_MORE_CONNECTIONS = 256
_FAULTS = (RedisError, RedisClusterException, OSError)
_GONE = ("memoragone", "no such index", "unknown index name", "index not found")


class GoneError(StoreError):
    """The table or its index is not on the server any more."""


def _keys(prefix: str) -> tuple[int, str, str]:
    """Return the keys that a script declares: their number, and two, of which one exists.

    While a cluster moves the slot to another node, a script would find some of the keys on one node
    and some on the other. With such a pair it is refused until all are on one.
    """
    return 2, prefix, f"{prefix}meta"


class _Cluster(RedisCluster):
    # Without a retry after a timeout: a node that stands still is not waited for twice.
    ERRORS_ALLOW_RETRY: Any = (redis.ConnectionError, ClusterDownError, SlotNotCoveredError)


class Server:
    """One server, the master behind Sentinels, or a cluster.

    A call waits for a free connection, for connecting and for the answer, each at most for the
    timeout of the address. It is tried twice if a connection broke, for example because the server
    was restarted.
    """

    def __init__(self, address: Address) -> None:
        self._address = address
        self._lock = threading.Lock()  # guards the creation of the client
        self._made: Any = None

    @property
    def _client(self) -> Any:
        if self._made is None:
            with self._lock:
                if self._made is None:
                    self._made = self._connect()
        return self._made

    def run(self, name: str, prefix: str, *args: Any) -> Any:
        """Run a script on the shard of a key prefix."""
        one, keys = script(name), _keys(prefix)
        with self.faults():
            try:
                return self._client.execute_command("EVALSHA", one.digest, *keys, *args)
            except NoScriptError:
                return self._client.execute_command("EVAL", one.text, *keys, *args)

    def run_all(self, name: str, calls: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Run a script on several shards at once; raises unless all succeed."""
        if len(calls) == 1:
            return [self.run(name, *calls[0])]
        one = script(name)
        with self.faults(), self._client.pipeline(transaction=False) as pipeline:
            for prefix, *args in calls:
                pipeline.execute_command(
                    "EVALSHA", one.digest, *_keys(prefix), *args, **self._at(prefix)
                )
            answers = pipeline.execute(raise_on_error=False)
        for i, answer in enumerate(answers):
            if isinstance(answer, NoScriptError):
                answers[i] = self.run(name, *calls[i])
            elif isinstance(answer, Exception):
                with self.faults():
                    raise answer
        return list(answers)

    def _at(self, prefix: str) -> dict[str, Any]:
        """Return the pipeline's option for the node; without it, each call asks for the node."""
        if self._address.kind != "cluster":
            return {}
        return {"target_nodes": self._client.get_node_from_key(prefix)}

    def masters(self) -> int:
        """Return the number of servers that hold entries."""
        if self._address.kind != "cluster":
            return 1
        with self.faults():
            return len(self._client.get_primaries())

    def take_connection(self) -> Any:
        """Return a connection for exclusive use; give it back with `return_connection`.

        Raises:
            StoreError: A cluster has no single server to connect to.
        """
        if self._address.kind != "server":
            raise StoreError(f"{self._address} is more than one server")
        with self.faults():
            return self._client.connection_pool.get_connection()

    def return_connection(self, connection: Any) -> None:
        """Take back a connection, in any state."""
        connection.disconnect()
        self._client.connection_pool.release(connection)

    def unsuitable(self) -> Iterator[str]:
        """Yield the server's settings that do not suit a store; hidden ones are skipped."""
        settings = self._settings()
        policy = settings.get("maxmemory-policy", "")
        if policy.startswith("allkeys"):
            yield (
                f"maxmemory-policy is {policy}: under pressure the server may drop the order or "
                "the vectors of a whole table at once; set it to noeviction, or to volatile-lru or "
                "volatile-ttl where entries have a TTL"
            )
        if settings.get("appendonly") == "no":
            yield "appendonly is no: a restart of the server may lose entries; set it to yes"

    def _settings(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for name in ("maxmemory-policy", "appendonly"):
            try:
                answer = self._client.execute_command("CONFIG", "GET", name)
            except _FAULTS:
                continue  # managed services hide them
            value = answer.get(name) if isinstance(answer, dict) else answer[-1] if answer else None
            found[name] = value.decode() if isinstance(value, bytes) else str(value)
        return found

    def close(self) -> None:
        """Close the connections."""
        if self._made is not None:
            self._made.close()

    def _connect(self) -> Any:
        address = self._address
        patience: Any = address.timeout  # annotated as an int there
        options: dict[str, Any] = {
            "username": address.username,
            "password": address.password,
            "socket_timeout": address.timeout,
            "socket_connect_timeout": address.timeout,
            "retry": Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
            "protocol": 2,  # the same form of answers from every server
        }
        if address.kind == "cluster":
            nodes = [ClusterNode(host, port) for host, port in address.hosts]
            return _Cluster(
                startup_nodes=nodes,
                ssl=address.tls,
                require_full_coverage=False,
                max_connections=_MORE_CONNECTIONS,
                **options,
            )
        if address.kind == "sentinel":
            sentinel = Sentinel(
                address.hosts,
                sentinel_kwargs={
                    **options,
                    "username": None,
                    "password": None,
                    "ssl": address.tls,
                },
                ssl=address.tls,
                db=address.database,
                max_connections=_MORE_CONNECTIONS,
                **options,
            )
            return sentinel.master_for(address.service)
        ((host, port),) = address.hosts
        kind = redis.SSLConnection if address.tls else redis.Connection
        pool = redis.BlockingConnectionPool(
            max_connections=_CONNECTIONS,
            timeout=patience,
            connection_class=kind,
            host=host,
            port=port,
            db=address.database,
            **options,
        )
        return redis.Redis.from_pool(pool)  # closes the pool too

    @contextmanager
    def faults(self) -> Iterator[None]:
        """Turn a fault of the client library into a StoreError that says what it means."""
        try:
            yield
        except _FAULTS as error:
            if isinstance(error, StoreError):
                raise
            if isinstance(error, SlotNotCoveredError):
                self._made = None  # its list of nodes is outdated, and it does not ask again
            raise self._fault(error) from error

    def _fault(self, error: Exception) -> StoreError:
        where, message = self._address, str(error)
        refused = (AuthenticationError, AuthorizationError, NoPermissionError)
        if isinstance(error, refused) or isinstance(error.__cause__, refused):
            text = f"refuses the user or the password of db_uri: {message}"
        elif isinstance(error, ResponseError) and not isinstance(error, ClusterDownError):
            if any(word in message.lower() for word in _GONE):
                return GoneError(f"the table has gone from {where}: {message}")
            text = f"refuses: {message}"
            if message.startswith("OOM") or "maxmemory" in message:
                text = (
                    f"is full: raise its maxmemory, or lower max_entries or max_bytes ({message})"
                )
        elif "CERTIFICATE_VERIFY_FAILED" in message:
            text = (
                "has a certificate that this machine does not trust: name the file of its "
                f"authority in SSL_CERT_FILE ({message})"
            )
        elif isinstance(error, redis.TimeoutError):
            text = f"has not answered within {where.timeout:g} s"
        else:
            text = f"is out of reach: {message}"
        return StoreError(f"{where} {text}")
