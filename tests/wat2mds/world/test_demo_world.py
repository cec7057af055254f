"""The demo world: its truth reconciles, it holds what a real crawl holds, it is drawn quickly and always the same."""

from __future__ import annotations

import gzip
import http.client
import io
import json
import re
import struct
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest
import tldextract
from fastwarc.warc import ArchiveIterator
from PIL import Image

from wat2mds.derived.contact_sheet import MOST, contact_sheet, wrapped
from wat2mds.drops import DropReason
from wat2mds.identity import UID_PATTERN, normalize_url
from wat2mds.world.demo_world import NEWER, OLDER, World, draw_world, open_world
from wat2mds.world.expected import Expected, compare
from wat2mds.world.layout import WatLayout
from wat2mds.world.origin import AnswerTable

# Reasons that the world leaves out: they need the real web, take long, or are no part of the demo profile.
NOT_IN_THE_DEMO = {
    "no_url", "dns", "dns_unanswered", "connect", "tls", "timeout", "http_429", "http_4xx", "http_error", "robots_unavailable",
    "too_large", "too_small_side", "aspect",
    "animated", "decode_memory", "decode_timeout", "decode_crash", "blocked", "placeholder", "unsafe_word", "host_resting", "toxic",
    "underage", "animal", "low_aesthetic", "language", "few_words", "few_characters", "small_original", "narrow_original",
    "near_duplicate", "taken_down", "taken_down_image", "withdrawn",
}  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return draw_world(tmp_path_factory.mktemp("world"))


def wat_files(world: World, snapshot: str) -> list[Path]:
    listing = gzip.decompress((world.crawl / "crawl-data" / snapshot / "wat.paths.gz").read_bytes()).decode().split()
    return [world.crawl / line for line in listing]


def pages(path: Path) -> Iterator[dict[str, Any]]:
    """Page URL, base and links of each HTML page that can be read."""
    for record in ArchiveIterator(str(path), parse_http=False):
        body = record.reader.read()
        if b'"HTML-Metadata"' not in body:
            continue
        try:
            found = json.loads(body)["Envelope"]["Payload-Metadata"]["HTTP-Response-Metadata"]["HTML-Metadata"]
        except ValueError:
            continue
        url = record.headers["WARC-Target-URI"]
        yield {"url": url, "base": urljoin(url, found["Head"].get("Base", "")), "links": found.get("Links", [])}


def test_the_truth_reconciles(world: World) -> None:
    wats = world.expected.wat_files
    assert [(wat.snapshot, wat.wat_file) for wat in wats] == [(s, f"0000{n}") for s in (NEWER, OLDER) for n in range(3)]
    assert [problem for wat in wats for problem in wat.problems()] == []
    total = world.expected.counts()
    assert total["records"] == 6 * 2 + 3 * 60
    assert 150 <= total["links"] <= 300
    assert 100 <= total["kept"] <= 140
    assert len(world.expected.uids()) == total["kept"], "no uid is published by two WAT files"


def test_the_truth_counts_what_is_written(world: World) -> None:
    for snapshot in (NEWER, OLDER):
        for path, expected in zip(wat_files(world, snapshot), world.expected.of(snapshot).values(), strict=True):
            records = sum(1 for _ in ArchiveIterator(str(path), parse_http=False))
            with_images = [p for p in pages(path) if any(link["path"] == "IMG@/src" for link in p["links"])]
            links = sum(link["path"] == "IMG@/src" for page in with_images for link in page["links"])
            found = {"records": records, "pages": len(with_images), "links": links}
            assert found == {name: expected.counts[name] for name in found}


def test_every_other_drop_reason_is_there(world: World) -> None:
    # The demo crawls; it imports no list.
    known = {str(reason) for reason in DropReason if reason.stage != "import"} - NOT_IN_THE_DEMO
    assert set(world.expected.drops()) == known
    for snapshot in (NEWER, OLDER):
        assert world.expected.drops(snapshot)["bad_record"] == 1
    assert "duplicate_in_dataset" not in world.expected.drops(NEWER), "the newer snapshot is built first"


def test_relative_links_mean_the_url_that_was_declared(world: World) -> None:
    """Every published pair is the resolution of some link of its WAT file, by the rules of RFC 3986 alone."""
    from wat2mds.identity import uid

    for snapshot in (NEWER, OLDER):
        for path, expected in zip(wat_files(world, snapshot), world.expected.of(snapshot).values(), strict=True):
            found = set()
            for page in pages(path):
                for link in page["links"]:
                    if link["path"] == "IMG@/src" and link.get("alt"):
                        try:
                            url = normalize_url(urljoin(page["base"], link["url"].replace("&amp;", "&")))
                        except ValueError:
                            continue
                        found.add(uid(url, " ".join(link["alt"].replace("&amp;", "&").split())))
            assert expected.uids <= found


