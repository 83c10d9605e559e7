"""Canonical forms and exact keys of contexts and queries. Pure: no I/O, no clock.

Two contexts are the same if and only if their canonical forms are equal. The canonical form is
readable JSON. Key order does not matter, list order does; 1, 1.0, True and "1" are four different
values, as in JSON. A value that JSON lacks is written as an object with one "$" key; an application
key that begins with "$" is escaped by doubling it. A value without a stable form is an error; its
`repr` is never used, because a memory address is not an identity.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import hashlib
import json
import math
import pathlib
import re
import sys
import unicodedata
import uuid
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import lru_cache
from typing import Any, TypeAlias

from memora._faults import contained
from memora.errors import ContextError, QueryError, QueryTypeError
from memora.model import Context

MOST_VALUES = 100_000
"""Maximum number of values in a context, nested ones included: each takes over a microsecond."""
MOST_CHARACTERS = 16 * 1024 * 1024
"""Maximum number of characters in all texts of a context."""

_MANY_CHARACTERS, _MANY_VALUES = 16_384, 500  # see `is_large`
_CHARACTERS_A_VALUE = 32  # of a number, with separators
_QUOTED = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"')
_CACHED = 10_000  # maximum characters of a context whose canonical form is cached
_STEPS, _STEP = 16, 40  # maximum steps of a value's path in an error, and characters of a step
_PIECE = 4096  # characters normalised at once
_MOST_MARKS = 64  # maximum length of a run of combining marks that is sorted
_SHORT = 65_536  # characters normalised at once if there are no long runs of marks
_PARTS = (0x1160, 0x11FF)  # vowels and finals of Hangul

JSON: TypeAlias = "bool | int | float | str | list[JSON] | dict[str, JSON] | None"

_SPACE = "".join(
    one
    for one in map(chr, range(0x3001))  # there is no white space above
    if one.isspace() and not "\x1c" <= one <= "\x1f"
)


def canonical_context(context: Mapping[str, object] | None, /) -> Context:
    """Return the canonical form of a context; None is the empty context.

    Raises:
        ContextError: The context is not a mapping, is too large, or holds a value without canonical
            form: a NaN, a cycle, or an object of a type that the documentation does not list.
    """
    if context is None:
        context = {}
    if type(context) is Settled:
        return context.canonical
    if type(context) is dict:
        items: tuple[tuple[Any, Any], ...] = tuple(context.items())
        if all(type(key) is str and type(value) is str for key, value in items):
            short = sum([len(key) + len(value) for key, value in items]) <= _CACHED
            return _context_of_texts(items) if short else _context_of_items(items)
    if not isinstance(context, Mapping):
        raise ContextError(
            f"context must be a mapping such as {{'agent': 'sql'}}, or None; "
            f"got {type(context).__name__}"
        )
    try:
        with contained:
            text = _dump(_canonical(context, _Place(_Budget())))
    except ContextError:
        raise
    except RecursionError:
        raise ContextError(
            "context is nested too deeply, or contains itself; pass a smaller identifier instead"
        ) from None
    except Exception as error:  # an application's mapping or property, or a number out of range
        raise ContextError(f"context cannot be read: {type(error).__name__}: {error}") from error
    return Context(canonical=text, fingerprint=fingerprint_of(text))


class Settled(dict[str, Any]):
    """A context whose canonical form is made once, so that later changes of its values are ignored.

    Raises:
        ContextError: As by `canonical_context`.
    """

    def __init__(self, context: Mapping[str, object]) -> None:
        super().__init__(context)
        self.canonical = canonical_context(dict(self))


def _context_of_items(items: tuple[tuple[str, str], ...]) -> Context:
    text = _dump(_mapping(dict(items), _Place(_Budget())))
    return Context(canonical=text, fingerprint=fingerprint_of(text))


# Most contexts are a few texts, which recur. (Only texts are cached: 1 and True would be one key.)
_context_of_texts = lru_cache(maxsize=1024)(_context_of_items)


def context_of_canonical(text: str, /) -> Context:
    """Return the context that has a given canonical form, as stored in an entry.

    Raises:
        ContextError: The text is not a canonical form.
    """
    try:
        # Count values outside of texts: a list of lists takes twenty times the memory of its JSON.
        if (
            len(text) > MOST_VALUES
            and len(_QUOTED.sub("", text)) > _CHARACTERS_A_VALUE * MOST_VALUES
        ):
            raise ValueError("too many values")  # noqa: TRY301
        value = json.loads(text)
        same = isinstance(value, dict) and _dump(value) == text
    except (TypeError, ValueError, RecursionError):
        same = False
    if not same:
        raise ContextError("not the canonical form of a context: compact JSON, its keys sorted")
    return Context(canonical=text, fingerprint=fingerprint_of(text))


def canonical_query(query: str, /) -> str:
    """Return the normalised query, used for exact matches and embedding.

    Normalisation keeps the meaning: it strips outer white space and applies the Unicode form NFC
    (NFKC would turn "5²" into "52"). It keeps four control characters that Python also counts as
    white space, and the order of 64 or more marks on one character, which occurs in no script and
    takes quadratic time to sort. A query of more than 1,000,000 characters keeps its Unicode form.

    Raises:
        QueryTypeError: The query is not a string.
        QueryError: The query is blank, or cannot be encoded as UTF-8 (a lone surrogate).
    """
    if not isinstance(query, str):
        raise QueryTypeError(f"query must be a string, got {type(query).__name__}")
    text = _composed(query).strip(_SPACE)
    if not text or text.isspace():
        raise QueryError(f"query must contain text, got {query[:_STEP]!r}")
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise QueryError(
            f"query must be encodable as UTF-8; the character at {error.start} is a lone surrogate"
        ) from None
    return text


def is_large(*given: object) -> bool:
    """Return whether canonicalising queries and contexts takes more than about a millisecond."""
    left, characters, values = list(given), _MANY_CHARACTERS, _MANY_VALUES
    while left:
        value = left.pop()
        if isinstance(value, (str, bytes, bytearray)):
            characters -= len(value)
        elif isinstance(value, (dict, list, tuple, set, frozenset)):
            values -= len(value)
            if values >= 0:
                left += value.values() if isinstance(value, dict) else value
        if characters < 0 or values < 0:
            return True
    return False


def _composed(text: str) -> str:
    """Normalise piece by piece, so that other threads can run; the result is the same."""
    if text.isascii() or len(text) > _LONGEST:
        return text
    written: list[str] = []
    start, length = 0, len(text)
    while start < length:
        cut = _PLAIN.search(text, start + _SHORT)
        end = length if cut is None else cut.start()
        piece = text[start:end]
        written.append(
            _composed_carefully(piece)
            if _STRANGE.search(piece)
            else unicodedata.normalize("NFC", piece)
        )
        start = end
    return "".join(written)


def _composed_carefully(text: str) -> str:
    slices = (text[at : at + _PIECE] for at in range(0, len(text), _PIECE))
    joins = "".join(piece.translate(_JOINS) for piece in slices)
    written: list[str] = []
    end = 0
    for run in (*_RUN.finditer(joins), None):
        start = len(text) if run is None else run.start()
        written += [
            unicodedata.normalize("NFC", text[piece.start() : piece.end()])
            for piece in _WHOLE.finditer(joins, end, start)
        ]
        if run is not None:
            end = run.end()
            written.append(text[start:end])
    return "".join(written)


class _Joins(dict[int, str]):
    """Maps a character to "M" if it may join with the one before it, else to "."."""

    def __missing__(self, code: int) -> str:
        is_mark = unicodedata.category(chr(code))[0] == "M"
        self[code] = found = "M" if is_mark or _PARTS[0] <= code <= _PARTS[1] else "."
        return found


_LONGEST = 1_000_000  # characters; of scripts beyond _COMMON, this many take about 0.3 s
_JOINS = _Joins()
_RUN = re.compile(f".M{{{_MOST_MARKS},}}")
_WHOLE = re.compile(f".{{1,{_PIECE}}}(?!M)")
# A long run of characters other than Latin, Greek, Cyrillic, Chinese, Japanese, Korean and symbols.
_COMMON = (
    "\0-\u02ff\u0370-\u0482\u048a-\u052f\u2000-\u20cf\u2100-\u2bff\u3030-\u3098"
    "\u30a0-\u9fff\uac00-\ud7a3\uff00-\uffef\U0001f300-\U0001faff"
)
_PLAIN, _STRANGE = re.compile(f"[{_COMMON}]"), re.compile(f"[^{_COMMON}]{{{_MOST_MARKS},}}")


def fingerprint_of(canonical: str, /) -> str:
    """Return the SHA-256 of a context's canonical form, in hex."""
    return hashlib.sha256(canonical.encode()).hexdigest()


