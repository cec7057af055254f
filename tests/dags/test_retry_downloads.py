"""The DAG of retries: the same vital order as build_dataset's from download on, and the command line that its form makes."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import DAG, TriggerRule

from tests.airflow_env import DAGS
from wat2mds_form import RETRY_PARAMS, retry_plan_arguments


@pytest.fixture(scope="module")
def dag() -> DAG:
    return DagBag(dag_folder=str(DAGS / "retry_downloads.py")).dags["retry_downloads"]


def test_the_edges_are_build_datasets_without_dedup(dag):
    other = DagBag(dag_folder=str(DAGS / "build_dataset.py")).dags["build_dataset"]

    def edges(one: DAG) -> set[tuple[str, str]]:
        return {(task.task_id, later) for task in one.tasks for later in task.downstream_task_ids}

    # Its pairs are claimed already, by their WAT file.
    assert edges(dag) == {(a.replace("dedup", "retry"), b) for a, b in edges(other) if b != "dedup" and a != "extract"} - {
        ("plan", "extract"),
    } | {("plan", "retry")}


def test_one_run_at_a_time_daily_and_what_is_whole_is_published(dag):
    assert dag.max_active_runs == 1
    assert not dag.catchup
    for task_id in ("publish", "report"):
        assert dag.get_task(task_id).trigger_rule == TriggerRule.ALL_DONE_MIN_ONE_SUCCESS
    assert dag.get_task("plan").may_be_empty, "nothing due is no failure"


def test_the_form_is_passed_on():
    def arguments(**chosen: Any) -> list[str]:
        params = {name: param.value for name, param in RETRY_PARAMS.items()} | chosen
        return retry_plan_arguments({"params": params})

    assert arguments() == ["plan-retries"]
    chosen = arguments(dataset="d", early=True, processes=2)
    assert chosen == ["plan-retries", "--dataset=d", "--early", "--set=download.processes=2"]
