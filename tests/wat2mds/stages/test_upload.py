"""upload: every object verified in the store, the index last, an interrupted one completed, on file: and on S3 over HTTP."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from wat2mds.errors import ConfigError, DataError, TransientError
from wat2mds.settings import Settings, child_environment
from wat2mds.stages import convert, upload
from wat2mds.store import Store

Make = Callable[..., Any]
SETTINGS = Settings.model_validate({"convert": {"shard_bytes": 1 << 16}, "upload": {"threads": 1, "keep_images": True}})


@pytest.fixture(params=["file", "s3"])
def anywhere(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue("dataset" if request.param == "file" else "s3_dataset"))


def converted_and_out(made: Any) -> tuple[Any, str]:
    return convert.run(made.samples, made.decisions, made.out("convert"), SETTINGS), made.out("upload")


def check_objects(dataset: str, uploaded: Any) -> None:
    store = Store(dataset)
    for entry in uploaded.extra["objects"]:
        data = store.read(entry["path"])
        assert (len(data), hashlib.sha256(data).hexdigest()) == (entry["size"], entry["sha256"])


def test_objects_and_manifest(anywhere: str, make_wat_file: Make) -> None:
    converted, out = converted_and_out(make_wat_file(anywhere, count=60))
    uploaded = upload.run(converted, anywhere, out, SETTINGS)
    name = converted.extra["unit_name"]
    paths = [entry["path"] for entry in uploaded.extra["objects"]]
    shards = [f"shards/{name}/shard.{n:05}.mds" for n in range(converted.extra["shards"])]
    assert len(shards) > 1
    assert paths == [
        *shards,
        f"embeddings/{name}/img_emb/img_emb_0.npy",
        f"embeddings/{name}/text_emb/text_emb_0.npy",
        f"embeddings/{name}/metadata/metadata_0.parquet",
        f"outcomes/{name}/{next(f.sha256 for f in converted.files if f.name == 'outcomes.parquet')[:12]}.parquet",
        f"shards/{name}/index.json",
    ]
    check_objects(anywhere, uploaded)
    assert [(f.source, f.target, f.entered, f.left) for f in uploaded.flows] == [("converted", "uploaded", 55, 55)]
    assert {k: uploaded.extra[k] for k in converted.extra} == converted.extra
    again = upload.run(converted, anywhere, out, SETTINGS)
    assert again.done_before


def test_nothing_kept(anywhere: str, make_wat_file: Make) -> None:
    converted, out = converted_and_out(make_wat_file(anywhere, count=2, failed=2, dropped=0))
    uploaded = upload.run(converted, anywhere, out, SETTINGS)
    assert len(uploaded.extra["objects"]) == 5
    check_objects(anywhere, uploaded)


def test_objects_already_there_stay_and_damaged_ones_are_mended(anywhere: str, make_wat_file: Make, tmp_path: Path) -> None:
    converted, out = converted_and_out(make_wat_file(anywhere))
    uploaded = upload.run(converted, anywhere, out, SETTINGS)
    store = Store(anywhere)
    damaged, gone = uploaded.extra["objects"][0]["path"], uploaded.extra["objects"][1]["path"]
    tags = {entry.path: entry.tag for entry in store.walk()}
    store.write(damaged, b"x" + store.read(damaged)[1:])
    store.delete_tree(gone.rpartition("/")[0])
    again = upload.run(converted, anywhere, out, SETTINGS)
    assert again.extra == uploaded.extra
    check_objects(anywhere, again)
    kept = {entry.path for entry in store.walk("shards") if tags.get(entry.path) == entry.tag}
    assert f"shards/{converted.extra['unit_name']}/index.json" in kept


def test_same_samples_fetched_again_adopt_the_stored_table(tmp_path: Path, make_wat_file: Make, changing: Make) -> None:
    target = (tmp_path / "root" / "datasets" / "target").as_uri()
    found = []
    for run, days in (("one", 0), ("two", 1)):
        later = changing("fetched_at", lambda v, days=days: v and v + timedelta(days=days))
        made = make_wat_file((tmp_path / run / "datasets" / "demo").as_uri(), changes={"samples": later})
        converted, out = converted_and_out(made)
        found.append(upload.run(converted, target, out, SETTINGS).extra)
    # But for what failed, each time anew.
    outcomes = [entry for extra in found for entry in extra["objects"] if entry["path"].startswith("outcomes/")]
    assert len({entry["path"] for entry in outcomes}) == 2
    for extra in found:
        extra["objects"] = [entry for entry in extra["objects"] if entry not in outcomes]
    assert found[0] == found[1]


def test_damaged_input_is_not_uploaded(dataset: str, make_wat_file: Make) -> None:
    converted, out = converted_and_out(make_wat_file(dataset))
    path = Store(converted.base).local / "mds" / "shard.00000.mds"  # type: ignore[operator]
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(DataError, match="is not what convert wrote"):
        upload.run(converted, dataset, out, SETTINGS)
    assert Store(dataset).walk("shards") == []


def test_a_damaged_object_whose_source_is_gone_says_what_to_do(anywhere: str, make_wat_file: Make) -> None:
    converted, out = converted_and_out(make_wat_file(anywhere))
    uploaded = upload.run(converted, anywhere, out, SETTINGS)
    source = Store(converted.base.rpartition("/")[0])
    source.delete_tree(converted.folder)
    assert upload.run(converted, anywhere, out, SETTINGS).done_before, "with all objects there no source is read"
    damaged = uploaded.extra["objects"][0]["path"]
    Store(anywhere).write(damaged, b"damaged")
    with pytest.raises(DataError, match=rf"is gone, and {damaged} cannot be .*delete {uploaded.url} .*run the batch again"):
        upload.run(converted, anywhere, out, SETTINGS)
    assert Store(anywhere).read(damaged) == b"damaged"


def test_store_that_returns_other_bytes(dataset: str, make_wat_file: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    converted, out = converted_and_out(make_wat_file(dataset))

    class Lossy(Store):
        def put_file(self, source: Path, path: str, part_bytes: int = 0) -> None:
            super().write(path, source.read_bytes()[:-1])

    monkeypatch.setattr(upload, "Store", Lossy)
    with pytest.raises(TransientError, match="does not read back as written, 3 times"):
        upload.run(converted, dataset, out, SETTINGS)
    assert not Store(dataset).exists(f"shards/{converted.extra['unit_name']}/index.json")


def test_bad_bucket_is_a_clear_error(s3_dataset: str, dataset: str, make_wat_file: Make) -> None:
    converted, out = converted_and_out(make_wat_file(dataset))
    with pytest.raises(ConfigError, match=r"no-such-bucket/datasets/demo.*There is no such bucket: create it"):
        upload.run(converted, "s3://no-such-bucket/datasets/demo", out, SETTINGS)


KILLED = """
import os, signal, sys
from wat2mds.manifest import read_manifest
from wat2mds.settings import Settings
from wat2mds.stages import upload
from wat2mds.store import Store

class Dying(Store):
    left = int(sys.argv[4])
    def put_file(self, source, path, part_bytes):
        if Dying.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        Dying.left -= 1
        super().put_file(source, path, part_bytes)

upload.Store = Dying
upload.run(read_manifest(sys.argv[1]), sys.argv[2], sys.argv[3], Settings.from_json(sys.argv[5], "argument"))
"""


def test_killed_between_objects_then_retried(anywhere: str, make_wat_file: Make) -> None:
    converted, out = converted_and_out(make_wat_file(anywhere))
    store, index = Store(anywhere), f"shards/{converted.extra['unit_name']}/index.json"
    for writes in (0, 2, 4):
        arguments = [converted.url, anywhere, out, str(writes), json.dumps(SETTINGS.model_dump(mode="json", by_alias=True))]
        ended = subprocess.run([sys.executable, "-c", KILLED, *arguments], env=child_environment(), check=False)
        assert ended.returncode == -9
        assert not store.exists(index)
        if writes < 4:
            for kind in ("shards", "embeddings"):
                store.delete_tree(kind)
    check_objects(anywhere, upload.run(converted, anywhere, out, SETTINGS))
