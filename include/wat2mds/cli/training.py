"""The command that trains a small model to see whether a dataset trains one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wat2mds.cli.options import Dataset, Root, emit, quiet_libraries, store_root
from wat2mds.errors import ConfigError, DataError
from wat2mds.settings import deployment
from wat2mds.store import Layout

STEPS = 400


def register(app: typer.Typer) -> None:
    app.command("train-check")(train_check)


def train_check(
    demo: Annotated[
        Path | None,
        typer.Option(
            help="Draw the demo world, enlarged, into this folder, build it, and check that; no dataset is named.", metavar="DIR"
        ),
    ] = None,
    held_out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of pictures that are not in the dataset: one folder a class; classes.json may give prompts.",
            metavar="DIR",
        ),
    ] = None,
    unfiltered: Annotated[
        str | None,
        typer.Option(help="Dataset of the same crawl's pairs, built without thresholds. Default: not compared.", metavar="NAME"),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(help=f"Steps of each training, 64 pairs each. Default: {STEPS}, where no minutes are given.", metavar="N"),
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Minutes of each training; with steps, whichever ends first.", metavar="N")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the models and the order of samples.", metavar="N")] = 0,
    threads: Annotated[int, typer.Option(help="Processor threads.", min=1, metavar="N")] = 1,
    root: Root = None,
    dataset: Dataset = None,
) -> None:
    """Train a small CLIP on a dataset, on its crawl unfiltered and on shuffled captions; compare their zero-shot accuracy."""
    quiet_libraries()
    from wat2mds import training
    from wat2mds.training.demo import prepare
    from wat2mds.training.fit import Limits

    limits = Limits(steps if steps is not None or minutes is not None else STEPS, minutes, threads)
    if demo is not None:
        made = prepare(demo)
        filtered, other, pictures = made.filtered, made.unfiltered, made.held_out
    elif held_out is None:
        raise ConfigError("name a folder of held-out pictures, --held-out DIR, or let the demo draw all, --demo DIR")
    else:
        filtered = Layout(store_root(root), dataset or deployment().dataset).dataset
        other = Layout(store_root(root), unfiltered).dataset if unfiltered else ""
        pictures = held_out
    found = training.check(filtered, other or None, pictures, limits, seed, lambda line: typer.echo(line, err=True))
    typer.echo(f"chance: {found.chance:.3f}; {found.pictures} held-out pictures", err=True)
    emit({"seed": seed, "accuracy": found.accuracy, "chance": found.chance, "samples": found.samples, "steps": found.steps})
    if not found.ordered:
        raise DataError("the dataset does not train better than what it is compared with; more --steps may tell them apart")
