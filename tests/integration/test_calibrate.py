"""`memora calibrate` as its user meets it."""

from __future__ import annotations

import base64
import csv
import gzip
import importlib.util
import json
import os
import re
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest
from command import memora
from doubles import WordEmbedder

from memora import CacheConfig, Memora
from memora.tuning import GRID

if TYPE_CHECKING:
    from collections.abc import Sequence

PAIRS = [
    ("What was revenue in March?", "Tell me the revenue in March", 1),
    ("What was revenue in March?", "What was revenue in April?", 0),
    ("How do I reset my password?", "How can I reset my password?", 1),
    ("How do I reset my password?", "  How do I reset my password? ", 1),
    ("How do I bake bread?", "Who wrote Hamlet?", 0),
    ("Can I cancel my order?", "Can I return my order?", 0),
]


def write_csv(path: Path, rows: Sequence[Sequence[Any]], *names: str, delimiter: str = ",") -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows([names, *rows])
    return path


def write_log(path: Path, *groups: tuple[float, int, int], **changed: Any) -> Path:
    """Write a log of shadow mode; groups are similarity, right ones, wrong ones."""
    common = {"at": 1.0, "model": "words-1", "judge": "on", "query_key": "aa"}
    rows = [
        {**common, "candidate_key": "bb", "similarity": similarity, "same": at < right, **changed}
        for similarity, right, wrong in groups
        for at in range(right + wrong)
    ]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    return path


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return write_csv(tmp_path / "pairs.csv", PAIRS, "query", "candidate", "right")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """At 1 % of all, 0.8 is the threshold: half of the lookups have no candidate that counts."""
    return write_log(tmp_path / "shadow.jsonl", (0.9, 500, 0), (0.8, 480, 2), (0.4, 300, 700))


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_pairs_are_scored_by_the_model_and_too_few_say_so(pairs: Path) -> None:
    report = json.loads(memora("calibrate", pairs, "--json", code=1))

    assert (report["pairs"], report["right"]) == (6, 3)
    assert report["recommendation"]["status"] == "too_few"
    assert report["recommendation"]["needed"] == 368
    assert [point["threshold"] for point in report["curve"]] == list(GRID)
    assert (report["curve"][0]["served"], report["curve"][0]["right"]) == (1, 1)  # the same text
    lowest = report["curve"][-1]
    assert lowest["served"] == lowest["right"] + lowest["wrong"] >= 4
    told = memora("calibrate", pairs, code=1)
    assert "Too few pairs: 6 cannot show at most 1 % wrong of all pairs" in told
    assert "About 362 more" in told


def test_forms_of_files_of_pairs_are_alike(pairs: Path, tmp_path: Path) -> None:
    expected = json.loads(memora("calibrate", pairs, "--json", code=1))["curve"]
    named = [(a, b, "yes" if right else "no") for a, b, right in PAIRS]
    words = write_csv(tmp_path / "p.tsv", named, "x", "y", "z", delimiter="\t")
    zipped = tmp_path / "p.jsonl.gz"
    rows = ({"b": query, "a": stored, "same": bool(right)} for query, stored, right in PAIRS)
    zipped.write_bytes(gzip.compress("".join(f"{json.dumps(r)}\n" for r in rows).encode()))

    columns = ("--query", "x", "--candidate", "y", "--label", "z")
    for arguments in [(words, *columns), (zipped,)]:
        found = json.loads(memora("calibrate", *arguments, "--json", code=1))
        assert found["curve"] == expected


def test_a_log_gives_a_threshold_with_its_interval(log: Path) -> None:
    report = json.loads(memora("calibrate", log, "--from-log", "--json"))

    advice = report["recommendation"]
    assert (advice["status"], advice["threshold"], advice["of"]) == ("found", 0.8, "all")
    assert (advice["wrong"]["count"], advice["wrong"]["whole"]) == (2, 1982)
    assert advice["wrong"]["low"] < advice["wrong"]["value"] < advice["wrong"]["high"] <= 0.01
    told = memora("calibrate", log, "--from-log")
    assert "Threshold 0.8 has 0.101 % wrong of all lookups (0.0122 to 0.364 %)" in told
    assert "at most 1 % wrong of all lookups, with 95 % confidence" in told
    assert "Of what it serves, 0.204 % (0.0247 to 0.734 %) is wrong." in told
    assert re.search(r"^ +> 0\.8 +49\.5 ", told, flags=re.MULTILINE)
    of_hits = json.loads(memora("calibrate", log, "--from-log", "--of", "hits", "--json"))
    assert of_hits["recommendation"]["wrong"]["whole"] == 982


