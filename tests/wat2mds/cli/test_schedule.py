"""``wat2mds schedule`` before and after the schedule is switched on, and ``refresh-snapshots`` as the DAG calls it."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from tests.wat2mds.test_snapshots import NAME, mirror
from wat2mds.cli.main import run
from wat2mds.errors import ConfigError, TransientError


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A deployment of an empty store, beside a mirror of one snapshot of 2 segments with 130 WAT files each."""
    where = mirror(tmp_path)
    variables = {"ROOT": (tmp_path / "store").as_uri(), "COLLINFO": where["collinfo"], "SOURCE": where["source"]}
    for name, value in variables.items():
        monkeypatch.setenv(f"WAT2MDS_{name}", value)
    return tmp_path


def asked(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert run(list(arguments)) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


def test_refresh_says_what_was_registered_and_why_the_others_were_not(root: Path, capsys, monkeypatch) -> None:
    left = asked(capsys, "refresh-snapshots")
    assert (left["registered"], left["listed"], left["known"]) == ([], 1, 0)
    assert "lists 2 segments, a whole snapshot has 100" in left["left"][NAME]
    monkeypatch.setenv("WAT2MDS_SNAPSHOT_SEGMENTS", "2")
    assert asked(capsys, "refresh-snapshots", "--dry-run")["registered"] == [NAME]
    assert asked(capsys, "refresh-snapshots")["registered"] == [NAME]
    assert asked(capsys, "refresh-snapshots") == {
        "listed": 1,
        "known": 1,
        "registered": [],
        "left": {},
        "awaited": "",
        "dry_run": False,
    }
    (root / "collinfo.json").unlink()
    assert run(["refresh-snapshots"]) == TransientError.exit_code, "to be tried again"


def test_what_would_run_is_shown_before_it_is_switched_on(root: Path, capsys, caplog, monkeypatch) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("WAT2MDS_SNAPSHOT_SEGMENTS", "2")
    asked(capsys, "refresh-snapshots")
    assert asked(capsys, "schedule")["estimate"] is None
    assert "Nothing runs by itself" in caplog.text
    looked = asked(capsys, "schedule", "--from", "2023-12-01", "--covers", "30%")
    assert looked["snapshots"][NAME]["batches"] == 2
    assert looked["snapshots"][NAME]["of_batches"] == 6
    assert "hours of download" in looked["estimate"]
    assert "TB" in looked["estimate"]
    assert not looked["set"]
    assert "WAT2MDS_SCHEDULE_FROM=2023-12-01T00:00:00+00:00 WAT2MDS_SCHEDULE_COVERS=30%" in caplog.text
    assert asked(capsys, "schedule", "--from", "2023-12-01")["wat_files"] == 260
    assert asked(capsys, "schedule", "--from", "2024-01-01")["snapshots"] == {}
    monkeypatch.setenv("WAT2MDS_SCHEDULE_FROM", "2023-12-01")
    monkeypatch.setenv("WAT2MDS_SCHEDULE_COVERS", "segments:67")
    assert asked(capsys, "schedule")["set"]
    assert asked(capsys, "schedule")["wat_files"] == 130
    for wrong in (("--covers", "lots"), ("--from", "soon")):
        assert run(["schedule", *wrong]) == ConfigError.exit_code
    monkeypatch.setenv("WAT2MDS_SCHEDULE_COVERS", "lots")
    assert run(["schedule"]) == ConfigError.exit_code
