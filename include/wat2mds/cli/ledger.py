"""Commands about a dataset's ledger of claims: status, rebuild, release."""

from __future__ import annotations

from typing import Annotated

import typer

from wat2mds.cli.options import Dataset, Root, emit, store_root
from wat2mds.errors import ConfigError
from wat2mds.plan import parse_ranges
from wat2mds.settings import deployment
from wat2mds.store import Layout, Store

ledger = typer.Typer(help="The ledger: which pairs have been claimed, and by which WAT file.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    app.add_typer(ledger, name="ledger")


def _layout(root: str | None, dataset: str | None) -> Layout:
    return Layout(store_root(root), dataset or deployment().dataset)


@ledger.command()
def status(root: Root = None, dataset: Dataset = None) -> None:
    """Keys, size in bytes, and the filters' fill and error rate."""
    from wat2mds.stages.dedup.ledger import Ledger

    layout = _layout(root, dataset)
    found = Ledger.open_existing(layout.ledger).status()
    typer.echo(f"{found['keys']:,} keys in {found['bins']} bins, the largest {found['largest_bin']:,}", err=True)
    typer.echo(", ".join(f"{kind.replace('_', ' ')} {size:,} bytes" for kind, size in found["bytes"].items()), err=True)
    filters = found["filters"]
    text = f"filters: fill {filters['fill']:.3f}, false positives {filters['false_positive_rate']:.2g}"
    typer.echo(f"{text} (asked for: {filters['configured_rate']:g})", err=True)
    emit({"ledger": layout.ledger, **found})


@ledger.command()
def rebuild(root: Root = None, dataset: Dataset = None) -> None:
    """Make all filters again from the claims alone, a bin at a time; safe while batches run."""
    from wat2mds.stages.dedup.ledger import Ledger

    layout = _layout(root, dataset)
    opened = Ledger.open_existing(layout.ledger)
    made = 0
    for number, filters in opened.rebuild():
        made += filters
        if (number + 1) % 64 == 0:
            typer.echo(f"{number + 1} of {opened.bins} bins", err=True)
    emit({"ledger": layout.ledger, "bins": opened.bins, "filters": made})


@ledger.command()
def release(
    snapshot: Annotated[str, typer.Option(help="Snapshot of the WAT files.")],
    segment: Annotated[str, typer.Option(help="Segment of the WAT files, by its name.")],
    wat_files: Annotated[str, typer.Option(help="Numbers and ranges, such as 0-9,17.")],
    root: Root = None,
    dataset: Dataset = None,
) -> None:
    """Withdraw the claims of WAT files that will not be published: other WAT files may then claim their pairs.

    Their results of dedup are removed, so that a later run of theirs claims anew. Not while a run of these WAT files goes on; others
    may run. WAT files that the newest version holds are refused: their pairs would be published twice.
    """
    from wat2mds.stages.dedup import owner_name
    from wat2mds.stages.dedup.ledger import Ledger
    from wat2mds.versions import newest_version, unit_key

    layout = _layout(root, dataset)
    opened = Ledger.open_existing(layout.ledger)
    numbers = [f"{number:05d}" for number in parse_ranges(wat_files)]
    version = newest_version(layout.dataset)
    published = [number for number in numbers if version is not None and unit_key(snapshot, segment, number) in version.units]
    if published:
        raise ConfigError(
            f"{len(published)} of these WAT files are in version {version.number if version else 0} of {layout.dataset}, "
            f"e.g. {published[0]}: their pairs would be published twice. Nothing was released"
        )
    # First the outputs: without them a WAT file claims again; with them, and without its claims, it would keep what others may take.
    for number in numbers:
        Store(layout.stage(snapshot, segment, number, "dedup")).delete_tree("")
    owners = [owner_name({"snapshot": snapshot, "segment": segment, "wat_file": number}) for number in numbers]
    emit({"ledger": layout.ledger, "wat_files": len(numbers), "released": opened.release(owners)})
