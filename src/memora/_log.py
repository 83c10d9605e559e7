"""The logger of a cache, which writes to stderr.

Nothing is configured globally: neither structlog nor the standard library's root logger changes.
Events have stable names and fields, which docs/operations.md lists. At INFO and above they contain
no query, context or result. Values that the application has bound with `structlog.contextvars`,
such as a request id, are part of each event, including those that worker threads write for it.
"""

from __future__ import annotations

import json
import logging
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import structlog

from memora._show import one_line
from memora.concurrency.reentry import inside

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from structlog.typing import FilteringBoundLogger

_LONGEST = 2000  # maximum characters of a value in readable logs


def make_logger(level: str, *, json_logs: bool) -> FilteringBoundLogger:
    """Return a logger that drops events below `level` and writes JSON or readable text."""
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
    """Return one line of valid JSON, even if bound values have none, such as NaN or cycles."""
    try:
        return json.dumps(event, default=_text_of, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return json.dumps({name: _plain(value) for name, value in event.items()})


def _plain(value: object) -> object:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return _text_of(value)
    return value


def _text_of(value: object) -> str:
    """Return the `repr` of a value that an application has bound, or at least its class."""
    try:
        return repr(value)
    except Exception:  # noqa: BLE001 - the application's code, during a lookup
        return f"<{type(value).__name__}>"


def _printable(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Escape terminal control characters in all values."""
    for name, value in event.items():
        if name not in {"exception", "exc_info"} and not isinstance(
            value, (int, float, type(None))
        ):
            event[name] = one_line(value if isinstance(value, str) else _text_of(value), _LONGEST)
    return event


def _colors() -> bool:
    with suppress(AttributeError, OSError, ValueError):
        return sys.stderr.isatty()
    return False


class _Lines:
    """A writer to the current `sys.stderr`, which applications and tests may replace.

    If it is None, closed or broken (in a daemon, or a pipe without reader), events are dropped,
    because logging must not make an operation fail. Each line is one write, so no lock is needed.
    """

    def msg(self, text: str) -> None:
        # RuntimeError: this call interrupted another write.
        with inside, suppress(AttributeError, OSError, ValueError, RuntimeError):
            sys.stderr.write(f"{text}\n")
            sys.stderr.flush()

    debug = info = warning = error = msg
