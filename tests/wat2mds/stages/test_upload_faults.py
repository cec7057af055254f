"""upload and publish on S3 over HTTP through a proxy that fails: healed, or red and completed by the next attempt; never half of it."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.wat2mds.stages.conftest import build_wat_file
from tests.wat2mds.stages.fault_proxy import KINDS, FaultProxy
from wat2mds.errors import TransientError
from wat2mds.manifest import Manifest
from wat2mds.settings import Settings, UploadSettings, child_environment
from wat2mds.stages import convert, publish, upload
from wat2mds.store import Layout, Store
from wat2mds.versions import newest_version, read_index

# S3 wants parts of 5 MiB; the tests' server takes smaller ones. A shard of 64 KiB goes in up to four.
PART = 20_000
SETTINGS = Settings.model_validate({"convert": {"shard_bytes": 1 << 16}}).model_copy(
    update={"upload": UploadSettings.model_construct(threads=4, part_bytes=PART)}
)
RUNS, PUBLISHED_EVERY = 25, 5


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """One WAT file's shards, on local disk."""
    dataset = Layout(tmp_path_factory.mktemp("converted").as_uri(), "demo").dataset
    made = build_wat_file(dataset, count=70, settings=SETTINGS)
    return convert.run(made.samples, made.decisions, made.out("convert"), SETTINGS)


@pytest.fixture
def proxy(s3_root: str, s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """The store's clients go through it, and give up soon."""
    with FaultProxy(s3_server) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        impatient(monkeypatch)
        # Thousands of lines that cost as much as the requests.
        monkeypatch.setattr(logging.getLogger("werkzeug"), "level", logging.ERROR)
        yield proxy


def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"TIMEOUT": 0.5, "RETRIES": 2, "RETRY_SECONDS": 5, "BACKOFF": 0.001}.items():
        monkeypatch.setenv(f"WAT2MDS_STORE_{name}", str(value))


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
            assert {p: d for p, d in objects.items() if p.startswith(("shards/", "embeddings/"))} == expected


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
    tally: Counter[str] = Counter()
    for seed in range(RUNS):
        dataset = Layout(f"{s3_root}/{seed}", "demo").dataset
        publishing = seed % PUBLISHED_EVERY == 0

        def run(dataset: str = dataset, out: str = str(tmp_path / str(seed)), publishing: bool = publishing) -> None:
            uploaded = upload.run(converted, dataset, out, SETTINGS)
            if publishing:
                publish.run([uploaded], dataset, SETTINGS)

        proxy.seed(seed, rate=(0.02, 0.05, 0.1, 0.2, 0.4)[seed // PUBLISHED_EVERY % 5])
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
        objects = bucket.objects(dataset)
        assert {path: data for path, data in objects.items() if path.startswith(("shards/", "embeddings/"))} == expected, seed
        if publishing:
            tally["published"] += 1
            assert [path for path in objects if path.endswith("version.json")] == ["versions/000001/version.json"], seed
            check_published(objects)
            newest = newest_version(dataset)
            assert newest is not None
            assert newest.samples == converted.extra["samples"]
            assert objects["index.json"] == read_index(dataset, newest)
        assert bucket.unfinished() == [], seed
    print(dict(tally), dict(proxy.seen), proxy.requests)  # noqa: T201
    assert set(proxy.seen) == set(KINDS)
    assert tally["healed"] >= RUNS // 4
    assert tally["red"] >= 5
