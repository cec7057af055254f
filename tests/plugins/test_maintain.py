"""maintain: the command lines of its form, that nothing goes unless told, and Airflow's own cleaning on a real database."""

from __future__ import annotations

import json
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.models import import_all_models
from airflow.models.base import Base
from airflow.models.dagrun import DagRun
from airflow.models.log import Log
from airflow.sdk.exceptions import AirflowSkipException
from airflow.utils.types import DagRunType
from sqlalchemy import create_engine, select
from sqlalchemy.orm import Session

import wat2mds_maintain
from wat2mds_maintain import (
    MAINTAIN_PARAMS,
    DatabaseCleaning,
    LogCleaning,
    database_environment,
    dry_run,
    objects_arguments,
    uploads_arguments,
    work_arguments,
)


def context(**chosen: Any) -> Any:
    return {"params": {name: param.value for name, param in MAINTAIN_PARAMS.items()} | chosen}


def test_nothing_goes_unless_the_form_or_the_deployment_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments in (work_arguments, objects_arguments, uploads_arguments):
        assert "--dry-run" in arguments(context())
        assert "--dry-run" not in arguments(context(dry_run=False))
    monkeypatch.setenv("WAT2MDS_MAINTAIN_REMOVES", "true")
    assert not dry_run(context())
    assert dry_run(context(dry_run=True))


def test_the_form_is_passed_on() -> None:
    chosen = context(dry_run=False, dataset="d", images_days=5)
    assert work_arguments(chosen) == ["clean-work", "d", "--images-after=5d", "--rest-after=30d"]
    assert objects_arguments(chosen) == ["vacuum", "d", "--older-than=7d", "--if-published"]
    assert uploads_arguments(context()) == ["end-uploads", "--older-than=2d", "--dry-run"]


def test_old_rows_go_but_for_the_runs_that_the_timetable_knows_batches_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path / 'airflow.db'}"
    connection = json.dumps({"conn_type": "generic", "password": url})
    monkeypatch.setenv("AIRFLOW_CONN_WAT2MDS_AIRFLOW_DB", connection)
    # What Airflow puts in the place of the address for tasks.
    monkeypatch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "airflow-db-not-allowed:///")
    import_all_models()
    engine = create_engine(url)
    Base.metadata.create_all(engine)
    now = datetime.now(UTC)
    with Session(engine) as session:
        for days in (400, 1):
            when = now - timedelta(days=days)
            run = DagRun(dag_id="build_dataset", run_id=f"r{days}", run_type=DagRunType.SCHEDULED, start_date=when)
            run.run_after = run.queued_at = when
            entry = Log(event=f"e{days}")
            entry.dttm = when
            session.add_all([run, entry])
        session.commit()
    DatabaseCleaning(task_id="database").execute(context(dry_run=False))
    with Session(engine) as session:
        assert sorted(session.scalars(select(DagRun.run_id))) == ["r1", "r400"]
        assert "e400" not in set(session.scalars(select(Log.event))) >= {"e1"}


def test_without_the_databases_address_the_task_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path))
    with pytest.raises(AirflowSkipException, match="connection wat2mds_airflow_db"):
        database_environment()
    (tmp_path / "airflow.cfg").write_text("[database]\nsql_alchemy_conn = sqlite:///here.db\n")
    assert not any(name.endswith("SQL_ALCHEMY_CONN") for name in database_environment())


def test_old_logs_go_with_their_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wat2mds_maintain.conf, "get", lambda *_: str(tmp_path))
    old, fresh = (tmp_path / f"dag_id=d/run_id={n}/task_id=t/attempt=1.log" for n in ("old", "fresh"))
    for path, days in ((old, 100), (fresh, 1), (tmp_path / "scheduler.log", 0)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
        then = time.time() - days * 86_400
        os.utime(path, (then, then))
    task = LogCleaning(task_id="logs")
    assert task.execute(context())["files"] == 1
    assert old.exists()
    task.execute(context(dry_run=False))
    assert not (tmp_path / "dag_id=d/run_id=old").exists()
    assert fresh.exists()
    assert (tmp_path / "scheduler.log").exists()
