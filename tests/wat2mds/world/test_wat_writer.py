"""WAT files as Common Crawl writes them: compared with published ones, and read back by fastwarc."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fastwarc.warc import ArchiveIterator, WarcRecordType

from wat2mds.world.mirror import CrawlSegment, CrawlSnapshot, wat_path, write_mirror
from wat2mds.world.page import Page, anchor, head_link, image
from wat2mds.world.wat_writer import write_wat

START = datetime(2024, 5, 18, 1, 58, 10, tzinfo=UTC)
PAGES = [
    Page(
        "https://an.example.org/wiki/Escopete?a=1",
        (anchor("/", "Portalada"), image("/a.jpg", "Ün – 日本"), image("b.svg"), anchor("//cc.example.org", rel="license")),
        START,
        title="Escopete <1>",
        language="an",
        base="/wiki/",
        head_links=(head_link("https://creativecommons.org/licenses/by-sa/4.0/", "license"),),
    ),
    Page("https://an.example.org/report.pdf", (), START + timedelta(seconds=1), content_type="application/pdf"),
    Page("https://an.example.org/", (), START + timedelta(seconds=2)),
]


def members(path: Path) -> Iterator[tuple[bytes, bytes]]:
    """Gzip header and content of each member."""
    data = path.read_bytes()
    while data:
        one = zlib.decompressobj(31)
        content = one.decompress(data) + one.flush()
        assert one.eof
        yield data[:10], content
        data = one.unused_data


def parsed(content: bytes) -> tuple[list[str], dict[str, str], bytes]:
    head, _, block = content.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines[1:])
    return [lines[0], *headers], headers, block


def shape(value: Any) -> Any:
    """Keys and types, to a depth where content begins."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items() if key not in ("Headers", "Metas", "Links", "Link", "Scripts")}
    return type(value).__name__


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("wat") / "CC-MAIN-20240517233122-20240518023122-00000.warc.wat.gz"
    assert write_wat(path, PAGES, snapshot="CC-MAIN-2024-22") == 2 + 3 * len(PAGES)
    return path


def test_every_record_is_a_gzip_member_of_its_own_and_as_long_as_it_says(written: Path) -> None:
    found = list(members(written))
    assert len(found) == 2 + 3 * len(PAGES)
    for gzip_header, content in found:
        assert gzip_header == bytes.fromhex("1f8b0800000000000003")
        _, headers, block = parsed(content)
        assert block[int(headers["Content-Length"]) :] == b"\r\n\r\n"


@pytest.mark.shared
def test_records_and_headers_are_those_of_a_published_file(written: Path, shared: Path) -> None:
    real = list(members(shared / "wat/sparkwarc/sample.crlf-restored.wat.gz"))
    ours = list(members(written))
    assert {header for header, _ in ours} == {header for header, _ in real}
    # warcinfo, its metadata, then request, response, metadata of each page: first line and header names in order.
    for number in range(5):
        assert parsed(ours[number][1])[0] == parsed(real[number][1])[0]
    kinds = [
        json.loads(parsed(content)[2])["Envelope"]["WARC-Header-Metadata"]["WARC-Type"] for _, content in (*real[1:5], *ours[1:5])
    ]
    assert kinds[:4] == kinds[4:] == ["warcinfo", "request", "response", "metadata"]


@pytest.mark.shared
def test_json_has_the_keys_of_common_crawls_extractor(written: Path, shared: Path) -> None:
    """The file was made by Common Crawl's own extractor from records of CC-MAIN-2024-22; ours begins with the same kinds."""
    real = list(members(shared / "wat/derived/whirlwind.warc.wat.gz"))
    ours = list(members(written))
    assert parsed(ours[0][1])[0] == parsed(real[0][1])[0]
    for number, kind in enumerate(("warcinfo", "request", "response", "metadata"), start=1):
        a, b = (json.loads(parsed(content)[2]) for content in (ours[number][1], real[number][1]))
        assert a["Envelope"]["WARC-Header-Metadata"]["WARC-Type"] == kind
        our_shape = shape(a)
        if kind == "response":  # the real page has no <base>
            del our_shape["Envelope"]["Payload-Metadata"]["HTTP-Response-Metadata"]["HTML-Metadata"]["Head"]["Base"]
        assert our_shape == shape(b), kind


def test_lengths_and_digests_are_those_of_the_records_spoken_of(written: Path) -> None:
    offset = 0
    for _, content in list(members(written))[1:]:
        _, headers, block = parsed(content)
        found = json.loads(block)
        container, envelope = found["Container"], found["Envelope"]
        assert container["Offset"] == str(offset)
        offset += int(container["Gzip-Metadata"]["Deflate-Length"])
        payload, warc = envelope["Payload-Metadata"], envelope["WARC-Header-Metadata"]
        assert payload["Actual-Content-Length"] == warc["Content-Length"]
        assert payload["Block-Digest"] == warc["WARC-Block-Digest"]
        total = int(envelope["WARC-Header-Length"]) + int(warc["Content-Length"]) + int(payload["Trailing-Slop-Length"])
        assert container["Gzip-Metadata"]["Inflated-Length"] == str(total)
        assert headers["WARC-Refers-To"] == warc["WARC-Record-ID"]
        assert headers["WARC-Target-URI"] == warc.get("WARC-Target-URI", container["Filename"])


