"""Moving and warming with real files, stores and processes, and from the command line."""

from __future__ import annotations

import json
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from command import memora
from doubles import WordEmbedder
from processes import Child, run_script

from memora import CacheConfig, Memora
from memora.errors import (
    ArgumentError,
    EmbedderError,
    ModelMismatchError,
    StorePathError,
)
from memora.selection import Selection
from memora.stores import open_stored
from memora.transfer import ImportReport, reembed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ENTRIES = 300


def config(path: Path, **settings: Any) -> CacheConfig:
    settings = {"log_level": "ERROR", "max_entries": None, "durability": "process"} | settings
    return CacheConfig(db_uri=str(path), **settings)


def fill(path: Path) -> dict[str, Any]:
    """Store entries of all sorts in a directory; return them by id."""
    with Memora(config(path), embedder=WordEmbedder()) as cache:
        for number in range(ENTRIES):
            cache.store(
                f"question {number}",
                {"shard": number % 3},
                {"rows": (number,)},
                {"n": number},
                ttl=3600 + number if number % 2 else None,
                sliding=number % 4 == 1,
                tags=[f"doc:{number % 5}"],
                cost=number,
            )
        for number in range(0, ENTRIES, 10):
            assert cache.lookup(f"question {number}", {"shard": number % 3}).is_hit
    return state(path)


def state(path: Path, **settings: Any) -> dict[str, Any]:
    """Return all that a store on disk holds but its vectors, by id."""
    store, _ = open_stored(config(path, **settings))
    try:
        held = {}
        for holding in store.select(Selection(), now=0.0):
            found = store.fetch(holding.entry.key, now=0.0)
            assert found is not None
            assert found[2] is not None
            held[found[0].id] = (found[0], found[1], holding.uses, holding.last_used_at)
        assert len(held) == store.count()
        return held
    finally:
        store.close()


WORKER = """
import time
from pathlib import Path
from doubles import WordEmbedder
from memora import CacheConfig, Memora
from memora.transfer import reembed

class Slow(WordEmbedder):
    def embed(self, texts, /):
        time.sleep(0.3)
        return super().embed(texts)

def tell(done, total):
    channel.send(done)
    time.sleep(0.3)

def config(path, **settings):
    return CacheConfig(db_uri=path, log_level="ERROR", max_entries=None, **settings)

path = {path!r}
if {what!r} == "import":
    with Memora(config(path + "/new"), embedder=WordEmbedder()) as cache:
        cache.import_entries(path + "/e.parquet", progress=tell)
else:
    new = config(path + "/old", table_name="new")
    embedder = Slow(identity="words-2", dimension=32)
    reembed(config(path + "/old"), new, embedder=embedder, progress=tell)
"""


def run_until_killed(what: str, path: Path) -> int:
    """Start moving in a process, kill it when a part is done, and return how much that was."""
    child = Child(run_script, WORKER.format(path=str(path), what=what))
    done = 0
    with suppress(EOFError):  # it has ended
        for _ in range(2):
            done = child.channel.recv()
    child.end()
    return done


def test_a_store_on_disk_is_moved_by_a_file(tmp_path: Path) -> None:
    held = fill(tmp_path / "old")
    with Memora(config(tmp_path / "old"), embedder=WordEmbedder()) as cache:
        assert cache.export_entries(tmp_path / "e.parquet") == ImportReport(written=ENTRIES)
    with Memora(config(tmp_path / "new"), embedder=WordEmbedder()) as cache:
        assert cache.import_entries(tmp_path / "e.parquet") == ImportReport(written=ENTRIES)
        assert cache.lookup("question 7", {"shard": 1}).result == {"rows": (7,)}

    moved = state(tmp_path / "new")

    seven = next(one for one in moved.values() if one[0].query == "question 7")
    assert seven[2] == 1  # the lookup
    del moved[seven[0].id], held[seven[0].id]
    assert moved == held


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_a_killed_import_is_run_again_and_ends_complete(tmp_path: Path) -> None:
    held = fill(tmp_path / "old")
    with Memora(config(tmp_path / "old"), embedder=WordEmbedder()) as cache:
        cache.export_entries(tmp_path / "e.parquet")

    done = run_until_killed("import", tmp_path)
    part = state(tmp_path / "new")
    with Memora(config(tmp_path / "new"), embedder=WordEmbedder()) as cache:
        moved = cache.import_entries(tmp_path / "e.parquet")

    assert 0 < done <= len(part) < ENTRIES
    assert moved == ImportReport(written=ENTRIES - len(part), present=len(part))
    entries = {key: one[:2] for key, one in held.items()}
    assert {key: one[:2] for key, one in state(tmp_path / "new").items()} == entries


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_a_killed_reembedding_is_run_again_and_ends_complete(tmp_path: Path) -> None:
    held = fill(tmp_path / "old")
    embedder = WordEmbedder(identity="words-2", dimension=32)
    new = config(tmp_path / "old", table_name="new")

    done = run_until_killed("reembed", tmp_path)
    part = state(tmp_path / "old", table_name="new")
    moved = reembed(config(tmp_path / "old"), new, embedder=embedder)

    assert 0 < done <= len(part) < ENTRIES
    assert moved == ImportReport(written=ENTRIES - len(part), present=len(part))
    assert len(embedder.embedded) == ENTRIES - len(part)
    entries = {key: one[:2] for key, one in held.items()}
    found = state(tmp_path / "old", table_name="new")
    assert {key: one[:2] for key, one in found.items()} == entries
    assert state(tmp_path / "old") == held
    with Memora(new, embedder=embedder) as cache:
        assert cache.lookup("question 7 please", {"shard": 1}, 0.5).reason == "semantic"


