"""Processes on one bucket, whose requests fail, whose answers are lost, that stand still or die.

A store here is a process: it has no threads, and a test takes its steps. The bucket is a
dictionary, the table a directory, time a number. In the middle of any request others may go on, as
while a process stands still.
"""

from __future__ import annotations

import random
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from buckets import DictBucket
from hypothesis import given, settings
from hypothesis import strategies as st

from memora.concurrency.periodic import Periodic
from memora.context import canonical_context, exact_key
from memora.errors import StoreError
from memora.model import Content, Entry
from memora.stores._settings import TableSettings
from memora.stores.bucket import _batches
from memora.stores.bucket import _maintenance as bucket_maintenance
from memora.stores.bucket import _view as bucket_view
from memora.stores.bucket import store as bucket_store
from memora.stores.bucket.store import ObjectStore
from memora.stores.disk import _guards, _maintenance, _view
from memora.stores.disk import store as disk_store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONTEXT = canonical_context({})
KEYS = {f"q{i}": exact_key(f"q{i}", CONTEXT) for i in range(4)}
NOW = 5.0  # nothing ends here
# A batch that was not written for a minute is given up; a request may have been on its way.
UNSURE_SECONDS = _batches.STALE_SECONDS + 15.0


class Time:
    """In the place of the module, for all processes."""

    def __init__(self) -> None:
        self.passed = 1000.0
        self.clock_seconds = 0.0  # by which the clock is off, of who asks
        self._asked = 0

    def monotonic(self) -> float:
        return self.passed

    def time(self) -> float:
        return self.passed

    def time_ns(self) -> int:
        self._asked += 1
        return int(1.7e18 + (self.passed + self.clock_seconds) * 1e9) + self._asked

    def sleep(self, _: float) -> None:
        pass


@pytest.fixture
def passing() -> Iterator[Time]:
    with pytest.MonkeyPatch.context() as patch:
        now = Time()
        for module in (
            disk_store,
            _batches,
            bucket_view,
            bucket_maintenance,
            _view,
            _maintenance,
        ):
            patch.setattr(module, "time", now)
        patch.setattr(Periodic, "start", lambda _: False)
        # What takes minutes and megabytes takes a few entries.
        patch.setattr(_maintenance, "_FLUSH_BYTES", (1, 1))
        patch.setattr(bucket_maintenance, "_DEAD_BYTES", 0)
        patch.setattr(bucket_maintenance, "_OBJECT_BYTES", 1000)
        patch.setattr(bucket_maintenance, "_COMPACT_AT", 4)
        yield now


class Process:
    """A store, its way to the bucket, and whether it is in the middle of something."""

    def __init__(self, world: World, *, keep: bool = True) -> None:
        self.bucket = DictBucket(world.objects, world.folder)
        self.busy = self.dead = False
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(bucket_store, "Bucket", lambda *_: self.bucket)
            self.store = ObjectStore(
                "s3://dict",
                TableSettings(
                    table_name="cache",
                    model="toy",
                    dimension=4,
                    hot_payload_bytes=0,
                    clock=lambda: NOW,
                    keep=keep,
                ),
            )
        table: Any = self.store._table
        for name in ("write", "compact", "clear_up"):
            setattr(table, name, self._reaching(name, getattr(table, name)))

    def _reaching(self, name: str, operation: Any) -> Any:
        def reach(*args: Any, **kwargs: Any) -> Any:
            self.bucket.ask(name, "the table")
            return operation(*args, **kwargs)

        return reach

    def die(self) -> None:
        self.dead = self.bucket.down = self.store._closed = True
        _guards.open_stores.discard(self.store)

    def held(self) -> dict[str, str]:
        found = {query: self.store.get(key, now=NOW) for query, key in KEYS.items()}
        for one in found.values():
            assert one is None or one[1].payload == payload(one[0].id)
        return {query: one[0].id for query, one in found.items() if one is not None}


def entry_of(query: str, number: str) -> Entry:
    return Entry(
        id=number,
        key=KEYS[query],
        query=query,
        context=CONTEXT,
        created_at=1.0,
        expires_at=None,
    )


