"""The folder training/: what it may read, and the file that it writes."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
TRAINING = ROOT / "training"
CALIBRATION = ROOT / "src/memora/judge/calibrations/all-MiniLM-L6-v2.json"
DOORS = {"development_file", "records"}
READS = {
    "open", "read_text", "read_bytes", "load", "loadtxt", "genfromtxt", "fromfile", "memmap",
    "load_stream", "load_pairs", "iterdir", "glob", "rglob",
}  # fmt: skip
READERS = {"gzip", "io", "os", "subprocess", "shutil", "mmap", "pandas", "urllib", "zipfile"}

pytestmark = pytest.mark.skipif(not TRAINING.is_dir(), reason="not in the source distribution")


def module(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(__import__("sys").modules, spec.name, loaded)  # dataclasses look there
        spec.loader.exec_module(loaded)
    return loaded


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name):
                yield node.func.id, node
            elif isinstance(node.func, ast.Attribute):
                yield node.func.attr, node


def through_the_door(call: ast.Call) -> bool:
    """`development_file(...).read_bytes()`"""
    return isinstance(call.func, ast.Attribute) and any(
        name in DOORS for name, _ in calls(call.func.value)
    )


@pytest.mark.parametrize(
    "path",
    ["data/qqp/pairs_test.jsonl", "heldout/pairs.jsonl", "data/sealed/x", "a/../Test/pairs.jsonl"],
)
def test_what_is_kept_back_is_not_opened(path: str) -> None:
    data = module(ROOT / "benchmarks/quality/data.py")

    with pytest.raises(ValueError, match="kept back"):
        data.records(path)


@pytest.mark.parametrize("path", sorted(TRAINING.glob("*.py")), ids=lambda path: path.name)
def test_training_opens_files_only_as_development_files(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))

    around = [
        f"line {call.lineno}: {name}"
        for name, call in calls(tree)
        if name in READS and not through_the_door(call)
    ]
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
        )
    }
    final = [word for _, call in calls(tree) for word in call.keywords if word.arg == "final"]
    assert (around, imported & READERS, final) == ([], set(), [])


def test_every_evaluated_stream_is_kept_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(TRAINING)
    monkeypatch.syspath_prepend(ROOT / "benchmarks/quality")
    import sources  # noqa: PLC0415

    data = module(ROOT / "benchmarks/quality/data.py")
    streams = {path for path in data.STREAMS.values() if path.startswith("streams/")}
    assert streams | {data.PAIRS["handwritten"], data.PAIRS["synthetic"]} <= set(sources.EVALUATED)

    room = sources.Sources(Path(), None, seed=1)
    monkeypatch.setattr(
        sources, "records", lambda path: [{"text": "asked"}] if "streams" in str(path) else []
    )
    assert [room._admits(text) for text in ("asked", "", "another")] == [False, False, True]


@pytest.fixture
def calibration() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(CALIBRATION.read_text("utf-8"))
    return found


def test_the_calibration_is_small_and_names_its_origin(calibration: dict[str, Any]) -> None:
    assert CALIBRATION.stat().st_size < 20_000
    assert calibration["model"] == CALIBRATION.stem
    assert calibration["about"]
    assert calibration["trained"]["command"].startswith("python training/train.py")
    assert not re.search(r"/(home|root|work|tmp|Users)\b", CALIBRATION.read_text("utf-8"))


def test_terms_rise_or_fall_as_they_should(calibration: dict[str, Any]) -> None:
    additive = module(TRAINING / "additive.py")

    assert set(calibration["terms"]) <= set(additive.KNOTS)
    for name, points in calibration["terms"].items():
        assert points[0][1] == 0, name
        for (x0, y0), (x1, y1) in pairwise(points):
            assert x0 < x1, name
            assert (y1 - y0) * additive.SIGNS[name] >= 0, name


def test_the_probability_rises_with_the_sum(calibration: dict[str, Any]) -> None:
    points = calibration["probability"]

    assert all(0 < p < 1 for _, p in points)
    assert all(x0 < x1 and p0 <= p1 for (x0, p0), (x1, p1) in pairwise(points))


def test_every_term_is_a_feature_that_the_judge_finds() -> None:
    compared = module(ROOT / "src/memora/judge/_compare.py")
    additive = module(TRAINING / "additive.py")
    found = {name for names in compared.KINDS.values() for name in names}

    assert set(additive.FEATURES) - {"cosine"} <= found


def test_the_same_text_is_never_a_pair() -> None:
    pairs = [
        json.loads(line) for line in (TRAINING / "pairs.jsonl").read_text("utf-8").split("\n")[:-1]
    ]

    assert {frozenset(pair) for pair in pairs} == {frozenset(("a", "b", "same", "category"))}
    assert all(pair["a"].strip() and pair["b"].strip() and pair["a"] != pair["b"] for pair in pairs)
