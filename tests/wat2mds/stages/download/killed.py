"""A download that is killed three times and started again, beside one that is not: what must be the same, checked.

Used by the test (``test_resume.py``) and, with more URLs, by ``tests/benchmarks/killed_download.py``.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from tests.wat2mds.stages.download.faulty_origin import KINDS, LARGEST, FaultyOrigin, Request, kind_of, most_at_once
from wat2mds.manifest import Manifest, read_manifest
from wat2mds.settings import load_settings
from wat2mds.stages import download
from wat2mds.stages.download.journal import Journal

# What the kills come to, in their order: the whole process group, or one worker.
KILLS = ("group", "worker", "group")
# Of the first URLs that the threads of two processes ask for at once, more are the largest host's than it may be asked for at a time; it
# takes this long for an answer, so that they meet, however busy the machine is.
_LARGEST_SECONDS = 0.05
_TIMES = ("duration", "start_time", "end_time")


@dataclass
class Kill:
    """One kill: of what, after how many requests, and the URLs whose rows were written by then."""

    of: str
    requests: int
    written: set[str]
    exit_code: int


@dataclass
class Story:
    """What happened, for whoever prints it."""

    kills: list[Kill] = field(default_factory=list)
    seconds: float = 0.0
    undisturbed_seconds: float = 0.0
    rows: int = 0


class Program:
    """``wat2mds download`` as a process group of its own."""

    def __init__(self, unique: Manifest, out: Path, origin: FaultyOrigin, settings: dict[str, object]) -> None:
        given = [f"--set={text}" for text in _overrides(origin, settings)]
        command = [sys.executable, "-m", "wat2mds", "download", unique.url, "--out", str(out), *given]
        self.log = out.parent / f"{out.name}.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, start_new_session=True)

    def finish(self) -> Manifest:
        said, _ = self.process.communicate(timeout=1800)
        assert self.process.returncode == 0, self.log.read_text()[-4000:]
        return read_manifest(json.loads(said.splitlines()[-1])["manifest"])

    def kill(self, what: str) -> int:
        """SIGKILL, and wait until nothing of the group is left; the exit code."""
        family = psutil.Process(self.process.pid).children(recursive=True)
        if what == "group":
            os.killpg(self.process.pid, signal.SIGKILL)
        else:
            random.choice(_workers(self.process.pid)).kill()
        self.process.communicate(timeout=60)
        _, alive = psutil.wait_procs(family, timeout=60)
        assert alive == []
        return self.process.returncode


def _overrides(origin: FaultyOrigin, settings: dict[str, object]) -> list[str]:
    return [f"download.{key}={value}" for key, value in ({"resolver": origin.address} | settings).items()]


def _workers(pid: int) -> list[psutil.Process]:
    """The children of the fork server, which is a child of the stage."""
    return [worker for child in psutil.Process(pid).children() for worker in child.children()]


def written(out: Path) -> set[str]:
    """URLs whose rows are in journals and tables of an unfinished download. Looks at a copy: opening a journal may mend it."""
    found: set[str] = set()
    for folder in out.glob(".attempts/unfinished/*"):
        copy = out.parent / "looked-at"
        shutil.copytree(folder, copy)
        for path in copy.glob("*.rows"):
            journal = Journal(path)
            found |= {row.columns["url"] for row in journal.rows}
            journal.close()
        for path in copy.glob("*.parquet"):
            found |= set(pq.read_table(path, columns=["url"])["url"].to_pylist())
        shutil.rmtree(copy)
    return found


def run_killed(unique: Manifest, urls: list[str], folder: Path, settings: dict[str, object], seed: int) -> Story:
    """Both downloads and all checks. Raises AssertionError."""
    story = Story()
    rng = random.Random(seed)
    points = [rng.uniform(0.15, 0.3), rng.uniform(0.4, 0.6), rng.uniform(0.7, 0.9)]
    started = time.monotonic()
    with FaultyOrigin(_gate) as origin:
        for point, what in zip(points, KILLS, strict=True):
            program = Program(unique, folder / "killed", origin, settings)
            while len(origin.log) < point * len(urls):
                assert program.process.poll() is None, program.log.read_text()[-4000:]
                time.sleep(0.02)
            code = program.kill(what)
            assert code == (-signal.SIGKILL if what == "group" else 75)
            story.kills.append(Kill(what, len(origin.log), written(folder / "killed"), code))
            assert not list((folder / "killed").glob("*.json"))
        made = Program(unique, folder / "killed", origin, settings).finish()
        log = list(origin.log)
    story.seconds = time.monotonic() - started
    started = time.monotonic()
    with FaultyOrigin() as origin:
        undisturbed = download.run(unique, str(folder / "undisturbed"), load_settings(None, _overrides(origin, settings)), "")
    story.undisturbed_seconds = time.monotonic() - started
    _check_rows(made, undisturbed, urls)
    _check_requests(story.kills, [request.url for request in log])
    _check_limits(log, int(str(settings["host_connections"])))
    assert not list((folder / "killed" / ".attempts").rglob("*.*")), "something was left of the killed attempts"
    story.rows = len(urls)
    return story


def _gate(request: Request) -> None:
    if request.host == LARGEST:
        time.sleep(_LARGEST_SECONDS)


def _check_rows(made: Manifest, undisturbed: Manifest, urls: list[str]) -> None:
    table, other = rows(made), rows(undisturbed)
    assert table["url"].to_pylist() == urls
    assert len(set(table["uid"].to_pylist())) == len(urls)
    outcomes = zip(urls, table["drop_reason"].to_pylist(), table["error_message"].to_pylist(), strict=True)
    wrong = [(url, reason, message) for url, reason, message in outcomes if reason != KINDS[kind_of(url)][1]]
    assert not wrong, f"{len(wrong)} have another outcome than they should, such as {wrong[:5]}"
    differing = {
        name: next((url, str(a)[:99], str(b)[:99]) for url, a, b in zip(urls, table[name], other[name], strict=True) if a != b)
        for name in table.column_names
        if name != "fetched_at" and not table[name].equals(other[name])
    }
    assert not differing
    assert made.flows == undisturbed.flows
    assert [f.name for f in made.files] == [f.name for f in undisturbed.files]
    for name in made.matching("_stats.json"):
        one, two = (_stats(manifest, name) for manifest in (made, undisturbed))
        assert one == two


def _check_requests(kills: list[Kill], asked: list[str]) -> None:
    assert [len(kill.written) for kill in kills] == sorted(len(kill.written) for kill in kills)
    assert len(kills[-1].written) > len(kills[0].written)
    for kill in kills:
        again = kill.written & set(asked[kill.requests :])
        assert not again, f"{len(again)} were fetched again after their rows were written, such as {sorted(again)[:3]}"
    # A redirect's target is another URL of the same row.
    for kill in kills:
        targets = {url.rpartition("/")[2] for url in kill.written if kind_of(url) == "redirect"}
        assert not targets & {url.rpartition("/")[2] for url in asked[kill.requests :] if kind_of(url) == "target"}


def _check_limits(log: list[Request], connections: int) -> None:
    """Over all processes, and over the attempts that were killed and those that went on."""
    most = most_at_once(log)
    beyond = {host: count for host, count in most.items() if count > connections}
    assert not beyond, f"hosts that were asked more often at a time than {connections}: {beyond}"
    assert max(most.values()) == connections, "no host was asked as often at a time as it may be: this shows nothing"


def rows(manifest: Manifest) -> pa.Table:
    return pa.concat_tables([pq.read_table(_local(manifest.file(name))) for name in manifest.matching(".parquet")])


def _stats(manifest: Manifest, name: str) -> dict[str, object]:
    found = json.loads(_local(manifest.file(name)).read_bytes())
    return {key: value for key, value in found.items() if key not in _TIMES}


def _local(url: str) -> Path:
    return Path(urlsplit(url).path)
