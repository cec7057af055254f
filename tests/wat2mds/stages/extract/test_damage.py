"""Whatever a WAT file holds: records in = records out + rejects by reason, no exception but DataError, no hang, no silence."""

from __future__ import annotations

import gzip
import io
import json
import random
import re
import shutil
import signal
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import ftfy
import pyarrow.parquet as pq
import pytest
from ftfy.badness import MOJIBAKE_CATEGORIES
from hypothesis import given, settings
from hypothesis import strategies as st

from wat2mds.errors import DataError
from wat2mds.pairs.captions import _FIX, _SIMPLE, clean_caption, clean_captions, mend
from wat2mds.pairs.rules import admit, admit_all
from wat2mds.pairs.urls import Base, join_all, resolve, resolve_all
from wat2mds.settings import load_settings
from wat2mds.stages import extract
from wat2mds.stages.extract import pages, records
from wat2mds.stages.extract.pages import _cut_page, _strict, read_page
from wat2mds.stages.extract.records import Damage, Record, read_records

HEAD = "WARC/1.0\r\nWARC-Type: metadata\r\nWARC-Target-URI: http://a.example.com/\r\nWARC-Date: 2024-02-21T10:00:00Z\r\n"
ALL = load_settings("laion400m", ["extract.max_bad_share=1"], environment={})


def record(block: bytes, length: int | None = None, newline: bytes = b"\r\n") -> bytes:
    head = f"{HEAD}Content-Length: {len(block) if length is None else length}\r\n\r\n".encode().replace(b"\r\n", newline)
    return head + block + newline * 2


def page(number: int) -> bytes:
    links = [{"path": "IMG@/src", "url": f"/{number}.jpg", "alt": f"caption {number}"}]
    response = {"Response-Message": {"Status": "200"}, "HTML-Metadata": {"Links": links}}
    header = {"WARC-Target-URI": "http://a.example.com/", "WARC-Date": "2024-02-21T10:00:00Z"}
    content = {"Payload-Metadata": {"HTTP-Response-Metadata": response}, "WARC-Header-Metadata": header}
    return json.dumps({"Envelope": content}, separators=(",", ":")).encode()


def read(content: bytes, **options: Any) -> list[Record | Damage]:
    return list(read_records(io.BytesIO(content), len(content), **options))


def blocks(found: list[Record | Damage]) -> list[bytes]:
    return [r.data.strip() for r in found if isinstance(r, Record)]


@contextmanager
def no_hang(what: str) -> Iterator[None]:
    """What takes a fraction of a second is not waited for for more than a minute."""

    def hangs(*_: object) -> None:
        raise AssertionError(f"{what} hangs")

    before = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(60)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def account(content: bytes, folder: Path) -> int:
    """Records entered, or 0 where the file was refused with a reason. What the manifest counts is what the tables hold."""
    wat = folder / "x.wat.gz"
    wat.write_bytes(content)
    try:
        manifest = extract.run(str(wat), str(folder / "out"), ALL, snapshot="CC-MAIN-2024-10", segment="1.0", wat_file="00000")
    except DataError as error:
        if not re.search("holds no WARC record|is damaged: ", str(error)):
            raise
        return 0
    assert all(flow.reconciles for flow in manifest.flows)
    records, links = manifest.flows
    assert records.entered > 0
    assert records.left or records.drops
    rows = {name: pq.read_metadata(manifest.fetch(f"{name}.parquet", folder)).num_rows for name in ("pairs", "rejects")}
    assert rows == {"pairs": links.left, "rejects": records.drops.get("bad_record", 0)}
    return records.entered


@pytest.mark.parametrize("wrap", [bytes, gzip.compress], ids=["plain", "one member"])
@pytest.mark.parametrize("newline", [b"\r\n", b"\n"], ids=["crlf", "lf"])
@pytest.mark.parametrize("lie", [-50, 30, 2**31, 10**17, 0])
def test_lengths_that_lie_cost_nothing(wrap: Any, newline: bytes, lie: int) -> None:
    pages = [page(n) for n in range(5)]
    lengths = [None, None, len(pages[2]) + lie if lie else 0, None, None]
    content = wrap(b"".join(record(p, n, newline) for p, n in zip(pages, lengths, strict=True)))
    found = read(content)
    assert blocks(found) == pages
    assert [r.exact for r in found if isinstance(r, Record)] == [True, True, False, True, True]


