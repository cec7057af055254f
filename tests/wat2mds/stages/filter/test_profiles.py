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
from wat2mds.settings import Settings, profile_names, read_profile
from wat2mds.stages import filter as stage
from wat2mds.store import split

# Setting that is a threshold: the score's column, the reason, whether it is a least or a most value.
CRITERIA = {
    "min_similarity": ("similarity", DropReason.LOW_SIMILARITY, 1),
    "min_similarity_other": ("similarity", DropReason.LOW_SIMILARITY, 1),
    "max_punsafe": ("punsafe", DropReason.UNSAFE, -1),
    "max_pwatermark": ("pwatermark", DropReason.WATERMARKED, -1),
    "min_aesthetic": ("aesthetic", DropReason.LOW_AESTHETIC, 1),
}
# Thresholds that a profile names, and some that none does.
NAMED = [(p, key) for p in profile_names() for key in read_profile(p)["filter"] if key in (*CRITERIA, "min_language_probability")]
OVERRIDES = [
    (),
    ("filter.min_similarity=0.6", "filter.min_similarity_other=0.1"),
    ("filter.max_punsafe=0.02", "filter.max_pwatermark=0.01", "filter.min_aesthetic=5.5"),
    ("filter.languages=en,de", "filter.min_language_probability=0.9"),
    ("filter.max_punsafe=", "filter.safety_head="),
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
    assert ("download.image_size" in found["unlike"]) == (profile in ("laion5b", "relaion_safe"))
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