def exact_key(text: str, context: Context, /) -> bytes:
    """Return the key of an entry, given its text (from `canonical_query`) and context.

    The key is the first half of a SHA-256. 16 bytes suffice: an accidental collision becomes likely
    only at 2**64 entries. This halves the memory per entry.
    """
    return hashlib.sha256(f"{context.fingerprint}\n{text}".encode()).digest()[:16]


class _Budget:
    """The remaining size that a context may have."""

    def __init__(self) -> None:
        self.values, self.characters = MOST_VALUES, MOST_CHARACTERS

    def take(self, values: int, characters: int) -> None:
        self.values -= values
        self.characters -= characters
        if self.values < 0 or self.characters < 0:
            raise ContextError(
                f"context is too large: expected up to {MOST_VALUES:,} values and "
                f"{MOST_CHARACTERS:,} characters; pass a smaller identifier instead, such as a hash"
            )


class _Place:
    """The path of a value in a context; formatted only for an error."""

    __slots__ = ("above", "budget", "step")

    def __init__(self, budget: _Budget, above: _Place | None = None, step: object = "") -> None:
        self.budget, self.above, self.step = budget, above, step

    def __str__(self) -> str:
        steps: list[str] = []
        place: _Place | None = self
        while place is not None and place.above is not None:
            is_key = not isinstance(place.step, _Step)
            steps.append(f"[{_shown(place.step)}]" if is_key else str(place.step))
            place = place.above
        steps.reverse()
        return "".join(["context", *steps[:_STEPS], "…" if len(steps) > _STEPS else ""])

    def at(self, step: object) -> _Place:
        """Return the path of an item; a `_Step` is shown unquoted."""
        return _Place(self.budget, self, step)


