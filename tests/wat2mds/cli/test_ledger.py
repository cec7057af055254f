"""``wat2mds ledger`` on a small dataset."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.wat2mds.stages.dedup.test_dedup import SETTINGS, pairs_of
from wat2mds.cli.main import run as command
from wat2mds.manifest import Manifest
from wat2mds.stages import dedup
from wat2mds.store import Layout, join


def deduplicate(layout: Layout, *pairs: Manifest) -> list[int]:
    out = join(layout.dataset, "work", "S", "1.0", "{wat_file}", "dedup")
    return [manifest.flows[0].left for manifest in dedup.run(pairs, layout.ledger, out, SETTINGS)]


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    capsys.readouterr()
    assert command(["ledger", *arguments]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


def test_status_rebuild_release(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layout = Layout(str(tmp_path), "d")
    place = ("--root", str(tmp_path), "--dataset", "d")
    one, two = (
        pairs_of(join(layout.dataset, "work"), name, [f"n{i}" for i in range(100, 180, step)])
        for name, step in (("00000", 1), ("00001", 2))
    )
    assert deduplicate(layout, one, two) == [80, 0]
    status = said(capsys, "status", *place)
    assert (status["keys"], status["bins"]) == (80, 4)
    assert status["filters"]["false_positive_rate"] <= 1e-6
    for bloom in tmp_path.rglob("*.bloom"):
        bloom.unlink()
    assert said(capsys, "rebuild", *place)["filters"] == 4
    assert said(capsys, "status", *place)["keys"] == 80
    release = ("release", *place, "--snapshot", "S", "--segment", "1.0", "--wat-files")
    assert said(capsys, *release, "0")["released"] == 80
    assert said(capsys, *release, "0,7-9")["released"] == 0
    assert said(capsys, "status", *place)["keys"] == 0
    (tmp_path / "datasets/d/work/S/1.0/00001/dedup").rename(tmp_path / "elsewhere")
    assert deduplicate(layout, two) == [40]
    assert deduplicate(layout, one) == [40], "its earlier result was removed with its claims"


def test_without_a_ledger(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert command(["ledger", "status", "--root", str(tmp_path), "--dataset", "d"]) == 65
    assert "no batch of this dataset has been deduplicated" in caplog.text
