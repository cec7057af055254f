"""clip-retrieval's protocol: requests byte for byte as ``ClipClient`` 2.45 makes them (``python -m tests.benchmarks.clip_client``
runs the client itself).
"""

from __future__ import annotations

import base64
import json
from typing import Any

import httpx

from tests.wat2mds.serve.conftest import Served


def clip_client_body(**given: Any) -> bytes:
    """clip_client.py, ``__search_knn_api__``: JSON without a content type."""
    body = {
        "text": None,
        "image": None,
        "image_url": None,
        "embedding_input": None,
        "deduplicate": True,
        "use_safety_model": True,
        "use_violence_detector": True,
        "indice_name": "small",
        "use_mclip": False,
        "aesthetic_score": 9,
        "aesthetic_weight": 0.5,
        "modality": "image",
        "num_images": 40,
        "num_result_ids": 40,
    }
    return json.dumps(body | given).encode()


def ask(client: httpx.Client, **given: Any) -> list[dict[str, Any]]:
    answer = client.post("/knn-service", content=clip_client_body(**given))
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()
    return found


def test_text_image_and_embedding_find_what_the_page_finds(client: httpx.Client, served: Served) -> None:
    assert client.get("/indices-list").json() == ["small"]
    uid = sorted(served.pictures)[5]
    image = client.get(f"/images/{uid}").content
    embedding = client.post("/api/embedding", content=image).json()["embedding"]
    text = "one large red circle in the middle on a blue background"
    by_text = client.get("/api/search", params={"text": text}).json()["samples"]
    by_image = client.post("/api/search", json={"embedding": embedding}).json()["samples"]
    for given, expected in (
        ({"text": text}, by_text),
        ({"image": base64.b64encode(image).decode()}, by_image),
        ({"embedding_input": embedding}, by_image),
    ):
        found = ask(client, **given)
        assert [one["uid"] for one in found] == [one["uid"] for one in expected]
        assert [one["similarity"] for one in found] == [one["score"] for one in expected]
        assert all(one["url"] and one["caption"] for one in found)


def test_its_options(client: httpx.Client, served: Served) -> None:
    every = ask(client, text="star", deduplicate=False, use_safety_model=False, num_images=1000, num_result_ids=1000)
    assert {one["uid"] for one in every} == set(served.pictures)
    safe = ask(client, text="star", deduplicate=False, num_images=1000, num_result_ids=1000)
    assert [one for one in every if one["punsafe"] <= 0.45] == safe
    short = ask(client, text="star", num_images=2, num_result_ids=5)
    assert [set(one) == {"id", "similarity"} for one in short] == [False, False, True, True, True]
    captions = ask(client, text="one large red circle in the middle on a blue background", modality="text", num_images=1)
    assert "red" in captions[0]["caption"]


def test_metadata_by_id(client: httpx.Client) -> None:
    found = ask(client, text="star", num_images=3, num_result_ids=3)
    ids = [one["id"] for one in found]
    answer = client.post("/metadata", content=json.dumps({"ids": [*ids, 10**9], "indice_name": "small"}).encode()).json()
    assert [one["id"] for one in answer] == ids
    assert [one["metadata"]["uid"] for one in answer] == [one["uid"] for one in found]


def test_what_it_is_refused(client: httpx.Client) -> None:
    def status(**given: Any) -> int:
        return client.post("/knn-service", content=clip_client_body(**given)).status_code

    assert status() == 400
    assert status(text="star", indice_name="laion5B") == 404
    assert status(image_url="http://127.0.0.1/secret.jpg") == 400, "the service asks no other host"
    assert status(image="?") == 400
    assert status(image=base64.b64encode(b"no image").decode()) == 400
    assert status(text="star", modality="sound") == 422
    assert client.post("/knn-service", content=b"{").status_code == 422