def test_fastwarc_reads_it_and_links_stand_as_given(written: Path) -> None:
    records = [(r.record_type, r.headers.get("WARC-Target-URI"), r.reader.read()) for r in ArchiveIterator(str(written))]
    assert [kind for kind, _, _ in records] == [WarcRecordType.warcinfo] + [WarcRecordType.metadata] * 10
    response = json.loads(records[3][2])["Envelope"]["Payload-Metadata"]["HTTP-Response-Metadata"]
    assert response["HTML-Metadata"]["Links"] == [dict(link) for link in PAGES[0].links]
    assert response["HTML-Metadata"]["Head"]["Base"] == "/wiki/"
    assert "日本".encode() in records[3][2]
    assert b"HTML-Metadata" not in records[6][2]
    assert json.loads(records[9][2])["Envelope"]["Payload-Metadata"]["HTTP-Response-Metadata"]["HTML-Metadata"]


def test_the_same_pages_give_the_same_bytes_and_other_ids_elsewhere(written: Path, tmp_path: Path) -> None:
    again = tmp_path / written.name
    write_wat(again, PAGES, snapshot="CC-MAIN-2024-22")
    assert again.read_bytes() == written.read_bytes()
    other = tmp_path / "CC-MAIN-20240517233122-20240518023122-00001.warc.wat.gz"
    write_wat(other, PAGES, snapshot="CC-MAIN-2024-22")
    ids = {r.record_id for path in (written, other) for r in ArchiveIterator(str(path))}
    assert len(ids) == 22


@pytest.mark.parametrize("damage", ["cut", "overwritten"])
def test_a_damaged_record_costs_its_json_and_no_other_record(damage: Any, tmp_path: Path) -> None:
    links = (image("/a.jpg", "one of two"), image("/b.jpg", "two of two"))
    bad = Page("https://a.example.org/", links, START, damage=damage)
    path = tmp_path / "x.warc.wat.gz"
    assert write_wat(path, [bad, PAGES[0]], snapshot="CC-MAIN-2024-22") == 8
    readable = []
    for record in ArchiveIterator(str(path)):
        body = record.reader.read()
        assert len(body) == record.content_length
        if record.record_type == WarcRecordType.metadata:
            try:
                readable.append(bool(json.loads(body)))
            except ValueError:
                assert b'"IMG@/src"' in body
                readable.append(False)
    assert readable == [True, True, False, True, True, True, True]


def test_a_mirror_lists_its_wat_files_as_common_crawl_does(tmp_path: Path) -> None:
    segment = CrawlSegment("1707947473347.0", datetime(2024, 2, 20, 21, 10, 55, tzinfo=UTC), [PAGES[:1], PAGES[1:]])
    older = CrawlSnapshot("CC-MAIN-2024-10", START - timedelta(days=90), START - timedelta(days=80), [segment])
    newer = CrawlSnapshot("CC-MAIN-2024-22", START, START + timedelta(days=12), [segment])
    written = write_mirror(tmp_path, [older, newer])
    assert [path.is_file() for path in written] == [True] * 4
    lines = gzip.decompress((tmp_path / "crawl-data/CC-MAIN-2024-10/wat.paths.gz").read_bytes()).decode().splitlines()
    name = "crawl-data/CC-MAIN-2024-10/segments/1707947473347.0/wat/CC-MAIN-20240220211055-20240221001055-0000{}.warc.wat.gz"
    assert lines == [name.format(0), name.format(1)]
    collinfo = json.loads((tmp_path / "collinfo.json").read_text())
    assert [entry["id"] for entry in collinfo] == ["CC-MAIN-2024-22", "CC-MAIN-2024-10"]
    assert collinfo[0]["from"] == "2024-05-18T01:58:10"


@pytest.mark.shared
def test_the_mirrors_names_are_of_common_crawls_form(shared: Path) -> None:
    listing = gzip.decompress((shared / "crawl_listings/CC-MAIN-2023-50/wat.paths.gz").read_bytes()).decode().splitlines()
    start = datetime(2023, 11, 28, 8, 34, 43, tzinfo=UTC)
    assert listing[1] == wat_path("CC-MAIN-2023-50", "1700679099281.67", start, 1)
    real = json.loads((shared / "crawl_listings/collinfo.json").read_text())
    assert list(real[0]) == ["id", "name", "timegate", "cdx-api", "from", "to"]
