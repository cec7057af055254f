"""Asks again for images of published WAT files that failed in a way that may pass, and publishes what is gained beside the rest.

### When it runs
Once a day. A failure of class *transient* (the table of drop reasons in the README says which) is due 1, 3 and 7 days after it was last
asked for, by the setting `download.retry_days`; after the last pause it is given up. Nothing of class permanent or policy is
ever asked for again: no 404 or 410, nothing that robots.txt or a header forbids. With nothing due the run is green and its tasks
are skipped.

### By hand
*Trigger* works untouched and takes what is due of the deployment's dataset; *Early* takes also what still has to wait.
`wat2mds retry-failed` does the same and follows the run; `wat2mds status --failures` lists what failed, with the time that each is due.

### What it makes
Each WAT file's due failures are a unit of their own, `00017-r1` for the first retry of WAT file 00017, which takes the same road as any:
download, filter, validate, convert, upload, publish, with the settings that the WAT file was published with. At most 60 WAT files
make one run; the others wait for the next. The ledger is not asked: the WAT file holds the claims already.

### Backfill
There is none: what is due follows from the newest version, not from a date. When a WAT file is published anew, with other
settings, it takes the place of its retries as well: nothing is published twice, and what it failed to get is due again.

### When something is red
As in `build_dataset`: the failed task's log ends with the reason, whether a retry would help, and the command that reproduces it without
Airflow. What is whole is published. Clear the failed task, or wait: the next run plans the same units again and goes on with them.

### Reads, writes, costs
Reads the lists below `outcomes/` that publishing leaves, and images from the web; writes below the store's root, `WAT2MDS_ROOT`.
"""

from __future__ import annotations

from datetime import datetime

from airflow.sdk import chain, dag

# Our own, light: Airflow puts the plugins folder on the path.
from wat2mds_form import RETRY_PARAMS, report_arguments, retry_plan_arguments
from wat2mds_group import DEFAULT_ARGS, GATHER, PUBLISHED, WAT_FILE, build_wat_file
from wat2mds_notify import deadline, run_failed
from wat2mds_operator import StageOperator


@dag(
    schedule="@daily",
    start_date=datetime(2024, 1, 1),
    catchup=False,
    max_active_runs=1,  # two at once would plan, and ask for, the same failures
    max_active_tasks=64,  # pools are the limit
    params=RETRY_PARAMS,
    default_args=DEFAULT_ARGS,
    on_failure_callback=run_failed,
    deadline=deadline(),
    doc_md=__doc__,
    tags=["build", "retry"],
)
def retry_downloads() -> None:
    plan = StageOperator(task_id="plan", stage="plan", arguments=retry_plan_arguments, returns="units", may_be_empty=True)
    retry = StageOperator.partial(task_id="retry", stage="retry", map_index_template=WAT_FILE).expand(units=plan.output)
    built = build_wat_file.expand(unit=plan.output)
    publish = StageOperator(task_id="publish", stage="publish", units=plan.output, trigger_rule=GATHER, outlets=[PUBLISHED])
    report = StageOperator(task_id="report", stage="report", units=plan.output, arguments=report_arguments, trigger_rule=GATHER)
    # Units travel by value from `plan`; this is the order of the manifests that they leave.
    chain(retry, built, publish, report)


retry_downloads()
