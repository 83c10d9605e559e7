"""Formatting of values for people: one line, without terminal control characters."""

from __future__ import annotations

import math
import reprlib
from itertools import islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

_READ = 20  # characters read per character shown, as the others may be white space
_MOST_LOGGED = 2_000


def excerpt(text: str) -> str:
    """Return text for a log, truncated if long."""
    return text if len(text) <= _MOST_LOGGED else f"{text[:_MOST_LOGGED]}…"


def one_line(text: str, limit: int = 160) -> str:
    """Return text for one line of a terminal, without line breaks and control characters."""
    line = " ".join(text[: _READ * limit].split())
    line = "".join(character if character.isprintable() else "\ufffd" for character in line)
    whole = len(line) <= limit and len(text) <= _READ * limit
    return line if whole else line[: limit - 1] + "…"


def not_utf8(byte: int) -> str:
    """Suggest the actual format of a text file that has a byte that is not UTF-8."""
    kind = "UTF-16" if byte in {0xFE, 0xFF} else "Latin-1 or Windows-1252"
    return f"the byte 0x{byte:02x} is not UTF-8: the file may be {kind}; save it as UTF-8"


def preview(value: object, limit: int = 120) -> str:
    """Return a short form of a value on one line; only the beginning of a large one is read."""
    try:
        return one_line(_Preview(limit).repr(value), limit)
    except Exception:  # noqa: BLE001 - any value, such as an integer with too many digits
        return f"<{type(value).__name__}>"


class _Preview(reprlib.Repr):
    """A `Repr` that reads only the first items of containers; `reprlib` would sort them all."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = limit
        self.maxlevel = 4

    def repr_dict(self, x: dict[Any, Any], level: int) -> str:
        pairs = (f"{self.repr1(key, level - 1)}: {self.repr1(x[key], level - 1)}" for key in x)
        return self._braced(pairs, len(x), level)

    def repr_set(self, x: set[Any], level: int) -> str:
        parts = (self.repr1(one, level - 1) for one in x)
        return f"{type(x).__name__}({self._braced(parts, len(x), level)})"

    repr_frozenset = repr_set  # type: ignore[assignment] # only read

    def repr_bytes(self, x: bytes, _level: int) -> str:
        return repr(x[: self.maxother])

    repr_bytearray = repr_bytes

    def repr_instance(self, x: Any, level: int) -> str:
        kind = type(x).__name__
        shape = getattr(x, "shape", None)
        if isinstance(shape, tuple) and shape:  # a data frame or an array
            return f"<{kind} of shape {shape}>"
        return super().repr_instance(x, level)

    def _braced(self, parts: Iterable[str], count: int, level: int) -> str:
        if level <= 0 and count:
            return "{...}"
        more = ["..."] if count > self.maxdict else []
        return f"{{{', '.join([*islice(parts, self.maxdict), *more])}}}"


def fault_line(fault: BaseException) -> str:
    """Return type and message of a fault; a foreign exception's message may itself fail."""
    try:
        return f"{type(fault).__name__}: {fault}"
    except Exception:  # noqa: BLE001 - foreign code
        return f"{type(fault).__name__}: <no message>"


def rounded(value: float) -> str:
    """Return a similarity or a cosine with three digits, rounded down.

    A refused 0.8499 must not be shown as 0.850.
    """
    return f"{math.floor(value * 1000) / 1000:.3f}"


def duration(seconds: float) -> str:
    """Return a duration in its largest units: 5.0 s, 3 min 20 s, 5 h 12 min, 3 d 4 h."""
    sign = "-" if seconds < 0 else ""
    if abs(seconds) < 60:  # noqa: PLR2004 - seconds of a minute
        return f"{sign}{abs(seconds):.1f} s"
    whole = round(abs(seconds))
    for size, unit, part, below in ((86_400, "d", 3600, "h"), (3600, "h", 60, "min")):
        if whole >= size:
            return f"{sign}{whole // size} {unit} {whole % size // part} {below}"
    return f"{sign}{whole // 60} min {whole % 60} s"
