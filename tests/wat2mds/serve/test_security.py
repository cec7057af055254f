"""What a hostile client sends: each is refused, and nothing is read or written that should not be."""

from __future__ import annotations

import io
import json
import socket
import struct
import zlib
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from PIL import Image

from tests.wat2mds.serve.conftest import OPTIONS, TOKEN, Served, Serving
from wat2mds.serve.options import Options
from wat2mds.store import Store

AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}


def everything_stored(served: Served) -> dict[str, str]:
    return {entry.path: entry.tag for entry in Store(served.dataset).walk()}


def test_an_oversize_body(client: httpx.Client, served: Served) -> None:
    """Stated, and in chunks that nobody stated."""
    data = b"x" * (OPTIONS.max_body + 1)
    for path in ("/api/embedding", "/knn-service", "/api/search"):
        assert client.post(path, content=data).status_code == 413
    answer = client.post("/api/embedding", content=(data[i : i + 65536] for i in range(0, len(data), 65536)))
    assert answer.status_code == 413
    assert client.get("/health").status_code == 200


def test_a_body_that_does_not_come(served: Served) -> None:
    with (
        Serving(served.collections, Options(body_seconds=0.2)) as url,
        socket.create_connection(("127.0.0.1", urlsplit(url).port or 0), timeout=30) as one,
    ):
        one.sendall(b"POST /api/embedding HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\nab")
        assert one.recv(64).startswith(b"HTTP/1.1 408")


