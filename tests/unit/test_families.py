"""The hand-written families of needs, and how they become labelled pairs."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

_SCRIPT = Path(__file__).parents[2] / "training" / "families.py"
if not _SCRIPT.exists():  # an installed copy tested without the repository's training files
    pytest.skip("needs the training files", allow_module_level=True)
_spec = importlib.util.spec_from_file_location("training_families", _SCRIPT)
assert _spec is not None
assert _spec.loader is not None
families: Any = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = families
_spec.loader.exec_module(families)

ROW: dict[str, Any] = {
    "family": "x-0",
    "lang": "en",
    "domain": "shell",
    "same": ["ls -r", "list in reverse order"],
    "near": [{"q": "ls -R", "kind": "letter case"}],
}


def _load(tmp_path: Path, *rows: dict[str, Any]) -> list[Any]:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "x.jsonl").write_text(text, "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(families, "development_file", Path)  # pytest's folders have "test" in them
        loaded: list[Any] = families.read_families(tmp_path / "x.jsonl")
    return loaded


def test_the_projects_own_families_validate_and_split_nine_to_one() -> None:
    loaded = families.read_families()
    judged = sum(family.judged for family in loaded)
    assert len(loaded) > 1000
    assert 0.05 < judged / len(loaded) < 0.15


def test_pairs_carry_labels_and_keep_letter_case(tmp_path: Path) -> None:
    loaded = _load(tmp_path, ROW)
    (family,) = loaded
    made = list(families.pairs(loaded, judged=family.judged))
    assert [(pair.a, pair.b, pair.same, pair.kind) for pair in made] == [
        ("ls -r", "list in reverse order", True, "repeat"),
        ("ls -r", "ls -R", False, "letter case"),
        ("list in reverse order", "ls -R", False, "letter case"),
    ]
    assert not list(families.pairs(loaded, judged=not family.judged))


def test_the_split_depends_on_the_id_alone(tmp_path: Path) -> None:
    (one,) = _load(tmp_path, ROW)
    (other,) = _load(tmp_path, {**ROW, "domain": "linux", "same": ["a", "b", "c"]})
    assert one.judged == other.judged


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"same": ["ls -r", "ls -r"]}, "has a text twice: 'ls -r'"),
        ({"same": ["ls -R", "ls -r"]}, "has a text twice: 'ls -R'"),
        ({"same": ["ls -r"]}, "needs two repeats"),
        ({"near": []}, "needs two repeats and a near miss"),
        ({"same": ["ls -r", " "]}, "malformed family"),
        ({"same": "ls -r"}, "malformed family"),
        ({"near": ["ls -R"]}, "malformed family"),
        ({"near": [{"q": "ls -R"}]}, "malformed family"),
        ({"lang": None}, "malformed family"),
    ],
)
def test_a_bad_family_is_refused_with_its_place(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match="x.jsonl:2: .*" + message):
        _load(tmp_path, {**ROW, "family": "x-1"}, {**ROW, **change})


def test_an_id_may_not_occur_twice(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="id 'x-0' occurs twice"):
        _load(tmp_path, ROW, ROW)