def test_reembedding_again_fetches_only_what_is_new(tmp_path: Path) -> None:
    fill(tmp_path / "old")
    embedder = WordEmbedder(identity="words-2", dimension=32)
    old, new = config(tmp_path / "old"), config(tmp_path / "old", table_name="new")
    assert reembed(old, new, embedder=embedder) == ImportReport(written=ENTRIES)
    with Memora(old, embedder=WordEmbedder()) as cache:
        cache.store("a new one", None, 1)
        cache.store("question 7", {"shard": 1}, "a newer answer")

    assert reembed(old, new, embedder=embedder) == ImportReport(written=2, present=ENTRIES - 1)

    with Memora(new, embedder=embedder) as cache:
        assert cache.lookup("question 7", {"shard": 1}).result == "a newer answer"
        assert len(cache.entries()) == ENTRIES + 1


def test_reembedding_says_what_it_cannot_do(tmp_path: Path) -> None:
    fill(tmp_path / "old")
    old = config(tmp_path / "old")
    same = config(tmp_path / "x" / ".." / "old")
    embedder = WordEmbedder(identity="words-2", dimension=32)

    with pytest.raises(ArgumentError, match="both are table 'semantic_cache'"):
        reembed(old, same, embedder=embedder)
    with pytest.raises(ArgumentError, match="re-embed into a directory"):
        reembed(old, CacheConfig(), embedder=embedder)
    with pytest.raises(ArgumentError, match="memory:// is empty at each start"):
        reembed(CacheConfig(), old, embedder=embedder)
    with pytest.raises(StorePathError, match="there is no table 'missing'"):
        reembed(config(tmp_path / "old", table_name="missing"), old, embedder=embedder)
    reembed(old, config(tmp_path / "old", table_name="new"), embedder=embedder)
    with pytest.raises(ModelMismatchError, match="'words-2'"):
        reembed(old, config(tmp_path / "old", table_name="new"), embedder=WordEmbedder())


def test_a_store_opened_without_its_model_embeds_nothing(tmp_path: Path) -> None:
    fill(tmp_path / "old")
    store, embedder = open_stored(config(tmp_path / "old", max_entries=5))
    try:
        assert (embedder.identity, embedder.dimension) == ("words-1", 64)
        with pytest.raises(EmbedderError, match="without its model"):
            embedder.embed(["a"])
        time.sleep(0.5)  # its threads evict nothing either
        assert store.count() == ENTRIES
    finally:
        store.close()


# The command line

WARM = [
    {
        "query": "Which plan includes SSO?",
        "context": {"t": 1},
        "result": "Enterprise",
        "tags": ["p"],
    },
    {"query": "How do I bake bread?", "context": {"t": 2}, "result": {"steps": [1]}, "ttl": "1h"},
    {"query": "What was revenue in March?", "context": {"t": 1, "x": {"y": 2}}, "result": 1.5},
]


@pytest.fixture
def db(tmp_path: Path) -> Iterator[list[str | Path]]:
    path = tmp_path / "w.jsonl"
    path.write_text("\n".join(map(json.dumps, WARM)))
    memora("warm", path, "--db", tmp_path / "store")
    return ["--db", tmp_path / "store"]


