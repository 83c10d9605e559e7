"""Text for people: one line, nothing in it that controls a terminal."""

from __future__ import annotations

import math

_READ = 20  # characters for one that is shown: the others may be white space
_MOST_LOGGED = 2_000


def excerpt(text: str) -> str:
    """Return text for a log, cut where it is long."""
    return text if len(text) <= _MOST_LOGGED else f"{text[:_MOST_LOGGED]}…"


def one_line(text: str, limit: int = 160) -> str:
    """Return text for one line of a terminal: no line breaks, and nothing that would control it."""
    line = " ".join(text[: _READ * limit].split())
    line = "".join(character if character.isprintable() else "\ufffd" for character in line)
    whole = len(line) <= limit and len(text) <= _READ * limit
    return line if whole else line[: limit - 1] + "…"


def fault_line(fault: BaseException) -> str:
    """Return type and message of a fault; of a foreign one the message may be what fails."""
    try:
        return f"{type(fault).__name__}: {fault}"
    except Exception:  # noqa: BLE001 - somebody's code
        return f"{type(fault).__name__}: <no message>"


def rounded(value: float) -> str:
    """Return a similarity or a cosine with three digits, rounded down.

    A refused 0.8499 must not read as 0.850.
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
