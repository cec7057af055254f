"""Answers that many threads want at once and that stay good for a while: host addresses.

Guaranteed: of any number of threads that ask for one key, one computes and the others wait for it; nobody waits longer than it is
willing to; at most ``most`` answers are kept. What does not belong here: what is computed.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Once(Generic[K, V]):
    """``compute(key)`` at most once in ``seconds``, in a thread of its own, and once more after an answer not to ``keep``."""

    def __init__(
        self, compute: Callable[[K], V], *, threads: int, seconds: float, most: int, keep: Callable[[V], bool] = lambda _: True
    ) -> None:
        self._compute = compute
        self._keep = keep
        self._seconds = seconds
        self._most = most
        self._known: OrderedDict[K, tuple[Future[V], float]] = OrderedDict()
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=getattr(compute, "__name__", "once"))

    def get(self, key: K, wait: float) -> V:
        """Raises TimeoutError where the answer is not there in ``wait`` seconds; the computation goes on."""
        now = time.monotonic()
        with self._lock:
            future, since = self._known.get(key, (None, now))
            if future is None or now - since > self._seconds or (future.done() and not self._keep(future.result())):
                future = self._threads.submit(self._compute, key)
                self._known[key] = (future, now)
                self._known.move_to_end(key)
                if len(self._known) > self._most:
                    self._known.popitem(last=False)
        return future.result(timeout=max(0.0, wait))
