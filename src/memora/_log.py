"""One logger a cache, on stderr.

Nothing is configured globally: neither structlog nor the standard library's root logger is
touched. Events have stable names; at INFO and above they carry no query, context or result.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any, TextIO, cast

import structlog

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger


def make_logger(level: str, *, json_logs: bool) -> FilteringBoundLogger:
    """Return a logger that drops events below `level` and writes JSON, or text for people."""
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if json_logs
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    logger = structlog.wrap_logger(
        structlog.WriteLogger(cast("TextIO", _Stderr())),
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level)),
    )
    bound: FilteringBoundLogger = logger.bind(logger="memora")
    return bound


class _Stderr:
    """Whatever `sys.stderr` is when an event is written: applications and tests replace it."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()
