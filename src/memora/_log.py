"""One logger a cache, on stderr.

Nothing is configured globally: neither structlog nor the standard library's root logger is
touched. Events have stable names, and fields that docs/operations.md lists; at INFO and above they
carry no query, context or result. What an application has bound by `structlog.contextvars`, such
as a request id, is part of each event, also of those that a worker thread writes for it.
"""

from __future__ import annotations

import json
import logging
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import structlog

from memora._reentry import inside
from memora._show import one_line

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from structlog.typing import FilteringBoundLogger

_LONGEST = 2000  # characters of a value in text for people


def make_logger(level: str, *, json_logs: bool) -> FilteringBoundLogger:
    """Return a logger that drops events below `level` and writes JSON, or text for people."""
    renderer: Any = (
        structlog.processors.JSONRenderer(_json)
        if json_logs
        else structlog.dev.ConsoleRenderer(
            colors=_colors(), exception_formatter=structlog.dev.plain_traceback
        )
    )
    logger = structlog.wrap_logger(
        _Lines(),
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info if json_logs else _printable,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level)),
    )
    bound: FilteringBoundLogger = logger.bind(logger="memora")
    return bound


def _json(event: dict[str, Any], **_: object) -> str:
    """Return one line of JSON, whatever the application has bound: NaN and rings have none."""
    try:
        return json.dumps(event, default=_said, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return json.dumps({name: _plain(value) for name, value in event.items()})


def _plain(value: object) -> object:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return _said(value)
    return value


def _said(value: object) -> str:
    """Return the representation of what an application has bound, or at least its class."""
    try:
        return repr(value)
    except Exception:  # noqa: BLE001 - somebody's code, in the midst of a lookup
        return f"<{type(value).__name__}>"


def _printable(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Keep what was stored, asked or bound from controlling the terminal."""
    for name, value in event.items():
        if name not in {"exception", "exc_info"} and not isinstance(
            value, (int, float, type(None))
        ):
            event[name] = one_line(value if isinstance(value, str) else _said(value), _LONGEST)
    return event


def _colors() -> bool:
    with suppress(AttributeError, OSError, ValueError):
        return sys.stderr.isatty()
    return False


class _Lines:
    """Writes to whatever `sys.stderr` is by then: applications and tests replace it.

    Where it is None, closed or broken (a daemon, a pipe whose reader left), events are dropped: a
    log line must not fail what it reports. Each is one write, so it needs no lock.
    """

    def msg(self, text: str) -> None:
        """Write a line."""
        # A RuntimeError is of a write that was interrupted.
        with inside, suppress(AttributeError, OSError, ValueError, RuntimeError):
            sys.stderr.write(f"{text}\n")
            sys.stderr.flush()

    debug = info = warning = error = msg
