"""``wat2mds models``: the catalogue of weights and heads; fetch them once, verify them; calibrate thresholds under another model."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from wat2mds.cli.options import Dataset, Overrides, Profile, Root, emit, resolve_settings, store_root
from wat2mds.errors import ConfigError, DataError

models = typer.Typer(help="Weights and heads: what profiles need, fetched once and verified.", no_args_is_help=True)
Names = Annotated[list[str] | None, typer.Argument(help="Names in the catalogue, e.g. ViT-B-32/openai nsfw-b32.", metavar="NAME")]


def register(app: typer.Typer) -> None:
    app.add_typer(models, name="models")


@models.command("list")
def list_models(profile: Profile = None, overrides: Overrides = None) -> None:
    """List weights and heads: source, licence, size, checksum, whether they are in the cache, and which profiles need them."""
    from wat2mds.models import cache
    from wat2mds.models.catalogue import catalogue, needed
    from wat2mds.settings import load_settings, profile_names

    users = {name: needed(load_settings(name).filter) for name in profile_names()}
    only = None if profile is None and not overrides else needed(resolve_settings(None, profile, overrides).filter)
    rows = []
    for entry in catalogue().values():
        if only is not None and entry not in only:
            continue
        locked = next((one for one in cache.read_lock(cache.place(entry)) if one.url == entry.url), None)
        size = entry.size or (locked.source_size if locked else None)
        sha256 = entry.sha256 or (locked.source_sha256 if locked else None)
        stated = (
            "stated by its publisher"
            if entry.sha256
            else "recorded at the first fetch"
            if locked
            else "unknown until the first fetch"
        )
        used_by = [name for name, entries in users.items() if entry in entries]
        row = {
            "name": entry.name,
            "kind": entry.kind,
            "source": entry.url,
            "beside": entry.beside,
            "licence": entry.licence,
            "size": size,
            "sha256": sha256,
            "cached": locked is not None,
            "profiles": used_by,
        }
        rows.append(row)
        typer.echo(f"{entry.name}  {entry.kind}, {entry.licence}, {'in the cache' if locked else 'not fetched'}", err=True)
        typer.echo(f"    {entry.url}", err=True)
        shown = f"{size:,} bytes" if size else "size unknown until the first fetch"
        typer.echo(f"    {shown}; SHA-256 {sha256 or ''}{' ' if sha256 else ''}{stated}", err=True)
        if used_by:
            typer.echo(f"    needed by {', '.join(used_by)}", err=True)
    emit({"cache": str(cache.root()), "models": rows})


@models.command("fetch")
def fetch_models(names: Names = None, profile: Profile = None, overrides: Overrides = None) -> None:
    """Bring weights and heads to the cache, converted to safetensors; what is there and whole is left alone."""
    from wat2mds.models import cache

    settings = resolve_settings(None, profile, overrides)
    entries = _chosen(names, profile, overrides)
    report = []
    for entry in entries:
        typer.echo(f"{entry.name}: {entry.url}", err=True)
        files = cache.fetch(entry, settings.import_.hub)
        for file in files:
            trust = "recorded now or at the first fetch: nobody states it" if file.trusted else "as stated"
            typer.echo(f"    {file.source_size:,} bytes, SHA-256 {file.source_sha256} ({trust})", err=True)
            typer.echo(f"    kept as {cache.place(entry) / file.file}, {file.size:,} bytes", err=True)
        report.append({"name": entry.name, "licence": entry.licence, "files": [vars(file) for file in files]})
    if not entries:
        typer.echo("nothing to fetch: these settings name no model of the catalogue", err=True)
    emit({"cache": str(cache.root()), "models": report})


@models.command("verify")
def verify_models(names: Names = None, profile: Profile = None, overrides: Overrides = None) -> None:
    """Compare every byte of the cached models with what was recorded; exit 65 where one differs."""
    from wat2mds.models import cache
    from wat2mds.models.catalogue import catalogue

    whole = profile is None and not names and not overrides
    entries = list(catalogue().values()) if whole else _chosen(names, profile, overrides)
    missing = [entry.name for entry in entries if not cache.read_lock(cache.place(entry))]
    if missing and not whole:
        raise ConfigError(
            f"not in the cache {cache.root()}: {', '.join(missing)}. Fetch: wat2mds models fetch {' '.join(missing)}"
        )
    checked = [entry for entry in entries if entry.name not in missing]
    wrong = {entry.name: found for entry in checked if (found := cache.problems(entry))}
    emit({"cache": str(cache.root()), "verified": [entry.name for entry in checked if entry.name not in wrong], "wrong": wrong})
    if wrong:
        lines = "; ".join(line for found in wrong.values() for line in found)
        raise DataError(f"{lines}. Fetch again: wat2mds models fetch {' '.join(wrong)}")


@models.command("calibrate")
def calibrate_models(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            help="WAT files' work folders, or folders of embeddings (img_emb, text_emb, metadata). Default: all that filter scored.",
            metavar="FOLDER",
        ),
    ] = None,
    share: Annotated[
        float | None, typer.Option(help="Share of pairs to keep. Default: 0.117, LAION-5B's.", min=0.0001, max=1, metavar="SHARE")
    ] = None,
    root: Root = None,
    dataset: Dataset = None,
) -> None:
    """Print similarities of matched and mismatched pairs by model, and the threshold that keeps the published share."""
    import tempfile
    from pathlib import Path

    from wat2mds.manifest import Manifest, read_manifest
    from wat2mds.models import calibration
    from wat2mds.settings import deployment
    from wat2mds.stages.filter.preview import work_folders
    from wat2mds.store import Layout, Store, join

    wanted = calibration.REFERENCE_SHARE if share is None else share
    folders = sources or work_folders(Layout(store_root(root), dataset or deployment().dataset).dataset)
    if not folders:
        raise DataError("the dataset has no scored WAT files: run filter first, or name folders of embeddings")
    rows: list[calibration.Rows] = []
    selected = False
    with tempfile.TemporaryDirectory() as scratch:
        for number, folder in enumerate(folders):
            place = Path(scratch) / str(number)
            place.mkdir()
            names = [name for name in Store(join(folder, "filter", "scores")).names()[0] if name.endswith(".json")]
            units: list[Manifest] = [read_manifest(join(folder, "filter", "scores", name)) for name in names]
            if units:
                rows += calibration.of_scores(max(units, key=lambda unit: (unit.made_at, unit.url)), place)
            else:
                selected = True
                rows += calibration.of_folder(folder, place)
    found = calibration.calibrate(rows)
    for one in found:
        figures = one.figures(wanted)
        typer.echo(
            f"{one.model}: {figures['pairs']:,} pairs; # matched, - mismatched (each image with another one's caption)", err=True
        )
        typer.echo("\n".join(one.histogram()), err=True)
        typer.echo(
            f"threshold of equal rank: {figures['threshold_of_equal_rank']:.4f} keeps {figures['matched_at_or_above']:.1%} of the matched "
            f"and {figures['mismatched_at_or_above']:.1%} of the mismatched pairs",
            err=True,
        )
    typer.echo(f"{wanted:.1%}: {calibration.REFERENCE if share is None else 'as asked for'}", err=True)
    if selected:
        typer.echo("Published embeddings are of pairs that passed a threshold before: the share is one of these only.", err=True)
    reference = {"share": wanted, "source": calibration.REFERENCE if share is None else "option --share"}
    emit({"reference": reference, "only_kept_pairs": selected, "models": {one.model: one.figures(wanted) for one in found}})


def _chosen(names: list[str] | None, profile: str | None, overrides: list[str] | None) -> list[Any]:
    """The entries named, else those that the settings need."""
    from wat2mds.models.catalogue import entry_of, needed

    if names:
        return [entry_of(name) for name in names]
    if profile is None and not overrides:
        raise ConfigError(
            "name models, or a profile: wat2mds models fetch --profile laion5b; wat2mds models list shows the names"
        )
    return needed(resolve_settings(None, profile, overrides).filter)
