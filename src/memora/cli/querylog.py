"""Read query logs as a stream: JSONL, CSV or plain text, optionally gzipped, one query per line.

A JSON array is read as a whole. In chat logs the messages are the queries.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import re
import sys
from collections.abc import Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain, islice
from typing import IO, TYPE_CHECKING, Any, Literal, TypeAlias

from memora._show import not_utf8
from memora.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from typing_extensions import Self

Format: TypeAlias = Literal["jsonl", "csv", "text"]
_Line: TypeAlias = "tuple[int, dict[str, Any] | str]"  # number, and a row or a problem

_SUFFIXES: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
}
_LONGEST = 64 * 1024 * 1024  # maximum characters of a line, or of a CSV field
_TOO_LONG = f"longer than {_LONGEST:,} characters"
# Accepted column names, in order of preference.
_QUERY = ("query", "text", "prompt", "question")
_CLASS = ("class", "label", "intent")
_ANSWER = ("answer", "response", "result")
# Where a chat log's row holds the messages: in itself, or in the logged request.
_REQUESTS = ("body", "request", "kwargs")
_ASKS, _ANSWERS = ("user", "human"), ("assistant", "ai")
_STANDARD_INPUT = "-"
_GZIP = b"\x1f\x8b"
_HEAD = 4096  # bytes that are read to detect the format
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",  # Excel's CSV
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose byte order mark is a prefix of this one
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_DELIMITERS = ";\t|"  # for a CSV whose heading has no comma


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Column names to read, where they differ from the usual ones."""

    query: str | None = None
    context: tuple[str, ...] = ()
    """One column is the whole context; several are its fields. By default `context`, if any."""
    label: str | None = None
    answer: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One logged query."""

    line: int
    query: str
    context: dict[str, Any]
    label: str | None
    """Records with the same context and label have the same answer."""
    answer: Any


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that is no record, with the reason."""

    line: int
    problem: str


class QueryLog:
    """A query log, read once from its beginning; `-` is standard input.

    Raises:
        ArgumentError: The file cannot be read.
    """

    def __init__(self, path: Path, *, log_format: Format | None, columns: Columns) -> None:
        self._piped = str(path) == _STANDARD_INPUT
        self.name = "standard input" if self._piped else path.name
        self._columns = columns
        self._found: dict[str, None] = {}  # columns found so far, in order
        suffixes = [suffix.lower() for suffix in path.suffixes]
        zipped = suffixes[-1:] == [".gz"]
        if zipped:
            suffixes.pop()
        self._suffix = suffixes[-1] if suffixes else ""
        self.size: int | None = None
        try:
            self._raw: io.BufferedReader = _standard_input() if self._piped else path.open("rb")
            if not self._piped:
                self.size = path.stat().st_size
            zipped = zipped or self._raw.peek(_HEAD).startswith(_GZIP)
        except OSError as error:
            raise ArgumentError(f"cannot read {str(path)!r}: {error.strerror}") from error
        unzipped = io.BufferedReader(gzip.GzipFile(fileobj=self._raw)) if zipped else self._raw
        try:
            head = unzipped.peek(_HEAD)[:_HEAD]
        except (OSError, EOFError):  # the damage is reported when the file is read
            head = b""
        looks_like_json = self._piped and head.lstrip()[:1] in {b"{", b"["}
        guess: Format = "jsonl" if looks_like_json else "text"
        self._format: Format = log_format or _SUFFIXES.get(self._suffix, guess)
        # One badly encoded line must not end a long replay: it is reported as a problem.
        # newline="" keeps line breaks inside quoted CSV fields.
        encoding = self._encoding(head)
        errors = "surrogateescape" if encoding.startswith("utf-8") else "replace"
        self._lines = io.TextIOWrapper(unzipped, encoding, errors=errors, newline="")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._piped:
            self._lines.close()
            self._raw.close()

    @property
    def position(self) -> int:
        """Bytes of the file read so far, out of `size`; 0 if unknown."""
        return self._raw.tell() if self.size is not None else 0

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

    def rows(self) -> Iterator[_Line]:
        """Yield line numbers with the row as in the file, or with the problem.

        Raises:
            ArgumentError: The file is damaged, or has no columns.
        """
        if self._format == "text" and not self._piped:
            raise ArgumentError("a text file has no columns: expected .csv, .tsv or .jsonl")
        with self._explained():
            if self._format == "jsonl":
                yield from _jsonl(self._lines)
            else:
                yield from _csv(self._lines, "\t" if self._suffix == ".tsv" else ",")

    def _encoding(self, head: bytes) -> str:
        for mark, encoding in _MARKS.items():
            if head.startswith(mark):
                return encoding
        if b"\0" in head:
            self._raw.close()
            raise ArgumentError(
                f"{self.name} has NUL bytes: it is no text, or UTF-16 without a mark at its "
                "beginning; save it as UTF-8"
            )
        return "utf-8"

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (OSError, EOFError, csv.Error) as error:
            raise ArgumentError(f"the file is damaged or not {self._format}: {error}") from error

    def _check_named(self, found: str) -> None:
        """Refuse a named column that never occurs: the figures would be meaningless."""
        wanted = self._columns
        named = (wanted.query, *wanted.context, wanted.label, wanted.answer)
        missing = [name for name in named if name and name not in self._found]
        if missing:
            raise ArgumentError(f"there is no column {missing[0]!r}; {found}")


