"""Query logs as records: JSONL, CSV or plain text, gzipped or not, one query a line, streamed."""

from __future__ import annotations

import csv
import gzip
import io
import json
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Literal, TypeAlias, cast

from typing_extensions import Self

from memora.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

Format: TypeAlias = Literal["jsonl", "csv", "text"]

_SUFFIXES: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
}
# The names a column goes by, in the order they are tried.
_QUERY = ("query", "text", "prompt", "question")
_CLASS = ("class", "label", "intent")
_ANSWER = ("answer", "response", "result")


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """The columns to read, where they do not go by a usual name."""

    query: str | None = None
    context: tuple[str, ...] = ("context",)
    """One column is the context itself; several are its fields."""
    label: str | None = None
    answer: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One logged query."""

    line: int
    query: str
    context: dict[str, Any]
    label: str | None
    """Records of one context with one label are served by one answer."""
    answer: Any


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that is no record, and why."""

    line: int
    problem: str


class QueryLog:
    """A query log that is read once, from its beginning.

    Raises:
        ArgumentError: The file cannot be read.
    """

    def __init__(self, path: Path, *, log_format: Format | None, columns: Columns) -> None:
        self._columns = columns
        suffixes = [suffix.lower() for suffix in path.suffixes]
        zipped = suffixes[-1:] == [".gz"]
        if zipped:
            suffixes.pop()
        self._suffix = suffixes[-1] if suffixes else ""
        self._format: Format = log_format or _SUFFIXES.get(self._suffix, "text")
        try:
            self._raw: IO[bytes] = path.open("rb")
            self.size = path.stat().st_size
        except OSError as error:
            raise ArgumentError(f"cannot read {str(path)!r}: {error.strerror}") from error
        unzipped = gzip.GzipFile(fileobj=self._raw) if zipped else self._raw
        # "replace": one badly encoded line must not end a long replay. utf-8-sig: Excel's CSV.
        # newline="" keeps line breaks inside quoted CSV fields.
        self._lines = io.TextIOWrapper(
            cast("IO[bytes]", unzipped), "utf-8-sig", errors="replace", newline=""
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self._raw.close()

    @property
    def position(self) -> int:
        """Bytes of the file read so far, out of `size`."""
        return self._raw.tell()

    def __iter__(self) -> Iterator[Record | BadLine]:
        try:
            yield from _READERS[self._format](self._lines, self._columns, self._suffix)
        except (OSError, EOFError, csv.Error) as error:
            raise ArgumentError(f"the file is damaged or not {self._format}: {error}") from error


def _jsonl(lines: Iterable[str], columns: Columns, _: str) -> Iterator[Record | BadLine]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            yield BadLine(number, f"not JSON: {error}")
            continue
        if isinstance(row, str):
            row = {"query": row}
        if not isinstance(row, dict):
            yield BadLine(number, f"expected a JSON object, got {type(row).__name__}")
            continue
        yield _record(number, row, columns)


def _csv(lines: Iterable[str], columns: Columns, suffix: str) -> Iterator[Record | BadLine]:
    reader = csv.DictReader(lines, delimiter="\t" if suffix == ".tsv" else ",")
    for row in reader:
        yield _record(reader.line_num, row, columns)


def _text(lines: Iterable[str], _: Columns, __: str) -> Iterator[Record | BadLine]:
    for number, line in enumerate(lines, start=1):
        if query := line.strip():
            yield Record(line=number, query=query, context={}, label=None, answer=None)


_READERS = {"jsonl": _jsonl, "csv": _csv, "text": _text}


def _record(number: int, row: Mapping[str, Any], columns: Columns) -> Record | BadLine:
    query = _first(row, (columns.query,) if columns.query else _QUERY)
    if not isinstance(query, str) or not query.strip():
        wanted = repr(columns.query) if columns.query else "one of " + ", ".join(_QUERY)
        return BadLine(number, f"no query: expected text in {wanted}; columns are {list(row)}")
    label = _first(row, (columns.label,) if columns.label else _CLASS)
    return Record(
        line=number,
        query=query,
        context=_context(row, columns.context),
        label=None if label is None else str(label),
        answer=_first(row, (columns.answer,) if columns.answer else _ANSWER),
    )


def _context(row: Mapping[str, Any], columns: tuple[str, ...]) -> dict[str, Any]:
    present = {name: row[name] for name in columns if row.get(name) not in (None, "")}
    if len(columns) > 1 or not present:
        return present
    (name, value), *_ = present.items()
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = json.loads(value)
        except ValueError:
            return {name: value}
    return value if isinstance(value, dict) else {name: value}


def _first(row: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((row[name] for name in names if row.get(name) not in (None, "")), None)
