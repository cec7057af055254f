"""The dashboard without Airflow: its numbers are those of records, manifests and tables; it reads little, and shows nothing it must not."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from tests.wat2mds.dashboard.datasets import HOSTILE, grow, made, small
from tests.wat2mds.dashboard.datasets import SETTINGS as SMALL
from wat2mds.dashboard import gallery, pages, reading
from wat2mds.dashboard.pictures import MOST_COLUMNS, Column, growth, layers
from wat2mds.dashboard.sections import Addresses
from wat2mds.derived.summaries import summary_path
from wat2mds.errors import TransientError, Wat2MdsError
from wat2mds.stages import publish
from wat2mds.store import Layout, Store
from wat2mds.versions import open_table, read_version, withdraw

AT = Addresses("", "/wat2mds")
# What only an attacker's text may bring: elements and attributes that a page of this project does not have.
_FORBIDDEN = {"iframe", "object", "form", "base", "embed", "link"}


class Page(HTMLParser):
    """A page as a browser takes it apart."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for found, attributes in self.elements if found == tag]


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """How often the store is asked, by kind of request."""
    asked: Counter[str] = Counter()

    def counting(name: str) -> Any:
        real = getattr(Store, name)

        def call(self: Store, *given: Any, **options: Any) -> Any:
            asked[name] += 1
            return real(self, *given, **options)

        return mock.patch.object(Store, name, call)

    kinds = [counting(name) for name in ("read", "head", "names", "walk", "open", "read_ranges")]
    for kind in kinds:
        kind.start()
    try:
        yield asked
    finally:
        for kind in kinds:
            kind.stop()


def shown_dataset(root: str, name: str = "small") -> str:
    found = reading.read_dataset(root, name)
    assert found is not None
    return pages.dataset(found, AT)


def test_a_datasets_page_holds_every_picture_and_the_numbers_of_its_records(root: str) -> None:
    text = shown_dataset(root)
    page, record = Page(text), read_version(Layout(root, "small").dataset)
    pictures = {attributes.get("aria-label") for attributes in page.of("svg")}
    assert pictures >= {
        *("Versions over time", "Size over time", "Funnel by batch", "From links to published samples", "Drop reasons"),
        *("Download success", "Failures by reason", "Hosts asked most", "Hosts failing most", "Throughput by stage"),
        *("CLIP similarity", "Image sizes", "Languages", "WAT files by result", "Store size", "Disk"),
        *("CPU seconds by stage", "CPU seconds by version", "Failed downloads to ask for again"),
    }
    for flow in record.funnel:
        for reason, count in flow["drops"].items():
            assert re.search(rf"<code>{reason}</code></td><td class=number>{count:,}<", text), reason
    assert f"{record.samples:,}</b>" in text
    assert "62 (83.8%)" in text, "74 pairs were asked for, 12 gave no image"
    addresses = {attributes["href"] for attributes in page.of("a")}
    assert addresses >= {
        *("/wat2mds/dashboard/small/versions/3/run", "/dags/build_dataset", "/wat2mds/dashboard/small/versions/3/card"),
        *("/wat2mds/dashboard/small/versions/3/gallery", "/dags/retry_downloads", "/dags/build_search_index"),
    }
    assert [a for a in addresses if a and a.startswith("/wat2mds/reports/small/quality/") and a.endswith(".html")]


def test_versions_and_one_of_them(root: str) -> None:
    found = reading.read_dataset(root, "small")
    assert found is not None
    shown, older, newer = pages.page_of_rows(found.summary.history, None)
    assert ([row.number for row in shown], older, newer) == ([3, 2, 1], None, None)
    text = pages.versions(found, shown, {2}, older, newer, AT)
    assert text.count("withdrawn") == 1
    view = reading.read_version_view(root, "small", 3)
    assert view is not None
    page = Page(pages.version(view, AT))
    assert {"Download success", "From links to published samples"} <= {a.get("aria-label") for a in page.of("svg")}
    assert "CC-MAIN-2023-50.1700679099281.67.00002" in page.text
    assert reading.read_version_view(root, "small", 4) is None
    assert reading.read_version_view(root, "small", 0) is None


