"""Fork safety: state that is locked during a fork, and parts that a child recreates.

A fork copies memory at one instant: state that another thread is changing is copied half-changed,
and locks that another thread holds stay locked in the child forever.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol, runtime_checkable


class ReinitAfterFork(Protocol):
    """An object with parts that belong to one process."""

    def reinit_after_fork(self) -> None:
        """Create those parts: at construction, and in every forked child."""
        ...


@runtime_checkable
class Holdable(ReinitAfterFork, Protocol):
    """An object with state that must be consistent when a fork copies it."""

    def hold(self, timeout: float, /) -> bool:
        """Acquire the lock of that state before a fork; return False on timeout."""
        ...

    def release(self) -> None:
        """Release the lock after the fork, in the parent."""
        ...


_HOLD_SECONDS = 1.0
_living: weakref.WeakSet[ReinitAfterFork] = weakref.WeakSet()
_held: list[Holdable] = []  # for the current fork


def register_for_reinit(owner: ReinitAfterFork, /) -> None:
    """Call `owner.reinit_after_fork()` now, and in every forked child while the owner lives.

    A `Holdable` owner is also held during each fork.
    """
    owner.reinit_after_fork()
    _living.add(owner)


def _hold_all() -> None:
    # With a timeout, because the forking thread might hold a lock itself.
    holdable = [owner for owner in list(_living) if isinstance(owner, Holdable)]
    _held.extend(owner for owner in holdable if owner.hold(_HOLD_SECONDS))


def _release_all() -> None:
    while _held:
        _held.pop().release()


def _reinit_all() -> None:
    _held.clear()  # `reinit_after_fork` recreates their locks
    for owner in list(_living):
        owner.reinit_after_fork()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(before=_hold_all, after_in_parent=_release_all, after_in_child=_reinit_all)
