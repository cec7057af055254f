"""Subsets of small published datasets: each equals a brute-force computation, in its uids, metadata and shards; a new version costs its
new WAT files; nothing is half there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.wat2mds.stages.conftest import build_wat_file, set_values
from wat2mds import subsets
from wat2mds.cli.main import run as command
from wat2mds.derived.release import SCHEMA as LAION_SCHEMA
from wat2mds.derived.release import laion_rows
from wat2mds.errors import ConfigError, DataError, TransientError
from wat2mds.reading import open_dataset, open_subset
from wat2mds.settings import Settings
from wat2mds.stages import convert, publish, upload
from wat2mds.store import Layout, Store
from wat2mds.subsets import Definition, reshard
from wat2mds.subsets.definition import preset, presets
from wat2mds.versions import open_table, read_version

SETTINGS = Settings.model_validate({"convert": {"shard_bytes": 1 << 16}, "upload": {"keep_images": True}})
Row = dict[str, Any]

# Each condition as SQL and as Python, null as None.
OWN: list[tuple[str, Callable[[Row], bool | None]]] = [
    ("language = 'en' AND similarity > 0.3", lambda r: r["language"] == "en" and r["similarity"] > np.float32(0.3)),
    ("punsafe IS NULL OR punsafe < 0.5", lambda r: r["punsafe"] is None or r["punsafe"] < 0.5),
    ("caption LIKE '%xx%' AND license IS NOT NULL", lambda r: "xx" in r["caption"] and r["license"] is not None),
    ("original_height % 7 = 0 OR page_url LIKE '%/1_'", lambda r: r["original_height"] % 7 == 0 or _page(r)),
    ("phash_group < '8' AND snapshot LIKE 'CC-%'", lambda r: (r["phash_group"] or "f") < "8"),
    ("wat_file = '00001' AND NOT (mime = 'image/png')", lambda r: r["wat_file"] == "00001" and r["mime"] != "image/png"),
]
BY_PRESET: dict[str, Callable[[Row], bool | None]] = {
    "en": lambda r: r["language"] == "en",
    "multi": lambda r: r["language"] is not None and r["language"] != "en",
    "nolang": lambda r: r["language"] is None,
    "laion400m": lambda r: r["language"] == "en" and r["similarity"] >= np.float32(0.3),
    "high_resolution": lambda r: r["original_width"] >= 1024 and r["original_height"] >= 1024,
    "aesthetic": lambda r: _fine(r, 7),
    "art": lambda r: _fine(r, 8),
    "research_safe": lambda r: r["punsafe"] is not None and r["punsafe"] <= 0.45,
    "datacomp_basic": lambda r: (
        r["language"] == "en"
        and len(r["caption"].split()) > 2
        and len(r["caption"]) > 5
        and min(r["original_width"], r["original_height"]) >= 200
        and max(r["original_width"], r["original_height"]) <= 3 * min(r["original_width"], r["original_height"])
    ),
}


def _page(r: Row) -> bool:
    page = r["page_url"]
    return page is not None and len(page) >= 3 and page[-3:-1] == "/1"


def _fine(r: Row, least: float) -> bool:
    return None not in (r["aesthetic"], r["pwatermark"], r["punsafe"]) and (
        r["aesthetic"] > least and r["pwatermark"] < 0.8 and r["punsafe"] < 0.5
    )


def scores(table: pa.Table) -> pa.Table:
    """Values on all sides of the presets' thresholds, some missing."""
    columns: dict[str, Callable[[int], float | None]] = {
        "punsafe": lambda n: (0.1, 0.45, 0.46, 0.5, None)[n % 5],
        "pwatermark": lambda n: (0.1, 0.79, 0.8, None)[n % 4],
        "aesthetic": lambda n: (8.5, 7.5, 7.0, 8.0, 5.0, None, 9.0)[n % 7],
        "similarity": lambda n: (0.35, 0.3, 0.29)[n % 3],
        "language": lambda n: ("en", "de", None, "en")[n % 4],
    }
    for name, value in columns.items():
        if name not in table.column_names:
            continue
        field = table.schema.field(name)
        values = pa.array([value(row) for row in range(table.num_rows)], field.type)
        table = table.set_column(table.column_names.index(name), field, values)
    return table


