"""validate: every critical expectation blocks when real stage output breaks it in that one way."""

from __future__ import annotations

import io
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
from PIL import Image, ImageOps

from wat2mds.errors import DataError
from wat2mds.manifest import Flow, open_manifest
from wat2mds.models.pictures import content_box
from wat2mds.quality import read_report
from wat2mds.settings import Settings, child_environment
from wat2mds.stages import validate
from wat2mds.stages.validate import looks
from wat2mds.store import Layout, Store, join

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
    column: str, value: Any, *, only: Callable[[Any], bool] | None = None, rows: int = 1, skip: int = 0
) -> Callable[[pa.Table], pa.Table]:
    """``rows`` values of a column, the first ones after ``skip`` that are there (or that ``only`` accepts), become another one."""

    def change(table: pa.Table) -> pa.Table:
        left, passed = rows, skip
        found = []
        for old in table[column].to_pylist():
            accepted = only(old) if only else old is not None
            if accepted and passed:
                passed -= 1
                found.append(old)
            elif accepted and left:
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
    """One way to break one table, and the expectations that must find it, with a space between them."""

    expectation: str
    table: str
    change: Callable[[Any], Any]
    detail: str = ""


def flipped(pdq: str) -> str:
    """Another picture's hash: every bit differs."""
    return f"{int(pdq, 16) ^ ((1 << 256) - 1):064x}"


def swapped(table: pa.Table) -> pa.Table:
    """LAION's early releases' mistake: width for height."""
    names = {"original_width": "original_height", "original_height": "original_width"}
    return table.select([names.get(name, name) for name in table.column_names]).rename_columns(table.column_names)


def one_less(flow: Flow) -> Flow:
    """A flow that reconciles, but not with the table."""
    return replace(flow, left=flow.left - 1, drops=flow.drops | {"dns": flow.drops.get("dns", 0) + 1})


def each(*breaks: Break) -> list[Break]:
    return list(breaks)


