"""What a run covers: its WAT files, where each one's units lie, and the command line of every stage.

In: the registry, settings, and what the run was asked for. Out: one small dict a WAT file (URIs only), which the scheduler hands
on, and the arguments of ``wat2mds <stage>`` made from it. Guaranteed: an empty plan is an error. Light: no heavy import.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, TypedDict

from wat2mds.errors import ConfigError
from wat2mds.manifest import unit_digest
from wat2mds.settings import FIRST_STAGES, PAIR_STAGES, Settings
from wat2mds.snapshots import BATCH_SIZE, Registry, Snapshot, WatFile
from wat2mds.store import Layout, Store, join, split

# What a run will roughly take, for the first line of its log. Pairs: a WAT file of today gives about 400,000 (cc2dataset's golden
# count: 405,232). Rates: img2dataset's about 80 images a second a core; a 256 px JPEG is about 24 KB (LAION-400M: 10 TB).
PAIRS_PER_WAT = 400_000
IMAGES_PER_CORE_SECOND = 80
BYTES_PER_IMAGE = 24_000
# An import's name stands where a snapshot's does: in folders, ledger owners, table partitions and unit names. No dot: keys split at it.
IMPORT_NAME = r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}"
IMPORT_SEGMENT = "0.0"
IMPORT_BATCH = BATCH_SIZE


class WatUnit(TypedDict):
    """One WAT file of a run: URIs and names only."""

    wat_file: str
    snapshot: str
    segment: str
    batch: str
    source: str
    work: str
    dataset: str
    settings: str
    digests: dict[str, str]


def parse_ranges(text: str, of: str = "WAT files") -> list[int]:
    """``"0-9,17"`` as numbers, ascending, each once. Raises ConfigError."""
    numbers: set[int] = set()
    for part in re.split(r"\s*,\s*", text.strip()):
        match = re.fullmatch(r"(\d{1,5})(?:\s*-\s*(\d{1,5}))?", part)
        if not match:
            raise ConfigError(f"{text!r} is no list of {of}: write numbers and ranges, such as 0-9,17")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise ConfigError(f"{text!r}: the range {part} runs backwards")
        numbers.update(range(first, last + 1))
    return sorted(numbers)


def import_fingerprint(settings: Settings) -> dict[str, Any]:
    """What decides an import: its own settings, and extract's, which say what a pair is."""
    return {"import": settings.group("import").fingerprint(), "extract": settings.extract.fingerprint()}


def expected_digests(settings: Settings, first: str = "extract") -> dict[str, str]:
    """Each stage's digest under these settings: a unit's manifest is ``<stage folder>/<digest>.json``.

    ``first``: extract, import or retry.
    """

    def name(stage: str, parents: Sequence[str], fingerprint: dict[str, Any] | None = None) -> str:
        given = settings.group(stage).fingerprint() if fingerprint is None else fingerprint
        return unit_digest(stage, given, parents)

    given = {"import": import_fingerprint(settings), "retry": {}}
    found = {first: name(first, [], given.get(first))}
    if first != "retry":
        found["dedup"] = name("dedup", [found[first]])
    found["download"] = name("download", [found.get("dedup", found[first])])
    found["scores"] = name("filter", [found["download"]], settings.filter.fingerprint(decisions=False))
    found["filter"] = name("filter", [found["download"], found["scores"]])
    found["validate"] = name("validate", [found["download"], found["filter"]])
    # Shards are of a WAT file that passed: other rules, and what they passed is another unit.
    found["convert"] = name("convert", [found["download"], found["filter"], found["validate"]])
    found["upload"] = name("upload", [found["convert"]])
    return found


def choose_wat_files(
    registry: Registry, *, partition_key: str | None, snapshot: str | None, segment: str, wat_files: str
) -> tuple[Snapshot, str, str, list[WatFile]]:
    """(snapshot, segment name, batch name, WAT files): a whole batch by its key, or what a person chose."""
    if partition_key:
        found, part, files = registry.batch(partition_key)
        return found, part.name, partition_key, files
    found = registry.get(snapshot)
    part = found.segment(segment)
    files = registry.wat_files(found, part)
    numbers = parse_ranges(wat_files)
    if numbers[-1] >= len(files):
        raise ConfigError(
            f"segment {part.name} of {found.id} has WAT files 0 to {len(files) - 1}; {wat_files!r} asks for {numbers[-1]}"
        )
    if len(numbers) > found.batch_size:
        raise ConfigError(
            f"{wat_files!r} asks for {len(numbers)} WAT files; one run takes at most a batch of {found.batch_size}. "
            f"Use `wat2mds backfill` for more"
        )
    return found, part.name, f"{found.id}.{part.name}.manual", [files[number] for number in numbers]


def plan_run(root: str, dataset: str, settings: Settings, chosen: tuple[Snapshot, str, str, list[WatFile]]) -> list[WatUnit]:
    """One unit a WAT file; the settings are stored once, named by their digest. Raises ConfigError for an empty plan."""
    snapshot, segment, batch, files = chosen
    if not files:
        raise ConfigError(f"{batch} holds no WAT file: nothing to build")
    sources = [(file.number, file.url) for file in files]
    return _units(Layout(root, dataset), settings, "extract", (snapshot.id, segment, batch), sources)


def require_import_name(name: str) -> str:
    """Raises ConfigError for a name that cannot stand where a snapshot's does."""
    if not re.fullmatch(IMPORT_NAME, name) or name.upper().startswith("CC-MAIN-"):
        raise ConfigError(f"{name!r} cannot be an import's name: use letters, digits, - and _, such as laion400m")
    return name


