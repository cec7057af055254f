"""Room below work/: only idle, published WAT files lose their files; what is done stays done."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from tests.wat2mds.stages.publish.conftest import SETTINGS, age
from wat2mds.errors import ConfigError
from wat2mds.reprocess import outlook
from wat2mds.retention import clean_work, mark_planned
from wat2mds.stages import publish
from wat2mds.store import Layout, Store

Make = Callable[..., Any]
DAY = timedelta(days=1)


def files(dataset: str) -> dict[str, set[str]]:
    """By WAT file and stage, what lies below work/ beside manifests."""
    found: dict[str, set[str]] = {}
    for entry in Store(f"{dataset}/work").walk():
        _, _, wat_file, stage, *rest = entry.path.split("/")
        if len(rest) > 1 and rest[0] != "blocked" and len(rest[-1]) != len("0123456789ab.json"):
            found.setdefault(f"{wat_file} {stage}", set()).add(entry.path)
    return found


def test_idle_published_wat_files_lose_images_first(dataset: str, made_upload: Make) -> None:
    done, unpublished = made_upload(dataset, "00000"), made_upload(dataset, "00001")
    publish.run([done], dataset, SETTINGS, batch="b")
    before = files(dataset)
    assert clean_work(dataset, 3 * DAY, 30 * DAY).removed == [], "written today"

    age(dataset, 5 * DAY)
    looked = clean_work(dataset, 3 * DAY, 30 * DAY, dry_run=True)
    assert looked.size > 0
    assert files(dataset) == before
    gone = clean_work(dataset, 3 * DAY, 30 * DAY)
    assert [entry.path for entry in gone.removed] == [entry.path for entry in looked.removed]
    left = files(dataset)
    assert before.keys() - left.keys() == {"00000 download", "00000 convert"}
    assert {place: paths for place, paths in before.items() if place.startswith("00001")}.items() <= left.items()

    age(dataset, 40 * DAY)
    clean_work(dataset, 3 * DAY, 30 * DAY)
    assert not any(place.startswith("00000") for place in files(dataset))
    assert unpublished.extra["unit_name"]

    # What is gone is seen to be gone, where other settings need it.
    work = Store(Layout.of(dataset).work(*(done.unit[name] for name in ("snapshot", "segment", "wat_file"))))
    paths = [entry.path for entry in work.walk()]
    digests = {stage: name.removesuffix(".json") for stage in ("download", "convert") for name in work.names(stage)[0]}
    assert set(outlook(paths, {**digests, "upload": "0" * 12}).lost) == {"download", "convert"}

    # Manifests are there: nothing is made again, and the version is the same.
    assert publish.run([done], dataset, SETTINGS, batch="b").version.number == 1


def test_a_wat_file_that_was_just_planned_keeps_its_files(dataset: str, made_upload: Make) -> None:
    made = made_upload(dataset, "00000")
    publish.run([made], dataset, SETTINGS, batch="b")
    age(dataset, 40 * DAY)
    unit: Any = {"work": Layout.of(dataset).work(*(made.unit[n] for n in ("snapshot", "segment", "wat_file")))}
    mark_planned(unit | {"batch": "b", "settings": "s"})
    assert clean_work(dataset, 3 * DAY, 30 * DAY).removed == []


def test_nothing_goes_before_a_publish_or_too_early(dataset: str, made_upload: Make) -> None:
    made_upload(dataset, "00000")
    age(dataset, 400 * DAY)
    assert clean_work(dataset, 3 * DAY, 30 * DAY).removed == []
    for ages in ((timedelta(hours=5), DAY), (3 * DAY, 2 * DAY)):
        with pytest.raises(ConfigError, match="at least a day"):
            clean_work(dataset, *ages)
