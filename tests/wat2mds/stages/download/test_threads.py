"""The threads of a shard: every item once, as many at a time as there are threads, none beyond what the semaphore lets through."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from wat2mds.stages.download.threads import Semaphore, ThreadPool


def test_every_item_once_by_as_many_threads_as_asked_for() -> None:
    together = threading.Barrier(8, timeout=60)

    def act(item: int) -> int:
        if item < 8:
            together.wait()
        return item * 2

    with ThreadPool(8) as pool:
        assert sorted(pool.imap_unordered(act, range(1000))) == list(range(0, 2000, 2))
        pool.terminate()
        pool.join()
    with ThreadPool(3) as pool:
        assert list(pool.imap_unordered(act, [])) == []


def test_no_more_is_taken_than_the_semaphore_lets_through() -> None:
    semaphore = Semaphore(4)
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for item in range(100):
            semaphore.acquire()
            taken += 1
            yield item

    with ThreadPool(16) as pool:
        for count, _ in enumerate(pool.imap_unordered(lambda item: item, items())):
            assert taken <= count + 4
            semaphore.release()
    assert taken == 100
