"""What img2dataset's Downloader takes from Python's libraries to run its threads, with fewer threads between them.

In: items, one by one. Out: their results, as they come. Guaranteed: what Downloader relies on of ``multiprocessing.pool.ThreadPool`` and
``threading.Semaphore``, and no more. multiprocessing's hands each item and each result through a thread of its own, so that a row
wakes five threads in turn; here a fetching thread takes its item itself and puts its result where the caller waits for it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from queue import SimpleQueue
from typing import Any


class ThreadPool:
    """For one ``imap_unordered``."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> ThreadPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.terminate()

    def imap_unordered(self, act: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        """``act`` never raises."""
        source, taking = iter(items), threading.Lock()
        results: SimpleQueue[tuple[Any, ...]] = SimpleQueue()

        def work() -> None:
            while True:
                with taking:
                    item = next(source, results)
                if item is results:
                    break
                results.put((act(item),))
            results.put(())

        self._threads = [threading.Thread(target=work, daemon=True) for _ in range(self._count)]
        for thread in self._threads:
            thread.start()
        running = self._count
        while running:
            result = results.get()
            if result:
                yield result[0]
            else:
                running -= 1

    def terminate(self) -> None:
        """Threads end with their items; daemons, with the process."""

    def join(self) -> None:
        for thread in self._threads:
            thread.join()


class Semaphore:
    """Without the Python of ``threading``'s: tokens in a queue."""

    def __init__(self, value: int) -> None:
        self._tokens: SimpleQueue[None] = SimpleQueue()
        self.acquire = self._tokens.get
        for _ in range(value):
            self.release()

    def release(self) -> None:
        self._tokens.put(None)
