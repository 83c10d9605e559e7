"""A forked child ends with its own exit code, however it ends and whatever its parent had open."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")

PATIENCE = 150.0
# What makes ONNX Runtime send nothing by itself, and would hide what it does elsewhere.
QUIETING = {"CI", "GITHUB_ACTIONS", "GITLAB_CI", "TF_BUILD", "BUILDKITE", "JENKINS_URL"}
QUIETING |= {"ORT_DISABLE_TELEMETRY", "ORT_RUNNING_UNIT_TESTS"}

SCRIPT = """
import gc, multiprocessing, os, signal, sys, time, warnings
warnings.filterwarnings("ignore")
from memora import CacheConfig, Memora
from memora.errors import ClosedError

uri, state = sys.argv[1:]
cache = Memora(CacheConfig(db_uri=uri))
cache.store("What is our refund policy?", None, 1)
assert cache.lookup("what is our refund policy").is_hit
if state == "closed":
    cache.close()
if state == "frozen":
    gc.freeze()

def use():
    try:
        assert cache.lookup("tell me our refund policy").is_hit
        assert cache.store("of the child", None, 2)
    except ClosedError:
        assert state == "closed"

def code_of(child):
    deadline = time.monotonic() + 60
    while not (found := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            return "the child hangs"
        time.sleep(0.02)
    return os.waitstatus_to_exitcode(found[1])

def work(n):
    use()
    sys.exit(n)

for used in (False, True):
    for ending, code in (("exit", 7), ("exit after close", 7), ("end", 0), ("error", 1)):
        child = os.fork()
        if child == 0:
            break
        found = code_of(child)
        assert found == code, (used, ending, found)
    if child == 0:
        break
if child == 0:
    if used:
        use()
    if ending == "exit after close":
        cache.close()
    if ending.startswith("exit"):
        sys.exit(7)
    if ending == "error":
        sys.stderr = open(os.devnull, "w")
        raise RuntimeError
else:
    process = multiprocessing.get_context("fork").Process(target=work, args=(5,))
    process.start()
    process.join(60)
    assert process.exitcode == 5, process.exitcode
    print("every child ended")
"""


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in QUIETING}


@pytest.mark.parametrize(
    ("store", "state"),
    [("memory", "open"), ("disk", "open"), ("disk", "closed"), ("disk", "frozen")],
)
def test_every_way_to_end_keeps_the_exit_code(tmp_path: Path, store: str, state: str) -> None:
    uri = "memory://" if store == "memory" else str(tmp_path / "store")
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, uri, state],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(),
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            output = "it hangs"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert (process.returncode, output) == (0, "every child ended\n")


APP = """
import warnings
warnings.filterwarnings("ignore")
from memora import CacheConfig, Memora

cache = Memora(CacheConfig(db_uri={uri!r}))
cache.store("What is our refund policy?", None, "thirty days")
{closing}
memory = Memora(CacheConfig())

def app(environ, start_response):
    memory.store("What is our refund policy?", None, 1)
    found = (cache if {is_open} else memory).lookup("tell me our refund policy")
    start_response("200 OK", [])
    return [found.reason.encode()]
"""


@pytest.mark.parametrize("is_open", [True, False], ids=["open", "closed"])
def test_workers_of_a_preforking_server_end_normally(tmp_path: Path, *, is_open: bool) -> None:
    pytest.importorskip("gunicorn")
    (tmp_path / "served.py").write_text(
        APP.format(
            uri=str(tmp_path / "store"), closing="" if is_open else "cache.close()", is_open=is_open
        ),
        "utf-8",
    )
    address, log = tmp_path / "socket", tmp_path / "log"
    # A worker ends after one request, and another takes its place.
    options = ["--preload", "--workers=1", "--max-requests=1", "--graceful-timeout=60"]
    options += ["--timeout=120", f"--bind=unix:{address}", f"--error-logfile={log}"]
    options += ["--no-control-socket"]
    with subprocess.Popen(
        [sys.executable, "-m", "gunicorn", *options, "served:app"],
        cwd=tmp_path,
        env=environment(),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as server:
        try:
            answers = [ask(address) for _ in range(2)]
            server.send_signal(signal.SIGTERM)
            code = server.wait(PATIENCE)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)
    told = log.read_text("utf-8")
    assert answers == [b"semantic", b"semantic"], told
    assert code == 0
    assert told.count("Booting worker") >= 2, told
    # The server's own signal ends the last one.
    assert "was sent SIG" not in told.replace("was sent SIGTERM", ""), told
    assert "exited with code" not in told, told
    assert "WORKER TIMEOUT" not in told, told


def ask(address: Path) -> bytes:
    """Return what the server answers, once it does."""
    deadline = time.monotonic() + PATIENCE
    while True:
        connection = http.client.HTTPConnection("localhost", timeout=60)
        try:
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.settimeout(60)
            connection.sock.connect(str(address))
            connection.request("GET", "/", headers={"Connection": "close"})
            return connection.getresponse().read()
        except (OSError, http.client.HTTPException):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        finally:
            connection.close()
