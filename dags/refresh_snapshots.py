"""Looks daily for new snapshots of Common Crawl, and registers those that are whole.

### When it runs
Once a day. It reads Common Crawl's list of snapshots (`WAT2MDS_COLLINFO`) and, of each that is not registered yet, its `wat.paths.gz`
(below `WAT2MDS_SOURCE`: an `http(s):` or `s3:` URL, or a folder). A snapshot that lists no WAT files yet, or fewer segments than a
whole one has (`WAT2MDS_SNAPSHOT_SEGMENTS`), is left for the next day; the log and the task's result say why of each. From its registration
on a snapshot's batches run by themselves in `build_dataset`, as far as `WAT2MDS_SCHEDULE_FROM` and `WAT2MDS_SCHEDULE_COVERS` say;
`wat2mds schedule` shows how many hours and terabytes that is. No restart is needed.

Where the newest snapshot of the list has no `wat.paths.gz` yet and the source is on S3, `wait_for_listing` waits for it, six hours at
most, in the triggerer, where it costs no slot; then `register` takes the snapshot the same day. Otherwise both are skipped, and say why. A
source on S3 is asked with the store's credentials (connection `wat2mds_store`).

### By hand
*Trigger* works untouched. *Dry run* only says what would be registered. `wat2mds refresh-snapshots` does the same without Airflow;
`wat2mds snapshots register NAME` takes one snapshot by its name, whole or not.

### Backfill
There is none: what is new follows from the list and the registry, not from a date.

### When something is red
The list, a listing or an entry of the registry could not be read or is malformed: nothing was changed, and the log names it. What may pass
is tried again with growing pauses; what is malformed is not. Until then the schedule goes by what is registered.

### Reads, writes, costs
Reads a list of some 40 KB and, once for each new snapshot, a listing of some 300 KB; writes both kinds of entry below the store's
`registry/`. The first run on an empty registry takes all of Common Crawl's hundred-odd snapshots, in a few minutes.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from airflow.sdk import chain, dag

# Our own, light: Airflow puts the plugins folder on the path.
from wat2mds_form import REFRESH_PARAMS, refresh_arguments
from wat2mds_group import DEFAULT_ARGS
from wat2mds_listing import AWAITED, ListingSensor
from wat2mds_notify import deadline, run_failed
from wat2mds_operator import StageOperator


@dag(
    schedule="@daily",
    start_date=datetime(2024, 1, 1),
    catchup=False,
    max_active_runs=1,
    params=REFRESH_PARAMS,
    default_args=DEFAULT_ARGS,
    on_failure_callback=run_failed,
    deadline=deadline(),
    doc_md=__doc__,
    tags=["snapshots", "common-crawl"],
)
def refresh_snapshots() -> None:
    refresh = StageOperator(task_id="refresh", stage="refresh-snapshots", arguments=refresh_arguments)
    wait = ListingSensor(task_id="wait_for_listing", listing=AWAITED, wait=timedelta(hours=6))
    register = StageOperator(task_id="register", stage="refresh-snapshots", arguments=refresh_arguments)
    chain(refresh, wait, register)  # `refresh` names the listing that is waited for, `register` takes it


refresh_snapshots()