class _Step(str):
    """A step of a path that is not a key."""

    __slots__ = ()


def _shown(key: object) -> str:
    if isinstance(key, str) and len(key) > _STEP:
        return f"{key[:_STEP]!r}…"
    return repr(key) if isinstance(key, (str, int)) else f"<{_name(type(key))}>"


_KEY, _ELEMENT = _Step(" key"), _Step("{...}")


def _canonical(value: object, path: _Place) -> JSON:  # noqa: PLR0911 - a table of types
    path.budget.take(1, 0)
    kind: type = type(value)
    if kind is str:  # first, as most values are texts
        return _text(value, path)  # type: ignore[arg-type]
    if value is None or kind is bool:
        return value  # type: ignore[return-value]
    # Before the base types: an IntEnum is also an int, and a dataclass may also be a dict.
    if isinstance(value, enum.Flag):
        return {"$flag": [_name(type(value)), int(value.value)]}  # combined flags have no name
    if isinstance(value, enum.Enum):
        return {"$enum": f"{_name(type(value))}.{value.name}"}
    if dataclasses.is_dataclass(value) or _is_pydantic(value):
        if isinstance(value, tuple(kind for kind, _ in _FORMS)):
            raise ContextError(
                f"{path} is a {_name(type(value))}, which has fields and a content; pass one"
            )
        return _record(value, path)
    for kind, write in _FORMS:
        if isinstance(value, kind):
            return write(value, path)
    return _record(value, path)


def _mapping(value: Mapping[object, object], path: _Place) -> JSON:
    if all(isinstance(key, str) and not isinstance(key, enum.Enum) for key in value):
        written = {
            _escape(_text(key, path)): _canonical(item, path.at(key))  # type: ignore[arg-type]
            for key, item in value.items()
        }
        if len(written) < len(value):
            raise ContextError(f"{path} has two keys of the same text")
        return written
    pairs: list[JSON] = [
        [_canonical(key, path.at(_KEY)), _canonical(item, path.at(key))]
        for key, item in value.items()
    ]
    return {"$dict": _sorted(pairs, path)}


def _text(value: str, path: _Place) -> str:
    text = str.__str__(value)  # bypasses a subclass's `__str__`
    path.budget.take(0, len(text))
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            # In JSON, two lone surrogates could read like one character.
            raise ContextError(f"{path} has text with a lone surrogate") from None
    return text


def _escape(key: str) -> str:
    return f"${key}" if key.startswith("$") else key


def _sequence(value: Sequence[object], path: _Place) -> JSON:
    if hasattr(value, "_fields"):  # a named tuple: its field names are part of its identity
        return _record(value, path)
    return [_canonical(item, path.at(i)) for i, item in enumerate(value)]


def _set(value: AbstractSet[object], path: _Place) -> JSON:
    # Sorted by canonical text, as elements of mixed types have no order of their own.
    return {"$set": _sorted([_canonical(item, path.at(_ELEMENT)) for item in value], path)}


def _sorted(values: list[JSON], path: _Place) -> list[JSON]:
    """Sort by canonical text; charged to the budget, as nested sets are written repeatedly."""

    def written(value: JSON) -> str:
        text = _dump(value)
        path.budget.take(0, len(text))
        return text

    return sorted(values, key=written)


def _float(value: float, path: _Place) -> JSON:
    if math.isnan(value):
        raise ContextError(f"{path} is NaN, which is not equal to itself; use None or a string")
    if math.isinf(value):
        return {"$float": "inf" if value > 0 else "-inf"}
    return float.__float__(value) + 0.0  # -0.0 equals 0.0, so they are one context


