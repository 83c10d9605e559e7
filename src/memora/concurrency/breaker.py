"""Guards around calls of a part: its circuit breaker, and the deadline of the caller.

After repeated failures, a breaker stops calls for a while. After a deadline, no new call begins.
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Literal, TypeVar

from typing_extensions import ParamSpec

from memora._durations import seconds
from memora._faults import contained
from memora.concurrency.fork import register_for_reinit
from memora.concurrency.reentry import inside
from memora.errors import ArgumentError, CorruptEntryError, DeadlineError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

P = ParamSpec("P")
T = TypeVar("T")

State = Literal["closed", "open", "half_open"]


# Our own, because circuitbreaker has no lock, pybreaker uses the wall clock, hyx is async only and
# purgatory has separate sync and async breakers; none accepts a clock.
class Breaker:
    """Decides whether to call a part, by the outcomes of earlier calls. For threads and tasks.

    - closed: all calls are allowed, until `failures` calls in a row have failed;
    - open: no call is allowed, for `reset_seconds`;
    - half open: one call is allowed, the probe. If it succeeds, the breaker closes; if it fails,
      the breaker opens again. After `reset_seconds` without an outcome, another probe is allowed.

    The outcome of a call that began before the breaker opened is ignored until there is a probe.

    Raises:
        ArgumentError: `failures` is below 1, or `reset_seconds` is not above 0 and finite.
    """

    def __init__(
        self,
        *,
        failures: int = 5,
        reset_seconds: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if type(failures) is not int or failures < 1:
            raise ArgumentError(f"failures must be an integer of 1 or more, got {failures!r}")
        self._limit = failures
        self._reset = seconds("reset_seconds", reset_seconds)
        self._clock = clock
        self._failed = 0  # in a row
        self._opened: float | None = None
        register_for_reinit(self)

    def reinit_after_fork(self) -> None:
        """See `ReinitAfterFork`."""
        self._lock = threading.RLock()  # reentrant, as a signal handler may check the health
        self._probed: float | None = None  # start of the probe; after a fork, it is the parent's

    @property
    def opened_at(self) -> float | None:
        """Time when the breaker last opened, by its clock; None while it is closed."""
        return self._opened

    @property
    def state(self) -> State:
        """The current state."""
        with self._lock:
            return self._state()

    def allows(self) -> bool:
        """Return whether a call may proceed; the caller must report its outcome."""
        with self._lock:
            state, now = self._state(), self._clock()
            if state == "half_open":
                if self._probed is not None and now - self._probed < self._reset:
                    return False
                self._probed = now
            return state != "open"

    def succeeded(self) -> None:
        """Report that a call succeeded."""
        with self._lock:
            if self._opened is None or self._probed is not None:
                self._failed, self._opened, self._probed = 0, None, None

    def failed(self) -> None:
        """Report that a call failed."""
        with self._lock:
            if self._opened is None:
                self._failed += 1
            if self._probed is not None or (self._opened is None and self._failed >= self._limit):
                self._opened, self._probed = self._clock(), None

    def _state(self) -> State:
        if self._opened is None:
            return "closed"
        return "open" if self._clock() - self._opened < self._reset else "half_open"


class _Wait:
    """A caller's wait with a deadline."""

    def __init__(self) -> None:
        self._calling: list[Breaker] = []  # the breaker of the current call: one, or none
        self._over = False

    def begin(self, breaker: Breaker) -> None:
        """Record that a call begins."""
        self._calling.append(breaker)

    def end(self, breaker: Breaker) -> bool:
        """Finish a call; False if the caller gave up, which counts as a failure."""
        try:
            self._calling.remove(breaker)  # atomic: either this or `give_up` gets it
        except ValueError:
            return False
        return True

    def check(self) -> None:
        """Raise DeadlineError if the caller has given up."""
        if self._over:
            raise DeadlineError("the caller no longer waits for this call")

    def give_up(self) -> None:
        """Stop waiting, and count the current call as failed, whatever it returns later."""
        self._over = True
        with suppress(IndexError):
            self._calling.pop().failed()


_waiting: ContextVar[_Wait | None] = ContextVar("waiting", default=None)


@contextmanager
def giving_up() -> Iterator[None]:
    """Refuse guarded calls that would begin after the block has raised DeadlineError.

    The work that the block waited for may still be running; a store so late could replace a newer
    entry.
    """
    wait = _Wait()
    token = _waiting.set(wait)
    try:
        yield
    except DeadlineError:
        with inside:
            wait.give_up()
        raise
    finally:
        _waiting.reset(token)


def guarded(breaker: Breaker, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function of a part, unless its breaker is open or the caller has given up.

    Raises:
        UnavailableError: The breaker is open after repeated failures.
        DeadlineError: The caller has given up; see `giving_up`.
    """
    wait = _waiting.get()
    if wait is not None:
        wait.check()  # first: a half-open breaker allows one call, which then must be made
    if not breaker.allows():
        raise UnavailableError(
            f"{getattr(function, '__qualname__', function)} has failed repeatedly, so it is not "
            "called for a while"
        )
    if wait is not None:
        wait.begin(breaker)
    report: Callable[[], None] | None = None
    try:
        with contained:
            result = function(*args, **kwargs)
    except CorruptEntryError:  # damage of one entry, which is dropped; the store works
        report = breaker.succeeded
        raise
    except Exception:
        report = breaker.failed
        raise
    else:
        report = breaker.succeeded
        return result
    finally:
        if (wait is None or wait.end(breaker)) and report is not None:
            report()
