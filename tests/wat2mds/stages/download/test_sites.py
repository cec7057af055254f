"""Files of sites: kept for a day at most, asked for by one of all who need them, by a clock of the tests' own."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from tests.wat2mds.stages.download.test_hosts import Clock
from wat2mds.drops import DropReason
from wat2mds.stage_settings import DownloadSettings
from wat2mds.stages.download.hosts import Hosts, Permit
from wat2mds.stages.download.refusal import Refused
from wat2mds.stages.download.sites import KEEP_SECONDS, SiteFiles, SiteStore, SiteText
from wat2mds.stages.download.turns import Steps, Turn, Turns

DAY = 24 * 3600
Fetch = Callable[[str], Generator[Turn, Permit, tuple[int, bytes]]]


class Process:
    """What one process has: memory of its own, a folder that it shares."""

    def __init__(self, folder: Path, clock: Clock, answer: Callable[[str], tuple[int, bytes]]) -> None:
        self.asked: list[str] = []
        self._answer = answer
        self._hosts = Hosts(folder, DownloadSettings(host_delay=0))
        self.store = SiteStore(folder, clock)
        self.files = SiteFiles(
            "/robots.txt", lambda text: (text.status, text.body, text.reason), self._fetch, self.store, self._hosts
        )

    def _fetch(self, url: str) -> Generator[Turn, Permit, tuple[int, bytes]]:
        yield Turn("a.example")
        self.asked.append(url)
        return self._answer(url)

    def get(self, authority: str = "http://a.example") -> tuple[int | None, bytes, DropReason | None]:
        def steps() -> Steps[tuple[int | None, bytes, DropReason | None]]:
            known = self.files.known(authority)
            return known if known is not None else (yield from self.files.ask(authority))

        turns: Turns[tuple[int | None, bytes, DropReason | None]] = Turns(self._hosts, 60)
        turns.add(0, steps())
        _, found = turns.next()
        if isinstance(found, Exception):
            raise found
        return found


def fails(_: str) -> tuple[int, bytes]:
    raise Refused(DropReason.CONNECT, "no connection")


def test_an_answer_is_kept_for_a_day_and_no_longer(tmp_path: Path) -> None:
    clock = Clock()
    one = Process(tmp_path, clock, lambda _: (200, b"Disallow: /"))
    two = Process(tmp_path, clock, lambda _: (404, b""))
    assert one.get() == (200, b"Disallow: /", None)
    clock.now += DAY - 1
    assert [one.get(), two.get()] == [(200, b"Disallow: /", None)] * 2
    assert [one.asked, two.asked] == [["http://a.example/robots.txt"], []]
    clock.now += 1
    assert two.get() == (404, b"", None)
    assert one.get() == (404, b"", None)  # by what the other was told
    clock.now += DAY - 1
    assert one.get() == two.get() == (404, b"", None)
    assert [len(one.asked), len(two.asked)] == [1, 1]
    assert KEEP_SECONDS == DAY  # RFC 9309 2.4
    for authority in ("https://a.example", "http://a.example:8080"):  # each authority has rules of its own
        one.get(authority)
    assert len(one.asked) == 3


@pytest.mark.parametrize("answer", [fails, lambda _: (503, b"")])
def test_a_failure_is_kept_for_an_hour(tmp_path: Path, answer: Callable[[str], tuple[int, bytes]]) -> None:
    clock = Clock()
    one = Process(tmp_path, clock, answer)
    two = Process(tmp_path, clock, lambda _: (200, b"yes"))
    found = one.get()
    clock.now += 3599
    assert one.get() == two.get() == found
    clock.now += 1
    assert two.get() == one.get() == (200, b"yes", None)
    assert [len(one.asked), len(two.asked)] == [1, 1]


def test_a_clock_that_was_set_back_keeps_nothing(tmp_path: Path) -> None:
    clock = Clock()
    one = Process(tmp_path, clock, lambda _: (200, b""))
    one.get()
    clock.now -= 10
    one.get()
    assert len(one.asked) == 2


def test_a_host_that_may_not_be_asked_is_no_answer(tmp_path: Path) -> None:
    def rests(_: str) -> tuple[int, bytes]:
        raise Refused(DropReason.HOST_RESTING, "later")

    clock = Clock()
    one = Process(tmp_path, clock, rests)
    with pytest.raises(Refused):
        one.get()
    assert Process(tmp_path, clock, lambda _: (200, b"yes")).get() == (200, b"yes", None)


def test_the_store_is_bounded_and_forgets_the_oldest(tmp_path: Path) -> None:
    clock = Clock()
    store = SiteStore(tmp_path, clock, most_bytes=40_000)
    for number in range(2001):
        store.put(f"http://h{number}.example/robots.txt", SiteText(200, b"%d" % number, None, "", clock.now))
        clock.now += 1
    known = [number for number in range(2001) if store.get(f"http://h{number}.example/robots.txt") is not None]
    assert 500 < len(known) < 1700
    assert known == list(range(known[0], 2001))
    clock.now += DAY
    assert all(store.get(f"http://h{number}.example/robots.txt") is None for number in known)


def test_a_damaged_store_costs_requests_only(tmp_path: Path) -> None:
    (tmp_path / "sites.sqlite").write_bytes(b"no database at all" * 1000)
    one = Process(tmp_path, Clock(), lambda _: (200, b"yes"))
    assert [one.get(), one.get()] == [(200, b"yes", None)] * 2
    assert len(one.asked) == 1
    other = SiteStore(tmp_path / "other", Clock())
    with sqlite3.connect(tmp_path / "other" / "sites.sqlite") as database:
        database.execute("INSERT INTO texts VALUES ('u', 200, 'not compressed', 'no_reason', '', 1000000)")
    assert other.get("u") is None
