"""Single flight among processes: one computes, whoever is killed is replaced, no file is left."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from itertools import islice, takewhile
from typing import TYPE_CHECKING

import pytest
from doubles import until

from memora.concurrency.flights import FileFlights, delays

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KEY, OTHER = b"k" * 16, b"o" * 16

HEAD = """
import os, signal, sys, threading, time
from pathlib import Path
from memora.concurrency.flights import FileFlights, Flights, delays
folder, key = Path(sys.argv[1]), b"k" * 16
files = FileFlights(folder / "flights")
"""


def start(folder: Path, code: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        # From 3.12 on, Python warns of a fork beside threads; one keeps the lease.
        [
            sys.executable,
            "-W",
            "ignore:This process",
            "-c",
            HEAD + code,
            str(folder),
            *map(str, arguments),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str], go: str | None = None) -> str:
    output, errors = process.communicate(go, timeout=60)
    assert (process.returncode, errors) == (0, "")
    return output


def begun(process: subprocess.Popen[str]) -> None:
    """Let a process go on once it is ready."""
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.stdin.write("go\n")
    process.stdin.flush()


@pytest.fixture
def files(tmp_path: Path) -> FileFlights:
    return FileFlights(tmp_path / "flights")


def lead_once(files: FileFlights) -> None:
    lease = files.try_lock(KEY)
    assert lease is not None
    lease.release()


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "flights").iterdir())


def test_one_leads_until_it_releases(files: FileFlights, tmp_path: Path) -> None:
    lease = files.try_lock(KEY)
    assert lease is not None
    assert left(tmp_path) == [f"{KEY.hex()}.flight"]
    assert files.try_lock(KEY) is None
    assert FileFlights(tmp_path / "flights").try_lock(KEY) is None

    lease.release()
    assert left(tmp_path) == []
    again = files.try_lock(KEY)
    assert again is not None
    lease.release()  # once is enough: it is another's by now
    assert files.try_lock(KEY) is None
    again.release()


def test_keys_do_not_wait_for_each_other(files: FileFlights) -> None:
    leases = [files.try_lock(KEY), files.try_lock(OTHER)]

    assert None not in leases
    for lease in leases:
        assert lease is not None
        lease.release()


def test_another_thread_may_release(files: FileFlights, tmp_path: Path) -> None:
    lease = files.try_lock(KEY)
    assert lease is not None
    thread = threading.Thread(target=lease.release)
    thread.start()
    thread.join()

    assert left(tmp_path) == []
    lead_once(files)


def test_a_file_that_was_deleted_by_somebody_excludes_nobody(
    files: FileFlights, tmp_path: Path
) -> None:
    lost = files.try_lock(KEY)
    assert lost is not None
    (tmp_path / "flights" / f"{KEY.hex()}.flight").unlink()
    lost.release()

    lead_once(files)


def test_a_file_that_is_replaced_while_it_is_opened_is_not_led(
    files: FileFlights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "flights" / f"{KEY.hex()}.flight"
    fstat = os.fstat
    replaced = []

    def replace(file: int) -> os.stat_result:
        found = fstat(file)
        if not replaced:
            path.rename(tmp_path / "elsewhere")
            path.touch()
            replaced.append(found)
        return found

    monkeypatch.setattr("memora.concurrency.flights.os.fstat", replace)
    assert files.try_lock(KEY) is None
    lead_once(files)


def test_a_folder_that_cannot_be_used_is_an_error(files: FileFlights, tmp_path: Path) -> None:
    (tmp_path / "flights").rmdir()
    (tmp_path / "flights").touch()

    with pytest.raises(OSError, match="flights"):
        files.try_lock(KEY)
    with pytest.raises(OSError, match="flights"):
        FileFlights(tmp_path / "flights")


def test_what_dead_processes_left_is_deleted_and_the_living_keep_theirs(
    files: FileFlights, tmp_path: Path
) -> None:
    lease = files.try_lock(OTHER)
    assert lease is not None
    for n in range(5):
        (tmp_path / "flights" / f"{n:032x}.flight").touch()
    (tmp_path / "flights" / "readme.txt").touch()
    FileFlights(tmp_path / "flights")

    assert left(tmp_path) == [f"{OTHER.hex()}.flight", "readme.txt"]
    assert files.try_lock(OTHER) is None
    lease.release()


@pytest.mark.parametrize("draw", [0.0, 0.999_999])
def test_the_delays_grow_from_20_to_250_ms(draw: float) -> None:
    found = list(islice(delays(lambda: draw), 20))

    assert found == sorted(found)
    assert 0.02 <= found[0] <= 0.025
    assert 0.2 <= found[-1] <= 0.25
    assert len(list(takewhile(lambda delay: delay < 0.19, found))) <= 8


def test_the_delays_differ() -> None:
    random.seed(1)

    assert next(delays()) != next(delays())


WORK = """
flights, gate, got = Flights(), threading.Barrier(25), []
value, counter = folder / "value", folder / "counter"
def compute():
    with counter.open("a") as file:
        file.write(f"{os.getpid()}\\n")
    time.sleep(float(sys.argv[2]))  # so that all others find it under way
    value.write_text("42")
