"""What counts as a fault of a part: a store, an embedder, a codec, a judge, a function of the user.

A part may raise what is no `Exception`: a panic of a library written in Rust, `SystemExit`. That
is a fault like any other. What stops the application, or one of its tasks, is none.
"""

from __future__ import annotations

import signal
import sys
import threading
from contextlib import ContextDecorator
from typing import TYPE_CHECKING

from memora._show import fault_line
from memora.errors import PartError

if TYPE_CHECKING:
    from types import TracebackType

_STOPS = (KeyboardInterrupt, GeneratorExit)


def is_fault(error: BaseException) -> bool:
    """Tell whether a part has failed, rather than that somebody stops what is running."""
    if isinstance(error, Exception):
        return True
    if isinstance(error, _STOPS):
        return False
    # Not imported for this: a task of a library that nobody has imported cannot be cancelled.
    for library, name in (("asyncio", "CancelledError"), ("trio", "Cancelled")):
        cancelled = getattr(sys.modules.get(library), name, None)
        if cancelled is not None and isinstance(error, cancelled):
            return False
    return not (isinstance(error, SystemExit) and _is_of_a_signal(error))


def _is_of_a_signal(error: BaseException) -> bool:
    """Tell whether a handler of a signal has raised it, which may come in the midst of a call."""
    if threading.current_thread() is not threading.main_thread():
        return False
    handlers = (signal.getsignal(number) for number in signal.valid_signals())
    codes = {
        getattr(getattr(handler, "__func__", handler), "__code__", None) for handler in handlers
    } - {None}
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code in codes:
            return True
        trace = trace.tb_next
    return False


class _Contained(ContextDecorator):
    """Has every fault in a block, or a function, be an `Exception`: others raise `PartError`.

    Who guards a part then needs `except Exception` and nothing else.
    """

    def __enter__(self) -> None:
        """There is nothing to prepare."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None and not isinstance(error, Exception) and is_fault(error):
            raise PartError(fault_line(error)) from error


contained = _Contained()