# Breaks of one list stand together in one WAT file, since a run of Great Expectations costs a second: each is in a column of its own,
# and each must be found. Those that change how many rows there are, or which, stand alone; test_chain.py breaks the real stages'
# output in each of these ways.
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
        Break("samples.drop_reason_known", "samples", values("drop_reason", "low_similarity", only=lambda old: True)),
        Break("looked_at.width_true", "samples", values("width", lambda old: old + 1, skip=3)),
        Break("looked_at.height_true", "samples", values("height", lambda old: old + 1, skip=3)),
        *(
            one
            for column in ("width", "height", "original_width", "original_height")
            for one in (
                Break(f"images.{column}_positive", "samples", values(column, 0)),
                Break(f"images.{column}_present", "samples", values(column, None, skip=1)),
            )
        ),
        Break("images.bytes_enough", "samples", values("original_bytes", 4999)),
        Break("images.original_bytes_present", "samples", values("original_bytes", None, skip=1)),
        *(
            one
            for column, wrong in (("md5", "xyz"), ("sha1", "0" * 39), ("sha256", "G" * 64), ("mime", "jpeg"))
            for one in (
                Break(f"images.{column}_form", "samples", values(column, wrong)),
                Break(f"images.{column}_present", "samples", values(column, None, skip=1)),
            )
        ),
        Break("looked_at.pdq_true", "samples", values("pdq", flipped, rows=9)),
        Break("images.pdq_form", "samples", values("pdq", "0" * 63)),
    ),
    "scores": each(
        Break("scores.similarity_range", "scores", values("similarity", 1.5)),
        Break("scores.clip_model_present", "scores", values("clip_model", None)),
        Break("scores.punsafe_range", "scores", values("punsafe", 1.5, only=lambda old: True)),
        Break("scores.pwatermark_range", "scores", values("pwatermark", -0.5, only=lambda old: True)),
        Break("scores.toxicity_range", "scores", values("toxicity", 2, only=lambda old: True)),
        Break("scores.language_probability_range", "scores", values("language_probability", 1.1)),
        Break("scores.nsfw_known", "scores", values("nsfw", "MAYBE", only=lambda old: True)),
        Break("scores.image_embedding_norm", "img_emb", set_row(np.nan)),
        Break("scores.text_embedding_norm", "text_emb", set_row(lambda row: row * 1.5)),
        Break("scores.similarity_true", "text_emb", set_row(lambda row: row * 1.5)),
        Break("decisions.drop_reason_known", "decisions", values("drop_reason", "because", only=lambda old: True)),
        Break("kept.language_form", "decisions", values("language", "English", rows=9)),
    ),
    "counts": each(
        Break("counts.agree", "text_emb", embedding(lambda array: array[:-1]), "embeddings: text rows"),
        Break("counts.agree", "decisions", lambda table: table.take([1, 0, *range(2, table.num_rows)]), "in the same order"),
        Break("counts.agree", "flow", one_less, "samples: images"),
    ),
}
ALONE = each(
    Break("schema.columns_and_types", "samples", column_gone("exif"), "column"),
    Break("schema.columns_and_types", "scores", column_as("similarity", pa.float64()), "type"),
    Break("pairs.uid_unique", "pairs", twice),
    Break("pairs.uid_true", "pairs", values("caption", "another caption")),
    Break("samples.uid_unique", "samples", twice),
    Break("samples.status_consistent", "samples", values("jpg", None)),
    Break("looked_at.height_true", "samples", values("jpg", b"not an image"), "no image"),
    Break("looked_at.original_not_swapped", "samples", swapped),
    Break("scores.uid_unique", "scores", twice),
    Break("scores.similarity_present kept.similarity_present", "scores", values("similarity", None, rows=9)),
    Break("decisions.uid_unique kept.uid_unique", "decisions", twice),
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
        validate.run(made.samples, made.decisions, made.out("validate"), SETTINGS, dataset)
    message = str(failure.value)
    assert f"wat2mds validate {made.samples.url} {made.decisions.url}" in message
    files = [entry.path for entry in Store(made.out("validate")).walk()]
    digest = files[0].removeprefix("failed/").split(".")[0]
    assert sorted(files) == [f"failed/{digest}.html", f"failed/{digest}.json"]
    report = Store(made.out("validate")).read_json(files[1])
    assert report == read_report(dataset, made.key, digest)
    assert report["passed"] is False
    results = {e["name"]: e for e in report["expectations"]}
    for one in breaks:
        for name in one.expectation.split():
            found = results[name]
            assert not found["success"], one
            assert found["severity"] == "critical"
            assert 0 < found["failed"] <= found["rows"]
            assert 0 < len(found["examples"]) <= 5
            assert f"  {name} (" in message
        if one.expectation == "counts.agree":
            assert one.detail in message
    # Nothing to go on with, and of the WAT file nothing but its report outside the work folder.
    with pytest.raises(DataError, match="validate of this WAT file is not complete"):
        open_manifest(join(made.out("validate"), f"{digest}.json"), "validate")
    assert {entry.path.split("/")[0] for entry in Store(dataset).walk()} == {"work", "reports"}


@pytest.mark.parametrize("table", TOGETHER)
def test_critical_expectations_block(dataset: str, make_wat_file: Make, table: str) -> None:
    blocked(dataset, make_wat_file, TOGETHER[table])


def test_every_critical_expectation_is_broken_here(dataset: str, make_wat_file: Make) -> None:
    """Of a report with all that settings can ask for; those of a setting's own have tests of their own, below."""
    everything = Settings.model_validate(
        {
            "filter": {"max_punsafe": 1, "max_pwatermark": 1, "min_aesthetic": 0, "languages": ["en"]}
            | {key: value for rule in RULES.values() for key, value in rule.items()},
            "download": {"skip_reencode": True},
        }
    )
    made = make_wat_file(dataset, count=0, failed=0, dropped=0, settings=everything)
    done = validate.run(made.samples, made.decisions, made.out("validate"), everything)
    critical = {e["name"] for e in Store(done.base).read_json("report.json")["expectations"] if e["severity"] == "critical"}
    broken = {name for breaks in (*TOGETHER.values(), ALONE) for one in breaks for name in one.expectation.split()}
    broken |= {
        "looked_at.md5_true",
        "looked_at.sha1_true",
        "looked_at.sha256_true",
        "download.success",
        *KEPT,
        *KEPT_WITHOUT_SCORE,
        *RULES,
    }
    assert critical == broken


def test_good_output_passes_with_the_same_report(tmp_path: Path, make_wat_file: Make) -> None:
    reports = []
    for run in ("one", "two"):
        made = make_wat_file((tmp_path / run / "datasets" / "demo").as_uri())
        done = validate.run(made.samples, made.decisions, made.out("validate"), SETTINGS)
        assert done.flows == [Flow("kept", "valid", 7, 7)]
        assert [f.name for f in done.files] == ["report.html", "report.json"]
        reports.append(done.fetch("report.json", tmp_path).read_bytes())
        assert json.loads(reports[-1])["drift_note"].startswith("no drift check: validate was not told of a dataset")
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


KEPT = ["kept.safe", "kept.unmarked", "kept.aesthetic_enough", "kept.language_wanted"]
KEPT_WITHOUT_SCORE = ["kept.punsafe_present", "kept.pwatermark_present", "kept.aesthetic_present", "kept.language_present"]


@pytest.mark.parametrize(
    ("punsafe", "pwatermark", "aesthetic", "language", "names"),
    [(0.9, 0.9, 1.0, "fr", KEPT), (None, None, None, None, KEPT_WITHOUT_SCORE)],
)
def test_kept_in_spite_of_a_threshold(
    dataset: str, make_wat_file: Make, punsafe: Any, pwatermark: Any, aesthetic: Any, language: Any, names: list[str]
) -> None:
    given = Settings.model_validate(
        {"filter": {"max_punsafe": 0.5, "max_pwatermark": 0.8, "min_aesthetic": 4.5, "languages": ["en"]}}
    )

    def change(table: pa.Table) -> pa.Table:
        for column, value in (("punsafe", punsafe), ("pwatermark", pwatermark), ("aesthetic", aesthetic)):
            table = values(column, value, only=lambda old: True, rows=99)(table)
        return table

    spoken = values("language", language, only=lambda old: True, rows=99)
    made = make_wat_file(dataset, settings=given, changes={"scores": change, "decisions": spoken})
    with pytest.raises(DataError) as failure:
        validate.run(made.samples, made.decisions, made.out("validate"), given)
    assert all(f"  {name} (" in str(failure.value) for name in names)


RULES = {
    "kept.characters_enough": {"min_caption_chars": 99},
    "kept.words_enough": {"min_caption_words": 7},
    "kept.original_large_enough": {"min_original_side": 137},
    "kept.original_wide_enough": {"max_original_aspect": 1.1},
    "kept.safe_with_word": {"max_punsafe_with_word": 0.4, "word_lists": "words"},
    "kept.legal": {"drop_illegal": True, "zero_shot": True},
    "kept.no_placeholder": {"placeholder_urls": 2},
    "kept.alone": {"near_duplicates": "wat_file"},
    "kept.language_reliable": {"min_language_probability": 0.95},
}
MET = {
    "min_caption_chars": len("picture number 0, “ünïcode” 画 "),
    "min_caption_words": 5,
    "min_original_side": 120,
    "max_original_aspect": 46 / 30,
    "max_punsafe_with_word": 0.5,
    "placeholder_urls": 3,
    "min_language_probability": 0.9,
}
KNOWN = {"punsafe": 0.5, "listed_word": True, "nsfw": "UNSURE", "underage": True, "copies_urls": 3, "copies_hosts": 1}
ABSENT = dict.fromkeys(["punsafe", "listed_word", "nsfw", "underage", "copies_urls", "language_probability"])


@pytest.mark.parametrize(
    ("rules", "scores", "quality", "names"),
    [
        ({}, KNOWN, 50, set(RULES)),
        ({}, ABSENT, 49, set(RULES) - {"kept.no_placeholder", "kept.alone"}),
        (MET, KNOWN | {"underage": False, "child_word": False, "animal": False}, 49, set()),
        (MET, KNOWN | {"nsfw": "UNLIKELY"}, 49, set()),
    ],
)
def test_kept_in_spite_of_a_rule(
    dataset: str, make_wat_file: Make, rules: dict[str, Any], scores: dict[str, Any], quality: int, names: set[str]
) -> None:
    """All kept rows break each rule, or meet it to the last digit."""
    given = {key: value for rule in RULES.values() for key, value in rule.items()} | rules
    settings = Settings.model_validate({"filter": given | {"max_punsafe": None}})

    def scored(table: pa.Table) -> pa.Table:
        for column, value in scores.items():
            table = values(column, value, only=lambda old: True, rows=99)(table)
        return table

    def alike(table: pa.Table) -> pa.Table:
        # All the same hash, which is that of none, or their own, which are too plain to be compared.
        changed = values("pdq", "5a" * 32, rows=99)(table) if names else table
        return values("pdq_quality", quality, rows=99)(changed)

    made = make_wat_file(dataset, settings=settings, changes={"scores": scored, "samples": alike})
    if not names:
        validate.run(made.samples, made.decisions, made.out("validate"), settings, dataset)
        return
    with pytest.raises(DataError) as failure:
        validate.run(made.samples, made.decisions, made.out("validate"), settings, dataset)
    assert {line.split()[0] for line in str(failure.value).splitlines() if line.startswith("  kept.")} == names


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

    def change(table: pa.Table) -> pa.Table:
        for column, digits in (("md5", 32), ("sha1", 40), ("sha256", 64)):
            table = values(column, "0" * digits)(table)
        return as_fetched(table)

    bad = make_wat_file(dataset, "00001", settings=settings, changes={"samples": change})
    with pytest.raises(DataError) as failure:
        validate.run(bad.samples, bad.decisions, bad.out("validate"), settings)
    assert all(f"  looked_at.{name}_true (" in str(failure.value) for name in ("md5", "sha1", "sha256"))


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


@pytest.mark.parametrize(("original", "right"), [((384, 256), True), ((256, 384), False), ((256, 256), True)])
def test_the_border_tells_how_a_padded_picture_lay(original: tuple[int, int], right: bool) -> None:
    """A landscape picture, padded to a square above and below; a square picture has no border to judge by."""
    picture = Image.effect_noise((256, 171), 80).convert("RGB")
    out = io.BytesIO()
    ImageOps.pad(picture, (256, 256), color="white").save(out, "JPEG", quality=80)
    pixels = np.asarray(Image.open(out))
    assert looks._lies_right(pixels, original, content_box(256, 256, *original)) is right


DRIFT = ("download_success", "kept_share", "languages", "nsfw_rate", "similarity", "sizes")


def drifting(bounds: dict[str, Any]) -> Settings:
    return Settings.model_validate({"filter": {"max_punsafe": None}, "validate": {"drift_min_rows": 20} | bounds})


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A dataset with one WAT file of 40 pairs, published by the stages themselves."""
    from tests.wat2mds.stages.conftest import build_wat_file
    from wat2mds.stages import convert, publish, upload

    dataset = Layout(tmp_path_factory.mktemp("drift").as_uri(), "demo").dataset
    settings = drifting({})
    safe = values("punsafe", 0.1, only=lambda old: True, rows=99)
    made = build_wat_file(dataset, "00000", count=40, changes={"scores": safe}, settings=settings)
    valid = validate.run(made.samples, made.decisions, made.out("validate"), settings, dataset)
    report = read_report(dataset, made.key, valid.digest)
    assert report is not None
    assert report["drift_note"] == "no drift check: nothing is published in this dataset yet"
    converted = convert.run(made.samples, made.decisions, made.out("convert"), settings, valid)
    version = publish.run([upload.run(converted, dataset, made.out("upload"), settings)], dataset, settings).version
    assert version.units[made.key].digests["validate"] == valid.digest
    return dataset


def shifted(dataset: str, make_wat_file: Make, wat_file: str) -> Any:
    """More failures, more that is not similar; large, French and unsafe."""
    changes = {
        "samples": lambda table: values("original_width", lambda old: old * 9, rows=99)(
            values("original_height", lambda old: old * 9, rows=99)(table)
        ),
        "scores": lambda table: values("punsafe", 0.9, only=lambda old: True, rows=99)(
            values("language_probability", 0.9, only=lambda old: True, rows=99)(table)
        ),
        "decisions": values("language", "fr", only=lambda old: True, rows=99),
    }
    settings = drifting({})
    return make_wat_file(dataset, wat_file, first=100, count=60, failed=35, dropped=15, changes=changes, settings=settings)


def test_drift_blocks(published: str, make_wat_file: Make) -> None:
    made = shifted(published, make_wat_file, "00001")
    settings = drifting({f"block_{name}": 0.01 for name in DRIFT} | {"block_sizes": None})
    with pytest.raises(DataError) as failure:
        validate.run(made.samples, made.decisions, made.out("validate"), settings, published)
    message = str(failure.value)
    assert {line.split()[0] for line in message.splitlines() if line.startswith("  drift.")} == {
        f"drift.{name}" for name in DRIFT if name != "sizes"
    }
    assert "share of pairs that gave an image is 0.4167, was 0.925 in 1 published WAT files" in message
    assert "at most 0.01 (validate.block_download_success)" in message


def test_drift_warns(published: str, make_wat_file: Make, caplog: pytest.LogCaptureFixture) -> None:
    made = shifted(published, make_wat_file, "00002")
    settings = drifting({f"block_{name}": None for name in DRIFT} | {f"warn_{name}": 0.01 for name in DRIFT})
    done = validate.run(made.samples, made.decisions, made.out("validate"), settings, published)
    assert done.extra["warnings"] == len(DRIFT)
    assert all(any(f"drift.{name}_watched (" in record.message for record in caplog.records) for name in DRIFT)
    report = read_report(published, made.key, done.digest)
    assert report is not None
    found = {measure["name"]: measure["difference"] for measure in report["drift"]}
    assert found == pytest.approx(
        {
            "download_success": 37 / 40 - 25 / 60,
            "kept_share": 35 / 37 - 10 / 25,
            "similarity": (35 * 0.35 + 2 * 0.2) / 37 - (10 * 0.35 + 15 * 0.2) / 25,
            "nsfw_rate": 1,
            "languages": 1,
            "sizes": 1,
        },
        abs=1e-4,
    )


def test_equal_data_and_few_rows_do_not_drift(published: str, make_wat_file: Make) -> None:
    settings = drifting({f"block_{name}": 0.3 for name in DRIFT})
    safe = values("punsafe", 0.1, only=lambda old: True, rows=99)
    made = make_wat_file(published, "00003", first=300, count=40, changes={"scores": safe}, settings=settings)
    done = validate.run(made.samples, made.decisions, made.out("validate"), settings, published)
    report = read_report(published, made.key, done.digest)
    assert report is not None
    assert len(report["drift"]) == len(DRIFT)
    few = make_wat_file(published, "00004", first=400, settings=settings)
    done = validate.run(few.samples, few.decisions, few.out("validate"), settings, published)
    report = read_report(published, few.key, done.digest)
    assert report is not None
    assert report["drift"] == []
    assert "9 samples here and 37 before; it takes 20 of each" in report["drift_note"]


def test_other_settings_are_not_compared_with(published: str, make_wat_file: Make) -> None:
    settings = Settings.model_validate(
        {"filter": {"max_punsafe": None, "min_similarity": 0.1}, "validate": {"drift_min_rows": 1}}
    )
    made = make_wat_file(published, "00005", first=500, settings=settings, dropped=0)
    done = validate.run(made.samples, made.decisions, made.out("validate"), settings, published)
    report = read_report(published, made.key, done.digest)
    assert report is not None
    assert report["drift_note"] == "no drift check: version 1 holds no other WAT file made by these settings"
