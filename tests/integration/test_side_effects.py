"""Nothing is written outside the paths a user named, and nothing is called that they did not name.

Each scenario is a process with an empty HOME. What it leaves is listed, what it does through Python
is audited, and where strace is there, what it asks of the kernel is traced.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from servers import seaweedfs

if TYPE_CHECKING:
    from collections.abc import Iterator

if sys.version_info >= (3, 11):
    import tomllib

PATIENCE = 180.0
# What makes ONNX Runtime quiet by itself, and where libraries put files instead of HOME.
DROPPED = ("CI", "GITHUB_ACTIONS", "GITLAB_CI", "TF_BUILD", "BUILDKITE", "JENKINS_URL")
DROPPED += ("ORT_DISABLE_TELEMETRY", "ORT_RUNNING_UNIT_TESTS", "MPLCONFIGDIR", "HF_HOME", "TMP")

# The last to run at exit: registered first.
HEAD = """
import atexit, json, os, sys
done = []
def audit(event, given):
    if event == "open":
        path, mode, flags = given
        if isinstance(path, (str, bytes)) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            done.append(["write", os.path.abspath(os.fsdecode(path))])
    elif event in {"os.mkdir", "os.rename", "os.link", "os.symlink"}:
        done.append(["write", os.path.abspath(os.fsdecode(given[0 if event == "os.mkdir" else 1]))])
    elif event in {"socket.connect", "socket.sendto", "socket.bind"}:
        if isinstance(given[1], tuple):
            done.append(["call", str(given[1][0]), given[1][1]])
    elif event in {"socket.getaddrinfo", "socket.gethostbyname"}:
        done.append(["call", str(given[0]), given[1] if len(given) > 1 else 0])
def report():
    with open(named + "/report.json", "w") as file:
        json.dump(done, file)
named, server, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
atexit.register(report)
sys.addaudithook(audit)
from memora import CacheConfig, Memora
def used(uri="memory://", result=1, **settings):
    cache = Memora(CacheConfig(db_uri=uri, **settings))
    assert cache.store("What is our refund policy?", {"tenant": "a"}, result)
    assert cache.lookup("tell me our refund policy", {"tenant": "a"}).is_hit
    assert cache.health_check()["status"] == "healthy"
    cache.get_stats()
    return cache
def memora(*arguments):
    from memora.cli import main
    sys.argv = ["memora", *arguments]
    try:
        main()
    except SystemExit as done:
        return done.code or 0
"""

SCENARIOS = {
    "": """
import datetime, numpy, pandas, polars
with used(result={"at": datetime.date(2024, 2, 3), "rows": pandas.DataFrame({"a": [1]}),
                  "more": [polars.DataFrame({"a": [1]}), numpy.arange(3)]}):
    pass
with used(named + "/store", auto_create_index=True) as cache:
    cache.start_scheduler()
    cache.export_entries(named + "/entries.parquet")
""",
    "cli": """
store = ["--db", named + "/store"]
assert memora("store", "What is our refund policy?", '"thirty days"', *store) == 0
assert memora("lookup", "tell me our refund policy", *store) == 0
assert memora("stats", *store) == 0
assert memora("doctor", *store) in {0, 1}
assert memora("--help") == 0
""",
    "objects": """
used(server, storage_options=options).close()
""",
    "otel": """
used(opentelemetry=True).close()
""",
    "prometheus": """
from prometheus_client import generate_latest, CollectorRegistry
from memora.prometheus import MemoraCollector
registry = CollectorRegistry()
with used() as cache:
    registry.register(MemoraCollector(cache))
    assert b"memora_" in generate_latest(registry)
""",
    "redis": """
used(server).close()
""",
    "sentence-transformers": """
import pathlib, shutil, transformers
import memora.embedders
packaged = pathlib.Path(memora.embedders.__file__).parents[1] / "models" / "all-MiniLM-L6-v2"
model = pathlib.Path(named) / "model"
shutil.copytree(packaged, model, ignore=shutil.ignore_patterns("onnx"))
settings = json.loads((model / "config.json").read_text()) | {"num_hidden_layers": 1}
transformers.BertModel(transformers.BertConfig(**settings)).save_pretrained(model)
with Memora(CacheConfig(model_name=str(model), use_onnx=False)) as cache:
    assert cache.store("What is our refund policy?", None, 1)
    assert cache.lookup("What is our refund policy?").is_hit
    cache.lookup("tell me our refund policy")
""",
    "tuning": """
with open(named + "/pairs.csv", "w") as file:
    file.write("query,candidate,right\\n" + "What is it?,what is it,1\\nWho?,Where is it?,0\\n" * 9)
