"""What users of the command line try first: other inputs, Ctrl-C, `clear`, completion."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from command import memora

from memora import CacheConfig, Memora, cli
from memora.cli import replay as replaying
from memora.cli.querylog import BadLine, Columns, QueryLog, Record

if TYPE_CHECKING:
    from collections.abc import Callable

ROWS: list[Any] = [
    {"query": "How do I bake bread?", "context": {"a": 1}},
    {"question": "What is a café?"},
]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(name: str, content: str | bytes, **columns: Any) -> list[Record | BadLine]:
    """Read a file as a query log."""
    data = content if isinstance(content, bytes) else content.encode()
    Path(name).write_bytes(data)
    with QueryLog(Path(name), log_format=None, columns=Columns(**columns)) as log:
        return list(log)


def records(name: str, content: str | bytes, **columns: Any) -> list[Record]:
    """Read what has no bad line."""
    found = read(name, content, **columns)
    assert [one for one in found if isinstance(one, BadLine)] == []
    return [one for one in found if isinstance(one, Record)]


# Where a log is from.


@pytest.mark.parametrize(
    ("given", "queries"),
    [
        ("".join(json.dumps(row) + "\n" for row in ROWS), 2),
        (json.dumps(ROWS), 2),
        (json.dumps([*ROWS, "as a text"], indent=2), 3),
        ("\n\n " + json.dumps(ROWS[0]), 1),
        ("one query\nanother\n", 2),
        ("[1] see the list\nanother", 2),
    ],
)
def test_a_log_is_read_from_standard_input(given: str, queries: int) -> None:
    given_format = ["--format", "text"] if "see the list" in given else []
    report = json.loads(memora("replay", "-", "--json", *given_format, given=given))

    assert (report["queries"], report["skipped_lines"]) == (queries, 0)


def test_a_csv_on_standard_input_is_named() -> None:
    given = "query;tenant\nhello there;a\n"
    report = json.loads(memora("replay", "-", "--format", "csv", "--json", given=given))
    assert report["queries"] == 1
    assert "standard input" in memora("replay", "-", "--format", "csv", given=given)


def test_standard_input_may_be_zipped_and_stays_open(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO(gzip.compress(b'{"query": "a"}\n"b"\n'))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(raw)))  # type: ignore[arg-type]
    with QueryLog(Path("-"), log_format="jsonl", columns=Columns()) as log:
        assert [one.query for one in log if isinstance(one, Record)] == ["a", "b"]
    assert not raw.closed


def test_empty_standard_input_has_no_query() -> None:
    assert "no query found; the file is empty" in memora("replay", "-", code=2)


# JSON arrays.


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("name", ["log.json", "log.jsonl"])
def test_an_array_is_a_log(indent: int | None, name: str) -> None:
    found = records(name, json.dumps(ROWS, indent=indent))

    assert [(one.line, one.query) for one in found] == [
        (1, "How do I bake bread?"),
        (2, "What is a café?"),
    ]
    assert found[0].context == {"a": 1}


def test_items_that_are_no_queries_are_told_by_their_number() -> None:
    good, bad = read("log.json", '["a", 3]')
    assert isinstance(good, Record)
    assert bad == BadLine(2, "item 2: expected a JSON object, got a int")


def test_lines_that_are_arrays_are_lines() -> None:
    found = read("log.jsonl", '[1]\n\n{"query": "a"}\n[2]\n')
    assert [(one.line, type(one)) for one in found] == [(1, BadLine), (3, Record), (4, BadLine)]


@pytest.mark.parametrize("text", ["[", '[{"query": "a"},', '[{"query": "a"}\n, oops]', "[" * 9999])
def test_a_damaged_array_is_an_error(text: str) -> None:
    Path("log.json").write_text(text)
    assert "begins with '[' and is no JSON array" in memora("replay", "log.json", code=2)


# Logs of chats.

TERSE = {"role": "system", "content": "Be terse."}
ASKED = {"role": "user", "content": "How do I bake bread?"}
SAID = {"role": "assistant", "content": "Flour, water."}
IMAGE = {"type": "image_url", "image_url": {"url": "https://x/y.png"}}
CALLS = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}
TOOL = {"role": "tool", "tool_call_id": "1", "content": "42"}


def with_parts(*parts: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(parts)}


TEXT = {"type": "text", "text": "How do I bake bread?"}


@pytest.mark.parametrize(
    ("row", "context", "answer"),
    [
        ({"messages": [ASKED]}, {}, None),
        ({"messages": [TERSE, ASKED, SAID]}, {"messages": [TERSE]}, "Flour, water."),
        ({"messages": [ASKED], "model": "m"}, {"model": "m"}, None),
        ({"body": {"messages": [ASKED], "model": "m"}, "custom_id": "1"}, {"model": "m"}, None),
        ({"request": {"messages": [TERSE, ASKED]}, "response": 1}, {"messages": [TERSE]}, 1),
        ({"messages": [with_parts(TEXT)]}, {}, None),
        ({"messages": [with_parts("How do I bake bread?")]}, {}, None),
        ({"messages": [with_parts(IMAGE, TEXT)]}, {"parts": [IMAGE]}, None),
        ({"prompt": [ASKED, SAID]}, {}, "Flour, water."),
        ({"messages": [ASKED, CALLS, TOOL]}, {"messages": [CALLS, TOOL]}, None),
        ({"messages": [ASKED, CALLS, TOOL, SAID]}, {"messages": [CALLS, TOOL]}, "Flour, water."),
        ({"messages": [ASKED, SAID, ASKED]}, {"messages": [ASKED, SAID]}, None),
        ({"messages": [ASKED], "context": {"tenant": "a"}}, {"tenant": "a"}, None),
        ([TERSE, ASKED], {"messages": [TERSE]}, None),
    ],
)
def test_the_last_message_of_the_user_is_the_query_and_the_others_are_context(
    row: Any, context: dict[str, Any], answer: Any
) -> None:
    for name, content in (("a.jsonl", f"{json.dumps(row)}\n" * 2), ("b.json", json.dumps([row]))):
        for found in records(name, content):
            assert found.query == "How do I bake bread?"
            assert found.context == context
            assert found.answer == answer


def test_a_query_of_its_own_comes_before_messages() -> None:
    (found,) = records("log.jsonl", json.dumps({"query": "q", "messages": [ASKED]}))
    assert (found.query, found.context) == ("q", {})
    (found,) = records("log.jsonl", json.dumps({"talk": [ASKED], "query": "q"}), query="talk")
    assert found.query == "How do I bake bread?"


def test_one_conversation_in_a_file_is_one_query() -> None:
    (found,) = records("log.json", json.dumps([TERSE, ASKED, SAID], indent=1))
    assert (found.query, found.answer) == ("How do I bake bread?", "Flour, water.")


def test_messages_may_be_a_column_of_a_csv() -> None:
    cell = json.dumps([TERSE, ASKED]).replace('"', '""')
    (found,) = records("log.csv", f'messages,n\n"{cell}",1\n')
    assert (found.query, found.context) == ("How do I bake bread?", {"messages": [TERSE]})


@pytest.mark.parametrize(
    "messages",
    [
        *([SAID], [with_parts(IMAGE)], [with_parts()], [{"role": "user", "content": None}]),
        *([{"role": "user"}], [{"role": "user", "content": "  "}], [], [3], {"role": "user"}, "x"),
    ],
)
def test_a_chat_without_a_question_is_skipped(messages: Any) -> None:
    (found,) = read("log.jsonl", json.dumps({"messages": messages}))
    assert isinstance(found, BadLine)
    assert "no query: expected" in found.problem


# Delimiters and encodings.


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_heading_of_a_csv_tells_its_delimiter(delimiter: str) -> None:
    rows = ['"query"', '"tenant, or; so"'], ["caf,e", "a"], ['"x;y"', "b"]
    if delimiter == ",":
        rows[1][0] = '"caf,e"'
    text = "".join(f"{delimiter.join(row)}\r\n" for row in rows)
    found = records("log.csv", text, context=("tenant, or; so",))
    assert [(one.query, one.context) for one in found] == [
        ("caf,e", {"tenant, or; so": "a"}),
        ("x;y", {"tenant, or; so": "b"}),
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"], ids=str)
@pytest.mark.parametrize("name", ["log.csv", "log.txt", "log.jsonl"])
def test_a_file_with_a_mark_is_read_in_its_encoding(encoding: str, name: str) -> None:
    text = {
        "log.csv": "query\nWas heißt „Zürich“?\n",
        "log.txt": "Was heißt „Zürich“?\n",
        "log.jsonl": json.dumps({"query": "Was heißt „Zürich“?"}, ensure_ascii=False),
    }[name]
    (found,) = records(name, text.encode(encoding))
    assert found.query == "Was heißt „Zürich“?"


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_a_mark_is_told_as_such(encoding: str) -> None:
    Path("log.csv").write_bytes("query\nhello\n".encode(encoding))
    assert "UTF-16 without a mark" in memora("replay", "log.csv", code=2)


@pytest.mark.parametrize("name", ["log.csv", "log.txt", "log.jsonl"])
def test_a_line_in_latin_1_is_told_as_such_and_the_others_are_read(name: str) -> None:
    heading = b"query\n" if name == "log.csv" else b""
    lines = ["plain", "café", "Übung"]
    if name == "log.jsonl":
        lines = [json.dumps(line, ensure_ascii=False) for line in lines]
    found = read(name, heading + "\n".join(lines).encode("latin-1"))

    assert [type(one) for one in found] == [Record, BadLine, BadLine]
    assert [one.problem[:30] for one in found if isinstance(one, BadLine)] == [
        "the byte 0xe9 is not UTF-8: th",
        "the byte 0xdc is not UTF-8: th",
    ]
    assert "Latin-1 or Windows-1252" in memora("replay", name).replace("\n", " ")


def test_a_surrogate_that_json_writes_is_no_wrong_encoding() -> None:
    (found,) = records("log.jsonl", '{"query": "lone \\udcff"}')
    assert found.query == "lone \udcff"


def test_pairs_are_read_from_standard_input_and_other_delimiters() -> None:
    pairs = "query;candidate;right\nhow are you;how do you do;1\nwho are you;what time is it;0\n"
    for given in (
        pairs,
        json.dumps(
            [
                {"query": "how are you", "candidate": "how do you do", "right": True},
                {"query": "who are you", "candidate": "what time is it", "right": False},
            ]
        ),
    ):
        told = json.loads(memora("calibrate", "-", "--json", given=given, code=1))
        assert (told["pairs"], told["right"]) == (2, 1)
    Path("latin.csv").write_bytes(pairs.encode() + "wär,wer,1\n".replace(",", ";").encode("cp1252"))
    assert "0xe4 is not UTF-8" in memora("calibrate", "latin.csv", code=2)


def test_a_table_needs_no_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "memora.cli.calibrate.find_spec", lambda name: None if name == "matplotlib" else name
    )
    Path("p.csv").write_text("query,candidate,right\na b,a b c,1\nd e,f g,0\n")
    assert "threshold" in memora("calibrate", "p.csv", code=1)
    for option in (["--plot", "x.png"], ["--html", "x.html"]):
        said = memora("calibrate", "p.csv", *option, code=2)
        assert "memora calibrate --plot or --html needs an optional dependency" in said


# What the tables call right.


def test_a_refusal_is_not_called_a_wrong_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    rows = [
        {"query": "What was revenue in March 2024?", "class": "march"},
        {"query": "What was revenue in March 2023?", "class": "march-23"},
        {"query": "How do I bake bread?", "class": "bread"},
        {"query": "how to bake a bread", "class": "bread"},
    ]
    Path("log.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    refused = memora("replay", "log.jsonl", "--threshold", "1").partition("Refused")[2]
    served = memora("replay", "log.jsonl", "--threshold", "0.01").partition("Refused")[0]

    assert "by the labels" in refused
    assert "rightly refused" in refused
    assert "hit lost" in refused
    assert "answer" not in refused
    assert "right answer" in served or "wrong answer" in served
    assert "refused" not in served


# Ctrl-C.


def interrupted(*_: Any, progress: Callable[[int, int | None], None], **__: Any) -> None:
    """Stand for what a user interrupts when some of it is done."""
    progress(64, None)
    progress(128, 1000)
    raise KeyboardInterrupt


def run(*arguments: str | Path) -> tuple[int, str, str]:
    """Run `memora`; return its exit code, and what it printed on stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patch.setattr(sys, "argv", ["memora", *map(str, arguments)])
        with pytest.raises(SystemExit) as done:
            cli.main()
    assert isinstance(done.value.code, int)
    return done.value.code, out.getvalue(), " ".join(err.getvalue().split())


