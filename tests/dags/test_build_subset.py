"""The DAG of subsets: what its form and the events of publishing make of the command line; nothing is written before it is checked."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowFailException

from tests.airflow_env import DAGS
from wat2mds.subsets import predicate
from wat2mds.subsets.definition import presets
from wat2mds_group import PUBLISHED
from wat2mds_subset_form import PRESETS, SUBSET_PARAMS, check_arguments, subset_arguments


@pytest.fixture(scope="module")
def dag() -> DAG:
    return DagBag(dag_folder=str(DAGS / "build_subset.py")).dags["build_subset"]


def context(*published: str, **chosen: Any) -> Any:
    params = {name: param.value for name, param in SUBSET_PARAMS.items()} | chosen
    events = [SimpleNamespace(extra={"dataset": url, "version": 3}) for url in published]
    return {"params": params, "triggering_asset_events": {PUBLISHED: events}}


def test_a_condition_is_checked_before_anything_is_written(dag):
    assert "check" in dag.get_task("build").upstream_task_ids
    assert dag.get_task("build").trigger_rule == "all_success"
    form = context(name="big", where="original_width >= 1024", mds=True)
    assert check_arguments(form) == ["subset", "build", "big", "--where=original_width >= 1024", "--preview"]
    assert subset_arguments(form) == ["subset", "build", "big", "--where=original_width >= 1024", "--mds"]


def test_a_filled_in_form_is_passed_on():
    form = context(name="art-en", preset="art", fraction=0.1, count=1000, version=2, dataset="laion")
    options = ["--preset=art", "--fraction=0.1", "--count=1000", "--version=2", "--dataset=laion"]
    assert subset_arguments(form) == ["subset", "build", "art-en", *options]


def test_the_untouched_form_brings_all_subsets_to_the_newest_version():
    assert subset_arguments(context()) == ["subset", "refresh"]
    assert check_arguments(context()) == ["subset", "list"]
    assert subset_arguments(context(dataset="laion")) == ["subset", "refresh", "--dataset=laion"]


def test_a_publish_refreshes_the_datasets_that_were_published():
    form = context("s3://b/root/datasets/one", "s3://b/root/datasets/two", "s3://b/root/datasets/one")
    assert subset_arguments(form) == ["subset", "refresh", "--dataset=one", "--dataset=two"]


@pytest.mark.parametrize("field", [{"where": "true"}, {"preset": "en"}, {"version": 1}, {"count": 3}, {"fraction": 0.5}])
def test_a_form_without_a_name_is_refused_where_it_says_more(field):
    with pytest.raises(AirflowFailException, match=f"says {next(iter(field))}, but not the subset's name"):
        subset_arguments(context(**field))


def test_the_forms_presets_are_those_that_there_are():
    assert list(PRESETS) == list(presets()), "name every preset in wat2mds_subset_form.PRESETS"


def test_the_form_takes_a_condition_as_long_as_the_library_does():
    assert SUBSET_PARAMS["where"].schema["maxLength"] == predicate.MOST_CHARS, "wat2mds_subset_form.MOST_CHARS is another"


def test_it_follows_the_published_dataset(dag):
    assert dag.max_active_runs == 1
    assert dag.schedule == [PUBLISHED]
