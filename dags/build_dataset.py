"""Builds one batch of a LAION-style image-text dataset: WAT files of one Common Crawl segment, from pairs to published MDS shards.

### When it runs
By itself, once for each batch of every registered snapshot whose partition date is not before the deployment's
`WAT2MDS_SCHEDULE_FROM`, earliest first. The partition key names the batch: `CC-MAIN-2023-50.1700679099281.67.b03` is the fourth
batch of up to 60 WAT files of that segment. A snapshot is registered by `wat2mds snapshots register CC-MAIN-2023-50`.

### By hand
*Trigger* works untouched and builds one WAT file of the newest registered snapshot. The form chooses what else: snapshot, segment, WAT
files as ranges (`0-9,17`) or a whole batch, profile, image size and the rest. A field left empty keeps the profile's value.
With a partition key, or one in the field *Batch*, the run builds that whole batch. The task `plan` logs what the run will
cover, with an estimate of pairs, hours and bytes.

### Backfill
`airflow backfill create --dag-id build_dataset --from-date 2023-12-01 --to-date 2023-12-31 --dry-run` lists one run a batch; a batch's date
is its snapshot's end date plus its running number in minutes. A stage whose settings and inputs did not change does nothing.

### When something is red
The failed task's log ends with the reason, whether a retry would help, and the command that reproduces it without Airflow. One failed WAT
file does not hold the others back: what is whole is published, `report` names what is missing and is red beyond `allowed_failed_share`.
Clear the failed task with its downstream tasks: only the missing WAT file is built, and a further version is published.

### Reads, writes, costs
Reads WAT files from the deployment's source and images from the web; writes below the store's root, `WAT2MDS_ROOT`. A WAT file takes
some minutes of extraction and up to hours of downloading and scoring; the pools `downloads` and `scoring` bound how many at a time.
"""

from __future__ import annotations

from datetime import datetime

from airflow.sdk import chain, dag

# Our own, light: Airflow puts the plugins folder on the path.
from wat2mds_form import PARAMS, plan_arguments, report_arguments
from wat2mds_group import DEFAULT_ARGS, GATHER, PUBLISHED, WAT_FILE, build_wat_file
from wat2mds_notify import deadline, run_failed
from wat2mds_operator import StageOperator
from wat2mds_timetable import BatchTimetable


@dag(
    schedule=BatchTimetable(),
    start_date=datetime(2008, 1, 1),  # Common Crawl's first year; what runs by itself is bounded by WAT2MDS_SCHEDULE_FROM
    catchup=True,
    max_active_runs=2,
    max_active_tasks=64,  # pools are the limit
    params=PARAMS,
    default_args=DEFAULT_ARGS,
    on_failure_callback=run_failed,
    deadline=deadline(),
    doc_md=__doc__,
    tags=["build", "common-crawl"],
)
def build_dataset() -> None:
    plan = StageOperator(task_id="plan", stage="plan", arguments=plan_arguments, returns="units")
    extract = StageOperator.partial(task_id="extract", stage="extract", map_index_template=WAT_FILE).expand(units=plan.output)
    dedup = StageOperator(task_id="dedup", stage="dedup", units=plan.output, trigger_rule=GATHER)
    built = build_wat_file.expand(unit=plan.output)
    publish = StageOperator(task_id="publish", stage="publish", units=plan.output, trigger_rule=GATHER, outlets=[PUBLISHED])
    report = StageOperator(task_id="report", stage="report", units=plan.output, arguments=report_arguments, trigger_rule=GATHER)
    # Units travel by value from `plan`; this is the order of the manifests that they leave.
    chain(extract, dedup, built, publish, report)


build_dataset()
