"""Scripts that run on the server: the files in `lua/`, each with the files it includes."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files
from typing import NamedTuple

_BARE = {"open", "time"}
_PRELUDE = ("common", "policies", "entries")


class Script(NamedTuple):
    """A script, with the name by which the server caches it."""

    text: str
    digest: str


@cache
def script(name: str) -> Script:
    """Return a script by its file's name."""
    names = (name,) if name in _BARE else (*_PRELUDE, name)
    folder = files("memora.stores.redis").joinpath("lua")
    text = "\n".join(folder.joinpath(f"{one}.lua").read_text("utf-8") for one in names)
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())
