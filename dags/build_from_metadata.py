"""Builds a dataset from lists of pairs that exist already: LAION-400M, LAION-5B, Re-LAION, DataComp, COYO and others, as parquet files.

### When it runs
By hand only. Each parquet file takes the place of a WAT file: `import` stands where `extract` does in `build_dataset`, and from `dedup` on
both take the same road, over the same ledger: a pair that the dataset holds from Common Crawl is not built again from a list.

### By hand
*Files* and *Name* have no default: name the files, one a line, as paths or URLs (`file:`, `s3:`, `http(s):`, or
`hf://datasets/laion/relaion400m/file.parquet` on the Hugging Face hub), a folder, or a pattern with `*`; and give the import a name such as
`laion400m`. At most 60 files make one run; *Numbers* chooses among more. A gated dataset wants a token, `WAT2MDS_HUB_TOKEN`.
Columns are recognised by a table of known layouts; a file of another layout fails, and says which columns it has and which
layouts are known. The early LAION releases' swapped WIDTH and HEIGHT are swapped back.

### Backfill
There is none: it is not scheduled. Trigger it again with more files, or with other settings: a stage whose settings and inputs did not
change does nothing, and a file keeps the number that it got first.

### When something is red
The failed task's log ends with the reason, whether a retry would help, and the command that reproduces it without Airflow. An
interrupted fetch goes on from where it broke off. One failed file does not hold the others back: what is whole is published, `report`
names what is missing and is red beyond `allowed_failed_share`. Clear the failed task with its downstream tasks.

### Reads, writes, costs
Reads the files from where they are and images from the web; writes below the store's root, `WAT2MDS_ROOT`. What the list states of each
pair (sizes, scores, hashes) is kept beside the pairs, in `imported.parquet`, and never stands in for our own scores.
"""

from __future__ import annotations

from airflow.sdk import chain, dag

# Our own, light: Airflow puts the plugins folder on the path.
from wat2mds_form import IMPORT_PARAMS, import_plan_arguments, report_arguments
from wat2mds_group import DEFAULT_ARGS, GATHER, PUBLISHED, WAT_FILE, build_wat_file
from wat2mds_notify import deadline, run_failed
from wat2mds_operator import StageOperator


@dag(
    schedule=None,
    max_active_runs=2,
    max_active_tasks=64,  # pools are the limit
    params=IMPORT_PARAMS,
    default_args=DEFAULT_ARGS,
    on_failure_callback=run_failed,
    deadline=deadline(),
    doc_md=__doc__,
    tags=["build", "import"],
)
def build_from_metadata() -> None:
    plan = StageOperator(task_id="plan", stage="plan", arguments=import_plan_arguments, returns="units")
    imported = StageOperator.partial(task_id="import", stage="import", map_index_template=WAT_FILE).expand(units=plan.output)
    dedup = StageOperator(task_id="dedup", stage="dedup", units=plan.output, trigger_rule=GATHER)
    built = build_wat_file.expand(unit=plan.output)
    publish = StageOperator(task_id="publish", stage="publish", units=plan.output, trigger_rule=GATHER, outlets=[PUBLISHED])
    report = StageOperator(task_id="report", stage="report", units=plan.output, arguments=report_arguments, trigger_rule=GATHER)
    # Units travel by value from `plan`; this is the order of the manifests that they leave.
    chain(imported, dedup, built, publish, report)


build_from_metadata()
