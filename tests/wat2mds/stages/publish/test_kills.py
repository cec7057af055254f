"""Publishers that die before any of their writes, and publishers at once: the dataset's versions are always whole."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest

from tests.wat2mds.stages.killing import KILLED, NEVER, in_processes
from tests.wat2mds.stages.publish.conftest import SETTINGS, STRICT, Make, check_whole
from wat2mds.manifest import Manifest
from wat2mds.stages import publish
from wat2mds.stages.publish.vacuum import vacuum
from wat2mds.stages.publish.verify import verify
from wat2mds.store import Store
from wat2mds.versions import newest_version, read_index, read_version, version_numbers, withdraw

PUBLISHER = """
import pandas  # pyarrow loads it on the way, which each fork need not pay
from wat2mds.manifest import read_manifest
from wat2mds.settings import Settings
from wat2mds.stages import publish
from wat2mds.stages.publish import table

table.write_deltalake = dying(table.write_deltalake)
table.DeltaTable.create = dying(table.DeltaTable.create)
settings = Settings.from_json(sys.argv[1], "argument")

def work(job):
    publish.run([read_manifest(url) for url in job["uploads"]], job["dataset"], settings)
"""


@pytest.fixture
def publish_in_processes(anywhere: str) -> Iterator[Callable[..., list[int]]]:
    """Runs jobs ``(writes it survives, dataset, uploads)`` at once; returns their exit codes."""
    settings = json.dumps(SETTINGS.model_dump(mode="json", by_alias=True))
    with in_processes(PUBLISHER, settings) as run:
        yield lambda *jobs: run(
            *({"writes": writes, "dataset": dataset, "uploads": [u.url for u in uploads]} for writes, dataset, uploads in jobs)
        )


def test_killed_between_any_two_writes_then_retried(
    anywhere: str, made_upload: Make, publish_in_processes: Callable[..., list[int]]
) -> None:
    """Each death leaves the newest version as it was, or the new one whole; each retry goes on from there."""
    # What is written, in order: the unit's groups, the table (the first time only), its rows, the segment's list, the merged index, the
    # record, the root index. Numbers are the writes that an attempt survives; rows and table that are there already are not written again.
    first, second = [made_upload(anywhere, "00000")], [made_upload(anywhere, "00001", count=4, failed=1, dropped=1)]
    for deaths, uploads, before in (((0, 1, 2, 2, 2, 3, 4), first, None), ((0, 1, 2, 2, 3, 4), second, 1)):
        number = (before or 0) + 1
        for attempt, writes in enumerate(deaths):
            assert publish_in_processes((writes, anywhere, uploads)) == [KILLED]
            newest = newest_version(anywhere)
            committed = attempt == len(deaths) - 1  # the last death is between the record and the root index
            assert (newest.number if newest is not None else None) == (number if committed else before)
            if newest is not None:
                check_whole(anywhere, newest, [*first, *second] if newest.number == 2 else first)
        result = publish.run(uploads, anywhere, SETTINGS)
        assert (result.version.number, result.done_before) == (number, True)
        assert Store(anywhere).read("index.json") == read_index(anywhere, result.version)
    assert version_numbers(anywhere) == [1, 2]


def test_two_publishers_at_once(anywhere: str, made_upload: Make, publish_in_processes: Callable[..., list[int]]) -> None:
    """Rounds of two processes that start together; both always end up in the dataset, and no version is lost."""
    rounds = 20 if anywhere.startswith("file:") else 4
    uploads: list[Manifest] = []
    for turn in range(rounds):
        pair = [made_upload(anywhere, f"00{2 * turn + n:03}", count=4, failed=1, dropped=1) for n in range(2)]
        assert publish_in_processes(*((NEVER, anywhere, [manifest]) for manifest in pair)) == [0, 0]
        uploads += pair
        version = read_version(anywhere)
        assert {unit.unit_name for unit in version.units.values()} == {u.extra["unit_name"] for u in uploads}
        assert Store(anywhere).read("index.json") == read_index(anywhere, version)
    assert version_numbers(anywhere) == list(range(1, 2 * rounds + 1))
    for number in (1, 2, rounds, 2 * rounds):
        held = set(read_version(anywhere, number).units)
        assert len(held) == number
        check_whole(anywhere, read_version(anywhere, number), [u for u in uploads if _key(u) in held])
    assert verify(anywhere).problems == []


def _key(manifest: Manifest) -> str:
    return ".".join(manifest.unit[name] for name in ("snapshot", "segment", "wat_file"))


VACUUMER = """
from datetime import timedelta
from wat2mds.stages.publish.vacuum import vacuum

def work(job):
    vacuum(sys.argv[1], timedelta(0), alone=True)
"""


def test_a_vacuum_killed_before_each_of_its_writes(dataset: str, made_upload: Make) -> None:
    """What stands is sound at every moment; the last one removes what is left."""
    publish.run([made_upload(dataset, "00000", dropped=0)], dataset, SETTINGS)
    publish.run([made_upload(dataset, "00000", settings=STRICT)], dataset, STRICT)
    withdraw(dataset, [1], "a test")
    planned = [entry.path for entry in vacuum(dataset, timedelta(0), alone=True, dry_run=True).removed]
    assert len(planned) >= 7
    with in_processes(VACUUMER, dataset) as run:
        for writes in range(4):  # its mark, then one object more each time
            assert run({"writes": writes}) == [KILLED]
            assert verify(dataset).problems == []
        assert run({"writes": NEVER}) == [0]
    assert not {entry.path for entry in Store(dataset).walk()} & set(planned)
    assert verify(dataset).problems == []
