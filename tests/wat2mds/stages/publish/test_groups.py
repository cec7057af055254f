"""Groups of near-duplicates in the published rows: as one walk through all rows gives them, and for good."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.wat2mds.stages.killing import NEVER, in_processes
from tests.wat2mds.stages.publish.conftest import SETTINGS, STRICT, Make
from tests.wat2mds.stages.publish.test_kills import PUBLISHER
from wat2mds.manifest import Manifest
from wat2mds.settings import Settings
from wat2mds.stages import publish
from wat2mds.stages.publish import verify as verification
from wat2mds.stages.publish.groups import with_groups
from wat2mds.stages.publish.table import MetadataTable
from wat2mds.stages.publish.vacuum import vacuum
from wat2mds.stages.publish.verify import verify
from wat2mds.store import Store
from wat2mds.units import segment_of
from wat2mds.versions import Version, newest_version, open_table, read_version

Groups = dict[str, str | None]
KEY = "CC-MAIN-2023-50.1700679099281.67."
RNG = np.random.default_rng(11)
CENTRES = RNG.integers(0, 2, (4, 256), dtype=np.uint8)
WITHOUT = SETTINGS.model_copy(update={"publish": SETTINGS.publish.model_copy(update={"groups": False})})


def flipped(centre: int, bits: int, rng: np.random.Generator) -> str:
    row = CENTRES[centre].copy()
    row[rng.choice(256, bits, replace=False)] ^= 1
    return np.packbits(row).tobytes().hex()


def looking_alike(wat_file: str) -> Callable[[pa.Table], pa.Table]:
    """Half of the images around few centres, up to 20 bits away, the others anywhere; one too plain to be matched."""

    def change(table: pa.Table) -> pa.Table:
        rows = table.to_pylist()
        rng = np.random.default_rng(int(wat_file))
        for n, row in enumerate(sorted((row for row in rows if row["pdq"]), key=lambda row: row["uid"])):
            row["pdq"] = flipped(int(rng.integers(4)), int(rng.integers(21)), rng) if n % 2 else rng.bytes(32).hex()
            row["pdq_quality"] = 49 if n == 1 else 50
        return pa.Table.from_pylist(rows, schema=table.schema)

    return change


@pytest.fixture
def alike(made_upload: Make) -> Callable[..., Manifest]:
    def make(dataset: str, wat_file: str, settings: Settings = SETTINGS, **options: Any) -> Manifest:
        return made_upload(dataset, wat_file, settings, count=30, changes={"samples": looking_alike(wat_file)}, **options)

    return make


def rows_in_order(dataset: str, version: Version, key: str) -> list[dict[str, Any]]:
    content = Store(dataset).read(version.units[key].object_ending("/metadata_0.parquet").path)
    return pq.read_table(pa.BufferReader(content)).to_pylist()


def expected(versions: Iterable[tuple[str, Version]], keys: Iterable[Iterable[str]]) -> Groups:
    """Version by version, ``keys`` being the WAT files that each brought: a row joins the first group that is near, of the published rows
    in the order of their WAT files' keys, then of the rows before it that come with it."""
    held: dict[str, list[tuple[str, int]]] = {}  # by WAT file: each row's group and the hash that founded it
    found: Groups = {}
    for (dataset, version), brought in zip(versions, keys, strict=True):
        known = [group for key in sorted(held) for group in held[key]]
        for key in brought:
            held[key] = []
            for row in rows_in_order(dataset, version, key):
                number = int(row["pdq"], 16)
                if row["pdq_quality"] < 50:
                    found[row["uid"]] = None
                    continue
                near = (group for group in known if (number ^ group[1]).bit_count() <= 31)
                group = next(near, (row["uid"], number))
                known.append(group)
                held[key].append(group)
                found[row["uid"]] = group[0]
    return found


def groups_of(dataset: str, version: Version) -> Groups:
    store, found = Store(f"{dataset}/metadata"), {}
    for path in pa.table(open_table(dataset, version).get_add_actions(flatten=True))["path"].to_pylist():
        table = pq.read_table(pa.BufferReader(store.read(path)), columns=["uid", "phash_group"])
        found |= dict(zip(*table.to_pydict().values(), strict=True))
    return found


