"""vacuum: what no standing version names goes after its grace, and what went can be made again."""

from __future__ import annotations

import os
import time
from datetime import timedelta

import pytest

from tests.wat2mds.stages.publish.conftest import SETTINGS, STRICT, Make, age, check_whole
from wat2mds.errors import ConfigError, DataError, TransientError
from wat2mds.manifest import Manifest, read_manifest
from wat2mds.reading import count_samples
from wat2mds.stages import publish
from wat2mds.stages.publish.vacuum import vacuum
from wat2mds.stages.publish.verify import verify
from wat2mds.store import Store
from wat2mds.versions import newest_version, read_record, read_version, standing_numbers, version_numbers, withdraw

NOW = timedelta(0)


def republished(dataset: str, made_upload: Make) -> tuple[Manifest, Manifest, Manifest]:
    """Two versions: WAT files 0 and 1, then 0 by stricter settings. Returns the uploads: old, new, untouched."""
    old, other = made_upload(dataset, "00000", dropped=0), made_upload(dataset, "00001")
    publish.run([old, other], dataset, SETTINGS)
    new = made_upload(dataset, "00000", settings=STRICT, dropped=5)
    publish.run([new], dataset, STRICT)
    return old, new, other


def paths(dataset: str) -> set[str]:
    return {entry.path for entry in Store(dataset).walk()}


def test_nothing_that_stands_goes(anywhere: str, made_upload: Make) -> None:
    republished(anywhere, made_upload)
    before = paths(anywhere)
    done = vacuum(anywhere, NOW, alone=True)
    assert (done.removed, done.young, done.standing) == ([], 0, [1, 2])
    assert paths(anywhere) == before


def test_a_withdrawn_version_loses_what_it_alone_holds(anywhere: str, made_upload: Make) -> None:
    old, new, other = republished(anywhere, made_upload)
    first = read_version(anywhere, 1)
    unit = first.units["CC-MAIN-2023-50.1700679099281.67.00000"]
    (table_file,) = unit.table_files
    assert unit.groups is not None
    (unit_list,) = first.units.lists.values()
    withdraw(anywhere, [1], "asked to")
    before = paths(anywhere)
    assert vacuum(anywhere).removed == []  # all of it is younger than a week
    planned = vacuum(anywhere, NOW, dry_run=True, alone=True)
    assert paths(anywhere) == before
    done = vacuum(anywhere, NOW, alone=True)
    assert done.removed == planned.removed
    assert done.size > 0
    gone = before - paths(anywhere)
    assert gone == {entry.path for entry in done.removed}
    assert gone == {
        *(entry["path"] for entry in old.extra["objects"]),
        f"metadata/{table_file.path}",
        unit_list.stored.path,
        unit.groups.path,
        first.index.path,
        *(path for path in before if path.startswith(f"release/{old.extra['unit_name']}/")),
        *(
            path
            for path in before
            if path.startswith("versions/000001/") and not path.endswith(("version.json", "withdrawn.json"))
        ),
    }
    assert any("/card/" in path for path in gone), "its card shows what was withdrawn"
    with pytest.raises(DataError, match=r"version 1 .* was withdrawn .*\(asked to\)\. The next that stands is 2"):
        read_version(anywhere, 1)
    assert read_record(anywhere, 1).samples == first.samples  # of which there were how many: that stays
    check_whole(anywhere, read_version(anywhere), [new, other])
    assert verify(anywhere).problems == []
    assert vacuum(anywhere, NOW, alone=True).removed == []


def test_what_went_is_made_again(anywhere: str, made_upload: Make) -> None:
    """Its manifests say done; publish and upload look into the store, and the old settings come back whole."""
    old, _, other = republished(anywhere, made_upload)
    withdraw(anywhere, [1], "too lenient")
    vacuum(anywhere, NOW, alone=True)
    with pytest.raises(TransientError, match=r"is gone .*: clear the upload task of CC-MAIN-2023-50\.1700679099281\.67\.00000"):
        publish.run([old], anywhere, SETTINGS)
    again = made_upload(anywhere, "00000", dropped=0)  # each of its stages is done but the last
    assert again.url == old.url
    publish.run([again], anywhere, SETTINGS)
    check_whole(anywhere, read_version(anywhere), [old, other])
    assert verify(anywhere).problems == []
    assert count_samples(anywhere) == old.extra["samples"] + other.extra["samples"]