def listed(*arguments: str | Path) -> list[dict[str, Any]]:
    found = json.loads(memora("entries", "list", *arguments, "--json"))
    assert found["total"] == len(found["entries"])
    entries: list[dict[str, Any]] = found["entries"]
    return entries


def test_warmed_answers_are_found(db: list[str | Path], tmp_path: Path) -> None:
    assert memora("warm", tmp_path / "w.jsonl", *db) == "stored 3\n"
    again = json.loads(memora("warm", tmp_path / "w.jsonl", *db, "--json"))

    assert again == {"stored": 3}
    found = memora("lookup", "which plans include SSO?", *db, "--context", '{"t": 1}')
    assert found.strip() == "Enterprise"
    assert len(listed(*db)) == 3


def test_entries_are_listed_by_criteria(db: list[str | Path]) -> None:
    assert [one["query"] for one in listed(*db)] == [one["query"] for one in WARM]
    first = listed(*db, "--context", '{"t": 1}')
    assert [(one["query"], one["context"], one["tags"]) for one in first] == [
        ("Which plan includes SSO?", {"t": 1}, ["p"])
    ]
    part = listed(*db, "--context-contains", '{"x": {"y": 2}}')
    assert [one["query"] for one in part] == ["What was revenue in March?"]
    assert len(listed(*db, "--tag", "p", "--tag", "q")) == 1
    assert len(listed(*db, "--query", "How do I bake bread?")) == 1
    assert listed(*db, "--older-than", "10m") == []
    limited = json.loads(memora("entries", "list", *db, "--limit", "1", "--json"))
    assert (limited["total"], len(limited["entries"])) == (3, 1)


def test_entries_are_printed_as_a_table(db: list[str | Path]) -> None:
    printed = memora("entries", "list", *db)

    for words in ("bread?", "for ever", "left", "uses", listed(*db)[0]["entry_id"][:12]):
        assert words in printed
    assert "similarity" in memora("entries", "search", "baking bread", *db)


def test_entries_are_searched_by_meaning(db: list[str | Path]) -> None:
    found = json.loads(memora("entries", "search", "how to bake a bread", *db, "--json"))

    assert [one["query"] for one in found["entries"]] == ["How do I bake bread?"]
    assert found["entries"][0]["similarity"] > 0.5
    arguments = ["--similarity-threshold", "0", "--limit", "2", "--json"]
    every = json.loads(memora("entries", "search", "bread", *db, *arguments))
    assert (every["total"], len(every["entries"])) == (3, 2)


def test_an_entry_is_shown_with_its_result(db: list[str | Path]) -> None:
    entry_id = listed(*db, "--tag", "p")[0]["entry_id"]

    printed = memora("entries", "show", entry_id[:8], *db)
    said = json.loads(memora("entries", "show", entry_id, *db, "--json"))

    for words in (entry_id, "Which plan includes SSO?", '{"t": 1}', "Enterprise", "for ever"):
        assert words in printed
    assert (said["result"], said["metadata"], said["uses"]) == ("Enterprise", {}, 0)


def test_a_result_that_cannot_be_shown_says_why(tmp_path: Path) -> None:
    with Memora(config(tmp_path / "s"), embedder=WordEmbedder()) as cache:
        cache.register_type(ImportReport)
        cache.store("q", None, ImportReport())
        cache.store("\x1b[31mred", None, "\x1b[31mred " + "x" * 3000)
    db = ["--db", tmp_path / "s"]
    other, red = (one["entry_id"] for one in listed(*db))

    assert "which is not registered here" in memora("entries", "show", other, *db)
    said = json.loads(memora("entries", "show", other, *db, "--json"))
    assert said["result"] is None
    assert "not registered" in said["result_error"]
    printed = memora("entries", "show", red, *db) + memora("entries", "list", *db)
    assert "\x1b[31m" not in printed
    assert "(3,009 characters)" in printed


def test_entries_are_deleted_by_id(db: list[str | Path]) -> None:
    first, second, third = (one["entry_id"] for one in listed(*db))

    assert "would be deleted; --yes" in memora("entries", "delete", first, *db, code=2)
    assert memora("entries", "delete", first[:8], third, *db, "--yes") == "deleted 2 entries\n"
    assert [one["entry_id"] for one in listed(*db)] == [second]
    told = memora("entries", "delete", second, *db, "--yes", "--json")
    assert json.loads(told) == {"deleted": 1}


