"""upload and publish on S3 over HTTP through a proxy that fails: healed, or red and completed by the next attempt; never half of it."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.wat2mds.fault_proxy import KINDS, FaultProxy
from tests.wat2mds.stages.conftest import build_wat_file
from wat2mds.errors import TransientError
from wat2mds.manifest import Manifest
from wat2mds.settings import Settings, child_environment
from wat2mds.stage_settings import UploadSettings
from wat2mds.stages import convert, publish, upload
from wat2mds.store import Layout
from wat2mds.units import UNIT_FOLDERS
from wat2mds.versions import newest_version, read_index, version_numbers

# S3 wants parts of 5 MiB; the tests' server takes smaller ones. A shard of 64 KiB goes in up to three.
PART = 25_000
SETTINGS = Settings.model_validate({"convert": {"shard_bytes": 1 << 16}}).model_copy(
    update={"upload": UploadSettings.model_construct(threads=4, part_bytes=PART, keep_images=True)}
)
RUNS, PUBLISHED_EVERY = 100, 10


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """One WAT file's shards, on local disk."""
    dataset = Layout(tmp_path_factory.mktemp("converted").as_uri(), "demo").dataset
    made = build_wat_file(dataset, count=70, settings=SETTINGS)
    return convert.run(made.samples, made.decisions, made.out("convert"), SETTINGS)


def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WAT2MDS_STORE_TIMEOUT", "60")


class Bucket:
    """The tests' bucket as it is, not through the proxy."""

    def __init__(self, server: str) -> None:
        import boto3

        self.client = boto3.client("s3", endpoint_url=server)

    def objects(self, url: str) -> dict[str, bytes]:
        """Content by path, below an s3: URL of the bucket ``tests``."""
        prefix = url.removeprefix("s3://tests/") + "/"
        found = self.client.list_objects_v2(Bucket="tests", Prefix=prefix).get("Contents", [])
        return {
            entry["Key"].removeprefix(prefix): self.client.get_object(Bucket="tests", Key=entry["Key"])["Body"].read()
            for entry in found
        }

    def unfinished(self) -> list[str]:
        return [upload["Key"] for upload in self.client.list_multipart_uploads(Bucket="tests").get("Uploads", [])]


def check_never_half(objects: dict[str, bytes], expected: dict[str, bytes]) -> None:
    """Whatever happened: where an index is, all that it stands for is there and right."""
    for path in objects:
        if path.startswith("shards/") and path.endswith("index.json"):
            assert {p: d for p, d in objects.items() if p.startswith(UNIT_FOLDERS)} == expected


def check_published(objects: dict[str, bytes]) -> None:
    """The newest record names an index that is there, whose shards are there, of its hashes."""
    for path, content in objects.items():
        if not path.endswith("version.json"):
            continue
        record = json.loads(content)
        index = objects[record["index"]["path"]]
        assert hashlib.sha256(index).hexdigest() == record["index"]["sha256"]
        for shard in json.loads(index)["shards"]:
            raw = shard["raw_data"]
            assert hashlib.sha1(objects[raw["basename"]]).hexdigest() == raw["hashes"]["sha1"]


