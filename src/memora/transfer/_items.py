"""Entries in readable form: mappings with a query and a result, or JSON lines of mappings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from memora._arguments import (
    STORED_WITH,
    fields_of,
    largest_payload,
    lifetime_of,
    metadata_json,
)
from memora._show import not_utf8, one_line
from memora.context import canonical_context
from memora.errors import MemoraError, SerializationError, TransferError
from memora.model import Content
from memora.pipeline import Request, encode, new_entry
from memora.transfer._rows import (
    RECORDED,
    ImportRow,
    InvalidRow,
    Problem,
    recorded_entry,
    recorded_fields,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path
    from types import TracebackType
    from typing import IO

    from typing_extensions import Self

    from memora.config import CacheConfig
    from memora.model import EntryInfo
    from memora.pipeline import Ports
    from memora.protocols import Vector

Item: TypeAlias = "Mapping[str, Any] | tuple[str, Mapping[str, Any] | None, Any]"
"""An answer to store: a mapping of its fields, or (query, context, result)."""

# Maximum bytes of a line: of everything but the result, and per stored byte of the result.
_LEAST_LINE, _LINE_A_PAYLOAD = 128 * 1024 * 1024, 6
_LARGEST = 1024 * 1024 * 1024  # bytes assumed for a result if payloads have no limit

_LIFE = ("ttl", "stale_ttl", "sliding")  # given for a new entry, instead of what an export records


class ItemReader:
    """Converter of items to rows; it checks them as `Memora.store` checks its arguments."""

    def __init__(self, ports: Ports, config: CacheConfig) -> None:
        self._ports = ports
        self._config = config
        self.largest = largest_payload(config)

    def read(self, item: Any, place: str) -> ImportRow | Problem:
        """Return the row of an item, or the problem with it."""
        try:
            return self._import_row(fields_of(item, (*STORED_WITH, *RECORDED)))
        except (InvalidRow, MemoraError) as error:
            return Problem(place, str(error))

    def _import_row(self, fields: Mapping[str, Any]) -> ImportRow:
        request = Request.of(fields["query"], fields.get("context"))
        metadata = metadata_json(fields.get("metadata"))
        recorded = [name for name in RECORDED if name in fields]
        if not recorded:
            lifetime = lifetime_of(
                self._config,
                **{name: fields.get(name) for name in STORED_WITH},
            )
        elif relative := [name for name in _LIFE if name in fields]:
            raise InvalidRow(
                f"{relative[0]} and {recorded[0]} are both given, expected {', '.join(_LIFE)} "
                "of a new entry, or the fields of an exported one"
            )
        payload = encode(self._ports, fields["result"], max_payload_bytes=self.largest)
        content = Content(payload, metadata)
        if not recorded:
            entry = new_entry(request, lifetime, now=self._ports.clock())
            return ImportRow(entry=entry, content=content, is_new=True)
        entry, uses, last = recorded_entry(fields, text=request.text, context=request.context)
        return ImportRow(entry=entry, content=content, uses=uses, last_used_at=last)


class ItemSource:
    """Items of the application; an iterator can be read only once."""

    name = "warm"

    def __init__(self, items: Iterable[Item], reader: ItemReader) -> None:
        self._items = items
        self._reader = reader
        self.total = len(items) if isinstance(items, Sequence) else None

    def read(self) -> Iterator[ImportRow | Problem]:
        """Yield the items, checked."""
        for number, item in enumerate(self._items, start=1):
            yield self._reader.read(item, f"item {number}")


class LineSource:
    """A file of JSON lines; a context manager.

    Raises:
        TransferError: The file cannot be opened.
    """

    def __init__(self, path: Path, reader: ItemReader) -> None:
        self.name = str(path)
        self.total: int | None = None  # known after the first complete read
        self._reader = reader
        self._longest = _LEAST_LINE + _LINE_A_PAYLOAD * (reader.largest or _LARGEST)
        try:
            self._file: IO[bytes] = path.open("rb")
        except OSError as error:
            raise TransferError(f"{self.name} cannot be read: {error.strerror}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def read(self) -> Iterator[ImportRow | Problem]:
        """Yield the entries, line by line."""
        self._file.seek(0)
        found = number = 0
        try:
            for number, line in enumerate(self._lines(), start=1):
                if len(line) > self._longest:
                    found += 1
                    yield Problem(f"line {number}", f"longer than {self._longest:,} bytes")
                    continue
                text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
                if not text.strip():
                    continue
                found += 1
                try:
                    item = json.loads(text.decode(), parse_constant=_no_constant)
                except UnicodeDecodeError as error:
                    yield Problem(f"line {number}", not_utf8(text[error.start]))
                    continue
                except (ValueError, RecursionError) as error:
                    yield Problem(f"line {number}", f"not JSON: {error}")
                    continue
                if not isinstance(item, dict):
                    said = f"expected a JSON object, got {one_line(repr(item), 80)}"
                    yield Problem(f"line {number}", said)
                    continue
                yield self._reader.read(item, f"line {number}")
        except OSError as error:
            raise TransferError(
                f"{self.name} cannot be read beyond line {number}: {error.strerror}"
            ) from error
        self.total = found

    def _lines(self) -> Iterator[bytes]:
        """Yield the lines; a line that is too long is cut just beyond the limit."""
        while line := self._file.readline(self._longest + 1):
            yield line
            while len(line) > self._longest and not line.endswith(b"\n"):
                line = self._file.readline(self._longest + 1)


class LineSink:
    """Writer of entries to an open file, one per line."""

    def __init__(self, file: IO[bytes], ports: Ports) -> None:
        self._file = file
        self._ports = ports

    def write(self, info: EntryInfo, content: Content, _: Vector | None) -> None:
        """Write an entry.

        Raises:
            InvalidRow: JSON cannot represent its result or its context exactly.
        """
        entry = info.entry
        result = self._ports.codec.decode(content.payload)
        text = self._exactly(result)
        context = json.loads(entry.context.canonical)
        if canonical_context(context) != entry.context:
            raise InvalidRow("its context holds what JSON does not have, such as a date")
        rest = {"metadata": json.loads(content.metadata), **recorded_fields(info)}
        # Joined as bytes, as the result is JSON already, and may be long.
        head, tail = _json({"query": entry.query, "context": context}), _json(rest)
        self._file.write(b'%s, "result": %s, %s\n' % (head[:-1], text, tail[1:]))

    def finish(self) -> None:
        """Do nothing: the format has no footer."""

    def abandon(self) -> None:
        """Do nothing: there is nothing to undo."""

    def _exactly(self, result: Any) -> bytes:
        """Return a result as JSON, if JSON returns it equal in value and type."""
        codec = self._ports.codec
        try:
            text = _json(result)
            same = codec.encode(json.loads(text)) == codec.encode(result)
        except (TypeError, ValueError, RecursionError, SerializationError):
            same, text = False, b""
        if not same:
            raise InvalidRow(
                f"its result, a {type(result).__name__}, cannot be restored from JSON exactly"
            )
        return text


def _json(value: Any) -> bytes:
    """Return readable JSON; non-ASCII is escaped if the text has characters outside UTF-8."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        return json.dumps(value, allow_nan=False).encode()


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
