"""The DAG of lists of pairs: the same vital order as build_dataset's, and the command line that its form makes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import DAG, TriggerRule

from tests.airflow_env import DAGS
from wat2mds_form import IMPORT_PARAMS, PARAMS, import_plan_arguments


@pytest.fixture(scope="module")
def dag() -> DAG:
    return DagBag(dag_folder=str(DAGS / "build_from_metadata.py")).dags["build_from_metadata"]


@pytest.mark.parametrize(
    ("later", "earlier", "why"),
    [
        ("dedup", "import", "pairs are unique within the run only when all of them are known"),
        ("build_wat_file.download", "dedup", "nothing may be downloaded that the ledger has not claimed"),
        ("build_wat_file.upload", "build_wat_file.validate", "nothing unvalidated may reach the store"),
        ("publish", "build_wat_file.upload", "a version names objects that exist"),
        ("report", "publish", "the funnel ends with what was published"),
    ],
)
def test_vital_order(dag, later, earlier, why):
    upstream = dag.get_task(later).get_flat_relative_ids(upstream=True)
    assert earlier in upstream, f"{later} may run before {earlier}: {why}"


def test_the_edges_are_build_datasets_but_for_the_first_stage(dag):
    other = DagBag(dag_folder=str(DAGS / "build_dataset.py")).dags["build_dataset"]

    def edges(one: DAG) -> set[tuple[str, str]]:
        found = {(task.task_id, later) for task in one.tasks for later in task.downstream_task_ids}
        return {(a.replace("import", "extract"), b.replace("import", "extract")) for a, b in found}

    assert edges(dag) == edges(other)


def test_one_failed_file_does_not_hold_the_others_back(dag):
    for task_id in ("dedup", "publish", "report"):
        task = dag.get_task(task_id)
        assert task.trigger_rule == TriggerRule.ALL_DONE_MIN_ONE_SUCCESS
        assert "plan" in task.upstream_task_ids


def test_it_runs_by_hand_only_and_asks_for_files_and_a_name(dag):
    assert dag.schedule is None
    required = [name for name, param in IMPORT_PARAMS.items() if not param.has_value and "null" not in param.schema["type"]]
    assert required == ["files", "name"]
    assert set(PARAMS) - set(IMPORT_PARAMS) == {"snapshot", "segment", "wat_files", "batch"}


def context(**chosen: Any) -> Any:
    params = {name: param.value if param.has_value else None for name, param in IMPORT_PARAMS.items()} | chosen
    return {"params": params, "dag_run": SimpleNamespace(partition_key=None)}


def test_the_form_is_passed_on():
    files = "hf://datasets/laion/relaion400m/*.parquet\n\n /data/lists/own.parquet \n"
    assert import_plan_arguments(context(files=files, name="laion400m")) == [
        "plan-import",
        "--name=laion400m",
        "--",
        "hf://datasets/laion/relaion400m/*.parquet",
        "/data/lists/own.parquet",
    ]
    chosen = context(files="a.parquet", name="coyo", numbers="0-9", dataset="d", min_source_similarity=0.3, min_similarity=-1)
    assert import_plan_arguments(chosen) == [
        "plan-import",
        "--name=coyo",
        "--numbers=0-9",
        "--dataset=d",
        "--set=import.min_similarity=0.3",
        "--set=filter.min_similarity=-1",
        "--set=filter.min_similarity_other=-1",
        "--",
        "a.parquet",
    ]
