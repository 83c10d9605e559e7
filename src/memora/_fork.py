"""What a forked child must make anew: locks that a thread of the parent may have held."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Renewable(Protocol):
    """Has parts that belong to one process."""

    def renew(self) -> None:
        """Make those parts: at the beginning, and in every forked child."""
        ...


_living: weakref.WeakSet[Renewable] = weakref.WeakSet()


def renew_after_fork(owner: Renewable, /) -> None:
    """Call `owner.renew()` now, and in every forked child while the owner lives."""
    owner.renew()
    _living.add(owner)


def _renew_all() -> None:
    for owner in list(_living):
        owner.renew()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_renew_all)