def plan_import(root: str, dataset: str, settings: Settings, name: str, files: Sequence[tuple[str, str]]) -> list[WatUnit]:
    """One unit a parquet file, given as (number, URL); the import's ``name`` stands for a snapshot. Raises ConfigError."""
    if not files:
        raise ConfigError(f"import {name}: no file is named: nothing to build")
    if len(files) > IMPORT_BATCH:
        raise ConfigError(
            f"import {name}: {len(files)} files; one run takes at most {IMPORT_BATCH}: choose some by their numbers"
        )
    place = (require_import_name(name), IMPORT_SEGMENT, f"{name}.import")
    return _units(Layout(root, dataset), settings, "import", place, files)


def _units(
    layout: Layout, settings: Settings, first: str, place: tuple[str, str, str], sources: Sequence[tuple[str, str]]
) -> list[WatUnit]:
    """The units of (number, source) each; ``place`` is snapshot, segment and batch."""
    settings_url = store_settings(layout, settings)
    digests = expected_digests(settings, first)
    snapshot, segment, batch = place
    return [
        WatUnit(
            wat_file=number,
            snapshot=snapshot,
            segment=segment,
            batch=batch,
            source=source,
            work=layout.work(snapshot, segment, number),
            dataset=layout.dataset,
            settings=settings_url,
            digests=digests,
        )
        for number, source in sources
    ]


def store_settings(layout: Layout, settings: Settings) -> str:
    """Keep settings with the dataset; the URL of their file, which their digest names."""
    folder, name = split(layout.settings(settings.digest))
    Store(folder).create(name, settings.to_json().encode())
    return join(folder, name)


def first_stage(unit: WatUnit) -> str:
    """``import`` for a parquet file of pairs, ``retry`` for failures that are asked for again, else ``extract``."""
    return next(stage for stage in FIRST_STAGES if stage in unit["digests"])


def estimate(wat_files: int, cores: int) -> str:
    """Pairs, hours and bytes that a run of so many full-sized WAT files may take, in a sentence."""
    pairs = wat_files * PAIRS_PER_WAT
    hours = pairs / IMAGES_PER_CORE_SECOND / cores / 3600
    return (
        f"if they are of full size: about {pairs:,} pairs, {hours:,.1f} hours of download on {cores} cores, "
        f"{pairs * BYTES_PER_IMAGE / 1e9:,.1f} GB of images before filtering"
    )


def manifest_url(unit: WatUnit, stage: str) -> str:
    """Where the manifest of a WAT file's stage lies when it is complete."""
    return join(unit["work"], stage, f"{unit['digests'][stage]}.json")


def key_of(manifest: str) -> str:
    """The WAT file's key, ``<snapshot>.<segment>.<number>``, from a manifest's place in the work folder, whether it is there or not."""
    return ".".join(manifest.rsplit("/", 5)[-5:-2])


def stage_arguments(stage: str, units: WatUnit | Sequence[WatUnit]) -> list[str]:
    """The command line after ``wat2mds``, for one WAT file's stage or, given several units, for a stage of the whole batch."""
    several = [units] if isinstance(units, dict) else list(units)
    if not several:
        raise ConfigError(f"{stage}: there is no WAT file to work on")
    unit = several[0]
    out = ["--out", join(unit["work"], stage)]
    settings = ["--settings", unit["settings"]]
    samples, decisions = manifest_url(unit, "download"), manifest_url(unit, "filter")
    batch = ["--dataset", unit["dataset"], "--batch", unit["batch"]]
    match stage:
        case "import":
            return [stage, unit["source"], *out, "--name", unit["snapshot"], "--number", unit["wat_file"], *settings]
        case "extract":
            place = ["--snapshot", unit["snapshot"], "--segment", unit["segment"], "--wat-file", unit["wat_file"]]
            return [stage, unit["source"], *out, *place, *settings]
        case "retry":
            place = ["--snapshot", unit["snapshot"], "--segment", unit["segment"], "--wat-file", unit["wat_file"]]
            return [stage, unit["source"], *out, *place, *settings]
        case "dedup":
            template = join(split(unit["work"])[0], "{wat_file}", stage)
            inputs = [manifest_url(u, first_stage(u)) for u in several]
            place = ["--ledger", join(unit["dataset"], "ledger"), "--dataset", unit["dataset"]]
            return [stage, *inputs, *place, "--out", template, "--skip-missing", *settings]
        case "download":
            pairs = next(name for name in PAIR_STAGES if name in unit["digests"])
            return [stage, manifest_url(unit, pairs), *out, *settings]
        case "filter":
            return [stage, samples, *out, *settings]
        case "validate":
            return [stage, samples, decisions, *out, "--dataset", unit["dataset"], *settings]
        case "convert":
            return [stage, samples, decisions, "--validated", manifest_url(unit, "validate"), *out, *settings]
        case "upload":
            return [stage, manifest_url(unit, "convert"), "--to", unit["dataset"], *out, *settings]
        case "publish":
            return [stage, *(manifest_url(u, "upload") for u in several), *batch, "--skip-missing", *settings]
        case "report":
            first = [] if first_stage(unit) == "extract" else ["--first-stage", first_stage(unit)]
            return [stage, *(u["work"] for u in several), *batch, *first, *settings]
    raise ConfigError(f"there is no stage {stage!r}")