def _cut(lines: IO[str]) -> Iterator[str]:
    """Yield the lines; of a line that is too long, only as much as shows that."""
    while line := lines.readline(_LONGEST + 1):
        yield line
        while len(line) > _LONGEST and not line.endswith("\n"):
            line = lines.readline(_LONGEST + 1)


def _jsonl(lines: IO[str]) -> Iterator[_Line]:
    """Yield line numbers with a row or a problem; for an array, item numbers."""
    numbered = ((number, line) for number, line in enumerate(_cut(lines), start=1) if line.strip())
    head = list(islice(numbered, 1))
    if head and head[0][1].lstrip().startswith("["):
        head += numbered
        if (items := _array([line for _, line in head])) is not None:
            yield from items
            return
    for number, line in chain(head, numbered):
        yield number, _row(line)


def _row(line: str) -> dict[str, Any] | str:
    if len(line) > _LONGEST:
        return _TOO_LONG
    if problem := _undecoded(line):
        return problem
    try:
        return _as_row(json.loads(line))
    except (ValueError, RecursionError) as error:
        return f"not JSON: {error}"


def _as_row(value: Any) -> dict[str, Any] | str:
    if isinstance(value, str):
        return {"query": value}
    if _are_messages(value):
        return {"messages": value}
    if not isinstance(value, dict):
        return f"expected a JSON object, got a {type(value).__name__}"
    return value


def _array(lines: list[str]) -> list[_Line] | None:
    """Return the items of a file that is one JSON array; None if each line is a value."""
    text = "".join(lines)
    try:
        items = json.loads(text)
    except (ValueError, RecursionError) as error:
        with suppress(ValueError, RecursionError):
            json.loads(lines[0])
            return None
        raise ArgumentError(
            f"the file begins with '[' and is no JSON array: {_undecoded(text) or error}"
        ) from error
    if _are_messages(items):  # a single conversation
        return [(1, {"messages": items})]
    return [
        (number, f"item {number}: {row}" if isinstance(row, str) else row)
        for number, row in enumerate(map(_as_row, items), start=1)
    ]


def _undecoded(text: str) -> str | None:
    """Return a message on the first byte that was not UTF-8, or None."""
    if text.isascii() or (found := re.search("[\udc80-\udcff]", text)) is None:
        return None
    return not_utf8(ord(found[0]) - 0xDC00)


