"""Shadow mode: logs the result that would have been served against the fresh one, as JSON lines.

A lookup records the result that it would have served at any threshold. The following store, of the
same query in the same context, provides the fresh result. `memora calibrate --from-log` reads the
log. A separate thread compares and writes the results, so that the application does not wait.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from memora.concurrency.fork import register_for_reinit
from memora.concurrency.reentry import inside
from memora.concurrency.workers import Workers
from memora.errors import ArgumentError, ConfigError, DeadlineError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from memora.codec import Codec
    from memora.config import CacheConfig
    from memora.model import Entry

_PENDING = 1024  # maximum number of lookups that wait for a result; the oldest is dropped
_HELD_BYTES = 64 * 1024 * 1024  # maximum size of results that wait or are being compared
_CLOSE_SECONDS = 5.0


class Proposal(NamedTuple):
    """The result that a lookup would have served at a low enough threshold."""

    entry: Entry
    similarity: float
    payload: bytes


class Shadow:
    """Compares proposals with fresh results, and appends the outcomes to a file.

    Several processes may share the file. After construction, it never raises, and it drops
    comparisons under overload.

    Args:
        config: The settings of a cache in shadow mode.
        about: What similarities depend on; written with each comparison.
        codec: Decodes results for `same`.
        same: Returns whether two results agree; by default they agree if their bytes are equal.
        report: Called with faults.

    Raises:
        ArgumentError: `same` is not callable.
        ConfigError: The log cannot be written.
    """

    def __init__(
        self,
        config: CacheConfig,
        *,
        about: Mapping[str, str],
        codec: Codec,
        same: Callable[[Any, Any], object] | None,
        report: Callable[[BaseException], None],
    ) -> None:
        if same is not None and not callable(same):
            raise ArgumentError(f"same_answer={same!r}: expected a function of two results")
        self._path = Path(str(config.shadow_log))
        self._max_bytes, self._texts = config.shadow_log_bytes, config.shadow_log_texts
        self._about, self._codec, self._same, self._report = about, codec, same, report
        self._worker = Workers(1, "memora-shadow", report=report)
        register_for_reinit(self)
        try:
            self._append(b"")
        except OSError as error:
            raise ConfigError(
                f"shadow_log={str(self._path)!r}: expected a file that can be written: "
                f"{error.strerror}"
            ) from error

    def reinit_after_fork(self) -> None:
        """See `ReinitAfterFork`."""
        self._lock = threading.Lock()  # guards the attributes below
        self._waiting: OrderedDict[bytes, Proposal | None] = OrderedDict()
        self._held = 0

    def looked_up(self, key: bytes, proposal: Proposal | None) -> None:
        """Remember the proposal of a lookup until the fresh result is stored."""
        waiting = proposal and proposal._replace(payload=self._kept(proposal.payload))
        with self._lock:
            self._held += _size(waiting) - _size(self._waiting.pop(key, None))
            self._waiting[key] = waiting
            while len(self._waiting) > _PENDING or (self._waiting and self._held > _HELD_BYTES):
                self._held -= _size(self._waiting.popitem(last=False)[1])

    def stored(self, key: bytes, query: str, payload: bytes, *, now: float) -> None:
        """Start the comparison of a fresh result with the proposal of its lookup, if any."""
        fresh = self._kept(payload)
        with self._lock:
            if key not in self._waiting:
                return
            waiting = self._waiting.pop(key)
            held = _size(waiting) + len(fresh)
            if self._held + len(fresh) > _HELD_BYTES:
                self._held -= _size(waiting)
                return
            self._held += len(fresh)

        def compare() -> None:
            try:
                self._append(self._line(key, query, waiting, fresh, now=now))
            finally:
                self._let_go(held)

        try:
            self._worker.submit(compare)
        except Exception as fault:  # noqa: BLE001 - no fault may reach the application
            self._let_go(held)
            self._report(fault)

    def close(self) -> None:
        """Wait a few seconds for pending comparisons."""
        with suppress(DeadlineError, RuntimeError):  # no new thread at interpreter exit
            self._worker.run(lambda: None, _CLOSE_SECONDS)  # one thread, so this runs last
        self._worker.close()

    def _kept(self, payload: bytes) -> bytes:
        return hashlib.sha256(payload).digest() if self._same is None else payload

    def _let_go(self, held: int) -> None:
        with inside, self._lock:
            self._held -= held

    def _line(
        self, key: bytes, query: str, waiting: Proposal | None, fresh: bytes, *, now: float
    ) -> bytes:
        line: dict[str, object] = {"at": round(now, 3), **self._about, "query_key": key.hex()}
        if waiting is not None:
            line["candidate_key"] = waiting.entry.key.hex()
            line["similarity"] = waiting.similarity
            line["same"] = self._says_the_same(waiting.payload, fresh)
        if self._texts:
            line["query"] = query
            if waiting is not None:
                line["candidate"] = waiting.entry.query
        return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)

    def _says_the_same(self, stored: bytes, fresh: bytes) -> bool:
        if self._same is None:
            return stored == fresh
        return bool(self._same(self._codec.decode(stored), self._codec.decode(fresh)))

    def _append(self, line: bytes) -> None:
        # Opened for each line, and written at once, so that processes, forked children included,
        # can share the file, and a log rotation that moves it leads to a new one.
        file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            if os.fstat(file).st_size + len(line) <= self._max_bytes:
                os.write(file, line)
        finally:
            os.close(file)


def _size(waiting: Proposal | None) -> int:
    return 0 if waiting is None else len(waiting.payload)
