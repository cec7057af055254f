"""The form of a manual run, and the command lines of the two tasks that read it.

In: the fields that a person filled in, or a partition key. Out: the arguments of ``wat2mds plan``, ``plan-import`` and ``report``.
Guaranteed: the untouched form of build_dataset builds one WAT file of the newest registered snapshot; a field left empty is not passed,
so that the profile or the deployment decides. What does not belong here: what the values mean, and their checking against the registry
(``wat2mds plan``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow.sdk import Param

from wat2mds.layout import split
from wat2mds.plan import IMPORT_NAME, stage_arguments

if TYPE_CHECKING:
    from airflow.sdk import Context

WHAT, HOW, LIMITS = "What to build", "Images and scores", "Limits"
# Field of the form: the settings that it stands for.
SETTINGS = {
    "image_size": ("download.image_size",),
    "resize_mode": ("download.resize_mode",),
    "encode_quality": ("download.encode_quality",),
    "min_similarity": ("filter.min_similarity", "filter.min_similarity_other"),
    "processes": ("download.processes",),
    "threads": ("download.threads",),
}
IMPORT_SETTINGS = {"min_source_similarity": ("import.min_similarity",), **SETTINGS}


def _field(section: str, title: str, description: str, default: Any = None, **schema: Any) -> Param:
    """A field; one whose default is None may be left empty."""
    if default is None:
        schema["type"] = ["null", schema["type"]]
        if "enum" in schema:
            schema["enum"] = [None, *schema["enum"]]
        description += " Empty: the profile's, or the deployment's."
    return Param(default, section=section, title=title, description=description, **schema)


def version_param(section: str, description: str = "The version of the dataset.") -> Param:
    """The field of a version's number."""
    return Param(
        None,
        type=["null", "integer"],
        minimum=1,
        section=section,
        title="Version",
        description=f"{description} Empty: the newest.",
    )


SHARED_PARAMS = {
    "dataset": _field(
        WHAT,
        "Dataset",
        "The dataset's name in the store; made if it is new.",
        type="string",
        pattern="^[a-z0-9][a-z0-9_-]{0,62}$",
    ),
    "profile": _field(
        HOW,
        "Profile",
        "The set of thresholds and models to begin with.",
        type="string",
        enum=["laion400m", "laion5b", "relaion_safe", "datacomp_basic", "demo"],
    ),
    "image_size": _field(HOW, "Image size", "Side that images are resized to, pixels.", type="integer", minimum=16, maximum=4096),
    "resize_mode": _field(
        HOW,
        "Resize mode",
        "How images are brought to that size, as in img2dataset.",
        type="string",
        enum=["border", "keep_ratio", "keep_ratio_largest", "center_crop", "no"],
    ),
    "encode_quality": _field(HOW, "Quality", "JPEG quality of stored images.", type="integer", minimum=0, maximum=100),
    "min_similarity": _field(
        HOW,
        "Least similarity",
        "Least cosine of image and caption, whatever the language; another value reuses the stored scores.",
        type="number",
        minimum=-1,
        maximum=1,
    ),
    "settings": _field(
        HOW,
        "Further settings",
        "Any other settings, one a line, such as download.encode_format=webp; the README's table lists them all.",
        type="string",
        format="multiline",
        maxLength=20_000,
        pattern=r"^\s*([a-z]+\.[a-z0-9_]+\s*=[^\n]*\s*)*$",
    ),
    "processes": _field(LIMITS, "Processes", "Downloading processes of one WAT file.", type="integer", minimum=1, maximum=512),
    "threads": _field(LIMITS, "Threads", "Downloads at a time in each process.", type="integer", minimum=1, maximum=1024),
    "allowed_failed_share": _field(
        LIMITS,
        "Allowed failed share",
        "The run is red when more than this share of its WAT files failed: 0.01 is one in a hundred.",
        0.01,
        type="number",
        minimum=0,
        maximum=1,
    ),
}
PARAMS = {
    "snapshot": Param(
        None,
        type=["null", "string"],
        pattern=r"^CC-MAIN-\d{4}-\d{2}$",
        section=WHAT,
        title="Snapshot",
        description="A registered Common Crawl snapshot, such as CC-MAIN-2023-50. Empty: the newest one.",
    ),
    "segment": _field(
        WHAT,
        "Segment",
        "The segment's number in the snapshot, 0 to 99, or Common Crawl's name for it, such as 1700679099281.67.",
        "0",
        type="string",
        pattern=r"^\d+(\.\d+)?$",
    ),
    "wat_files": _field(
        WHAT,
        "WAT files",
        "Numbers in the segment, as ranges: 0-9,17. One WAT file is about 30,000 pages; at most 60 in one run.",
        "0",
        type="string",
        pattern=r"^\d+(-\d+)?(,\d+(-\d+)?)*$",
    ),
    "batch": Param(
        None,
        type=["null", "string"],
        pattern=r"^[A-Za-z0-9-]+\.\d+(\.\d+)?\.b\d{2,}$",
        section=WHAT,
        title="Batch",
        description="A whole batch by its partition key, in place of the three fields above. Empty: the fields above.",
    ),
    **SHARED_PARAMS,
}
IMPORT_PARAMS = {
    # Files and name have no default: without them there is nothing to build.
    "files": Param(
        type="string",
        minLength=1,
        maxLength=20_000,
        pattern=r"\S",
        format="multiline",
        section=WHAT,
        title="Files",
        description=(
            "Parquet files of pairs, one a line: paths or file:, s3:, http(s): and hf: URLs. A folder, or a pattern such as "
            "s3://lists/laion400m/part-*.parquet, stands for the files in it."
        ),
    ),
    "name": Param(
        type="string",
        minLength=1,
        pattern=rf"^{IMPORT_NAME}$",
        section=WHAT,
        title="Name",
        description="The import's name, such as laion400m. A file that it knows keeps its number when others are added.",
    ),
    "numbers": Param(
        None,
        type=["null", "string"],
        pattern=r"^\d+(-\d+)?(,\d+(-\d+)?)*$",
        section=WHAT,
        title="Numbers",
        description="Of these files those with such numbers in the import, as ranges: 0-9,17. At most 60 in one run. Empty: all.",
    ),
    "min_source_similarity": Param(
        None,
        type=["null", "number"],
        minimum=-1,
        maximum=1,
        section=WHAT,
        title="Least stated similarity",
        description="Rows whose list states a lower similarity are not downloaded. Empty: none is left out for it.",
    ),
    **SHARED_PARAMS,
}
RETRY_PARAMS = {
    "dataset": SHARED_PARAMS["dataset"],
    "early": Param(
        False,
        type="boolean",
        section=WHAT,
        title="Early",
        description="Also failures whose pause (download.retry_days: 1, 3, then 7 days) has not passed; those given up stay so.",
    ),
    "processes": SHARED_PARAMS["processes"],
    "threads": SHARED_PARAMS["threads"],
    "allowed_failed_share": SHARED_PARAMS["allowed_failed_share"],
}


