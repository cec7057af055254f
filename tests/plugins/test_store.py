"""What the scheduler and the api-server read themselves, they read as the connection ``wat2mds_store`` says, on a real S3 protocol."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.plugins.test_listing import NAME, Bucket, forget_aws
from wat2mds import s3
from wat2mds.errors import ConfigError
from wat2mds.snapshots import Registry
from wat2mds.store import Store
from wat2mds_plugin import Wat2MdsPlugin
from wat2mds_timetable import RegistryView


@pytest.fixture(autouse=True)
def nothing_kept() -> Iterator[None]:
    yield
    s3.use_variables(dict)


def test_the_timetable_reads_the_registry_by_the_connection(
    s3_root: str, connection: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = Bucket(s3_root, tmp_path)
    bucket.put(f"crawl-data/{NAME}/wat.paths.gz")
    bucket.refresh(Registry(s3_root))
    forget_aws(monkeypatch)
    Wat2MdsPlugin.on_load()
    assert [snapshot.id for snapshot in RegistryView(s3_root, tmp_path / "cache").snapshots()] == [NAME]


def test_the_connection_comes_before_the_environment_and_its_secret_is_blotted_out(
    s3_root: str, connection: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    Store(s3_root).write("there", b"1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    Wat2MdsPlugin.on_load()
    assert Store(s3_root).read("there") == b"1"
    assert s3.without_secrets("it said test-secret") == "it said ***"


def test_without_a_connection_the_environment_says_who_asks(s3_root: str) -> None:
    Wat2MdsPlugin.on_load()
    Store(s3_root).write("there", b"1")
    assert Store(s3_root).read("there") == b"1"


def test_a_connection_that_gives_no_credentials_is_named(s3_root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    said = {"conn_type": "aws", "extra": {"profile_name": "nobody-s"}}
    monkeypatch.setenv("AIRFLOW_CONN_WAT2MDS_STORE", json.dumps(said))
    Wat2MdsPlugin.on_load()
    with pytest.raises(ConfigError, match=r"the Airflow connection wat2mds_store gives no credentials: .*nobody-s"):
        Store(s3_root)
