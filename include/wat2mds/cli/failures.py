"""Commands about what could not be downloaded: its list, the plan of a retry, which the DAG calls, and retry-failed."""

from __future__ import annotations

import logging
import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer

from wat2mds.cli.options import Dataset, Overrides, Profile, Root, SettingsFile, emit, resolve_settings, store_root
from wat2mds.deploy.follow import trigger_and_follow
from wat2mds.errors import ConfigError, DataError
from wat2mds.retries import plan_retries as retries_due
from wat2mds.settings import deployment
from wat2mds.store import Layout

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger(__name__)
DAG = "retry_downloads"
_TOP = 20
Early = Annotated[bool, typer.Option("--early", help="Also failures whose pause (download.retry_days) has not passed.")]


def register(app: typer.Typer) -> None:
    for command in (plan_retries, retry_failed):
        app.command(command.__name__.replace("_", "-"))(command)


def plan_retries(
    early: Early = False,
    root: Root = None,
    dataset: Dataset = None,
    settings: SettingsFile = None,
    profile: Profile = None,
    overrides: Overrides = None,
) -> None:
    """Say what a retry of failed downloads covers: one unit a published WAT file with failures that are due."""
    given = resolve_settings(settings, profile, overrides)
    place = Layout(store_root(root), dataset or deployment().dataset).dataset
    units = retries_due(place, given, early=early)
    for unit in units:
        log.info("%s %s %s: of %s", unit["snapshot"], unit["segment"], unit["wat_file"], unit["source"])
    if not units:
        log.info("%s: no failure is due", place)
    emit({"stage": "plan", "counts": {"wat_files": len(units)}, "units": units})


def retry_failed(
    dataset: Dataset = None,
    early: Early = False,
    follow: Annotated[bool, typer.Option("--follow/--no-follow", help="Wait for the run and show each task as it ends.")] = True,
) -> None:
    """Ask again for images that failed transiently: trigger the DAG retry_downloads in Airflow and follow it."""
    conf: dict[str, Any] = {"early": early} | ({"dataset": dataset} if dataset is not None else {})
    done = trigger_and_follow(DAG, conf, follow, sys.stderr)
    emit(done)
    if done["state"] == "failed":
        raise DataError(f"the run is red: open {done['url']}, or read the log of its failed task")


def list_failures(root: str, dataset: str | None, out: str | None) -> None:
    """Counts by reason and host on the terminal; each failure in ``out``, in the schema FAILURES."""
    from wat2mds.failures import failures
    from wat2mds.versions import read_version

    place = Layout(root, dataset or deployment().dataset).dataset
    version = read_version(place)
    pauses = resolve_settings(None, None, None).download.retry_days
    now = datetime.now(UTC)
    reasons: Counter[tuple[str, str]] = Counter()
    hosts: Counter[str] = Counter()
    waiting, due = 0, 0
    with _Writer(out) as writer:
        for rows in failures(place, version, pauses):
            writer.write(rows)
            reasons.update(zip(rows["failure"].to_pylist(), rows["drop_reason"].to_pylist(), strict=True))
            hosts.update(_host(url) for url in rows["url"].to_pylist())
            times = [time for time in rows["next_due"].to_pylist() if time is not None]
            waiting += len(times)
            due += sum(time <= now for time in times)
    for title, counts in (("reason", {f"{r} ({c})": n for (c, r), n in reasons.items()}), ("host", hosts)):
        for name, count in Counter(counts).most_common(_TOP):
            typer.echo(f"  {title:<7} {count:>10,}  {name}", err=True)
    total = reasons.total()
    typer.echo(f"version {version.number}: {total:,} failures; {waiting:,} will be asked for again, {due:,} are due", err=True)
    by_class: Counter[str] = Counter()
    for (name, _), count in reasons.items():
        by_class[name] += count
    emit(
        {
            "version": version.number,
            "failures": total,
            "classes": dict(sorted(by_class.items())),
            "reasons": {reason: n for (_, reason), n in reasons.most_common()},
            "waiting": waiting,
            "due": due,
            "out": out,
        }
    )


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


class _Writer:
    """Tables of one schema into one .parquet or .csv file; there when all were written, nowhere without ``out``."""

    def __init__(self, out: str | None) -> None:
        self._out = Path(out) if out else None
        if self._out is not None and self._out.suffix not in (".parquet", ".csv"):
            raise ConfigError(f"--out {out}: write to a .parquet or .csv file")
        if self._out is not None and not self._out.parent.is_dir():
            raise ConfigError(f"--out {out}: there is no folder {self._out.parent}")
        self._writer: Any = None

    def __enter__(self) -> _Writer:
        import pyarrow.csv as csv
        import pyarrow.parquet as pq

        from wat2mds.schema import FAILURES

        if self._out is not None:
            self._part = self._out.with_name(f".{self._out.name}.part")
            self._writer = (pq.ParquetWriter if self._out.suffix == ".parquet" else csv.CSVWriter)(self._part, FAILURES.schema)
        return self

    def write(self, rows: pa.Table) -> None:
        if self._writer is not None:
            self._writer.write_table(rows)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._out is not None:
            self._writer.close()
            if kind is None:
                self._part.rename(self._out)
            else:
                self._part.unlink()