def work():
    gate.wait()
    with flights.claim(key) as flight:
        if flight.leads:
            for delay in delays():
                if (lease := files.try_lock(key)) is not None:
                    try:
                        if not value.exists():
                            compute()
                    finally:
                        lease.release()
                    break
                time.sleep(delay)
            flight.land(value.read_text())
        got.append(flight.value)
threads = [threading.Thread(target=work) for _ in range(25)]
print("ready", flush=True)
sys.stdin.readline()
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert len(flights) == 0
print(*got)
"""


def test_of_200_threads_in_8_processes_one_computes(tmp_path: Path) -> None:
    processes = [start(tmp_path, WORK, 0.05) for _ in range(8)]
    for process in processes:
        begun(process)
    got = [value for process in processes for value in ended(process).split()]

    assert got == ["42"] * 200
    assert len((tmp_path / "counter").read_text().splitlines()) == 1
    assert left(tmp_path) == []


CONTEND = """
led = 0
deadline = time.monotonic() + float(sys.argv[2])
while time.monotonic() < deadline:
    if (lease := files.try_lock(key)) is not None:
        inside = os.open(folder / "inside", os.O_CREAT | os.O_EXCL)  # fails where another leads
        os.close(inside)
        led += 1
        os.unlink(folder / "inside")
        lease.release()
    if sys.argv[3] == "opens":
        FileFlights(folder / "flights")
print(led)
"""


def test_two_never_lead_at_the_same_time(tmp_path: Path) -> None:
    seconds = os.environ.get("FLIGHT_SECONDS", "2")
    processes = [start(tmp_path, CONTEND, seconds, how) for how in ("", "", "", "opens")]
    led = [int(ended(process)) for process in processes]

    assert all(led)
    assert left(tmp_path) == []


HANG = """
lease = files.try_lock(key)
assert lease is not None
print("leads", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def leader(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    process = start(tmp_path, HANG)
    assert process.stdout is not None
    assert process.stdout.readline() == "leads\n"
    yield process
    process.kill()
    process.communicate()


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="the system has no such signal")
def test_when_the_leader_is_killed_one_other_takes_over(
    files: FileFlights, tmp_path: Path, leader: subprocess.Popen[str]
) -> None:
    assert files.try_lock(KEY) is None
    leader.kill()
    leader.wait()
    assert left(tmp_path) == [f"{KEY.hex()}.flight"]

    leases = [files.try_lock(KEY) for _ in range(3)]
    assert [lease is not None for lease in leases] == [True, False, False]
    assert leases[0] is not None
    leases[0].release()
    assert left(tmp_path) == []


def test_a_leader_that_exits_without_releasing_is_replaced(
    files: FileFlights, tmp_path: Path, leader: subprocess.Popen[str]
) -> None:
    ended(leader, "go\n")

    lead_once(files)
    assert left(tmp_path) == []


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="the system has no such signal")
def test_waiting_processes_go_on_when_the_computing_one_is_killed(tmp_path: Path) -> None:
    victim, *others = [start(tmp_path, WORK, seconds) for seconds in (60, 0, 0)]
    begun(victim)
    assert until((tmp_path / "counter").exists)
    for process in others:
        begun(process)
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    got = [ended(process).split() for process in others]

    assert got == [["42"] * 25] * 2
    assert len((tmp_path / "counter").read_text().splitlines()) == 2
    assert left(tmp_path) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_forked_child_does_not_release_its_parents_lease(tmp_path: Path) -> None:
    output = ended(
        start(
            tmp_path,
            """
lease = files.try_lock(key)
if (child := os.fork()) == 0:
    lease.release()
    os._exit(0 if files.try_lock(key) is None else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert files.try_lock(key) is None
if (child := os.fork()) == 0:
    sys.stdin.readline()  # lives on, and holds nothing
    os._exit(0)
lease.release()
again = files.try_lock(key)
assert again is not None
again.release()
print("fine", flush=True)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
""",
        ),
        "go\n",
    )

    assert output == "fine\n"
    assert left(tmp_path) == []
