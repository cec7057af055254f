"""Compatibility mode beside cc2dataset's algorithm as documented, run here on other libraries: fastwarc, json, urllib.

What is compared with is a restatement of what cc2dataset 1.5.0 does, not cc2dataset: that it gives the same on the same files is shown
by ``make bench``, which installs the package in an environment of its own. One difference is meant: a link without ``url`` makes
cc2dataset lose the whole file, here it is left out.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pyarrow.parquet as pq
import pytest
from fastwarc import ArchiveIterator
from fastwarc.warc import WarcRecordType

from wat2mds.settings import load_settings
from wat2mds.stages import extract

COMPATIBLE = load_settings("laion400m", ["extract.compatibility=cc2dataset", "extract.max_bad_share=1"], environment={})
WEB = ("http://", "https://")


def restated(wat: Path) -> Counter[tuple[str, str]]:
    """Of each metadata record the IMG@/src links whose alt is not empty; URLs that are not absolute joined to the page's, or to its base
    joined to that; what is not http(s) then is left out, and so is a record that is not JSON."""
    found: Counter[tuple[str, str]] = Counter()
    for record in ArchiveIterator(io.BytesIO(wat.read_bytes()), record_types=WarcRecordType.metadata, parse_http=False):
        try:
            envelope = json.loads(record.reader.read())["Envelope"]
            html = envelope["Payload-Metadata"]["HTTP-Response-Metadata"]["HTML-Metadata"]
        except (ValueError, KeyError):
            continue
        page = envelope["WARC-Header-Metadata"].get("WARC-Target-URI", "")
        base = urljoin(page, html.get("Head", {}).get("Base", ""))
        found.update(pair for pair in (pair_of(link, base) for link in html.get("Links", [])) if pair)
    return found


def pair_of(link: dict[str, Any], base: str) -> tuple[str, str] | None:
    if link.get("path") != "IMG@/src" or not link.get("alt") or "url" not in link:
        return None
    url = link["url"]
    if not url.startswith(WEB):
        try:
            url = urljoin(base, url)
        except ValueError:
            return None
    return (url, link["alt"]) if url.startswith(WEB) else None


def ours(wat: Path, out: Path) -> Counter[tuple[str, str]]:
    manifest = extract.run(str(wat), str(out), COMPATIBLE, snapshot="CC-MAIN-2024-10", segment="1.0", wat_file="00000")
    table = pq.read_table(manifest.fetch("pairs.parquet", out), columns=["url", "caption"])
    return Counter(zip(table["url"].to_pylist(), table["caption"].to_pylist(), strict=True))


@pytest.mark.shared
def test_the_pairs_of_every_real_wat_are_the_same(shared: Path, tmp_path: Path) -> None:
    total = read = 0
    differ = {}
    for number, wat in enumerate(sorted(p for p in (shared / "wat").rglob("*") if p.name.endswith((".wat", ".wat.gz")))):
        try:
            expected = restated(wat)
        except OSError:  # fastwarc gives up on a file whose lengths lie, and cc2dataset with it
            continue
        found = ours(wat, tmp_path / str(number))
        read += 1
        total += expected.total()
        if found != expected:
            differ[wat.name] = (expected - found, found - expected)
    assert not differ
    assert read == 20, "in the other six lengths lie"
    assert total > 4900