def test_pages_of_many_versions_follow_each_other(root: str) -> None:
    row = reading.read_dataset(root, "small").summary.history[0]  # type: ignore[union-attr]
    rows = [type(row)(**(vars(row) | {"first": n, "number": n})) for n in range(1, 51)]
    seen, before = [], None
    while True:
        shown, older, _ = pages.page_of_rows(rows, before)
        seen += [r.number for r in shown]
        if older is None:
            break
        before = older
    assert seen == list(range(50, 0, -1))
    assert pages.page_of_rows(rows, 31)[2] == 51, "back to the first page"


def test_the_gallery_shows_published_samples_with_their_images_and_hides_the_unsafe(root: str) -> None:
    url = Layout(root, "small").dataset
    rows = {r["uid"]: r for r in open_table(url, read_version(url)).to_pyarrow_table().to_pylist()}
    samples = gallery.draw_samples(url, 3, 0)
    assert len(samples) > 10
    assert len({sample.uid for sample in samples}) == len(samples)
    assert samples == gallery.draw_samples(url, 3, 0)
    assert samples != gallery.draw_samples(url, 3, 1)
    seen = {sample.uid: sample for seed in range(8) for sample in gallery.draw_samples(url, 3, seed)}
    assert {uid for uid, sample in seen.items() if sample.unsafe} == {
        uid for uid, row in rows.items() if (row["punsafe"] or 0) > 0.45
    }
    for sample in samples:
        assert sample.caption == rows[sample.uid]["caption"]
        found = gallery.read_image(url, 3, sample.unit, sample.shard, sample.row)
        assert found is not None
        assert found[1] == "image/jpeg"
        assert (sample.width, sample.height) == (rows[sample.uid]["original_width"], rows[sample.uid]["original_height"])
    text = pages.gallery("small", 3, 3, list(seen.values()), 0, AT)
    unsafe = next(sample for sample in seen.values() if sample.unsafe)
    assert re.search(rf'id="{unsafe.uid}"><details><summary>Likely unsafe', text)
    assert text.count("<details>") == 1


def test_a_hostile_caption_is_text(root: str) -> None:
    url = Layout(root, "small").dataset
    samples = [s for seed in range(8) for s in gallery.draw_samples(url, 3, seed) if "owned" in s.caption]
    assert samples
    page = Page(pages.gallery("small", 3, 3, samples, 0, AT))
    assert HOSTILE.strip() in page.text
    assert [a["src"] for a in page.of("script")] == ["/wat2mds/dashboard/page.js"]
    assert not {tag for tag, _ in page.elements} & _FORBIDDEN
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on") or name in ("style", "srcset")], tag
        for name in ("src", "href"):
            assert (attributes.get(name) or "/").startswith(("/", "#")), "another host"


@pytest.mark.parametrize(
    ("unit", "shard", "row"),
    [
        ("CC-MAIN-2023-50.1700679099281.67.00000", "../../../versions/000001/version.json", 0),
        ("CC-MAIN-2023-50.1700679099281.67.00000", "index.json", 0),
        ("CC-MAIN-2023-50.1700679099281.67.00000", "shard.00000.mds", -1),
        ("CC-MAIN-2023-50.1700679099281.67.00000", "shard.00000.mds", 10**9),
        ("CC-MAIN-2023-50.1700679099281.67.00099", "shard.00000.mds", 0),
        ("../..", "shard.00000.mds", 0),
        ("", "", 0),
    ],
)
def test_no_image_but_those_of_the_version(root: str, unit: str, shard: str, row: int) -> None:
    assert gallery.read_image(Layout(root, "small").dataset, 3, unit, shard, row) is None


@pytest.mark.parametrize("name", ["..", "../small", "small/..", "", "Small", "a" * 64, "%2e%2e", "small\n", "sm\x00all"])
def test_no_name_leads_out_of_the_store(name: str) -> None:
    assert not reading.is_name(name)