def test_it_holds_what_real_pages_hold(world: World) -> None:
    every = [page for s in (NEWER, OLDER) for path in wat_files(world, s) for page in pages(path)]
    links = [link for page in every for link in page["links"]]
    images = [link for link in links if link["path"] == "IMG@/src"]
    assert len({page["url"].split("/")[2] for page in every}) >= 12
    assert any(page["base"] != page["url"] for page in every)
    assert sum(not link["url"].startswith("http") for link in images) > 40
    assert any(link["url"].startswith("//") for link in images)
    assert any(link.get("rel") == "license" for link in links)
    assert any("alt" not in link for link in images)
    alphabets = {name for link in images for c in link.get("alt", "") for name, first, last in ALPHABETS if first <= c <= last}
    assert alphabets == {"cyrillic", "kana", "han", "latin-1"}


ALPHABETS = (("latin-1", "À", "ÿ"), ("cyrillic", "А", "я"), ("kana", "ぁ", "ん"), ("han", "一", "龥"))


def test_all_hosts_are_reserved_names_below_a_public_suffix(world: World) -> None:
    extract = tldextract.TLDExtract(suffix_list_urls=())
    for key in json.loads((world.web / "answers.json").read_text(encoding="utf-8")):
        found = extract(key.partition("/")[0])
        assert found.domain == "example", key
        assert found.suffix in {"com", "net", "org", "edu"}, key


def test_its_web_answers_as_its_pages_expect(world: World) -> None:
    table = AnswerTable.load(world.web)
    with world.origin() as origin:
        connection = http.client.HTTPConnection("127.0.0.1", origin.port, timeout=10)
        for key in json.loads((world.web / "answers.json").read_text(encoding="utf-8")):
            host, _, rest = key.partition("/")
            connection.request("GET", f"/{rest}", headers={"Host": host})
            answer = connection.getresponse()
            body = answer.read()
            stored = table(host, f"/{rest}")
            assert stored is not None
            assert answer.status == stored.status
            assert (answer.getheader("Location") is not None) == (stored.status in (301, 302))
            if answer.getheader("Content-Type") == "image/jpeg" and stored.status == 200 and len(body) >= 5000:
                assert body[:2] == b"\xff\xd8" or body[:4] in (b"\x89PNG", b"<!DO"), key
        connection.request("GET", f"/crawl-data/{NEWER}/wat.paths.gz", headers={"Host": origin.address})
        assert gzip.decompress(connection.getresponse().read()).count(b"\n") == 3
        connection.close()


def test_bad_images_are_bad_for_both_decoders(world: World) -> None:
    """Pillow and OpenCV, which differ in what they forgive."""
    import cv2
    import numpy as np

    table = AnswerTable.load(world.web)
    for name in ("scan.png", "photo.jpg"):
        answer = table("old.museum.example.edu", f"/18b/{name}")
        assert answer is not None
        assert isinstance(answer.body, Path)
        data = answer.body.read_bytes()
        assert len(data) > 5000
        with Image.open(io.BytesIO(data)) as image:
            assert min(image.size) > 100, "type and size are read from the header"
            with pytest.raises((OSError, SyntaxError)):
                image.load()
        assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) is None
    huge = table("old.museum.example.edu", "/18b/poster.png")
    assert huge is not None
    assert isinstance(huge.body, Path)
    assert 5000 < huge.body.stat().st_size < 100_000
    width, height = struct.unpack(">II", huge.body.read_bytes()[16:24])  # of the IHDR chunk; Pillow would warn of a bomb
    assert width * height > 89_478_484


def test_published_images_are_large_enough(world: World) -> None:
    sizes = {}
    for key, entry in json.loads((world.web / "answers.json").read_text(encoding="utf-8")).items():
        headers = dict(entry["headers"])
        if entry["status"] == 200 and headers.get("Content-Type", "").startswith("image/"):
            sizes[key] = (world.web / entry["file"]).stat().st_size
    small = {key for key, size in sizes.items() if size < 6000 and not key.endswith(("/icon.jpg", "/nothing.jpg"))}
    assert small == set()


def test_the_same_seed_gives_the_same_bytes_quickly_and_once(world: World, tmp_path: Path) -> None:
    started = time.process_time()
    again = draw_world(tmp_path / "again")
    assert time.process_time() - started < 15
    files = {p.relative_to(world.folder): p.read_bytes() for p in world.folder.rglob("*") if p.is_file()}
    assert {p.relative_to(again.folder): p.read_bytes() for p in again.folder.rglob("*") if p.is_file()} == files
    changed = [p.stat().st_mtime_ns for p in sorted(again.folder.rglob("*"))]
    assert draw_world(again.folder).expected == world.expected == open_world(again.folder).expected
    assert [p.stat().st_mtime_ns for p in sorted(again.folder.rglob("*"))] == changed


def test_another_seed_is_another_world_of_the_same_counts(world: World, tmp_path: Path) -> None:
    other = draw_world(tmp_path, seed=7).expected
    assert other.counts() == world.expected.counts()
    assert other.drops() == world.expected.drops()
    assert not other.uids() & world.expected.uids()


