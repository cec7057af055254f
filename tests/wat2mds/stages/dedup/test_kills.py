"""The ledger under random orders of batches, retries, backfills, releases, kills before any write, and attempts at the same time."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from tests.wat2mds.stages.dedup.test_dedup import kept, pairs_of
from tests.wat2mds.stages.killing import KILLED, NEVER, Run, in_processes
from wat2mds.manifest import Manifest
from wat2mds.settings import load_settings
from wat2mds.stages import dedup
from wat2mds.stages.dedup.ledger import Ledger
from wat2mds.store import Layout, join

# Filters that err for one key in eleven and an exact ledger: what an error would lose, the tests would miss.
SETTINGS = load_settings("demo", ["dedup.bins=2", "dedup.false_positive_rate=0.09"], environment={})
WAT_FILES = {f"{wat:05d}": [f"n{(7 * wat * wat + 3 * i) % 40}" for i in range(12)] for wat in range(6)}

# Deduplicates, or runs a command.
DEDUPLICATOR = """
import os
from wat2mds.cli.main import run as command
from wat2mds.manifest import read_manifest
from wat2mds.settings import Settings
from wat2mds.stages import dedup

settings = Settings.from_json(sys.argv[1], "argument")

def work(job):
    if "command" in job:
        os.dup2(2, 1)
        return command(job["command"])
    dedup.run([read_manifest(url) for url in job["pairs"]], job["ledger"], job["out"], settings)
