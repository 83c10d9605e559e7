"""Who computes for a key, among all machines: leases with fences, held while the leader lives."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from memora.protocols import Lease

SECONDS = 6.0
"""After which the lease of a process that was killed, or stands still, is another's."""


class Leases:
    """The leases of this process.

    A fence is the time, by the server, at which a lease was given. What a leader stores after its
    lease went to another is refused: the other's is newer.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # the garbage collector may end a leader's block at any time
        self._held: dict[bytes, str] = {}

    def add(self, key: bytes, fence: str, let_go: Callable[[bytes, str], None]) -> Lease:
        """Note that a key is led."""
        with self._lock:
            self._held[key] = fence
        return _Lease(self, key, fence, let_go)

    def fence(self, key: bytes) -> str:
        """Return the fence of a key that is led here, or was when it began; else nothing."""
        return self._held.get(key, "")

    def held(self) -> list[tuple[bytes, str]]:
        """Return all keys that are led, with their fences."""
        with self._lock:
            return list(self._held.items())

    def remove(self, key: bytes, fence: str) -> bool:
        """Note that a key is led no more; False where it was not."""
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
        # A forked child leads nothing; its parent still does.
        if os.getpid() == self._process and self._leases.remove(self._key, self._fence):
            self._let_go(self._key, self._fence)
