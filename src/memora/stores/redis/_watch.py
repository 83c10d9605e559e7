"""Notifications of changed entries from the server, by `CLIENT TRACKING`."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from memora.errors import StoreError
from memora.protocols import Changes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memora.stores.redis._server import Server

_CHANNEL = "__redis__:invalidate"


class Watch:
    """A connection on which the server names each key of a table that is written or removed.

    Args:
        server: The table's server; not a cluster, whose keys may move to nodes without tracking.
        prefixes: Key prefixes of the table's shards.
    """

    def __init__(self, server: Server, prefixes: Sequence[str]) -> None:
        self._server = server
        self._entries = tuple(f"{prefix}e:".encode() for prefix in prefixes)
        self._epochs = tuple(f"{prefix}epochs".encode() for prefix in prefixes)
        self._lock = threading.Lock()  # guards the connection
        self._line: Any = None

    def changes(self) -> Changes | None:
        """See `memora.protocols.WatchedStore`."""
        with self._lock, self._server.faults():
            try:
                if self._line is None:
                    self._line = self._server.take_connection()
                    self._begin()
                    return None
                return self._hear()
            except BaseException:
                self._end()
                raise

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._end()

    def _end(self) -> None:
        line, self._line = self._line, None
        if line is not None:
            self._server.return_connection(line)

    def _begin(self) -> None:
        self._line.send_command("CLIENT", "ID")
        own = self._line.read_response()
        names = [word for name in self._entries + self._epochs for word in ("PREFIX", name)]
        # Redirected to this connection itself, which works without RESP3.
        self._line.send_command("CLIENT", "TRACKING", "ON", "REDIRECT", own, "BCAST", *names)
        self._line.read_response()
        self._line.send_command("SUBSCRIBE", _CHANNEL)
        self._line.read_response()

    def _hear(self) -> Changes | None:
        keys: set[bytes] = set()
        tags = everything = False
        # The server sends notifications at the end of a turn of its event loop, after the answers
        # of that turn. A change before the first PING is therefore notified before the second
        # answer.
        for _ in range(2):
            self._line.send_command("PING")
            while (said := self._line.read_response())[0] != b"pong":
                if not isinstance(said, list):
                    raise StoreError("the connection that reports changes was opened again")
                everything |= said[2] is None  # the server was emptied
                for name in said[2] or ():
                    tags |= name in self._epochs
                    if name.startswith(self._entries):
                        keys.add(bytes.fromhex(name.rpartition(b":")[2].decode()))
        return None if everything else Changes(keys, tags=tags)
