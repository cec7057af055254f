"""Makes room: intermediate files, unreferenced objects, unfinished uploads, Airflow's own records and logs. Lists first, removes when told.

### When it runs
Once a week, as a dry run: each task lists what would go, with its size, and removes nothing. With the deployment's
`WAT2MDS_MAINTAIN_REMOVES=true` the weekly runs remove it.

### By hand
*Trigger* works untouched and is a dry run. Look at the tasks' logs, then trigger again with *Dry run* set to false. The ages are fields.

### What goes
`work`: images of published WAT files, downloaded ones and those in local shards, when nobody worked on the WAT file for some days, and its
other intermediate files after some weeks. Manifests stay: what is done stays done. Where a later run needs the files (other
thresholds need the images) its `plan` says so and they are made again; for images that is the download. `objects`: what no standing
version of the dataset names (`wat2mds vacuum`). `uploads`: multipart uploads to S3 that nobody finished. `database`: old rows, by
`airflow db clean`. Runs stay, a small row each, because the timetable knows by them which batches ran: never clean `dag_run` of
`build_dataset` by hand, or its whole schedule runs again. `logs`: old log files of the machine that the task runs on.

### Backfill
There is none: what may go follows from ages.

### When something is red
Clear the task: each part stands alone, and what was removed is not missed. Airflow keeps its database from tasks: where its address is
not in `airflow.cfg`, the task `database` is skipped until there is a connection `wat2mds_airflow_db` with the URL as its password.

### Reads, writes, costs
Lists all objects of the dataset: of a million that takes some minutes, and S3 bills a thousand listings.
"""

from __future__ import annotations

from datetime import datetime

from airflow.sdk import dag

# Our own, light: Airflow puts the plugins folder on the path.
from wat2mds_group import DEFAULT_ARGS
from wat2mds_maintain import (
    MAINTAIN_PARAMS,
    DatabaseCleaning,
    LogCleaning,
    objects_arguments,
    uploads_arguments,
    work_arguments,
)
from wat2mds_notify import deadline, run_failed
from wat2mds_operator import StageOperator


@dag(
    schedule="@weekly",
    start_date=datetime(2024, 1, 1),
    catchup=False,
    max_active_runs=1,
    params=MAINTAIN_PARAMS,
    default_args=DEFAULT_ARGS,
    on_failure_callback=run_failed,
    deadline=deadline(),
    doc_md=__doc__,
    tags=["maintenance"],
)
def maintain() -> None:
    StageOperator(task_id="work", stage="clean-work", arguments=work_arguments)
    StageOperator(task_id="objects", stage="vacuum", arguments=objects_arguments)
    StageOperator(task_id="uploads", stage="end-uploads", arguments=uploads_arguments)
    DatabaseCleaning(task_id="database")
    LogCleaning(task_id="logs")


maintain()
