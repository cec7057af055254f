"""Runs as a person triggers and follows them on a terminal: one line for each task that ends."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import datetime
from typing import Any, TextIO

from wat2mds.deploy.rest import AirflowClient
from wat2mds.errors import ConfigError
from wat2mds.settings import deployment

MARKS = {"success": "done", "failed": "FAILED", "upstream_failed": "not run", "skipped": "skipped", "removed": "removed"}


log = logging.getLogger(__name__)


def airflow_client() -> AirflowClient:
    """Of this deployment. Raises ConfigError where it names no login."""
    place = deployment()
    if not place.airflow_password:
        raise ConfigError("no login to Airflow: set WAT2MDS_AIRFLOW_URL, WAT2MDS_AIRFLOW_USER and WAT2MDS_AIRFLOW_PASSWORD")
    return AirflowClient(place.airflow_url, place.airflow_user, place.airflow_password, patience=15)


def trigger_and_follow(dag: str, conf: Mapping[str, Any], follow: bool, stream: TextIO) -> dict[str, Any]:
    """Id, state and address of the run; without ``follow`` as it was triggered."""
    with airflow_client() as airflow:
        run_id = airflow.trigger(dag, dict(conf))
        log.info("triggered: %s", airflow.link(dag, run_id))
        state = "queued"
        if follow:
            state = airflow.wait(dag, run_id, on_task=lambda task: show_task(task, stream))["state"]
        return {"run_id": run_id, "state": state, "url": airflow.link(dag, run_id)}


def show_task(task: Mapping[str, Any], stream: TextIO) -> None:
    """One ended task instance, in a line: state, name, WAT file, seconds, tries."""
    name = task["task_id"].rpartition(".")[2]
    label = task.get("rendered_map_index") or ""
    seconds = _seconds(task.get("start_date"), task.get("end_date"))
    tries = f", try {task['try_number']}" if (task.get("try_number") or 1) > 1 else ""
    print(
        f"  {MARKS.get(task['state'], task['state']):<8} {name:<10} {label:<8} {seconds:6.1f} s{tries}", file=stream, flush=True
    )


def _seconds(start: str | None, end: str | None) -> float:
    if not start or not end:
        return 0.0
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()
