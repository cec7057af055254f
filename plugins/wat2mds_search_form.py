"""The form of the DAG build_search_index, and the command line of its task.

In: the fields that a person filled in, or the events of published datasets. Out: the arguments of ``wat2mds index``. Guaranteed: the
untouched form, and a run that a publish started, bring every kNN index to the newest version, and make a small one where there is none.
What does not belong here: what a preset means.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.sdk import Param
from airflow.sdk.exceptions import AirflowFailException

from wat2mds_form import LIMITS, SHARED_PARAMS, chosen_datasets, version_param

if TYPE_CHECKING:
    from airflow.sdk import Context

WHICH = "Which index"
# As in wat2mds/search/index_types.py, which a test compares.
INDEX_PRESETS = ("small", "medium", "large")
SEARCH_PARAMS = {
    "preset": Param(
        None,
        type=["null", "string"],
        enum=[None, *INDEX_PRESETS],
        section=WHICH,
        title="Preset",
        description=(
            "At most 2, 16 or 128 GB of memory for the images' index, and as much for the texts'. "
            "Empty: those that the dataset has, else small."
        ),
    ),
    "dataset": SHARED_PARAMS["dataset"],
    "version": version_param(WHICH, "The version of the dataset; wants a preset, and trains anew."),
    "threads": Param(
        1,
        type="integer",
        minimum=1,
        maximum=256,
        section=LIMITS,
        title="Threads",
        description="Threads of training and encoding. With 1 the same version gives the same bytes.",
    ),
}


def index_arguments(context: Context) -> list[str]:
    """One index of a version, or all of the datasets that were published, or of the one that the form names."""
    params = context["params"]
    threads = [f"--threads={params['threads']}"] if params["threads"] != 1 else []
    if params["version"] is not None:
        if params["preset"] is None:
            raise AirflowFailException("the form says version, but not which index: choose a preset")
        dataset = [f"--dataset={params['dataset']}"] if params["dataset"] is not None else []
        return ["index", "build", params["preset"], f"--version={params['version']}", *threads, *dataset]
    preset = [params["preset"]] if params["preset"] is not None else []
    return ["index", "update", *preset, *threads, *(f"--dataset={name}" for name in chosen_datasets(context))]
