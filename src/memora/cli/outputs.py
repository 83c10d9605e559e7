"""Output files of a command: all are written, or none."""

from __future__ import annotations

import os
import re
import uuid
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from memora._files import mode_of, replacing
from memora.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

_NO_ENV_FILE = {".json", ".toml", ".yaml", ".yml", ".ini", ".py"}


def check_writable(paths: Iterable[Path]) -> None:
    """Refuse paths that cannot be written, before any work is done.

    Raises:
        ArgumentError: Names the first one and the reason.
    """
    seen: set[Path] = set()
    for path in paths:
        with _explained(path):
            problem = _problem(path)
        if problem is None and path.resolve() in seen:
            problem = "it is named twice"
        if problem is not None:
            raise ArgumentError(f"cannot write {str(path)!r}: {problem}")
        seen.add(path.resolve())


def _problem(path: Path) -> str | None:
    folder = path.resolve().parent
    if path.is_dir():
        return "it is a directory"
    if not folder.is_dir():
        return f"there is no directory {str(folder)!r}"
    if not os.access(folder, os.W_OK | os.X_OK):
        return f"the directory {str(folder)!r} cannot be written to"
    return "it is read-only" if path.exists() and not os.access(path, os.W_OK) else None


def write_all(contents: Mapping[Path, bytes]) -> None:
    """Write files, replacing each atomically: a reader sees either the old or the new content.

    Raises:
        ArgumentError: One of them cannot be written; then none has been changed.
    """
    with ExitStack() as written:
        # Reversed, as the stack replaces the last first: after a failure the rest is unchanged.
        for named, content in reversed(list(contents.items())):
            path = named.resolve()  # keep a link and replace its target
            part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
            written.enter_context(_explained(path))
            file = written.enter_context(replacing(path, part, mode_of(path)))
            file.write(content)
            file.flush()


def with_setting(path: Path, name: str, value: str) -> bytes:
    """Return the content of an env file with one setting changed or appended, all else unchanged.

    Args:
        path: The file; it may be missing.
        name: Name of the variable.
        value: Its new value.

    Raises:
        ArgumentError: The file cannot be read, or is no env file.
    """
    if path.suffix.lower() in _NO_ENV_FILE:
        raise ArgumentError(
            f"cannot write {str(path)!r}: expected a file of {name}=VALUE lines, such as .env"
        )
    try:
        old = path.read_bytes()
    except FileNotFoundError:
        old = b""
    except OSError as error:
        raise ArgumentError(f"cannot read {str(path)!r}: {error.strerror}") from error
    line = re.compile(
        rb"^([ \t]*(?:export[ \t]+)?)" + name.encode() + rb"([ \t]*=[ \t]*)"
        rb"(?:\"[^\"\r\n]*\"|'[^'\r\n]*'|[^\s#]*)",
        flags=re.MULTILINE | re.IGNORECASE,
    )
    new, changed = line.subn(rb"\g<1>" + name.encode() + rb"\g<2>" + value.encode(), old)
    if changed:
        return new
    end = b"\r\n" if b"\r\n" in old else b"\n"
    between = end if old and not old.endswith(b"\n") else b""
    return old + between + f"{name}={value}".encode() + end


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ArgumentError(f"cannot write {str(path)!r}: {error.strerror}") from error