def test_of_a_withdrawn_version_nothing_is_shown_but_its_counts(tmp_path: Path) -> None:
    root = tmp_path.as_uri()
    url = small(root)
    (sample, *_) = gallery.draw_samples(url, 1, 0)
    assert gallery.read_image(url, 1, sample.unit, sample.shard, sample.row) is not None
    withdraw(url, [1], "asked for <b>removal</b>")
    assert gallery.draw_samples(url, 1, 0) == []
    assert gallery.read_image(url, 1, sample.unit, sample.shard, sample.row) is None
    assert reading.read_card(root, "small", 1) is None
    view = reading.read_version_view(root, "small", 1)
    assert view is not None
    assert view.summary is None
    text = pages.version(view, AT)
    assert "asked for &lt;b&gt;removal&lt;/b&gt;" in text
    assert "It held 25 samples" in text
    assert reading.withdrawn_among(url, [1, 2, 3]) == {1}


def test_a_dataset_published_before_there_were_summaries_opens(tmp_path: Path) -> None:
    root = tmp_path.as_uri()
    url = Layout(root, "old").dataset
    publish.run([made(url, "00000")], url, SMALL)
    for path in (summary_path(1), "versions/000001/statistics.json"):
        Store(url).delete(path)
    text = shown_dataset(root, "old")
    assert "wat2mds derive --dataset old" in text
    assert "From links to published samples" in text
    (listed,) = reading.list_datasets(root)
    assert listed.summary is not None
    assert "<b>7</b> samples" in pages.start(root, [listed], AT)
    found = reading.read_dataset(root, "old")
    view = reading.read_version_view(root, "old", 1)
    assert found is not None
    assert view is not None
    assert "wat2mds derive" in pages.versions(found, found.summary.history, set(), None, None, AT)
    assert pages.version(view, AT)
    assert gallery.draw_samples(url, 1, 0)


def test_nothing_published_and_a_damaged_dataset_say_so(tmp_path: Path) -> None:
    root = tmp_path.as_uri()
    assert "There is none yet" in pages.start(root, reading.list_datasets(root), AT)
    Store(Layout(root, "empty").dataset).write("ledger/x", b"")
    Store(Layout(root, "broken").dataset).write("versions/000001/version.json", b"<rubbish>")
    text = pages.start(root, reading.list_datasets(root), AT)
    assert "Nothing is published yet" in text
    assert "is not a version record" in text
    assert reading.read_dataset(root, "empty") is None
    with pytest.raises(Wat2MdsError, match="is not a version record"):
        reading.read_dataset(root, "broken")


def test_a_store_that_is_down_says_so_at_once(s3_root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(TransientError, match="cannot list"):
        reading.require_store(s3_root)


def test_what_is_read_does_not_grow_with_the_versions(root: str, tmp_path: Path) -> None:
    with counted() as few:
        shown_dataset(root)
    other = tmp_path.as_uri()
    url = small(other, "many")
    grow(url, 60)
    with counted() as many:
        shown_dataset(other, "many")
    assert many == few
    assert many.total() <= 12


def test_plots_have_few_columns_however_many_versions() -> None:
    columns = [Column(str(number), [1, 2]) for number in range(1_000)]
    drawn = layers(columns, ("one", "two"), axis="version")
    assert drawn.count("<g>") <= MOST_COLUMNS
    assert "each column is the mean of 17" in drawn
    assert "0–16: 1 one, 2 two" in drawn
    hostile = layers([Column("<b>", [1])], ("</svg>",), axis="<script>")
    assert "<b>" not in hostile
    assert "<script>" not in hostile
    assert layers([], ("one",), axis="x").startswith("<svg")
    begin = datetime(2024, 1, 1, tzinfo=UTC)
    points = [(begin + timedelta(hours=number), float(number)) for number in range(5_000)]
    assert len(growth(points, axis="time")) < 12_000
    assert growth(points[:1], axis="time").count("<path") == 2
