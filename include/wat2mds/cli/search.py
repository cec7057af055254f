"""Commands about kNN indices: build, update, list."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from wat2mds.cli.options import Dataset, Root, emit, store_root
from wat2mds.settings import deployment
from wat2mds.store import Layout

index = typer.Typer(help="kNN indices of a dataset's image and text embeddings.", no_args_is_help=True)

_PRESETS = "small, medium or large: at most 2, 16 or 128 GB of memory for the images' index, and as much for the texts'."
Threads = Annotated[
    int, typer.Option(help="Threads of training and encoding; with more than one the bytes may differ between machines.", min=1)
]
Datasets = Annotated[
    list[str] | None, typer.Option("--dataset", help="Name of a dataset; may be repeated. Default: WAT2MDS_DATASET, else laion.")
]


def register(app: typer.Typer) -> None:
    app.add_typer(index, name="index")


@index.command("build")
def build_index(
    preset: Annotated[str, typer.Argument(help=_PRESETS, metavar="PRESET")] = "small",
    version: Annotated[int | None, typer.Option(help="Version of the dataset. Default: the newest.", min=1, metavar="N")] = None,
    threads: Threads = 1,
    root: Root = None,
    dataset: Dataset = None,
) -> None:
    """Train and publish a kNN index of a version's images and texts; one that the version has already stays."""
    from wat2mds.search.building import build

    url = Layout(store_root(root), dataset or deployment().dataset).dataset
    emit({"dataset": url, "indices": [_told(build(url, preset, version, threads_used=threads))]})


@index.command("update")
def update_indices(
    presets: Annotated[
        list[str] | None, typer.Argument(help=f"{_PRESETS} Default: those that the dataset has, else small.", metavar="PRESET")
    ] = None,
    threads: Threads = 1,
    root: Root = None,
    datasets: Datasets = None,
) -> None:
    """Bring kNN indices to the newest version: new samples go in, those that are gone go out; trained anew only where that is needed."""
    from wat2mds.search.building import update

    done = {url: update(url, presets or (), threads_used=threads) for url in _urls(root, datasets)}
    emit({"datasets": {url: [_told(record) for record in records] for url, records in done.items()}})


@index.command("list")
def list_indices(root: Root = None, datasets: Datasets = None) -> None:
    """List the kNN indices of the versions that stand, with their recall."""
    from wat2mds.search import records

    found = {url: records.list_indices(url) for url in _urls(root, datasets)}
    emit({"datasets": {url: [_told(record) for record in known] for url, known in found.items()}})


def _urls(root: str | None, datasets: list[str] | None) -> list[str]:
    return [Layout(store_root(root), name).dataset for name in datasets or [deployment().dataset]]


def _told(record: Any) -> dict[str, Any]:
    """One index as a line for people, and what of it goes into the summary."""
    typer.echo(
        f"{record.name} of version {record.version}: {record.count:,} vectors of {record.dim} floats, {record.type}, "
        f"{record.size / 1e6:,.1f} MB, recall@10 {record.recall:.3f}, trained at version {record.trained}",
        err=True,
    )
    names = ("name", "version", "count", "dim", "type", "size", "recall", "recalls", "nprobe", "trained", "clip_model")
    return {name: getattr(record, name) for name in names}
