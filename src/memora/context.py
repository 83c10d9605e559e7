"""Context and query text to exact identity. Pure: no I/O, no clock.

A context is exact: two contexts are the same if and only if their canonical forms are, and the
canonical form is JSON that a person can read. Key order does not matter, list order does; 1, 1.0,
True and "1" are four values, as they are in JSON. A value JSON does not have is written as an
object with one "$" key; a key of the application's that begins with "$" is escaped by doubling it.
What has no stable form is an error, never `repr`: an address in memory is not an identity.
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
import sys
import unicodedata
import uuid
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import lru_cache
from typing import Any, TypeAlias

from memora.errors import ContextError, QueryError, QueryTypeError
from memora.model import Context

JSON: TypeAlias = "bool | int | float | str | list[JSON] | dict[str, JSON] | None"


_SPACE = "".join(
    one
    for one in map(chr, range(0x3001))  # no white space beyond
    if one.isspace() and not "\x1c" <= one <= "\x1f"
)


def canonical_context(context: Mapping[str, object] | None, /) -> Context:
    """Return the canonical form of a context; None is the empty context.

    Raises:
        ContextError: Not a mapping, or it holds something that has no canonical form: a NaN, a
            cycle, an object of a type that is not listed in the documentation.
    """
    if context is None:
        context = {}
    if type(context) is Settled:
        return context.canonical
    if type(context) is dict:
        items = tuple(context.items())
        if all(type(key) is str and type(value) is str for key, value in items):
            return _context_of_texts(items)
    if not isinstance(context, Mapping):
        raise ContextError(
            f"context must be a mapping such as {{'agent': 'sql'}}, or None; "
            f"got {type(context).__name__}"
        )
    try:
        text = _dump(_canonical(context, "context"))
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
    """A context whose canonical form is made once: what changes in its values later is no matter.

    Raises:
        ContextError: As by `canonical_context`.
    """

    def __init__(self, context: Mapping[str, object]) -> None:
        super().__init__(context)
        self.canonical = canonical_context(dict(self))


@lru_cache(maxsize=1024)
def _context_of_texts(items: tuple[tuple[str, str], ...]) -> Context:
    # Most contexts are a few texts, and the same few again and again. (Only texts: 1 and True would
    # be one key.)
    text = _dump(_mapping(dict(items), "context"))
    return Context(canonical=text, fingerprint=fingerprint_of(text))


def context_of_canonical(text: str, /) -> Context:
    """Return the context whose canonical form this is, as an entry holds it.

    Raises:
        ContextError: It is no canonical form.
    """
    try:
        value = json.loads(text)
        same = isinstance(value, dict) and _dump(value) == text
    except (TypeError, ValueError, RecursionError):
        same = False
    if not same:
        raise ContextError("not the canonical form of a context: compact JSON, its keys sorted")
    return Context(canonical=text, fingerprint=fingerprint_of(text))


def canonical_query(query: str, /) -> str:
    """Return the text that the exact tier compares and the embedder reads.

    Only what cannot change meaning goes: outer white space, and the Unicode form (NFC; NFKC would
    turn "5²" into "52"). Four control characters that Python also takes for white space stay.

    Raises:
        QueryTypeError: Not a string.
        QueryError: Empty or blank, or not encodable as UTF-8 (a lone surrogate).
    """
    if not isinstance(query, str):
        raise QueryTypeError(f"query must be a string, got {type(query).__name__}")
    text = unicodedata.normalize("NFC", query).strip(_SPACE)
    if not text or text.isspace():
        raise QueryError(f"query must contain text, got {query!r}")
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise QueryError(
            f"query must be encodable as UTF-8; the character at {error.start} is a lone surrogate"
        ) from None
    return text


def fingerprint_of(canonical: str, /) -> str:
    """Return the SHA-256 of a context's canonical form, in hex."""
    return hashlib.sha256(canonical.encode()).hexdigest()


def exact_key(text: str, context: Context, /) -> bytes:
    """Return the identity of an entry: this text (as `canonical_query` returns it), here.

    The first half of a SHA-256: 16 bytes, of which no two will be equal by chance (2**64 entries
    make it likely), and half the memory an entry.
    """
    return hashlib.sha256(f"{context.fingerprint}\n{text}".encode()).digest()[:16]


def _canonical(value: object, path: str) -> JSON:  # noqa: PLR0911 - a table of types
    kind: type = type(value)
    if kind is str:  # most values are; the rest would only find that out later
        return _text(value, path)  # type: ignore[arg-type]
    if value is None or kind is bool:
        return value  # type: ignore[return-value]
    # Before its base type: an IntEnum is also an int, a dataclass may also be a dict.
    if isinstance(value, enum.Flag):
        return {"$flag": [_name(type(value)), int(value.value)]}  # combined ones have no one name
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


def _mapping(value: Mapping[object, object], path: str) -> JSON:
    if all(isinstance(key, str) and not isinstance(key, enum.Enum) for key in value):
        written = {
            _escape(_text(key, path)): _canonical(item, f"{path}[{key!r}]")  # type: ignore[arg-type]
            for key, item in value.items()
        }
        if len(written) < len(value):
            raise ContextError(f"{path} has two keys of the same text")
        return written
    pairs: list[JSON] = [
        [_canonical(key, f"{path} key"), _canonical(item, f"{path}[{key!r}]")]
        for key, item in value.items()
    ]
    return {"$dict": sorted(pairs, key=_dump)}


