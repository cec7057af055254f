"""The DAG of takedowns: what its form makes of the command line, and a run of it on a published dataset."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk.exceptions import AirflowFailException

from tests.airflow_env import DAGS
from wat2mds.takedown.entries import KINDS as KNOWN
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


def test_one_at_a_time():
    dag = DagBag(dag_folder=str(DAGS / "apply_takedowns.py")).dags["apply_takedowns"]
    assert dag.max_active_runs == 1
