"""validate: every critical expectation blocks when real stage output breaks it in that one way."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from wat2mds.errors import DataError
from wat2mds.manifest import Flow
from wat2mds.settings import Settings, child_environment
from wat2mds.stages import validate
from wat2mds.store import Store

Make = Callable[..., Any]
SETTINGS = Settings.model_validate({"filter": {"max_punsafe": None}})
# Rows 0 to 6 of the pairs are kept, 7 and 8 are not similar enough, 9 to 11 gave no image.


def without_last(table: pa.Table) -> pa.Table:
    return table.slice(0, table.num_rows - 1)


def twice(table: pa.Table) -> pa.Table:
    """The second row takes the place of the first."""
    return table.take([1, *range(1, table.num_rows)])


def column_gone(name: str) -> Callable[[pa.Table], pa.Table]:
    return lambda table: table.drop_columns([name])


def column_as(name: str, kind: pa.DataType) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        at = table.column_names.index(name)
        return table.set_column(at, pa.field(name, kind), table[name].cast(kind))

    return change


def values(
    column: str, value: Any, *, only: Callable[[Any], bool] | None = None, rows: int = 1
) -> Callable[[pa.Table], pa.Table]:
    """``rows`` values of a column, the first ones that are there (or that ``only`` accepts), become another one."""

    def change(table: pa.Table) -> pa.Table:
        left = rows
        found = []
        for old in table[column].to_pylist():
            if left and (only(old) if only else old is not None):
                left -= 1
                found.append(value(old) if callable(value) else value)
            else:
                found.append(old)
        at = table.column_names.index(column)
        kind = table.schema.field(at)
        return table.set_column(at, kind, pa.chunked_array([pa.array(found, kind.type)]))

    return change


def embedding(change: Callable[[np.ndarray], Any]) -> Callable[[np.ndarray], np.ndarray]:
    def changed(array: np.ndarray) -> np.ndarray:
        found = array.copy()
        result = change(found)
        return found if result is None else result

    return changed


def set_row(value: Any) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> None:
        array[2] = value if not callable(value) else value(array[2])

    return embedding(change)


@dataclass(frozen=True)
class Break:
    """One way to break one table, and the expectation that must find it."""

    expectation: str
    table: str
    change: Callable[[Any], Any]
    detail: str = ""


def each(*breaks: Break) -> list[Break]:
    return list(breaks)


# Breaks of one list stand together in one WAT file, since a run of Great Expectations costs a second: each is in a column of its own,
# and each must be found. Those that change how many rows there are, or which, stand alone.
TOGETHER = {
    "pairs": each(
        Break("pairs.uid_form", "pairs", values("uid", lambda old: old.upper().replace("0", "G"))),
        Break("pairs.laion_hash_true", "pairs", values("laion_hash", 7)),
        Break("pairs.url_form", "pairs", values("url", "ftp://example.org/x.jpg")),
        Break("pairs.url_normalized_form", "pairs", values("url_normalized", "//example.org/x.jpg")),
        Break("pairs.caption_length", "pairs", values("caption", "tiny")),
        Break("pairs.snapshot_own", "pairs", values("snapshot", "CC-MAIN-2013-20")),
        Break("pairs.segment_own", "pairs", values("segment", "1.2")),
        Break("pairs.wat_file_own", "pairs", values("wat_file", "00099")),
    ),
    "samples": each(
        Break("samples.status_known", "samples", values("status", "fine")),
        Break("samples.key_unique", "samples", values("key", "1", rows=2)),
        Break("samples.drop_reason_known", "samples", values("drop_reason", "low_similarity")),
        Break("images.width_present", "samples", values("width", None)),
        Break("images.height_positive", "samples", values("height", 0)),
        Break("looked_at.height_true", "samples", values("height", 0)),
        Break("images.original_width_positive", "samples", values("original_width", -3)),
        Break("images.original_height_present", "samples", values("original_height", None)),
        Break("images.bytes_enough", "samples", values("original_bytes", 4999)),
        Break("images.md5_form", "samples", values("md5", "xyz")),
        Break("images.sha1_present", "samples", values("sha1", None)),
        Break("images.sha256_form", "samples", values("sha256", lambda old: old[:-1])),
        Break("images.pdq_form", "samples", values("pdq", "0" * 63)),
        Break("images.mime_form", "samples", values("mime", "jpeg")),
    ),
    "scores": each(
        Break("scores.similarity_range", "scores", values("similarity", 1.5)),
        Break("scores.clip_model_present", "scores", values("clip_model", None)),
        Break("scores.punsafe_range", "scores", values("punsafe", 1.5, only=lambda old: True)),
        Break("scores.pwatermark_range", "scores", values("pwatermark", -0.5, only=lambda old: True)),
        Break("scores.nsfw_known", "scores", values("nsfw", "MAYBE", only=lambda old: True)),
        Break("scores.image_embedding_norm", "img_emb", set_row(np.nan)),
        Break("scores.text_embedding_norm", "text_emb", set_row(lambda row: row * 1.5)),
        Break("scores.similarity_true", "text_emb", set_row(lambda row: row * 1.5)),
        Break("decisions.drop_reason_known", "decisions", values("drop_reason", "because")),
    ),
    "counts": each(
        Break("counts.agree", "text_emb", embedding(lambda array: array[:-1]), "embeddings: text rows"),
        Break("counts.agree", "decisions", lambda table: table.take([1, 0, *range(2, table.num_rows)]), "in the same order"),
        Break("counts.agree", "flow", lambda flow: replace(flow, left=flow.left + 1, drops={"http_404": 2}), "samples: images"),
    ),
}
ALONE = each(
    Break("schema.columns_and_types", "samples", column_gone("exif"), "column"),
    Break("schema.columns_and_types", "scores", column_as("similarity", pa.float64()), "type"),
    Break("pairs.uid_unique", "pairs", twice),
    Break("pairs.uid_true", "pairs", values("caption", "another caption")),
    Break("samples.uid_unique", "samples", twice),
    Break("samples.status_consistent", "samples", values("jpg", None)),
    Break("looked_at.width_true", "samples", values("width", lambda old: old + 1)),
    Break("looked_at.height_true", "samples", values("jpg", b"not an image"), "no image"),
    Break("scores.uid_unique", "scores", twice),
    Break("scores.similarity_present", "scores", values("similarity", None)),
    Break("counts.agree", "decisions", without_last, "one a score"),
    Break("counts.agree", "samples", without_last, "one a pair"),
    Break("kept.similarity_enough", "decisions", values("drop_reason", None)),
)


def blocked(dataset: str, make_wat_file: Make, breaks: list[Break]) -> None:
    changes: dict[str, Callable[[Any], Any]] = {}
    for one in breaks:
        before = changes.get(one.table, lambda value: value)
        changes[one.table] = lambda value, before=before, one=one: one.change(before(value))
    made = make_wat_file(dataset, changes=changes)
    with pytest.raises(DataError) as failure:
        validate.run(made.samples, made.decisions, made.out("validate"), SETTINGS)
    message = str(failure.value)
    assert f"wat2mds validate {made.samples.url} {made.decisions.url}" in message
    files = [entry.path for entry in Store(made.out("validate")).walk()]
    assert len(files) == 1
    assert files[0].startswith("failed/")
    report = Store(made.out("validate")).read_json(files[0])
    assert report["passed"] is False
    results = {e["name"]: e for e in report["expectations"]}
    for one in breaks:
        found = results[one.expectation]
        assert not found["success"], one
        assert found["severity"] == "critical"
        assert 0 < found["failed"] <= found["rows"]
        assert 0 < len(found["examples"]) <= 5
        assert f"  {one.expectation} (" in message
        if one.expectation == "counts.agree":
            assert one.detail in message


@pytest.mark.parametrize("table", TOGETHER)
def test_critical_expectations_block(dataset: str, make_wat_file: Make, table: str) -> None:
    blocked(dataset, make_wat_file, TOGETHER[table])


@pytest.mark.parametrize("one", ALONE, ids=lambda one: f"{one.expectation} {one.detail}".strip())
def test_critical_expectation_blocks_alone(dataset: str, make_wat_file: Make, one: Break) -> None:
    blocked(dataset, make_wat_file, [one])


def test_good_output_passes_with_the_same_report(tmp_path: Path, make_wat_file: Make) -> None:
    reports = []
    for run in ("one", "two"):
        made = make_wat_file((tmp_path / run / "datasets" / "demo").as_uri())
        done = validate.run(made.samples, made.decisions, made.out("validate"), SETTINGS)
        assert done.flows == [Flow("kept", "valid", 7, 7)]
        assert [f.name for f in done.files] == ["report.json"]
        reports.append(done.fetch("report.json", tmp_path).read_bytes())
        assert validate.run(made.samples, made.decisions, made.out("validate"), SETTINGS).done_before
    assert reports[0] == reports[1]
    report = json.loads(reports[0])
    assert report["passed"] is True
    assert len({e["name"] for e in report["expectations"]}) == len(report["expectations"]) == done.extra["expectations"]
    assert all(e["success"] for e in report["expectations"])


@pytest.mark.parametrize(("count", "failed", "dropped"), [(0, 0, 0), (4, 4, 0), (4, 1, 3)])
def test_nothing_kept_passes(dataset: str, make_wat_file: Make, count: int, failed: int, dropped: int) -> None:
    made = make_wat_file(dataset, count=count, failed=failed, dropped=dropped)
    assert validate.run(made.samples, made.decisions, made.out("validate"), SETTINGS).flows == [Flow("kept", "valid", 0, 0)]


def test_examples_are_at_most_five_and_the_count_is_whole(dataset: str, make_wat_file: Make) -> None:
    made = make_wat_file(dataset, count=40, changes={"samples": values("original_bytes", 10, rows=9)})
    with pytest.raises(DataError, match=r"images\.bytes_enough \(.*download\.min_bytes\)\) fails on 9 of 37 rows") as failure:
        validate.run(made.samples, made.decisions, made.out("validate"), SETTINGS)
    assert str(failure.value).count("original_bytes 10,") == 5


def test_download_success(dataset: str, make_wat_file: Make) -> None:
    settings = Settings.model_validate({"validate": {"min_download_success": 0.8}})
    made = make_wat_file(dataset, settings=settings)
    with pytest.raises(DataError, match=r"download\.success \(share of pairs that gave an image ≥ 0\.8"):
        validate.run(made.samples, made.decisions, made.out("validate"), settings)


@pytest.mark.parametrize(
    ("punsafe", "pwatermark", "aesthetic", "names"),
    [
        (0.9, 0.9, 1.0, ["kept.safe", "kept.unmarked", "kept.aesthetic_enough"]),
        (None, None, None, ["kept.punsafe_present", "kept.pwatermark_present", "kept.aesthetic_present"]),
    ],
)
def test_kept_in_spite_of_a_threshold(
    dataset: str, make_wat_file: Make, punsafe: Any, pwatermark: Any, aesthetic: Any, names: list[str]
) -> None:
    given = Settings.model_validate({"filter": {"max_punsafe": 0.5, "max_pwatermark": 0.8, "min_aesthetic": 4.5}})

    def change(table: pa.Table) -> pa.Table:
        for column, value in (("punsafe", punsafe), ("pwatermark", pwatermark), ("aesthetic", aesthetic)):
            table = values(column, value, only=lambda old: True, rows=99)(table)
        return table

    made = make_wat_file(dataset, settings=given, changes={"scores": change})
    with pytest.raises(DataError) as failure:
        validate.run(made.samples, made.decisions, made.out("validate"), given)
    assert all(f"  {name} (" in str(failure.value) for name in names)


def test_hash_is_checked_where_bytes_are_as_fetched(dataset: str, make_wat_file: Make) -> None:
    settings = Settings.model_validate({"download": {"skip_reencode": True, "min_bytes": 0}})

    def as_fetched(table: pa.Table) -> pa.Table:
        for column, source in (("original_width", "width"), ("original_height", "height")):
            at = table.column_names.index(column)
            table = table.set_column(at, table.schema.field(at), table[source])
        at = table.column_names.index("original_bytes")
        sizes = [len(v) if v is not None else None for v in table["jpg"].to_pylist()]
        return table.set_column(at, table.schema.field(at), [pa.array(sizes, pa.int64())])

    good = make_wat_file(dataset, "00000", settings=settings, changes={"samples": as_fetched})
    validate.run(good.samples, good.decisions, good.out("validate"), settings)
    bad = make_wat_file(
        dataset, "00001", settings=settings, changes={"samples": lambda table: values("sha256", "0" * 64)(as_fetched(table))}
    )
    with pytest.raises(DataError, match=r"looked_at\.sha256_true"):
        validate.run(bad.samples, bad.decisions, bad.out("validate"), settings)


def test_warning_is_published_and_shown(dataset: str, make_wat_file: Make, caplog: pytest.LogCaptureFixture) -> None:
    made = make_wat_file(dataset, changes={"pairs": values("license", "https://example.org/mine")})
    with caplog.at_level(logging.INFO):
        done = validate.run(made.samples, made.decisions, made.out("validate"), SETTINGS)
    assert done.extra["warnings"] == 1
    assert [r.message for r in caplog.records if r.levelno == logging.WARNING and "pairs.license_form" in r.message]


def test_log_holds_no_line_of_great_expectations(dataset: str, make_wat_file: Make) -> None:
    """In a process of its own, where everything is logged at INFO, as in a task."""
    made = make_wat_file(dataset)
    program = (
        "import logging, sys; logging.basicConfig(level=logging.INFO, format='%(name)s %(message)s')\n"
        "from wat2mds.manifest import read_manifest\nfrom wat2mds.settings import Settings\nfrom wat2mds.stages import validate\n"
        "validate.run(*(read_manifest(url) for url in sys.argv[1:3]), sys.argv[3], Settings())"
    )
    arguments = [made.samples.url, made.decisions.url, made.out("validate")]
    ended = subprocess.run(
        [sys.executable, "-c", program, *arguments], env=child_environment(), capture_output=True, text=True, check=True
    )
    assert [line.split()[0] for line in ended.stderr.splitlines()] == ["wat2mds.manifest"]
    assert ended.stdout == ""
