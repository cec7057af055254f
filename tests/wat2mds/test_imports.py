"""Which files an import covers, and that each keeps its number."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from wat2mds.errors import ConfigError, DataError
from wat2mds.imports import find_files, hub_address, number_files
from wat2mds.plan import expected_digests, first_stage, key_of, plan_import, stage_arguments
from wat2mds.settings import load_settings
from wat2mds.store import Store
from wat2mds.world.origin import Answer, Origin

HUB = "https://huggingface.co"


def test_files_folders_and_patterns(tmp_path: Path, s3_root: str) -> None:
    for name in ("part-1.parquet", "part-0.parquet", "other.parquet", "README.md"):
        (tmp_path / name).write_bytes(b"x")
        Store(s3_root).write(name, b"x")
    base = tmp_path.as_uri()
    assert find_files([str(tmp_path)], HUB) == [f"{base}/{n}" for n in ("other.parquet", "part-0.parquet", "part-1.parquet")]
    assert find_files([f"{s3_root}/part-*.parquet"], HUB) == [f"{s3_root}/part-0.parquet", f"{s3_root}/part-1.parquet"]
    assert find_files([str(tmp_path / "part-1.parquet"), f"{tmp_path}/p*"], HUB) == [
        f"{base}/part-1.parquet",
        f"{base}/part-0.parquet",
    ]
    given = "https://example.org/a.parquet#sha256=" + "0" * 64
    signed = "https://example.org/a.parquet?signature=x"
    assert find_files([given, signed, given], HUB) == [given, signed]
    assert find_files([f"{tmp_path}/other.parquet#sha256=00"], HUB) == [f"{base}/other.parquet#sha256=00"]
    with pytest.raises(DataError, match=r"holds no \.parquet file"):
        find_files([str(tmp_path / "*.csv")], HUB)
    with pytest.raises(ConfigError, match="cannot be listed"):
        find_files(["https://example.org/lists/"], HUB)


def test_addresses_on_the_hub() -> None:
    assert hub_address("hf://datasets/a/b/c/d.parquet", HUB) == f"{HUB}/datasets/a/b/resolve/main/c/d.parquet"
    assert hub_address("hf://datasets/a/b@v2/d.parquet", HUB) == f"{HUB}/datasets/a/b/resolve/v2/d.parquet"
    with pytest.raises(ConfigError, match="no address on the hub"):
        hub_address("hf://models/a/b", HUB)


def test_a_folder_on_the_hub() -> None:
    listing = [{"type": "file", "path": "data/b.parquet"}, {"type": "file", "path": "data/a.parquet"}]
    listing += [{"type": "file", "path": "data/README.md"}, {"type": "directory", "path": "data/c.parquet"}]

    def answer(host: str, target: str) -> Answer | None:
        return Answer(json.dumps(listing).encode()) if target == "/api/datasets/a/b/tree/main/data" else None

    with Origin(answer) as origin:
        hub = f"http://{origin.address}"
        found = find_files(["hf://datasets/a/b/data"], hub)
        assert found == ["hf://datasets/a/b/data/a.parquet", "hf://datasets/a/b/data/b.parquet"]
        assert find_files(["hf://datasets/a/b/data/b*"], hub) == found[1:]
        with pytest.raises(DataError, match="does not exist"):
            find_files(["hf://datasets/a/none/data"], hub)


def test_a_file_keeps_its_number(store_url: str) -> None:
    assert number_files(store_url, "d", "laion", ["b", "c"]) == [("00000", "b"), ("00001", "c")]
    assert number_files(store_url, "d", "laion", ["a", "b", "c"]) == [("00000", "b"), ("00001", "c"), ("00002", "a")]
    assert number_files(store_url, "d", "laion", ["c"]) == [("00001", "c")]
    assert number_files(store_url, "d", "other", ["c"]) == [("00000", "c")]


def test_a_plan_begins_with_import_and_goes_on_as_all_do(tmp_path: Path) -> None:
    settings = load_settings("demo", environment={})
    root = tmp_path.as_uri()
    units = plan_import(root, "demo", settings, "laion400m", [("00000", "s3://l/a.parquet"), ("00007", "s3://l/b.parquet")])
    unit = units[1]
    assert (first_stage(unit), unit["batch"], unit["source"]) == ("import", "laion400m.import", "s3://l/b.parquet")
    assert stage_arguments("import", unit)[:2] == ["import", "s3://l/b.parquet"]
    assert stage_arguments("dedup", units)[2] == f"{unit['work']}/import/{unit['digests']['import']}.json"
    assert "--first-stage" in stage_arguments("report", units)
    assert key_of(stage_arguments("publish", units)[2]) == "laion400m.0.0.00007"

    def changed(setting: str) -> set[str]:
        other = expected_digests(load_settings("demo", [setting], environment={}), "import")
        return {stage for stage, digest in other.items() if digest != unit["digests"][stage]}

    assert changed("import.min_similarity=0.3") == changed("extract.min_caption_chars=9") == set(unit["digests"])
    assert changed("import.hub=http://127.0.0.1/") == set()
    with pytest.raises(ConfigError, match="cannot be an import's name"):
        plan_import(root, "demo", settings, "CC-MAIN-2024-10", [("00000", "a")])
    with pytest.raises(ConfigError, match="cannot be an import's name"):
        plan_import(root, "demo", settings, "laion.400m", [("00000", "a")])
    with pytest.raises(ConfigError, match="at most 60"):
        plan_import(root, "demo", settings, "l", [(f"{i:05d}", str(i)) for i in range(61)])
    with pytest.raises(ConfigError, match="nothing to build"):
        plan_import(root, "demo", settings, "l", [])
