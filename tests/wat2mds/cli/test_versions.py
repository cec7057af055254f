"""The commands about versions, on a dataset that was really published."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.wat2mds.stages.conftest import build_wat_file
from wat2mds.cli.main import run as run_command
from wat2mds.settings import Settings
from wat2mds.stages import convert, publish, upload
from wat2mds.store import Layout, Store
from wat2mds.versions import read_index, read_version

SETTINGS = Settings()


@pytest.fixture
def dataset(tmp_path: Path) -> str:
    """Three versions, of one, two and three WAT files."""
    url = Layout((tmp_path / "root").as_uri(), "demo").dataset
    for number in range(3):
        made = build_wat_file(url, f"{number:05}", count=4, failed=1, dropped=1, first=number * 100)
        converted = convert.run(made.samples, made.decisions, made.out("convert"), SETTINGS)
        publish.run([upload.run(converted, url, made.out("upload"), SETTINGS)], url, SETTINGS)
    return url


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> Callable[..., tuple[int, Any, str]]:
    """Exit code, the last line's object, and what was logged."""

    def called(*arguments: str) -> tuple[int, Any, str]:
        caplog.clear()
        code = run_command(list(arguments))
        lines = capsys.readouterr().out.splitlines()
        return code, json.loads(lines[-1]) if lines else None, caplog.text

    return called


def test_a_version_from_opening_to_vacuum(dataset: str, call: Callable[..., tuple[int, Any, str]], tmp_path: Path) -> None:
    root = (tmp_path / "root").as_uri()
    assert call("versions", "list", "demo", "--root", root)[1]["versions"] == {"1": 2, "2": 4, "3": 6}
    code, opened, _ = call("versions", "open", dataset, "--version", "2", "--local", str(tmp_path / "cache"))
    assert (code, opened["samples"]) == (0, 4)
    assert (tmp_path / "cache" / "index.json").read_bytes() == read_index(dataset, read_version(dataset, 2))

    code, found, _ = call("versions", "withdraw", dataset, "--keep-last", "1", "--reason", "too old")
    assert (code, [entry["number"] for entry in found["withdrawn"]]) == (0, [1, 2])
    listed = call("versions", "list", dataset)[1]
    assert (listed["versions"], listed["withdrawn"]) == ({"3": 6}, [1, 2])
    code, _, said = call("versions", "open", dataset, "--version", "1", "--local", str(tmp_path / "other"))
    assert code == 65
    assert "version 1 of" in said
    assert "(too old). The next that stands is 3" in said
    assert not (tmp_path / "other").exists()

    assert call("vacuum", dataset)[1]["objects"] == 0
    code, planned, _ = call("vacuum", dataset, "--older-than", "0s", "--alone", "--dry-run")
    # The two versions' lists, merged indexes and what is derived of them: their shards stand in the third.
    beside = [o.path for number in (1, 2) for o in Store(dataset).walk(f"versions/{number:06d}")]
    goes = [path for path in beside if not path.endswith(("version.json", "withdrawn.json"))]
    assert (code, planned["objects"]) == (0, len(goes) + 2)
    assert call("vacuum", dataset, "--older-than", "0s", "--alone")[1]["bytes"] == planned["bytes"]
    assert call("verify", dataset)[1]["samples"] == 6


def test_what_is_derived_is_rebuilt(dataset: str, call: Callable[..., tuple[int, Any, str]]) -> None:
    Store(dataset).delete("index.json")
    code, found, said = call("verify", dataset)
    assert (code, len(found["problems"])) == (65, 1)
    assert "index.json is missing" in said
    publish.refresh_derived(dataset)
    assert call("verify", dataset)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("versions", "withdraw", "DATASET", "--reason", "x"), 78, "either --version N, once or more, or --keep-last N"),
        (("versions", "withdraw", "DATASET", "--version", "3", "--reason", "x"), 65, "is the newest of"),
        (("vacuum", "DATASET", "--older-than", "1h"), 78, "--alone"),
        (("vacuum", "DATASET", "--older-than", "soon"), 78, "such as 7d or 36h"),
        (("vacuum", "file:///elsewhere"), 78, "is not a dataset's folder"),
        (("verify", "DATASET", "--version", "4"), 65, "there is no version 4. Known: 1, 2, 3."),
        (("verify", "DATASET-none"), 65, "nothing has been published there yet"),
    ],
)
def test_errors(
    dataset: str, call: Callable[..., tuple[int, Any, str]], arguments: tuple[str, ...], code: int, said: str
) -> None:
    found = call(*(argument.replace("DATASET", dataset) for argument in arguments))
    assert found[0] == code
    assert said in found[2]