def test_the_log_that_the_settings_name_is_read(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "MEMORA_SHADOW_LOG" in memora("calibrate", "--from-log", code=2)
    monkeypatch.setenv("MEMORA_SHADOW_LOG", str(log))

    report = json.loads(memora("calibrate", "--from-log", "--json"))

    assert report["recommendation"]["threshold"] == 0.8


def test_no_threshold_keeps_a_budget_that_is_broken_everywhere(tmp_path: Path) -> None:
    log = write_log(tmp_path / "shadow.jsonl", (1.0, 100, 100), (0.9, 500, 500))

    told = memora("calibrate", log, "--from-log", code=1)

    assert "No threshold meets at most 1 % wrong of all lookups" in told
    assert "more like these" not in told


def test_a_cache_in_shadow_mode_writes_what_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "shadow.jsonl"
    config = CacheConfig(mode="shadow", shadow_log=str(log))
    with Memora(config, embedder=WordEmbedder()) as cache:
        for query, answer in [("a b c", 1), ("a b c", 1), ("a b c", 2), ("d e f", 3)]:
            assert not cache.lookup(query)
            cache.store(query, None, answer)
    with log.open("a", encoding="utf-8") as file:
        file.write('{"at": 1.0, "mod')  # killed while it wrote

    report = json.loads(memora("calibrate", log, "--from-log", "--json", code=1))

    assert (report["pairs"], report["right"]) == (4, 1)
    assert report["curve"][0]["served"] == 2
    assert capsys.readouterr().err == ""


def test_what_is_left_out_of_a_log_and_changed_repeats_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr("memora.cli.calibrate.note", told.append)
    log = write_log(tmp_path / "shadow.jsonl", (1.0, 8, 2), candidate_key="aa")
    log.write_text(log.read_text("utf-8") + "[1]\nnot JSON\n", "utf-8")

    memora("calibrate", log, "--from-log", "--json", code=1)

    assert told[0].startswith("2 lines skipped; first: line 11: expected a JSON object")
    assert told[1].startswith("2 of 10 repeats of the very same query had another answer")


# What is written


def test_nothing_is_written_unless_asked(log: Path) -> None:
    before = files_of(log.parent)

    memora("calibrate", log, "--from-log")

    assert files_of(log.parent) == before


def test_pictures_and_the_setting_are_written(log: Path, tmp_path: Path) -> None:
    picture, page, env = tmp_path / "c.png", tmp_path / "c.html", tmp_path / ".env"
    env.write_bytes(b"# ours\r\nMEMORA_SIMILARITY_THRESHOLD = 0.85 # old\r\nOTHER=1\r\n")
    env.chmod(0o640)

    memora("calibrate", log, "--from-log", "--plot", picture, "--html", page, "--write", env)

    assert env.read_bytes() == b"# ours\r\nMEMORA_SIMILARITY_THRESHOLD = 0.8 # old\r\nOTHER=1\r\n"
    assert env.stat().st_mode & 0o777 == 0o640
    content = picture.read_bytes()
    assert content.startswith(b"\x89PNG\r\n")
    width, height = struct.unpack(">II", content[16:24])
    assert width > height > 400
    text = page.read_text("utf-8")
    assert "Threshold 0.8 has 0.101 % wrong" in text
    assert "<td>&gt; 0.8</td><td>49.5</td>" in text
    assert "http" not in re.sub(r"base64,[^\"]*", "", text)  # it needs no network
    drawn = re.search(r"svg\+xml;base64,([^\"]+)\"", text)
    assert drawn is not None
    assert ET.fromstring(base64.b64decode(drawn[1])).tag.endswith("svg")  # noqa: S314 - ours
    assert sorted(files_of(tmp_path)) == [".env", "c.html", "c.png", "shadow.jsonl"]


@pytest.mark.parametrize("name", ["new.env", ".env"])
def test_an_env_file_is_made_and_can_be_loaded(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    env = tmp_path / name
    memora("calibrate", log, "--from-log", "--write", env)
    memora("calibrate", log, "--from-log", "--write", env)

    assert env.read_text("utf-8") == "MEMORA_SIMILARITY_THRESHOLD=0.8\n"
    monkeypatch.setenv(*env.read_text("utf-8").strip().split("="))
    assert CacheConfig.load().similarity_threshold == 0.8


def test_the_last_line_of_an_env_file_is_left_whole(log: Path, tmp_path: Path) -> None:
    env = tmp_path / ".env"
    env.write_text("OTHER=1", "utf-8")

    memora("calibrate", log, "--from-log", "--write", env)

    assert env.read_text("utf-8") == "OTHER=1\nMEMORA_SIMILARITY_THRESHOLD=0.8\n"


def test_without_a_recommendation_the_setting_stays(pairs: Path, tmp_path: Path) -> None:
    env, picture = tmp_path / ".env", tmp_path / "c.png"
    env.write_text("MEMORA_SIMILARITY_THRESHOLD=0.9\n", "utf-8")

    memora("calibrate", pairs, "--write", env, "--plot", picture, code=1)

    assert env.read_text("utf-8") == "MEMORA_SIMILARITY_THRESHOLD=0.9\n"
    assert picture.is_file()


def test_if_one_file_cannot_be_written_none_is(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = Path.replace

    def full(self: Path, target: Path) -> Path:
        if target.suffix == ".png":
            raise OSError(28, "No space left on device")
        return replace(self, target)

    before = files_of(tmp_path)
    monkeypatch.setattr(Path, "replace", full)

    told = memora(
        *("calibrate", log, "--from-log", "--plot", tmp_path / "c.png"),
        *("--write", tmp_path / ".env"),
        code=2,
    )

    assert "No space left" in told
    assert files_of(tmp_path) == before


# What is refused: exit code 2, one line, nothing changed


@pytest.mark.parametrize(
    ("rows", "names", "said"),
    [
        ([("a", 1)], ("query", "right"), "no column for the stored query: expected candidate or"),
        ([("a", "b")], ("query", "candidate"), "no column for the label"),
        ([("a", "b", 1)], ("left", "candidate", "right"), "no column for the query"),
        (
            [("a", "b", 1), ("c", "d", 1)],
            ("a", "b", "same"),
            "all of its 2 pairs are labelled right",
        ),
        ([("a", "b", 0)], ("a", "b", "same"), "none of its 1 pairs"),
        ([("a", "b", "maybe")], ("a", "b", "same"), "line 2: the label is 'maybe'"),
        ([("a", " ", 1)], ("a", "b", "same"), "line 2: the query is ' '"),
        ([("a", "b")], ("a", "b", "same"), "the label is None"),
        ([], ("a", "b", "same"), "has no pairs"),
    ],
)
def test_files_of_pairs_that_are_refused(
    tmp_path: Path, rows: list[Any], names: tuple[str, ...], said: str
) -> None:
    path = write_csv(tmp_path / "pairs.csv", rows, *names)
    env = tmp_path / ".env"

    told = memora("calibrate", path, "--write", env, "--plot", tmp_path / "c.png", code=2)

    assert said in told
    assert told.count("\n") == 1
    assert sorted(files_of(tmp_path)) == ["pairs.csv"]


def test_files_that_are_none_are_refused(tmp_path: Path, pairs: Path, log: Path) -> None:
    assert "No such file" in memora("calibrate", tmp_path / "missing.csv", code=2)
    assert "directory" in memora("calibrate", tmp_path, code=2)
    (tmp_path / "broken.csv.gz").write_bytes(b"no gzip")
    assert "damaged" in memora("calibrate", tmp_path / "broken.csv.gz", code=2)
    (tmp_path / "plain.txt").write_text("one\ntwo\n", "utf-8")
    assert "no columns" in memora("calibrate", tmp_path / "plain.txt", code=2)
    assert "is no log of shadow mode" in memora("calibrate", pairs, "--from-log", code=2)
    assert "no column for" in memora("calibrate", log, code=2)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"same": "yes"}, "same is 'yes': expected true or false"),
        ({"similarity": 2}, "similarity is 2: expected a number from 0 to 1"),
        ({"similarity": None}, "similarity is None"),
        ({"same": True}, "all of its 4 lookups"),
    ],
)
def test_logs_that_are_refused(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    path = write_log(tmp_path / "shadow.jsonl", (0.9, 2, 2), **changed)

    assert said in memora("calibrate", path, "--from-log", code=2)


def test_similarities_of_two_models_are_not_put_together(tmp_path: Path) -> None:
    log = write_log(tmp_path / "shadow.jsonl", (0.9, 2, 2))
    other = write_log(tmp_path / "other.jsonl", (0.9, 2, 2), model="words-2")
    log.write_text(log.read_text("utf-8") + other.read_text("utf-8"), "utf-8")

    told = memora("calibrate", log, "--from-log", code=2)
    assert "words-1, judge on, verifier off; words-2, judge on, verifier off" in told


def test_verified_similarities_are_not_put_together_with_others(tmp_path: Path) -> None:
    log = write_log(tmp_path / "shadow.jsonl", (0.9, 2, 2))
    other = write_log(tmp_path / "other.jsonl", (0.9, 2, 2), verifier="on")
    log.write_text(log.read_text("utf-8") + other.read_text("utf-8"), "utf-8")

    told = memora("calibrate", log, "--from-log", code=2)
    assert "words-1, judge on, verifier off; words-1, judge on, verifier on" in told


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--max-wrong", "0"], "--max-wrong '0': expected a share above 0 and below 1"),
        (["--max-wrong", "100%"], "--max-wrong"),
        (["--max-wrong", "one"], "--max-wrong 'one'"),
        (["--max-wrong", "nan"], "--max-wrong"),
        (["--confidence", "95"], "--confidence '95'"),
        (["--of", "misses"], "--of 'misses': expected all or hits"),
        (["--label", "x"], "columns of a file of pairs"),
        (["--plot", "c.jpg"], "ends in .png"),
        (["--html", "c.txt"], "ends in .htm"),
        (["--write", "settings.json"], "MEMORA_SIMILARITY_THRESHOLD=VALUE lines"),
        (["--plot", "missing/c.png"], "there is no directory"),
        (["--plot", "."], "--plot '.'"),
        (["--plot", "folder.png"], "it is a directory"),
        (["--plot", "x.png", "--write", "x.png"], "it is named twice"),
        (["--write", "shadow.jsonl"], "is the input"),
    ],
)
def test_options_that_are_refused(
    log: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(log.parent)
    Path("folder.png").mkdir()
    before = sorted(path.name for path in log.parent.iterdir())

    told = memora("calibrate", log.name, "--from-log", *arguments, code=2)

    assert said in told
    assert sorted(path.name for path in log.parent.iterdir()) == before


def test_a_file_is_needed() -> None:
    assert "name a file of labelled pairs, or --from-log" in memora("calibrate", code=2)


def test_paths_without_permission_are_refused_before_anything_is_computed(
    log: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "c.png").write_bytes(b"old")
    monkeypatch.setattr(
        "os.access", lambda path, mode: mode == os.R_OK or Path(path).is_dir()
    )  # root may do anything
    monkeypatch.setattr("memora.cli.calibrate.read_log", None)

    told = memora("calibrate", log, "--from-log", "--plot", tmp_path / "c.png", code=2)

    assert "it is read-only" in told
    assert (tmp_path / "c.png").read_bytes() == b"old"


def test_where_nothing_is_served_no_budget_is_blamed(tmp_path: Path) -> None:
    log = write_log(tmp_path / "shadow.jsonl", (0.0, 5, 5))

    told = memora("calibrate", log, "--from-log", code=1)

    assert "No threshold serves any of these 10 lookups." in told
    assert "more is wrong" not in told


def test_a_missing_extra_is_named(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "memora.cli.calibrate.find_spec", lambda name: None if name == "scipy" else find(name)
    )

    assert "memora-cache[tuning]" in memora("calibrate", log, "--from-log", code=2)