REFRESH_PARAMS = {
    "dry_run": Param(
        False,
        type="boolean",
        section=LIMITS,
        title="Dry run",
        description="Only say which snapshots would be registered, and why the others would not.",
    ),
}


def refresh_arguments(context: Context) -> list[str]:
    """Every new snapshot."""
    return ["refresh-snapshots", *(["--dry-run"] if context["params"]["dry_run"] else [])]


def retry_plan_arguments(context: Context) -> list[str]:
    """The failures that are due."""
    params = context["params"]
    options = [f"--dataset={params['dataset']}"] if params["dataset"] is not None else []
    options += ["--early"] if params["early"] else []
    return ["plan-retries", *options, *set_options(params, {name: SETTINGS[name] for name in ("processes", "threads")})]


def import_plan_arguments(context: Context) -> list[str]:
    """The files that the form names."""
    params = context["params"]
    chosen = {name: params[name] for name in ("name", "numbers", "dataset", "profile")}
    options = [f"--{name}={value}" for name, value in chosen.items() if value is not None]
    return ["plan-import", *options, *set_options(params, IMPORT_SETTINGS), "--", *params["files"].split()]


def plan_arguments(context: Context) -> list[str]:
    """The batch that the run's partition key names, or what the form chose."""
    params = context["params"]
    chosen = {name: params[name] for name in ("snapshot", "segment", "wat_files")}
    if key := context["dag_run"].partition_key or params["batch"]:
        chosen = {"partition_key": key}
    chosen |= {name: params[name] for name in ("dataset", "profile")}
    options = [f"--{name.replace('_', '-')}={value}" for name, value in chosen.items() if value is not None]
    return ["plan", *options, *set_options(params, SETTINGS)]


def set_options(params: Any, settings: Mapping[str, tuple[str, ...]]) -> list[str]:
    """The fields that are filled in, as ``--set`` options; what the form has no field for, as it was written."""
    found = [f"--set={key}={params[name]}" for name, keys in settings.items() if params[name] is not None for key in keys]
    further = (params.get("settings") or "").splitlines()
    return found + [f"--set={line.strip()}" for line in further if line.strip()]


def report_arguments(context: Context) -> list[str]:
    share = context["params"]["allowed_failed_share"]
    return [*stage_arguments("report", context["task"].units), f"--allowed-failed-share={share}"]


def chosen_datasets(context: Context) -> list[str]:
    """Names of the datasets that the form or the events of their publishing name, each once; none: the deployment's."""
    if chosen := context["params"]["dataset"]:
        return [chosen]
    published: Any = context.get("triggering_asset_events") or {}
    urls = {str(event.extra["dataset"]) for events in published.values() for event in events if "dataset" in event.extra}
    return sorted(split(url)[1] for url in urls)
