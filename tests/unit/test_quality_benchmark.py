"""The parts of benchmarks/quality that need no data: kept logits, targets, and a page's tables."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks" / "quality")


class Counting:
    """A verifier that counts what it reads."""

    def __init__(self) -> None:
        self.read: list[tuple[str, str]] = []

    def logits(self, pairs: list[tuple[str, str]], /) -> list[float]:
        self.read += pairs
        return [float(len(stored) - len(asked)) for stored, asked in pairs]


def test_a_pair_is_read_once_and_by_each_model(tmp_path: Path) -> None:
    vectors = import_module("vectors")
    model, other = tmp_path / "model.onnx", tmp_path / "other.onnx"
    model.write_bytes(b"1")
    other.write_bytes(b"2")
    first, second, third = Counting(), Counting(), Counting()
    pairs = [("long", "a"), ("a", "long"), ("long", "a")]

    assert vectors.Logits(tmp_path, model, first).logits(pairs) == [3.0, -3.0, 3.0]
    assert first.read == pairs[:2]
    kept = next(tmp_path.glob("verifier-*.bin"))
    kept.write_bytes(kept.read_bytes()[:-1])  # a write that was cut off
    assert vectors.Logits(tmp_path, model, second).logits(pairs) == [3.0, -3.0, 3.0]
    assert vectors.Logits(tmp_path, other, third).logits(pairs) == [3.0, -3.0, 3.0]
    assert (second.read, third.read) == (pairs[1:2], pairs[:2])


def test_targets_name_the_figures_that_missed() -> None:
    targets = import_module("targets")

    def suite(repeats: int, traps: int) -> dict[str, int]:
        return {"served_same": repeats, "of_same": 100, "served_other": traps, "of_other": 100}

    pairs = {"handwritten": {"judge-alone": suite(50, 1), "memora": suite(75, 9)}}
    rows = targets.targets({"streams": {}, "pairs": pairs, "about": {"default": 0.85}})

    row = next(row for row in rows if row["of"] == "handwritten")
    assert (row["today"], row["now"]) == ([50.0, 1.0], [75.0, 9.0])
    assert (row["met"], row["missed"]) == ("missed", ["traps"])
    assert {row["met"] for row in rows if row["of"] != "handwritten"} == {None}


def test_only_the_named_tables_of_a_page_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    report = import_module("report")
    monkeypatch.setitem(report.PAGE, "default", lambda _: ["| new |", ""])
    page = "a\n<!-- default -->\nold\n<!-- end -->\nb <!-- note --> c\n"

    found = report.fill(page, {})

    assert found == "a\n<!-- default -->\n\n| new |\n\n<!-- end -->\nb <!-- note --> c\n"
    assert report.fill(found, {}) == found


def test_every_table_of_the_accuracy_page_is_known() -> None:
    report: Any = import_module("report")
    page = (ROOT / "docs" / "accuracy.md").read_text("utf-8")

    assert page.count("<!-- end -->") == sum(page.count(f"<!-- {name} -->") for name in report.PAGE)
    assert all(page.count(f"<!-- {name} -->") == 1 for name in report.PAGE)
