"""A newer version is served without a restart: whole, from one answer to the next, while others ask."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.wat2mds.serve.conftest import ALL, OPTIONS, Serving, drawn_pairs, pictures, publish_drawings
from tests.wat2mds.stages.filter.drawings import under
from wat2mds.search import building
from wat2mds.serve.collection import Collections, kept_current
from wat2mds.store import Layout, Store

FIRST, SECOND = 40, 25
SETTINGS = under("demo", *ALL, "filter.max_pwatermark=")


@dataclass
class Growing:
    """A dataset of one version and its index, whose second version is made by ``grow``."""

    dataset: str
    collections: Collections
    client: httpx.Client
    folder: Path

    def publish(self) -> None:
        publish_drawings(self.dataset, drawn_pairs(pictures()[FIRST : FIRST + SECOND])[2:], SETTINGS, "00001")

    def grow(self) -> None:
        self.publish()
        building.update(self.dataset)

    def total(self, **query: object) -> tuple[int, int]:
        """Version and number of all samples, of one answer."""
        asked = {"unsafe": True, "fold": False, "page_size": 100} | query
        answer = self.client.get("/api/search", params=asked)
        assert answer.status_code == 200, answer.text
        said = answer.json()
        assert {one["version"] for one in said["samples"]} == {said["version"]}
        return said["version"], said["total"]


@pytest.fixture
def growing(tmp_path: Path) -> Iterator[Growing]:
    dataset = Layout((tmp_path / "store").as_uri(), "drawn").dataset
    publish_drawings(dataset, drawn_pairs(pictures()[:FIRST]), SETTINGS)
    building.build(dataset, "small")
    collections = Collections(dataset, tmp_path / "cache", device="cpu")
    with Serving(collections, OPTIONS) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield Growing(dataset, collections, client, tmp_path / "cache")


def test_a_newer_version_is_taken_up_whole(growing: Growing) -> None:
    before = growing.total()
    old_id = growing.client.post("/knn-service", json={"text": "red circle"}).json()[0]["id"]
    assert not growing.collections.refresh()
    growing.publish()
    assert not growing.collections.refresh(), "a version without an index cannot be searched"
    building.update(growing.dataset)
    assert growing.total() == before

    seen: list[tuple[int, int]] = []
    ended = threading.Event()

    def ask() -> None:
        while not ended.is_set():
            seen.append(growing.total(text="red circle"))

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        assert growing.collections.refresh()
    finally:
        ended.set()
        asking.join(60)
    after = growing.total()
    assert after[0] == 2
    assert after[1] > before[1]
    assert set(seen) <= {before, after}, "an answer of both versions"

    # An image of the new WAT file, figures and health are the new version's; an id of the old one is no other sample's.
    new = growing.client.get("/api/search", params={"host": "images1.example.org", "page_size": 100}).json()["samples"]
    assert {one["wat_file"] for one in new} == {"00000", "00001"}
    assert all(growing.client.get(one["image"]).status_code == 200 for one in new)
    assert growing.client.get("/health").json()["version"] == 2
    figures = growing.client.get("/metrics").text
    assert f'wat2mds_serve_samples{{index="small",version="2"}} {float(after[1])}' in figures
    assert 'version="1"' not in figures
    asked = json.dumps({"ids": [old_id], "indice_name": "small"}).encode()
    assert growing.client.post("/metadata", content=asked).json() == []

    # The metadata of what is no longer served goes with the next look.
    assert len(list(growing.folder.iterdir())) == 2
    assert not growing.collections.refresh()
    assert len(list(growing.folder.iterdir())) == 1


def test_it_looks_by_itself(growing: Growing) -> None:
    with kept_current(growing.collections, 0.05):
        growing.grow()
        deadline = time.monotonic() + 120
        while growing.total()[0] != 2:
            assert time.monotonic() < deadline, "the newer version was not taken up"
            time.sleep(0.05)


def test_what_cannot_be_read_leaves_what_is_served(growing: Growing, caplog: pytest.LogCaptureFixture) -> None:
    before = growing.total()
    growing.publish()
    Store(growing.dataset).create(Layout.index_path(2, "small"), b"{}")
    with caplog.at_level(logging.WARNING, "wat2mds.serve"), kept_current(growing.collections, 0.05):
        deadline = time.monotonic() + 120
        while "stays as it is" not in caplog.text:
            assert time.monotonic() < deadline, "nothing was logged"
            time.sleep(0.05)
    assert "is not the record of an index" in caplog.text
    assert growing.total() == before


def test_one_version_stays(growing: Growing, tmp_path: Path) -> None:
    pinned = Collections(growing.dataset, tmp_path / "other", version=1, device="cpu")
    growing.grow()
    assert not pinned.refresh()
    assert pinned.default.version.number == 1
