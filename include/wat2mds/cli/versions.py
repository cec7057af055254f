"""Commands about a dataset's versions: list, open, withdraw; verify; what makes room: vacuum, clean-work, end-uploads."""

from __future__ import annotations

import re
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from wat2mds.cli.options import Root, emit, store_root
from wat2mds.errors import ConfigError, DataError
from wat2mds.settings import deployment
from wat2mds.store import Layout

versions = typer.Typer(help="A dataset's versions.", no_args_is_help=True)
_UNITS = {"d": "days", "h": "hours", "m": "minutes", "s": "seconds"}

Named = Annotated[
    str | None,
    typer.Argument(
        help="Its name under the root, or the URL of its folder, <root>/datasets/<name>. Default: WAT2MDS_DATASET, else laion.",
        metavar="DATASET",
    ),
]
Number = Annotated[int | None, typer.Option("--version", help="Version number. Default: the newest.", min=1, metavar="N")]


def register(app: typer.Typer) -> None:
    app.add_typer(versions, name="versions")
    for command in (verify, vacuum, clean_work, end_uploads):
        app.command()(command)


def dataset_url(root: str | None, dataset: str | None) -> str:
    """The dataset's folder. Raises ConfigError for a URL that is none."""
    if dataset is not None and "/" in dataset:
        return Layout.of(dataset).dataset
    return Layout(store_root(root), dataset or deployment().dataset).dataset


@versions.command("list")
def list_versions(dataset: Named = None, root: Root = None) -> None:
    """List a dataset's versions, withdrawn ones too."""
    from wat2mds.versions import read_record, version_numbers, withdrawal_of

    url = dataset_url(root, dataset)
    found = [(read_record(url, number), withdrawal_of(url, number)) for number in version_numbers(url)]
    for version, withdrawal in found:
        counts = f"{version.samples:,} samples, {len(version.units)} WAT files"
        state = f"; withdrawn {withdrawal.withdrawn_at}: {withdrawal.reason}" if withdrawal else ""
        typer.echo(f"{version.number:06d}  {version.published_at}  {counts}{state}", err=True)
    emit(
        {
            "dataset": url,
            "versions": {version.number: version.samples for version, withdrawal in found if withdrawal is None},
            "withdrawn": [version.number for version, withdrawal in found if withdrawal is not None],
        }
    )


@versions.command("open")
def open_version(
    local: Annotated[str, typer.Option(help="Cache folder that StreamingDataset will use as its local=.", metavar="DIR")],
    dataset: Named = None,
    version: Number = None,
    root: Root = None,
) -> None:
    """Make a cache folder of one version: StreamingDataset(remote=…, local=DIR) then reads exactly that version."""
    from wat2mds.reading import seed_cache
    from wat2mds.store import Store
    from wat2mds.versions import read_version

    url = dataset_url(root, dataset)
    record = read_version(url, version)
    folder = seed_cache(url, record, local)
    store = Store(url)
    remote = store.url if store.local is None else str(store.local)
    typer.echo(f"StreamingDataset(remote={remote!r}, local={str(folder)!r}, batch_size=…)", err=True)
    emit({"dataset": url, "version": record.number, "samples": record.samples, "remote": remote, "local": str(folder)})


@versions.command("withdraw")
def withdraw_versions(
    reason: Annotated[str, typer.Option(help="Why: shown to who opens it.")],
    dataset: Named = None,
    version: Annotated[
        list[int] | None, typer.Option("--version", help="Version number; may be repeated.", min=1, metavar="N")
    ] = None,
    keep_last: Annotated[
        int | None, typer.Option(help="In place of --version: all that stand but the last N.", min=1, metavar="N")
    ] = None,
    root: Root = None,
) -> None:
    """Withdraw versions for good: they cannot be opened any more, and vacuum removes what they alone hold. The newest always stands."""
    from wat2mds.versions import standing_numbers, withdraw

    if (version is None) == (keep_last is None):
        raise ConfigError("say which versions: either --version N, once or more, or --keep-last N")
    url = dataset_url(root, dataset)
    numbers = version if version is not None else standing_numbers(url)[: -(keep_last or 1)]
    emit({"dataset": url, "withdrawn": [asdict(found) for found in withdraw(url, numbers, reason)]})


