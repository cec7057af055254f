"""What is found: by text, image, sample, embedding; under conditions; in pages; and what every answer has."""

from __future__ import annotations

import itertools

import httpx
import pytest

from tests.wat2mds.serve.conftest import LICENSES, Served
from wat2mds.serve import queries


def get(client: httpx.Client, **query: object) -> dict:
    answer = client.get("/api/search", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


def everything(client: httpx.Client, **query: object) -> list[dict]:
    """All pages of a result."""
    found: list[dict] = []
    for page in itertools.count(1):
        answer = get(client, page=page, page_size=100, **query)
        found += answer["samples"]
        if page >= answer["pages"]:
            assert len(found) == answer["total"]
            return found
    raise AssertionError


def test_without_a_question_there_is_everything_safe_once(client: httpx.Client, served: Served) -> None:
    shown = everything(client, fold=False)
    rows = served.collections.default.rows
    assert {one["uid"] for one in shown} == {u for u in served.pictures if (rows.by_uid(u) or {})["punsafe"] <= 0.45}
    assert [one["uid"] for one in shown] == sorted(one["uid"] for one in shown)
    every = everything(client, fold=False, unsafe=True)
    assert {one["uid"] for one in every} == set(served.pictures)
    answer = get(client)
    assert answer["hidden"] == len(every) - len(shown) > 0
    assert answer["complete"]


def test_near_duplicates_are_folded(client: httpx.Client, served: Served) -> None:
    apart = everything(client, fold=False, unsafe=True)
    folded = everything(client, unsafe=True)
    groups = {one["phash_group"] or one["uid"] for one in apart}
    assert len(folded) == len(groups) < len(apart)
    assert sum(1 + one["folded"] for one in folded) == len(apart)


def test_pages_fit_together(client: httpx.Client) -> None:
    whole = [one["uid"] for one in get(client, text="red circle", page_size=90)["samples"]]
    parts = [one["uid"] for page in (1, 2, 3) for one in get(client, text="red circle", page=page, page_size=30)["samples"]]
    assert parts == whole
    assert len(set(whole)) == 90


@pytest.mark.parametrize(
    ("query", "fits"),
    [
        ({"language": "en"}, lambda one: one["language"] == "en"),
        ({"language": ["en", "none"]}, lambda one: one["language"] in ("en", None)),
        ({"license": "by-sa"}, lambda one: one["license_type"] == "by-sa"),
        ({"license": "none"}, lambda one: one["license"] is None),
        ({"host": "images1.example.org"}, lambda one: one["url"].startswith("https://images1.example.org/")),
        ({"min_side": 600}, lambda one: min(one["original_width"], one["original_height"]) >= 600),
        ({"min_similarity": 0.7}, lambda one: one["similarity"] >= 0.7),
        ({"min_aesthetic": 6}, lambda one: one["aesthetic"] >= 6),
    ],
    ids=str,
)
def test_a_condition_leaves_what_fits_it_and_all_of_that(client: httpx.Client, query: dict, fits: object) -> None:
    every = everything(client, fold=False, unsafe=True)
    wanted = {one["uid"] for one in every if fits(one)}  # type: ignore[operator]
    assert 0 < len(wanted) < len(every)
    assert {one["uid"] for one in everything(client, fold=False, unsafe=True, **query)} == wanted
    near = get(client, text="blue star", fold=False, unsafe=True, page_size=100, **query)
    assert near["total"] == len(wanted)
    assert [one["score"] for one in near["samples"]] == sorted((one["score"] for one in near["samples"]), reverse=True)


@pytest.mark.parametrize("fold", [False, True])
def test_filters_show_what_each_value_would_leave(client: httpx.Client, fold: bool) -> None:
    given = {"license": "by-sa", "unsafe": True, "fold": fold}
    assert get(client, unsafe=True, fold=True)["total"] < get(client, unsafe=True, fold=False)["total"]
    for side in get(client, text="red circle", unsafe=True, fold=fold)["facets"]["min_side"]:
        assert get(client, text="red circle", unsafe=True, fold=fold, min_side=side["value"])["total"] == side["count"]
    facets = get(client, **given)["facets"]
    assert {c["value"] for c in facets["license"]} == {kind for _, kind, _ in LICENSES}
    for value in facets["host"]:
        assert get(client, host=value["value"], **given)["total"] == value["count"]
    for value in facets["min_side"]:
        assert get(client, min_side=value["value"], **given)["total"] == value["count"]
    for value in facets["license"]:
        assert get(client, **(given | {"license": value["value"] or "none"}))["total"] == value["count"]


def test_a_sample_has_its_like_but_not_itself(client: httpx.Client, served: Served) -> None:
    uid = min(served.pictures)
    found = get(client, uid=uid, unsafe=True)
    assert uid not in {one["uid"] for one in found["samples"]}
    own = client.get(f"/api/samples/{uid}").json()
    assert own["version"] == 1
    assert own["page_url"].startswith("https://page")
    assert client.get("/api/samples/" + "0" * 32).status_code == 404
    assert client.get("/api/search", params={"uid": "0" * 32}).status_code == 404


def test_an_image_finds_itself(client: httpx.Client, served: Served) -> None:
    for uid in sorted(served.pictures)[::80]:
        image = client.get(f"/images/{uid}")
        assert image.headers["content-type"] == "image/jpeg"
        embedding = client.post("/api/embedding", content=image.content).json()["embedding"]
        query = {"embedding": embedding, "unsafe": True, "fold": False, "page_size": 3}
        found = client.post("/api/search", json=query).json()["samples"]
        same = {one["uid"] for one in found if one["score"] > 0.99}
        assert uid in same


@pytest.mark.parametrize(
    "query",
    [
        {"embedding": [0.0] * 96},
        {"embedding": [1.0] * 5},
        {"text": "red", "uid": "0" * 32},
        {"text": "red", "embedding": [1.0] * 96},
    ],
    ids=["zero", "short", "text and uid", "text and embedding"],
)
def test_what_cannot_be_looked_for_is_said(client: httpx.Client, query: dict) -> None:
    answer = client.post("/api/search", json=query)
    assert answer.status_code == 400
    assert answer.json()["detail"]


def test_figures_and_health(client: httpx.Client, served: Served) -> None:
    assert client.get("/health").json() == {"status": "ok", "version": 1, "samples": len(served.pictures)}
    get(client, text="red circle")
    figures = client.get("/metrics").text
    assert 'wat2mds_serve_requests_total{method="GET",route="/api/search",status="200"}' in figures
    assert 'wat2mds_serve_work_seconds_bucket{le="10.0",part="search"}' in figures
    assert f'wat2mds_serve_samples{{index="small",version="1"}} {float(len(served.pictures))}' in figures
    assert "red circle" not in figures


def test_about(client: httpx.Client) -> None:
    about = client.get("/api/about").json()
    assert about["dataset"] == "drawn"
    assert [(one["name"], one["clip_model"]) for one in about["indices"]] == [("small", "wat2mds-tiny")]


def test_the_few_that_fit_are_found_wherever_they_are(
    client: httpx.Client, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With pools of five and ten of a few hundred samples: conditions that hold for a handful, none of them near."""
    asked = {"text": "red circle", "modality": "image", "unsafe": True, "fold": False}
    everyone = everything(client, **asked)
    monkeypatch.setattr(queries, "POOLS", (5, 10))
    near = {one["uid"] for one in get(client, **asked, page_size=100)["samples"]}
    assert len(near) == 10
    least = sorted(
        (one["aesthetic"] for one in everyone if one["uid"] not in near and one["aesthetic"] is not None), reverse=True
    )[2]
    wanted = [one for one in everyone if one["aesthetic"] is not None and one["aesthetic"] >= least]
    assert 3 <= len(wanted) <= 10
    answer = get(client, **asked, min_aesthetic=least, page_size=100)
    assert [one["uid"] for one in answer["samples"]] == [one["uid"] for one in wanted], "the nearest first"
    assert [one["score"] for one in answer["samples"]] == pytest.approx([one["score"] for one in wanted], abs=1e-5)
    assert (answer["complete"], answer["total"], answer["considered"]) == (True, len(wanted), len(everyone))
    # Like one of them: itself is not among what is found.
    like = get(client, uid=wanted[0]["uid"], unsafe=True, fold=False, min_aesthetic=least)
    assert {one["uid"] for one in like["samples"]} == {one["uid"] for one in wanted[1:]}
    # Of a condition that holds for more than a pool there is only what is near, and the answer says so.
    wide = get(client, **asked, min_similarity=-1)
    assert (wide["complete"], wide["considered"]) == (False, 10)
