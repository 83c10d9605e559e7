"""The commands of those who run a cache, as they meet them: wrong input first."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from command import memora

import memora as package
from memora import CacheConfig, Memora
from memora.cli import doctor
from memora.judge.verifier import OnnxVerifier
from memora.stores.disk._identity import FORMAT
from memora.stores.disk.store import LanceStore

DOCUMENT = Path(__file__).parents[2] / "docs" / "operations.md"
PACKAGED = Path(package.__file__).parent / "models" / "all-MiniLM-L6-v2"
PASSWORD = "How do I reset my password?"  # noqa: S105


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with three entries in as many contexts."""
    path = tmp_path / "store"
    with Memora(CacheConfig(db_uri=str(path))) as cache:
        cache.store("What was our revenue in Q3 2024?", {"agent": "sql"}, "4.2 M")
        cache.store(PASSWORD, {"agent": "support"}, "click")
        cache.store("A cheese\x1b[2J?", {"agent": "food"}, "brie")
    return path


def in_a_process(
    *arguments: str | Path, before: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run `memora` in a process of its own, after some Python."""
    return subprocess.run(
        [sys.executable, "-c", f"{before}\nfrom memora.cli import main; main()", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


def kept_by(cache: Memora) -> None:
    """Have a cache keep its table, which it does soon in any case."""
    found = cache._ports.store
    assert isinstance(found, LanceStore)
    found.flush()


WRONG: list[tuple[list[str], str]] = [
    (["health", "--db", "postgres://h"], "no other is supported by this version"),
    (["health", "--timeout", "0"], "greater than or equal to 0.1"),
    (["health", "--table", "a/b"], "table_name='a/b': expected up to 128 letters"),
    (["top", "--db", "nowhere", "--once"], "there is no directory 'nowhere'"),
    (["top", "--db", "memory://"], "memory:// is empty at each start; name a directory"),
    (["top", "--db", "store", "--table", "other"], "there is no table 'other' in '"),
    (["top", "--db", "store", "--interval", "0"], "greater than or equal to 0.2"),
    (["compact", "--db", "nowhere"], "there is no directory 'nowhere'"),
    (["compact", "--db", "memory://"], "memory:// is empty at each start; name a directory"),
    (["compact", "--db", "store", "--table", "other"], "there is no table 'other' in '"),
    (["explain", "", "--db", "store"], "query must contain text"),
    (["explain", "q", "--db", "store", "--context", "[1]"], "--context must be a JSON object"),
    (["explain", "q", "--db", "store", "--threshold", "2"], "expected a number from 0 to 1"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG)
def test_wrong_input_ends_with_two_and_changes_nothing(
    arguments: list[str],
    message: str,
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)

    said = memora(*arguments, code=2)

    assert message in re.sub(r"[\s│]+", " ", said)
    assert list(tmp_path.iterdir()) == [store]


def health(*arguments: str | Path, code: int = 0) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(memora("health", *arguments, "--json", code=code))
    assert told["status"] == ("unhealthy" if code else "healthy")
    return told


def test_health_is_what_the_next_process_would_find(store: Path, tmp_path: Path) -> None:
    told = health("--db", store)
    assert told["kind"] == "ready"
    assert told["metrics"]["total_entries"] == 3

    store.rename(tmp_path / "elsewhere")
    told = health("--db", store, code=1)
    assert "there is no directory" in told["checks"]["database"]["error"]
    assert not store.exists()
    printed = memora("health", "--db", store, code=1)
    assert printed.startswith("unhealthy")
    assert "bad" in printed

    (tmp_path / "elsewhere").rename(store)
    health("--db", store)
    assert memora("health", "--db", store).startswith("healthy")


def test_no_command_is_in_shadow_mode_or_writes_its_log(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMORA_MODE", "shadow")
    monkeypatch.setenv("MEMORA_SHADOW_LOG", str(tmp_path / "shadow.jsonl"))
    support = ["--db", store, "--context", '{"agent": "support"}']

    health("--db", store)
    assert memora("lookup", PASSWORD, *support) == "click\n"
    memora("entries", "list", "--db", store)
    memora("demo", "--limit", "3")

    assert list(tmp_path.iterdir()) == [store]


def test_health_tells_of_a_model_that_is_gone(store: Path, tmp_path: Path) -> None:
    shutil.copytree(PACKAGED, tmp_path / "model", copy_function=os.symlink)
    arguments = ("--db", store, "--table", "another", "--model", tmp_path / "model")
    memora("store", "q", "r", *arguments)
    health(*arguments)
    (weights,) = (tmp_path / "model").rglob("*.onnx")
    weights.rename(tmp_path / "weights")

    told = health(*arguments, code=1)
    assert told["checks"].keys() == {"embedding"}
    assert told["checks"]["embedding"]["ok"] is False

    (tmp_path / "weights").rename(weights)
    health(*arguments)


def test_health_of_a_store_of_another_model_names_both(store: Path, tmp_path: Path) -> None:
    shutil.copytree(PACKAGED, tmp_path / "model", copy_function=os.symlink)

    told = health("--db", store, "--model", tmp_path / "model", code=1)

    assert "model:onnx" in told["checks"]["database"]["error"]
    assert "all-MiniLM-L6-v2" in told["checks"]["database"]["error"]


def test_a_live_probe_opens_nothing(store: Path) -> None:
    told = health("--db", store / "nowhere", "--live")

    assert told["kind"] == "live"
    assert told["checks"].keys() == {"process"}


def test_a_probe_leaves_the_table_to_those_who_use_it(store: Path) -> None:
    before = sorted(path.name for path in store.rglob("*"))

    health("--db", store)

    assert sorted(path.name for path in store.rglob("*")) == before


def test_a_probe_that_hangs_ends_in_time() -> None:
    hang = "import threading, memora.embedders as e; e.load_embedder = lambda *_, **__: "
    done = in_a_process(
        "health", "--timeout", "0.2", "--json", before=f"{hang}threading.Event().wait()"
    )

    assert done.returncode == 1
    told = json.loads(done.stdout)
    assert told["checks"]["process"]["error"] == "DeadlineError: no answer within 0.2 s"


def test_the_probe_of_the_document_runs_as_printed(tmp_path: Path) -> None:
    (code,) = re.findall(r'python -c "(.*?)"`', DOCUMENT.read_text("utf-8"))

    def probe(**environment: str) -> int:
        return subprocess.run(
            [sys.executable, "-c", code],
            check=False,
            capture_output=True,
            env={**os.environ, **environment},
        ).returncode

    assert probe() == 0
    assert probe(MEMORA_DB_URI=str(tmp_path / "store")) == 0
    (tmp_path / "file").touch()
    assert probe(MEMORA_DB_URI=str(tmp_path / "file")) == 1


def test_explain_tells_which_threshold_and_which_context_would_have_hit(store: Path) -> None:
    arguments = ["explain", "How can I reset my password?", "--db", store]
    arguments += ["--context", '{"agent": "sql"}']

    told = json.loads(memora(*arguments, "--json"))
    printed = memora(*arguments)

    (other,) = told["elsewhere"]
    assert (other["query"], json.loads(other["context"])) == (PASSWORD, {"agent": "support"})
    assert told["would_hit_at"] == told["candidates"][0]["similarity"] < told["threshold"]
    assert 'in another context, {"agent":"support"}:' in printed
    rounded = re.search(r"a threshold of (\S+) would have hit", printed)
    assert rounded is not None
    lower = json.loads(memora(*arguments, "--threshold", rounded[1], "--json"))
    assert lower["is_hit"] is True
    assert json.loads(memora("explain", PASSWORD, *arguments[2:4], "--json"))["elsewhere"]


def test_top_looks_once_or_again_and_again(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Memora(CacheConfig(db_uri=str(store), flush_interval_seconds=0.1)) as cache:
        cache.lookup(PASSWORD, {"agent": "support"})
        (once,) = memora("top", "--db", store, "--once", "--json").splitlines()
        look = json.loads(once)
        assert (look["entries"], look["contexts"], look["processes"]) == (3, 3, 1)
        assert look["bytes"] > 0 < look["disk_bytes"]
        assert look["stores_per_second"] is None

        slept = []

        def sleep(seconds: float) -> None:
            slept.append(seconds)
            if len(slept) > 1:
                raise KeyboardInterrupt
            cache.store("a fourth", {}, 1)
            assert cache._ports.store.count() == 4

        clock = type("Time", (), {"sleep": sleep, "time": time.time})
        monkeypatch.setattr("memora.cli.operating.time", clock)
        first, second = map(
            json.loads, memora("top", "--db", store, "-n", "5", "--json").splitlines()
        )
        assert slept == [5, 5]
        assert (first["entries"], first["removals_per_second"]) == (3, None)
        assert second["removals_per_second"] == 0
        assert second["stores_per_second"] is not None


def test_top_shows_what_is_used_most_and_nothing_that_controls_the_terminal(store: Path) -> None:
    with Memora(CacheConfig(db_uri=str(store))) as cache:
        for _ in range(3):
            cache.lookup("A cheese\x1b[2J?", {"agent": "food"})

    printed = memora("top", "--db", store, "--once")

    assert "A cheese" in printed
    assert "\x1b" not in printed
    for word in ("entries", "uses/s", "processes", "used most"):
        assert word in printed


def test_compact_makes_a_store_smaller_and_keeps_all(store: Path) -> None:
    for i in range(3):
        memora("store", "again and again", str(i) * 2000, "--db", store)

    told = json.loads(memora("compact", "--db", store, "--json"))

    assert told["bytes_after"] < told["bytes_before"]
    assert memora("lookup", "again and again", "--db", store).strip() == "2" * 2000
    assert json.loads(memora("stats", "--db", store, "--json"))["total_entries"] == 4
    assert memora("compact", "--db", store).startswith("compacted: ")


def test_compact_leaves_a_table_alone_that_another_keeps(store: Path) -> None:
    with Memora(CacheConfig(db_uri=str(store))) as cache:
        kept_by(cache)
        assert "another process maintains the table" in memora("compact", "--db", store, code=2)


def examined(*arguments: str | Path, code: int = 0) -> dict[str, dict[str, Any]]:
    """Return what `memora doctor` finds, by name."""
    told = json.loads(memora("doctor", *arguments, "--json", code=code))
    assert told["ok"] is (code == 0)
    return {one["name"]: one for one in told["findings"]}


def test_doctor_finds_nothing_wrong_with_a_good_store(store: Path) -> None:
    told = json.loads(memora("doctor", "--db", store, "--json"))

    assert {one["state"] for one in told["findings"]} <= {"ok", "warning"}
    assert told["store"] == told["store"] | {"format": FORMAT, "dimension": 384, "processes": 0}
    settings = {one["name"]: one for one in told["settings"]}
    assert settings.keys() == CacheConfig.model_fields.keys()
    assert settings["db_uri"] == {"name": "db_uri", "value": str(store), "source": "--db"}
    assert settings["max_entries"]["source"] == "default"
    printed = memora("doctor", "--db", store)
    assert "findings" in printed
    assert "max_entries" not in printed  # only what somebody set
    with Memora(CacheConfig(db_uri=str(store))) as cache:
        kept_by(cache)
        told = json.loads(memora("doctor", "--db", store, "--json"))
        assert (told["store"]["processes"], told["store"]["kept"]) == (1, True)


def test_doctor_names_wrong_settings_and_never_what_an_unknown_one_holds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MEMORA_MAX_ENTRY", "s3cr3t")
    monkeypatch.setenv("MEMORA_TTL_SECONDS", "tomorrow")
    monkeypatch.setenv("MEMORA_LOG_LEVEL", "debug")

    found = examined(code=1)

    unknown, wrong = found["MEMORA_MAX_ENTRY"], found["MEMORA_TTL_SECONDS"]
    assert unknown["state"] == "warning"
    assert unknown["advice"] == "remove it; did you mean 'MEMORA_MAX_ENTRIES'?"
    assert wrong["state"] == "problem"
    assert "'tomorrow': expected a number of seconds" in wrong["details"]
    printed = memora("doctor", code=1)
    assert "s3cr3t" not in printed
    assert "MEMORA_LOG_LEVEL" in printed


def test_doctor_tries_the_verifier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no model")
    for verifier, state in ((None, "warning"), (OnnxVerifier(tmp_path / "model.onnx"), "problem")):
        monkeypatch.setattr(doctor, "packaged_verifier", lambda verifier=verifier: verifier)
        assert examined(code=int(state == "problem"))["verifier"]["state"] == state
    monkeypatch.setenv("MEMORA_VERIFIER", "off")
    assert "verifier" not in examined()


def test_doctor_tells_of_settings_that_do_not_go_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMORA_MAX_PAYLOAD_BYTES", "100")
    monkeypatch.setenv("MEMORA_MAX_BYTES", "10")

    assert "at most max_bytes" in examined(code=1)["settings"]["details"]


def test_doctor_looks_at_the_settings_of_shadow_mode_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMORA_MODE", "shadow")
    assert "shadow_log=None" in examined(code=1)["settings"]["details"]

    monkeypatch.setenv("MEMORA_SHADOW_LOG", str(tmp_path / "shadow.jsonl"))
    assert examined()["settings"]["details"] == "2 set, the others as by default"

    monkeypatch.setenv("MEMORA_SHADOW_LOG", str(tmp_path / "nowhere" / "shadow.jsonl"))
    assert "there is no directory" in examined(code=1)["shadow_log"]["details"]


def test_doctor_tells_of_directories_that_it_may_not_look_into(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    monkeypatch.setenv("MEMORA_MODE", "shadow")
    monkeypatch.setenv("MEMORA_SHADOW_LOG", str(closed / "shadow.jsonl"))
    store.chmod(0)
    closed.chmod(0)
    try:
        if os.access(closed, os.R_OK):
            pytest.skip("root reads whatever it likes")
        assert "right to read" in examined("--db", store, code=1)["store"]["advice"]
        found = examined("--db", closed / "store", "--model", closed / "model", code=1)
    finally:
        store.chmod(0o700)
        closed.chmod(0o700)

    for name in ("shadow_log", "model", "store"):
        assert found[name]["state"] == "problem"
        assert "Permission denied" in found[name]["details"]


def test_doctor_tells_of_an_extra_that_a_setting_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMORA_OPENTELEMETRY", "true")
    assert "opentelemetry" not in examined()

    monkeypatch.delitem(sys.modules, "memora.otel", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    assert "memora-cache[otel]" in examined(code=1)["opentelemetry"]["details"]


@pytest.mark.parametrize(
    ("arguments", "name", "details"),
    [
        (["--db", "postgres://h"], "store", "no other is supported"),
        (["--db", "memory://name"], "store", "no other is supported"),
        (["--db", "file"], "disk", "is no directory"),
        (["--db", "store", "--model", "model"], "vectors", "the settings name 'model:onnx"),
        (["--model", "missing/"], "model", "ConfigError"),
        (["--db", "damaged"], "store", "Error"),
    ],
)
def test_doctor_finds_what_is_wrong(  # noqa: PLR0913
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    arguments: list[str],
    name: str,
    details: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "missing").mkdir()
    shutil.copytree(PACKAGED, tmp_path / "model", copy_function=os.symlink)
    shutil.copytree(store, tmp_path / "damaged")
    for path in (tmp_path / "damaged" / "semantic_cache.lance" / "_versions").iterdir():
        path.write_bytes(b"damaged")

    finding = examined(*arguments, code=1)[name]

    assert finding["state"] == "problem"
    assert details in finding["details"]
    assert finding["advice"]


def test_doctor_tells_of_a_store_of_another_version(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memora.stores.disk._identity.FORMAT", FORMAT - 1)

    finding = examined("--db", store, code=1)["store"]

    assert f"has format {FORMAT}, and this version of Memora reads" in finding["details"]
    assert "docs/operations.md" in finding["advice"]


def test_doctor_warns_of_what_may_be_wrong(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(PACKAGED, tmp_path / "model", copy_function=os.symlink)
    monkeypatch.setattr(doctor, "_file_system", lambda _: "nfs4")
    monkeypatch.setattr(doctor, "_files_limit", lambda: 256)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 0, 10))  # type: ignore[attr-defined]
    monkeypatch.setenv("MEMORA_MAX_ENTRIES", "none")

    found = examined("--db", store, "--table", "other", "--model", tmp_path / "model")

    for name in ("file system", "open files", "disk", "limits", "model", "store"):
        assert found[name]["state"] == "warning", name
        assert found[name]["advice"]
    assert "there is no table 'other'" in found["store"]["details"]
    assert "not calibrated" in found["model"]["details"]


def test_the_demo_with_json_logs_gives_one_object_a_line() -> None:
    for level in ("INFO", "DEBUG"):
        done = in_a_process(
            "demo", "--limit", "60", MEMORA_JSON_LOGS="true", MEMORA_LOG_LEVEL=level
        )

        assert done.returncode == 0
        logged, (report,) = (
            [json.loads(line) for line in text.splitlines()] for text in (done.stderr, done.stdout)
        )
        assert report["queries"] == 60
        names = [one["event"] for one in logged]
        if level == "INFO":
            assert names == []
        else:
            assert (names[0], names[-1]) == ("cache_open", "cache_close")
            assert names.count("cache_hit") + names.count("cache_miss") == 60
            assert names.count("cache_store") == names.count("cache_miss")
