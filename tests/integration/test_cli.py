"""The command line as its user meets it."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections import Counter
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import pytest
import typer
from command import memora

from memora import CacheConfig, Memora
from memora.cli.app import app

if TYPE_CHECKING:
    from pathlib import Path


LOG = [
    {"query": "What was revenue in March 2024?", "class": "march", "context": {"db": "a"}},
    {"query": "What was revenue in March 2024?", "class": "march", "context": {"db": "a"}},
    {"query": "Tell me the revenue in March 2024", "class": "march", "context": {"db": "a"}},
    {"query": "What was revenue in March 2024?", "class": "march-b", "context": {"db": "b"}},
    {"query": "What was revenue in March 2023?", "class": "march-23", "context": {"db": "b"}},
    {"query": "How do I bake bread?", "class": "bread", "context": {"db": "b"}},
]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "log.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in LOG) + "\n\n", "utf-8")
    return path


def test_replay_counts_hits_and_the_wrong_ones(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMORA_JUDGE", "off")  # the bare cosine is wrong once
    report = json.loads(memora("replay", log, "--json", "--call-seconds", "10"))

    assert (report["queries"], report["contexts"], report["hits"]) == (6, 2, 3)
    assert report["outcomes"] == {
        "below_threshold": 1,
        "exact": 1,
        "no_candidate": 2,
        "semantic": 2,
    }
    assert (report["wrong_hits"], report["labelled_hits"], report["possible_hits"]) == (1, 3, 2)
    assert [example["query"] for example in report["mistakes"]] == [LOG[4]["query"]]
    assert [example["query"] for example in report["paraphrases"]] == [LOG[2]["query"]]
    assert [example["query"] for example in report["refusals"]] == [LOG[5]["query"]]
    assert report["lookup_ms"]["samples"] == 6
    assert 15 < report["seconds_saved"] <= 20  # two right hits of ten seconds, less the lookups


def test_examples_say_what_refused(log: Path) -> None:
    log.write_text("\n".join(json.dumps(row) for row in LOG[3:]), "utf-8")

    report = json.loads(memora("replay", log, "--json"))

    refused = {example["query"]: example for example in report["refusals"]}
    example = refused["What was revenue in March 2023?"]
    assert example["evidence"] == [{"kind": "dates", "detail": "2023 / 2024"}]
    assert example["similarity"] < example["cosine"]
    assert example["verdict"] == "right"
    assert "dates: 2023 /" in memora("replay", log)


def test_replay_prints_a_table_for_people(log: Path) -> None:
    printed = memora("replay", log)

    for words in ("queries", "in 2 contexts", "hit rate", "wrong hits", "lookup p95", "time saved"):
        assert words in printed
    assert "Served by meaning" in printed
    assert "Refused" in printed
    assert "why" in printed


def test_a_log_is_replayed_under_two_settings_side_by_side(log: Path) -> None:
    arguments = ["replay", log, "--compare", "similarity_threshold=1"]
    compared = json.loads(memora(*arguments, "--compare", "judge=off", "--json"))["compared"]

    assert [side["settings"] for side in compared] == [
        {"similarity_threshold": 0.85, "judge": "on"},
        {"similarity_threshold": 1.0, "judge": "off"},
    ]
    first, second = (side["report"] for side in compared)
    assert first["queries"] == second["queries"] == 6
    assert (second["outcomes"].get("semantic", 0), second["hits"]) == (0, 1)
    only, none = (side["served_by_this_only"] for side in compared)
    assert none == {"right": 0, "wrong": 0, "unlabelled": 0, "examples": []}
    assert only["right"] + only["wrong"] == first["hits"] - second["hits"]
    assert only["examples"][0]["query"] == LOG[2]["query"]
    assert only["examples"][0]["verdict"] == "right"
    assert "is below the threshold 1.0" in only["examples"][0]["explanation"]


def test_the_comparison_is_printed_as_a_table(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMORA_JUDGE", "off")

    printed = memora("replay", log, "--compare", "judge=on")

    for words in ("judge=off", "judge=on", "wrong hits", "answers reused", "lookup p50"):
        assert words in printed
    assert "Served with judge=off only: 1 wrong" in printed
    assert "dates: 2023 /" in printed


def test_a_setting_of_the_command_line_is_common_to_both_sides(log: Path) -> None:
    arguments = ("--threshold", "0.5", "--limit", "4", "--compare", "judge=off", "--json")
    compared = json.loads(memora("replay", log, *arguments))["compared"]

    for side in compared:
        assert (side["report"]["queries"], side["report"]["outcomes"]["exact"]) == (4, 1)


def test_the_threshold_and_the_limit_are_options(log: Path) -> None:
    report = json.loads(memora("replay", log, "--json", "--threshold", "1", "--limit", "3"))

    assert (report["queries"], report["hits"]) == (3, 1)


def write_csv(path: Path) -> list[str | Path]:
    path = path / "log.csv"
    path.write_text(
        '\ufeffquestion,tenant,model,intent\r\n"How do I bake\nbread, please?",acme,m,bread\r\n'
        "How do I bake bread?,acme,m,bread\r\nHow do I bake bread?,other,m,other\r\n",
        "utf-8",
    )
    return [path, "--context", "tenant", "--context", "model", "--class", "intent"]


def write_text(path: Path) -> list[str | Path]:
    path = path / "log.txt.gz"
    path.write_bytes(gzip.compress(b"How do I bake bread?\n\n how do I bake bread?\nUnrelated\n"))
    return [path]


def write_nested_context(path: Path) -> list[str | Path]:
    path = path / "log.csv"
    path.write_text('query,context\nbread,"{""a"": [1]}"\nbread,"{""a"": [1]}"\nbread,x\n', "utf-8")
    return [path]


@pytest.mark.parametrize(
    ("write", "queries", "hits", "contexts"),
    [(write_csv, 3, 1, 2), (write_text, 3, 1, 1), (write_nested_context, 3, 1, 2)],
)
def test_logs_of_other_formats(
    write: Any, queries: int, hits: int, contexts: int, tmp_path: Path
) -> None:
    report = json.loads(memora("replay", *write(tmp_path), "--json", "--threshold", "0.7"))

    assert (report["queries"], report["hits"], report["contexts"]) == (queries, hits, contexts)
    assert report["skipped_lines"] == 0


def test_bad_lines_are_skipped_counted_and_the_first_is_shown(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(
        b'{"query": "a"}\nnot json\n[1]\n{"other": 1}\n{"query": "  "}\n{"text": "b"}\n"c"\n\xff\n'
    )

    report = json.loads(memora("replay", path, "--json"))

    assert (report["queries"], report["skipped_lines"]) == (3, 5)
    assert "line 2" in memora("replay", path)


def test_records_that_the_cache_refuses_are_skipped_too(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    deep = '{"a":' * 100_000 + "1" + "}" * 100_000
    lines = ['{"query": "lone \\ud83d"}', '{"query": "q", "context": {"x": NaN}}', deep]
    path.write_text("\n".join([*lines, '{"query": "fine"}']), "utf-8")

    report = json.loads(memora("replay", path, "--json"))

    assert (report["queries"], report["skipped_lines"]) == (1, 3)


def test_long_fields_of_a_csv_are_read(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("query\n" + "word " * 50_000 + "\n", "utf-8")

    assert json.loads(memora("replay", path, "--json"))["queries"] == 1


def test_a_query_cannot_control_the_terminal(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    # A text with control characters is compared by equality only, so the table shows the others.
    texts = ["[red]hello[/] world", "[bold]hello there[/] world", "hello \x1b]0;title\x07 world"]
    path.write_text("\n".join(texts), "utf-8")

    printed = memora("replay", path)

    assert "[red]hello[/]" in printed
    assert "\x1b]0;" not in printed
    assert "\x07" not in printed


def test_any_result_can_be_printed(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    results = {"tuples": {(1, 2): 3}, "nan": float("nan"), "surrogate": "a\ud800", "big": 2**70}
    with Memora(CacheConfig(db_uri=store)) as cache:
        for query, result in results.items():
            cache.store(query, None, result)

    for query in results:
        assert json.loads(memora("lookup", query, "--db", store, "--json"))["is_hit"]
        assert memora("lookup", query, "--db", store)


def test_a_replay_into_a_store_on_disk_is_found_by_the_next_one(log: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    memora("replay", log, "--db", store)

    report = json.loads(memora("replay", log, "--db", store, "--json"))

    assert report["hits"] == 6
    assert report["labelled_hits"] == 6


def test_the_version_is_printed() -> None:
    assert memora("--version").startswith("memora-cache 0.")


def test_the_demo_runs_on_a_slice() -> None:
    report = json.loads(memora("demo", "--limit", "300", "--json"))

    assert report["queries"] == 300
    assert report["hits"] > 30
    assert report["possible_hits"] > 50


def test_the_packaged_log_is_what_its_readme_says() -> None:
    text = (files("memora") / "demo" / "queries.jsonl").read_text("utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    readme = (files("memora") / "demo" / "README.md").read_text("utf-8")

    assert len(rows) >= 800
    kinds = Counter(row["kind"] for row in rows)
    assert set(kinds) == {"first", "repeat", "paraphrase", "near_miss", "other_context"}
    for kind, n in kinds.items():
        assert kind in readme
        assert str(n) in readme
    contexts: dict[str, str] = {}
    for row in rows:
        place = json.dumps(row["context"], sort_keys=True)
        assert contexts.setdefault(row["class"], place) == place
    assert len(set(contexts.values())) >= 8


def test_store_lookup_and_stats_work_on_a_path(tmp_path: Path) -> None:
    store = ["--db", tmp_path / "store", "--context", '{"tenant": "acme"}']

    entry_id = memora("store", "Which plan includes SSO?", "Enterprise", *store).strip()
    told = memora("store", "limits?", '{"seats": 5}', *store, "--parse-json", "--json")
    assert len(json.loads(told)["entry_id"]) == len(entry_id)
    memora("store", "from a pipe", "-", *store, given="piped text")

    assert memora("lookup", "which plans include SSO?", *store).strip() == "Enterprise"
    assert memora("lookup", "limits?", *store).strip() == '{"seats":5}'
    assert memora("lookup", "from a pipe", *store).strip() == "piped text"
    found = json.loads(memora("lookup", "Which plan includes SSO?", *store, "--json"))
    assert (found["is_hit"], found["reason"], found["entry_id"]) == (True, "exact", entry_id)
    missed = json.loads(memora("lookup", "bread", *store, "--json", code=1))
    assert (missed["is_hit"], missed["reason"]) == (False, "below_threshold")
    stats = json.loads(memora("stats", "--db", tmp_path / "store", "--json"))
    assert stats["total_entries"] == 3
    assert stats["disk_bytes"] > 1000
    assert "total_entries" in memora("stats", "--db", tmp_path / "store")


def test_explain_shows_what_a_lookup_would_do(tmp_path: Path) -> None:
    store = ["--db", tmp_path / "store", "--context", '{"tenant": "acme"}']
    memora("store", "What was revenue in March 2024?", "1.5", *store)

    printed = memora("explain", "What was revenue in March 2023?", *store)
    told = json.loads(memora("explain", "What was revenue in March 2023?", *store, "--json"))
    low = json.loads(memora("explain", "revenue", *store, "--threshold", "0", "--json"))
    same = memora("explain", "What was revenue in March 2024?", *store)

    assert printed.splitlines()[0] == "miss (below_threshold): What was revenue in March 2023?"
    assert "dates: 2023 / 2024" in printed
    assert (told["is_hit"], told["threshold"]) == (False, 0.85)
    assert told["candidates"][0]["evidence"] == [{"kind": "dates", "detail": "2023 / 2024"}]
    assert (low["is_hit"], low["reason"], low["threshold"]) == (True, "semantic", 0)
    assert same.startswith("hit (exact)")


def test_every_command_prints_json_when_asked() -> None:
    def without(command: Any) -> list[str]:
        if commands := getattr(command, "commands", None):
            return [name for one in commands.values() for name in without(one)]
        options = {option for parameter in command.params for option in parameter.opts}
        return [] if "--json" in options else [command.name]

    assert without(typer.main.get_command(app)) == []


WRONG: list[tuple[list[str], str]] = [
    (["replay", "missing.jsonl"], "cannot read 'missing.jsonl': No such file or directory"),
    (["replay", "."], "cannot read '.'"),
    (["replay", "empty.txt"], "no query found; the file is empty"),
    (["replay", "bad.jsonl"], "no query found; line 1: not JSON"),
    (["replay", "damaged.txt.gz"], "the file is damaged or not text"),
    (["replay", "log.csv", "--context", "tennant"], "no column 'tennant'; the columns are query"),
    (["replay", "log.csv", "--class", "intnt"], "no column 'intnt'"),
    (["replay", "log.txt", "--query", "q"], "no column 'q'; a text file has no columns"),
    (["replay", "empty.txt", "--format", "xml"], "expected jsonl, csv or text"),
    (["replay", "log.txt", "--compare", "judge"], "expected SETTING=VALUE, such as judge=off"),
    (["replay", "log.txt", "--compare", "judge=maybe"], "judge='maybe': expected on or off"),
    (["replay", "log.txt", "--compare", "jugde=off"], "'jugde'; did you mean 'judge'?"),
    (["replay", "log.txt", "--compare", "db_uri=x"], "both caches are in memory"),
    (["replay", "log.txt", "--db", "s", "--compare", "judge=off"], "leave --db out"),
    (["explain", "q", "--db", "nowhere"], "there is no directory 'nowhere'"),
    (["demo", "--threshold", "2"], "similarity_threshold=2.0: expected a number from 0 to 1"),
    (["lookup", "q", "--db", "nowhere"], "there is no directory 'nowhere'"),
    (["lookup", "q", "--db", "."], "there is no table 'semantic_cache' in '"),
    (["lookup", "q", "--db", "memory://"], "name a directory"),
    (["stats", "--db", "nowhere"], "there is no directory 'nowhere'"),
    (["stats", "--db", "postgres://h"], "no other is supported by this version"),
    (["store", "", "r", "--db", "s"], "query must contain text"),
    (["store", "q", "r", "--db", "s", "--context", "[1]"], "--context must be a JSON object"),
    (["store", "q", "r", "--db", "s", "--context", "{"], "--context must be JSON"),
    (["store", "q", "{", "--db", "s", "--parse-json"], "RESULT must be JSON"),
    (["store", "q", "r", "--db", "s", "--ttl", "-1"], "ttl must be a number of seconds above 0"),
    (["store", "q", "r", "--db", "empty.txt"], "check db_uri"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG)
def test_wrong_input_is_one_line_on_stderr(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "bad.jsonl").write_text("oops\n")
    (tmp_path / "log.csv").write_text("query,tenant\nhello,a\n")
    (tmp_path / "log.txt").write_text("hello\n")
    (tmp_path / "damaged.txt.gz").write_bytes(gzip.compress(b"some text\n" * 99)[:-20])

    error = memora(*arguments, code=2)

    assert message in error
    assert error.startswith("memora: ")
    assert len(error.strip().splitlines()) == 1


def test_settings_come_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMORA_DB_URI", str(tmp_path / "store"))
    monkeypatch.setenv("MEMORA_TABLE_NAME", "mine")
    memora("store", "q", "r")

    assert memora("lookup", "q").strip() == "r"
    assert (tmp_path / "store" / "mine.lance").is_dir()
    monkeypatch.setenv("MEMORA_SIMILARITY_THRESHOLD", "high")
    assert "MEMORA_SIMILARITY_THRESHOLD='high'" in memora("lookup", "q", code=2)


def test_without_its_extra_the_command_says_what_to_install() -> None:
    code = "import sys; sys.modules['typer'] = None\nfrom memora.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.returncode == 2
    assert "pip install 'memora-cache[cli]'" in done.stderr
    assert "Traceback" not in done.stderr