def verify(
    dataset: Named = None,
    version: Number = None,
    absent: Annotated[
        list[str] | None,
        typer.Option(
            "--absent",
            help="A list, as takedown takes it: search every object for its entries instead; may be repeated.",
            metavar="FILE",
        ),
    ] = None,
    kind: Annotated[
        str | None, typer.Option(help="With --absent: what the entries of a text list are (takedown --help).")
    ] = None,
    root: Root = None,
) -> None:
    """Read a published version back and compare it with its record: every shard, row and hash, index and table; exit 65 if not sound.

    With --absent: prove that nothing that is listed is in any object below the dataset's folder; exit 65 where something is.
    """
    if absent:
        from wat2mds.cli.takedowns import prove_absent

        prove_absent(dataset_url(root, dataset), absent, kind)
        return
    from wat2mds.stages.publish.verify import verify as verified

    found = verified(dataset_url(root, dataset), version)
    emit(asdict(found))
    if found.problems:
        raise DataError(
            f"version {found.version} of {found.dataset} is not sound: {len(found.problems)} problems, the first: {found.problems[0]}. "
            f"Damaged objects of a WAT file: clear its upload task, which brings them again"
        )


def vacuum(
    dataset: Named = None,
    older_than: Annotated[str, typer.Option(help="Grace by the time of an object's last write: 7d, 36h.", metavar="TIME")] = "7d",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would go, remove nothing.")] = False,
    if_published: Annotated[
        bool, typer.Option("--if-published", help="Nothing published yet is no error: there is nothing to remove then.")
    ] = False,
    alone: Annotated[bool, typer.Option("--alone", help="No upload or publish is at work: allows a grace under 4 days.")] = False,
    root: Root = None,
) -> None:
    """Remove objects that no version that stands names, after a grace."""
    from wat2mds.stages.publish.vacuum import vacuum as vacuumed
    from wat2mds.versions import newest_number

    if if_published and newest_number(dataset_url(root, dataset)) is None:
        emit({"objects": 0, "bytes": 0, "within_grace": 0, "standing": [], "dry_run": dry_run})
        return
    done = vacuumed(dataset_url(root, dataset), _duration(older_than), dry_run=dry_run, alone=alone)
    for entry in done.removed if dry_run else ():
        typer.echo(f"{entry.modified:%Y-%m-%d %H:%M}  {entry.size:>12,}  {entry.path}", err=True)
    emit(
        {
            "objects": len(done.removed),
            "bytes": done.size,
            "within_grace": done.young,
            "standing": done.standing,
            "dry_run": dry_run,
        }
    )


def clean_work(
    dataset: Named = None,
    images_after: Annotated[
        str, typer.Option(help="Idle time after which images go, those downloaded and those in shards: 3d, 36h.", metavar="TIME")
    ] = "3d",
    rest_after: Annotated[str, typer.Option(help="Idle time after which the other files go.", metavar="TIME")] = "30d",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would go, remove nothing.")] = False,
    root: Root = None,
) -> None:
    """Remove intermediate files of published WAT files that nobody works on; manifests stay, and what is needed again is made again."""
    from wat2mds.retention import clean_work as cleaned

    done = cleaned(dataset_url(root, dataset), _duration(images_after), _duration(rest_after), dry_run=dry_run)
    for entry in done.removed if dry_run else ():
        typer.echo(f"{entry.modified:%Y-%m-%d %H:%M}  {entry.size:>12,}  {entry.path}", err=True)
    emit({"objects": len(done.removed), "bytes": done.size, "kept_bytes": done.kept, "dry_run": dry_run})


def end_uploads(
    dataset: Named = None,
    older_than: Annotated[str, typer.Option(help="Only those begun longer ago: 2d, 36h.", metavar="TIME")] = "2d",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count what would be ended, end nothing.")] = False,
    root: Root = None,
) -> None:
    """End multipart uploads to an S3 store that were begun and never finished: their parts are paid for, and seen by nobody."""
    from wat2mds.store import Store

    before = datetime.now(UTC) - _duration(older_than)
    emit({"uploads": Store(dataset_url(root, dataset)).abort_uploads(before=before, dry_run=dry_run), "dry_run": dry_run})


def _duration(text: str) -> timedelta:
    found = re.fullmatch(r"(\d+)([dhms])", text.strip())
    if not found:
        raise ConfigError(f"{text!r} is no length of time: write a number and d, h, m or s, such as 7d or 36h")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})
