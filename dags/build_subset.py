"""Builds subsets of a dataset: the samples that a condition over the metadata selects, with MDS shards of their own if asked.

### When it runs
By itself after each publish (the asset `published_dataset`): every subset of that dataset is brought to its newest version, those that
have MDS shards with them. That costs what the new WAT files cost, and nothing where the dataset has no subset.

### By hand
*Trigger* with a *Name* builds that subset: a preset, or a condition in SQL over one row's columns (table *metadata* of the README's data
dictionary), of the newest version or another one, all of it, a fraction or a count. A name that is known needs no condition: it keeps its
own. Without a name all subsets of the dataset are brought to its newest version, as after a publish.

### What it makes
`subsets/<name>/<version>/` in the dataset's folder: sorted uids, the rows under LAION's names, a card, and with *MDS* an index of
shards below `subsets/<name>/mds/`, whose samples are copied out of the dataset's: nothing is downloaded or encoded.
`wat2mds.reading.open_subset` reads them.

### When something is red
`check` runs before anything is written. It is red where the condition is wrong, and its log names the columns that there are; where it
is green its log shows how many samples the condition selects, and ten of them. `build` ends as other tasks do: with the reason, whether
a retry would help, and the command that reproduces it without Airflow; it goes on where it was.

### Backfill
There is none: a subset of an older version is built by naming that version in the form.

### Reads, writes, costs
Reads the dataset's metadata and, for MDS, its shards; writes below its `subsets/`. MDS cost about what copying the selected bytes costs.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from airflow.sdk import chain, dag

# Our own, light: Airflow puts the plugins folder on the path.
from wat2mds_group import DEFAULT_ARGS, PUBLISHED
from wat2mds_notify import deadline, run_failed
from wat2mds_operator import StageOperator
from wat2mds_subset_form import SUBSET_PARAMS, check_arguments, subset_arguments


@dag(
    schedule=[PUBLISHED],
    start_date=datetime(2024, 1, 1),
    catchup=False,
    max_active_runs=1,  # two at once would copy the same samples
    params=SUBSET_PARAMS,
    default_args=DEFAULT_ARGS,
    on_failure_callback=run_failed,
    deadline=deadline(),
    doc_md=__doc__,
    tags=["subset"],
)
def build_subset() -> None:
    check = StageOperator(task_id="check", stage="subset", arguments=check_arguments)
    build = StageOperator(task_id="build", stage="subset", arguments=subset_arguments, execution_timeout=timedelta(hours=12))
    chain(check, build)  # nothing is written for a condition that is wrong


build_subset()
