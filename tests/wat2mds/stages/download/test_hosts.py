"""The table of hosts: limits over processes, delays, rests; by a clock of the tests' own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from wat2mds.errors import ConfigError, TransientError
from wat2mds.stage_settings import DownloadSettings
from wat2mds.stages.download.hosts import Busy, Hosts, Permit

HOLDER = """
import sys, time
from pathlib import Path
from wat2mds.stage_settings import DownloadSettings
from wat2mds.stages.download.hosts import Hosts, Permit
hosts = Hosts(Path(sys.argv[1]), DownloadSettings(host_connections=3, host_delay=0))
print(sum(isinstance(hosts.take("a.example"), Permit) for _ in range(2)), hosts.claim("http://a.example/robots.txt"), flush=True)
time.sleep(600)
"""


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def table(folder: Path, clock: Clock, **changes: object) -> Hosts:
    return Hosts(folder, DownloadSettings.model_validate({"host_delay": 0} | changes), clock)


def taken(found: Permit | Busy) -> Permit:
    assert isinstance(found, Permit)
    return found


def busy(found: Permit | Busy) -> Busy:
    assert isinstance(found, Busy)
    return found


def ask(hosts: Hosts, host: str, status: int, retry_after: float | None = None) -> None:
    permit = taken(hosts.take(host))
    permit.asked = True
    permit.answered(status, retry_after)
    hosts.give_back(permit)


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process, which has two permits of a.example and a claim."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "2 True\n"
    yield process
    process.kill()
    process.communicate()


def test_a_limit_holds_over_processes_and_ends_with_a_killed_one(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    hosts = Hosts(tmp_path, DownloadSettings(host_connections=3, host_delay=0))
    url = "http://a.example/robots.txt"
    permit = taken(hosts.take("a.example"))
    assert not busy(hosts.take("a.example")).ours
    assert not hosts.claim(url)
    for _ in range(3):
        taken(hosts.take("b.example"))
    assert busy(hosts.take("b.example")).ours
    holder.kill()
    holder.wait()
    taken(hosts.take("a.example"))
    taken(hosts.take("a.example"))
    busy(hosts.take("a.example"))
    hosts.give_back(permit)
    taken(hosts.take("a.example"))
    assert hosts.claim(url)
    assert not hosts.claim(url)
    hosts.unclaim(url)
    assert hosts.claim(url)


def test_requests_start_apart(tmp_path: Path, clock: Clock) -> None:
    hosts, other = (table(tmp_path, clock, host_delay=2) for _ in range(2))
    ask(hosts, "a.example", 200)
    assert busy(other.take("a.example")).seconds == 2
    taken(other.take("b.example"))
    clock.now += 2
    unused = taken(hosts.take("a.example"))
    busy(other.take("a.example"))
    hosts.give_back(unused)  # nothing was asked: nobody has to wait for it
    ask(other, "a.example", 200)
    clock.now -= 1000  # a clock that is set back keeps nobody out for longer than the delay
    assert busy(hosts.take("a.example")).seconds == 2


def test_a_machine_has_its_share(tmp_path: Path, clock: Clock) -> None:
    hosts = table(tmp_path / "four", clock, host_connections=9, host_delay=0.5, machines=4)
    for host in ("a.example", "a.example"):
        taken(hosts.take(host))
        assert busy(hosts.take(host)).seconds == 2
        clock.now += 2
    assert busy(hosts.take("a.example")).ours
    one = table(tmp_path / "twenty", clock, host_connections=9, machines=20)
    taken(one.take("a.example"))
    assert busy(one.take("a.example")).ours


def test_429_and_503_put_the_whole_host_to_rest(tmp_path: Path, clock: Clock) -> None:
    hosts = table(tmp_path, clock, max_retry_after=100, host_rest=5, host_failures=100)
    other = table(tmp_path, clock, host_failures=100)
    ask(hosts, "a.example", 429, 30)
    assert other.take("a.example") == Busy(30, resting=True)
    taken(other.take("b.example"))
    clock.now += 30
    ask(hosts, "a.example", 503, 10_000)
    assert busy(hosts.take("a.example")).seconds == 100
    clock.now += 100
    ask(hosts, "a.example", 200)
    rests = []
    for _ in range(5):
        ask(hosts, "a.example", 503)
        rests.append(busy(hosts.take("a.example")).seconds)
        clock.now += rests[-1]
    assert rests == [1, 2, 4, 5, 5]
    ask(hosts, "a.example", 404)  # an answer: it is back
    ask(hosts, "a.example", 429)
    assert busy(hosts.take("a.example")).seconds == 1


def test_a_host_that_fails_many_times_in_a_row_rests(tmp_path: Path, clock: Clock) -> None:
    hosts = table(tmp_path, clock, host_failures=3, host_rest=300)
    for status in (500, 500, 404, 500, 500, 500):
        ask(hosts, "a.example", status)
    assert hosts.take("a.example") == Busy(300, resting=True)
    clock.now += 300
    permit = taken(hosts.take("a.example"))  # one try
    permit.asked = permit.failed = True  # no connection, or no answer in time
    hosts.give_back(permit)
    assert busy(hosts.take("a.example")).resting
    clock.now += 300
    ask(hosts, "a.example", 200)
    ask(hosts, "a.example", 500)
    taken(hosts.take("a.example"))


def test_a_folder_of_someone_else_is_refused(tmp_path: Path, clock: Clock) -> None:
    if os.geteuid() == 0:  # only root can make a folder of someone else's
        (tmp_path / "theirs").mkdir()
        os.chown(tmp_path / "theirs", 12345, 12345)
        with pytest.raises(ConfigError, match="another user"):
            table(tmp_path / "theirs", clock)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match="host_folder"):
        table(tmp_path / "file", clock)


def test_a_full_disk_is_said_before_the_table_is_used(disk: Path, clock: Clock) -> None:
    with (disk / "filler").open("wb") as filler:
        os.posix_fallocate(filler.fileno(), 0, shutil.disk_usage(disk).free)
    with pytest.raises(TransientError, match="No space left"):
        table(disk / "hosts", clock)
    (disk / "filler").unlink()
    taken(table(disk / "hosts", clock).take("a.example"))
