"""Leases with fences, shared by all machines: only one leader computes the result of a key."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from memora.protocols import Lease

SECONDS = 6.0
"""Seconds after which the lease of a process that was killed, or stands still, is free."""


class Leases:
    """The leases of this process.

    A fence is the server's time at which a lease was given. A result that a leader stores after
    another process got its lease is refused: the other's is newer.
    """

    def __init__(self) -> None:
        # Reentrant: the garbage collector may end a leader's block anywhere.
        self._lock = threading.RLock()
        self._held: dict[bytes, str] = {}

    def add(self, key: bytes, fence: str, let_go: Callable[[bytes, str], None]) -> Lease:
        """Add a lease on a key."""
        with self._lock:
            self._held[key] = fence
        return _Lease(self, key, fence, let_go)

    def fence(self, key: bytes) -> str:
        """Return the fence of a key's lease, even if it is lost since; else an empty string."""
        return self._held.get(key, "")

    def held(self) -> list[tuple[bytes, str]]:
        """Return the keys and fences of all leases."""
        with self._lock:
            return list(self._held.items())

    def remove(self, key: bytes, fence: str) -> bool:
        """Remove a lease; False if there is none."""
        with self._lock:
            return self._held.get(key) == fence and bool(self._held.pop(key))


class _Lease:
    """See `memora.protocols.Lease`."""

    def __init__(
        self, leases: Leases, key: bytes, fence: str, let_go: Callable[[bytes, str], None]
    ) -> None:
        self._leases, self._key, self._fence, self._let_go = leases, key, fence, let_go
        self._process = os.getpid()

    def release(self) -> None:
        # A forked child has no leases; its parent still has.
        if os.getpid() == self._process and self._leases.remove(self._key, self._fence):
            self._let_go(self._key, self._fence)