def test_a_hundred_seeded_runs(
    converted: Manifest, proxy: FaultProxy, s3_root: str, s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = Bucket(s3_server)
    undisturbed = Layout(f"{s3_root}/undisturbed", "demo").dataset
    upload.run(converted, undisturbed, str(tmp_path / "undisturbed"), SETTINGS)
    expected = bucket.objects(undisturbed)
    assert sum(len(data) > PART for data in expected.values()) >= 2, "nothing goes in parts"
    monkeypatch.setenv("WAT2MDS_STORE_TIMEOUT", "0.5")  # what each stall costs
    tally: Counter[str] = Counter()
    for seed in range(RUNS):
        dataset = Layout(f"{s3_root}/{seed}", "demo").dataset
        publishing = seed % PUBLISHED_EVERY == 0

        def run(dataset: str = dataset, out: str = str(tmp_path / str(seed)), publishing: bool = publishing) -> None:
            uploaded = upload.run(converted, dataset, out, SETTINGS)
            if publishing:
                publish.run([uploaded], dataset, SETTINGS)

        proxy.seed(seed, rate=(0.02, 0.05, 0.1, 0.2, 0.4)[seed // 10 % 5])
        before = sum(proxy.seen.values())
        try:
            run()
            tally["healed" if sum(proxy.seen.values()) > before else "undisturbed"] += 1
        except TransientError:
            tally["red"] += 1
            check_never_half(bucket.objects(dataset), expected)
            proxy.calm()
            with monkeypatch.context() as patience:
                patient(patience)
                run()
        proxy.calm()  # what follows looks at the outcome
        objects = bucket.objects(dataset)
        assert {path: data for path, data in objects.items() if path.startswith(UNIT_FOLDERS)} == expected, seed
        if publishing:
            tally["published"] += 1
            assert [path for path in objects if path.endswith("version.json")] == ["versions/000001/version.json"], seed
            check_published(objects)
            newest = newest_version(dataset)
            assert newest is not None
            assert newest.samples == converted.extra["samples"]
            assert objects["index.json"] == read_index(dataset, newest)
        assert bucket.unfinished() == [], seed
    print(f"{dict(tally)}; faults of {proxy.requests} requests: {dict(proxy.seen)}")
    assert set(proxy.seen) == set(KINDS)
    assert tally["healed"] > 0
    assert tally["red"] > 0


KILLED = """
import sys
from wat2mds.manifest import read_manifest
from wat2mds.settings import Settings, child_environment
from wat2mds.stage_settings import UploadSettings
from wat2mds.stages import upload

settings = Settings().model_copy(update={"upload": UploadSettings.model_construct(threads=2, part_bytes=int(sys.argv[4]))})
upload.run(read_manifest(sys.argv[1]), sys.argv[2], sys.argv[3], settings)
"""


def test_killed_in_the_middle_of_a_multipart_upload(
    converted: Manifest, proxy: FaultProxy, s3_root: str, s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patient(monkeypatch)
    bucket, dataset, out = Bucket(s3_server), Layout(s3_root, "demo").dataset, str(tmp_path / "out")
    arguments = [converted.url, dataset, out, str(PART)]
    child = subprocess.Popen([sys.executable, "-c", KILLED, *arguments], env=child_environment())

    def kill_at_second_part(method: str, path: str, size: int) -> str | None:
        if "partNumber=2" in path:
            os.kill(child.pid, signal.SIGKILL)
            return "cut"
        return None

    proxy.choose = kill_at_second_part
    assert child.wait(timeout=120) == -signal.SIGKILL
    proxy.calm()
    assert bucket.unfinished(), "nothing was left: the test shows nothing"
    assert not [path for path in bucket.objects(dataset) if path.endswith("index.json")]
    uploaded = upload.run(converted, dataset, out, SETTINGS)
    assert bucket.unfinished() == []
    objects = bucket.objects(dataset)
    for entry in uploaded.extra["objects"]:
        assert hashlib.sha256(objects[entry["path"]]).hexdigest() == entry["sha256"]


@pytest.mark.parametrize(
    "ending", ["version.json", "_delta_log/00000000000000000000.json", "_delta_log/00000000000000000001.json"]
)
def test_a_commit_whose_answer_is_lost_is_made_once(
    ending: str, converted: Manifest, proxy: FaultProxy, s3_root: str, tmp_path: Path
) -> None:
    dataset = Layout(s3_root, "demo").dataset
    uploaded = upload.run(converted, dataset, str(tmp_path / "out"), SETTINGS)
    proxy.once("lost_answer", "PUT", ending)
    if "_delta_log" in ending:  # Delta's own client says that it does not know, and the next attempt finds its rows
        with pytest.raises(TransientError, match="metadata table"):
            publish.run([uploaded], dataset, SETTINGS)
    published = publish.run([uploaded], dataset, SETTINGS)
    assert proxy.seen["lost_answer"] == 1
    assert (published.version.number, published.done_before) == (1, False)
    assert version_numbers(dataset) == [1]
    unit = published.version.units[published.units[0]]
    assert sum(file.rows for file in unit.table_files) == unit.samples
    assert publish.run([uploaded], dataset, SETTINGS).done_before


def test_what_is_stored_is_known_by_its_checksum_without_reading_it(
    converted: Manifest, proxy: FaultProxy, s3_root: str, tmp_path: Path
) -> None:
    read: list[str] = []

    def note(method: str, path: str, size: int) -> str | None:
        if method == "GET" and "?" not in path:
            read.append(path)
        return None

    proxy.choose = note
    upload.run(converted, Layout(s3_root, "demo").dataset, str(tmp_path / "out"), SETTINGS)
    upload.run(converted, Layout(s3_root, "demo").dataset, str(tmp_path / "another"), SETTINGS)
    assert read == []


def test_progress_and_throughput_are_in_the_log(
    converted: Manifest, s3_root: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="wat2mds")
    upload.run(converted, Layout(s3_root, "demo").dataset, str(tmp_path / "out"), SETTINGS)
    assert any("upload: 1 of 1 MB" in line and "objects" in line and "MB/s, to s3://" in line for line in caplog.messages)
