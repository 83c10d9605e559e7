"""Query logs as records: JSONL, CSV or plain text, gzipped or not, one query a line, streamed."""

from __future__ import annotations

import csv
import gzip
import io
import json
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Literal, TypeAlias, cast

from memora.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from typing_extensions import Self

Format: TypeAlias = Literal["jsonl", "csv", "text"]

_SUFFIXES: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
}
_LONGEST = 64 * 1024 * 1024  # characters of a line, or of a field of a CSV file
_TOO_LONG = f"longer than {_LONGEST:,} characters"
# The names a column goes by, in the order they are tried.
_QUERY = ("query", "text", "prompt", "question")
_CLASS = ("class", "label", "intent")
_ANSWER = ("answer", "response", "result")


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """The columns to read, where they do not go by a usual name."""

    query: str | None = None
    context: tuple[str, ...] = ()
    """One column is the context itself; several are its fields. By default `context`, if any."""
    label: str | None = None
    answer: str | None = None

    def named(self) -> list[str]:
        """Return the columns that must be there."""
        return [name for name in (self.query, *self.context, self.label, self.answer) if name]


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
        self._found: dict[str, None] = {}  # the columns met so far, in order
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
        if self._format == "text":
            self._check_named("a text file has no columns")
            with self._explained():
                yield from _text(self._lines)
            return
        for number, row in self.rows():
            if isinstance(row, str):
                yield BadLine(number, row)
                continue
            self._found.update(dict.fromkeys(row))
            yield _record(number, row, self._columns)
        self._check_named(f"the columns are {', '.join(self._found)}")

    def rows(self) -> Iterator[tuple[int, dict[str, Any] | str]]:
        """Yield line numbers with a row as it stands in the file, or with what is wrong.

        Raises:
            ArgumentError: The file is damaged, or has no columns.
        """
        if self._format == "text":
            raise ArgumentError("a text file has no columns: expected .csv, .tsv or .jsonl")
        read = _jsonl if self._format == "jsonl" else _tsv if self._suffix == ".tsv" else _csv
        with self._explained():
            yield from read(self._lines)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (OSError, EOFError, csv.Error) as error:
            raise ArgumentError(f"the file is damaged or not {self._format}: {error}") from error

    def _check_named(self, found: str) -> None:
        """Refuse a column that was named and never met: its figures would be of something else."""
        missing = [name for name in self._columns.named() if name not in self._found]
        if missing:
            raise ArgumentError(f"there is no column {missing[0]!r}; {found}")


def _cut(lines: IO[str]) -> Iterator[str]:
    """Yield the lines; of one that is too long its beginning, which shows it."""
    while line := lines.readline(_LONGEST + 1):
        yield line
        while len(line) > _LONGEST and not line.endswith("\n"):
            line = lines.readline(_LONGEST + 1)


def _jsonl(lines: IO[str]) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Yield line numbers with a row, or with what is wrong."""
    for number, line in enumerate(_cut(lines), start=1):
        if len(line) > _LONGEST:
            yield number, _TOO_LONG
            continue
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield number, f"not JSON: {error}"
            continue
        if isinstance(row, str):
            row = {"query": row}
        if not isinstance(row, dict):
            row = f"expected one JSON object a line, got a {type(row).__name__}"
        yield number, row


def _tsv(lines: Iterable[str]) -> Iterator[tuple[int, dict[str, Any] | str]]:
    return _csv(lines, delimiter="\t")


def _csv(
    lines: Iterable[str], *, delimiter: str = ","
) -> Iterator[tuple[int, dict[str, Any] | str]]:
    csv.field_size_limit(_LONGEST)  # a query may be longer than the 128 KB that are the default
    reader = csv.DictReader(lines, delimiter=delimiter)
    for row in reader:
        yield reader.line_num, {name: value for name, value in row.items() if name is not None}


def _text(lines: IO[str]) -> Iterator[Record | BadLine]:
    for number, line in enumerate(_cut(lines), start=1):
        if len(line) > _LONGEST:
            yield BadLine(number, _TOO_LONG)
        elif query := line.strip():
            yield Record(line=number, query=query, context={}, label=None, answer=None)


def _record(number: int, row: Mapping[str, Any], columns: Columns) -> Record | BadLine:
    query = _first(row, (columns.query,) if columns.query else _QUERY)
    if not isinstance(query, str) or not query.strip():
        wanted = repr(columns.query) if columns.query else "one of " + ", ".join(_QUERY)
        return BadLine(number, f"no query: expected text in {wanted}; columns are {list(row)}")
    label = _first(row, (columns.label,) if columns.label else _CLASS)
    return Record(
        line=number,
        query=query,
        context=_context(row, columns.context or ("context",)),
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