def test_entries_are_invalidated_by_criteria(db: list[str | Path]) -> None:
    shown = json.loads(memora("invalidate", *db, "--tag", "p", "--dry-run", "--json"))
    assert [one["query"] for one in shown["entries"]] == ["Which plan includes SSO?"]
    assert "1 entry would be deleted" in memora("invalidate", *db, "--tag", "p", code=2)
    assert len(listed(*db)) == 3

    assert memora("invalidate", *db, "--tag", "p", "--yes") == "deleted 1 entry\n"
    assert json.loads(memora("invalidate", *db, "--tag", "p", "--yes", "--json")) == {"deleted": 0}
    like = ["How to bake a bread?", "--similarity-threshold", "0.7", "--yes"]
    assert memora("invalidate", *like, *db) == "deleted 1 entry\n"
    assert memora("invalidate", "--id", listed(*db)[0]["entry_id"], *db, "--yes") == (
        "deleted 1 entry\n"
    )
    assert memora("invalidate", "nothing", *db) == "deleted 0 entries\n"


def test_deleting_asks_on_a_terminal(db: list[str | Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memora.cli.entries._is_terminal", lambda: True)

    memora("invalidate", "--tag", "p", *db, given="n\n", code=1)
    assert len(listed(*db)) == 3
    assert memora("invalidate", "--tag", "p", *db, given="y\n").endswith("deleted 1 entry\n")


def test_what_has_expired_is_cleaned_up(tmp_path: Path) -> None:
    past = time.time() - 100
    with Memora(config(tmp_path / "s"), embedder=WordEmbedder(), clock=lambda: past) as cache:
        cache.store("old", None, 1, ttl=10)
        cache.store("young", None, 1)

    assert memora("cleanup", "--db", tmp_path / "s") == "removed 1 entry\n"
    assert json.loads(memora("cleanup", "--db", tmp_path / "s", "--json")) == {"removed": 0}
    assert [one["query"] for one in listed("--db", tmp_path / "s")] == ["young"]


def test_a_store_is_exported_and_imported(db: list[str | Path], tmp_path: Path) -> None:
    for name in ("e.parquet", "e.jsonl"):
        assert memora("export", tmp_path / name, *db) == "exported 3\n"
        new = ["--db", tmp_path / name.replace(".", "-")]

        assert memora("import", tmp_path / name, *new) == "imported 3\n"
        assert memora("import", tmp_path / name, *new) == "imported 0; 3 were there already\n"
        assert listed(*new) == listed(*db)
    (tmp_path / "broken.jsonl").write_text('{"query": "q", "result": 1}\n{"query": "r"}\n')
    error = memora("import", tmp_path / "broken.jsonl", *db, code=2)
    assert "line 2: result is missing; nothing was imported" in error
    skipped = memora("import", tmp_path / "broken.jsonl", *db, "--skip-errors", "--json")
    assert json.loads(skipped) == {
        "written": 1,
        "present": 0,
        "expired": 0,
        "broken": 1,
        "problems": ["line 2: result is missing"],
        "evicted": 0,
    }


def test_an_export_needs_no_model_and_an_import_can_embed_anew(tmp_path: Path) -> None:
    fill(tmp_path / "old")
    path, new = tmp_path / "e.parquet", ["--db", tmp_path / "new"]
    assert memora("export", path, "--db", tmp_path / "old") == f"exported {ENTRIES}\n"

    error = memora("import", path, *new, code=2)

    assert "'words-1' (64 dimensions)" in error
    assert "--reembed" in error
    assert memora("import", path, *new, "--reembed") == f"imported {ENTRIES}\n"
    assert json.loads(memora("stats", *new, "--json"))["embedding_dim"] == 384
    assert json.loads(memora("stats", "--db", tmp_path / "old", "--json"))["model"] == "words-1"


def test_a_store_is_embedded_for_another_model(tmp_path: Path) -> None:
    fill(tmp_path / "old")
    db = ["--db", tmp_path / "old", "--model", "all-MiniLM-L6-v2"]

    assert memora("reembed", *db, "--to-table", "new") == f"copied {ENTRIES}\n"
    again = json.loads(memora("reembed", *db, "--to-table", "new", "--json"))
    elsewhere = memora("reembed", *db, "--to-db", tmp_path / "new", "--max-entries", "100")

    assert (again["written"], again["present"]) == (0, ENTRIES)
    assert elsewhere == f"copied {ENTRIES}; 200 left, as the limits are reached\n"
    assert "name where to copy to" in memora("reembed", *db, code=2)
    assert "both are table" in memora("reembed", *db, "--to-table", "semantic_cache", code=2)
    found = memora(
        "lookup",
        "question 7",
        "--db",
        tmp_path / "old",
        "--table",
        "new",
        "--context",
        '{"shard": 1}',
    )
    assert json.loads(found)


def test_looking_at_a_store_evicts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Memora(config(tmp_path / "s")) as cache:
        cache.warm([(f"question {number}", None, number) for number in range(20)])
    monkeypatch.setenv("MEMORA_MAX_ENTRIES", "5")
    db = ["--db", tmp_path / "s"]

    memora("lookup", "question 1", *db)
    memora("stats", *db)
    memora("entries", "search", "question", *db)
    memora("cleanup", *db)
    memora("export", tmp_path / "e.parquet", *db)

    assert len(listed(*db)) == 20
    imported = json.loads(
        memora("import", tmp_path / "e.parquet", "--db", tmp_path / "t", "--json")
    )
    assert (imported["written"], imported["evicted"]) == (20, 15)
    monkeypatch.delenv("MEMORA_MAX_ENTRIES")
    memora("import", tmp_path / "e.parquet", "--db", tmp_path / "u")
    assert len(listed("--db", tmp_path / "u")) == 20


WRONG: list[tuple[list[str], str]] = [
    (["entries", "list", "--db", "memory://"], "memory:// is empty at each start"),
    (["entries", "search", "q", "--db", "memory://"], "name a directory"),
    (["entries", "show", "abcd", "--db", "memory://"], "name a directory"),
    (["entries", "delete", "abcd", "--db", "memory://"], "name a directory"),
    (["invalidate", "q", "--db", "memory://"], "name a directory"),
    (["cleanup", "--db", "memory://"], "name a directory"),
    (["export", "e.parquet", "--db", "memory://"], "name a directory"),
    (["import", "e.parquet", "--db", "memory://"], "ends with this process; name a directory"),
    (["warm", "w.jsonl", "--db", "memory://"], "ends with this process; name a directory"),
    (["reembed", "--db", "memory://", "--model", "m", "--to-table", "t"], "into a directory"),
    (["reembed", "--db", "s", "--model", "m", "--to-db", "memory://"], "into a directory"),
    (["entries", "list", "--db", "nowhere"], "there is no directory 'nowhere'"),
    (["entries", "list", "--db", "s", "--table", "t"], "there is no table 't'"),
    (["entries", "list", "--db", "s", "--older-than", "soon"], "older_than_seconds must be"),
    (["entries", "list", "--db", "s", "--context", "[1]"], "--context must be a JSON object"),
    (["entries", "list", "--db", "s", "--context-contains", "x"], "--context-contains must be"),
    (["entries", "search", "q", "--db", "s", "--threshold", "2"], "from 0 to 1"),
    (["entries", "show", "abc", "--db", "s"], "'abc' is no id: expected 4 to 32 digits"),
    (["entries", "show", "ffffffff", "--db", "s"], "no entry has an id that begins with"),
    (["invalidate", "--db", "s"], "name what to delete"),
    (["export", "e.csv", "--db", "s"], "ends in .parquet or .jsonl"),
    (["export", "no/e.parquet", "--db", "s"], "cannot be written: No such file"),
    (["import", "e.parquet", "--db", "s"], "e.parquet cannot be read"),
    (["warm", "e.parquet", "--db", "s"], "is an export; import it"),
    (["warm", "missing.jsonl", "--db", "s"], "missing.jsonl cannot be read"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG)
def test_wrong_input_is_one_line_on_stderr(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with Memora(CacheConfig(db_uri="s", log_level="ERROR")) as cache:
        cache.store("q", None, 1)

    error = memora(*arguments, code=2)

    assert message in error
    assert error.startswith("memora: ")
    assert len(error.strip().splitlines()) == 1


def test_a_bar_is_shown_on_a_terminal_only(db: list[str | Path], tmp_path: Path) -> None:
    for forced, shown in (("", False), ("1", True)):
        script = (
            "import os\n"
            f"os.environ.update(FORCE_COLOR={forced!r}, TERM='xterm')\n"
            "from memora.cli import main\n"
            "main()"
        )
        child = Child(run_script, script, "warm", str(tmp_path / "w.jsonl"), *map(str, db))
        child.wait()
        assert child.printed() == "stored 3\n"
        assert ("warming" in child.printed("errors")) is shown
        child.end()
