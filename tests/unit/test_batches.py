"""The log of a bucket, over a dictionary: batches are shared and kept, heads are won by one."""

from __future__ import annotations

import sys
import threading
from typing import Any

import pytest
from buckets import DictBucket
from doubles import until

from memora.context import canonical_context, exact_key
from memora.errors import ConfigError, MissingExtraError, StoreError, StorePathError
from memora.model import Content, Entry
from memora.stores.bucket import _batches
from memora.stores.bucket._batches import Batch, BatchLog, BatchWriter
from memora.stores.bucket._client import Bucket
from memora.stores.bucket._view import BucketView
from memora.stores.disk import _records
from memora.stores.disk._journal import Checkpoint

EMPTY = Checkpoint({}, {}, {})
CONTEXT = canonical_context({})


@pytest.fixture
def bucket() -> Any:
    return DictBucket()


def record(query: str, stamp: int, payload: bytes = b"x") -> bytes:
    entry = Entry(
        id=f"{stamp:032x}",
        key=exact_key(query, CONTEXT),
        query=query,
        context=CONTEXT,
        created_at=float(stamp),
        expires_at=None,
    )
    return _records.pack_put(stamp, entry, Content(payload), None)


def viewed(bucket: Any) -> BucketView:
    settings: Any = {"graph": "int8", "content_bytes": 1000, "late_seconds": 0.0}
    view = BucketView(BatchLog(bucket, "log"), 4, **settings)
    view.read()
    return view


def held(view: BucketView) -> set[str]:
    return {view.hot.entry(slot).query for slot in view.hot.slots()}


def test_those_who_wait_share_the_next_batch(bucket: Any) -> None:
    writer = BatchWriter(BatchLog(bucket, "log"), "me")
    bucket.open.clear()

    def store(i: int) -> None:
        writer.append([record(f"q{i}", i)])
        writer.sync(writer.appended)

    threads = [threading.Thread(target=store, args=(i,)) for i in range(9)]
    threads[0].start()
    assert until(lambda: len(bucket.puts) == 1)
    for thread in threads[1:]:
        thread.start()
    expected = sum(len(record(f"q{i}", i)) for i in range(9))
    assert until(lambda: writer.appended == expected)
    bucket.open.set()
    for thread in threads:
        thread.join(60)

    assert len(bucket.puts) == 2
    assert held(viewed(bucket)) == {f"q{i}" for i in range(9)}


def test_what_could_not_be_written_is_told_and_written_later(bucket: Any) -> None:
    writer = BatchWriter(BatchLog(bucket, "log"), "me")
    bucket.down = True
    batch, (offset,) = writer.append([record("q", 1)])
    with pytest.raises(StoreError, match="no answer"):
        writer.sync(writer.appended)
    assert _records.unpack(batch.read(offset, len(record("q", 1)))) is not None
    bucket.down = False
    writer.append([record("r", 2)])

    writer.write_out()

    assert bucket.puts[0] == bucket.puts[1]  # again under its name: it may have arrived
    assert held(viewed(bucket)) == {"q", "r"}