def bring(dataset: str, wat_file: str, count: int, first: int | None = None, settings: Settings = SETTINGS) -> None:
    """One more WAT file published, as a version of its own."""
    sides = {"original_width": lambda n: n * 6, "original_height": lambda n: n * 9}

    def samples(table: pa.Table) -> pa.Table:
        for column, change in sides.items():
            table = set_values(column, lambda v, change=change: v and change(v))(table)
        return table

    def decided(table: pa.Table) -> pa.Table:
        return table.set_column(table.column_names.index("language"), "language", scores(table)["language"])

    made = build_wat_file(
        dataset,
        wat_file,
        count=count,
        failed=2,
        dropped=1,
        first=int(wat_file) * 1000 if first is None else first,
        settings=settings,
        changes={"samples": samples, "scores": scores, "decisions": decided},
    )
    converted = convert.run(made.samples, made.decisions, made.out("convert"), settings)
    publish.run([upload.run(converted, dataset, made.out("upload"), settings)], dataset, settings)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two WAT files in two versions."""
    url = Layout((tmp_path_factory.mktemp("subsets") / "root with space").as_uri(), "small").dataset
    bring(url, "00000", 60)
    bring(url, "00001", 30)
    return url


def table_rows(url: str, version: int | None = None) -> list[Row]:
    rows: list[Row] = open_table(url, read_version(url, version)).to_pyarrow_table().to_pylist()
    return rows


def stored_samples(dataset: Any) -> dict[str, str]:
    """Every column of every sample as text: NaN, which stands for null, is not equal to itself."""
    samples = [dataset[n] for n in range(len(dataset))]
    found = {sample["uid"]: repr(sorted(sample.items())) for sample in samples}
    assert len(found) == len(samples)
    return found


def read_uids(store: Store, subset: subsets.Subset, folder: Path) -> list[str]:
    found = np.load(store.get_file(subset.uids.path, folder / "uids.npy"))
    assert found.dtype == np.dtype("u8,u8")
    return [f"{a:016x}{b:016x}" for a, b in found]


def check(url: str, subset: subsets.Subset, expected: list[Row], folder: Path) -> None:
    """uids, metadata and shards hold exactly these rows."""
    folder.mkdir(exist_ok=True)
    store = Store(url)
    assert subset.samples == len(expected)
    assert read_uids(store, subset, folder) == sorted(row["uid"] for row in expected)
    read = [pq.read_table(pa.BufferReader(store.read(entry.path))) for entry in subset.metadata]
    metadata = pa.concat_tables([LAION_SCHEMA.empty_table(), *read])
    assert metadata.schema.equals(LAION_SCHEMA)
    table = open_table(url, read_version(url, subset.version)).to_pyarrow_table()
    wanted = laion_rows(table.filter(pa.compute.is_in(table["uid"], pa.array([r["uid"] for r in expected], pa.string()))))
    assert metadata.sort_by("hash").equals(wanted.sort_by("hash"))
    if not expected:
        return
    mine = stored_samples(open_subset(url, subset.name, subset.version, local=folder / f"subset-{subset.version}"))
    whole = stored_samples(open_dataset(url, subset.version, local=folder / f"whole-{subset.version}"))
    assert mine == {row["uid"]: whole[row["uid"]] for row in expected}


@pytest.mark.parametrize("name", presets())
def test_a_preset_is_what_brute_force_gives(dataset, name, tmp_path):
    expected = [row for row in table_rows(dataset) if BY_PRESET[name](row)]
    assert 0 < len(expected) < len(table_rows(dataset)), "the rows must lie on both sides"
    found = subsets.preview(dataset, preset(name))
    assert found.samples == len(expected)
    assert {row["uid"] for row in found.examples.to_pylist()} <= {row["uid"] for row in expected}
    check(dataset, subsets.build(dataset, name, preset(name), mds=True), expected, tmp_path)


@pytest.mark.parametrize("number", range(len(OWN)))
def test_a_condition_is_what_brute_force_gives(dataset, number, tmp_path):
    where, takes = OWN[number]
    expected = [row for row in table_rows(dataset) if takes(row)]
    assert 0 < len(expected) < len(table_rows(dataset)), "the rows must lie on both sides"
    assert subsets.preview(dataset, Definition(where)).samples == len(expected)
    check(dataset, subsets.build(dataset, f"own{number}", Definition(where), mds=True), expected, tmp_path)


def test_fractions_and_counts_are_of_uids_and_nested(dataset, tmp_path):
    rows = sorted(table_rows(dataset), key=lambda row: row["uid"])
    half = [row for row in rows if int(row["uid"][:16], 16) < 2**63]
    check(dataset, subsets.build(dataset, "half", Definition("true", fraction=0.5), mds=True), half, tmp_path / "half")
    check(dataset, subsets.build(dataset, "ten", Definition("true", count=10), mds=True), rows[:10], tmp_path / "ten")
    english = [row for row in half if row["language"] == "en"][:7]
    both = Definition("language = 'en'", fraction=0.5, count=7)
    assert subsets.preview(dataset, both).samples == 7
    check(dataset, subsets.build(dataset, "both", both, mds=True), english, tmp_path / "both")


def test_a_subset_of_nothing_is_a_subset(dataset, tmp_path):
    check(dataset, subsets.build(dataset, "empty", Definition("similarity > 2"), mds=True), [], tmp_path)


def test_a_new_version_costs_its_new_wat_files_and_the_old_subset_stays(tmp_path):
    url = Layout((tmp_path / "root").as_uri(), "growing").dataset
    store = Store(url)
    bring(url, "00000", 60)
    definition = Definition("language = 'en' OR similarity > 0.33")
    takes = lambda r: r["language"] == "en" or r["similarity"] > np.float32(0.33)  # noqa: E731
    first = subsets.build(url, "growing", definition, mds=True)
    before = {entry.path: (entry.tag, entry.modified) for entry in store.walk("subsets/growing")}
    shards = {path for path in before if path.endswith(".mds")}
    bring(url, "00001", 30)
    [second] = subsets.refresh(url)
    after = {entry.path: (entry.tag, entry.modified) for entry in store.walk("subsets/growing")}
    assert {path for path in before if after.get(path) != before[path]} == {"subsets/growing/mds/index.json"}
    assert len([path for path in after if path.endswith(".mds")]) > len(shards)
    check(url, second, [row for row in table_rows(url) if takes(row)], tmp_path)
    check(url, first, [row for row in table_rows(url, 1) if takes(row)], tmp_path)

    # A WAT file made anew under other settings: what came from its old unit is not used again.
    stricter = Settings.model_validate({"convert": {"shard_bytes": 1 << 17}})
    bring(url, "00000", 40, settings=stricter)
    [third] = subsets.refresh(url)
    check(url, third, [row for row in table_rows(url) if takes(row)], tmp_path)
    assert subsets.refresh(url) == [third], "a second time changes nothing"


def test_a_count_that_newer_samples_displace(tmp_path):
    url = Layout((tmp_path / "root").as_uri(), "displaced").dataset
    bring(url, "00000", 60)
    subsets.build(url, "least", Definition("true", count=20), mds=True)
    bring(url, "00001", 60)
    [built] = subsets.refresh(url)
    check(url, built, sorted(table_rows(url), key=lambda row: row["uid"])[:20], tmp_path)


def test_on_s3(s3_root, tmp_path):
    url = Layout(s3_root, "small").dataset
    bring(url, "00000", 30)
    expected = [row for row in table_rows(url) if row["language"] == "en"]
    assert subsets.preview(url, preset("en")).samples == len(expected)
    check(url, subsets.build(url, "en", preset("en"), mds=True), expected, tmp_path)


def test_a_subset_that_was_cut_short_is_completed(dataset, tmp_path):
    store = Store(dataset)
    built = subsets.build(dataset, "cut", preset("en"), mds=True)
    whole = {entry.path: store.read(entry.path) for entry in store.walk("subsets/cut")}
    for missing in ("subset.json", "mds.json", "uids.npy"):
        for path in [path for path in whole if path.endswith(missing)] + [path for path in whole if path.endswith("subset.json")]:
            store.delete(path)
        assert subsets.build(dataset, "cut", mds=True) == built
        assert {entry.path: store.read(entry.path) for entry in store.walk("subsets/cut")} == whole


def test_a_name_means_one_thing(dataset):
    subsets.build(dataset, "one-thing", Definition("true"))
    with pytest.raises(ConfigError, match="defined already, as 'true'"):
        subsets.build(dataset, "one-thing", Definition("false"))
    with pytest.raises(ConfigError, match="no name for a subset"):
        subsets.build(dataset, "../escape", Definition("true"))
    with pytest.raises(ConfigError, match="one-thing"):
        subsets.build(dataset, "one-thin")
    with pytest.raises(DataError, match=r"no subset 'one-thin'.*one-thing"):
        subsets.read_subset(dataset, "one-thin")


def test_a_damaged_shard_is_found(tmp_path):
    url = Layout((tmp_path / "root").as_uri(), "damaged").dataset
    bring(url, "00000", 60)
    store = Store(url)
    [path] = [entry.path for entry in store.walk("shards") if entry.path.endswith(".mds")][:1]
    sound = store.read(path)
    store.write(path, sound[:-200] + bytes(100) + sound[-100:])
    with pytest.raises(TransientError, match="has not the xxh64"):
        subsets.build(url, "all", Definition("true"), mds=True)
    store.write(path, sound)
    assert subsets.build(url, "all", mds=True).samples == read_version(url).samples


def test_the_commands(dataset, capsys, caplog):
    root = dataset.removesuffix("/datasets/small")
    place = ["--root", root, "--dataset", "small"]

    def said(arguments: list[str], code: int = 0) -> Any:
        assert command(arguments) == code
        return json.loads(capsys.readouterr().out.splitlines()[-1]) if code == 0 else None

    count = sum(row["language"] == "de" for row in table_rows(dataset))
    assert said(["subset", "build", "german", "--where", "language = 'de'", "--preview", *place])["samples"] == count
    assert "german" not in said(["subset", "list", *place])["datasets"][dataset]
    assert said(["subset", "build", "german", "--where", "language = 'de'", "--mds", *place])["samples"] == count
    assert said(["subset", "list", *place])["datasets"][dataset]["german"] == [2]
    refreshed = said(["subset", "refresh", *place, "--dataset", "another"])["datasets"]
    assert refreshed[dataset]["german"] == count
    assert list(refreshed.values())[1] == {}
    assert "high_resolution" in said(["subset", "presets"])["presets"]
    said(["subset", "build", "french", "--where", "langauge = 'fr'", "--preview", *place], 78)
    assert "did you mean 'language'" in caplog.text.lower()
    assert "Columns: uid, laion_hash" in caplog.text, "the error names the columns that exist"
    said(["subset", "build", "french", "--preset", "en", "--where", "true", *place], 78)
    said(["subset", "build", "french", *place], 78)


@pytest.mark.parametrize("compression", [None, "zstd:1"])
def test_shards_that_are_selected_whole_are_copied_as_they_are(compression, tmp_path, monkeypatch):
    """All but what is small; of a dataset whose shards are compressed, compressed."""
    monkeypatch.setattr(reshard, "SHARD_BYTES", 1 << 16)
    settings = Settings.model_validate({"convert": {"shard_bytes": 1 << 16, "compression": compression}})
    url = Layout((tmp_path / "root").as_uri(), "whole").dataset
    bring(url, "00000", 60, settings=settings)
    store = Store(url)
    stored = {hashlib.sha256(store.read(entry.path)).hexdigest(): entry.path for entry in store.walk("shards")}
    built = subsets.build(url, "all", Definition("true"), mds=True)
    check(url, built, table_rows(url), tmp_path / "all")
    made = {entry.path for entry in store.walk("subsets/all/mds/shards") if not entry.path.endswith(".uids")}
    as_they_are = {path for path in made if hashlib.sha256(store.read(path)).hexdigest() in stored}
    assert as_they_are
    assert all(path.endswith(".mds.zstd" if compression else ".mds") for path in as_they_are)
    assert compression or all((store.local / path).stat().st_nlink == 2 for path in as_they_are)
    # A shard that loses one sample is no longer copied, whatever it was before.
    some = subsets.build(url, "some", Definition("original_height % 7 <> 0"), mds=True)
    check(url, some, [row for row in table_rows(url) if row["original_height"] % 7], tmp_path / "some")


def test_a_file_system_without_hard_links(tmp_path, monkeypatch):
    def refused(self: Store, path: str, to: str) -> None:
        raise TransientError("no links here")

    url = Layout((tmp_path / "root").as_uri(), "links").dataset
    bring(url, "00000", 60)
    monkeypatch.setattr(reshard, "SHARD_BYTES", 1 << 16)
    monkeypatch.setattr(Store, "copy", refused)
    check(url, subsets.build(url, "all", Definition("true"), mds=True), table_rows(url), tmp_path)