def _csv(lines: IO[str], delimiter: str) -> Iterator[_Line]:
    csv.field_size_limit(_LONGEST)  # a query may exceed the default limit of 128 KB
    heading = next(lines, "")
    bare = re.sub(r'"[^"]*"', "", heading)
    if delimiter not in bare:
        delimiter = next((one for one in _DELIMITERS if one in bare), delimiter)
    reader = csv.DictReader(chain([heading], lines), delimiter=delimiter)
    for row in reader:
        found = {name: value for name, value in row.items() if name is not None}
        texts = (text for text in (*found, *found.values()) if isinstance(text, str))
        yield reader.line_num, next(filter(None, map(_undecoded, texts)), found)


def _text(lines: IO[str]) -> Iterator[Record | BadLine]:
    for number, line in enumerate(_cut(lines), start=1):
        if len(line) > _LONGEST:
            yield BadLine(number, _TOO_LONG)
        elif problem := _undecoded(line):
            yield BadLine(number, problem)
        elif query := line.strip():
            yield Record(line=number, query=query, context={}, label=None, answer=None)


def _record(number: int, row: Mapping[str, Any], columns: Columns) -> Record | BadLine:
    query = _first(row, columns.query, _QUERY)
    chat = {"messages": query} if _are_messages(query) else None if query else _request(row)
    answer = _first(row, columns.answer, _ANSWER)
    context = _context(row, columns.context or ("context",))
    if chat is not None:
        query, before, answered = _asked(chat)
        context |= before
        answer = answered if answer is None else answer
    if not isinstance(query, str) or not query.strip():
        if chat is not None:
            return BadLine(number, "no query: expected a message of the user with a text in it")
        wanted = repr(columns.query) if columns.query else "one of " + ", ".join(_QUERY)
        return BadLine(number, f"no query: expected text in {wanted}; columns are {list(row)}")
    label = _first(row, columns.label, _CLASS)
    label = None if label is None else str(label)
    return Record(line=number, query=query, context=context, label=label, answer=answer)


def _are_messages(value: Any) -> bool:
    """Return whether a value is a conversation in the format of chat APIs."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(one, dict) and isinstance(one.get("role"), str) for one in value)
    )


def _request(row: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the conversation that a row logs, with its model, or None."""
    for place in (row, *(row.get(name) for name in _REQUESTS)):
        found = place.get("messages") if isinstance(place, Mapping) else None
        if isinstance(found, str) and found.lstrip().startswith("["):  # from a CSV
            with suppress(ValueError, RecursionError):
                found = json.loads(found)
        if _are_messages(found) and isinstance(place, Mapping):
            return {"messages": found, "model": place.get("model")}
    return None


def _asked(chat: dict[str, Any]) -> tuple[str | None, dict[str, Any], Any]:
    """Return the user's last question, everything else as a context, and the answer."""
    messages = chat["messages"]
    asked = next((i for i in reversed(range(len(messages))) if messages[i]["role"] in _ASKS), None)
    if asked is None:
        return None, {}, None
    answer, rest = None, [*messages[:asked], *messages[asked + 1 :]]
    last = messages[-1]  # if that is the question, its role is not one of an answer
    if last["role"] in _ANSWERS and (answer := _parts(last.get("content"))[0] or None):
        rest.pop()
    text, others = _parts(messages[asked].get("content"))
    context = {"messages": rest, "parts": others, "model": chat.get("model")}
    return text, {name: value for name, value in context.items() if value}, answer


def _parts(content: Any) -> tuple[str, list[Any]]:
    """Return the text of a message, and its other parts, such as images."""
    texts, others = [], []
    for part in content if isinstance(content, list) else [content]:
        text = part.get("text") if isinstance(part, dict) else part
        if isinstance(text, str):
            texts.append(text)
        elif part is not None:
            others.append(part)
    return "\n".join(texts), others


def _standard_input() -> io.BufferedReader:
    binary = getattr(sys.stdin, "buffer", None)
    if isinstance(binary, io.BufferedReader):
        return binary
    return io.BufferedReader(io.BytesIO(sys.stdin.read().encode()))


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


def _first(row: Mapping[str, Any], given: str | None, usual: tuple[str, ...]) -> Any:
    names = (given,) if given else usual
    return next((row[name] for name in names if row.get(name) not in (None, "")), None)