def test_those_who_wait_for_a_write_that_fails_are_told(bucket: Any) -> None:
    writer = BatchWriter(BatchLog(bucket, "log"), "me")
    bucket.down = True
    bucket.open.clear()
    told: list[str] = []

    def store(i: int) -> None:
        writer.append([record(f"q{i}", i)])
        try:
            writer.sync(writer.appended)
        except StoreError as error:
            told.append(str(error))

    threads = [threading.Thread(target=store, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    assert until(lambda: writer.appended == sum(len(record(f"q{i}", i)) for i in range(4)))
    bucket.open.set()
    for thread in threads:
        thread.join(60)
    assert told == ["no answer"] * 4


def test_what_could_not_be_written_for_long_is_given_up(bucket: Any) -> None:
    """It may have arrived, been read, withdrawn and deleted: writing it again would bring it back.

    A deletion is as right as ever.
    """
    writer = BatchWriter(BatchLog(bucket, "log"), "me")
    kept = _records.pack_delete(1, exact_key("other", CONTEXT))

    def lose(operation: str, name: str) -> None:
        raise StoreError(f"the answer to {operation} {name} is lost")

    bucket.after = lose
    batch, _ = writer.append([record("q", 1), kept, _records.pack_outdate(1, "tag")])
    target = writer.appended
    with pytest.raises(StoreError, match="is lost"):
        writer.sync(target)
    bucket.after = lambda *_: None
    bucket.delete([f"log/{batch.name}"])  # by others, who do not need it any more
    batch.made_at -= 2 * _batches.STALE_SECONDS
    joined = writer.append([record("r", 2)])[0]

    writer.sync(writer.appended)

    assert writer.gave_up
    (name,) = bucket.objects
    assert name == f"log/{joined.name}"
    reader = viewed(bucket)
    assert held(reader) == {"r"}
    assert reader.deleted.keys() == {exact_key("other", CONTEXT)}
    assert reader.outdates.keys() == {"tag"}
    with pytest.raises(StoreError, match="has not taken it within 60 s"):
        writer.sync(target)  # whoever still waits for it is not told that it is there


def test_no_more_is_held_back_than_agreed(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_batches, "_PENDING_BYTES", 1000)
    writer = BatchWriter(BatchLog(bucket, "log"), "me")
    writer.append([record("large", 1, b"x" * 5000)])  # one is always taken
    with pytest.raises(StoreError, match="wait to be written"):
        writer.append([record("q", 2)])
    writer.write_out()
    writer.append([record("q", 2)])


def test_one_of_many_writes_the_next_head(bucket: Any) -> None:
    logs = [BatchLog(bucket, "log") for _ in range(3)]

    numbers = [log.write_head(f"{n}", n, EMPTY, after=0) for n, log in enumerate(logs)]

    assert numbers == [1, None, None]
    for log in logs:
        log.batches()
        head = log.read_head()
        assert head is not None
        assert (head.number, head.owner, head.version) == (1, "0", 0)


def test_who_has_seen_its_successor_cannot_write_over_it(bucket: Any) -> None:
    owner, successor = BatchLog(bucket, "log"), BatchLog(bucket, "log")
    assert owner.write_head("owner", 1, EMPTY, after=0) == 1
    successor.batches()
    assert successor.write_head("successor", 2, EMPTY, after=1) == 2
    owner.batches()

    assert owner.write_head("owner", 9, EMPTY, after=1) is None

    head = owner.read_head()
    assert head is not None
    assert (head.number, head.owner, head.version) == (2, "successor", 2)


def test_who_stood_still_cannot_write_a_head_that_has_gone(bucket: Any) -> None:
    late, other = BatchLog(bucket, "log"), BatchLog(bucket, "log")
    assert late.write_head("late", 1, EMPTY, after=0) == 1
    for version in range(20):
        assert other.write_head("other", version, EMPTY, after=version + 1) == version + 2
    assert "log/head-000000000002.json" not in bucket.objects  # the number that is next for `late`
    assert len(bucket.list("log")) <= 4

    assert late.write_head("late", 99, EMPTY, after=1) is None

    other.batches()
    head = other.read_head()
    assert head is not None
    assert (head.owner, head.version) == ("other", 19)


@pytest.mark.parametrize("told", ["nothing", "that it is there"])
def test_a_head_whose_answer_was_lost_is_ones_own(
    bucket: Any, monkeypatch: pytest.MonkeyPatch, told: str
) -> None:
    log = BatchLog(bucket, "log")

    def create(name: str, data: bytes) -> bool:
        bucket.objects[name] = data
        if told == "nothing":
            raise StoreError("no answer")
        return False  # as to a client that asks again

    with monkeypatch.context() as broken:
        broken.setattr(bucket, "create", create)
        if told == "nothing":
            with pytest.raises(StoreError, match="no answer"):
                log.write_head("me", 1, EMPTY, after=0)
        else:
            assert log.write_head("me", 1, EMPTY, after=0) == 1
            return

    assert log.write_head("me", 2, EMPTY, after=0) == 2  # after the one that it did write
    head = log.read_head()
    assert head is not None
    assert (head.number, head.version) == (2, 2)


def test_a_copy_brings_nothing_back(bucket: Any) -> None:
    log = BatchLog(bucket, "log")
    writer = BatchWriter(log, "me")
    stored = record("q", 1)
    writer.append([stored])
    writer.write_out()
    reader = viewed(bucket)
    assert held(reader) == {"q"}
    writer.write_copies([stored, record("unknown", 2)])
    reader.read()
    assert held(reader) == {"q"}
    slot = reader.hot.slot(exact_key("q", CONTEXT))
    assert slot is not None
    assert reader.segments[reader.hot.place(slot).segment].name.endswith("-copies.log")

    writer.append([_records.pack_delete(1, exact_key("q", CONTEXT))])
    writer.write_out()
    reader.read()
    reader.deleted.clear()  # as it is after a minute
    writer.write_copies([stored])
    reader.read()
    assert held(reader) == set()


def test_all_hold_the_copy_in_the_latest_batch(bucket: Any) -> None:
    log = BatchLog(bucket, "log")
    writer = BatchWriter(log, "me")
    writer.append([record("q", 1)])
    writer.write_out()
    first, second = viewed(bucket), viewed(bucket)
    early = Batch(log, log.new_name("a", copies=True))
    late = Batch(log, log.new_name("b", copies=True))
    for batch, reader in ((late, first), (early, second), (early, first), (late, second)):
        batch.pending = {}
        batch.add(record("q", 1))
        bucket.objects[log.path(batch.name)] = _batches.MAGIC + record("q", 1)
        reader.read()
    for reader in (first, second):
        reader.read()
        slot = reader.hot.slot(exact_key("q", CONTEXT))
        assert slot is not None
        assert reader.segments[reader.hot.place(slot).segment].name == late.name


def test_a_flipped_bit_is_no_entry_and_is_read_once(bucket: Any) -> None:
    writer = BatchWriter(BatchLog(bucket, "log"), "me")
    writer.append([record("good", 1), record("bad", 2), record("after", 3)])
    writer.write_out()
    (name,) = bucket.objects
    whole = bytearray(bucket.objects[name])
    whole[len(_batches.MAGIC) + len(record("good", 1)) + 60] ^= 1
    bucket.objects[name] = bytes(whole)

    view = viewed(bucket)

    assert held(view) == {"good"}
    (segment,) = view.segments.values()
    assert segment.damaged_at == segment.end == segment.position
    bucket.get = lambda *_: pytest.fail("it is read again")
    view.log.recent.clear()
    view.read()


@pytest.mark.parametrize("how", ["overwrites", "says so", "has them"])
def test_a_bucket_without_conditional_writes_is_refused(bucket: Any, how: str) -> None:
    def create(name: str, data: bytes) -> bool:
        if how == "says so":
            raise StoreError("cannot create x: 501 Not Implemented")
        bucket.objects[name] = data
        return True

    if how != "has them":
        bucket.create = create
        with pytest.raises(StoreError, match=r"If-None-Match.*two processes could maintain"):
            BatchLog(bucket, "log").probe("me")
    else:
        BatchLog(bucket, "log").probe("me")
    assert bucket.objects == {}


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'memora-cache\[objects\]'"):
        Bucket("s3://bucket/x", {})


def test_a_bucket_that_is_gone_is_no_object_that_is_gone() -> None:
    pytest.importorskip("obstore")
    bucket = Bucket("s3://bucket/x", {})
    with pytest.raises(StorePathError, match="make the bucket first"), bucket._named("write", "q"):
        raise FileNotFoundError("404")
    with pytest.raises(FileNotFoundError, match="there is no"), bucket._named("read", "q"):
        raise FileNotFoundError("404")


def test_secrets_are_in_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("obstore")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of-the-environment")
    real = Bucket("s3://bucket/x", {"access_key_id": "x", "secret_access_key": "of-the-options"})
    error = OSError("HTTP error: of-the-options and of-the-environment\n\nDebug source:\n...")
    assert real._said(error) == "no answer: *** and ***"
    with pytest.raises(ConfigError) as refused:
        Bucket("s3://bucket/x", {"secret_access_key": "of-the-options", "nonsense": "x"})
    assert "of-the-options" not in str(refused.value)
    assert "nonsense" in str(refused.value)
