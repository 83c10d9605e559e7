"""The log: its events and fields are those of the table in docs/operations.md, and no others."""

from __future__ import annotations

import ast
import io
import json
import logging
import math
import re
from contextlib import redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest
import structlog
from engine import Faulty, raising

import memora
from memora import CacheConfig, Memora
from memora._log import make_logger

if TYPE_CHECKING:
    from collections.abc import Iterator

    from doubles import WordEmbedder

SOURCE = Path(memora.__file__).parent
DOCUMENT = Path(__file__).parents[2] / "docs" / "operations.md"
ALWAYS = {"event", "level", "timestamp", "logger"}
SQL = {"agent": "sql"}
PRIVATE = "a private question about revenue"


def documented() -> dict[str, tuple[str, set[str]]]:
    """Return the level and the fields of each event in the table."""
    section = DOCUMENT.read_text("utf-8").partition("## Logs")[2].partition("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| `")]
    return {
        event.strip(" `"): (level.strip(), set(re.findall(r"`(\w+)`", fields)))
        for event, level, fields, _ in rows
    }


def written() -> Iterator[tuple[str, str | None, set[str]]]:
    """Yield the name, the level and the fields of each event in the source."""
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            name, called = node.args[0], ast.unparse(node.func)
            logs = re.search(
                r"(?:(?:^|_)log|make_logger\(.*\))\.(debug|info|warning|error)$", called
            )
            passed_on = called in {"say", "self._log", "self._warn"}
            if isinstance(name, ast.Constant) and (logs or passed_on):
                fields = {one.arg for one in node.keywords if one.arg}
                yield name.value, logs[1] if logs else None, fields


def events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def check(event: dict[str, Any]) -> None:
    level, fields = documented()[event["event"]]
    assert event["level"] == level
    assert event.keys() - ALWAYS <= fields
    assert event.keys() >= ALWAYS


def test_the_documented_events_are_those_that_are_written() -> None:
    found = list(written())

    assert {name for name, _, _ in found} == documented().keys()
    for name, level, fields in found:
        expected_level, expected_fields = documented()[name]
        assert level in {None, expected_level}, name
        assert fields - {"exc_info"} <= expected_fields, name


def test_what_is_logged_is_as_documented(
    embedder: WordEmbedder, capsys: pytest.CaptureFixture[str]
) -> None:
    faulty = Faulty(embedder)
    config = CacheConfig(json_logs=True, log_level="DEBUG", max_entries=1, log_queries=True)
    with Memora(config, embedder=faulty) as cache:
        cache.store(PRIVATE, SQL, 1)
        cache.lookup(PRIVATE, SQL)
        cache.lookup("another thing", SQL)
        cache.store("another", SQL, 1)
        cache.store("not storable", SQL, object())
        cache.invalidate("another", SQL)
        cache.invalidate()
        cache.outdate("doc")
        cache.clear()
        cache.cleanup_expired()
        cache.create_index()
        cache.start_scheduler()
        cache.start_scheduler()
        faulty.before["embed"] = raising(ConnectionError("no route"))
        cache.lookup("a third", SQL)
        cache._core.unverified(RuntimeError("a damaged model"))
        cache._core._warn_of_language("es")

        @cache.cached(strict_params=["a"])
        def ask(query: str, a: int, b: int) -> int:
            return a + b

        ask("", 1, 2)

        class _Agent:
            @cache.cached(strict_params=["a"])
            def ask(self, query: str, a: int) -> int:
                return a

    logged = events(capsys.readouterr().err)
    for event in logged:
        check(event)
    assert {event["event"] for event in logged} == documented().keys() - {
        "cache_close_failed",
        "cache_export",
        "cache_import",
        "cache_warm",
        "scheduler_still_running",
        "server_setting",
        "settings_without_effect",
        "table_of_english",
        "unknown_setting",
    }
    (hit,) = [event for event in logged if event["event"] == "cache_hit"]
    assert (hit["query"], hit["matched_query"], hit["reason"]) == (PRIVATE, PRIVATE, "exact")
    (details,) = [event for event in logged if event["event"] == "cache_error_details"]
    assert "ConnectionError: no route" in details["exception"]


@pytest.mark.parametrize("json_logs", [True, False])
def test_without_being_asked_no_log_above_debug_has_a_text(
    embedder: WordEmbedder, capsys: pytest.CaptureFixture[str], *, json_logs: bool
) -> None:
    faulty = Faulty(embedder)
    with Memora(CacheConfig(json_logs=json_logs), embedder=faulty) as cache:
        cache.store(PRIVATE, {"tenant": PRIVATE}, PRIVATE, {"note": PRIVATE})
        cache.lookup(PRIVATE, {"tenant": PRIVATE})
        cache.store(PRIVATE, SQL, {PRIVATE: object()})
        cache.invalidate(PRIVATE, {"tenant": PRIVATE})
        faulty.before["embed"] = raising(ValueError(PRIVATE))
        cache.lookup(f"{PRIVATE} again", SQL)

    logged = capsys.readouterr().err
    for name in ("result_not_stored", "cache_invalidate", "cache_error"):
        assert name in logged
    assert "private" not in logged


