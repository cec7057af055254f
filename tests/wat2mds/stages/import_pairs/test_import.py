"""import on rows of every known layout, on rows that break their list's rules, and on what it does not know."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.wat2mds.stages.import_pairs.lists import LAYOUTS, SHA, URL, laion_rows
from wat2mds.drops import DropReason
from wat2mds.errors import DataError
from wat2mds.identity import laion_hash
from wat2mds.manifest import Manifest
from wat2mds.schema import IMPORTED, PAIRS, REJECTS
from wat2mds.settings import load_settings
from wat2mds.stages import import_pairs

Rows = list[dict[str, Any]]


def run(file: Path | str, out: Path, *overrides: str) -> tuple[Manifest, Rows, Rows]:
    settings = load_settings("laion400m", overrides, environment={})
    manifest = import_pairs.run(str(file), str(out), settings, name="list", number="00003")
    assert all(flow.reconciles for flow in manifest.flows)
    tables = [pq.read_table(manifest.fetch(f"{name}.parquet", out)) for name in ("pairs", "imported", "rejects")]
    assert [table.schema for table in tables] == [PAIRS.schema, IMPORTED.schema, REJECTS.schema]
    pairs, imported = (table.to_pylist() for table in tables[:2])
    assert [row["uid"] for row in pairs] == [row["uid"] for row in imported]
    return manifest, pairs, imported


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_is_recognised(tmp_path: Path, name: str) -> None:
    layout, table = LAYOUTS[name]
    pq.write_table(table, tmp_path / "list.parquet")
    manifest, pairs, imported = run(tmp_path / "list.parquet", tmp_path / "out")
    assert manifest.extra["layout"] == layout
    assert [(row["url"], row["caption"]) for row in pairs] == [
        (URL.format("one"), "the first picture"),
        (URL.format("two"), "a second picture"),
    ]
    assert {(r["snapshot"], r["segment"], r["wat_file"], r["caption_source"]) for r in pairs} == {
        ("list", "0.0", "00003", "import")
    }
    if "width" in manifest.extra["columns"]:
        assert [(row["width"], row["height"]) for row in imported] == [(640, 480), (300, 200)], "640 is the width everywhere"
    if "similarity" in manifest.extra["columns"]:
        assert imported[1]["similarity"] == pytest.approx(0.31)
    if "source_hash" not in manifest.extra["columns"]:
        assert imported[1]["source_hash"] == laion_hash(URL.format("two"), "a second  picture"), "of the text as the list has it"


def test_what_a_list_states_is_kept_for_joining(tmp_path: Path) -> None:
    found = {}
    for name, (_, table) in LAYOUTS.items():
        pq.write_table(table, tmp_path / f"{name}.parquet")
        _, pairs, imported = run(tmp_path / f"{name}.parquet", tmp_path / name)
        found[name] = [{**stated, **pair} for stated, pair in zip(imported, pairs, strict=True)]
    assert found["laion400m"][0]["source_id"] == "1581282014547"
    assert found["laion400m"][1]["nsfw"] == "UNSURE"
    assert [r["license"] for r in found["laion400m"]] == [None, "https://creativecommons.org/licenses/by-sa/3.0/"]
    assert (found["laion400m"][1]["license_type"], found["laion400m"][1]["license_version"]) == ("by-sa", "3.0")
    late = found["laion5b-joined"][1]
    assert (late["language"], late["source_hash"]) == ("de", 77)
    assert [round(late[n], 3) for n in ("punsafe", "pwatermark", "aesthetic")] == [0.4, 0.9, 6.5]
    assert (found["relaion"][0]["md5"], found["relaion"][1]["md5"]) == ("cd" * 16, None)
    assert found["relaion"][0]["source_hash"] == -4029381726354
    assert found["datacomp"][0]["sha256"] == SHA
    assert found["datacomp"][0]["source_id"] == "6fbb2a9bd0e04a3c8b0d1d0c3a0d6e5f"
    assert round(found["datacomp"][0]["similarity_l14"], 3) == 0.25
    assert (found["coyo"][0]["source_id"], found["coyo"][0]["phash"]) == ("841814333321", "e3b0c44298fc1c14")
    assert [r["license_type"] for r in found["fondant-index"]] == ["by-nc-nd", "cc0"]
    assert found["fondant-index"][1]["page_url"] == "http://www.example.com/two"


def test_an_unknown_layout_is_an_error_that_lists_both_sides(tmp_path: Path) -> None:
    pq.write_table(pa.table({"link": ["http://a.de/x.jpg"], "headline": ["words"]}), tmp_path / "x.parquet")
    with pytest.raises(
        DataError, match=r"Found: link, headline\. Known layouts.*opendatalab \(id, SAMPLE_ID.*img2dataset \(url, txt\)"
    ):
        run(tmp_path / "x.parquet", tmp_path / "out")
    pq.write_table(pa.table({"url": [1], "caption": ["words"]}), tmp_path / "y.parquet")
    with pytest.raises(DataError, match="should hold the url holds int64"):
        run(tmp_path / "y.parquet", tmp_path / "out")
    (tmp_path / "z.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match="no parquet file"):
        run(tmp_path / "z.parquet", tmp_path / "out")
    with pytest.raises(DataError, match="does not exist"):
        run(tmp_path / "none.parquet", tmp_path / "out")


def named_by_size(width: int, height: int, *, swapped: bool) -> list[dict[str, Any]]:
    """Rows whose URL names the size; WIDTH and HEIGHT as they are, or swapped."""
    stated = {"WIDTH": height, "HEIGHT": width} if swapped else {"WIDTH": width, "HEIGHT": height}
    return [{"URL": URL.format(f"photo-{i}-{width}x{height}"), **stated} for i in range(25)]


@pytest.mark.parametrize(
    ("rows", "overrides", "swapped", "decided_by"),
    [
        (named_by_size(300, 200, swapped=True), (), True, "urls"),
        (named_by_size(300, 200, swapped=False), (), False, "urls"),
        # Too few URLs tell, or they disagree: the early release's order of columns says it.
        (named_by_size(300, 200, swapped=False)[:19], (), True, "column_order"),
        ([*named_by_size(300, 200, swapped=False), *named_by_size(300, 200, swapped=True)], (), True, "column_order"),
        (named_by_size(300, 300, swapped=False), (), True, "column_order"),
        (named_by_size(300, 200, swapped=True), ("import.sizes=as_named",), False, "setting"),
    ],
)
def test_swapped_sizes_are_found_and_put_right(
    tmp_path: Path, rows: list[dict[str, Any]], overrides: tuple[str, ...], swapped: bool, decided_by: str
) -> None:
    manifest, _, imported = run(laion_rows(tmp_path / "l.parquet", rows), tmp_path / "out", *overrides)
    assert (manifest.extra["sizes"]["swapped"], manifest.extra["sizes"]["decided_by"]) == (swapped, decided_by)
    stated = (rows[0]["WIDTH"], rows[0]["HEIGHT"])
    assert (imported[0]["width"], imported[0]["height"]) == (stated[::-1] if swapped else stated)


def test_rows_that_break_the_lists_own_rules_are_counted(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {},
        {"similarity": 6016.0},
        {"similarity": math.nan},
        {"similarity": -1.5},
        {"WIDTH": 0},
        {"HEIGHT": -4},
        {"WIDTH": 1e12},
        {"TEXT": "x" * 61_192},
        {"TEXT": "four"},
        {"TEXT": None},
        {"URL": None},
        {"URL": "http://10.0.0.1/a.jpg"},
        {"URL": "no address"},
        {"WIDTH": None, "HEIGHT": math.nan, "similarity": None},
        {"similarity": -1.0},
        {"similarity": 0.0},
    ]
    manifest, pairs, imported = run(laion_rows(tmp_path / "l.parquet", rows, row_group_size=3), tmp_path / "out")
    (flow,) = manifest.flows
    assert (flow.source, flow.target, flow.entered, flow.left) == ("rows", "pairs", 16, 4)
    assert flow.drops == {
        DropReason.BAD_SIMILARITY: 3,
        DropReason.BAD_SIZE: 3,
        DropReason.LONG_CAPTION: 1,
        DropReason.SHORT_CAPTION: 1,
        DropReason.NO_CAPTION: 1,
        DropReason.NO_URL: 1,
        DropReason.PRIVATE_HOST: 1,
        DropReason.BAD_URL: 1,
    }
    assert [row["record_offset"] for row in pairs] == [row["row"] for row in imported] == [0, 13, 14, 15]
    assert imported[1] | {"width": None, "height": None, "similarity": None} == imported[1]
    rejects = pq.read_table(manifest.fetch("rejects.parquet", tmp_path)).to_pylist()
    assert [(r["record_offset"], r["drop_reason"]) for r in rejects] == [
        *((i, "bad_similarity") for i in (1, 2, 3)),
        *((i, "bad_size") for i in (4, 5, 6)),
    ]
    assert b"6016" in rejects[0]["head"]

    manifest, pairs, _ = run(tmp_path / "l.parquet", tmp_path / "out2", "import.min_similarity=0.3")
    assert manifest.flows[0].drops["low_source_similarity"] == 2
    assert [row["record_offset"] for row in pairs] == [0, 13], "a row that states none is not judged by it"


def test_bytes_that_are_no_text_cost_their_row(tmp_path: Path) -> None:
    urls = pa.array([b"http://a.example.com/1.jpg", b"http://a.example.com/\xff.jpg", b"http://a.example.com/3.jpg"])
    broken = pa.StringArray.from_buffers(3, urls.buffers()[1], urls.buffers()[2])
    pq.write_table(
        pa.table({"url": broken, "caption": ["one picture", "two pictures", "three pictures"]}), tmp_path / "x.parquet"
    )
    manifest, pairs, _ = run(tmp_path / "x.parquet", tmp_path / "out")
    assert [row["caption"] for row in pairs] == ["one picture", "three pictures"]
    assert manifest.flows[0].drops == {DropReason.BAD_ROW: 1}


def test_probabilities_are_probabilities(tmp_path: Path) -> None:
    table = LAYOUTS["laion5b-joined"][1]
    worse = table.set_column(table.schema.names.index("punsafe"), "punsafe", pa.array([1.5, math.nan]))
    pq.write_table(worse, tmp_path / "x.parquet")
    manifest, pairs, imported = run(tmp_path / "x.parquet", tmp_path / "out")
    assert manifest.flows[0].drops == {DropReason.BAD_SCORE: 1}
    assert (len(pairs), imported[0]["punsafe"]) == (1, None)


def test_an_import_is_made_once_and_again_when_the_file_or_a_rule_changes(tmp_path: Path) -> None:
    file = laion_rows(tmp_path / "a list, 100%.parquet", [{}, {}])
    first, *_ = run(file, tmp_path / "out")
    assert run(file, tmp_path / "out")[0].done_before
    assert run(file, tmp_path / "out", "extract.min_caption_chars=6")[0].digest != first.digest
    assert run(file, tmp_path / "out", "import.sizes=swapped")[0].digest != first.digest
    assert run(file, tmp_path / "out", "import.hub=http://127.0.0.1:1")[0].done_before
    laion_rows(file, [{}, {}, {}])
    again, pairs, _ = run(file, tmp_path / "out")
    assert (again.done_before, len(pairs)) == (False, 3)


def test_an_empty_list_is_no_error(tmp_path: Path) -> None:
    manifest, pairs, _ = run(laion_rows(tmp_path / "l.parquet", []), tmp_path / "out")
    assert (manifest.flows[0].entered, pairs) == (0, [])


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "layout", "rows", "least"),
    [
        ("fondant-cc-1000-index", "fondant", 1000, 480),
        ("fondant-cc-dedup-100", "fondant", 100, 60),
        ("img2dataset-test_1000", "img2dataset", 1000, 990),
        ("img2dataset-sample_image", "img2dataset", 2, 2),
    ],
)
def test_real_lists(tmp_path: Path, shared: Path, name: str, layout: str, rows: int, least: int) -> None:
    manifest, pairs, _ = run(shared / "laion_meta" / f"{name}.parquet", tmp_path / "out")
    assert (manifest.extra["layout"], manifest.flows[0].entered) == (layout, rows)
    assert len(pairs) >= least
