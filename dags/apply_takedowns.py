"""Takes listed samples out of a dataset for good: out of every version, index, subset and file, and never in again.

### When it runs
Once a day, to complete what is not complete: a takedown that was interrupted, or that left WAT files alone because a run was at work on
them. With nothing to complete it looks for what such runs have left since, and is green.

### By hand
Name *Lists*: uids, image URLs, domains (with their subdomains), pages, or hashes of images (md5, sha1, sha256, PDQ). *Reports* takes what
visitors of the search page reported: look through it first, `reports/takedown/` in the dataset's folder. The form is a dry run: the
task's log says how many samples would go, by kind of entry, with some uids and with the entries that name nothing. Set *Dry run* to
false then.

### What it does
It records what is listed, as hashes: from then on nothing of it is published any more. A new version is published without it, in which
only shards that held it are written anew; release view, card, kNN indices and subsets follow. Older versions that held it are withdrawn
with their objects, and intermediate files go. `takedowns/N/report.json` in the dataset's folder says what was found and done.
`wat2mds verify --absent LIST` proves it, object by object.

### When something is red
Clear the task, or wait: each step can be repeated, and the next run completes it. While WAT files wait for a run at work the task is green
and its log names them; *Alone* says that no run is at work.

### Backfill
There is none: what is not complete follows from the records.

### Reads, writes, costs
Reads the compared columns of all published metadata: of ten million samples in minutes. Writes what held a listed sample: a shard, the WAT
file's embeddings and metadata, and the indices.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from airflow.sdk import dag

# Our own, light: Airflow puts the plugins folder on the path.
from wat2mds_group import DEFAULT_ARGS
from wat2mds_notify import deadline, run_failed
from wat2mds_operator import StageOperator
from wat2mds_takedown_form import TAKEDOWN_PARAMS, takedown_arguments


@dag(
    schedule="@daily",
    start_date=datetime(2024, 1, 1),
    catchup=False,
    max_active_runs=1,  # two at once would rewrite the same shards
    params=TAKEDOWN_PARAMS,
    default_args=DEFAULT_ARGS,
    on_failure_callback=run_failed,
    deadline=deadline(),
    doc_md=__doc__,
    tags=["maintenance"],
)
def apply_takedowns() -> None:
    StageOperator(task_id="takedown", stage="takedown", arguments=takedown_arguments, execution_timeout=timedelta(hours=12))


apply_takedowns()