@pytest.fixture
def store() -> str:
    with Memora("./store", log_level="ERROR") as cache:
        for number in range(3):
            cache.store(f"question {number}", None, number)
    return "./store"


INTERRUPTED = [
    (
        ["warm", "f"],
        "memora.cache.Memora.warm",
        "warming: 128 of 1,000 done; what was s",
    ),
    (["import", "f"], "memora.cache.Memora.import_entries", "importing: 128 of 1,000 done; what"),
    (
        ["export", "f"],
        "memora.cache.Memora.export_entries",
        "exporting: 128 of 1,000 done; no",
    ),
    (
        ["reembed", "--to-table", "new", "--model", "all-MiniLM-L6-v2"],
        "memora.transfer.reembed",
        "embedding: 128 of 1,000 done; what was copied stays: run it again to go on",
    ),
]


@pytest.mark.parametrize(("arguments", "what", "said"), INTERRUPTED, ids=lambda one: str(one[0]))
def test_an_interruption_says_how_far_it_came(
    arguments: list[str], what: str, said: str, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(what, interrupted)

    code, out, err = run(*arguments, "--db", store)

    assert (code, out) == (130, "")
    assert said in err
    assert err.endswith("memora: interrupted")
    assert json.loads(memora("stats", "--db", store, "--json"))["total_entries"] == 3


def test_a_calibration_that_is_interrupted_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memora.tuning.score", interrupted)
    Path("p.csv").write_text("query,candidate,right\na,b,1\nc,d,0\n")

    code, out, err = run("calibrate", "p.csv", "--write", ".env")

    assert (code, out) == (130, "")
    assert "embedding: 128 of 1,000 done; no threshold was computed" in err
    assert not Path(".env").exists()


@pytest.mark.parametrize("options", [[], ["--compare", "judge=off"], ["--json"]])
@pytest.mark.parametrize("done", [0, 2])
def test_an_interrupted_replay_reports_what_it_replayed(
    options: list[str], done: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, calls = replaying.Replay._step, []

    def stopped(self: replaying.Replay, record: Record) -> None:
        if len(calls) == done:
            raise KeyboardInterrupt
        calls.append(record)
        step(self, record)

    monkeypatch.setattr(replaying.Replay, "_step", stopped)
    Path("log.txt").write_text("one thing\nanother thing\nand a third\n")

    code, out, err = run("replay", "log.txt", *options)

    assert code == 130
    assert f"replaying: {done} queries done, which the report is of" in err
    if options == ["--json"]:
        assert json.loads(out)["queries"] == done
    else:
        assert f"{done}" in next(line for line in out.splitlines() if "queries" in line)


def test_any_other_command_says_that_it_was_interrupted(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("memora.cli.app.open_to_look", interrupt)
    assert run("stats", "--db", store) == (130, "", "memora: interrupted")


# Options and commands.


@pytest.mark.parametrize(("ttl", "left"), [("1h", 3600), ("90", 90), ("1h30m", 5400)])
def test_a_result_is_stored_for_a_duration(ttl: str, left: float) -> None:
    memora("store", "q", "r", "--db", "s", "--ttl", ttl)
    with Memora("./s", log_level="ERROR") as cache:
        (entry,) = cache.entries()
    assert entry.expires_at is not None
    assert entry.expires_at - entry.created_at == pytest.approx(left)


def test_all_entries_are_cleared_and_those_of_another_table_are_not(store: str) -> None:
    memora("store", "q", "r", "--db", store, "--table", "other")
    shown = json.loads(memora("clear", "--db", store, "--dry-run", "--json"))
    assert shown["total"] == len(shown["entries"]) == 3
    assert "--yes deletes without asking" in memora("clear", "--db", store, code=2)
    assert json.loads(memora("clear", "--db", store, "--yes", "--json")) == {"deleted": 3}
    assert memora("clear", "--db", store).strip() == "deleted 0 entries"
    with Memora(CacheConfig(db_uri=store, table_name="other", log_level="ERROR")) as cache:
        assert len(cache.entries()) == 1


@pytest.mark.parametrize(
    ("db", "said"),
    [
        ("nowhere", "there is no directory 'nowhere'"),
        ("memory", "did you mean 'memory://'?"),
        ("memory://", "name a directory"),
    ],
)
def test_what_cannot_be_cleared_is_refused(db: str, said: str) -> None:
    assert said in memora("clear", "--db", db, "--yes", code=2)
    assert not Path(db).exists()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_completes_commands(shell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # What --show-completion prints for the shell that it finds itself in.
    monkeypatch.setenv("_MEMORA_COMPLETE", f"source_{shell}")
    assert "_MEMORA_COMPLETE" in memora()
    monkeypatch.setenv("_MEMORA_COMPLETE", f"complete_{shell}")
    monkeypatch.setenv("COMP_WORDS", "memora cle")
    monkeypatch.setenv("COMP_CWORD", "1")
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", "memora cle")
    monkeypatch.setenv("_TYPER_COMPLETE_FISH_ACTION", "get-args")
    told = memora()
    assert "cleanup" in told
    assert "clear" in told
    assert "export" not in told


@pytest.mark.parametrize("command", ["warm", "import"])
@pytest.mark.parametrize(
    ("encoding", "said"),
    [
        ("latin-1", "line 1: the byte 0xe9 is not UTF-8: the file may be Latin-1"),
        ("utf-16", "UTF-16"),
    ],
)
def test_answers_in_another_encoding_are_told_as_such(
    command: str, encoding: str, said: str
) -> None:
    Path("f.jsonl").write_bytes('{"query": "un café?", "result": 1}\n'.encode(encoding))
    assert said in memora(command, "f.jsonl", "--db", "s", code=2)
