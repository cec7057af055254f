"""Whose turn it is: threads never wait for a host while another may be asked."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from wat2mds.drops import DropReason
from wat2mds.stage_settings import DownloadSettings
from wat2mds.stages.download.hosts import Hosts
from wat2mds.stages.download.refusal import Refused
from wat2mds.stages.download.turns import Steps, Turn, Turns


def turns(folder: Path, patience: float = 60, clock: Callable[[], float] = time.monotonic, **changes: object) -> Turns[str]:
    return Turns(Hosts(folder, DownloadSettings.model_validate({"host_delay": 0} | changes)), patience, clock)


def test_a_host_that_is_slow_holds_up_nobody_else(tmp_path: Path) -> None:
    """Two threads; of 20 fetches of one host each waits for all 30 others to be over: one thread more at that host, and none would end."""
    line = turns(tmp_path, host_connections=1)
    others = threading.Semaphore(0)
    order: list[str] = []

    def slow() -> Steps[str]:
        yield Turn("slow.example")
        if order.count("slow") == 0:
            for _ in range(30):
                assert others.acquire(timeout=60)
        order.append("slow")
        return "slow"

    def quick(host: str) -> Steps[str]:
        yield Turn(host)
        order.append("quick")
        others.release()
        return "quick"

    for place in range(20):
        line.add(place, slow())
    for place in range(20, 50):
        line.add(place, quick(f"h{place % 3}.example"))
    ended: list[int] = []

    def work() -> None:
        while len(order) < 50:
            with lock:
                if not left:
                    return
                left.pop()
            ended.append(line.next()[0])

    lock, left = threading.Lock(), list(range(50))
    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(ended) == list(range(50))
    assert order == ["quick"] * 30 + ["slow"] * 20


def test_the_order_is_the_shards_whatever_host_is_free(tmp_path: Path) -> None:
    line = turns(tmp_path)

    def steps(host: str) -> Steps[str]:
        yield Turn(host)
        return host

    hosts = ["a", "b", "a", "c", "b", "a"]
    for place, host in enumerate(hosts):
        line.add(place, steps(host))
    assert [line.next() for _ in hosts] == list(enumerate(hosts))


def test_what_takes_longest_begins_first(tmp_path: Path) -> None:
    """A host of 8 URLs takes 30 seconds for each, 200 others answer at once: as soon as that is known, its fetches come first. Time is
    counted, not waited for."""
    now = 0.0
    line = turns(tmp_path, clock=lambda: now)

    def steps(host: str) -> Steps[str]:
        nonlocal now
        yield Turn(host)
        now += 30 if host == "slow" else 0
        return host

    hosts = ["slow" if place % 100 == 50 else f"h{place % 200}" for place in range(800)]
    for place, host in enumerate(hosts):
        line.add(place, steps(host))
    order = [str(line.next()[1]) for _ in hosts]
    first = order.index("slow")
    assert first == 50, "nothing is known of it before"
    assert order[first : first + 8] == ["slow"] * 8
    assert order[first + 8 :] == [host for host in hosts[first:] if host != "slow"], "the others keep the shard's order"


def test_fetches_of_a_host_that_rests_for_long_are_told_so(tmp_path: Path) -> None:
    line = turns(tmp_path, patience=5)
    asked = []

    def steps(place: int, status: int) -> Steps[str]:
        permit = yield Turn("a.example")
        asked.append(place)
        permit.asked = True
        permit.answered(status, 600)
        return "asked"

    def other() -> Steps[str]:
        yield Turn("b.example")
        return "other"

    for place, status in enumerate((200, 429, 200, 200)):
        line.add(place, steps(place, status))
    line.add(4, other())
    found = dict(line.next() for _ in range(5))
    assert asked == [0, 1]
    assert [found[0], found[1], found[4]] == ["asked", "asked", "other"]
    for place in (2, 3):
        refused = found[place]
        assert isinstance(refused, Refused)
        assert refused.reason is DropReason.HOST_RESTING


def test_a_fetch_may_pause_itself_or_its_whole_host(tmp_path: Path) -> None:
    line = turns(tmp_path)
    order = []

    def paused(name: str, *, whole_host: bool) -> Steps[str]:
        yield Turn("a.example" if whole_host else "b.example")
        order.append(f"{name} 1")
        yield Turn("a.example" if whole_host else "b.example", 0.2, whole_host=whole_host)
        order.append(f"{name} 2")
        return name

    def plain(host: str) -> Steps[str]:
        yield Turn(host)
        order.append(host)
        return host

    line.add(0, paused("whole", whole_host=True))
    line.add(1, plain("a.example"))
    line.add(2, paused("one", whole_host=False))
    line.add(3, plain("b.example"))
    for _ in range(4):
        line.next()
    assert order.index("a.example") > order.index("whole 2")
    assert order.index("b.example") < order.index("one 2")


def test_who_looks_out_for_another_does_not_stand_in_its_way(tmp_path: Path) -> None:
    """The one that others wait for goes on before them, though it stands behind them in the order."""
    line = turns(tmp_path, host_delay=0.05)
    done = []

    def brings() -> Steps[str]:
        yield Turn("a.example")
        line.add(0, looks_out())
        for _ in range(3):
            permit = yield Turn("a.example")
            permit.asked = True
        done.append("brought")
        return "brought"

    def looks_out() -> Steps[str]:
        for _ in range(50):
            yield Turn("a.example", 0.02, whole_host=True)
            if done:
                return "seen"
        raise AssertionError("nothing was brought")

    line.add(1, brings())
    assert sorted([line.next(), line.next()], key=lambda end: end[0]) == [(0, "seen"), (1, "brought")]


def test_an_exception_of_a_fetch_is_its_end(tmp_path: Path) -> None:
    line = turns(tmp_path, host_connections=1)

    def steps() -> Steps[str]:
        yield Turn("a.example")
        raise ValueError("a bug")

    def at_once() -> Steps[str]:
        raise Refused(DropReason.BAD_PORT, "no")
        yield

    line.add(0, steps())
    line.add(1, steps())
    line.add(2, at_once())
    found = dict(line.next() for _ in range(3))
    assert [type(found[place]) for place in range(3)] == [ValueError, ValueError, Refused]
