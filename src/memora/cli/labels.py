"""Input of a calibration: labelled pairs, or the log of shadow mode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from memora._arguments import is_number
from memora.cli.querylog import Columns, QueryLog
from memora.errors import ArgumentError
from memora.tuning import LabelledPair, Scores

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

# Accepted column names, in order of preference.
QUERY = ("query", "asked", "question1", "text1", "b")
CANDIDATE = ("candidate", "stored", "question2", "text2", "a")
LABEL = ("right", "label", "same", "is_duplicate", "duplicate")

_WORDS = {
    **dict.fromkeys(("1", "1.0", "true", "yes", "y"), True),
    **dict.fromkeys(("0", "0.0", "false", "no", "n"), False),
}


@dataclass(frozen=True, slots=True)
class PairColumns:
    """Column names of a file of pairs, where they differ from the usual ones."""

    query: str | None = None
    candidate: str | None = None
    label: str | None = None


@dataclass(frozen=True, slots=True)
class Logged:
    """Content of a log of shadow mode."""

    scores: Scores
    models: tuple[str, ...]
    """Models of the similarities, and whether each was judged and verified; distinct, in order."""
    repeats: int
    """Lookups of identical text in the same context."""
    changed: int
    """Repeats whose answer had changed."""
    problem: str | None
    """The problem of the first skipped line."""
    skipped: int


def read_pairs(path: Path, columns: PairColumns) -> list[LabelledPair]:
    """Read labelled pairs from CSV, TSV or JSON lines, optionally gzipped.

    Raises:
        ArgumentError: The file cannot be read, lacks a column, or has a broken row; or all pairs
            have the same label.
    """
    names = (
        ("the query", "--query", columns.query, QUERY),
        ("the stored query", "--candidate", columns.candidate, CANDIDATE),
        ("the label", "--label", columns.label, LABEL),
    )
    pairs = []
    with QueryLog(path, log_format=None, columns=Columns()) as log:
        for line, row in log.rows():
            where = f"{path.name}, line {line}"
            if isinstance(row, str):
                raise ArgumentError(f"{where}: {row}")
            query, candidate, label = (
                _value(row, what, option, (name,) if name else usual, where)
                for what, option, name, usual in names
            )
            pairs.append(
                LabelledPair(
                    _text(query, "query", where),
                    _text(candidate, "stored query", where),
                    _flag(label, where),
                )
            )
    _check_both(path, [pair.right for pair in pairs], "pairs", "labelled right")
    return pairs


def read_log(path: Path) -> Logged:
    """Read the log of shadow mode; a truncated line is skipped and reported.

    Raises:
        ArgumentError: The file cannot be read, or is no such log; or all answers agree, or none.
    """
    similarity: list[float] = []
    right: list[bool] = []
    models: dict[str, None] = {}
    repeats = changed = skipped = 0
    problem: str | None = None
    with QueryLog(path, log_format="jsonl", columns=Columns()) as log:
        for line, row in log.rows():
            found = row if isinstance(row, str) else _problem(row)
            if isinstance(row, str) or found is not None:
                skipped += 1
                problem = problem or f"line {line}: {found}"
                continue
            verifier = row.get("verifier", "off")  # logs of earlier versions do not name it
            models[f"{row['model']}, judge {row['judge']}, verifier {verifier}"] = None
            same = bool(row.get("same", False))
            similarity.append(float(row.get("similarity", 0.0)))
            right.append(same)
            if row.get("candidate_key") == row["query_key"]:
                repeats, changed = repeats + 1, changed + (not same)
    if not right and problem is not None:
        raise ArgumentError(
            f"{path.name} is no log of shadow mode, which `shadow_log` names: {problem}"
        )
    _check_both(path, right, "lookups", "answered as what was stored")
    scores = Scores(np.array(similarity), np.array(right, np.bool_))
    return Logged(scores, tuple(models), repeats, changed, problem, skipped)


def _value(
    row: Mapping[str, Any], what: str, option: str, tried: tuple[str, ...], where: str
) -> Any:
    name = next((name for name in tried if name in row), None)
    if name is None:
        raise ArgumentError(
            f"{where}: there is no column for {what}: expected {' or '.join(tried)}, or its name "
            f"with {option}; the columns are {', '.join(map(str, row))}"
        )
    return row[name]


def _text(value: Any, what: str, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ArgumentError(f"{where}: the {what} is {value!r}: expected a text that is not blank")
    return value


def _flag(value: Any, where: str) -> bool:
    found = _WORDS.get(str(value).strip().lower())
    if found is None:
        raise ArgumentError(
            f"{where}: the label is {value!r}: expected 1, true or yes where one answer serves "
            "both queries, 0, false or no where it does not"
        )
    return found


def _problem(row: Mapping[str, Any]) -> str | None:
    """Return the problem of a log line, or None."""
    if not {"query_key", "model", "judge"} <= row.keys():
        return f"expected query_key, model and judge, got {', '.join(map(str, row))}"
    if "candidate_key" not in row:
        return None  # no entry to compare with
    similarity = row.get("similarity", -1)
    if not is_number(similarity) or not 0 <= similarity <= 1:
        return f"similarity is {similarity!r}: expected a number from 0 to 1"
    if not isinstance(row.get("same"), bool):
        return f"same is {row.get('same')!r}: expected true or false"
    return None


def _check_both(path: Path, right: list[bool], what: str, answer: str) -> None:
    if not right:
        raise ArgumentError(f"{path.name} has no {what}")
    if all(right) or not any(right):
        which = "all" if all(right) else "none"
        raise ArgumentError(
            f"{path.name}: {which} of its {len(right):,} {what} are {answer}: what tells the two "
            "apart can only be learnt from both"
        )
