"""The command line, `memora`. It needs the extra `cli`; the library does not."""

from __future__ import annotations

import sys

from memora.errors import MemoraError, MissingExtraError

USAGE_ERROR = 2
INTERRUPTED = 130


def main() -> None:
    """Run `memora`.

    Exit codes: 0 success (for `lookup`, a hit); 1 a miss; 2 wrong usage, input or store, with one
    line on stderr that names the problem and the remedy; 130 interrupted by Ctrl-C.
    """
    try:
        _run()
    except KeyboardInterrupt:  # while the commands are imported
        _interrupted()
    except SystemExit as done:
        if done.code == INTERRUPTED:  # the command has already reported its progress
            _interrupted()
        raise


def _run() -> None:
    try:
        from memora.cli.app import app  # noqa: PLC0415 - the extra may be missing
    except ModuleNotFoundError as error:
        if error.name not in {"typer", "rich"}:
            raise
        _fail(MissingExtraError("the command line", extra="cli"))
    try:
        app()
    except (MemoraError, OSError) as error:  # such as a full disk or a closed terminal
        _fail(error)


def _interrupted() -> None:
    sys.stderr.write("memora: interrupted\n")
    sys.exit(INTERRUPTED)


def _fail(error: Exception) -> None:
    sys.stderr.write(f"memora: {error}\n")
    sys.exit(USAGE_ERROR)
