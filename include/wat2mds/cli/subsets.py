"""Commands about subsets: build, refresh, list, presets."""

from __future__ import annotations

from typing import Annotated

import typer

from wat2mds.cli.options import Dataset, Root, emit, store_root
from wat2mds.errors import ConfigError
from wat2mds.settings import deployment
from wat2mds.store import Layout, Store

subset = typer.Typer(help="Parts of a dataset by a condition over its metadata.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The subset's name: lower case letters, digits, - and _.", metavar="NAME")]
VersionNumber = Annotated[
    int | None, typer.Option("--version", help="Version of the dataset. Default: the newest.", min=1, metavar="N")
]
Datasets = Annotated[
    list[str] | None, typer.Option("--dataset", help="Name of a dataset; may be repeated. Default: WAT2MDS_DATASET, else laion.")
]


def register(app: typer.Typer) -> None:
    app.add_typer(subset, name="subset")


@subset.command("build")
def build_subset(
    name: Name,
    preset: Annotated[str | None, typer.Option(help="One of `wat2mds subset presets`.", metavar="PRESET")] = None,
    where: Annotated[
        str | None,
        typer.Option(help="SQL condition over one row's columns, e.g. \"language = 'de' AND similarity > 0.3\".", metavar="SQL"),
    ] = None,
    fraction: Annotated[float | None, typer.Option(help="Share of what is selected, by uid: above 0, up to 1.")] = None,
    count: Annotated[int | None, typer.Option(help="Most samples: those with the least uids.")] = None,
    mds: Annotated[bool, typer.Option("--mds", help="Make the subset's own MDS shards, by copying samples.")] = False,
    preview: Annotated[
        bool, typer.Option("--preview", help="Only say how many samples, and show ten; nothing is written.")
    ] = False,
    version: VersionNumber = None,
    root: Root = None,
    dataset: Dataset = None,
) -> None:
    """Build a subset of a version: sorted uids, LAION's columns as parquet, a card, and MDS if asked. A known name needs no condition."""
    from dataclasses import replace

    from wat2mds import subsets
    from wat2mds.subsets.definition import Definition, read_definition
    from wat2mds.subsets.definition import preset as preset_of

    url = Layout(store_root(root), dataset or deployment().dataset).dataset
    if preset and where:
        raise ConfigError("give --preset or --where, not both: a preset's condition is shown by `wat2mds subset presets`")
    definition = None
    if preset or where:
        definition = replace(preset_of(preset) if preset else Definition(str(where).strip()), fraction=fraction, count=count)
    elif fraction is not None or count is not None:
        raise ConfigError("--fraction and --count are of a new subset: give --preset or --where too, e.g. --where true")
    if preview:
        found = subsets.preview(url, definition or read_definition(Store(url), name), version)
        for row in found.examples.to_pylist():
            typer.echo("  ".join(f"{key}={_shown(value)}" for key, value in row.items() if value is not None), err=True)
        emit({"dataset": url, "subset": name, "samples": found.samples, "of": found.of, "written": False})
        return
    built = subsets.build(url, name, definition, version, mds=mds)
    typer.echo(f"{built.samples:,} of {built.of:,} samples of version {built.version}", err=True)
    if mds:
        typer.echo(f"open_subset({url!r}, {name!r}, version={built.version}) reads it", err=True)
    where_it_lies = f"{url}/subsets/{name}/{built.version:06d}"
    emit(
        {
            "dataset": url,
            "subset": name,
            "version": built.version,
            "samples": built.samples,
            "of": built.of,
            "folder": where_it_lies,
        }
    )


@subset.command("refresh")
def refresh_subsets(root: Root = None, datasets: Datasets = None) -> None:
    """Build every subset of the newest version that has one of an older: what a new version brought is added, MDS where there was one."""
    from wat2mds import subsets

    done = {url: subsets.refresh(url) for url in _urls(root, datasets)}
    for url, built in done.items():
        for one in built:
            typer.echo(f"{url} {one.name}: {one.samples:,} of {one.of:,} samples of version {one.version}", err=True)
    emit({"datasets": {url: {one.name: one.samples for one in built} for url, built in done.items()}})


@subset.command("list")
def list_subsets(root: Root = None, datasets: Datasets = None) -> None:
    """List the subsets of datasets, with the versions that they were built of."""
    from wat2mds import subsets
    from wat2mds.subsets.definition import read_definition

    listed = {}
    for url in _urls(root, datasets):
        store = Store(url)
        listed[url] = {name: subsets.built_versions(store, name) for name in subsets.names(store)}
        for name, numbers in listed[url].items():
            definition = read_definition(store, name)
            limits = f", fraction {definition.fraction:g}" if definition.fraction is not None else ""
            limits += f", at most {definition.count:,}" if definition.count is not None else ""
            typer.echo(f"{name}: {' '.join(definition.where.split())}{limits}; of versions {numbers}", err=True)
    emit({"datasets": listed})


@subset.command("presets")
def list_presets() -> None:
    """List the presets, with their conditions and sources."""
    from wat2mds.subsets.definition import presets

    for name, definition in presets().items():
        typer.echo(f"{name}\n    {' '.join(definition.where.split())}\n    {definition.source}", err=True)
    emit({"presets": list(presets())})


def _urls(root: str | None, datasets: list[str] | None) -> list[str]:
    return [Layout(store_root(root), name).dataset for name in datasets or [deployment().dataset]]


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