def _decimal(value: decimal.Decimal, path: _Place) -> JSON:
    if value.is_nan():
        raise ContextError(f"{path} is NaN, which is not equal to itself; use None or a string")
    if value.is_infinite() or not value:
        return {"$decimal": "0" if not value else str(value)}
    path.budget.take(0, len(str(value)))
    # Not `normalize()`, which rounds to the precision of the thread's decimal context.
    sign, digits, exponent = value.as_tuple()
    text = "".join(map(str, digits)).lstrip("0")
    stripped = text.rstrip("0")
    return {"$decimal": f"{'-' * sign}{stripped}E{int(exponent) + len(text) - len(stripped)}"}


def _bytes(value: bytes | bytearray, path: _Place) -> JSON:
    path.budget.take(0, 2 * len(value))
    return {"$bytes": value.hex()}


def _datetime(value: dt.datetime, path: _Place) -> JSON:
    if value != value:  # noqa: PLR0124 - pandas' NaT is a datetime
        raise ContextError(f"{path} is NaT, which is not equal to itself; use None or a string")
    # An instant has the same form in every time zone.
    moment = value if value.tzinfo is None else value.astimezone(dt.timezone.utc)
    return {"$datetime": moment.isoformat()}


def _time(value: dt.time, path: _Place) -> JSON:
    if value.tzinfo is None:
        return {"$time": value.isoformat()}
    offset = value.utcoffset()
    if offset is None:
        raise ContextError(f"{path} is a time in a zone without a fixed offset; use a datetime")
    # Equal times have one form, as Python compares them: 12:00 UTC equals 13:00+01:00.
    local = dt.timedelta(
        hours=value.hour, minutes=value.minute, seconds=value.second, microseconds=value.microsecond
    )
    return {"$time": [(local - offset) // dt.timedelta(microseconds=1), "UTC"]}


def _timedelta(value: dt.timedelta, path: _Place) -> JSON:
    if getattr(value, "nanoseconds", 0):  # a pandas Timedelta
        raise ContextError(f"{path} is finer than a microsecond; use a number or a string")
    return {"$timedelta": [value.days, value.seconds, value.microseconds]}


# The order matters: a datetime is also a date.
_FORMS: tuple[tuple[type, Callable[[Any, _Place], JSON]], ...] = (
    (str, _text),
    (int, lambda value, _: int.__int__(value)),
    (float, _float),
    (Mapping, _mapping),
    (list, _sequence),
    (tuple, _sequence),
    (AbstractSet, _set),
    (dt.datetime, _datetime),
    (dt.date, lambda value, _: {"$date": value.isoformat()}),
    (dt.time, _time),
    (dt.timedelta, _timedelta),
    (uuid.UUID, lambda value, _: {"$uuid": str(value)}),
    # Windows paths are case-insensitive.
    (pathlib.PureWindowsPath, lambda value, _: {"$windows_path": value.as_posix().lower()}),
    (pathlib.PurePath, lambda value, _: {"$path": value.as_posix()}),
    (decimal.Decimal, _decimal),
    (bytes, _bytes),
    (bytearray, _bytes),
)


def _record(value: object, path: _Place) -> JSON:
    """Return the form of an object that is identified by its fields; raise for other objects."""
    kind = type(value)
    fields: Mapping[str, object]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.compare}
    elif isinstance(value, tuple):
        fields = dict(zip(getattr(value, "_fields"), value, strict=True))  # noqa: B009 - mypy
    elif _is_pydantic(value):
        model: Any = value
        fields = {  # all values that pydantic compares
            **{name: getattr(model, name) for name in type(model).model_fields},
            **(model.__pydantic_extra__ or {}),
            **(model.__pydantic_private__ or {}),
        }
    elif (scalar := _numpy_scalar(value)) is not None:
        return _canonical(scalar, path)
    else:
        raise ContextError(
            f"{path} is a {_name(kind)}, which has no canonical form; "
            "pass a string, a number or another identifier of it instead"
        )
    written = {name: _canonical(item, path.at(_Step(f".{name}"))) for name, item in fields.items()}
    return {"$record": [_name(kind), written]}


def _is_pydantic(value: object) -> bool:
    # Does not import pydantic: instances exist only if the application has imported it.
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and isinstance(value, pydantic.BaseModel)


def _numpy_scalar(value: Any) -> object:
    numpy = sys.modules.get("numpy")
    # Other kinds have no such scalar: a datetime64 in nanoseconds would become an int.
    if numpy is None or not isinstance(value, numpy.generic) or value.dtype.kind not in "biuf":
        return None
    scalar: object = value.item()
    return None if isinstance(scalar, numpy.generic) else scalar  # a longdouble


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


def _dump(value: JSON) -> str:
    return _ENCODER.encode(value)