def test_lengths_that_lie_in_members_of_their_own() -> None:
    pages = [page(n) for n in range(6)]
    lengths = [None, 10, None, 2**31, None, 10**6]
    content = b"".join(gzip.compress(record(p, n)) for p, n in zip(pages, lengths, strict=True))
    assert blocks(read(content)) == pages


def test_a_record_may_span_gzip_members() -> None:
    whole = b"".join(record(page(n)) for n in range(20))
    content = b"".join(gzip.compress(whole[i : i + 700]) for i in range(0, len(whole), 700))
    assert blocks(read(content)) == [page(n) for n in range(20)]


def test_a_record_that_never_ends_is_left_out_in_bounded_memory() -> None:
    endless = record(b'{"x":"' + b"a" * (64 << 20) + b'"}', 10**15)
    content = gzip.compress(record(page(1)) + endless + record(page(2)), 1)
    del endless
    tracemalloc.start()
    found = read(content, max_bytes=1 << 20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert blocks(found) == [page(1), page(2)]
    assert sum(isinstance(r, Damage) for r in found) == 1
    assert peak < 32 << 20


def test_a_truncated_file_keeps_what_is_before_and_states_the_loss() -> None:
    members = [gzip.compress(record(page(n))) for n in range(10)]
    content = b"".join(members)[:-20]
    *kept, damage = read(content)
    assert blocks(kept) == [page(n) for n in range(9)]
    assert isinstance(damage, Damage)
    assert damage.truncated
    assert (damage.offset, damage.size) == (len(content) - len(members[-1]) + 20, len(members[-1]) - 20)
    one = gzip.compress(b"".join(record(random.Random(n).randbytes(2000).hex().encode()) for n in range(200)))
    *kept, damage = read(one[: len(one) // 2])
    assert len(kept) > 80
    assert isinstance(damage, Damage)
    assert damage.truncated


def test_damaged_members_in_a_row_are_one_loss_and_the_next_is_read() -> None:
    members = [bytearray(gzip.compress(record(page(n)))) for n in range(6)]
    for n in (2, 3):
        members[n][20:60] = bytes(40)
    found = read(b"".join(members))
    assert blocks(found) == [page(n) for n in (0, 1, 4, 5)]
    damage = [r for r in found if isinstance(r, Damage)]
    assert [(d.offset, d.size) for d in damage] == [(len(members[0] + members[1]), len(members[2] + members[3]))]


KINDS = ("flip", "cut", "splice", "members", "json", "zero", "length")


def members_of(content: bytes) -> list[int]:
    """Where a file's gzip members, or a plain file's records, begin."""
    return [found.start() for found in re.finditer(rb"\x1f\x8b\x08|^WARC/1", content, re.MULTILINE)] or [0]


def mutate(content: bytes, other: bytes, kind: str, rng: random.Random) -> bytes:
    data = bytearray(content)
    at = rng.randrange(len(data))
    if kind == "flip":
        for _ in range(rng.randint(1, 20)):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == "cut":
        del data[at : at + rng.choice([1, 100, len(data)])]
    elif kind == "splice":
        begin = rng.randrange(len(other))
        data[at:at] = other[begin : begin + rng.randint(1, 20_000)]
    elif kind == "members":
        # Whole members of another file, between two of this one or in the middle of one; gzip in a plain file too.
        begins = members_of(other)
        first = rng.randrange(len(begins))
        spliced = other[begins[first] : (*begins, len(other))[min(first + rng.randint(1, 3), len(begins))]]
        at = rng.choice(members_of(content)) if rng.random() < 0.7 else at
        data[at:at] = spliced
    elif kind == "zero":
        data[at : at + 500] = bytes(min(500, len(data) - at))
    elif kind == "length":
        lie = rng.choice([0, 1, 2**31, 10**17])
        data += gzip.compress(record(page(1), lie)) + gzip.compress(record(page(2)))
    else:
        at = rng.choice(members_of(content))
        data[at:at] = gzip.compress(record(hostile_json(rng)))
    return bytes(data)


def hostile_json(rng: random.Random) -> bytes:
    deep, image = b'{"Envelope":' * rng.randint(1, 20_000), b'{"path":"IMG@/src","url":%b,"alt":%b}'
    values = [
        *(b"7", b"null", b"[]", b'"\\ud800"', b'"}{"', b'"\xff"', b'{"a":1}', b"", b'"http://[::1"', b"1e999", b"9" * 5000),
        *(b'"\\u0000"', b'"' + b"\\\\" * 999 + b'"', b'"a\nb"', b"NaN", b"[" * 3000, b'{"url":"x","url":"y"}', b'"\xed\xa0\x80"'),
    ]
    hostile = image % (rng.choice(values), rng.choice(values))
    links = page(1).replace(b"[{", b"[" + hostile + b",{")
    many = b'{"HTML-Metadata":' + rng.choice([b'"IMG@/src"}', b'{"IMG@/src"', b'"IMG@/src"']) * 20_000 + b"}"
    return rng.choice(
        [deep + hostile, links, links[: rng.randrange(len(links))], hostile, b"[" + hostile + b"]", links * 2, many]
    )


@pytest.mark.shared
def test_two_hundred_mutations_are_accounted_for(shared: Path, tmp_path: Path) -> None:
    """Every WAT takes its turn, and every kind of damage; seven kinds and 26 files give each pair of them once in 182."""
    files = [path.read_bytes() for path in sorted((shared / "wat").rglob("*")) if path.name.endswith((".wat", ".wat.gz"))]
    assert len(files) == 26
    rng = random.Random(20240221)
    taken = 0
    for number in range(200):
        folder = tmp_path / str(number)
        folder.mkdir()
        kind = KINDS[number % len(KINDS)]
        with no_hang(f"mutation {number}, {kind}"):
            taken += account(mutate(files[number % len(files)], rng.choice(files), kind, rng), folder) > 0
        shutil.rmtree(folder)
    assert taken > 150


@pytest.mark.shared
def test_every_record_of_every_real_wat_is_counted(shared: Path, tmp_path: Path) -> None:
    """By an independent count: first lines of records in the inflated bytes."""
    for path in sorted((shared / "wat").rglob("*")):
        if path.name.endswith((".wat", ".wat.gz")):
            content = path.read_bytes()
            inflated = gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content
            with no_hang(path.name):
                entered = account(content, tmp_path)
            assert entered == len(re.findall(rb"^WARC/1\.0\r?$", inflated, re.MULTILINE)), path.name
            shutil.rmtree(tmp_path / "out")


@pytest.mark.parametrize("wrap", [bytes, gzip.compress], ids=["plain", "one member"])
@pytest.mark.parametrize(
    "block",
    [
        b"WARC/1.0\r\n",
        b"WARC/1.0\r\nContent-Length: 99999999\r\n\r\n",
        b"WARC/1.0\r\n\r\n",
        b"\x1f\x8b\x08",
        b"\n",
        b"\0",
        b"WARC/",
    ],
    ids=["first lines", "heads that lie", "heads", "magic numbers", "line ends", "zeros", "half lines"],
)
def test_what_repeats_is_read_once(wrap: Any, block: bytes) -> None:
    """A megabyte of it: what looks at the same bytes again for each would take minutes. Less of magic numbers: each may begin a member,
    and is tried."""
    content = wrap(block * ((300_000 if block.startswith(b"\x1f") else 1_000_000) // len(block)) + b"\n\n" + record(page(1)))
    with no_hang(repr(block)):
        found = read(content)
    if content.startswith(b"\x1f\x8b\x08\x1f"):  # a gzip file of members that are none
        assert [type(entry) for entry in found] == [Damage]
    else:
        assert blocks(found)[-1] == page(1)


_text = st.text(max_size=20)
_json = st.recursive(
    st.none() | st.booleans() | st.floats() | _text, lambda c: st.lists(c, max_size=3) | st.dictionaries(_text, c)
)
_link = st.fixed_dictionaries(
    {}, optional={"path": st.just("IMG@/src") | _json, "url": _text | _json, "alt": _text | _json, "title": _json}
)


def _document(links: Any, uri: Any, base: Any) -> bytes:
    html = {"Head": {"Base": base} if base else {}, "Links": links}
    content = {
        "Payload-Metadata": {"HTTP-Response-Metadata": {"HTML-Metadata": html}},
        "WARC-Header-Metadata": {"WARC-Target-URI": uri},
    }
    return json.dumps({"Envelope": content}, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")


_block = st.binary(max_size=200) | st.builds(_document, st.lists(_link | _json, max_size=5), _text | _json, st.none() | _text)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(_block, st.none() | st.integers(0, 10**6)), min_size=1, max_size=6),
    st.sampled_from(["many", "one", "plain"]),
)
def test_generated_records_are_accounted_for(tmp_path_factory: pytest.TempPathFactory, parts: list[Any], form: str) -> None:
    records = [record(block, length) for block, length in parts]
    if form == "many":
        content = b"".join(map(gzip.compress, records))
    else:
        content = b"".join(records) if form == "plain" else gzip.compress(b"".join(records))
    with no_hang(repr(content)):
        entered = account(content, tmp_path_factory.mktemp("generated"))
    if all(length is None for _, length in parts) and entered:
        assert entered == len(parts)


_records = st.lists(st.builds(record, st.integers(0, 9).map(page), st.sampled_from([None, 3, 10**6])), max_size=3)
_member = _records.map(b"".join).map(gzip.compress)
_piece = (
    _member
    | st.binary(max_size=20)
    | st.sampled_from([b"\x1f\x8b\x08", gzip.compress(record(page(1))[:200]), gzip.compress(record(page(1))[200:])])
    | st.builds(lambda member, size: member + member[-size:], _member, st.integers(1, 20))
    | st.builds(lambda member, size: member[:-size], _member, st.integers(1, 20))
)


@settings(max_examples=300, deadline=None)
@given(_member, st.lists(_piece, max_size=6), st.lists(st.tuples(st.integers(3), st.integers(0, 7)), max_size=2))
def test_members_are_at_once_what_they_are_in_pieces(first: bytes, pieces: list[bytes], flips: list[tuple[int, int]]) -> None:
    content = bytearray(b"".join([first, *pieces]))
    for at, bit in flips:
        content[max(3, at % len(content))] ^= 1 << bit
    at_once = read(bytes(content))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "_MAX_INFLATED", -1)
        assert at_once == read(bytes(content))


@settings(max_examples=200, deadline=None)
@given(st.lists(_link, max_size=6), _text)
def test_the_short_way_and_the_long_way_read_the_same_page(links: list[Any], uri: str) -> None:
    data = _document(links, uri, None)
    try:
        _strict.decode(data)
        short = _cut_page(data, 0, len(data))
    except (ValueError, UnicodeDecodeError):
        return
    if short is not None:
        images = [x for x in links if x.get("path") == "IMG@/src"]
        assert [(x.url, x.alt, x.title) for x in short.images] == [(x.get("url"), x.get("alt"), x.get("title")) for x in images]
        assert short.url == uri
        assert (read_page(data, 0, len(data)) is None) == (not images)


_cc = st.builds(
    "{}creativecommons.org/{}".format, st.sampled_from(["http://", "//i.", ""]), st.sampled_from(["licenses/by/4.0/", '"}{'])
)
_naming = st.fixed_dictionaries(
    {"path": st.sampled_from(["A@/href", "LINK@/href", "IMG@/src", "SCRIPT@/src", "A@/ping"])},
    optional={
        "url": _cc | _text,
        "rel": st.sampled_from(["license", "x"]),
        "text": _cc | _text,
        "x": st.just({"y": "creativecommons.org"}),
    },
).map(lambda link: {"path": link["path"], **link})  # as Common Crawl writes it
_meta = st.fixed_dictionaries({"name": _text, "content": _cc | _text})


@settings(max_examples=300, deadline=None)
@given(st.lists(_naming, max_size=5), st.lists(_naming, max_size=2), st.lists(_meta, max_size=2), st.booleans())
def test_either_way_finds_the_same_licences(links: list[Any], heads: list[Any], metas: list[Any], head_first: bool) -> None:
    head, image = {"Link": heads, "Metas": metas}, {"path": "IMG@/src", "url": "/a.jpg"}
    html = {"Head": head, "Links": [*links, image]} if head_first else {"Links": [*links, image], "Head": head}
    content = {"Payload-Metadata": {"HTTP-Response-Metadata": {"HTML-Metadata": html}}}
    data = json.dumps({"Envelope": content}, separators=(",", ":"), ensure_ascii=False).encode()
    short = _cut_page(data, 0, len(data))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pages, "_cut_page", lambda *_: None)
        long = read_page(data, 0, len(data))
    assert long is not None
    if short is not None:
        assert set(short.license_links) == set(long.license_links)
    plain = [x for x in [*links, *heads] if set(x) <= {"path", "url", "rel"} and "}" not in x.get("url", "")]
    if len(plain) == len(links) + len(heads) and not any("creative" in x["content"] for x in metas):
        assert short is not None or any(x["path"] not in ("A@/href", "LINK@/href", "IMG@/src") for x in plain)


_PARTS = [
    "/",
    "//",
    ".",
    "..",
    "../",
    "./",
    "a",
    "b.jpg",
    "?",
    "?x=1",
    "#",
    ";",
    "%20",
    ":",
    "http:",
    "é",
    "@",
    "[",
    "h.com",
    "=",
    " ",
    "data:",
    "\t",
    "\u2003",
]
_urls = st.lists(st.sampled_from(_PARTS), max_size=7).map("".join)
_bases = st.sampled_from(
    [
        "http://h.com/a/b/c?q#f",
        "http://h.com",
        "HTTP://h.com/a",
        "http://h.com?x/y",
        "http://h.com//a//b/",
        "http://h.com/a/./b;p/c",
        "http://h.com/a b/c d?e f",
    ]
)


@settings(max_examples=500, deadline=None)
@given(_bases, _urls)
def test_joining_is_urljoin(page_url: str, url: str) -> None:
    try:
        expected = urljoin(page_url, url)
    except ValueError:
        expected = url
    assert Base(page_url, None).join(url) == expected


_found = st.lists(st.tuples(_urls | st.builds("http://h.com/{}".format, _urls), _bases), max_size=8)


@settings(max_examples=300, deadline=None)
@given(_found)
def test_many_urls_are_resolved_as_each_is(found: list[tuple[str, str]]) -> None:
    urls, bases = [url for url, _ in found], [Base(base, None) for _, base in found]
    assert resolve_all(urls, bases) == [resolve(url, base) for url, base in zip(urls, bases, strict=True)]
    absolute = ("http://", "https://")
    joined = [url if url.startswith(absolute) else base.join(url) for url, base in zip(urls, bases, strict=True)]
    assert join_all(urls, bases) == joined


_HOSTS = ["h.com", "H.com", "h.com.", "h", "1.2.3.4", "a.b.co.uk", "h.com:80", ".com", "-", "é.de"]
_ENDS = [
    "a.svg",
    "a.SVG?x",
    "%2e",
    "%2F",
    "%c3",
    "%7E",
    "%5B",
    "?",
    "??",
    "[",
    "|",
    "&amp;",
    "&",
    "a" * 40,
    " ",
    "#f",
    "\\",
    "%",
    "%zz",
]
_web = st.builds("{}://{}/{}".format, st.sampled_from(["http", "https", "ftp", "HTTP"]), st.sampled_from(_HOSTS), _urls)
_odd = st.builds("{}{}".format, _web, st.lists(st.sampled_from(_ENDS), max_size=5).map("".join))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.none() | _odd | _urls, _bases, st.sampled_from(["", "four", "fives", "long" * 9])), max_size=8))
def test_many_are_admitted_as_each_is(found: list[tuple[str | None, str, str]]) -> None:
    rules = ALL.extract.model_copy(update={"max_caption_chars": 20, "max_url_chars": 60})
    rows = [(url, Base(base, None), caption) for url, base, caption in found]
    expected = [admit(url, base, caption, rules) for url, base, caption in rows]
    columns = [list(column) for column in zip(*rows, strict=True)] or [[], [], []]
    assert admit_all(columns[0], columns[1], columns[2], rules) == expected


# What ftfy takes for mojibake, what it changes by itself, and what stands between.
_ftfys = st.text(
    st.sampled_from([*"".join(MOJIBAKE_CATEGORIES.values()), *map(chr, _SIMPLE), *"aZ .,?!\n\r\té日の\u0301\ufffd\x97ŒÃÂ&;"])
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text() | _ftfys | st.sampled_from(["two words", "a  b", " a", "a&amp;b", "a\n"]), max_size=6))
def test_many_captions_are_cleaned_as_each_is(texts: list[str]) -> None:
    assert clean_captions(texts) == [clean_caption(text) for text in texts]


@settings(max_examples=1000, deadline=None)
@given(st.text() | _ftfys)
def test_mending_is_ftfy(text: str) -> None:
    if not text.isascii():
        assert mend(text) == ftfy.fix_text(text, _FIX)
