"""Waiting for a queue in a background thread."""

from __future__ import annotations

from queue import SimpleQueue

from memora.concurrency.periodic import wait_for


def test_something_in_the_queue_is_removed() -> None:
    queue: SimpleQueue[int] = SimpleQueue()
    queue.put(1)

    assert wait_for(queue, 60.0)
    assert not wait_for(queue, 0.0)
    assert not wait_for(queue, -1.0)
