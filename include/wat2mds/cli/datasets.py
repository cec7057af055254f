"""Commands about datasets and snapshots that are there: funnel, snapshots."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from wat2mds.cli.options import (
    Dataset,
    Overrides,
    Profile,
    Root,
    SettingsFile,
    emit,
    resolve_settings,
    store_root,
)
from wat2mds.errors import DataError
from wat2mds.settings import Settings, deployment
from wat2mds.snapshots import BATCH_SIZE, Registry
from wat2mds.store import Layout, Store

snapshots = typer.Typer(help="Common Crawl snapshots that this deployment knows.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    app.command()(funnel)
    app.add_typer(snapshots, name="snapshots")


def _layout(root: str | None, dataset: str | None) -> Layout:
    return Layout(store_root(root), dataset or deployment().dataset)


def funnel(
    works: Annotated[
        list[str] | None,
        typer.Argument(help="With --profile or --set: work folders of WAT files. Default: all of the dataset.", metavar="WORK"),
    ] = None,
    root: Root = None,
    dataset: Dataset = None,
    settings: SettingsFile = None,
    profile: Profile = None,
    overrides: Overrides = None,
) -> None:
    """Print the funnels of a dataset's batches as stored or, with --profile or --set, as another profile would have them.

    With --profile, --set or --settings the decisions of filter are made anew from the stored scores; nothing is written.
    """
    if works or profile or overrides or settings:
        _funnel_under(works or [], root, dataset, resolve_settings(settings, profile, overrides))
        return
    layout = _layout(root, dataset)
    store = Store(layout.reports)
    names = [name for name in store.names()[0] if name.endswith(".json")]
    if not names:
        raise DataError(f"{layout.reports} holds no report: no run of this dataset has ended yet")
    reports = [json.loads(store.read(name)) for name in names]
    for report in reports:
        typer.echo(f"{report['batch']} (version {report['version']}, {len(report['wat_files'])} WAT files)", err=True)
        for line in report["funnel"]["lines"]:
            drops = ", ".join(f"{reason} {count:,}" for reason, count in line["drops"].items())
            count = f"{line['entered']:>9,} {line['source']:<9} -> {line['left']:>9,} {line['target']:<9}"
            typer.echo(f"  {line['stage']:<9} {count} {drops}".rstrip(), err=True)
    emit({"reports": {report["batch"]: report["funnel"] for report in reports}})


def _funnel_under(works: list[str], root: str | None, dataset: str | None, given: Settings) -> None:
    from wat2mds.funnel import build_funnel
    from wat2mds.stages.filter.preview import preview, work_folders

    place = "" if works else _layout(root, dataset).dataset
    folders = works or work_folders(place)
    if not folders:
        raise DataError(f"{place} holds no WAT file that filter has scored: run filter first")
    found = preview(folders, given)
    funnel = build_funnel(found.units)
    typer.echo(f"{len(folders)} WAT files under profile {given.profile}, from stored scores", err=True)
    typer.echo(funnel.table(), err=True)
    if found.unlike:
        typer.echo(f"earlier stages as stored: a full run would make them anew, with another {', '.join(found.unlike)}", err=True)
    emit({"profile": given.profile, "wat_files": len(folders), "funnel": funnel.to_json(), "unlike": found.unlike})


@snapshots.command("register")
def register_snapshot(
    name: Annotated[str, typer.Argument(help="Common Crawl's name, CC-MAIN-YYYY-WW.", metavar="SNAPSHOT")],
    root: Root = None,
    source: Annotated[
        str | None, typer.Option(help="Where crawl-data/ lies: URL or folder. Default: WAT2MDS_SOURCE.", metavar="URL")
    ] = None,
    collinfo: Annotated[str | None, typer.Option(help="List of snapshots. Default: WAT2MDS_COLLINFO.", metavar="URL")] = None,
    batch_size: Annotated[
        int, typer.Option(help="WAT files in a batch; cannot be changed later.", min=1, max=BATCH_SIZE)
    ] = BATCH_SIZE,
) -> None:
    """Make a snapshot known: from then on its batches can be scheduled, triggered and backfilled."""
    place = deployment()
    made = Registry(store_root(root)).register(
        name, collinfo=collinfo or place.collinfo, source=source or place.source, batch_size=batch_size
    )
    batches = list(made.batches())
    emit({"snapshot": made.id, "segments": len(made.segments), "batches": len(batches), "first_batch": batches[0].partition_key})


@snapshots.command("list")
def list_snapshots(root: Root = None) -> None:
    """The registered snapshots, oldest first."""
    found = Registry(store_root(root)).snapshots()
    for snapshot in found:
        files = sum(segment.wat_file_count for segment in snapshot.segments)
        typer.echo(
            f"{snapshot.id}  {len(snapshot.segments)} segments, {files:,} WAT files, batches of {snapshot.batch_size}", err=True
        )
    emit({"snapshots": [snapshot.id for snapshot in found]})
