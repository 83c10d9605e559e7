"""One logger a cache, on stderr.

Nothing is configured globally: neither structlog nor the standard library's root logger is
touched. Events have stable names; at INFO and above they carry no query, context or result.
"""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TextIO, cast

import structlog

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger


def make_logger(level: str, *, json_logs: bool) -> FilteringBoundLogger:
    """Return a logger that drops events below `level` and writes JSON, or text for people."""
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if json_logs
        else structlog.dev.ConsoleRenderer(
            colors=_Stderr().isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    )
    logger = structlog.wrap_logger(
        structlog.WriteLogger(cast("TextIO", _Stderr())),
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *([structlog.processors.format_exc_info] if json_logs else []),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level)),
    )
    bound: FilteringBoundLogger = logger.bind(logger="memora")
    return bound


class _Stderr:
    """Whatever `sys.stderr` is when an event is written: applications and tests replace it.

    Where it is None, closed or broken (a daemon, a pipe whose reader left), events are dropped: a
    log line must not fail what it reports.
    """

    def isatty(self) -> bool:
        with suppress(AttributeError, OSError, ValueError):
            return sys.stderr.isatty()
        return False

    def write(self, text: str) -> int:
        with suppress(AttributeError, OSError, ValueError):
            return sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(AttributeError, OSError, ValueError):
            sys.stderr.flush()
