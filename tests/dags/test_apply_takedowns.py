"""The DAG of takedowns: what its form makes of the command line, and a run of it on a published dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk.exceptions import AirflowFailException

from tests.airflow_env import DAGS
from tests.wat2mds.search.conftest import bring
from wat2mds.store import Layout
from wat2mds.takedown.entries import KINDS as KNOWN
from wat2mds.versions import read_version
from wat2mds_takedown_form import KINDS, TAKEDOWN_PARAMS, takedown_arguments


def context(**chosen: Any) -> Any:
    return {"params": {name: param.value for name, param in TAKEDOWN_PARAMS.items()} | chosen}


def test_the_untouched_form_and_the_schedule_complete_what_is_begun():
    assert takedown_arguments(context()) == ["takedown"]
    assert takedown_arguments(context(dataset="d", alone=True)) == ["takedown", "d", "--alone"]


def test_what_is_listed_is_a_dry_run_unless_the_form_says_otherwise():
    assert takedown_arguments(context(lists="s3://b/l.csv")) == [
        "takedown",
        "--list=s3://b/l.csv",
        "--reason=asked for",
        "--dry-run",
    ]
    form = context(lists="a.txt\nb.txt", kind="url", reports=True, reason="mail", pdq_distance=31, dry_run=False, dataset="d")
    assert takedown_arguments(form) == [
        *("takedown", "d", "--list=a.txt", "--list=b.txt", "--reports", "--reason=mail", "--kind=url", "--pdq-distance=31"),
    ]
    with pytest.raises(AirflowFailException, match="names no list"):
        takedown_arguments(context(kind="url"))


def test_the_forms_kinds_are_those_that_there_are():
    assert set(KINDS) == set(KNOWN), "name every kind in wat2mds_takedown_form.KINDS"


def test_its_task_shows_then_takes_down_then_has_nothing_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The DAG's own task, by the command that it runs, on a published dataset."""
    dataset = Layout(tmp_path.as_uri(), "small").dataset
    bring(dataset, "00000", 20)
    monkeypatch.setenv("WAT2MDS_ROOT", tmp_path.as_uri())
    dag = DagBag(dag_folder=str(DAGS / "apply_takedowns.py")).dags["apply_takedowns"]
    assert dag.max_active_runs == 1
    task = dag.get_task("takedown")
    (tmp_path / "urls.txt").write_text("https://images0.example.org/0.jpg\n")
    form = {"lists": str(tmp_path / "urls.txt"), "kind": "url", "dataset": "small", "alone": True}
    before = read_version(dataset).samples
    assert task.execute(context(**form))["samples"] == 1
    assert read_version(dataset).number == 1
    task.execute(context(**form, dry_run=False))
    assert (read_version(dataset).number, read_version(dataset).samples) == (2, before - 1)
    assert task.execute(context(dataset="small"))["takedowns"] == []
