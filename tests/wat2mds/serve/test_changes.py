"""A result saved as a subset holds just what was shown; a name means one thing."""

from __future__ import annotations

import io

import httpx
import numpy as np

from tests.wat2mds.serve.conftest import TOKEN, Served
from wat2mds import subsets
from wat2mds.store import Store

AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}


def stored_uids(served: Served, name: str) -> list[str]:
    subset = subsets.read_subset(served.dataset, name)
    found = np.load(io.BytesIO(Store(served.dataset).read(subset.uids.path)))
    return [f"{a:016x}{b:016x}" for a, b in found]


def save(client: httpx.Client, name: str, query: dict, **wish: object) -> httpx.Response:
    return client.post("/api/subsets", json={"name": name, "query": query, **wish}, headers=AUTHORIZED)


def test_a_search_is_saved_as_its_nearest_samples(client: httpx.Client, served: Served) -> None:
    query = {"text": "red circle **bold** </script>", "license": ["by-sa"], "unsafe": False}
    shown = client.post("/api/search", json=query | {"page_size": 25}).json()["samples"]
    answer = save(client, "red-circles", query, count=25)
    assert answer.status_code == 201, answer.text
    assert answer.json() == {"name": "red-circles", "version": 1, "samples": 25, "folder": "subsets/red-circles/000001"}
    assert stored_uids(served, "red-circles") == sorted(one["uid"] for one in shown)
    card = Store(served.dataset).read("subsets/red-circles/000001/README.md").decode()
    assert "red circle bold script" in card
    assert "<" not in card
    assert save(client, "red-circles", query, count=25).status_code == 201, "the same again is no error"
    other = save(client, "red-circles", query, count=24)
    assert other.status_code == 409
    assert "defined already" in other.json()["detail"]


def test_conditions_are_saved_as_a_condition(client: httpx.Client, served: Served) -> None:
    query = {"host": ["images1.example.org", "images2.example.org"], "license": ["none", "zero"], "min_side": 600}
    query |= {"language": ["en"], "min_similarity": 0.2, "min_aesthetic": 2.5}
    found = client.post("/api/search", json=query | {"page_size": 100, "fold": False}).json()
    assert 0 < found["total"] <= 100
    assert save(client, "by-conditions", query).json()["samples"] == found["total"]
    assert stored_uids(served, "by-conditions") == sorted(one["uid"] for one in found["samples"])


def test_the_most_that_can_be_saved(client: httpx.Client, served: Served) -> None:
    query = {"text": "star", "unsafe": True, "fold": False}
    assert save(client, "many", query, count=1000).json()["samples"] == len(served.pictures)
    assert save(client, "too-many", query, count=1001).status_code == 422