def payload(entry_id: str) -> bytes:
    return entry_id.encode() * 10


@dataclass
class Put:
    entry_id: str
    began: int
    at: float
    ended: int | None = None  # None: was not acknowledged


class World:
    """Three processes, what they did, and what may therefore be stored."""

    def __init__(self, folder: str, time: Time, seed: int, **faults: float) -> None:
        self.time, self.chance, self.faults = time, random.Random(seed), faults  # noqa: S311
        self.folder = folder
        self.objects: dict[str, bytes] = {}
        self.processes: list[Process | None] = [None, None, None]
        self.puts: dict[str, list[Put]] = {query: [] for query in KEYS}
        self.withdrawn = set[str]()
        self.withdrawing = set[str]()  # also where that was not acknowledged
        self.moment = self.depth = 0

    def happens(self, what: str) -> bool:
        return self.chance.random() < self.faults.get(what, 0.0)

    def open(self, place: int) -> None:
        with suppress(StoreError):  # others delete what it is reading, again and again
            process = self.processes[place] = Process(self)
            process.bucket.before = lambda *_: self.before(process)
            process.bucket.after = lambda operation, _: self.after(process, operation)

    def before(self, process: Process) -> None:
        if self.happens("fail"):
            raise StoreError("failed")
        if self.happens("die"):
            process.die()
            raise StoreError("dead")
        if self.depth < 2 and self.happens("stand still"):
            self.depth, was_busy, process.busy = self.depth + 1, process.busy, True
            for _ in range(self.chance.randrange(1, 12)):
                self.step()
            self.depth, process.busy = self.depth - 1, was_busy

    def after(self, process: Process, operation: str) -> None:
        if operation in {"put", "create"} and self.happens("lose"):
            process.bucket.down |= self.happens("part")
            raise StoreError("the answer is lost")
        self.before(process)

    def step(self) -> None:
        place = self.chance.randrange(3)
        process = self.processes[place]
        if process is None or process.dead:
            self.open(place)
            return
        if process.busy:
            return
        actions = {self.put: 5, self.withdraw: 3, self.look: 3, self.keep: 6, self.wait: 2}
        actions |= {self.part: 0.5, self.kill: 0.3, self.close: 0.3}
        (action,) = self.chance.choices(list(actions), list(actions.values()))
        process.busy = True
        try:
            action(process)
        except StoreError:
            pass
        except FileNotFoundError:  # what was to be moved has been deleted by a successor
            assert action == self.keep
        finally:
            process.busy = False

    def put(self, process: Process) -> None:
        self.moment += 1
        query, number = self.chance.choice(list(KEYS)), f"{self.chance.getrandbits(128):032x}"
        put = Put(number, self.moment, self.time.passed)
        self.puts[query].append(put)
        entry = entry_of(query, number)
        process.store.put(entry, Content(payload(number)), vector=np.ones(4, np.float32))
        self.moment += 1
        put.ended = self.moment

    def withdraw(self, process: Process) -> None:
        process.store.refresh()
        entry = process.store.peek(self.chance.choice(list(KEYS.values())), now=NOW)
        if entry is not None:
            self.withdrawing.add(entry.id)
            if process.store.discard([entry]):
                self.withdrawn.add(entry.id)

    def look(self, process: Process) -> None:
        process.store._follow()

    def keep(self, process: Process) -> None:
        process.store._follow()
        if self.chance.random() < 0.2:
            process.store.compact()
        else:
            process.store._run_maintenance()

    def wait(self, _: Process) -> None:
        self.time.passed += self.chance.choice([1, 5, 12, 40, 70, 130])

    def part(self, process: Process) -> None:
        process.bucket.down = not process.bucket.down

    def kill(self, process: Process) -> None:
        process.die()

    def close(self, process: Process) -> None:
        try:
            process.store.close()
        finally:
            process.die()

    def check(self) -> None:
        """Nothing acknowledged is lost, nothing withdrawn or replaced is back; all agree."""
        faults, self.faults = self.faults, {}
        reachable = [one for one in self.processes if one and not one.dead and not one.bucket.down]
        for process in reachable:
            process.store._follow()
        fresh = Process(self, keep=False)
        found = fresh.held()
        assert fresh.store._view.missing_entries == fresh.store._quarantined == 0
        fresh.store.close()
        for query, puts in self.puts.items():
            sure = [put for put in puts if put.entry_id not in self.withdrawing]
            last = max((put.began for put in puts), default=0)
            held = next((put for put in puts if put.entry_id == found.get(query)), None)
            if held is None:
                assert not any(put.began == last and put.ended for put in sure), f"{query} is lost"
            else:
                assert held.entry_id not in self.withdrawn, f"{query} is back: withdrawn"
                replaced = any(self.follows(put, held, faults) for put in puts)
                assert not replaced, f"{query} is back: replaced"
        for process in reachable:
            process.store._follow()
            assert process.held() == found
        self.faults = faults

    def follows(self, put: Put, earlier: Put, faults: dict[str, float]) -> bool:
        """Tell whether a put was acknowledged, and began when an earlier one was over."""
        if put.ended is None:
            return False
        if earlier.ended is not None:
            return put.began > earlier.ended
        return "stand still" not in faults and put.at > earlier.at + UNSURE_SECONDS

    def end(self) -> None:
        self.faults = {}
        for process in self.processes:
            if process and not process.dead:
                process.bucket.down = False
                self.close(process)
        self.check()


