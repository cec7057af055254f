"""A takedown that dies before any of its writes, and is asked for again: what stays is the same."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.wat2mds.stages.killing import KILLED, NEVER, Run, in_processes
from tests.wat2mds.takedown.searching import found_below
from tests.wat2mds.takedown.test_takedown import check_consistent, folder_of, listed, published, samples_of, take_down
from wat2mds.store import Store
from wat2mds.takedown.applying import complete
from wat2mds.takedown.records import takedowns, unfinished
from wat2mds.versions import read_version, standing_numbers

__all__ = ["published"]
SEED = 8
KILLS = 10
WORK = """
from wat2mds.search import building  # faiss, which each fork need not pay
from wat2mds.stages.publish import table
from wat2mds.takedown.applying import apply, complete
from wat2mds.takedown.entries import entries_of, text_words
from wat2mds.takedown.records import record
import wat2mds.takedown.removing as removing

store.Store.put_file = dying(store.Store.put_file)
table.write_deltalake = dying(table.write_deltalake)

def work(job):
    if "uids" in job:
        entries = entries_of({"uid": text_words("uid", job["uids"])})
        apply(job["dataset"], record(store.Store(job["dataset"]), entries, ["a list"], "a test", 0), alone=True)
    else:
        complete(job["dataset"], alone=True)
    if "count" in job:
        with open(job["count"], "w") as file:
            file.write(str(-1 - left))
"""


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    with in_processes(WORK) as started:
        yield started


@pytest.mark.timeout(900)
def test_killed_anywhere_then_completed(published: str, run: Run, tmp_path: Path) -> None:
    """Ten seeded random places among all of its writes; the next command, which is given no list, completes it."""
    before = samples_of(published)
    gone = sorted(before)[3::90]
    pristine, count = tmp_path / "pristine", tmp_path / "count"
    shutil.copytree(folder_of(published), pristine)
    assert run({"writes": NEVER, "dataset": published, "uids": gone, "count": str(count)}) == [0]
    reference = state(published)
    objects = reference.pop("objects")
    writes = int(count.read_text())
    for survived in sorted(random.Random(SEED).sample(range(writes), KILLS)):
        shutil.rmtree(folder_of(published))
        shutil.copytree(pristine, folder_of(published))
        assert run({"writes": survived, "dataset": published, "uids": gone}) == [KILLED], survived
        if not takedowns(Store(published)):  # died before it was recorded: nothing was asked for
            take_down(published, listed(uid=gone))
        elif unfinished(Store(published)):
            assert run({"writes": NEVER, "dataset": published}) == [0], survived
        assert unfinished(Store(published)) == []
        now = state(published)
        assert sorted(now.pop("objects") ^ objects) == [], survived  # type: ignore[operator]
        assert now == reference, survived
        assert found_below(folder_of(published), [before[uid] for uid in gone]) == [], survived
    check_consistent(published, before.keys() - set(gone))
    assert complete(published, alone=True) == []


def state(dataset: str) -> dict[str, object]:
    """What readers see: the versions that stand, the newest's units with their objects, and what lies in the store by its place."""
    version = read_version(dataset)
    units = {key: (unit.unit_name, unit.samples, unit.objects, unit.retriable_uids) for key, unit in version.units.items()}
    store = Store(dataset)
    named = ("shards", "embeddings", "outcomes", "release", "subsets", "search/objects", "work", "README.md", "card.html")
    there = {entry.path for part in named for entry in store.walk(part)}
    index = json.loads(store.read("index.json"))
    return {"standing": len(standing_numbers(dataset)), "units": units, "objects": there, "index": index}
