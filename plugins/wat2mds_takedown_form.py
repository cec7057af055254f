"""The form of the DAG apply_takedowns, and the command line of its task.

In: the fields that a person filled in. Out: the arguments of ``wat2mds takedown``. Guaranteed: the untouched form, and a scheduled run,
list nothing: they complete what was asked for before. What is listed is a dry run unless the form says otherwise. What does not belong
here: what a list holds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.sdk import Param
from airflow.sdk.exceptions import AirflowFailException

from wat2mds_form import SHARED_PARAMS

if TYPE_CHECKING:
    from airflow.sdk import Context

WHAT, HOW = "What to take down", "How"
# As in wat2mds/takedown/entries.py, which a test compares.
KINDS = ("uid", "md5", "sha1", "sha256", "pdq", "url", "domain", "page")
TAKEDOWN_PARAMS = {
    "lists": Param(
        None,
        type=["null", "string"],
        maxLength=20_000,
        pattern=r"\S",
        format="multiline",
        section=WHAT,
        title="Lists",
        description=(
            "Paths or URLs (file:, s3:, https:), one a line: CSV or parquet with the columns kind and value, or text with one entry a "
            "line. Empty: complete what was asked for before."
        ),
    ),
    "kind": Param(
        None,
        type=["null", "string"],
        enum=[None, *KINDS],
        section=WHAT,
        title="Kind",
        description="What the entries of a text list are. A domain stands for its subdomains, of images and of pages.",
    ),
    "reports": Param(
        False, type="boolean", section=WHAT, title="Reports", description="What visitors of the search page reported."
    ),
    "dataset": SHARED_PARAMS["dataset"],
    "reason": Param(
        "asked for",
        type="string",
        minLength=1,
        maxLength=200,
        section=HOW,
        pattern=r"\S",
        title="Reason",
        description="Stands in the report, and where somebody opens a version that was withdrawn for it.",
    ),
    "pdq_distance": Param(
        0,
        type="integer",
        minimum=0,
        maximum=127,
        section=HOW,
        title="PDQ distance, bits",
        description="In how many of 256 bits a listed PDQ hash may differ; ThreatExchange: 31. 0: in none.",
    ),
    "dry_run": Param(
        True,
        type="boolean",
        section=HOW,
        title="Dry run",
        description="Only show what of the lists would go: counts and some uids, in the task's log.",
    ),
    "alone": Param(
        False,
        type="boolean",
        section=HOW,
        title="Alone",
        description="No other run is at work: also clean WAT files that are not published. They wait a day otherwise.",
    ),
}


def takedown_arguments(context: Context) -> list[str]:
    """Without lists and reports the dry run does not count: there is nothing to show."""
    params = context["params"]
    lists = [f"--list={name}" for name in (params["lists"] or "").split()]
    if params["kind"] is not None and not lists:
        raise AirflowFailException("the form says kind, but names no list: it is that of a text list")
    asked = [*lists, *(["--reports"] if params["reports"] else [])]
    how = []
    if asked:
        how = [f"--reason={params['reason']}", *([f"--kind={params['kind']}"] if params["kind"] is not None else [])]
        how += [f"--pdq-distance={params['pdq_distance']}"] if params["pdq_distance"] else []
        how += ["--dry-run"] if params["dry_run"] else []
    dataset = [] if params["dataset"] is None else [params["dataset"]]
    return ["takedown", *dataset, *asked, *how, *(["--alone"] if params["alone"] else [])]
