"""Waiting for a queue in a background thread."""

from __future__ import annotations

import threading
from queue import SimpleQueue

from memora.concurrency.periodic import wait_for


def test_something_in_the_queue_is_removed() -> None:
    queue: SimpleQueue[int] = SimpleQueue()
    queue.put(1)

    assert wait_for(queue, 60.0)
    assert not wait_for(queue, 0.0)
    assert not wait_for(queue, -1.0)


def test_a_short_wait_ends() -> None:
    """`SimpleQueue.get` waits for ever before Python 3.13, after something came without a wait."""
    queue: SimpleQueue[int] = SimpleQueue()
    found: list[bool] = []

    def wait() -> None:
        for _ in range(1000):
            queue.put(1)
            queue.get()
            found.append(wait_for(queue, 1e-6))

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    thread.join(60)

    assert found == [False] * 1000
