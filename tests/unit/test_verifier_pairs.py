"""The pairs that the verifier is trained on, and those that judge it."""

from __future__ import annotations

import importlib
import random
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(
    not (ROOT / "training").is_dir(), reason="not in the source distribution"
)


def family(number: int) -> dict[str, Any]:
    return {
        "family": f"t-{number}",
        "same": [f"need {number}, wording {i}" for i in range(3)],
        "near": [{"q": f"other {number}, {i}", "kind": f"kind {i % 2}"} for i in range(3)],
    }


@pytest.fixture
def pairs(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT / "training")
    monkeypatch.syspath_prepend(ROOT / "benchmarks/quality")
    return importlib.import_module("verifier_pairs")


def test_wordings_of_one_need_are_the_only_positives(pairs: Any) -> None:
    one = family(1) | {"lang": "en"}

    made = list(pairs.family_pairs(one, random.Random(1), 100))  # noqa: S311

    assert {(p.a, p.b) for p in made if p.same} == {
        (one["same"][i], one["same"][j]) for i, j in ((0, 1), (0, 2), (1, 2))
    }
    assert len([p for p in made if not p.same]) == 9 + 2  # 3 x 3, and near ones of other kinds
    assert len(list(pairs.family_pairs(one, random.Random(1), 4))) == 3 + 4  # noqa: S311


def test_families_and_evaluated_texts_are_kept_out_of_training(
    pairs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"text": "NEED 5, wording 0"}

    def records(path: Path) -> list[dict[str, Any]]:
        if path.name == "families_en.jsonl":
            return [family(n) for n in range(40)]
        return [asked] if "streams" in str(path) else []

    monkeypatch.setattr(pairs, "records", records)
    monkeypatch.setattr(pairs.TrainingPairs, "_neighbours", lambda _: iter(()))
    learned = pairs.TrainingPairs(Path(), None, seed=1).all()
    judged = pairs.evaluation(Path())["families"]

    texts = {text for p in learned for text in (p.a, p.b)}
    held = {text for p in judged for text in (p.a, p.b)}
    assert texts
    assert held
    assert not texts & held
    assert "need 5, wording 0" not in texts
    assert "need 5, wording 1" in texts
    assert learned == pairs.TrainingPairs(Path(), None, seed=1).all()


@pytest.mark.parametrize(
    ("text", "marked"),
    [
        ("How does it work?", "How does it work?"),
        ("use SQL on my iPad in May", "use [unused1] SQL on my [unused2] iPad in [unused3] May"),
        ("SQL or sql", "[unused1] SQL or sql"),
        ("a [SEP] b", "a [[unused1] SEP] b"),  # no text contains the separator
        (" How", " [unused3] How"),
        ("x1A_B ßa É 日本", "x1[unused1] A_[unused1] B ßa [unused1] É 日本"),
        ("", ""),
    ],
)
def test_case_is_marked(pairs: Any, text: str, marked: str) -> None:
    assert pairs.mark_case(text) == marked
