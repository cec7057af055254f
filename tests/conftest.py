"""What every test may use: the real data beside the project, and stores on both kinds of backend."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

SHARED = Path(__file__).resolve().parents[2] / "shared"

# moto reads it when it is imported: multipart uploads of small objects, where S3 itself wants parts of 5 MiB.
os.environ["S3_UPLOAD_PART_MIN_SIZE"] = "1024"
# Settings of the person who runs the tests must not reach them.
for name in [name for name in os.environ if name.startswith("WAT2MDS_")]:
    del os.environ[name]


class _ByFile(LoadScopeScheduling):
    """`make test` runs two processes: one begins with the live tests, which share an Airflow; the other takes the rest, file by file."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "live" if file.endswith("_live.py") else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    return _ByFile(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not item.path.name.endswith("_live.py"))
    if SHARED.is_dir():
        return
    skip = pytest.mark.skip(reason="the real data in ../shared is not here (a user's clone); CI requires it")
    for item in items:
        if item.get_closest_marker("shared"):
            item.add_marker(skip)


def pytest_sessionstart(session: pytest.Session) -> None:
    if os.environ.get("REQUIRE_SHARED") == "1" and not SHARED.is_dir():
        pytest.exit(f"REQUIRE_SHARED=1, but the real data is not at {SHARED}", returncode=2)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data; for tests marked ``shared``."""
    return SHARED / "data"


@pytest.fixture(autouse=True)
def _local_network_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that reaches out of this machine is wrong, and fails by name."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: object) -> None:
        host = str(address[0]) if isinstance(address, tuple) else ""
        if self.family in (socket.AF_INET, socket.AF_INET6) and not host.startswith(("127.", "::1", "localhost", "0.0.0.0")):
            raise AssertionError(f"a test wanted to connect to {address}; tests may use the loopback interface only")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """A real S3 protocol over HTTP on loopback: its URL."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_root(s3_server: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """URL of an empty prefix of this test's own, with credentials in the environment as an operator sets them."""
    import boto3

    values = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": s3_server,
    }
    for key, value in values.items():
        monkeypatch.setenv(key, value)
    boto3.client("s3", endpoint_url=s3_server).create_bucket(Bucket="tests")
    safe = "".join(c if c.isalnum() else "-" for c in request.node.nodeid).strip("-")
    return f"s3://tests/{safe}-{os.getpid()}"


@pytest.fixture(params=["file", "s3"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty store, on each kind of backend in turn."""
    if request.param == "file":
        return (tmp_path / "store").as_uri()
    return str(request.getfixturevalue("s3_root"))
