"""Run `memora` as a user does, in this process."""

from __future__ import annotations

import contextlib
import io
import sys
from typing import TYPE_CHECKING

import pytest

from memora.cli import main

if TYPE_CHECKING:
    from pathlib import Path


def memora(*arguments: str | Path, given: str = "", code: int = 0) -> str:
    """Run `memora`; return its stdout, or its stderr for exit code 2."""
    out, err = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patch.setattr(sys, "argv", ["memora", *map(str, arguments)])
        patch.setattr(sys, "stdin", io.StringIO(given))
        with pytest.raises(SystemExit) as done:
            main()
    assert (done.value.code or 0) == code, err.getvalue()
    return err.getvalue() if code == 2 else out.getvalue()
