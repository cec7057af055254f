"""Unless upload.keep_images: a WAT file's images leave the work folder with its upload; what is done stays done."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.wat2mds.stages.publish.conftest import SETTINGS, check_whole
from wat2mds.errors import DataError
from wat2mds.reprocess import forget_lost, outlook
from wat2mds.retention import IMAGE_STAGES
from wat2mds.stage_settings import UploadSettings
from wat2mds.stages import convert, publish, upload
from wat2mds.stages.filter.blocked import block
from wat2mds.store import Layout, Store, split
from wat2mds.versions import newest_version

Make = Callable[..., Any]
UNKEPT = SETTINGS.model_copy(update={"upload": UploadSettings()})  # the default


def images(dataset: str) -> int:
    """Bytes of download's and convert's files below work/, manifests left out."""
    objects = [(entry.path.split("/"), entry.size) for entry in Store(f"{dataset}/work").walk()]
    return sum(size for path, size in objects if path[3] in IMAGE_STAGES and len(path) > 5)


def test_images_of_a_batch_are_those_of_the_wat_file_in_flight(dataset: str, make_wat_file: Make) -> None:
    made, peak, kept, single = [], 0, 0, 0
    for number in range(4):
        one = make_wat_file(dataset, f"{number:05}", first=number * 1000, count=40, settings=UNKEPT)
        converted = convert.run(one.samples, one.decisions, one.out("convert"), UNKEPT)
        now = images(dataset)
        peak, kept, single = max(peak, now), kept + now, single or now
        made.append(upload.run(converted, dataset, one.out("upload"), UNKEPT))
        assert images(dataset) == 0
    assert peak < 1.2 * single < kept / 3
    publish.run(made, dataset, UNKEPT, batch="b")
    version = newest_version(dataset)
    assert version is not None
    check_whole(dataset, version, made)


def test_a_rerun_makes_nothing_and_a_kill_before_the_removal_is_made_good(dataset: str, make_wat_file: Make) -> None:
    one = make_wat_file(dataset)
    converted = convert.run(one.samples, one.decisions, one.out("convert"), SETTINGS)
    first = upload.run(converted, dataset, one.out("upload"), SETTINGS)  # as if killed when its manifest was written
    assert images(dataset) > 0
    second = upload.run(converted, dataset, one.out("upload"), UNKEPT)
    assert images(dataset) == 0
    assert (second.done_before, second.identity) == (True, first.identity)
    assert convert.run(one.samples, one.decisions, one.out("convert"), UNKEPT).identity == converted.identity
    assert upload.run(converted, dataset, one.out("upload"), UNKEPT).done_before
    publish.run([second], dataset, UNKEPT, batch="b")


def test_other_settings_have_the_images_fetched_again(dataset: str, make_wat_file: Make) -> None:
    one = make_wat_file(dataset)
    converted = convert.run(one.samples, one.decisions, one.out("convert"), UNKEPT)
    uploaded = upload.run(converted, dataset, one.out("upload"), UNKEPT)
    work = Layout.of(dataset).work(*(uploaded.unit[name] for name in ("snapshot", "segment", "wat_file")))
    digests = {"dedup": "", "download": one.samples.digest, "convert": converted.digest, "upload": uploaded.digest}
    digests["dedup"] = next(name for name in Store(f"{work}/dedup").names()[0] if name.endswith(".json")).removesuffix(".json")
    unit: Any = {"work": work, "digests": digests}
    assert forget_lost(unit) == (), "the same settings need nothing"
    unit["digests"] = digests | {"convert": "0" * 12, "upload": "1" * 12}
    paths = [entry.path for entry in Store(work).walk()]
    assert outlook(paths, unit["digests"]).lost == ("download",)
    assert forget_lost(unit) == ("download",)


def test_an_object_that_went_is_fetched_again_as_the_error_says(dataset: str, make_wat_file: Make) -> None:
    one = make_wat_file(dataset)
    converted = convert.run(one.samples, one.decisions, one.out("convert"), UNKEPT)
    uploaded = upload.run(converted, dataset, one.out("upload"), UNKEPT)
    Store(dataset).delete(uploaded.extra["objects"][0]["path"])
    with pytest.raises(DataError, match=f"delete {uploaded.url} .*run the batch again"):
        upload.run(converted, dataset, one.out("upload"), UNKEPT)
    folder, name = split(uploaded.url)
    Store(folder).delete(name)
    work = Layout.of(dataset).work(*(uploaded.unit[name] for name in ("snapshot", "segment", "wat_file")))
    digests = {"download": one.samples.digest, "convert": converted.digest, "upload": uploaded.digest}
    unit: Any = {"work": work, "digests": digests}
    assert forget_lost(unit) == ("download", "convert")


def test_nothing_goes_where_the_upload_fails(dataset: str, make_wat_file: Make) -> None:
    one = make_wat_file(dataset)
    converted = convert.run(one.samples, one.decisions, one.out("convert"), UNKEPT)
    before = images(dataset)
    shard = next(file for file in converted.files if file.name.endswith(".mds"))
    local = Store(converted.base).local
    assert local is not None
    content = (local / shard.name).read_bytes()
    (local / shard.name).write_bytes(content[:-1] + b"?")
    with pytest.raises(DataError, match="not what convert wrote"):
        upload.run(converted, dataset, one.out("upload"), UNKEPT)
    assert images(dataset) == before
    (local / shard.name).write_bytes(content)
    upload.run(converted, dataset, one.out("upload"), UNKEPT)
    assert images(dataset) == 0


def test_block_lists_that_were_not_compared_yet_say_what_they_need(dataset: str, make_wat_file: Make, tmp_path: Path) -> None:
    one = make_wat_file(dataset)
    assert block(one.samples, one.out("filter"), UNKEPT).extra["blocked"] == 0
    converted = convert.run(one.samples, one.decisions, one.out("convert"), UNKEPT)
    upload.run(converted, dataset, one.out("upload"), UNKEPT)
    assert block(one.samples, one.out("filter"), UNKEPT).done_before
    (tmp_path / "hosts.txt").write_text("images0.example.org\n")
    lists = UNKEPT.filter.model_copy(update={"block_lists": (f"host:{tmp_path / 'hosts.txt'}",)})
    with pytest.raises(DataError, match="run download again"):
        block(one.samples, one.out("filter"), UNKEPT.model_copy(update={"filter": lists}))
