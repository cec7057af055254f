"""One command a stage: explicit inputs and outputs, no Airflow. A stage's libraries are imported when its command runs."""

from __future__ import annotations

import gc
import logging
from typing import Annotated

import typer

from wat2mds.cli.options import Out, Overrides, Profile, SettingsFile, emit, quiet_libraries, resolve_settings
from wat2mds.errors import DataError
from wat2mds.manifest import Manifest, open_manifest
from wat2mds.plan import key_of, require_import_name
from wat2mds.settings import FIRST_STAGES, PAIR_STAGES, deployment
from wat2mds.snapshots import wat_file_number, wat_location

log = logging.getLogger(__name__)
SkipMissing = Annotated[
    bool, typer.Option("--skip-missing", help="Leave out inputs whose stage failed, and say so, instead of failing.")
]
_Input = {"metavar": "MANIFEST"}


def register(app: typer.Typer) -> None:
    app.command()(extract)
    app.command("import")(import_pairs)
    app.command()(retry)
    for command in (dedup, download, filter_samples, validate, convert, upload, publish):
        app.command("filter" if command is filter_samples else command.__name__)(command)


def _open_all(urls: list[str], stage: str | tuple[str, ...], skip_missing: bool) -> tuple[list[Manifest], list[str]]:
    found: list[Manifest] = []
    missing: list[str] = []
    for url in urls:
        try:
            found.append(open_manifest(url, stage))
        except DataError as error:
            if not skip_missing:
                raise
            log.warning("left out: %s", error)
            missing.append(url)
    if not found:
        named = stage if isinstance(stage, str) else " or ".join(stage)
        raise DataError(f"{named} of none of the {len(urls)} WAT files is complete: see the logs of their tasks")
    return found, missing


def extract(
    source: Annotated[str, typer.Argument(help="WAT file: path, file:, s3: or http(s): URL.", metavar="WAT")],
    out: Out,
    snapshot: Annotated[str | None, typer.Option(help="Snapshot it belongs to. Default: from its path.")] = None,
    segment: Annotated[str | None, typer.Option(help="Segment it belongs to. Default: from its path.")] = None,
    wat_file: Annotated[str | None, typer.Option(help="Its number in the segment, 5 digits. Default: from its name.")] = None,
    settings: SettingsFile = None,
    profile: Profile = None,
    overrides: Overrides = None,
) -> None:
    """Extract image URLs with captions from one WAT file."""
    place = wat_location(source) or ("local", "0.0", wat_file_number(source) or "00000")
    given = resolve_settings(settings, profile, overrides)
    from wat2mds.stages import extract as stage

    gc.freeze()  # what is imported stays: the collector looks at it no more, which was a tenth of the CPU seconds of 100 MB
    names = {"snapshot": snapshot or place[0], "segment": segment or place[1], "wat_file": wat_file or place[2]}
    emit(stage.run(source, out, given, **names).summary())


def import_pairs(
    source: Annotated[str, typer.Argument(help="Parquet file: path, file:, s3:, http(s): or hf: URL.", metavar="FILE")],
    out: Out,
    name: Annotated[str, typer.Option(help="The import's name, which stands where a snapshot's does.")] = "import",
    number: Annotated[str, typer.Option(help="The file's number in the import, 5 digits.")] = "00000",
    settings: SettingsFile = None,
    profile: Profile = None,
    overrides: Overrides = None,
) -> None:
    """Take the pairs of one parquet file: LAION's releases, DataComp, COYO, img2dataset's and other known layouts."""
    given = resolve_settings(settings, profile, overrides)
    from wat2mds.stages import import_pairs as stage

    emit(stage.run(source, out, given, name=require_import_name(name), number=number, token=deployment().hub_token).summary())


def retry(
    source: Annotated[str, typer.Argument(help="Object below outcomes/ of a published WAT file.", metavar="OUTCOMES")],
    out: Out,
    snapshot: Annotated[str, typer.Option(help="Snapshot of the WAT file.")],
    segment: Annotated[str, typer.Option(help="Segment of the WAT file.")],
    wat_file: Annotated[str, typer.Option(help="The retry's name: 00017-r1 is the first of WAT file 00017.")],
    settings: SettingsFile = None,
    profile: Profile = None,
    overrides: Overrides = None,
) -> None:
    """Take up a published WAT file's transient failures as the pairs of a unit of their own."""
    given = resolve_settings(settings, profile, overrides)
    from wat2mds.stages import retry as stage

    emit(stage.run(source, out, given, snapshot=snapshot, segment=segment, wat_file=wat_file).summary())


def dedup(
    inputs: Annotated[list[str], typer.Argument(help="extract's or import's manifests or folders, in their order.", **_Input)],
    ledger: Annotated[str, typer.Option(help="Folder or URL of the dataset's ledger.", metavar="DIR")],
    out: Annotated[str, typer.Option(help="Folder of the results; {wat_file} stands for a WAT file's number.", metavar="DIR")],
    dataset: Annotated[
        str | None,
        typer.Option(
            help="The dataset's folder: filter.near_duplicates=dataset compares with its newest version, as of now.",
            metavar="URL",
        ),
    ] = None,
    skip_missing: SkipMissing = False,
    settings: SettingsFile = None,
    profile: Profile = None,
    overrides: Overrides = None,
) -> None:
    """Drop the pairs that an earlier WAT file holds, and claim the others in the ledger."""
    given = resolve_settings(settings, profile, overrides)
    pairs, missing = _open_all(inputs, FIRST_STAGES, skip_missing)
    from wat2mds.stages import dedup as stage

    template = out if "{wat_file}" in out else f"{out.rstrip('/')}/{{wat_file}}"
    done = stage.run(pairs, ledger, template, given, dataset)
    counts = {"pairs": sum(m.flows[0].entered for m in done), "unique": sum(m.flows[0].left for m in done)}
    emit(
        {
            "stage": "dedup",
            "wat_files": len(done),
            "missing": missing,
            "counts": counts,
            "ledger": next((m.extra.get("ledger") for m in done if not m.done_before), None),
            "done_before": all(m.done_before for m in done),
            "manifests": [m.url for m in done] if len(done) <= 4 else [],
        }
    )


