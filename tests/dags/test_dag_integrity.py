"""Rules for every DAG. Each message says how to mend what it found."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import timedelta

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import DAG
from airflow.serialization.serialized_objects import DagSerialization

from tests.airflow_env import DAGS, INCLUDE, PLUGINS
from wat2mds.settings import profile_names, setting_keys
from wat2mds.stage_settings import DownloadSettings
from wat2mds_form import IMPORT_PARAMS, PARAMS, REFRESH_PARAMS, RETRY_PARAMS
from wat2mds_maintain import MAINTAIN_PARAMS
from wat2mds_notify import deadline, run_failed
from wat2mds_search_form import SEARCH_PARAMS
from wat2mds_subset_form import SUBSET_PARAMS
from wat2mds_takedown_form import TAKEDOWN_PARAMS

DAG_IDS = {
    "apply_takedowns",
    "build_dataset",
    "build_from_metadata",
    "build_search_index",
    "build_subset",
    "maintain",
    "refresh_snapshots",
    "retry_downloads",
}
FORMS = (IMPORT_PARAMS, MAINTAIN_PARAMS, PARAMS, REFRESH_PARAMS, RETRY_PARAMS, SEARCH_PARAMS, SUBSET_PARAMS, TAKEDOWN_PARAMS)
POOLS = {"default_pool", "downloads", "scoring"}  # made by wat2mds.deploy.launcher
HEAVY = ["numpy", "pyarrow", "pandas", "torch", "img2dataset", "great_expectations", "streaming", "deltalake", "boto3"]


@pytest.fixture(scope="module")
def dagbag() -> DagBag:
    return DagBag(dag_folder=str(DAGS))


@pytest.fixture(scope="module", params=sorted(DAG_IDS))
def dag(request: pytest.FixtureRequest, dagbag: DagBag) -> DAG:
    return dagbag.dags[request.param]


def test_all_dags_are_found_and_import(dagbag):
    assert not dagbag.import_errors, "\n".join(f"{file}:\n{error}" for file, error in dagbag.import_errors.items())
    assert set(dagbag.dags) == DAG_IDS, "a DAG came or went: name it in DAG_IDS here and in the README's table (make docs)"


def test_it_serialises_and_deserialises(dag):
    data = json.loads(json.dumps(DagSerialization.to_dict(dag)))
    DagSerialization.validate_schema(data)
    again = DagSerialization.from_dict(data)
    assert again.task_ids == dag.task_ids, f"{dag.dag_id} changes when serialised: the scheduler would run another DAG"
    assert dag.schedule is None or type(again.timetable).__name__ == type(dag.timetable).__name__


@pytest.mark.parametrize("file", sorted(DAGS.glob("*.py")), ids=lambda file: file.name)
def test_importing_a_dag_file_loads_nothing_heavy(file):
    program = (
        f"import runpy, sys; sys.path[:0] = [{str(PLUGINS)!r}, {str(INCLUDE)!r}]\n"
        f"import airflow.sdk; before = set(sys.modules); runpy.run_path({str(file)!r})\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules and name not in before])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded = done.stdout.splitlines()[-1]
    assert loaded == "[]", f"{file.name} loads {loaded} each time it is parsed: import inside the task, or in the stage's program"


def test_people_are_told_of_its_runs(dag):
    assert dag.on_failure_callback is run_failed
    assert dag.deadline == [deadline()]


def test_it_says_what_it_is(dag):
    assert dag.doc_md, f"{dag.dag_id} has no doc_md: pass doc_md=__doc__ and write the docstring as the operator's manual"
    assert len(dag.doc_md) > 500, f"{dag.dag_id}: when does it run, by hand, backfill, when red, what does it read and write?"
    assert dag.tags, f"{dag.dag_id} has no tags: the first is its family"


def test_every_task_is_bounded(dag):
    for task in dag.tasks:
        where = f"{dag.dag_id}.{task.task_id}"
        assert 1 <= task.retries <= 5, f"{where}: retries between 1 and 5; stages resume, so more only hides trouble"
        assert task.retry_exponential_backoff, f"{where}: set retry_exponential_backoff"
        assert task.execution_timeout, f"{where}: set execution_timeout, or it may hang for ever"
        assert task.execution_timeout <= timedelta(hours=24), f"{where}: no unit of work takes a day"
        assert task.pool in POOLS, f"{where}: pool {task.pool!r} is not made by the launcher; known: {sorted(POOLS)}"
        assert task.owner == "wat2mds", f"{where}: set owner"


def test_mapped_tasks_are_labelled_with_their_wat_file(dag):
    for task in dag.tasks:
        if task.is_mapped or task.get_closest_mapped_task_group():
            assert task.map_index_template == "{{ task.wat_file }}", (
                f"{dag.dag_id}.{task.task_id} is mapped: set map_index_template=WAT_FILE, or people read '17' for a WAT file"
            )


def test_the_form_agrees_with_the_settings():
    assert PARAMS["profile"].schema["enum"] == [None, "laion400m", "laion5b", "relaion_safe", "datacomp_basic", "demo"]
    assert set(PARAMS["profile"].schema["enum"]) - {None} == set(profile_names()), "name every profile in wat2mds_form.PARAMS"
    modes = DownloadSettings.model_json_schema()["properties"]["resize_mode"]["enum"]
    assert PARAMS["resize_mode"].schema["enum"] == [None, *modes], "name every resize mode in wat2mds_form.PARAMS"
    from wat2mds_form import IMPORT_SETTINGS

    unknown = {key for keys in IMPORT_SETTINGS.values() for key in keys} - set(setting_keys())
    assert not unknown, f"the form sets what does not exist: {unknown}"


def test_every_field_of_the_form_is_explained():
    for name, param in [field for form in FORMS for field in form.items()]:
        assert param.schema.get("title"), f"param {name}: give it a title"
        assert param.description, f"param {name}: give it a description"
        assert param.schema.get("section"), f"param {name}: give it a section"
        bounded = {"enum", "pattern", "minimum", "exclusiveMinimum"} & set(param.schema) or param.schema["type"] == "boolean"
        assert bounded, f"param {name}: bound it by an enum, a pattern or a minimum"
        if param not in (IMPORT_PARAMS["files"], IMPORT_PARAMS["name"]):  # the only ones that must be filled in
            param.resolve()  # the untouched form is valid