"""
Job = tuple[int, str, list[Manifest] | list[str]]


@pytest.fixture
def dedup_in_processes(request: pytest.FixtureRequest) -> Iterator[Run]:
    """Runs jobs ``(writes it survives, root, pairs or a command's arguments)`` at once; returns their exit codes."""
    if "store_url" in request.fixturenames:
        request.getfixturevalue("store_url")  # its environment is the processes' too

    def asked(writes: int, root: str, work: list[Manifest] | list[str]) -> dict[str, Any]:
        if isinstance(work[0], str):
            return {"writes": writes, "command": work}
        urls = [pairs.url for pairs in work]
        return {"writes": writes, "ledger": join(root, "ledger"), "out": out_of(root), "pairs": urls}

    with in_processes(DEDUPLICATOR, SETTINGS.to_json()) as run:
        yield lambda *jobs: run(*(asked(*job) for job in jobs))


def out_of(root: str) -> str:
    return join(root, "work", "S", "1.0", "{wat_file}", "dedup")


def owned(root: str, pairs: list[Manifest], folder: Path) -> list[list[str]]:
    return [kept(m, folder) for m in dedup.run(pairs, join(root, "ledger"), out_of(root), SETTINGS)]


def test_killed_before_each_write_then_retried(store_url: str, tmp_path: Path, dedup_in_processes: Run) -> None:
    """Each attempt survives one write more than the last, and starts where that one died; then another WAT file comes in between."""
    work = join(store_url, "work")
    one, two, three = (pairs_of(work, name, WAT_FILES[name], SETTINGS) for name in ("00000", "00001", "00002"))
    step = 1 if store_url.startswith("file:") else 4
    deaths = 0
    for writes in range(0, 100, step):
        if dedup_in_processes((writes, store_url, [one, two])) == [0]:
            break
        deaths += 1
        if deaths == 2:
            assert dedup_in_processes((NEVER, store_url, [three])) == [0]
    assert deaths >= 3
    found = owned(store_url, [one, two, three], tmp_path)
    assert sorted(chain(*found)) == sorted({*WAT_FILES["00000"], *WAT_FILES["00001"], *WAT_FILES["00002"]})


RELEASER = """
from wat2mds.stages.dedup.ledger import Ledger

def work(job):
    Ledger.open_existing(sys.argv[1]).release(["S.1.0.00000"])
"""


def test_killed_while_releasing(tmp_path: Path) -> None:
    """The commit is the release: before it nothing has happened, after it only filters are missing."""
    root = str(tmp_path)
    one, two = (pairs_of(join(root, "work"), name, WAT_FILES[name], SETTINGS) for name in ("00000", "00001"))
    owned(root, [one], tmp_path)
    with in_processes(RELEASER, join(root, "ledger")) as run:
        deaths = next(writes for writes in range(40) if run({"writes": writes}) == [0])
    assert deaths >= 3
    assert [Ledger.open_existing(join(root, "ledger")).bin(number).state().footer.keys for number in range(2)] == [0, 0]
    shutil.rmtree(tmp_path / "work" / "S" / "1.0" / "00000" / "dedup")
    second, first = owned(root, [two], tmp_path)[0], owned(root, [one], tmp_path)[0]
    assert set(second) == set(WAT_FILES["00001"])
    assert set(first) == set(WAT_FILES["00000"]) - set(WAT_FILES["00001"])


CHOSEN = st.lists(st.sampled_from(sorted(WAT_FILES)), min_size=1, max_size=3, unique=True).map(sorted)
WRITES = st.integers(0, 25)


@pytest.mark.timeout(600)
def test_any_history_keeps_each_pair_once(tmp_path_factory: pytest.TempPathFactory, dedup_in_processes: Run) -> None:
    """Whatever happened before: at every moment what is kept is disjoint; at the end it is the exact distinct set."""

    class Histories(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.folder = tmp_path_factory.mktemp("history")
            self.root = Layout(str(self.folder), "d").dataset
            self.work = self.folder / "datasets" / "d" / "work" / "S" / "1.0"
            work = join(self.root, "work")
            self.pairs = {name: pairs_of(work, name, names, SETTINGS) for name, names in WAT_FILES.items()}
            self.kept: dict[str, list[str]] = {}

        def job(self, wat_files: list[str], writes: int = NEVER) -> Job:
            return writes, self.root, [self.pairs[name] for name in wat_files]

        def release_job(self, wat_files: list[str], writes: int = NEVER) -> Job:
            place = ["--root", str(self.folder), "--dataset", "d", "--snapshot", "S", "--segment", "1.0"]
            return writes, self.root, ["ledger", "release", *place, "--wat-files", ",".join(wat_files)]

        def released(self, wat_files: list[str], code: int) -> None:
            """What was kept may now be anybody's, where the command came so far; where it ended, no claim of theirs is left."""
            assert code in (0, KILLED)
            owners = {f"S.1.0.{name}" for name in wat_files}
            assert code == KILLED or not owners & self.holders()
            for name in wat_files:
                there = (self.work / name / "dedup").exists()
                assert not (there and code == 0)
                if not there:
                    self.kept.pop(name, None)

        @rule(wat_files=CHOSEN)
        def batch(self, wat_files: list[str]) -> None:
            """A batch, its retry or a backfill over it: which one depends on what came before."""
            assert dedup_in_processes(self.job(wat_files)) == [0]

        @rule(wat_files=CHOSEN, writes=WRITES)
        def killed(self, wat_files: list[str], writes: int) -> None:
            assert dedup_in_processes(self.job(wat_files, writes))[0] in (0, KILLED)

        @rule(one=CHOSEN, other=CHOSEN, writes=WRITES)
        def at_once(self, one: list[str], other: list[str], writes: int) -> None:
            """Two batches that may share WAT files, one of which may die."""
            first, second = dedup_in_processes(self.job(one), self.job(other, writes))
            assert first == 0
            assert second in (0, KILLED)

        @rule(wat_file=st.sampled_from(sorted(WAT_FILES)))
        def output_lost(self, wat_file: str) -> None:
            """As after retention, or as if killed between claim and output."""
            shutil.rmtree(self.work / wat_file / "dedup", ignore_errors=True)

        @rule()
        def filters_lost(self) -> None:
            for filters in self.folder.glob("datasets/d/ledger/bin=*/filters"):
                shutil.rmtree(filters)

        @rule(wat_files=CHOSEN, writes=st.just(NEVER) | st.integers(0, 12))
        def withdrawn(self, wat_files: list[str], writes: int) -> None:
            """``wat2mds ledger release``, which may die."""
            if self.has_ledger():
                self.released(wat_files, *dedup_in_processes(self.release_job(wat_files, writes)))

        @rule(wat_files=CHOSEN, other=CHOSEN, writes=st.just(NEVER) | st.integers(0, 12))
        def withdrawn_meanwhile(self, wat_files: list[str], other: list[str], writes: int) -> None:
            """A release while a batch of other WAT files goes on."""
            other = [name for name in other if name not in wat_files]
            if self.has_ledger() and other:
                release, batch = dedup_in_processes(self.release_job(wat_files, writes), self.job(other))
                assert batch == 0
                self.released(wat_files, release)

        def holders(self) -> set[str]:
            """Who holds any claim."""
            found = set()
            for place in map(Ledger.open_existing(join(self.root, "ledger")).bin, range(2)):
                state = place.state()
                for sequence in range(1, state.newest + 1):
                    claims = place.read(sequence, state.footer.releases)
                    found |= {claims.names[code] for code in claims.codes}
            return found

        def has_ledger(self) -> bool:
            return (self.folder / "datasets" / "d" / "ledger" / "ledger.json").exists()

        @invariant()
        def what_is_kept_stays_and_is_disjoint(self) -> None:
            for name in WAT_FILES:
                for path in (self.work / name / "dedup").glob("*/unique.parquet"):
                    manifest = path.parent.with_name(path.parent.name.split(".")[0] + ".json")
                    if not manifest.exists() or json.loads(manifest.read_text())["folder"] != path.parent.name:
                        continue  # of an attempt that died
                    found = kept_in(path)
                    assert self.kept.setdefault(name, found) == found, f"{name} keeps other pairs than before"
            every = list(chain(*self.kept.values()))
            assert len(every) == len(set(every))

        def teardown(self) -> None:
            assert dedup_in_processes(self.job(sorted(WAT_FILES))) == [0]
            found = owned(self.root, [*self.pairs.values()], self.folder)
            assert sorted(chain(*found)) == sorted(set().union(*WAT_FILES.values()))
            keys = [Ledger.open_existing(join(self.root, "ledger")).bin(number).state().footer.keys for number in range(2)]
            assert sum(keys) == len(set().union(*WAT_FILES.values()))
            shutil.rmtree(self.folder)

    run_state_machine_as_test(
        Histories,
        settings=settings(
            max_examples=12,
            stateful_step_count=8,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )


def kept_in(path: Path) -> list[str]:
    import pyarrow.parquet as pq

    return [url.rsplit("/", 1)[1][:-4] for url in pq.read_table(path, columns=["url"])["url"].to_pylist()]