def test_what_dead_attempts_left_goes(dataset: str, made_upload: Make) -> None:
    one = made_upload(dataset, "00000")
    publish.run([one], dataset, SETTINGS)
    store = Store(dataset)
    strays = {
        "release/CC-MAIN-2023-50.1700679099281.67.00009.0123/laion.parquet",
        "versions/000002/index.0123.json",  # a publisher that died before its record
        "versions/000001/index.0123.json",  # one that lost the number
        "versions/units/CC-MAIN-2023-50.1700679099281.67.0123.json",
        "shards/CC-MAIN-2023-50.1700679099281.67.00009.0123/shard.00000.mds",
        "metadata/snapshot=CC-MAIN-2023-50/segment=1700679099281.67/wat_file=00009/part-0.parquet",
    }
    others = {
        "reports/b.json",
        f"release/{one.extra['unit_name']}/laion.parquet",
        "work/x/shards/y",
        "ledger/z",
        "shards.txt",
        "versions/000001/card.html",
        "metadata/_delta_log/x.tmp",
    }
    for path in strays | others:
        store.write(path, b"x")
    assert vacuum(dataset).young == len(strays) - 1  # of the table's files Delta says which may go, once they may
    age(dataset, timedelta(days=8))
    assert {entry.path for entry in vacuum(dataset).removed} == strays
    assert others < paths(dataset)
    assert verify(dataset).problems == []


def test_a_publish_at_work_is_not_disturbed(dataset: str, made_upload: Make) -> None:
    """Uploaded and waiting, or old and taken up again while a vacuum begins: nothing that a record will name is lost."""
    publish.run([made_upload(dataset, "00000")], dataset, SETTINGS)
    age(dataset, timedelta(days=9))
    waiting = made_upload(dataset, "00001")
    assert vacuum(dataset).removed == []
    age(dataset, timedelta(days=9))
    # A vacuum that began before the publish may have listed the old objects: the publish gives way.
    Store(dataset).write("vacuum/0123.json", b"{}")
    with pytest.raises(TransientError, match=r"a vacuum of .* began at"):
        publish.run([waiting], dataset, SETTINGS)
    assert newest_version(dataset).number == 1  # type: ignore[union-attr]
    # One that begins from now on sees their new time.
    Store(dataset).delete("vacuum/0123.json")
    assert vacuum(dataset).removed == []
    assert publish.run([waiting], dataset, SETTINGS).version.number == 2
    assert verify(dataset).problems == []


def test_old_objects_are_renewed_on_s3_too(s3_dataset: str, made_upload: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything counts as old here, for a store keeps its own time."""
    one = made_upload(s3_dataset, "00000")
    before = {entry.path: entry for entry in Store(s3_dataset).walk("shards")}
    monkeypatch.setattr(publish, "REFRESH_AFTER", timedelta(days=-1))
    time.sleep(1.1)  # its time is in whole seconds
    publish.run([one], s3_dataset, SETTINGS)
    after = {entry.path: entry for entry in Store(s3_dataset).walk("shards")}
    assert all(after[path].modified > entry.modified and after[path].tag == entry.tag for path, entry in before.items())
    assert verify(s3_dataset).problems == []


def test_a_vacuum_that_died_holds_nobody_up_for_long(dataset: str, made_upload: Make) -> None:
    publish.run([made_upload(dataset, "00000")], dataset, SETTINGS)
    store = Store(dataset)
    store.write("vacuum/dead.json", b"{}")
    os.utime(store.local / "vacuum" / "dead.json", (0, 0))  # type: ignore[operator]
    waiting = made_upload(dataset, "00001")
    age(dataset, timedelta(days=9))
    assert publish.run([waiting], dataset, SETTINGS).version.number == 2
    vacuum(dataset)
    assert store.walk("vacuum") == []


def test_what_cannot_be_vacuumed(dataset: str, made_upload: Make) -> None:
    made_upload(dataset, "00000")
    with pytest.raises(DataError, match="holds no version"):
        vacuum(dataset)
    with pytest.raises(ConfigError, match=r"less than 4 days: .*--alone"):
        vacuum(dataset, timedelta(hours=1))


def test_withdrawing(anywhere: str, made_upload: Make) -> None:
    for number in range(3):
        publish.run([made_upload(anywhere, f"0000{number}")], anywhere, SETTINGS)
    with pytest.raises(DataError, match=r"version 3 is the newest .* Nothing was withdrawn"):
        withdraw(anywhere, [1, 3], "all of them")
    with pytest.raises(DataError, match="there is no version 7"):
        withdraw(anywhere, [1, 7], "unknown")
    assert standing_numbers(anywhere) == [1, 2, 3]
    (first,) = withdraw(anywhere, [1], "a takedown")
    assert withdraw(anywhere, [1, 2], "again")[0] == first  # the first reason stands
    assert (standing_numbers(anywhere), version_numbers(anywhere)) == ([3], [1, 2, 3])
    for number in (1, 2):
        with pytest.raises(DataError, match=f"version {number} .* The next that stands is 3"):
            read_version(anywhere, number)
    assert read_version(anywhere).number == 3
    assert read_manifest(made_upload(anywhere, "00000").url).extra["samples"] == 7
