"""Commands about what is derived from a version: derive makes it again, release hands out LAION's columns."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wat2mds.cli.options import Dataset, Root, emit, store_root
from wat2mds.settings import deployment
from wat2mds.store import Layout, Store

if TYPE_CHECKING:
    from wat2mds.versions import Version

VersionNumber = Annotated[int | None, typer.Option("--version", help="Version number. Default: the newest.")]


def register(app: typer.Typer) -> None:
    for command in (derive, release):
        app.command()(command)


def derive(
    root: Root = None,
    dataset: Dataset = None,
    version: VersionNumber = None,
    anew: Annotated[bool, typer.Option("--anew", help="Make every part again, though it is there.")] = False,
) -> None:
    """Make a version's root index, release view and dataset card: what publish does, where it was cut short or to look anew."""
    from wat2mds import derived
    from wat2mds.stages.publish import refresh_derived
    from wat2mds.versions import read_version

    url = Layout(store_root(root), dataset or deployment().dataset).dataset
    record = read_version(url, version)
    made = []

    def make(where: str, of: Version) -> None:
        made.append(derived.derive(where, of, anew=anew))

    if version is None:
        refresh_derived(url, make)
    else:
        make(url, record)
    done = made[-1]
    emit({"dataset": url, "card": done.card, "parts": done.parts, "made": done.made, "rows": done.rows})


def release(
    to: Annotated[Path, typer.Option(help="Empty folder for the parquet files.", metavar="DIR")],
    root: Root = None,
    dataset: Dataset = None,
    version: VersionNumber = None,
    rows_per_file: Annotated[int, typer.Option(help="Most rows in one file.", min=1)] = 1_000_000,
) -> None:
    """Write a version's rows under LAION's column names, as parquet files that img2dataset takes (URL, TEXT)."""
    from wat2mds.derived.release import export
    from wat2mds.versions import read_version

    url = Layout(store_root(root), dataset or deployment().dataset).dataset
    record = read_version(url, version)
    files = export(Store(url), record, to, rows_per_file)
    emit({"dataset": url, "version": record.number, "rows": record.samples, "files": len(files), "folder": str(to.absolute())})
