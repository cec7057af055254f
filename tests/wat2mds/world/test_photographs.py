"""The second use of the writer: a world of real photographs with their own captions."""

from __future__ import annotations

import gzip
import http.client
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from fastwarc.warc import ArchiveIterator

from tests.wat2mds.world.shared_photographs import flickr_rows, fondant_rows
from wat2mds.world.origin import address
from wat2mds.world.photographs import Photograph, write_photograph_world

START = datetime(2024, 2, 20, 21, 10, 55, tzinfo=UTC)


@pytest.mark.shared
def test_real_photographs_become_a_crawl_and_its_web(shared: Path, tmp_path: Path) -> None:
    rows = [*fondant_rows(shared), *flickr_rows(shared)]
    world = write_photograph_world(
        tmp_path, rows, snapshot="CC-MAIN-2024-10", segment="1707947473347.0", start=START, wat_files=2
    )
    assert world.links == len(rows) == 2000
    assert 1700 <= world.images <= 1758
    links, licenses, records = [], 0, 0
    for line in gzip.decompress((world.crawl / "crawl-data/CC-MAIN-2024-10/wat.paths.gz").read_bytes()).decode().split():
        for record in ArchiveIterator(str(world.crawl / line), parse_http=False):
            records += 1
            body = record.reader.read()
            if b'"HTML-Metadata"' not in body:
                continue
            found = json.loads(body)["Envelope"]["Payload-Metadata"]["HTTP-Response-Metadata"]["HTML-Metadata"]["Links"]
            links += [(link["url"], link["alt"]) for link in found if link["path"] == "IMG@/src"]
            licenses += sum("creativecommons.org/licenses/" in link["url"] for link in found if link["path"] == "A@/href")
    assert sorted(links) == sorted((row.url, row.alt) for row in rows)
    assert records == 2 * 2 + 3 * world.pages
    assert licenses > 0
    with world.origin() as origin:
        connection = http.client.HTTPConnection("127.0.0.1", origin.port, timeout=10)
        for row in rows[:50] + rows[-50:]:
            host, _, rest = address(row.url).partition("/")
            connection.request("GET", f"/{rest}", headers={"Host": host})
            answer = connection.getresponse()
            content = row.content.read_bytes() if isinstance(row.content, Path) else row.content
            if content is not None:
                assert (answer.status, answer.read()) == (200, content)
            else:
                answer.read()
        connection.close()


def test_rows_of_one_page_stand_together_and_one_without_bytes_is_a_dead_link(tmp_path: Path) -> None:
    rows = [
        Photograph(
            "https://a.example.com/1", "https://i.example.com/1.jpg", "one", b"1", "https://creativecommons.org/licenses/by/4.0/"
        ),
        Photograph("https://a.example.com/2", "https://i.example.com/2.jpg", None, None),
        Photograph(
            "https://a.example.com/1", "https://i.example.com/3.jpg", "", b"3", "https://creativecommons.org/licenses/by/4.0/"
        ),
    ]
    world = write_photograph_world(tmp_path, rows, snapshot="CC-MAIN-2024-10", segment="1707947473347.0", start=START)
    assert (world.pages, world.links, world.images) == (2, 3, 2)
    with world.origin() as origin:
        connection = http.client.HTTPConnection("127.0.0.1", origin.port, timeout=10)
        statuses = []
        for number in (1, 2, 3):
            connection.request("GET", f"/{number}.jpg", headers={"Host": "i.example.com"})
            answer = connection.getresponse()
            answer.read()
            statuses.append(answer.status)
        connection.close()
    assert statuses == [200, 404, 200]
