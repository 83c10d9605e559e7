"""Hostile bytes and long texts, within bounds of memory and CPU: see `hostile.py`.

`BOUNDS_SECONDS=60` changes payloads for that long, and has texts of 20 MB.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pandas")
pytest.importorskip("polars")
if sys.platform != "linux":
    pytest.skip("memory is limited as Linux does it", allow_module_level=True)

SECONDS = float(os.environ.get("BOUNDS_SECONDS", "1"))
LONG = SECONDS > 10
CPU_SECONDS = 60.0 if LONG else 20.0
"""That one input may take: ten times and more of what it does."""


@pytest.fixture(scope="module")
def told() -> list[dict[str, Any]]:
    """Return what came of each input."""
    program = Path(__file__).with_name("hostile.py")
    seed = int.from_bytes(os.urandom(4), "big") if LONG else 1
    longest = 20_000_000 if LONG else 300_000
    ran = subprocess.run(
        [sys.executable, str(program), str(seed), str(SECONDS), str(longest)],
        capture_output=True,
        text=True,
        timeout=SECONDS + (3600 if LONG else 600),
        check=False,
    )
    found = [json.loads(line) for line in ran.stdout.splitlines()]
    assert ran.returncode == 0, f"seed {seed}: {found[-1:]} {ran.stderr[-2000:]}"
    return found


def _of(told: list[dict[str, Any]], kind: str) -> dict[str, str]:
    found = {
        one["name"].removeprefix(kind): one["outcome"]
        for one in told
        if one["name"].startswith(kind)
    }
    assert found
    return found


def test_each_hostile_payload_is_refused(told: list[dict[str, Any]]) -> None:
    outcomes = _of(told, "payload: ")
    deep = outcomes.pop("deep nodes")
    assert deep in ("SerializationError", "decoded")  # as deep as the interpreter can read
    assert outcomes == dict.fromkeys(outcomes, "CorruptEntryError")


def test_what_only_looks_hostile_is_decoded(told: list[dict[str, Any]]) -> None:
    outcomes = _of(told, "harmless: ")
    assert outcomes == dict.fromkeys(outcomes, "decoded")


def test_changed_payloads_are_refused_or_decoded(told: list[dict[str, Any]]) -> None:
    assert [one for one in told if one["name"] == "mutated"] == []
    assert next(one["rounds"] for one in told if one["name"] == "rounds") > 0


def test_small_files_of_gigabytes_are_refused(told: list[dict[str, Any]]) -> None:
    outcomes = _of(told, "file: ")
    assert outcomes.pop("one-tag-again-and-again") == "imported"  # as one tag
    assert outcomes == dict.fromkeys(outcomes, "TransferError")


def test_long_texts_are_looked_up_and_stored(told: list[dict[str, Any]]) -> None:
    outcomes = _of(told, "text: ")
    assert {outcome.partition(" ")[2] for outcome in outcomes.values()} == {"long"}
    reasons = {outcome.partition(" ")[0] for outcome in outcomes.values()}
    assert reasons.isdisjoint({"error", "timeout"})


def test_a_changed_store_is_opened_or_refused(told: list[dict[str, Any]]) -> None:
    outcomes = {one["outcome"] for one in told if one["name"] == "store"}
    assert all(one == "opened" or one.startswith("refused by ") for one in outcomes)


def test_nothing_takes_long(told: list[dict[str, Any]]) -> None:
    assert [one for one in told if one["cpu"] > CPU_SECONDS] == []
