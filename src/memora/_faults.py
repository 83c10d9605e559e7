"""Faults of a part: a store, an embedder, a codec, a judge, or a function of the application.

A part may raise a `BaseException` other than `Exception`, such as a panic of a Rust library, or
`SystemExit`. That is a fault too. An exception that stops the application, or one of its tasks, is
not a fault.
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
    """Return whether an exception is a fault, rather than a request to stop."""
    if isinstance(error, Exception):
        return True
    if isinstance(error, _STOPS):
        return False
    # Without imports: a task of a library that is not imported cannot have been cancelled.
    for library, name in (("asyncio", "CancelledError"), ("trio", "Cancelled")):
        cancelled = getattr(sys.modules.get(library), name, None)
        if cancelled is not None and isinstance(error, cancelled):
            return False
    return not (isinstance(error, SystemExit) and _is_of_a_signal(error))


def _is_of_a_signal(error: BaseException) -> bool:
    """Return whether a signal handler raised an exception, which may interrupt any call."""
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
    """Convert faults in a block or function that are not an `Exception` into `PartError`.

    A caller that guards a part then needs only `except Exception`.
    """

    def __enter__(self) -> None:
        """Do nothing."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None and not isinstance(error, Exception) and is_fault(error):
            raise PartError(fault_line(error)) from error


contained = _Contained()
