"""Runs the Python examples of README.md and docs/ under pytest; `# >` lines say what is printed."""

from __future__ import annotations

import contextlib
import io
import re
from typing import TYPE_CHECKING

import pytest
from sybil import Example, Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import CodeBlockParser

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


class PrintedPython:
    """Runs a block, and compares what it prints with its `# >` lines; `...` stands for anything."""

    def __init__(self) -> None:
        self._run = PythonEvaluator()

    def __call__(self, example: Example) -> str | None:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            self._run(example)
        expected = re.findall(r"^ *# ?> (.*)$", example.parsed, flags=re.MULTILINE)
        pattern = "\n".join(re.escape(line).replace(r"\.\.\.", ".*") for line in expected)
        if expected and not re.fullmatch(pattern, printed.getvalue().rstrip("\n")):
            return f"printed {printed.getvalue()!r}, expected {expected!r}"
        return None


pytest_collect_file = Sybil(
    parsers=[CodeBlockParser(language="python", evaluator=PrintedPython())],
    patterns=["README.md", "docs/*.md", "tests/docs/*.md"],
    fixtures=["in_an_empty_folder"],
).pytest()
