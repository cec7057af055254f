"""What the DAGs that build datasets have in common: the task group of one WAT file, and how tasks are tried and gathered.

In: the units that ``plan`` hands out. Guaranteed: a WAT file is finished before the next is begun, as far as the pools allow. What does
not belong here: a DAG's own order, form and schedule.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import Asset, TriggerRule, chain, task_group

from wat2mds_operator import StageOperator

# Without a URI: one with a scheme loads every provider's handlers, boto3 among them, each time the file is parsed. The address is
# in the event's extra.
PUBLISHED = Asset("published_dataset")
WAT_FILE = "{{ task.wat_file }}"
# What gathers runs once all before it has ended, however it ended, and reads manifests. `plan` is upstream of each of them and is the
# one success that is asked for: without it there is nothing to gather.
GATHER = TriggerRule.ALL_DONE_MIN_ONE_SUCCESS
DEFAULT_ARGS = {
    "owner": "wat2mds",
    # Stages resume where they were, so a retry costs what is missing. The pauses double: about 15 s to 4 min.
    "retries": 4,
    "retry_delay": timedelta(seconds=15),
    "retry_exponential_backoff": 2.0,
    "max_retry_delay": timedelta(minutes=10),
    "execution_timeout": timedelta(hours=2),
    "pool": "default_pool",
    # Celery's queues, for workers of their own: one with bandwidth and disk, one with a GPU. The LocalExecutor has none.
    "queue": "default",
}


@task_group(default_args={"map_index_template": WAT_FILE, "weight_rule": "upstream"})
def build_wat_file(unit: Any) -> None:
    """One WAT file, depth first: what is further along goes first, which bounds the images on disk."""
    download = StageOperator(
        task_id="download",
        stage="download",
        units=unit,
        pool="downloads",
        queue="download",
        execution_timeout=timedelta(hours=12),
    )
    score = StageOperator(
        task_id="filter", stage="filter", units=unit, pool="scoring", queue="gpu", execution_timeout=timedelta(hours=12)
    )
    validate = StageOperator(task_id="validate", stage="validate", units=unit)
    convert = StageOperator(task_id="convert", stage="convert", units=unit)
    upload = StageOperator(task_id="upload", stage="upload", units=unit)
    chain(download, score, validate, convert, upload)  # each reads the manifest of the one before