@pytest.mark.parametrize("side", ["thread", "asyncio", "trio"])
def test_a_request_id_is_in_all_that_is_written_for_the_request(
    embedder: WordEmbedder, capsys: pytest.CaptureFixture[str], side: str
) -> None:
    cache = Memora(CacheConfig(json_logs=True, log_level="DEBUG"), embedder=embedder)
    capsys.readouterr()

    async def request(number: int) -> None:
        with structlog.contextvars.bound_contextvars(request_id=number):
            await cache.alookup(f"question {number}", SQL)
            await cache.astore(f"question {number}", SQL, number)

    async def requests() -> None:
        async with anyio.create_task_group() as tasks:
            for number in range(5):
                tasks.start_soon(request, number)

    if side == "thread":
        for number in range(5):
            with structlog.contextvars.bound_contextvars(request_id=number):
                cache.lookup(f"question {number}", SQL)
                cache.store(f"question {number}", SQL, number)
    else:
        anyio.run(requests, backend=side)
    cache.lookup("without", SQL)

    logged = events(capsys.readouterr().err)
    ids = sorted((event["request_id"], event["event"]) for event in logged[:-1])
    assert ids == [(n, name) for n in range(5) for name in ("cache_miss", "cache_store")]
    assert "request_id" not in logged[-1]


def test_each_event_is_a_line_of_json_whatever_is_bound(
    capsys: pytest.CaptureFixture[str],
) -> None:
    ring: list[Any] = []
    ring.append(ring)
    log = make_logger("INFO", json_logs=True)
    odd = {"nan": math.nan, "ring": ring, "object": object(), "lines": "a\nb", "half": "\ud800"}
    for name, value in odd.items():
        with structlog.contextvars.bound_contextvars(**{name: value}):
            log.info("event", fields={(1, 2): "a key without a JSON form"})

    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is no JSON")

    lines = capsys.readouterr().err.splitlines()
    told = [json.loads(line, parse_constant=refuse) for line in lines]
    assert [one["event"] for one in told] == ["event"] * len(odd)
    assert all(name in one for name, one in zip(odd, told, strict=True))


def test_text_for_people_is_one_line_that_cannot_control_a_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_logger("INFO", json_logs=False).info("event", said="a\nb\x1b[2Jc")

    (line,) = capsys.readouterr().err.splitlines()
    assert "\x1b" not in line


@pytest.mark.parametrize("json_logs", [True, False])
def test_what_is_bound_and_cannot_say_what_it_is_breaks_no_lookup(
    capsys: pytest.CaptureFixture[str], embedder: WordEmbedder, *, json_logs: bool
) -> None:
    class Mute:
        def __repr__(self) -> str:
            raise RuntimeError

    class Loud:
        def __repr__(self) -> str:
            return "a\x1b[2J\nb"

    cache = Memora(CacheConfig(log_level="DEBUG", json_logs=json_logs), embedder=embedder)
    capsys.readouterr()
    with structlog.contextvars.bound_contextvars(mute=Mute(), loud=Loud()):
        assert cache.lookup("q").is_miss

    (line,) = capsys.readouterr().err.splitlines()
    assert "<Mute>" in line
    assert "\x1b" not in line


def test_nothing_is_configured_behind_the_applications_back(embedder: WordEmbedder) -> None:
    root = logging.getLogger()
    before = (structlog.is_configured(), root.handlers[:], root.level)

    with Memora(CacheConfig(json_logs=True, log_level="DEBUG"), embedder=embedder) as cache:
        cache.lookup("q", SQL)

    assert (structlog.is_configured(), root.handlers, root.level) == before


def test_what_an_application_configures_does_not_change_the_log(
    embedder: WordEmbedder, capsys: pytest.CaptureFixture[str]
) -> None:
    structlog.configure(processors=[], wrapper_class=structlog.BoundLogger)
    try:
        Memora(CacheConfig(json_logs=True, log_level="DEBUG"), embedder=embedder)
    finally:
        structlog.reset_defaults()

    (event,) = events(capsys.readouterr().err)
    assert event["event"] == "cache_open"


def test_a_log_that_cannot_be_written_breaks_nothing(embedder: WordEmbedder) -> None:
    closed = io.StringIO()
    closed.close()
    with redirect_stderr(closed):
        cache = Memora(CacheConfig(log_level="DEBUG"), embedder=embedder)
        assert cache.store("q", SQL, 1) is not None
        assert cache.lookup("q", SQL).result == 1