def png(width: int, height: int, rows: int | None = None) -> bytes:
    """A black PNG, a thousandth of its pixels in bytes; ``rows``: so many only, whatever its header says."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    pixels = zlib.compress(bytes(1 + width // 8) * (height if rows is None else rows), 9)
    header = struct.pack(">2I5B", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def test_a_decompression_bomb(client: httpx.Client) -> None:
    """Refused by its header: 100 million pixels in 13 kB, and one that says it has more than any image."""
    bomb = png(10_000, 10_000)
    assert len(bomb) < 20_000
    for sent in (bomb, png(400_000, 400_000, rows=1)):
        answer = client.post("/api/embedding", content=sent)
        assert answer.status_code == 413, answer.text
        assert "pixels" in answer.json()["detail"]
    assert client.post("/api/embedding", content=png(64, 64)).status_code == 200


@pytest.mark.parametrize(
    "data", [b"", b"GIF89a", b"\xff\xd8\xff\xe0" + bytes(100), b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%!PS"]
)
def test_what_is_no_image(client: httpx.Client, data: bytes) -> None:
    assert client.post("/api/embedding", content=data).status_code == 400


def test_an_image_that_ends_early(client: httpx.Client) -> None:
    out = io.BytesIO()
    Image.effect_noise((400, 300), 50).save(out, "JPEG")
    assert client.post("/api/embedding", content=out.getvalue()[:5000]).status_code == 400


@pytest.mark.parametrize(
    "path",
    [
        "/page/../app.py",
        "/page/..%2fapp.py",
        "/page/%2e%2e/%2e%2e/settings.py",
        "/page//etc/passwd",
        "/page/..\\app.py",
        "/images/../../versions/000001/version.json",
        "/images/..%2f..%2fversions%2f000001%2fversion.json",
        "/images/" + "0" * 31 + "g",
        "/api/samples/%2e%2e%2fversion.json",
    ],
)
def test_a_path_out_of_what_is_served(served: Served, path: str) -> None:
    """Sent as it stands: a client library would make the path plain before."""
    place = urlsplit(served.url)
    with socket.create_connection(("127.0.0.1", place.port or 0), timeout=30) as one:
        one.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while part := one.recv(65536):
            answer += part
    assert answer.split(b" ")[1] in (b"404", b"422"), answer[:200]
    assert b"def " not in answer
    assert b"root:" not in answer


@pytest.mark.parametrize("name", ["subset/../../escape", "../escape", "UP", "a/b", "", "x" * 65, "a\u0000b", "ä"])
def test_a_subset_named_as_a_path(client: httpx.Client, served: Served, name: str) -> None:
    before = everything_stored(served)
    assert client.post("/api/subsets", json={"name": name}, headers=AUTHORIZED).status_code == 422
    assert everything_stored(served) == before


SQL = [
    "en' OR '1'='1",
    "en'; DROP TABLE rows; --",
    'en" OR 1=1',
    "' UNION SELECT sql FROM sqlite_master --",
    "en)",
    "read_text('/etc/passwd')",
]


@pytest.mark.parametrize("text", SQL)
def test_injected_sql(client: httpx.Client, served: Served, text: str) -> None:
    """In each field of text; as words it is searched for like others."""
    count = served.collections.default.rows.count
    for field in ("language", "license", "host", "uid", "modality", "min_side", "min_similarity"):
        assert client.get("/api/search", params={field: text}).status_code == 422, field
        assert client.post("/api/search", json={field: [text]}).status_code == 422, field
    assert client.get("/api/search", params={"text": text}).status_code == 200
    assert client.get("/api/search", params={"index": text}).status_code == 404
    assert client.post("/metadata", content=json.dumps({"ids": [text], "indice_name": "small"})).status_code == 422
    assert client.get("/api/search", params={"where": text}).status_code == 422, "there is no such field"
    assert served.collections.default.rows.count == count
    assert client.get("/api/search").json()["total"] > 100


WISHES = [("/api/subsets", {"name": "not-mine"}), ("/api/reports", {"uid": "0" * 32, "reason": "person"})]


@pytest.mark.parametrize(("path", "wish"), WISHES)
def test_a_missing_or_wrong_token(client: httpx.Client, served: Served, path: str, wish: dict) -> None:
    before = everything_stored(served)
    for headers in ({}, {"Authorization": "Bearer"}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"}):
        answer = client.post(path, json=wish, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
    assert client.post(f"{path}?token={TOKEN}", json=wish, headers={"Cookie": f"token={TOKEN}"}).status_code == 401
    with Serving(served.collections, Options()) as url:
        assert httpx.post(url + path, json=wish, headers={"Authorization": "Bearer x"}).status_code == 403
    assert everything_stored(served) == before


@pytest.mark.parametrize(("path", "wish"), WISHES)
def test_a_form_posted_by_another_site(client: httpx.Client, served: Served, path: str, wish: dict) -> None:
    """Even with the token, and as whatever a form can be: three types, one of which can hold JSON."""
    before = everything_stored(served)
    forms = [{"data": wish}, {"files": {"name": b"x"}}, {"content": json.dumps(wish), "headers": {"Content-Type": "text/plain"}}]
    for form in forms:
        form["headers"] = {**form.get("headers", {}), **AUTHORIZED}
        assert client.post(path, **form).status_code == 415
    for site in (
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ):
        assert client.post(path, json=wish, headers={**AUTHORIZED, **site}).status_code == 403
    assert everything_stored(served) == before


def test_another_site_cannot_read(client: httpx.Client, served: Served) -> None:
    answer = client.get("/api/search", headers={"Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in answer.headers
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    # Nor under a name of its own that leads here.
    assert client.get("/api/search", headers={"Host": "evil.example"}).status_code == 421
    assert client.get("/health", headers={"Host": f"localhost:{urlsplit(served.url).port}"}).status_code == 200


def test_headers_on_every_answer(client: httpx.Client) -> None:
    for path in ("/", "/page/main.js", "/api/search", "/no-such-place", "/api/search?page=x"):
        headers = client.get(path).headers
        policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == "'self'"
        assert "unsafe" not in headers["content-security-policy"]
        assert "http" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "no-referrer"


def test_the_page_names_nobody_else() -> None:
    folder = Path(__file__).parents[3] / "include" / "wat2mds" / "serve" / "page"
    for file in folder.iterdir():
        text = file.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "://" not in text, file.name
        assert "innerHTML" not in text, file.name


def test_who_asks_too_fast(served: Served) -> None:
    with Serving(served.collections, Options(rate=0.5, burst=3)) as url, httpx.Client(base_url=url) as client:
        statuses = [client.get("/health").status_code for _ in range(5)]
        assert statuses[:3] == [200, 200, 200]
        assert 429 in statuses
        refused = client.get("/health")
        if refused.status_code == 429:
            assert int(refused.headers["retry-after"]) >= 1


def test_a_report_is_an_object_without_content(client: httpx.Client, served: Served) -> None:
    uid = min(served.pictures)
    wish = {"uid": uid, "reason": "person"}
    first = client.post("/api/reports", json=wish, headers=AUTHORIZED)
    assert (first.status_code, first.json()["new"]) == (201, True)
    again = client.post("/api/reports", json=wish, headers=AUTHORIZED).json()
    assert again == {"report": f"reports/takedown/{uid}-person.json", "new": False}
    stored = Store(served.dataset).read_json(again["report"])
    assert set(stored) == {"uid", "reason", "version", "reported_at", "format"}
    assert client.post("/api/reports", json=wish | {"uid": "0" * 32}, headers=AUTHORIZED).status_code == 404
    assert client.post("/api/reports", json=wish | {"reason": "<b>"}, headers=AUTHORIZED).status_code == 422