def test_a_fate_that_contradicts_the_layout_is_refused() -> None:
    first, second = (WatLayout(NEWER, "1.1", number, datetime(2024, 1, 1, tzinfo=UTC)) for number in range(2))
    second.earlier = (first,)
    page = first.page("https://a.example.com/", "A")
    page.image("/x.jpg", "a caption", url="https://a.example.com/x.jpg")
    with pytest.raises(ValueError, match="otherwise"):
        page.image("https://A.example.com/x.jpg#top", "a caption")
    with pytest.raises(ValueError, match="otherwise"):
        second.page("https://b.example.com/", "B").image("https://a.example.com/x.jpg", "a caption", DropReason.DUPLICATE_IN_WAT)
    with pytest.raises(ValueError, match="otherwise"):
        page.image("https://a.example.com/y.jpg", "a caption", DropReason.DUPLICATE_IN_DATASET)
    second.page("https://b.example.com/", "B").image("https://a.example.com/x.jpg", "a caption", DropReason.DUPLICATE_IN_BATCH)


def result(expected: Expected, snapshot: str) -> tuple[dict[str, Any], set[str]]:
    """What a perfect run would report."""
    wats = expected.of(snapshot)
    return {name: json.loads(json.dumps(wat.drops)) for name, wat in wats.items()}, expected.uids(snapshot)


def test_comparison_finds_nothing_in_a_perfect_run_and_names_each_difference(world: World) -> None:
    expected = world.expected.of(OLDER)
    drops, uids = result(world.expected, OLDER)
    counts = {name: wat.counts for name, wat in expected.items()}
    assert compare(expected, drops, uids, counts) == []
    assert all(re.fullmatch(UID_PATTERN, uid) for uid in uids)

    lost = sorted(uids)[0]
    assert compare(expected, drops, uids - {lost})[0].startswith(f"uid {lost} of WAT file 0000")
    assert compare(expected, drops, uids | {"f" * 32}) == [f"uid {'f' * 32} is published and must not be"]
    assert compare(expected, drops, [*uids, lost]) == ["1 uids are published more than once"]

    drops["00001"]["download"]["robots"] = 2
    drops["00001"]["filter"] = {}
    found = compare(expected, drops, uids)
    assert "00001 download: 2 dropped as robots, expected 1" in found
    assert "00001 filter: 0 dropped as unsafe, expected 2" in found
    assert compare(expected, {}, uids)[0] == "WAT file 00000 was not built"
    drops, uids = result(world.expected, OLDER)
    drops["00000"]["convert"] = {"decode": 1}
    assert compare(expected, drops, uids) == ["00000 convert: 1 dropped as decode, expected 0"]
    assert compare(expected, drops | {"00007": {}}, uids)[-1] == "WAT file 00007 is not in the world"
    counts["00002"] = counts["00002"] | {"links": 1}
    assert any(line.startswith("00002: 1 links, expected") for line in compare(expected, drops, uids, counts))


def test_a_contact_sheet_shows_images_with_wrapped_captions(world: World) -> None:
    table = AnswerTable.load(world.web)
    answer = table("www.shop.example.com", "/media/18a/front.jpg")
    assert answer is not None
    assert isinstance(answer.body, Path)
    jpeg = answer.body.read_bytes()
    samples = [(jpeg, f"a caption of picture {number} that needs more than one line", 0.5) for number in range(30)]
    png = contact_sheet(samples, "demo")
    assert png == contact_sheet(samples, "demo")
    with Image.open(io.BytesIO(png)) as sheet:
        assert sheet.format == "PNG"
        assert sheet.width > sheet.height > 800
    with Image.open(io.BytesIO(contact_sheet(samples[:2]))) as small:
        assert small.height < 400
    assert MOST == 24
    with pytest.raises(ValueError, match="no sample"):
        contact_sheet([])


def test_captions_wrap_between_words_and_end_in_an_ellipsis() -> None:
    from PIL import ImageFont

    font = ImageFont.load_default(14)
    lines = wrapped("one two three four five six seven eight nine ten", font, 80, 3)
    assert len(lines) == 3
    assert lines[0].startswith("one two")
    assert lines[-1].endswith("…")
    assert all(font.getlength(line) <= 80 for line in lines)
    assert wrapped("x" * 100, font, 80, 9)[0] == "x" * len(wrapped("x" * 100, font, 80, 9)[0])
    assert wrapped("short", font, 80, 3) == ["short"]
    assert wrapped("", font, 80, 3) == []


def test_an_enlarged_world_reconciles_and_leaves_the_rest_as_it_is(world, tmp_path):
    larger = draw_world(tmp_path, images=50, wrong_share=0.6)
    assert [problem for wat in larger.expected.wat_files for problem in wat.problems()] == []
    before, after = world.expected.of(NEWER)["00000"], larger.expected.of(NEWER)["00000"]
    assert len(after.uids - before.uids) == 20
    assert after.drops["filter"]["low_similarity"] - before.drops["filter"]["low_similarity"] == 30
    assert before.uids < after.uids
    assert larger.expected.of(NEWER)["00001"] == world.expected.of(NEWER)["00001"]