@pytest.mark.parametrize(
    "faults",
    [
        {"lose": 0.1, "part": 0.7},
        {"fail": 0.05, "die": 0.02},
        {"stand still": 0.05},
        {"lose": 0.03, "part": 0.3, "fail": 0.03, "die": 0.01, "stand still": 0.03},
    ],
    ids=", ".join,
)
@settings(max_examples=3)
@given(seed=st.integers(0, 2**32))
def test_nothing_is_lost_and_nothing_comes_back(
    passing: Time, faults: dict[str, float], seed: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = World(folder, passing, seed, **faults)
        for number in range(100):
            world.step()
            if number % 20 == 19:
                world.check()
        world.end()


@pytest.fixture
def world(passing: Time, tmp_path: Path) -> World:
    return World(str(tmp_path), passing, 0)


def stored(process: Process, query: str, number: int) -> Entry:
    entry = entry_of(query, f"{number:032x}")
    process.store.put(entry, Content(payload(entry.id)), vector=np.ones(4, np.float32))
    return entry


def test_an_owner_that_is_killed_at_any_write_harms_nothing(
    passing: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before each of a flush, a compaction, a merge of batches, and their deletion."""
    monkeypatch.setattr(bucket_maintenance, "GRACE_SECONDS", 0.0)
    monkeypatch.setattr(bucket_view.BucketView, "remember_seconds", 0.0)
    writes: list[str] = []  # before which an owner has died
    ended = False
    while not ended:
        with tempfile.TemporaryDirectory() as folder:
            world = World(folder, passing, 0)
            ended = dies_at(world, len(writes), writes)
            for _ in range(2):
                successor = Process(world)
                passing.passed += 1.5 * bucket_maintenance.LEASE_SECONDS
                for _ in range(2):
                    successor.store._read_log()
                    assert successor.store.compact()
                assert successor.held().keys() == {"q0", "q2", "q3"}
                assert successor.held()["q0"] == f"{99:032x}"
                table: Any = successor.store._table
                assert table.count() == 3
                successor.store.close()
    assert {"write", "compact", "clear_up", "create", "delete", "put"} <= set(writes)


def dies_at(world: World, number: int, writes: list[str]) -> bool:
    """Have an owner die before one of its writes; tell whether it came to the end."""
    owner = Process(world)
    for i, query in enumerate(KEYS):
        stored(owner, query, i)
    owner.store.compact()
    stored(owner, "q0", 99)  # in place of another
    owner.store.discard([stored(owner, "q1", 98)])
    left = number

    def count(operation: str, _: str) -> None:
        nonlocal left
        if operation not in {"get", "list"} and not owner.dead:
            left -= 1
            if left < 0:
                writes.append(operation)
                owner.die()

    owner.bucket.before = count
    with suppress(StoreError):
        for _ in range(3):
            owner.store.compact()
            owner.store._read_log()
    ended = not owner.dead
    owner.die()
    return ended


def test_a_duty_that_takes_longer_than_a_lease_is_done_once(passing: Time, world: World) -> None:
    """Or each owner would begin it, and lose the table to the next before it is done."""
    owner, other = Process(world), Process(world)
    owner.store.flush()
    stored(owner, "q0", 0)
    table: Any = owner.store._table
    write = table.write

    def take_long(*args: Any) -> None:
        for _ in range(4):
            passing.passed += bucket_maintenance.LEASE_SECONDS / 2
            owner.store._follow()  # as its other thread does all the time
            other.store._read_log()
            other.store.flush()
        write(*args)

    table.write = take_long
    owner.store.flush()

    for process, owns in ((owner, True), (other, False)):
        assert process.store._maintenance is not None
        assert process.store._maintenance.owner == owns
    assert table.count() == 1


def test_who_stood_still_answers_nothing_until_it_has_loaded_anew(
    passing: Time, world: World
) -> None:
    still, other = Process(world), Process(world)
    entry = stored(still, "q0", 0)
    other.store.refresh()
    assert other.store.discard([entry]) == 1
    passing.passed += 2 * _batches.STALE_SECONDS

    for _ in range(2):
        with pytest.raises(StoreError, match="has not been reached"):
            still.store.get(entry.key, now=NOW)
        assert still.store.get_in_memory(entry.key, now=NOW) is None
        still.store.refresh()  # what has come and gone meanwhile it does not see
    still.store._follow()

    assert still.store.get(entry.key, now=NOW) is None


def test_a_full_backlog_is_written_also_where_uses_wait(
    passing: Time, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_batches, "_PENDING_BYTES", 1)
    process = Process(world)
    entry = stored(process, "q0", 0)
    process.bucket.down = True
    with pytest.raises(StoreError, match="no answer"):
        stored(process, "q1", 1)
    process.store.touch(entry.key, now=NOW)
    process.bucket.down = False
    passing.passed += 10

    process.store._follow()

    assert Process(world, keep=False).held().keys() == {"q0", "q1"}


def test_clocks_that_are_hours_off_do_not_matter_to_who_has_seen_the_other(
    passing: Time, world: World
) -> None:
    early, late = Process(world), Process(world)
    passing.clock_seconds = 3600.0
    stored(early, "q0", 0)
    stored(early, "q1", 1)
    passing.clock_seconds = -3600.0
    late.store.refresh()
    second = stored(late, "q0", 2)
    withdrawn = late.store.peek(KEYS["q1"], now=NOW)
    assert withdrawn is not None
    assert late.store.discard([withdrawn]) == 1
    late.store.invalidate_tag("tag")

    early.store.refresh()
    assert early.held() == late.held() == {"q0": second.id}
    early.store.compact()
    assert Process(world, keep=False).held() == {"q0": second.id}


@pytest.mark.parametrize("pending", [False, True])
def test_closing_waits_for_few_requests_that_are_not_answered(
    world: World, *, pending: bool
) -> None:
    process, requests = Process(world), list[str]()
    process.store.flush()  # and is the owner
    process.bucket.before = lambda operation, _: requests.append(operation)
    process.bucket.down = True
    if pending:
        with pytest.raises(StoreError, match="no answer"):
            stored(process, "q0", 0)
    requests.clear()

    with pytest.raises(StoreError, match="no answer"):
        process.store.close()
    process.store.close()

    assert len(requests) <= 2  # and who the table is left to


def test_deletions_are_written_whenever_the_bucket_is_back(passing: Time, world: World) -> None:
    process, other = Process(world), Process(world)
    entry = stored(process, "q0", 0)
    other.store.refresh()
    process.bucket.down = True
    with pytest.raises(StoreError, match="no answer"):
        stored(process, "q1", 1)
    with pytest.raises(StoreError, match="no answer"):
        process.store.discard([entry])
    passing.passed += 10 * _batches.GRACE_SECONDS
    process.bucket.down = False
    process.store._follow()

    for one in (process, Process(world, keep=False)):
        assert one.held() == {}
