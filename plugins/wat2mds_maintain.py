"""What the DAG ``maintain`` has of its own: its form, the command lines made from it, and the cleaning of Airflow's database and logs.

In: the form, the deployment's ``maintain_removes``. Out: nothing is removed in a dry run. Guaranteed: runs stay in Airflow's
database for ever, since the timetable knows by them which batches ran. What does not belong here: what goes from the
store (``wat2mds clean-work``, ``vacuum``, ``end-uploads``).
"""

from __future__ import annotations

import configparser
import logging
import shlex
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.configuration import conf
from airflow.sdk import BaseHook, BaseOperator, Param
from airflow.sdk.exceptions import AirflowException, AirflowNotFoundException, AirflowSkipException

from wat2mds.settings import child_environment, deployment
from wat2mds_form import LIMITS, SHARED_PARAMS, WHAT
from wat2mds_process import StageProcess

if TYPE_CHECKING:
    from airflow.sdk import Context

DATABASE_CONNECTION = "wat2mds_airflow_db"
_CONN = "SQL_ALCHEMY_CONN"
# What runs leave, without the runs themselves (dag_run): a small row each, by which the timetable knows that a batch ran. Airflow 3.3.2
# cannot clean dag_run by DAG anyhow: it then asks table deadline for a column dag_id, which that has not.
_TABLES = "task_instance,task_reschedule,log,job,import_error,asset_event"


def _days(title: str, default: int, description: str, least: int = 1) -> Param:
    return Param(
        default, type="integer", minimum=least, maximum=3650, section=LIMITS, title=f"{title}, days", description=description
    )


MAINTAIN_PARAMS = {
    "dataset": SHARED_PARAMS["dataset"],
    "dry_run": Param(
        None,
        type=["null", "boolean"],
        enum=[None, True, False],
        section=WHAT,
        title="Dry run",
        description="Only list what would go. Empty: yes, unless the deployment says WAT2MDS_MAINTAIN_REMOVES.",
    ),
    "images_days": _days(
        "Images", 3, "Downloaded images and local shards of published WAT files that nobody worked on for so long."
    ),
    "rest_days": _days(
        "Other intermediate files", 30, "The other files of such WAT files; manifests stay. Not less than for images."
    ),
    "objects_days": _days("Unreferenced objects", 7, "Objects that no standing version names, by their last write.", least=4),
    "uploads_days": _days("Unfinished uploads", 2, "Multipart uploads that were begun so long ago and never finished."),
    "airflow_days": _days(
        "Airflow's records and logs", 90, "Rows of Airflow's database, and log files of this machine.", least=7
    ),
}


def dry_run(context: Context) -> bool:
    chosen = context["params"]["dry_run"]
    return not deployment().maintain_removes if chosen is None else bool(chosen)


def _command(context: Context, name: str, *options: str) -> list[str]:
    dataset = context["params"]["dataset"]
    return [name, *([] if dataset is None else [dataset]), *options, *(["--dry-run"] if dry_run(context) else [])]


def work_arguments(context: Context) -> list[str]:
    params = context["params"]
    ages = [f"--images-after={params['images_days']}d", f"--rest-after={params['rest_days']}d"]
    return _command(context, "clean-work", *ages)


def objects_arguments(context: Context) -> list[str]:
    return _command(context, "vacuum", f"--older-than={context['params']['objects_days']}d", "--if-published")


def uploads_arguments(context: Context) -> list[str]:
    return _command(context, "end-uploads", f"--older-than={context['params']['uploads_days']}d")


def clean_command(before: datetime, dry: bool) -> list[str]:
    """``airflow db clean`` of everything but runs."""
    age = ["--clean-before-timestamp", before.isoformat(timespec="seconds")]
    how = ["--yes", "--skip-archive", "--error-on-cleanup-failure", *(["--dry-run"] if dry else [])]
    return ["db", "clean", *age, *how, "--tables", _TABLES]


def database_environment() -> dict[str, str]:
    """What ``airflow db clean`` needs to reach the database, which Airflow keeps from tasks. Raises AirflowSkipException without it."""
    kept = {n: v for n, v in child_environment().items() if not n.startswith("_AIRFLOW") and not n.endswith(f"__{_CONN}")}
    try:
        url = BaseHook.get_connection(DATABASE_CONNECTION).password
    except AirflowNotFoundException:
        url = None
    if url:
        return {**kept, f"AIRFLOW__DATABASE__{_CONN}": url}
    file = Path(kept.get("AIRFLOW_HOME", "~/airflow")).expanduser() / "airflow.cfg"
    configuration = configparser.RawConfigParser()
    configuration.read(file, "utf-8")
    if configuration.get("database", _CONN.lower(), fallback=""):
        return kept
    raise AirflowSkipException(
        f"Airflow's database is not cleaned: tasks are not told where it is. Make a connection {DATABASE_CONNECTION} whose password is "
        f"its SQLAlchemy URL, or clean it yourself, but never the table dag_run: airflow "
        f"{shlex.join(clean_command(datetime.now(UTC) - timedelta(days=90), dry=True))}"
    )


class DatabaseCleaning(BaseOperator):
    """``airflow db clean`` by the form's age."""

    ui_color = "#e8f0e4"
    _process: StageProcess | None = None

    def execute(self, context: Context) -> dict[str, Any]:
        before = datetime.now(UTC) - timedelta(days=context["params"]["airflow_days"])
        dry = dry_run(context)
        arguments = clean_command(before, dry)
        logger = logging.getLogger("wat2mds.maintain")
        logger.info("Running: airflow %s", shlex.join(arguments))
        self._process = StageProcess([sys.executable, "-m", "airflow", *arguments], database_environment())
        if code := self._process.run(logger.log):
            raise AirflowException(
                f"airflow db clean ended with code {code}: {self._process.last_error or self._process.last_line}. Where the database was "
                f"locked, the next try or the next run does it"
            )
        return {"before": before.isoformat(timespec="seconds"), "dry_run": dry}

    def on_kill(self) -> None:
        if self._process is not None:
            self._process.end()


class LogCleaning(BaseOperator):
    """Old log files on this machine, by the form's age. Logs that are kept on the store have its lifecycle rules."""

    ui_color = "#e8f0e4"

    def execute(self, context: Context) -> dict[str, Any]:
        dry = dry_run(context)
        folder = Path(conf.get("logging", "base_log_folder"))
        found = old_logs(folder, context["params"]["airflow_days"])
        size = sum(path.stat().st_size for path in found)
        for path in [] if dry else found:
            path.unlink(missing_ok=True)
            for parent in path.relative_to(folder).parents:
                if parent.name and not any((folder / parent).iterdir()):
                    (folder / parent).rmdir()
        said = "would go" if dry else "removed"
        logging.getLogger("wat2mds.maintain").info("%d log files, %.1f MB, below %s %s", len(found), size / 1e6, folder, said)
        return {"files": len(found), "bytes": size, "dry_run": dry}


def old_logs(folder: Path, days: int) -> list[Path]:
    """Log files that nothing was written to for so many days."""
    limit = time.time() - days * 86_400
    return sorted(path for path in folder.rglob("*.log") if path.is_file() and path.stat().st_mtime < limit)
