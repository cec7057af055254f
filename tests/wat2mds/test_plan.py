"""Plans: ranges, the chain of digests, and command lines that can be pasted."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.wat2mds.test_snapshots import NAME, SEGMENT, mirror
from wat2mds.errors import ConfigError
from wat2mds.plan import choose_wat_files, estimate, expected_digests, key_of, parse_ranges, plan_run, stage_arguments
from wat2mds.settings import STAGES, load_settings
from wat2mds.snapshots import Registry


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    made = Registry(str(tmp_path / "store"))
    made.register(NAME, **mirror(tmp_path))
    return made


def test_ranges() -> None:
    assert parse_ranges("0-3, 17,2") == [0, 1, 2, 3, 17]
    for bad in ("", "3-1", "a", "1-", "-1", "1,,2"):
        with pytest.raises(ConfigError, match=r"runs backwards|numbers and ranges"):
            parse_ranges(bad)


def test_what_a_person_chose(registry: Registry) -> None:
    snapshot, segment, batch, files = choose_wat_files(
        registry, partition_key=None, snapshot=None, segment="67", wat_files="0-1,17"
    )
    assert (snapshot.id, segment, batch) == (NAME, SEGMENT, f"{NAME}.{SEGMENT}.manual")
    assert [f.number for f in files] == ["00000", "00001", "00017"]
    with pytest.raises(ConfigError, match="WAT files 0 to 129"):
        choose_wat_files(registry, partition_key=None, snapshot=NAME, segment="0", wat_files="130")
    with pytest.raises(ConfigError, match="at most a batch of 60"):
        choose_wat_files(registry, partition_key=None, snapshot=NAME, segment="0", wat_files="0-60")


def test_a_changed_setting_changes_that_stage_and_what_follows() -> None:
    base = expected_digests(load_settings("demo", environment={}))

    def changed(setting: str) -> set[str]:
        return {s for s, d in expected_digests(load_settings("demo", [setting], environment={})).items() if d != base[s]}

    after_filter = {"filter", "validate", "convert", "upload"}
    assert changed("filter.min_similarity=0.9") == after_filter
    assert changed("filter.precision=bf16") == {"scores", *after_filter}
    assert changed("download.image_size=99") == {"download", "scores", *after_filter}
    assert changed("extract.min_caption_chars=9") == set(base)
    assert changed("validate.min_download_success=0.5") == {"validate", "convert", "upload"}, (
        "what passed other rules is no longer passed"
    )
    assert changed("convert.shard_bytes=1000000") == {"convert", "upload"}
    assert changed("download.threads=2") == set()


def test_a_plan_is_uris_and_its_commands_name_the_manifests(registry: Registry, tmp_path: Path) -> None:
    settings = load_settings("demo", environment={})
    chosen = choose_wat_files(registry, partition_key=f"{NAME}.{SEGMENT}.b02", snapshot=None, segment="", wat_files="")
    units = plan_run(str(tmp_path / "store"), "demo", settings, chosen)
    assert len(units) == 10
    unit = units[3]
    assert unit["source"].endswith(f"-{unit['wat_file']}.warc.wat.gz")
    assert unit["batch"] == f"{NAME}.{SEGMENT}.b02"
    for stage in STAGES:
        arguments = stage_arguments(stage, units if stage == "dedup" else unit)
        assert arguments[0] == stage
        assert arguments[arguments.index("--settings") + 1] == unit["settings"]
    assert stage_arguments("filter", unit)[1] == f"{unit['work']}/download/{unit['digests']['download']}.json"
    publish = stage_arguments("publish", units)
    assert [key_of(a) for a in publish[1:11]] == [f"{NAME}.{SEGMENT}.{u['wat_file']}" for u in units]
    with pytest.raises(ConfigError, match="no WAT file"):
        plan_run(str(tmp_path / "store"), "demo", settings, (*chosen[:3], []))
    with pytest.raises(ConfigError, match="there is no stage"):
        stage_arguments("polish", unit)


def test_the_estimate_names_its_units() -> None:
    assert estimate(60, 16) == (
        "if they are of full size: about 24,000,000 pairs, 5.2 hours of download on 16 cores, 576.0 GB of images before filtering"
    )
