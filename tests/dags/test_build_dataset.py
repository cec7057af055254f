"""What must never happen before what, and which command lines a run's form or partition key makes."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import DAG, TriggerRule
from airflow.sdk.exceptions import ParamValidationError

from tests.airflow_env import DAGS
from wat2mds_form import PARAMS, plan_arguments

KEY = "CC-MAIN-2023-50.1700679099281.67.b03"


@pytest.fixture(scope="module")
def dag() -> DAG:
    return DagBag(dag_folder=str(DAGS / "build_dataset.py")).dags["build_dataset"]


@pytest.mark.parametrize(
    ("later", "earlier", "why"),
    [
        ("dedup", "extract", "pairs are unique within the batch only when all of them are known"),
        ("build_wat_file.download", "dedup", "nothing may be downloaded that the ledger has not claimed"),
        ("build_wat_file.convert", "build_wat_file.filter", "only kept samples are converted"),
        ("build_wat_file.convert", "build_wat_file.validate", "a failed critical expectation stops a WAT file before its shards"),
        ("build_wat_file.upload", "build_wat_file.validate", "nothing unvalidated may reach the store"),
        ("publish", "build_wat_file.upload", "a version names objects that exist"),
        ("report", "publish", "the funnel ends with what was published"),
    ],
)
def test_vital_order(dag, later, earlier, why):
    upstream = dag.get_task(later).get_flat_relative_ids(upstream=True)
    assert earlier in upstream, f"{later} may run before {earlier}: {why}"


def test_one_failed_wat_file_does_not_hold_the_others_back(dag):
    for task_id in ("dedup", "publish", "report"):
        task = dag.get_task(task_id)
        assert task.trigger_rule == TriggerRule.ALL_DONE_MIN_ONE_SUCCESS, f"{task_id} must run though a WAT file failed"
        assert "plan" in task.upstream_task_ids, f"{task_id} needs plan itself upstream: its success is the one asked for"


def test_a_wat_file_is_finished_before_the_next_is_begun(dag):
    group = [task for task in dag.tasks if task.task_id.startswith("build_wat_file.")]
    assert len(group) == 5
    for task in group:
        assert task.weight_rule == "upstream", (
            f"{task.task_id}: without weight_rule='upstream' all downloads come first and fill the disk"
        )


def test_only_publish_announces_the_dataset(dag):
    assert {task.task_id for task in dag.tasks if task.outlets} == {"publish"}


def context(partition_key: str | None = None, **chosen: Any) -> Any:
    params = {name: param.value for name, param in PARAMS.items()} | chosen
    return {"params": params, "dag_run": SimpleNamespace(partition_key=partition_key)}


def test_the_untouched_form_builds_one_wat_file_of_the_newest_snapshot():
    assert plan_arguments(context()) == ["plan", "--segment=0", "--wat-files=0"]


def test_a_partition_key_builds_its_whole_batch():
    assert plan_arguments(context(KEY)) == ["plan", f"--partition-key={KEY}"]
    assert plan_arguments(context(batch=KEY)) == ["plan", f"--partition-key={KEY}"]


def test_a_filled_in_form_is_passed_on():
    chosen = {"snapshot": "CC-MAIN-2023-50", "segment": "67", "wat_files": "0-9,17", "profile": "laion5b", "min_similarity": 0.3}
    assert plan_arguments(context(**chosen, image_size=384)) == [
        "plan",
        "--snapshot=CC-MAIN-2023-50",
        "--segment=67",
        "--wat-files=0-9,17",
        "--profile=laion5b",
        "--set=download.image_size=384",
        "--set=filter.min_similarity=0.3",
        "--set=filter.min_similarity_other=0.3",
    ]


def test_settings_without_a_field_are_passed_on_as_written():
    written = "filter.min_similarity=0.5\n\n download.user_agent_token = x=y "
    arguments = plan_arguments(context(KEY, settings=written))
    assert arguments[2:] == ["--set=filter.min_similarity=0.5", "--set=download.user_agent_token = x=y"]
    field = copy.deepcopy(PARAMS["settings"])  # resolving keeps the value
    field.resolve(written)
    with pytest.raises(ParamValidationError):
        field.resolve("min_similarity 0.5")
