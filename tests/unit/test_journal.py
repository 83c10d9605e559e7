"""The log's writer, where a disk refuses."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from memora.errors import StoreError
from memora.stores import _journal
from memora.stores._journal import Writer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def store(writer: Writer) -> None:
    record = b"a record"
    writer.segment(len(record), limit=1000)
    writer.append([record])
    writer.sync()


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
                writer.segment(1, limit=1000)
                writer.append([b"x"])
                disk(refuse)
                with pytest.raises(StoreError, match="cannot sync the log"):
                    writer.sync()
            return woken

    def refuse_with_a_waiter(_: int) -> None:
        disk(lambda _: None)
        waiters.append(pool.submit(writer.sync))
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
