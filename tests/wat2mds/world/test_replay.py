"""Replaying real web archives: every archived image comes back whole, over HTTP, as it was archived."""

from __future__ import annotations

import gzip
import http.client
import io
import json
from pathlib import Path
from urllib.parse import urljoin

import pytest
from fastwarc.warc import ArchiveIterator, WarcRecordType
from PIL import Image

from wat2mds.errors import DataError
from wat2mds.world.origin import address
from wat2mds.world.replay import Archive, serve_replay

# Distinct URLs that were archived with status 200 and an image's Content-Type.
FILES = [("example-IAH-blackbook.warc.gz", 55), ("books.toscrape.warc", 20), ("sopa-wikipedia-homepage.warc.gz", 58)]


def archived_images(path: Path) -> dict[str, bytes]:
    """First archived body of each image URL, read record by record."""
    found: dict[str, bytes] = {}
    for record in ArchiveIterator(str(path), record_types=WarcRecordType.response, parse_http=True):
        if record.http_headers is None or record.http_headers.status_code != 200:
            continue
        if (record.http_headers.get("Content-Type") or "").startswith("image/"):
            found.setdefault(record.headers["WARC-Target-URI"], record.reader.read())
    return found


@pytest.mark.shared
@pytest.mark.parametrize(("name", "count"), FILES)
def test_every_archived_image_is_served(name: str, count: int, shared: Path) -> None:
    path = shared / "warc" / name
    images = archived_images(path)
    assert len(images) == count
    with serve_replay([path]) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        for url, body in images.items():
            host, _, rest = address(url).partition("/")
            connection.request("GET", f"/{rest}", headers={"Host": host})
            answer = connection.getresponse()
            assert answer.status == 200, url
            assert answer.read() == body, url
            assert (answer.getheader("Content-Type") or "").startswith("image/")
            with Image.open(io.BytesIO(body)) as image:
                image.load()
        connection.close()
        assert len({line.connection for line in server.log}) == 1
        assert len(Archive([path])) >= count


def is_image(archive: Archive, url: str) -> bool:
    host, _, rest = address(url).partition("/")
    answer = archive(host, f"/{rest}")
    return answer is not None and answer.status == 200 and dict(answer.headers)["Content-Type"].startswith("image/")


@pytest.mark.shared
def test_the_crawls_links_with_alt_lead_to_24_archived_images(shared: Path) -> None:
    """The end-to-end case's numbers, as shared/data/README.md gives them."""
    archive = Archive([shared / "warc/example-IAH-blackbook.warc.gz"])
    links = []
    for record in ArchiveIterator(str(shared / "wat/derived/example-IAH-blackbook.warc.wat.gz"), parse_http=False):
        body = record.reader.read()
        if b'"IMG@/src"' not in body:
            continue
        response = json.loads(body)["Envelope"]["Payload-Metadata"]["HTTP-Response-Metadata"]["HTML-Metadata"]
        for link in response.get("Links", []):
            if link["path"] == "IMG@/src" and link.get("alt"):
                links.append((urljoin(record.headers["WARC-Target-URI"], link["url"]), link["alt"]))
    here = [(url, alt) for url, alt in links if is_image(archive, url)]
    assert (len(links), len(here), len(set(here)), len({url for url, _ in here})) == (666, 632, 69, 24)


@pytest.mark.shared
def test_all_that_is_archived_is_answered_on_one_connection(shared: Path) -> None:
    """Pages, redirects, errors, and headers that were archived damaged."""
    paths = [shared / "warc" / name for name, _ in FILES]
    urls = {
        record.headers["WARC-Target-URI"]
        for path in paths
        for record in ArchiveIterator(str(path), record_types=WarcRecordType.response)
        if record.headers["WARC-Target-URI"].startswith("http")
    }
    statuses: dict[int, int] = {}
    with serve_replay(paths) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        for url in sorted(urls):
            host, _, rest = address(url).partition("/")
            connection.request("GET", f"/{rest}", headers={"Host": host})
            answer = connection.getresponse()
            answer.read()
            statuses[answer.status] = statuses.get(answer.status, 0) + 1
            assert answer.getheader("Transfer-Encoding") is None
        connection.close()
        assert len({line.connection for line in server.log}) == 1
    assert set(statuses) == {200, 301, 302, 404}
    assert statuses[200] == 214 + 30 + 74


def warc(path: Path, *records: tuple[str, bytes, bytes]) -> Path:
    """A WARC file of responses: URL, HTTP head, body."""
    out = []
    for number, (url, head, body) in enumerate(records):
        block = head.replace(b"\n", b"\r\n") + b"\r\n\r\n" + body
        lines = [
            "WARC/1.0",
            "WARC-Type: response",
            f"WARC-Record-ID: <urn:uuid:00000000-0000-0000-0000-{number:012d}>",
            f"WARC-Target-URI: {url}",
            "WARC-Date: 2024-01-01T00:00:00Z",
            "Content-Type: application/http; msgtype=response",
            f"Content-Length: {len(block)}",
        ]
        out.append(gzip.compress(("\r\n".join(lines) + "\r\n\r\n").encode() + block + b"\r\n\r\n"))
    path.write_bytes(b"".join(out))
    return path


def test_codings_are_undone_and_connection_headers_left_out(tmp_path: Path) -> None:
    body = b"<p>hello</p>" * 50
    packed = gzip.compress(body)
    chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(packed), packed)
    both = b"HTTP/1.1 200 OK\nContent-Encoding: gzip\nTransfer-Encoding: chunked\nConnection: close\nX-Kept: yes"
    archive = Archive(
        [
            warc(
                tmp_path / "a.warc.gz",
                ("http://a.example.com/both?q=1", both, chunked),
                ("http://a.example.com/plain", both, body),
                ("http://a.example.com/again", b"HTTP/1.1 404 Not Found", b"gone"),
                ("http://a.example.com/again", b"HTTP/1.1 200 OK", b"here"),
                ("http://a.example.com/again", b"HTTP/1.1 200 OK", b"later"),
            )
        ]
    )
    for target in ("/both?q=1", "/plain"):
        answer = archive("a.example.com", target)
        assert answer is not None
        assert answer.body == body
        names = {name.lower() for name, _ in answer.headers}
        assert names == {"x-kept", "x-archive-datetime"}
    again = archive("a.example.com", "/again")
    assert again is not None
    assert (again.status, again.body) == (200, b"here")
    assert archive("a.example.com", "/both") is None
    assert "https://A.example.com/both?q=1" in archive


def test_a_file_with_nothing_to_replay_is_refused_with_words(tmp_path: Path) -> None:
    empty = tmp_path / "empty.warc.gz"
    empty.write_bytes(b"")
    with pytest.raises(DataError, match=r"empty\.warc\.gz"):
        Archive([empty])
    with pytest.raises(DataError, match="missing"):
        Archive([tmp_path / "missing.warc"])