def test_groups_of_a_batch_and_of_the_next(anywhere: str, alike: Make) -> None:
    first = [alike(anywhere, "00001"), alike(anywhere, "00000")]
    publish.run(first, anywhere, SETTINGS)
    one = read_version(anywhere)
    found = groups_of(anywhere, one)
    keys = [[KEY + "00000", KEY + "00001"], [KEY + "00002"]]
    assert found == expected([(anywhere, one)], keys[:1])
    assert len([uid for uid, group in found.items() if list(found.values()).count(group) > 1 and uid == group]) >= 4
    assert list(found.values()).count(None) == 2

    # The next batch joins the groups that are there, whose members stay as they are.
    publish.run([alike(anywhere, "00002")], anywhere, SETTINGS)
    two = read_version(anywhere)
    later = groups_of(anywhere, two)
    assert later == expected([(anywhere, one), (anywhere, two)], keys)
    assert {uid: later[uid] for uid in found} == found
    assert {later[uid] for uid in later.keys() - found.keys()} & set(found.values())
    assert (two.units[KEY + "00000"].since, two.units[KEY + "00002"].since) == (1, 2)

    # Again: no change. Another attempt at the first batch, beside a WAT file that is new: the groups stay.
    assert publish.run(first, anywhere, SETTINGS).done_before
    publish.run([*first, alike(anywhere, "00003")], anywhere, SETTINGS)
    again = groups_of(anywhere, read_version(anywhere))
    assert {uid: again[uid] for uid in later} == later
    assert verify(anywhere).problems == []


def test_the_same_uploads_give_the_same_groups(dataset: str, s3_dataset: str, alike: Make) -> None:
    """Whatever the store, whatever order they are named in, at once or after an attempt that died behind its commit to the table."""
    found = []
    for where, order in ((dataset, (0, 1, 2)), (s3_dataset, (2, 0, 1))):
        uploads = [alike(where, f"0000{n}") for n in order]
        publish.run(uploads, where, SETTINGS)
        found.append(groups_of(where, read_version(where)))
    assert found[0] == found[1]


def test_two_publishers_at_once_group_as_one_after_the_other(anywhere: str, alike: Make) -> None:
    """Rounds of two processes that start together: whoever comes second has joined the groups of the first."""
    rounds = 4 if anywhere.startswith("file:") else 2
    with in_processes(PUBLISHER, json.dumps(SETTINGS.model_dump(mode="json", by_alias=True))) as run:
        for turn in range(rounds):
            pair = [alike(anywhere, f"{2 * turn + n:05}") for n in range(2)]
            assert run(*({"writes": NEVER, "dataset": anywhere, "uploads": [one.url]} for one in pair)) == [0, 0]
    check_one_walk(anywhere, 2 * rounds)


