"""The form of the DAG build_subset, and the command lines of its two tasks.

In: the fields that a person filled in, or the events of published datasets. Out: the arguments of ``wat2mds subset``. Guaranteed: the
untouched form, and a run that a publish started, bring every subset to the newest version; ``check`` writes nothing. What does not belong
here: what a condition may say (``wat2mds subset build`` checks it).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.sdk import Param
from airflow.sdk.exceptions import AirflowFailException

from wat2mds_form import SHARED_PARAMS, chosen_datasets, version_param

if TYPE_CHECKING:
    from airflow.sdk import Context

WHICH, PART, RESULT = "Which subset", "Which part of it", "Result"
# Characters of a condition; this and the presets as in wat2mds/subsets/, which a test compares: its modules load DuckDB.
MOST_CHARS = 50_000
PRESETS = ("en", "multi", "nolang", "laion400m", "high_resolution", "aesthetic", "art", "research_safe", "datacomp_basic")
SUBSET_PARAMS = {
    "name": Param(
        None,
        type=["null", "string"],
        pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$",
        section=WHICH,
        title="Name",
        description=(
            "The subset's name: lower case letters, digits, - and _. One that is known keeps its condition. "
            "Empty: all subsets are brought to the newest version."
        ),
    ),
    "preset": Param(
        None,
        type=["null", "string"],
        enum=[None, *PRESETS],
        section=WHICH,
        title="Preset",
        description="A condition with its source; `wat2mds subset presets` shows them. Give this or a condition, not both.",
    ),
    "where": Param(
        None,
        type=["null", "string"],
        minLength=1,
        maxLength=MOST_CHARS,
        pattern=r"\S",
        format="multiline",
        section=WHICH,
        title="Condition",
        description="SQL over one row's columns, as after WHERE, such as language = 'de' AND similarity > 0.3.",
    ),
    "dataset": SHARED_PARAMS["dataset"],
    "version": version_param(PART),
    "fraction": Param(
        None,
        type=["null", "number"],
        exclusiveMinimum=0,
        maximum=1,
        section=PART,
        title="Fraction",
        description="Share of what is selected, by uid, so that it is the same at each build: 0.1 is one in ten. Empty: all.",
    ),
    "count": Param(
        None,
        type=["null", "integer"],
        minimum=1,
        section=PART,
        title="Count",
        description="Most samples, those with the least uids. Empty: no limit.",
    ),
    "mds": Param(
        False,
        type="boolean",
        section=RESULT,
        title="MDS",
        description="Make MDS shards of the subset's own, by copying samples: nothing is downloaded or encoded.",
    ),
}


def check_arguments(context: Context) -> list[str]:
    """What the run will work on: the count and ten rows of one subset, or the list of all."""
    arguments = subset_arguments(context)
    if arguments[1] == "refresh":
        return ["subset", "list", *arguments[2:]]
    return [*(word for word in arguments if word != "--mds"), "--preview"]


def subset_arguments(context: Context) -> list[str]:
    """One subset by its name, or all of the datasets that were published, or of the one that the form names."""
    params = context["params"]
    if params["name"] is None:
        if filled := [name for name in ("preset", "where", "version", "fraction", "count") if params[name] is not None]:
            raise AirflowFailException(f"the form says {', '.join(filled)}, but not the subset's name: fill in Name")
        return ["subset", "refresh", *(f"--dataset={name}" for name in chosen_datasets(context))]
    chosen = {name: params[name] for name in ("preset", "where", "fraction", "count", "version", "dataset")}
    options = [f"--{name}={value}" for name, value in chosen.items() if value is not None]
    return ["subset", "build", params["name"], *options, *(["--mds"] if params["mds"] else [])]
