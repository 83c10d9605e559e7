"""Parsing of durations."""

from __future__ import annotations

import re
from datetime import timedelta
from decimal import Decimal
from math import inf
from numbers import Real

from memora.errors import ArgumentError

# Our own, because timelength reads "10M" as months and "-5m" as five minutes, pytimeparse has no
# types and no "500ms", and pydantic reads only ISO 8601.
_SECONDS = {"w": 604_800.0, "d": 86_400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_NUMBER = r"\d+(?:\.\d+)?"
_PARTS = "".join(rf"(?:(?P<{unit}>{_NUMBER})\s*{unit}\s*)?" for unit in _SECONDS)
_TEXT = re.compile(
    rf"\s*(?:(?P<plain>{_NUMBER}(?:e[+-]?\d+)?)\s*|{_PARTS})", re.ASCII | re.IGNORECASE
)


def seconds(name: str, value: float | str | timedelta) -> float:
    """Return a duration in seconds: above 0 and finite.

    Args:
        name: Name of the value in an error.
        value: Seconds, a timedelta, or a text: "90" means seconds; "1h30m" and "1 H 30 M" are
            amounts of w, d, h, m, s and ms, largest first. Months and years have no fixed length.

    Raises:
        ArgumentError: The value is anything else.
    """
    try:
        found = _read(value)
    except OverflowError:
        raise ArgumentError(f"{name} is too large: {value!r}") from None
    if not 0 < found < inf:
        raise ArgumentError(
            f"{name} must be a number of seconds above 0, got {value!r}; "
            "a timedelta or a text such as '90s', '10m' or '1h30m' will do as well"
        )
    return found


def _read(value: object) -> float:
    """Return seconds; 0 if the value is not a duration."""
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, str):
        return _read_text(value)
    if isinstance(value, Decimal):
        return float(value) if value.is_finite() else 0.0
    # numpy converts a timedelta64 to a number in its own unit, which need not be seconds.
    if isinstance(value, bool) or type(value).__name__ == "timedelta64":
        return 0.0
    return float(value) if isinstance(value, Real) else 0.0


def _read_text(text: str) -> float:
    if (match := _TEXT.fullmatch(text)) is None:
        return 0.0
    amounts = match.groupdict(default="0")
    plain = float(amounts.pop("plain"))
    return plain + sum(float(amount) * _SECONDS[unit] for unit, amount in amounts.items())