pictures = ["--plot", named + "/curve.png", "--html", named + "/curve.html"]
assert memora("calibrate", named + "/pairs.csv", *pictures) == 1
""",
}


@dataclass(frozen=True)
class Run:
    """What a process has done."""

    named: Path
    left: list[str]
    reported: list[list[object]]
    trace: str | None
    server: tuple[str, int] | None
    temporary: Path


@cache
def tracer() -> list[str]:
    """Return how to trace a process; nothing where it is not possible."""
    program = shutil.which("strace")
    calls = "openat,open,creat,mkdir,mkdirat,rename,renameat,renameat2,link,linkat,symlink"
    calls += ",symlinkat,connect,sendto,sendmsg,sendmmsg"
    command = [str(program), "-f", "--seccomp-bpf", "-qq", "-s", "4096", "-e", f"trace={calls}"]
    if program is None:
        return []
    tried = subprocess.run([*command, "true"], check=False, capture_output=True)
    return command if tried.returncode == 0 else []


@pytest.fixture(scope="module", params=SCENARIOS, ids=lambda extra: extra or "no extra")
def ran(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    extra = request.param
    server, options = "", {}
    if extra == "redis":
        server = request.getfixturevalue("servers").uri("redis")
    elif extra == "objects":
        storage = request.getfixturevalue("bucket_server")
        server, options = f"{storage.uri}/quiet", storage.storage_options
    needed = {"otel": "opentelemetry", "prometheus": "prometheus_client", "cli": "typer"}
    needed |= {"sentence-transformers": "sentence_transformers", "tuning": "matplotlib"}
    if extra in needed and importlib.util.find_spec(needed[extra]) is None:
        pytest.skip(f"the extra {extra} is not installed")
    root = tmp_path_factory.mktemp("quiet")
    for name in ("home", "tmp", "cwd", "named"):
        (root / name).mkdir()
    named, trace = root / "named", root / "trace"
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in DROPPED and not name.startswith(("XDG_", "MEMORA_"))
    }
    environment |= {"HOME": str(root / "home"), "TMPDIR": str(root / "tmp")}
    environment |= {"USERPROFILE": str(root / "home"), "PYTHONDONTWRITEBYTECODE": "1"}
    source = importlib.util.find_spec("memora")
    assert source is not None
    assert source.origin is not None
    environment["PYTHONPATH"] = str(Path(source.origin).parents[1])
    watched = [*tracer(), "-o", str(trace)] if tracer() else []
    given = [str(named), server, json.dumps(options)]
    done = subprocess.run(
        [*watched, sys.executable, "-c", HEAD + SCENARIOS[extra], *given],
        cwd=root / "cwd",
        env=environment,
        timeout=PATIENCE,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    address = urlsplit(options.get("endpoint", "") or server)
    outside = [root / "home", root / "tmp", root / "cwd"]
    return Run(
        named,
        [str(path.relative_to(root)) for folder in outside for path in folder.rglob("*")],
        json.loads((named / "report.json").read_text("utf-8")),
        trace.read_text("utf-8", "replace") if tracer() else None,
        (address.hostname, address.port) if address.hostname and address.port else None,
        root / "tmp",
    )


@pytest.fixture(scope="module")
def bucket_server() -> Iterator[object]:
    with seaweedfs() as server:
        yield server


def allowed(run: Run, path: str) -> bool:
    """Tell whether a path is the user's, a device, or a temporary one, of which none may stay."""
    if path.startswith(("/dev/", "/proc/self/task/", "/proc/self/comm")):
        return True
    return any(Path(path).is_relative_to(folder) for folder in (run.named, run.temporary))


def test_nothing_is_left_outside_the_named_paths(ran: Run) -> None:
    # The import of torch, which sentence-transformers needs, makes an empty directory.
    assert [path for path in ran.left if not path.startswith("tmp/torchinductor_")] == []
    assert not any(path.count("/") > 1 for path in ran.left)


def test_python_writes_and_calls_nothing_else(ran: Run) -> None:
    writes = {str(one[1]) for one in ran.reported if one[0] == "write"}
    calls = {(str(one[1]), one[2]) for one in ran.reported if one[0] == "call"}

    assert [path for path in writes if not allowed(ran, path)] == []
    # urllib3, which LanceDB imports, looks whether the system has IPv6.
    assert calls <= {("::1", 0), ran.server}
    assert any(Path(path).is_relative_to(ran.named) for path in writes)  # the audit works


def test_the_kernel_is_asked_for_nothing_else(ran: Run) -> None:
    if ran.trace is None:
        pytest.skip("no strace that may trace: what libraries do beside Python is not watched")
    opened = re.findall(r'open(?:at)?\((?:\w+, )?"([^"]*)", (O_\S+)', ran.trace)
    writes = {path for path, flags in opened if re.search("O_WRONLY|O_RDWR|O_CREAT", flags)}
    writes |= set(re.findall(r'(?:mkdir(?:at)?|creat)\((?:\w+, )?"([^"]*)"', ran.trace))
    moved = re.findall(r'(?:rename|link|symlink)\w*\(.*"([^"]*)"[^"]*$', ran.trace, re.MULTILINE)
    writes = {str(ran.named.parent / "cwd" / path) for path in {*writes, *moved}}
    address = r'sin6?_port=htons\((\d+)\).*?(?:inet_addr\(|AF_INET6, )"(.*?)"'
    calls = {(host, int(port)) for port, host in re.findall(address, ran.trace)}

    assert sorted(path for path in writes if not allowed(ran, path)) == []
    # A port of 0 sends nothing: the C library asks so which of its addresses would be taken.
    assert {one for one in calls if one[1]} <= {ran.server}
    assert any(Path(path).is_relative_to(ran.named) for path in writes)  # the trace works


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib came with Python 3.11")
def test_every_extra_is_watched() -> None:
    project = Path(__file__).parents[2] / "pyproject.toml"
    extras = tomllib.loads(project.read_text("utf-8"))["project"]["optional-dependencies"]

    assert set(SCENARIOS) == {"", *extras}
