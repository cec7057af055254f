"""extract on real and made WAT files: what is a pair, what is dropped and why, what damage costs."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from wat2mds.drops import DropReason
from wat2mds.errors import DataError
from wat2mds.identity import normalize_url, uid
from wat2mds.manifest import Manifest
from wat2mds.settings import load_settings
from wat2mds.stages import extract
from wat2mds.world.page import Page, anchor, head_link, image
from wat2mds.world.wat_writer import write_wat

DATE = datetime(2024, 2, 21, 10, 0, 0, tzinfo=UTC)
SETTINGS = load_settings("laion400m", environment={})
PAGE = "http://www.example.com/shop/index.html"


def run(wat: Path, out: Path, *overrides: str) -> tuple[Manifest, list[dict[str, Any]]]:
    settings = load_settings("laion400m", overrides, environment={})
    manifest = extract.run(str(wat), str(out), settings, snapshot="CC-MAIN-2024-10", segment="1.0", wat_file="00000")
    for flow in manifest.flows:
        assert flow.reconciles
    return manifest, pq.read_table(manifest.fetch("pairs.parquet", out)).to_pylist()


def one_page(tmp_path: Path, *links: Any, **page: Any) -> tuple[Manifest, list[dict[str, Any]]]:
    wat = tmp_path / "x-00000.warc.wat.gz"
    write_wat(wat, [Page(PAGE, links, DATE, **page)], snapshot="CC-MAIN-2024-10")
    return run(wat, tmp_path / "out")


@pytest.mark.parametrize(
    ("url", "base", "found"),
    [
        ("http://img.example.com/a.jpg", None, "http://img.example.com/a.jpg"),
        ("/a.jpg", None, "http://www.example.com/a.jpg"),
        ("a.jpg", None, "http://www.example.com/shop/a.jpg"),
        ("../a.jpg?x=1&amp;y=2", None, "http://www.example.com/a.jpg?x=1&y=2"),
        ("//cdn.example.org/a.jpg", None, "http://cdn.example.org/a.jpg"),
        ("a.jpg", "https://static.example.net/deep/", "https://static.example.net/deep/a.jpg"),
        ("a.jpg", "pictures/", "http://www.example.com/shop/pictures/a.jpg"),
        (" \n/a.jpg ", None, "http://www.example.com/a.jpg"),
        ("HTTPS://Example.com/A.jpg", None, "HTTPS://Example.com/A.jpg"),
    ],
)
def test_urls_are_resolved_as_a_browser_would(tmp_path: Path, url: str, base: str | None, found: str) -> None:
    _, pairs = one_page(tmp_path, image(url, "a caption"), base=base)
    assert [pair["url"] for pair in pairs] == [found]
    assert pairs[0]["url_normalized"] == normalize_url(found)
    assert pairs[0]["uid"] == uid(normalize_url(found), "a caption")


@pytest.mark.parametrize(
    ("alt", "caption"),
    [
        ("  two\n lines\t here ", "two lines here"),
        ("Tom &amp; Jerry&#33;", "Tom & Jerry!"),
        ("schÃ¶nes Bild", "schönes Bild"),
        ("caf\u0065\u0301 noir", "café noir"),
        ("zero\u200bwidth \x07bell", "zerowidth bell"),
        ("日本語の写真です", "日本語の写真です"),
    ],
)
def test_captions_are_cleaned(tmp_path: Path, alt: str, caption: str) -> None:
    _, pairs = one_page(tmp_path, image("/a.jpg", alt))
    assert [pair["caption"] for pair in pairs] == [caption]


@pytest.mark.parametrize(
    ("link", "reason"),
    [
        (image("/a.jpg"), DropReason.NO_CAPTION),
        (image("/a.jpg", "  \n "), DropReason.NO_CAPTION),
        (image("/a.jpg", "four"), DropReason.SHORT_CAPTION),
        (image("/a.jpg", "x" * 2001), DropReason.LONG_CAPTION),
        (image("", "a caption"), DropReason.NO_URL),
        (image("data:image/gif;base64,R0lGODlhAQABAAAAACw=", "a caption"), DropReason.DATA_URL),
        (image("javascript:void(0)", "a caption"), DropReason.DATA_URL),
        (image("/logo.SVG?v=2", "a caption"), DropReason.UNWANTED_TYPE),
        (image("/favicon.ico", "a caption"), DropReason.UNWANTED_TYPE),
        (image("http://127.0.0.1/a.jpg", "a caption"), DropReason.PRIVATE_HOST),
        (image("http://[::1]/a.jpg", "a caption"), DropReason.PRIVATE_HOST),
        (image("http://localhost/a.jpg", "a caption"), DropReason.PRIVATE_HOST),
        (image("http://intranet/a.jpg", "a caption"), DropReason.PRIVATE_HOST),
        (image("http://", "a caption"), DropReason.BAD_URL),
        (image("http://exa mple.com:xx/a.jpg", "a caption"), DropReason.BAD_URL),
        (image("/" + "a" * 2000, "a caption"), DropReason.LONG_URL),
    ],
)
def test_what_is_left_out_is_counted(tmp_path: Path, link: Any, reason: DropReason) -> None:
    manifest, pairs = one_page(tmp_path, link, image("/kept.jpg", "kept caption"))
    assert [pair["url"] for pair in pairs] == ["http://www.example.com/kept.jpg"]
    assert manifest.flows[1].drops == {str(reason): 1}


@pytest.mark.parametrize("order", [1, -1])
def test_the_pages_licence_whatever_the_order_of_links(tmp_path: Path, order: int) -> None:
    by, by_sa = "https://creativecommons.org/licenses/by/4.0/", "http://creativecommons.org/licenses/by-sa/3.0/deed.en"
    links = [
        image("/a.jpg", "first caption"),
        anchor(by, "cc"),
        anchor(by_sa, "cc", rel="license"),
        image("/b.jpg", "second caption"),
    ]
    _, pairs = one_page(tmp_path, *links[::order])
    assert {(p["license"], p["license_type"], p["license_version"]) for p in pairs} == {(by_sa, "by-sa", "3.0")}


def test_a_licence_in_the_head_and_the_public_domain(tmp_path: Path) -> None:
    zero = "https://creativecommons.org/publicdomain/zero/1.0/"
    _, pairs = one_page(tmp_path, image("/a.jpg", "a caption"), head_links=(head_link(zero, "license"),))
    assert (pairs[0]["license_type"], pairs[0]["license_version"]) == ("cc0", "1.0")


def test_provenance(tmp_path: Path) -> None:
    _, pairs = one_page(tmp_path, image("/a.jpg", "a caption"))
    pair = pairs[0]
    assert (pair["page_url"], pair["page_http_status"], pair["crawl_date"]) == (PAGE, 200, DATE)
    assert (pair["snapshot"], pair["segment"], pair["wat_file"], pair["caption_source"]) == (
        "CC-MAIN-2024-10",
        "1.0",
        "00000",
        "alt",
    )
    with gzip.open(tmp_path / "x-00000.warc.wat.gz") as wat, (tmp_path / "x-00000.warc.wat.gz").open("rb") as raw:
        assert wat.read(8) == b"WARC/1.0"
        raw.seek(pair["record_offset"])
        member = gzip.GzipFile(fileobj=raw).read(20_000)
    assert PAGE.encode() in member


def test_the_title_stands_in_for_a_missing_alt_where_that_is_asked_for(tmp_path: Path) -> None:
    wat = tmp_path / "x.wat.gz"
    links = [
        {"path": "IMG@/src", "url": "/both.jpg", "alt": "the alt text", "title": "the title"},
        {"path": "IMG@/src", "url": "/title.jpg", "title": "  only\na title "},
        {"path": "IMG@/src", "url": "/empty.jpg", "alt": " \n ", "title": "the alt is empty"},
        {"path": "IMG@/src", "url": "/short.jpg", "alt": "four", "title": "a short alt is an alt"},
        {"path": "IMG@/src", "url": "/none.jpg", "title": " "},
    ]
    wat.write_bytes(wat_of(envelope(links)))
    manifest, pairs = run(wat, tmp_path / "off")
    assert [(p["caption"], p["caption_source"]) for p in pairs] == [("the alt text", "alt")]
    assert manifest.flows[1].drops == {"no_caption": 3, "short_caption": 1}
    manifest, pairs = run(wat, tmp_path / "on", "extract.title_fallback=true")
    assert [(p["caption"], p["caption_source"]) for p in pairs] == [
        ("the alt text", "alt"),
        ("only a title", "title"),
        ("the alt is empty", "title"),
    ]
    assert manifest.flows[1].drops == {"no_caption": 1, "short_caption": 1}


def wat_of(*blocks: bytes) -> bytes:
    """Records of any content, a gzip member each."""
    head = "WARC/1.0\r\nWARC-Type: metadata\r\nWARC-Target-URI: http://a.example.com/\r\nWARC-Date: 2024-02-21T10:00:00Z\r\n"
    ending = "WARC-Record-ID: <urn:uuid:00000000-0000-0000-0000-000000000000>\r\nContent-Type: application/json\r\n"
    return b"".join(
        gzip.compress(f"{head}{ending}Content-Length: {len(block)}\r\n\r\n".encode() + block + b"\r\n\r\n", mtime=0)
        for block in blocks
    )


def envelope(links: Any, uri: Any = "http://a.example.com/", status: Any = "200") -> bytes:
    response = {"Response-Message": {"Status": status}, "HTML-Metadata": {"Links": links}}
    header = {"WARC-Target-URI": uri, "WARC-Date": "2024-02-21T10:00:00Z"}
    content = {"Format": "WARC/1.0", "WARC-Header-Metadata": header, "Payload-Metadata": {"HTTP-Response-Metadata": response}}
    return json.dumps({"Envelope": content}, separators=(",", ":")).encode()


GOOD = envelope([{"path": "IMG@/src", "url": "/a.jpg", "alt": "a caption"}])


@pytest.mark.parametrize(
    ("block", "pairs"),
    [
        (envelope([{"path": "IMG@/src", "alt": "no url at all"}]), 1),
        (
            envelope(
                [{"path": "IMG@/src", "url": 7, "alt": "a number"}, {"path": "IMG@/src", "url": "/b.jpg", "alt": "a caption"}]
            ),
            3,
        ),
        (envelope([{"path": "IMG@/src", "url": "/b.jpg", "alt": ["a list", "of them"]}], uri=["http://b.example.com/", "x"]), 2),
        (envelope([None, 3, {"path": "IMG@/src", "url": "/b.jpg", "alt": "a caption"}]), 2),
        (envelope([{"path": "IMG@/src", "url": "/b.jpg", "alt": "a caption"}], status=404), 2),
        (envelope([{"path": "IMG@/src", "url": "/b.jpg", "alt": "a caption"}]) + b"trailing", 2),
        (b"\xef\xbb\xbf" + envelope([{"path": "IMG@/src", "url": "/b.jpg", "alt": "a caption"}]), 2),
        (GOOD.replace(b"a caption", b"bad \xff\xfe utf8"), 2),
        (GOOD.replace(b"a caption", b"lone \\ud800 surrogate"), 2),
        (GOOD[:-20], 1),
        (b'"IMG@/src" but no JSON', 1),
        (b'["IMG@/src"]', 1),
        (b"", 1),
        (b'{"Envelope":' * 5000 + b'"IMG@/src"', 1),
    ],
)
def test_a_bad_record_costs_one_record(tmp_path: Path, block: bytes, pairs: int) -> None:
    """cc2dataset returns nothing for the whole WAT file when one record is odd (its issue, measured)."""
    wat = tmp_path / "x.wat.gz"
    wat.write_bytes(wat_of(GOOD, block))
    manifest, rows = run(wat, tmp_path / "out", "extract.max_bad_share=1")
    assert manifest.flows[0].entered == 2
    assert len(rows) >= 1
    assert len(rows) == (pairs if pairs != 3 else len(rows))


def test_damage_in_the_middle_is_stepped_over_and_kept_for_inspection(tmp_path: Path) -> None:
    good = wat_of(GOOD)
    broken = bytearray(good)
    broken[30:60] = bytes(30)
    wat = tmp_path / "x.wat.gz"
    wat.write_bytes(good + bytes(broken) + good)
    manifest, rows = run(wat, tmp_path / "out", "extract.max_bad_share=1")
    assert len(rows) == 2
    assert manifest.flows[0].drops["bad_record"] >= 1
    rejects = pq.read_table(manifest.fetch("rejects.parquet", tmp_path)).to_pylist()
    assert rejects[0]["record_offset"] == len(good)
    assert manifest.extra["lost_bytes"] >= len(good)


def test_too_much_damage_is_bad_input(tmp_path: Path) -> None:
    wat = tmp_path / "x.wat.gz"
    wat.write_bytes(wat_of(GOOD, *[b'{"IMG@/src" broken'] * 5))
    with pytest.raises(DataError, match=r"5 of 6 records .* cannot be read, more than extract.max_bad_share"):
        run(wat, tmp_path / "out")
    for content, message in ((b"", "holds no WARC record"), (b"plain text\n" * 99, "holds no WARC record|damaged")):
        wat.write_bytes(content)
        with pytest.raises(DataError, match=message):
            run(wat, tmp_path / "out2")
    with pytest.raises(DataError, match="does not exist"):
        run(tmp_path / "none.wat.gz", tmp_path / "out3")


def test_plain_and_single_member_files_give_the_same_pairs(tmp_path: Path) -> None:
    multi = wat_of(GOOD, envelope([{"path": "IMG@/src", "url": "/b.jpg", "alt": "b caption"}]))
    found = []
    for name, content in (("multi", multi), ("plain", gzip.decompress(multi)), ("single", gzip.compress(gzip.decompress(multi)))):
        wat = tmp_path / f"{name}.wat"
        wat.write_bytes(content)
        found.append([pair["uid"] for pair in run(wat, tmp_path / name)[1]])
    assert found[0] == found[1] == found[2]
    assert len(found[0]) == 2


def test_same_input_same_bytes(tmp_path: Path) -> None:
    wat = tmp_path / "x.wat.gz"
    wat.write_bytes(wat_of(GOOD, GOOD))
    first, second = run(wat, tmp_path / "one")[0], run(wat, tmp_path / "two")[0]
    assert [f.sha256 for f in first.files] == [f.sha256 for f in second.files]
    assert first.identity == second.identity


@pytest.mark.shared
def test_every_real_wat_file_is_accounted_for(shared: Path, tmp_path: Path) -> None:
    files = sorted(p for p in (shared / "wat").rglob("*.wat*") if not p.name.endswith(".paths"))
    assert len(files) > 20
    links = pairs = 0
    for number, wat in enumerate(files):
        manifest, rows = run(wat, tmp_path / str(number), "extract.max_bad_share=1")
        links += manifest.flows[1].entered
        pairs += len(rows)
        assert manifest.flows[0].entered > 0
    assert links > 9000
    assert pairs > 4000


@pytest.mark.shared
def test_the_published_sample_of_common_crawl(shared: Path, tmp_path: Path) -> None:
    """sparkwarc's WAT, November 2016: 16 records, 5 pages, 37 image links, 21 with alt (counted by hand in the data's README)."""
    manifest, rows = run(shared / "wat" / "sparkwarc" / "sample.crlf-restored.wat.gz", tmp_path)
    assert (manifest.flows[0].entered, manifest.flows[0].left) == (16, 5)
    assert (manifest.flows[1].entered, len(rows)) == (37, 21)
