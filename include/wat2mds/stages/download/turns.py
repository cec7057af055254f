"""Whose turn it is: the fetches of one shard, each going on when its host may be asked.

In: fetches as generators, which yield the Turn that they wait for and are sent the Permit. Out: ``next`` runs whatever can run in the
caller's thread, and returns a fetch that came to its end. Guaranteed: no thread waits for a host while another host's fetch could go
on; among hosts that may be asked, the one whose fetch stands earliest in the shard's order is; fetches of a host that rests for longer
than ``patience`` seconds are told so (``host_resting``) and not asked. Waiting is not the fetch's time: its deadline runs while it
runs. What does not belong here: limits (``hosts.py``), requests (``fetch.py``).
"""

from __future__ import annotations

import heapq
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from wat2mds.drops import DropReason
from wat2mds.stages.download.hosts import Hosts, Permit
from wat2mds.stages.download.refusal import Refused

_SHORT_SECONDS = 5.0
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Turn:
    """The wish for a Permit of ``host``, not before ``pause`` seconds from now; ``whole_host``: nor may its other fetches go on."""

    host: str
    pause: float = 0.0
    whole_host: bool = False


Steps = Generator[Turn, Permit, T]


@dataclass(slots=True)
class _Ended(Generic[T]):
    outcome: T | Exception


@dataclass(slots=True)
class _Host:
    """The fetches that wait for one host: rank, place, steps. First those that go on without a pause (rank 0), since others may be
    looking out for what they bring (``sites.py``); then by the order."""

    name: str
    waiting: list[tuple[int, int, Steps[Any]]] = field(default_factory=list)
    entry: int = 0  # of its entries in the heaps the one that counts; 0: none does
    until: float = 0.0  # known to be of no use before
    held: bool = False  # until then because one of its fetches said so
    seconds: float = 0.0  # that it takes for a fetch, of late


class Turns(Generic[T]):
    """Of one shard: ``add`` all fetches, then call ``next`` as often, from any number of threads."""

    def __init__(self, table: Hosts, patience: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._table = table
        self._patience = patience
        self._hosts: dict[str, _Host] = {}
        # Seconds that it still takes, negative; place of its first fetch, entry, host.
        self._due: list[tuple[float, int, int, str]] = []
        self._later: list[tuple[float, int, str]] = []  # time, entry, host
        self._paused: list[tuple[float, int, str, Steps[T]]] = []  # time, place, host: single fetches
        self._ended: deque[tuple[int, T | Exception]] = deque()
        self._entries = 0
        self._running: dict[int, str] = {}  # place, host
        self._changed = threading.Condition()
        self._choosing = threading.Lock()

    @property
    def hosts(self) -> frozenset[str]:
        """Those that something is asked of now."""
        with self._changed:
            return frozenset(self._running.values())

    def add(self, place: int, steps: Steps[T]) -> None:
        """One more fetch; its place is its name in ``next`` and its rank among the others."""
        news = _step(lambda: next(steps))
        with self._changed:
            self._settle(place, steps, news, 1)

    def next(self) -> tuple[int, T | Exception]:
        """The place of a fetch that ended, and its answer or its exception."""
        while True:
            with self._choosing, self._changed:  # one thread looks out for the next fetch, the others wait behind it
                if self._ended:
                    return self._ended.popleft()
                chosen = self._choose()
                if chosen is None:
                    continue
                place, steps, permit = chosen
                self._running[place] = permit.host
            started = self._clock()
            news = _step(lambda: steps.send(permit))  # noqa: B023 (called at once)
            seconds = self._clock() - started
            self._table.give_back(permit)
            with self._changed:
                del self._running[place]
                host = self._hosts[permit.host]
                host.seconds = (host.seconds + seconds) / 2 if host.seconds else seconds
                self._free(host)
                if isinstance(news, _Ended):
                    return place, news.outcome
                self._settle(place, steps, news)

    def _choose(self) -> tuple[int, Steps[T], Permit] | None:
        """A fetch that may go on, with its permit. None: some ended without one, or there was nothing and time went by."""
        now = self._clock()
        while self._paused and self._paused[0][0] <= now:
            _, place, name, steps = heapq.heappop(self._paused)
            self._wait_for(name, 1, place, steps)
        while self._later and self._later[0][0] <= now:
            _, entry, name = heapq.heappop(self._later)
            if self._hosts[name].entry == entry:
                self._list(self._hosts[name])
        while self._due:
            _, _, entry, name = heapq.heappop(self._due)
            host = self._hosts[name]
            if entry != host.entry:
                continue
            host.entry = 0
            taken = self._table.take(name)
            if isinstance(taken, Permit):
                _, place, steps = heapq.heappop(host.waiting)
                host.until = now + self._table.delay
                self._list(host)
                return place, steps, taken
            if taken.resting and taken.seconds > self._patience:
                self._end_resting(host, taken.seconds)
                return None
            if not taken.ours:  # else the permit that comes back says when
                host.until = now + taken.seconds
                self._list(host)
        times = [heap[0][0] for heap in (self._later, self._paused) if heap]
        self._changed.wait(max(0.0, min(times) - now) if times else None)
        return None

    def _settle(self, place: int, steps: Steps[T], news: Turn | _Ended[T], rank: int = 0) -> None:
        """Where a fetch goes after it ran."""
        if isinstance(news, _Ended):
            self._ended.append((place, news.outcome))
        elif news.pause and not news.whole_host:
            heapq.heappush(self._paused, (self._clock() + news.pause, place, news.host, steps))
        else:
            host = self._hosts.setdefault(news.host, _Host(news.host))
            if news.pause:
                host.until, host.held = self._clock() + news.pause, True
            elif host.held:
                host.until, host.held = 0.0, False
            self._wait_for(news.host, 1 if news.pause else rank, place, steps)
        self._changed.notify()

    def _wait_for(self, name: str, rank: int, place: int, steps: Steps[T]) -> None:
        host = self._hosts.setdefault(name, _Host(name))
        heapq.heappush(host.waiting, (rank, place, steps))
        self._list(host)

    def _free(self, host: _Host) -> None:
        """A permit of the host came back, and with it how long it takes."""
        self._list(host)
        self._changed.notify()

    def _list(self, host: _Host) -> None:
        """Put the host where it is found when its time has come; earlier entries of it count no longer."""
        host.entry = 0
        if not host.waiting:
            return
        self._entries += 1
        host.entry = self._entries
        if host.until > self._clock():
            heapq.heappush(self._later, (host.until, host.entry, host.name))
        else:
            left = len(host.waiting) * max(self._table.delay, host.seconds / self._table.connections)
            heapq.heappush(self._due, (-left if left > _SHORT_SECONDS else 0.0, host.waiting[0][1], host.entry, host.name))

    def _end_resting(self, host: _Host, seconds: float) -> None:
        waiting, host.waiting = sorted(host.waiting, key=lambda entry: entry[1]), []
        for _, place, steps in waiting:
            refused = Refused(DropReason.HOST_RESTING, f"the host is left alone for another {seconds:.0f} s", later=True)
            self._settle(place, steps, _step(lambda: steps.throw(refused)))  # noqa: B023 (called at once)


def _step(go: Callable[[], Turn]) -> Turn | _Ended[Any]:
    """Run a fetch up to its next wish, or to its end."""
    try:
        return go()
    except StopIteration as end:
        return _Ended(end.value)
    except Exception as error:
        return _Ended(error)
