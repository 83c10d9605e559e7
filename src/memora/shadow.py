"""Shadow mode: what would have been served, beside what came instead; one JSON line each.

A lookup leaves here what it would have served at any threshold; the store that follows, of the
same query in the same context, brings the fresh result. `memora calibrate --from-log` reads it.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from memora._fork import renew_after_fork
from memora.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from memora.codec import Codec
    from memora.config import CacheConfig
    from memora.model import Content, Match

_PENDING = 1024  # lookups that wait for their result; the oldest is forgotten


class Proposal(NamedTuple):
    """What a lookup would have served, were the threshold low enough."""

    match: Match
    similarity: float
    content: Content


class _Waiting(NamedTuple):
    """A proposal, without its content where that is not needed."""

    match: Match
    similarity: float
    payload: bytes
    """What is compared: the payload, or its digest where bytes decide."""


class Shadow:
    """Compares proposals with fresh results, and appends what it finds to a file.

    Args:
        path: The log, made if missing; several processes may share it.
        max_bytes: From this size on, nothing more is written.
        texts: Whether to write the queries too. Otherwise nothing of them: a key is a hash.
        about: Written with each line: what similarities depend on.
        same: Given two payloads, whether they say the same; by default if they are equal.

    Raises:
        ConfigError: The log cannot be written.
    """

    def __init__(
        self,
        path: Path,
        *,
        max_bytes: int,
        texts: bool,
        about: dict[str, str],
        same: Callable[[bytes, bytes], bool] | None = None,
    ) -> None:
        self._path, self._max_bytes, self._texts, self._about = path, max_bytes, texts, about
        self._same = same
        self._waiting: OrderedDict[bytes, _Waiting | None] = OrderedDict()
        renew_after_fork(self)
        try:
            self._append(b"")
        except OSError as error:
            raise ConfigError(
                f"shadow_log={str(path)!r}: expected a file that can be written: {error.strerror}"
            ) from error

    @classmethod
    def of(
        cls,
        config: CacheConfig,
        *,
        model: str,
        codec: Codec,
        same: Callable[[Any, Any], bool] | None,
    ) -> Shadow | None:
        """Return what the settings ask for, if they ask for it.

        Args:
            config: The settings.
            model: Identity of the embedder.
            codec: Gives results back to `same`.
            same: Whether two results say the same.

        Raises:
            ConfigError: The log cannot be written.
        """
        if config.mode != "shadow" or config.shadow_log is None:
            return None

        def decoded(one: bytes, other: bytes) -> bool:
            return same is not None and same(codec.decode(one), codec.decode(other))

        return cls(
            Path(config.shadow_log),
            max_bytes=config.shadow_log_bytes,
            texts=config.shadow_log_texts,
            about={"model": model, "judge": config.judge},
            same=None if same is None else decoded,
        )

    def renew(self) -> None:
        """Make the lock."""
        self._lock = threading.Lock()  # guards what waits

    def looked_up(self, key: bytes, proposal: Proposal | None) -> None:
        """Remember what a lookup would have served, until its result is stored."""
        waiting = None
        if proposal is not None:
            payload = self._kept(proposal.content.payload)
            waiting = _Waiting(proposal.match, proposal.similarity, payload)
        with self._lock:
            self._waiting[key] = waiting
            self._waiting.move_to_end(key)
            while len(self._waiting) > _PENDING:
                self._waiting.popitem(last=False)

    def stored(self, key: bytes, query: str, fresh: bytes, *, now: float) -> None:
        """Compare a fresh result with what was remembered of its lookup, if it was looked up.

        Raises:
            Exception: Whatever `same` does.
            OSError: The log cannot be written.
        """
        with self._lock:
            if key not in self._waiting:
                return
            waiting = self._waiting.pop(key)
        line: dict[str, object] = {"at": round(now, 3), **self._about, "query": key.hex()}
        if waiting is not None:
            if self._same is None:
                same = waiting.payload == self._kept(fresh)
            else:
                same = bool(self._same(waiting.payload, fresh))
            line |= {
                "candidate": waiting.match.entry.key.hex(),
                "similarity": waiting.similarity,
                "cosine": waiting.match.cosine,
                "same": same,
            }
        if self._texts:
            line["query_text"] = query
            if waiting is not None:
                line["candidate_text"] = waiting.match.entry.query
        self._append(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))

    def _kept(self, payload: bytes) -> bytes:
        return hashlib.sha256(payload).digest() if self._same is None else payload

    def _append(self, line: bytes) -> None:
        # Opened anew for each line, and written at once: so processes can share it, a forked child
        # too, and whoever moves it away gets a new one.
        file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            if os.fstat(file).st_size + len(line) <= self._max_bytes:
                os.write(file, line)
        finally:
            os.close(file)
