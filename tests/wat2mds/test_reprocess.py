"""What of a WAT file would be made anew: by what lies in its work folder."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from wat2mds.plan import expected_digests
from wat2mds.reprocess import STAGE_FOLDERS, forget_lost, outlook
from wat2mds.settings import Settings, load_settings
from wat2mds.store import Store

ALL = ("extract", "dedup", "download", "scores", "filter", "validate", "convert", "upload")
SETTINGS = load_settings("demo", environment={})


def lying(settings: Settings, stages: Iterable[str] = ALL, emptied: Iterable[str] = ()) -> list[str]:
    """Paths in the work folder of a WAT file that was built so far."""
    digests = expected_digests(settings)
    paths = []
    for stage in stages:
        unit = f"{STAGE_FOLDERS[stage]}/{digests[stage]}"
        paths += [f"{unit}.json"] if stage in emptied else [f"{unit}.json", f"{unit}.0123abcd/rows.parquet"]
    return paths


@pytest.mark.parametrize(
    ("lies", "overrides", "made", "lost"),
    [
        ([], [], ALL, ()),
        (lying(SETTINGS), [], (), ()),
        (lying(SETTINGS, emptied=ALL), [], (), ()),  # published and cleaned up: nothing needs them
        (lying(SETTINGS), ["filter.min_similarity=0.9"], ("filter", "validate", "convert", "upload"), ()),
        (lying(SETTINGS), ["filter.clip_model=ViT-B-32"], ("scores", "filter", "validate", "convert", "upload"), ()),
        (lying(SETTINGS), ["convert.shard_bytes=1048576"], ("convert", "upload"), ()),
        (lying(SETTINGS), ["download.image_size=99"], ALL[2:], ()),
        # Another threshold needs the images, which are gone, and the pairs of which they were fetched.
        (lying(SETTINGS, emptied=["download", "convert"]), ["filter.min_similarity=0.9"], ALL[2:], ("download",)),
        (lying(SETTINGS, emptied=["dedup", "download"]), ["filter.min_similarity=0.9"], ALL[1:], ("dedup", "download")),
        # Decisions, checks and shards name their pairs: these are dealt again, and nothing is fetched.
        (lying(SETTINGS, emptied=["dedup"]), ["filter.min_similarity=0.9"], ("dedup", *ALL[4:]), ("dedup",)),
        (lying(SETTINGS, emptied=["scores"]), ["convert.shard_bytes=1048576"], ("scores", "convert", "upload"), ("scores",)),
        (lying(SETTINGS, ALL[:3]), [], ALL[3:], ()),
        (lying(SETTINGS, ALL[:3], emptied=["extract"]), [], ALL[3:], ()),
    ],
)
def test_what_is_made_anew(lies: list[str], overrides: list[str], made: tuple[str, ...], lost: tuple[str, ...]) -> None:
    found = outlook(lies, expected_digests(load_settings("demo", overrides, environment={})))
    assert (found.made, found.lost) == (made, lost)
    assert found.first == (made[0] if made else None)


def test_what_is_lost_and_needed_is_forgotten(tmp_path: Path) -> None:
    other = load_settings("demo", ["filter.min_similarity=0.9"], environment={})
    store = Store(tmp_path.as_uri())
    for path in lying(SETTINGS, emptied=["dedup", "download", "convert"]):
        store.write(path, b"{}")
    unit: Any = {"work": tmp_path.as_uri(), "digests": expected_digests(SETTINGS)}
    assert forget_lost(unit) == (), "under the old settings all is done"
    unit["digests"] = expected_digests(other)
    assert forget_lost(unit) == ("dedup", "download")
    left = {entry.path for entry in store.walk()}
    assert f"download/{unit['digests']['download']}.json" not in left
    assert f"extract/{unit['digests']['extract']}.json" in left
    assert outlook(left, unit["digests"]).lost == ()