def _text(value: str, path: str) -> str:
    text = str.__str__(value)  # not a subclass's own idea of itself
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            # In JSON, two halves of a pair would read like the character they make.
            raise ContextError(f"{path} has text with a lone surrogate") from None
    return text


def _escape(key: str) -> str:
    return f"${key}" if key.startswith("$") else key


def _sequence(value: Sequence[object], path: str) -> JSON:
    if hasattr(value, "_fields"):  # a named tuple: its field names are part of what it says
        return _record(value, path)
    return [_canonical(item, f"{path}[{i}]") for i, item in enumerate(value)]


def _set(value: AbstractSet[object], path: str) -> JSON:
    # Sorted by their canonical text: elements of mixed types have no order of their own.
    return {"$set": sorted((_canonical(item, f"{path}{{...}}") for item in value), key=_dump)}


def _float(value: float, path: str) -> JSON:
    if math.isnan(value):
        raise ContextError(f"{path} is NaN, which is not equal to itself; use None or a string")
    if math.isinf(value):
        return {"$float": "inf" if value > 0 else "-inf"}
    return float.__float__(value) + 0.0  # -0.0 equals 0.0, so they are one context


def _decimal(value: decimal.Decimal, path: str) -> JSON:
    if value.is_nan():
        raise ContextError(f"{path} is NaN, which is not equal to itself; use None or a string")
    if value.is_infinite() or not value:
        return {"$decimal": "0" if not value else str(value)}
    # Not normalize(), which rounds to the precision of the thread's decimal context.
    sign, digits, exponent = value.as_tuple()
    text = "".join(map(str, digits)).lstrip("0")
    stripped = text.rstrip("0")
    return {"$decimal": f"{'-' * sign}{stripped}E{int(exponent) + len(text) - len(stripped)}"}


def _datetime(value: dt.datetime, path: str) -> JSON:
    if value != value:  # noqa: PLR0124 - pandas' NaT is a datetime
        raise ContextError(f"{path} is NaT, which is not equal to itself; use None or a string")
    # One instant has one form, whatever zone it is written in.
    moment = value if value.tzinfo is None else value.astimezone(dt.timezone.utc)
    return {"$datetime": moment.isoformat()}


def _time(value: dt.time, path: str) -> JSON:
    if value.tzinfo is None:
        return {"$time": value.isoformat()}
    offset = value.utcoffset()
    if offset is None:
        raise ContextError(f"{path} is a time in a zone without a fixed offset; use a datetime")
    # As Python compares them: 12:00 UTC is 13:00+01:00.
    local = dt.timedelta(
        hours=value.hour,
        minutes=value.minute,
        seconds=value.second,
        microseconds=value.microsecond,
    )
    return {"$time": [(local - offset) // dt.timedelta(microseconds=1), "UTC"]}


def _timedelta(value: dt.timedelta, path: str) -> JSON:
    if getattr(value, "nanoseconds", 0):  # a pandas Timedelta
        raise ContextError(f"{path} is finer than a microsecond; use a number or a string")
    return {"$timedelta": [value.days, value.seconds, value.microseconds]}


# In order: a datetime is also a date.
_FORMS: tuple[tuple[type, Callable[[Any, str], JSON]], ...] = (
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
    # Windows' paths are the same in any case.
    (pathlib.PureWindowsPath, lambda value, _: {"$windows_path": value.as_posix().lower()}),
    (pathlib.PurePath, lambda value, _: {"$path": value.as_posix()}),
    (decimal.Decimal, _decimal),
    (bytes, lambda value, _: {"$bytes": value.hex()}),
    (bytearray, lambda value, _: {"$bytes": value.hex()}),
)


def _record(value: object, path: str) -> JSON:
    """Write an object whose fields are its identity, or refuse it."""
    kind = type(value)
    fields: Mapping[str, object]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.compare}
    elif isinstance(value, tuple):
        fields = dict(zip(getattr(value, "_fields"), value, strict=True))  # noqa: B009 - mypy
    elif _is_pydantic(value):
        fields = _pydantic_fields(value)
    elif (scalar := _numpy_scalar(value)) is not None:
        return _canonical(scalar, path)
    else:
        raise ContextError(
            f"{path} is a {_name(kind)}, which has no canonical form; "
            "pass a string, a number or another identifier of it instead"
        )
    written = {name: _canonical(item, f"{path}.{name}") for name, item in fields.items()}
    return {"$record": [_name(kind), written]}


def _pydantic_fields(model: Any) -> dict[str, object]:
    """Return all that pydantic compares: fields, extra ones, private attributes."""
    return {
        **{name: getattr(model, name) for name in type(model).model_fields},
        **(model.__pydantic_extra__ or {}),
        **(model.__pydantic_private__ or {}),
    }


def _is_pydantic(value: object) -> bool:
    # Recognised without importing pydantic: no instance exists unless the application did.
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and isinstance(value, pydantic.BaseModel)


def _numpy_scalar(value: Any) -> object:
    numpy = sys.modules.get("numpy")
    if numpy is None or not isinstance(value, numpy.generic):
        return None
    if value.dtype.kind not in "biuf":  # a datetime64 in nanoseconds would turn into an int
        return None
    scalar: object = value.item()
    return None if isinstance(scalar, numpy.generic) else scalar  # a longdouble


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


def _dump(value: JSON) -> str:
    return _ENCODER.encode(value)
