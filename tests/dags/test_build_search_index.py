"""The DAG of kNN indices: what its form and the events of publishing make of the command line."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk.exceptions import AirflowFailException

from tests.airflow_env import DAGS
from wat2mds.search.index_types import PRESETS
from wat2mds_group import PUBLISHED
from wat2mds_search_form import INDEX_PRESETS, SEARCH_PARAMS, index_arguments


def context(*published: str, **chosen: Any) -> Any:
    params = {name: param.value for name, param in SEARCH_PARAMS.items()} | chosen
    events = [SimpleNamespace(extra={"dataset": url, "version": 3}) for url in published]
    return {"params": params, "triggering_asset_events": {PUBLISHED: events}}


def test_the_untouched_form_and_a_publish_bring_all_indices_to_the_newest_version():
    assert index_arguments(context()) == ["index", "update"]
    form = context("s3://b/root/datasets/one", "s3://b/root/datasets/two", "s3://b/root/datasets/one")
    assert index_arguments(form) == ["index", "update", "--dataset=one", "--dataset=two"]


def test_a_filled_in_form_is_passed_on():
    assert index_arguments(context(preset="large", dataset="d", threads=8)) == [
        *("index", "update", "large", "--threads=8", "--dataset=d"),
    ]
    assert index_arguments(context(preset="small", dataset="d", version=2)) == [
        *("index", "build", "small", "--version=2", "--dataset=d"),
    ]
    with pytest.raises(AirflowFailException, match="choose a preset"):
        index_arguments(context(version=2))


def test_the_forms_presets_are_those_that_there_are():
    assert list(INDEX_PRESETS) == list(PRESETS), "name every preset in wat2mds_search_form.INDEX_PRESETS"


def test_it_follows_the_published_dataset():
    dag = DagBag(dag_folder=str(DAGS / "build_search_index.py")).dags["build_search_index"]
    assert dag.max_active_runs == 1
    assert dag.schedule == [PUBLISHED]
