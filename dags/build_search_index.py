"""Builds and updates the kNN indices of a dataset: its image and text embeddings, made searchable.

### When it runs
By itself after each publish (the asset `published_dataset`): every index of that dataset is brought to its newest version, and a small
one is made where there is none. New samples' vectors go in, those of samples that are gone go out, without training; an index is trained
anew where its recall fell, or where the number of vectors wants another type of index or another number of lists.

### By hand
*Trigger* works untouched and does the same for the deployment's dataset. *Preset* chooses one index, by the memory that it may take: small,
medium and large can stand side by side for one version. With *Version* the index of an older version is trained.

### What it makes
`search/<version>/<preset>.json` in the dataset's folder, which names the parts of the index below `search/objects/`, and says its type,
its recall@10 against brute force, and how many lists are searched. `wat2mds.search.reading.open_index` opens it memory-mapped.

### When something is red
Its log ends with the reason, whether a retry would help, and the command that reproduces it without Airflow. Nothing is published of an
index that is not whole; the next run begins it anew. Embeddings of several models in one version cannot be compared: the log then names
WAT files of each.

### Backfill
There is none: an index of an older version is built by naming that version in the form.

### Reads, writes, costs
Reads the dataset's embeddings; writes below its `search/`. Training costs some CPU minutes a million vectors. An update costs what its new
WAT files cost and a copy of the index; when a twentieth of the vectors has changed, recall is measured again, which reads all embeddings.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from airflow.sdk import dag

# Our own, light: Airflow puts the plugins folder on the path.
from wat2mds_group import DEFAULT_ARGS, PUBLISHED
from wat2mds_notify import deadline, run_failed
from wat2mds_operator import StageOperator
from wat2mds_search_form import SEARCH_PARAMS, index_arguments


@dag(
    schedule=[PUBLISHED],
    start_date=datetime(2024, 1, 1),
    catchup=False,
    max_active_runs=1,  # two at once would build the same index
    params=SEARCH_PARAMS,
    default_args=DEFAULT_ARGS,
    on_failure_callback=run_failed,
    deadline=deadline(),
    doc_md=__doc__,
    tags=["search"],
)
def build_search_index() -> None:
    StageOperator(task_id="index", stage="index", arguments=index_arguments, execution_timeout=timedelta(hours=12))


build_search_index()
