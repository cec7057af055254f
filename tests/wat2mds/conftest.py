"""The demo world, drawn once a session; a proxy that fails, before the S3 server."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from tests.wat2mds.fault_proxy import FaultProxy
from tests.wat2mds.programs import Programs
from wat2mds.world.demo_world import World, draw_world
from wat2mds.world.origin import Origin


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return draw_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def origin(world: World) -> Iterator[Origin]:
    """The demo world's web."""
    with world.origin() as server:
        yield server


@pytest.fixture(scope="session")
def programs() -> Iterator[Programs]:
    """``wat2mds`` as processes that start at once."""
    with Programs() as server:
        yield server


@pytest.fixture
def proxy(s3_root: str, s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """The store's clients go through it, and give up soon."""
    with FaultProxy(s3_server) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        for name, value in {"TIMEOUT": 2, "RETRIES": 2, "RETRY_SECONDS": 10, "BACKOFF": 0.001}.items():
            monkeypatch.setenv(f"WAT2MDS_STORE_{name}", str(value))
        # Thousands of lines that cost as much as the requests.
        log = logging.getLogger("werkzeug")
        level = log.level
        log.setLevel(logging.CRITICAL)
        yield proxy
        log.setLevel(level)
