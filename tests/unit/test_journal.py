"""The log's writer, where a disk refuses."""

from __future__ import annotations

import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from memora.errors import StoreError
from memora.stores.disk import _journal
from memora.stores.disk._journal import Writer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def append(writer: Writer) -> int:
    record = b"a record"
    writer.segment(len(record), limit=1000)
    writer.append([record])
    return writer.appended


def store(writer: Writer) -> None:
    writer.sync(append(writer))


def refuse(_: int) -> None:
    raise OSError("the disk refuses")


@pytest.mark.parametrize("fails_again", [False, True])
def test_who_wakes_late_from_a_failed_sync_is_told_though_a_later_one_succeeded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, fails_again: bool
) -> None:
    def disk(sync: Callable[[int], None]) -> None:
        monkeypatch.setattr(_journal, "_fdatasync", sync)

    class Oversleeping(threading.Condition):
        """Lets others store before a waiter that was woken goes on."""

        def wait(self, timeout: float | None = None) -> bool:
            waiting.set()
            woken = super().wait(timeout)
            store(writer)
            if fails_again:
                appended = append(writer)
                disk(refuse)
                with pytest.raises(StoreError, match="cannot sync the log"):
                    writer.sync(appended)
            return woken

    def refuse_with_a_waiter(_: int) -> None:
        disk(lambda _: None)
        waiters.append(pool.submit(writer.sync, writer.appended))
        assert waiting.wait(20)
        raise OSError("the disk refuses")

    waiting = threading.Event()
    waiters: list[Future[None]] = []
    writer = Writer(tmp_path, "member", durability="power")
    writer._sync_ended = Oversleeping()
    store(writer)
    with ThreadPoolExecutor() as pool:
        disk(refuse_with_a_waiter)
        with pytest.raises(StoreError, match="cannot sync the log"):
            store(writer)
        with pytest.raises(StoreError, match="has refused a sync"):
            waiters[0].result(20)
    writer.close()


@pytest.mark.parametrize("others_go_on", [False, True])
def test_what_joins_a_segment_whose_sync_has_failed_is_lost_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, others_go_on: bool
) -> None:
    writer = Writer(tmp_path, "member", durability="power")
    with monkeypatch.context() as patch:
        patch.setattr(_journal, "_fdatasync", lambda _: None)
        store(writer)
        patch.setattr(_journal, "_fdatasync", refuse)
        with pytest.raises(StoreError, match="cannot sync the log"):
            store(writer)
    writer.append([b"to the segment asked for before"])
    joined = writer.appended
    if others_go_on:
        store(writer)
    with pytest.raises(StoreError, match="has refused a sync"):
        writer.sync(joined)
    store(writer)
    writer.close()


@pytest.mark.parametrize("disk_refuses", [False, True])
def test_what_came_before_a_failed_write_is_synced_before_another_segment_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, disk_refuses: bool
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    def disk(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        if disk_refuses and synced[-1] == old:
            refuse(descriptor)

    synced: list[int] = []
    writer = Writer(tmp_path, "member", durability="power")
    appended = append(writer)
    assert writer._file is not None
    old = os.fstat(writer._file.fileno()).st_ino
    with monkeypatch.context() as patch:
        patch.setattr(_journal, "_write_all", full)
        with pytest.raises(StoreError, match="No space left"):
            append(writer)
    monkeypatch.setattr(_journal, "_fdatasync", disk)
    store(writer)  # goes on in another segment
    assert synced[0] == old
    if disk_refuses:
        with pytest.raises(StoreError, match="has refused a sync"):
            writer.sync(appended)
    else:
        writer.sync(appended)
    assert synced.count(old) == 1
    writer.close()


@pytest.mark.parametrize("disk_refuses", [False, True])
def test_who_had_appended_when_the_log_is_closed_is_told_how_the_sync_of_it_went(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, disk_refuses: bool
) -> None:
    def disk(descriptor: int) -> None:
        synced.append(descriptor)
        if disk_refuses:
            refuse(descriptor)

    synced: list[int] = []
    writer = Writer(tmp_path, "member", durability="power")
    store(writer)
    appended = append(writer)
    monkeypatch.setattr(_journal, "_fdatasync", disk)
    writer.close()
    if disk_refuses:
        with pytest.raises(StoreError, match="has refused a sync"):
            writer.sync(appended)
    else:
        writer.sync(appended)
    assert len(synced) == 1


def test_closing_waits_for_a_sync_in_flight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Telling(threading.Condition):
        def wait(self, timeout: float | None = None) -> bool:
            waiting.set()
            return super().wait(timeout)

    def close_meanwhile(descriptor: int) -> None:
        monkeypatch.setattr(_journal, "_fdatasync", os.fsync)
        closing.append(pool.submit(writer.close))
        closing[0].add_done_callback(lambda _: waiting.set())
        assert waiting.wait(20)
        os.fsync(descriptor)  # which is still this file's

    waiting = threading.Event()
    closing: list[Future[None]] = []
    writer = Writer(tmp_path, "member", durability="power")
    writer._sync_ended = Telling()
    appended = append(writer)
    with ThreadPoolExecutor() as pool:
        monkeypatch.setattr(_journal, "_fdatasync", close_meanwhile)
        writer.sync(appended)
        closing[0].result(20)


def test_nothing_joins_a_segment_whose_sync_by_the_upkeep_has_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Writer(tmp_path, "member", durability="process")
    append(writer)
    segment = writer.current
    assert segment is not None
    segment.sync()
    append(writer)
    assert writer.current is segment
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with pytest.raises(OSError, match="the disk refuses"):
            segment.sync()
    append(writer)
    assert writer.current is not segment
    writer.close()
