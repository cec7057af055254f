"""``wat2mds backfill``: what it shows before it asks Airflow, what it asks, and Airflow's limits. A server answers as Airflow 3.3's API."""

from __future__ import annotations

import gzip
import json
import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.wat2mds.test_reprocess import SETTINGS, lying
from wat2mds.cli.main import run
from wat2mds.errors import ConfigError
from wat2mds.settings import load_settings
from wat2mds.snapshots import Registry, Snapshot
from wat2mds.store import Layout, Store, join

OLDER, NEWER = "CC-MAIN-2024-10", "CC-MAIN-2024-18"
SEGMENTS = [f"17079474733{n:02d}.{n}" for n in (2, 0, 1)]


@dataclass
class Airflow:
    """What it is in, and what it was asked to make."""

    store: Registry
    paused: bool = False
    active: bool = False
    ran: set[str] = field(default_factory=set)
    made: list[dict[str, Any]] = field(default_factory=list)

    def answer(self, method: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
        if path == "/auth/token":
            return {"access_token": "t"}
        if path == "/api/v2/dags/build_dataset":
            return {"is_paused": self.paused}
        if method == "GET":
            open_one = {"id": 7, "from_date": "a", "to_date": "b", "completed_at": None}
            return {"backfills": [open_one] if self.active else [], "total_entries": int(self.active)}
        begin, end = (datetime.fromisoformat(body[name]) for name in ("from_date", "to_date"))
        batches = [b for s in self.store.snapshots() for b in s.batches() if begin <= b.partition_date <= end]
        keys = [b.partition_key for b in batches if b.partition_key not in self.ran or body["reprocess_behavior"] != "none"]
        if path.endswith("dry_run"):
            return {"backfills": [{"partition_key": key} for key in keys]}
        self.made.append({**body, "keys": keys})
        return {"id": 8, **body}


@pytest.fixture
def airflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Airflow]:
    """Two snapshots of three segments of two batches of two WAT files."""
    root = (tmp_path / "store").as_uri()
    registry = Registry(root)
    ends = {OLDER: "2024-03-05T00:00:00", NEWER: "2024-04-25T00:00:00"}
    entries = [{"id": name, "from": "2024-02-01T00:00:00", "to": end} for name, end in ends.items()]
    (tmp_path / "collinfo.json").write_text(json.dumps(entries))
    for name in ends:
        place = tmp_path / "crawl-data" / name
        place.mkdir(parents=True)
        lines = [f"crawl-data/{name}/segments/{s}/wat/CC-MAIN-2-3-{n:05d}.warc.wat.gz" for s in SEGMENTS for n in range(4)]
        (place / "wat.paths.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
        registry.register(name, collinfo=str(tmp_path / "collinfo.json"), source=str(tmp_path), batch_size=2)
    state = Airflow(registry)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            found = state.answer(self.command, self.path.partition("?")[0], json.loads(content or b"{}"))
            body = json.dumps(found).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    variables = {
        "AIRFLOW_URL": f"http://127.0.0.1:{server.server_address[1]}", "AIRFLOW_PASSWORD": "secret",
        "ROOT": root, "PROFILE": "demo", "DATASET": "d",
    }  # fmt: skip
    for name, value in variables.items():
        monkeypatch.setenv(f"WAT2MDS_{name}", value)
    yield state
    server.shutdown()
    server.server_close()


def built(airflow: Airflow, key: str, **how: Any) -> None:
    """A batch's WAT files as past runs left them."""
    snapshot, segment, files = airflow.store.batch(key)
    dataset = Layout(airflow.store.store.url.rpartition("/")[0], "d").dataset
    for file in files:
        store = Store(join(dataset, "work", snapshot.id, segment.name, file.number))
        for path in lying(SETTINGS, **how):
            store.write(path, b"{}")


def keys(airflow: Airflow, name: str) -> list[str]:
    return [batch.partition_key for batch in airflow.store.get(name).batches()]


def asked(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert run(["backfill", *arguments]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


def refused(caplog: pytest.LogCaptureFixture, *arguments: str) -> str:
    caplog.clear()
    assert run(["backfill", *arguments]) == ConfigError.exit_code
    return caplog.text


def test_a_dry_run_shows_each_run_and_makes_none(airflow: Airflow, capsys, caplog) -> None:
    caplog.set_level(logging.INFO)
    done, gone, *others = keys(airflow, OLDER)
    built(airflow, done)
    built(airflow, gone, emptied=("dedup", "download", "convert"))
    looked = asked(capsys, "--from", OLDER, "--to", NEWER, "--set", "filter.min_similarity=0.9", "--dry-run")
    assert looked["runs"] == 12
    assert looked["batches"][done] == {"wat_files": 2, "done": 0, "from": {"filter": 2}}
    assert looked["batches"][gone] == {"wat_files": 2, "done": 0, "from": {"dedup": 2}}
    assert looked["batches"][others[0]]["from"] == {"extract": 2}
    assert f"would run {done}: 2 WAT files: 2 from filter" in caplog.text
    assert (
        "Intermediate files are gone (retention) and are made again: dedup of 2 WAT files, download of 2 WAT files" in caplog.text
    )
    assert "TB" in looked["estimate"]
    assert airflow.made == []
    # Under the settings that it was built with there is nothing to do.
    assert asked(capsys, "--from", OLDER, "--dry-run")["batches"][gone] == {"wat_files": 2, "done": 2, "from": {}}


def test_what_airflow_is_asked(airflow: Airflow, capsys) -> None:
    first = keys(airflow, OLDER)[0]
    airflow.ran = {first}
    asked(capsys, "--from", OLDER)
    overrides = ["filter.min_similarity=0.9", "filter.min_similarity_other=0.9"]
    given = ["--set", overrides[0], "--set", overrides[1], "--from-stage", "filter", "--max-active-runs", "3"]
    asked(capsys, "--from", OLDER, "--to", NEWER, "--dataset", "other", *given)
    none, completed = airflow.made
    assert (none["reprocess_behavior"], none["dag_run_conf"], first in none["keys"], len(none["keys"])) == ("none", {}, False, 5)
    assert (completed["reprocess_behavior"], completed["max_active_runs"], len(completed["keys"])) == ("completed", 3, 12)
    assert completed["dag_run_conf"] == {"dataset": "other", "settings": "\n".join(overrides)}


def test_segments_are_chosen_by_their_numbers(airflow: Airflow, capsys, caplog) -> None:
    asked(capsys, "--from", OLDER, "--segments", "0-1")
    assert {key.split(".")[2] for key in airflow.made[0]["keys"]} == {"0", "1"}
    assert len(airflow.made[0]["keys"]) == 4
    assert "this one holds 1 other segments" in refused(caplog, "--from", OLDER, "--segments", "0,2")
    assert "--segments is for one snapshot" in refused(caplog, "--from", OLDER, "--to", NEWER, "--segments", "0")
    assert "have the numbers 0 to 2" in refused(caplog, "--from", OLDER, "--segments", "7")


def test_airflows_limits_are_told(airflow: Airflow, caplog) -> None:
    airflow.paused = True
    assert "is paused" in refused(caplog, "--from", OLDER)
    airflow.paused, airflow.active = False, True
    assert "backfill 7 of build_dataset is still active" in refused(caplog, "--from", OLDER)
    airflow.active, airflow.ran = False, set(keys(airflow, OLDER))
    assert "--reprocess completed" in refused(caplog, "--from", OLDER)
    assert "--from names the older one" in refused(caplog, "--from", NEWER, "--to", OLDER)
    assert airflow.made == []


def test_nothing_before_the_stage_is_redone_because_of_settings(airflow: Airflow, caplog) -> None:
    key = keys(airflow, OLDER)[0]
    built(airflow, key)
    image_size = "download.image_size=99"
    said = refused(caplog, "--from", OLDER, "--from-stage", "filter", "--set", image_size)
    assert "changes download, which comes before filter: give --from-stage download" in said
    assert "Did you mean 'filter'" in refused(caplog, "--from", OLDER, "--from-stage", "filtre")
    assert load_settings("demo", environment={}).extract != load_settings("demo", ["extract.min_caption_chars=9"]).extract
    said = refused(caplog, "--from", OLDER, "--from-stage", "filter", "--profile", "laion5b")
    assert f"{key} would be redone from" in said
    assert airflow.made == []


def test_a_snapshot_of_before_there_was_a_seed_has_its_segments_by_listing() -> None:
    now = datetime(2024, 1, 1, tzinfo=UTC)
    from wat2mds.cli.backfill import _range
    from wat2mds.snapshots import Segment

    old = Snapshot("CC-MAIN-2024-10", now, now, now, 2, "", tuple(Segment(name, 4) for name in SEGMENTS), None)
    assert _range((old, old), "0-1")[0] > old.end
    with pytest.raises(ConfigError, match="holds 1 other segments"):
        _range((old, old), "1-2")