def test_a_publisher_that_is_overtaken_groups_anew(anywhere: str, alike: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one publishes between its grouping and its commit."""
    slow, fast = alike(anywhere, "00000"), alike(anywhere, "00001")
    calls = []

    def overtaken(*given: Any) -> Any:
        calls.append(given)
        made = with_groups(*given)
        if len(calls) == 1:
            publish.run([fast], anywhere, SETTINGS)
        return made

    monkeypatch.setattr(publish, "with_groups", overtaken)
    assert publish.run([slow], anywhere, SETTINGS).version.number == 2
    assert len(calls) == 3, "its own, the other's, its own again"
    assert set(read_version(anywhere, 1).units) == {KEY + "00001"}
    check_one_walk(anywhere, 2)


def check_one_walk(dataset: str, number: int) -> None:
    """Versions up to ``number`` brought a WAT file each; groups are what one after the other gives, and never changed."""
    versions = [read_version(dataset, n + 1) for n in range(number)]
    keys = [set(version.units) for version in versions]
    assert newest_version(dataset).number == number  # type: ignore[union-attr]
    assert [len(held) for held in keys] == list(range(1, number + 1))
    brought = [keys[0], *(later - earlier for earlier, later in pairwise(keys))]
    found = groups_of(dataset, versions[-1])
    assert found == expected([(dataset, version) for version in versions], brought)
    assert all(found.items() >= groups_of(dataset, version).items() for version in versions)
    assert verify(dataset).problems == []


def test_an_attempt_that_died_on_an_older_version_leaves_no_groups(dataset: str, alike: Make, tmp_path: Path) -> None:
    """It committed rows to the table, grouped without what was published since."""
    uploads = [alike(dataset, f"0000{n}") for n in range(2)]
    dead = publish._unit(uploads[1], Store(dataset), SETTINGS)
    table = MetadataTable(dataset, tmp_path)
    empty = publish.Units(Store(dataset).url, {})
    (grouped,) = publish.with_groups(Store(dataset), empty, {dead.key: dead}, table.rows).values()
    table.bring_to(empty, {segment_of(dead.key): {dead.key: grouped}})
    publish.run(uploads[:1], dataset, SETTINGS)
    one = read_version(dataset)
    table.bring_to(one.units, {segment_of(dead.key): {**one.units, dead.key: grouped}})
    publish.run(uploads[1:], dataset, SETTINGS)
    two = read_version(dataset)
    assert groups_of(dataset, two) == expected([(dataset, one), (dataset, two)], [[KEY + "00000"], [KEY + "00001"]])
    assert groups_of(dataset, two).items() >= groups_of(dataset, one).items()
    # Rows that were lost from the table come back with their groups.
    table.bring_to(empty, {})
    third = publish.run([alike(dataset, "00005")], dataset, SETTINGS).version
    assert groups_of(dataset, third).items() >= groups_of(dataset, two).items()
    assert verify(dataset).problems == []


def test_a_wat_file_built_anew_keeps_its_groups(dataset: str, alike: Make) -> None:
    publish.run([alike(dataset, "00000", dropped=0), alike(dataset, "00001")], dataset, SETTINGS)
    before = groups_of(dataset, read_version(dataset))
    publish.run([alike(dataset, "00000", STRICT, dropped=20)], dataset, STRICT)
    after = groups_of(dataset, read_version(dataset))
    assert len(after) < len(before)
    assert after.items() <= before.items()
    assert set(after.values()) - set(after) - {None}, "a group outlives the image that founded it"
    assert read_version(dataset).units[KEY + "00000"].since == 1


def test_without_groups_and_later_with_them(dataset: str, alike: Make) -> None:
    uploads = [alike(dataset, "00000")]
    publish.run(uploads, dataset, WITHOUT)
    assert set(groups_of(dataset, read_version(dataset)).values()) == {None}
    assert publish.run(uploads, dataset, WITHOUT).done_before
    publish.run(uploads, dataset, SETTINGS)
    version = read_version(dataset)
    assert version.number == 2
    assert groups_of(dataset, version) == expected([(dataset, version)], [[KEY + "00000"]])
    assert publish.run(uploads, dataset, WITHOUT).done_before


def test_verify_and_vacuum_know_the_groups(dataset: str, alike: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish.run([alike(dataset, "00000")], dataset, SETTINGS)
    publish.run([alike(dataset, "00001")], dataset, SETTINGS)
    version = read_version(dataset)
    stored = {unit.groups.path for unit in version.units.values() if unit.groups}
    Store(dataset).write("versions/groups/of.a.dead.attempt.parquet", b"x")
    gone = vacuum(dataset, timedelta(0), alone=True)
    assert [entry.path for entry in gone.removed if "groups" in entry.path] == ["versions/groups/of.a.dead.attempt.parquet"]
    assert verify(dataset).problems == []
    path = min(stored)
    content = Store(dataset).read(path)
    Store(dataset).write(path, content[:-1] + b"x")
    assert [problem for problem in verify(dataset).problems if path in problem]
    stray = MetadataTable(dataset, tmp_path)
    other = {unit.key: replace(unit, groups=None, table_files=[]) for unit in version.units.values()}
    later = replace(version, delta_version=stray.bring_to(version.units, {KEY.rstrip("."): other})[0])
    monkeypatch.setattr(verification, "read_version", lambda *_: later)
    assert [problem for problem in verify(dataset).problems if "rows of the metadata table are of another group" in problem]
    Store(dataset).delete(path)
    assert f"{path} is missing" in verify(dataset).problems