def download(
    source: Annotated[str, typer.Argument(help="dedup's or retry's manifest or folder of one WAT file.", **_Input)],
    out: Out,
    settings: SettingsFile = None,
    profile: Profile = None,
    overrides: Overrides = None,
) -> None:
    """Fetch, check, resize and hash the images of one WAT file's unique pairs."""
    given = resolve_settings(settings, profile, overrides)
    unique = open_manifest(source, PAIR_STAGES)
    quiet_libraries()
    from wat2mds.stages import download as stage

    emit(stage.run(unique, out, given, deployment().contact).summary())


def filter_samples(
    source: Annotated[str, typer.Argument(help="download's manifest or folder of one WAT file.", **_Input)],
    out: Out,
    settings: SettingsFile = None,
    profile: Profile = None,
    overrides: Overrides = None,
) -> None:
    """Score samples (CLIP, language, heads), then keep or drop each with its reason."""
    given = resolve_settings(settings, profile, overrides)
    samples = open_manifest(source, "download")
    quiet_libraries()
    from wat2mds.stages import filter as stage

    emit(stage.run(samples, out, given).summary())


Samples = Annotated[str, typer.Argument(help="download's manifest or folder.", metavar="SAMPLES")]
Decisions = Annotated[str, typer.Argument(help="filter's manifest or folder.", metavar="SCORES")]


def validate(
    samples: Samples,
    decisions: Decisions,
    out: Out,
    dataset: Annotated[
        str | None,
        typer.Option(help="The dataset's folder: compare with what is published there, and keep the report.", metavar="URL"),
    ] = None,
    settings: SettingsFile = None,
    profile: Profile = None,
    overrides: Overrides = None,
) -> None:
    """Check one WAT file's tables (Great Expectations); exit 65 if a critical expectation fails."""
    given = resolve_settings(settings, profile, overrides)
    opened = open_manifest(samples, "download"), open_manifest(decisions, "filter")
    quiet_libraries()
    from wat2mds.stages import validate as stage

    emit(stage.run(*opened, out, given, dataset).summary())


def convert(
    samples: Samples,
    decisions: Decisions,
    out: Out,
    validated: Annotated[
        str | None, typer.Option(help="validate's manifest or folder: convert only what passed.", metavar="REPORTS")
    ] = None,
    settings: SettingsFile = None,
    profile: Profile = None,
    overrides: Overrides = None,
) -> None:
    """Write the kept samples as MosaicML Dataset Shards, read back and verified."""
    given = resolve_settings(settings, profile, overrides)
    opened = open_manifest(samples, "download"), open_manifest(decisions, "filter")
    passed = open_manifest(validated, "validate") if validated else None
    quiet_libraries()
    from wat2mds.stages import convert as stage

    emit(stage.run(*opened, out, given, passed).summary())


def upload(
    source: Annotated[str, typer.Argument(help="convert's manifest or folder.", **_Input)],
    to: Annotated[str, typer.Option(help="The dataset's folder: <root>/datasets/<name>.", metavar="URL")],
    out: Annotated[
        str | None, typer.Option(help="Where the manifest is put. Default: the WAT file's work folder.", metavar="DIR")
    ] = None,
    settings: SettingsFile = None,
    profile: Profile = None,
    overrides: Overrides = None,
) -> None:
    """Bring shards, metadata and embeddings to the store, each object verified."""
    given = resolve_settings(settings, profile, overrides)
    converted = open_manifest(source, "convert")
    from wat2mds.stages import upload as stage
    from wat2mds.store import Layout

    unit = converted.unit
    place = out or Layout.of(to).stage(unit["snapshot"], unit["segment"], unit["wat_file"], "upload")
    emit(stage.run(converted, to, place, given).summary())


def publish(
    inputs: Annotated[list[str], typer.Argument(help="upload's manifests or folders.", **_Input)],
    dataset: Annotated[str, typer.Option(help="The dataset's folder: <root>/datasets/<name>.", metavar="URL")],
    batch: Annotated[str, typer.Option(help="Name of the batch, for the version's record.")] = "manual",
    skip_missing: SkipMissing = False,
    settings: SettingsFile = None,
    profile: Profile = None,
    overrides: Overrides = None,
) -> None:
    """Commit uploaded WAT files as a new version of the dataset, atomically."""
    given = resolve_settings(settings, profile, overrides)
    uploads, missing = _open_all(inputs, "upload", skip_missing)
    from wat2mds.stages import publish as stage

    published = stage.run(uploads, dataset, given, batch=batch, missing=[key_of(url) for url in missing])
    place = {name: uploads[0].unit[name] for name in ("snapshot", "segment")}
    version = {"version": published.version.number, "samples": published.version.samples, "uri": published.uri}
    emit({**published.summary(), "asset": {**place, "batch": batch, "dataset": published.dataset, **version}})
