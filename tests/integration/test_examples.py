"""The programs in examples/, run as their readers run them, and what they print."""

from __future__ import annotations

import ast
import asyncio
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from urllib.request import urlopen

import memora

if TYPE_CHECKING:
    import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
PACKAGES = str(Path(memora.__file__).parents[1])
# No hub, and any warning is an error.
ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "PYTHONPATH": PACKAGES, "PYTHONWARNINGS": "error"}


def printed(name: str, folder: Path) -> list[str]:
    """Run an example in an empty folder; return its lines, with single spaces."""
    done = subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py"],
        cwd=folder,
        env={**os.environ, **ENVIRONMENT},
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert not list(folder.iterdir())
    return [" ".join(line.split()) for line in done.stdout.splitlines()]


def test_agents_share_a_cache_and_no_answers(tmp_path: Path) -> None:
    lines = printed("multi_agent", tmp_path)

    assert lines[:-1] == [
        "The SQL agent, over two databases:",
        "sql production Total revenue by region for March 2024 run (no_candidate)",
        "sql production Show me total revenue per region in March 2024 from the cache (semantic)",
        "sql production Total revenue by region for April 2024 run (below_threshold)",
        "sql staging Total revenue by region for March 2024 run (no_candidate)",
        "4 questions, 3 queries of a database",
        "The analyst, with and without a tool:",
        "sql Analyze Q3 2024 sales performance run",
        "sql Show me the Q3 2024 sales performance analysis from the cache",
        "sql and web Analyze Q3 2024 sales performance run",
        "sql Analyze Q4 2024 sales performance run",
        "4 questions, 3 analyses",
    ]
    assert lines[-1] == "Together: 2 hits, 6 misses, 25.00%"


def test_questions_to_a_database_are_answered_by_the_table_that_was_stored(tmp_path: Path) -> None:
    lines = printed("sql_agent", tmp_path)

    assert lines[:6] == [
        "Total revenue by region for March 2024 the model: north 1200; south 1150.5",
        "Show me total revenue per region in March 2024 the cache: north 1200; south 1150.5",
        "Total revenue by region for April 2024 the model: north 980; south 310",
        "Top 3 products by revenue the model: lamp 1900; chair 1430.5; desk 310",
        "Show the top 3 products by revenue the cache: lamp 1900; chair 1430.5; desk 310",
        "Top 1 products by revenue the model: lamp 1900",
    ]
    assert lines[6].startswith("'Top 5 products by revenue' would be a miss")
    assert lines[6].endswith("but numbers: 5 / 3")
    assert lines[-2:] == [
        "Show me total revenue per region in March 2024 the model: north 1300; south 1150.5",
        "5 calls of the model for 7 questions",
    ]


def test_a_document_that_changes_takes_its_answers_with_it(tmp_path: Path) -> None:
    in_other_words = "How many days of vacation do employees get?"

    assert printed("rag_chain", tmp_path) == [
        "How long do refunds take? model, from refunds",
        "How long does a refund take? cache, asked as 'How long do refunds take?'",
        "How many vacation days do employees get? model, from vacation",
        "How many sick days do employees get? model, from vacation",
        "How long do refunds take? model, from refunds",
        "(the refunds page changes)",
        "How long does a refund take? model, from refunds",
        "-> Refunds now arrive within two business days.",
        f"{in_other_words} cache, asked as 'How many vacation days do employees get?'",
        "7 questions, 5 calls of the model",
    ]


def test_an_endpoint_is_answered_from_the_cache(tmp_path: Path) -> None:
    assert printed("fastapi_app", tmp_path) == [
        "acme What does the Pro plan cost? 20 EUR {'hits': 0, 'misses': 1}",
        "acme How much does the Pro plan cost? 20 EUR {'hits': 1, 'misses': 1}",
        "acme How much does the Basic plan cost? 5 EUR {'hits': 1, 'misses': 2}",
        "globex What does the Pro plan cost? 20 EUR {'hits': 1, 'misses': 3}",
        "blank: 422",
        "health: 200 healthy",
    ]


def test_the_app_is_served_as_its_readme_says(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "--factory", "fastapi_app:make_app", "--port", "0"],
        cwd=EXAMPLES,
        env={**os.environ, **ENVIRONMENT, "PYTHONDONTWRITEBYTECODE": "1"},
        stderr=subprocess.PIPE,
        encoding="utf-8",
    ) as server:
        assert server.stderr is not None
        limit = threading.Timer(120, server.kill)
        limit.start()
        try:
            address = next(
                found[0] for line in server.stderr if (found := re.search(r"http://\S+", line))
            )
            answers = [
                fetched(f"{address}/ask?question={quote(question)}&tenant=acme")
                for question in ("What does the Pro plan cost?", "How much does the Pro plan cost?")
            ]
            stats = fetched(f"{address}/stats")
        finally:
            server.terminate()
            rest = server.stderr.read()
            limit.cancel()

    assert answers == [{"answer": "20 EUR", "tenant": "acme"}] * 2
    assert stats == {"hits": 1, "misses": 1}
    assert "Application shutdown complete." in rest


def fetched(address: str) -> Any:
    with urlopen(address, timeout=60) as response:  # noqa: S310 - our own server
        return json.load(response)


def test_the_notebook_runs_as_a_script(tmp_path: Path) -> None:
    lines = printed("notebook", tmp_path)

    answers = [line.rpartition(";")[0] for line in lines[:3]]
    assert all(answer.endswith("small explains: Explain quantum physics") for answer in answers)
    assert lines[3] == "CacheInfo(hits=2, misses=1)"
    assert "words: classical / quantum" in lines
    assert lines[-1] == "ten at once, 1 answer, CacheInfo(hits=9, misses=1)"


def test_the_notebook_runs_where_an_event_loop_is_running(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code = (EXAMPLES / "notebook.py").read_text("utf-8")
    cells = compile(code, "notebook.py", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    names: dict[str, Any] = {"__name__": "__main__"}

    async def as_jupyter_does() -> None:
        exec(cells, names)  # noqa: S102 - it is ours
        await names["running"]

    asyncio.run(as_jupyter_does())

    out = capsys.readouterr().out
    assert "CacheInfo(hits=2, misses=1)\n" in out
    assert out.endswith("ten at once, 1 answer, CacheInfo(hits=9, misses=1)\n")
