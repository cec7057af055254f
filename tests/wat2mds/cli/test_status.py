"""``wat2mds status`` as a process: runs from Airflow's REST API, the figures of their downloads from the store."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from wat2mds.figures import Figures
from wat2mds.layout import progress_path
from wat2mds.settings import child_environment
from wat2mds.store import Store, join

FIGURES = Figures(done=50, total=200, fetched=50, images=40, rate=2.5, size=1_500_000, hosts=7, dropped={"http_404": 10})
TASK = {"task_id": "build_wat_file.download", "end_date": None, "try_number": 1}


@pytest.fixture
def airflow(tmp_path: Path) -> Iterator[str]:
    """Answers as Airflow 3.3's API does, for one run of three WAT files: two downloads run, of one of which nothing is known yet."""
    units = [{"wat_file": f"{n:05d}", "work": (tmp_path / f"{n:05d}").as_uri(), "digests": {"download": "d1"}} for n in range(3)]
    run = "/api/v2/dags/build_dataset/dagRuns/manual__1"
    states = ["success", "running", "running"]
    answers = {
        "/auth/token": {"access_token": "t"},
        "/api/v2/dags/build_dataset/dagRuns": {
            "dag_runs": [
                {"dag_run_id": "manual__0", "state": "success", "queued_at": "2026-11-20T00:00:00+00:00", "run_type": "manual"},
                {"dag_run_id": "manual__1", "state": "running", "queued_at": "2026-11-21T00:00:00+00:00", "run_type": "backfill"},
            ],
            "total_entries": 2,
        },
        "/api/v2/backfills": {
            "backfills": [
                {"id": 1, "completed_at": "2026-11-20T00:00:00+00:00"},
                {"id": 2, "completed_at": None, "created_at": "2026-11-20T12:00:00+00:00", "is_paused": False},
            ],
            "total_entries": 2,
        },
        f"{run}/taskInstances": {
            "task_instances": [{**TASK, "map_index": number, "state": state} for number, state in enumerate(states)],
            "total_entries": 3,
        },
        f"{run}/taskInstances/plan/xcomEntries/return_value": {"value": units},
    }

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = answers.get(urlsplit(self.path).path)
            body = json.dumps(answer).encode()
            self.send_response(404 if answer is None else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    Store(join(units[1]["work"], "download")).write(progress_path("d1"), FIGURES.to_json())  # type: ignore[arg-type]
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_status_shows_how_downloads_are_doing(airflow: str) -> None:
    environment = child_environment(WAT2MDS_AIRFLOW_URL=airflow, WAT2MDS_AIRFLOW_PASSWORD="secret")
    done = subprocess.run(
        [sys.executable, "-m", "wat2mds", "status"], capture_output=True, text=True, timeout=60, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["runs"] == {"manual__0": "success", "manual__1": "running"}
    assert told["backfills"] == {"2": {"running": 1}}
    (figures,) = told["downloads"]["manual__1"].values()
    assert Figures.of(figures)[0] == FIGURES
    assert FIGURES.told() in done.stderr
    assert "WAT file 00002: no figures yet" in done.stderr
