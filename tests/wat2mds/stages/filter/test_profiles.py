"""Profiles on real stage output: every threshold from both sides, and the same funnel from stored scores as from a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.wat2mds.stages.filter.drawings import TINY, under
from wat2mds.cli.main import run as command
from wat2mds.drops import DropReason
from wat2mds.manifest import Manifest
from wat2mds.settings import Settings, load_settings, profile_names, read_profile
from wat2mds.stages import filter as stage
from wat2mds.store import split

# Setting that is a threshold: the score's column, the reason, whether it is a least or a most value.
CRITERIA = {
    "min_similarity": ("similarity", DropReason.LOW_SIMILARITY, 1),
    "min_similarity_other": ("similarity", DropReason.LOW_SIMILARITY, 1),
    "max_punsafe": ("punsafe", DropReason.UNSAFE, -1),
    "max_pwatermark": ("pwatermark", DropReason.WATERMARKED, -1),
    "min_aesthetic": ("aesthetic", DropReason.LOW_AESTHETIC, 1),
    "min_caption_words": ("caption_words", DropReason.FEW_WORDS, 1),
    "min_caption_chars": ("caption_chars", DropReason.FEW_CHARACTERS, 1),
    "min_original_side": ("side", DropReason.SMALL_ORIGINAL, 1),
    "max_original_aspect": ("aspect", DropReason.NARROW_ORIGINAL, -1),
}
# What a profile sets so that nothing fails it: DataComp's basic filter asks for no similarity and takes the likeliest language.
NO_CRITERION = {"min_similarity": -1, "min_similarity_other": -1, "min_language_probability": 0}
OTHER_SETTINGS = {
    "clip_model",
    "clip_pretrained",
    "clip_model_other",
    "clip_pretrained_other",
    "safety_head",
    "watermark_head",
    "aesthetic_head",
    "language_candidates",
}
OTHER_RULES = {"zero_shot", "drop_illegal"}  # test_zero_shot
NAMED = [
    (profile, key)
    for profile in profile_names()
    for key, value in read_profile(profile)["filter"].items()
    if key not in OTHER_SETTINGS | OTHER_RULES and NO_CRITERION.get(key) != value
]
OVERRIDES = [
    (),
    ("filter.min_similarity=0.6", "filter.min_similarity_other=0.1"),
    ("filter.max_punsafe=0.02", "filter.max_pwatermark=0.01", "filter.min_aesthetic=5.5"),
    ("filter.languages=en,de", "filter.min_language_probability=0.9"),
    ("filter.max_punsafe=", "filter.safety_head="),
    ("filter.near_duplicates=wat_file", "filter.min_similarity=-1", "filter.min_caption_words=4", "filter.min_original_side=200"),
]


def out_of(samples: Manifest) -> str:
    return split(split(samples.url)[0])[0] + "/filter"


def run(samples: Manifest, settings: Settings) -> tuple[Manifest, list[dict[str, Any]]]:
    """filter's manifest, and each row's scores and decision."""
    done = stage.run(samples, out_of(samples), settings)
    scores = next(i.url for i in done.inputs if "/scores/" in i.url)
    from wat2mds.manifest import read_manifest

    found = pq.read_table(read_manifest(scores).fetch("scores.parquet", Path())).to_pylist()
    decided = pq.read_table(done.fetch("decisions.parquet", Path())).to_pylist()
    for score, decision in zip(found, decided, strict=True):
        assert score["uid"] == decision["uid"]
        score["detected"] = score["language"]
        sides = sorted((score["original_width"], score["original_height"]))
        score["side"], score["aspect"] = sides[0], sides[1] / sides[0]
        score |= decision
    return done, found


@pytest.mark.parametrize(("profile", "key"), [*NAMED, *((p, "min_aesthetic") for p in profile_names())])
def test_every_threshold_of_every_profile_from_both_sides(scored: Manifest, profile: str, key: str) -> None:
    extra = ("filter.min_aesthetic=5.5",) if key == "min_aesthetic" else ()
    settings = under(profile, *extra)
    threshold = getattr(settings.filter, key)
    _, rows = run(scored, settings)
    if key == "min_language_probability":
        sure = [row for row in rows if row["detected"] and row["language_probability"] >= threshold]
        unsure = [row for row in rows if row["detected"] and row["language_probability"] < threshold]
        assert sure
        assert unsure
        assert all(row["language"] == row["detected"] for row in sure)
        assert all(row["language"] is None for row in unsure)
        return
    if key == "languages":
        assert {row["drop_reason"] for row in rows if row["language"] not in threshold} == {"language"}
        assert any(row["drop_reason"] is None for row in rows if row["language"] in threshold)
        return
    column, reason, sign = CRITERIA[key]
    if column == "similarity":
        rows = [row for row in rows if (row["language"] == "en") == (key == "min_similarity")]
    passing = [row for row in rows if sign * row[column] >= sign * threshold]
    failing = [row for row in rows if sign * row[column] < sign * threshold]
    earlier = [str(r) for r in list(DropReason)[: list(DropReason).index(reason)]]
    judged = [row for row in failing if row["drop_reason"] not in earlier]
    assert passing
    assert judged, "the stage's output has nothing beyond the threshold"
    assert all(row["drop_reason"] == reason for row in judged)
    assert all(row["drop_reason"] != reason for row in passing)


@pytest.mark.parametrize(
    ("profile", "expected"),
    [
        ("laion400m", {"min_similarity": 0.30, "min_similarity_other": 0.30, "drop_illegal": True}),
        (
            "laion5b",
            {"min_similarity": 0.28, "min_similarity_other": 0.26, "min_language_probability": 0.7, "drop_illegal": True},
        ),
        ("relaion_safe", {"min_similarity": 0.28, "min_similarity_other": 0.26, "max_punsafe": 0.45, "drop_illegal": True}),
        (
            "datacomp_basic",
            {
                "languages": ("en",),
                "min_caption_words": 3,
                "min_caption_chars": 6,
                "min_original_side": 200,
                "max_original_aspect": 3,
                "min_similarity": -1,
                "drop_illegal": False,
                "max_punsafe": None,
            },
        ),
    ],
)
def test_profiles_are_as_published(profile: str, expected: dict[str, Any]) -> None:
    """The numbers of the releases and of DataComp's code, which the profiles' files name."""
    assert {key: getattr(load_settings(profile, environment={}).filter, key) for key in expected} == expected


def test_of_images_that_look_alike_the_best_stays(scored: Manifest) -> None:
    """Best is more pixels as fetched, then the similarity, then the uid; what another criterion drops takes nothing with it."""
    given = ("filter.min_similarity=-1", "filter.min_similarity_other=-1", "filter.min_original_side=200")
    _, before = run(scored, under("demo", *given))
    _, rows = run(scored, under("demo", *given, "filter.near_duplicates=wat_file"))
    passing = {row["uid"] for row in before if row["drop_reason"] is None}
    gone = {row["uid"] for row in rows if row["drop_reason"] == "near_duplicate"}
    assert gone
    assert {row["uid"] for row in rows if row["drop_reason"] is None} == passing - gone
    best = sorted(
        (row for row in rows if row["uid"] in passing and row["pdq_quality"] >= 50),
        key=lambda row: (-row["original_width"] * row["original_height"], -row["similarity"], row["uid"]),
    )
    stay: list[dict[str, Any]] = []
    for row in best:
        alike = [one for one in stay if (int(one["pdq"], 16) ^ int(row["pdq"], 16)).bit_count() <= 31]
        assert bool(alike) == (row["uid"] in gone)
        stay += [] if alike else [row]


@pytest.mark.parametrize("profile", profile_names())
@pytest.mark.parametrize("overrides", OVERRIDES)
def test_the_funnel_from_stored_scores_is_that_of_a_run(
    scored: Manifest, profile: str, overrides: tuple[str, ...], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run(scored, under("demo"))
    done, _ = run(scored, under(profile, *overrides))
    root = Path(split(scored.url)[0].removeprefix("file://")).parents[6]
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    options = [part for text in (*TINY, *overrides) for part in ("--set", text)]
    capsys.readouterr()
    assert command(["funnel", "--root", str(root), "--dataset", "d", "--profile", profile, *options]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    flow = done.flows[0]
    assert found["funnel"]["lines"][-1] == {"stage": "filter", **vars(flow)}
    assert [line["stage"] for line in found["funnel"]["lines"]] == ["extract", "extract", "dedup", "download", "filter"]
    assert found["funnel"]["problems"] == []
    assert ("download.image_size" in found["unlike"]) == (profile not in ("demo", "laion400m"))
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before, "nothing is written"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [((), "ViT-B-32/openai"), ((*TINY, "filter.safety_head=tiny/aesthetic", "filter.max_punsafe=0.5"), "tiny/aesthetic")],
)
def test_scores_of_another_model_do_not_serve(
    scored: Manifest, overrides: tuple[str, ...], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    run(scored, under("demo"))
    work = split(out_of(scored))[0]
    options = [part for text in overrides for part in ("--set", text)]
    assert command(["funnel", work, "--profile", "laion400m", *options]) == 65
    assert said in caplog.text
    assert "Run filter with this profile first: wat2mds filter" in caplog.text


def test_a_dataset_without_scores(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert command(["funnel", "--root", str(tmp_path), "--dataset", "none", "--profile", "demo"]) == 65
    assert "run filter first" in caplog.text
