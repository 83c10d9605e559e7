"""What a fork must not cut in half, and what a forked child must make anew.

A fork copies memory at one instant: what another thread is just changing is copied half changed,
and the locks it holds are held in the child for ever.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol, runtime_checkable


class Renewable(Protocol):
    """Has parts that belong to one process."""

    def renew(self) -> None:
        """Make those parts: at the beginning, and in every forked child."""
        ...


@runtime_checkable
class Holdable(Renewable, Protocol):
    """Has state that must be whole when a fork copies it."""

    def hold(self, timeout: float, /) -> bool:
        """Take the lock of that state, before a fork; False where it cannot be had in time."""
        ...

    def release(self) -> None:
        """Give it back: after the fork, in the parent."""
        ...


_HOLD_SECONDS = 1.0
_living: weakref.WeakSet[Renewable] = weakref.WeakSet()
_held: list[Holdable] = []  # by the fork that is under way


def renew_after_fork(owner: Renewable, /) -> None:
    """Call `owner.renew()` now, and in every forked child while the owner lives.

    A `Holdable` owner is also held during each fork.
    """
    owner.renew()
    _living.add(owner)


def _hold_all() -> None:
    # A fork is never held up for long: the thread that forks might have a lock itself.
    holdable = [owner for owner in list(_living) if isinstance(owner, Holdable)]
    _held.extend(owner for owner in holdable if owner.hold(_HOLD_SECONDS))


def _release_all() -> None:
    while _held:
        _held.pop().release()


def _renew_all() -> None:
    _held.clear()  # their locks are made anew
    for owner in list(_living):
        owner.renew()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(before=_hold_all, after_in_parent=_release_all, after_in_child=_renew_all)
