"""Datasets for the dashboard's tests: a small real one, and one of a thousand versions that the project's own record code writes."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from tests.wat2mds.stages.conftest import build_wat_file, set_values
from wat2mds import derived
from wat2mds.derived.statistics import Statistics
from wat2mds.derived.summaries import make_summary
from wat2mds.manifest import Flow, Manifest, StoredFile
from wat2mds.settings import Settings
from wat2mds.stages import convert, publish, upload, validate
from wat2mds.store import Layout, Store
from wat2mds.units import PublishedUnit, Units
from wat2mds.versions import Version, read_version

SETTINGS = Settings.model_validate({"filter": {"max_punsafe": None}})
HOSTILE = '"><script>document.title="owned"</script><img src=x onerror="document.title=\'owned\'"> </figcaption>&amp; \u202e 画 '
PER_SEGMENT = 20


def made(
    dataset: str, wat_file: str, *, count: int = 12, hostile: bool = False, unsafe: bool = False, late: bool = False
) -> Manifest:
    """A WAT file, validated and uploaded. ``unsafe``: its first sample; ``late``: its failures are transient."""
    changes: dict[str, Any] = {}
    if hostile:
        changes["pairs"] = set_values("caption", lambda caption: HOSTILE + caption)
    if unsafe:
        changes["scores"] = lambda rows: rows.set_column(
            rows.column_names.index("punsafe"), "punsafe", pa.array([0.99] + [0.01] * (len(rows) - 1), pa.float32())
        )
    if late:
        asked = set_values("fetched_at", lambda at: at or datetime.now(UTC))
        failing = set_values("drop_reason", lambda reason: "timeout" if reason else None)
        changes |= {
            "samples": lambda rows: asked(failing(rows)),
            "flow": lambda f: replace(f, drops={"timeout": f.entered - f.left}),
        }
    file = build_wat_file(dataset, wat_file, count=count, first=int(wat_file) * 1000, settings=SETTINGS, changes=changes)
    # A caption that was changed after extraction is no longer what its uid says.
    passed = None if hostile else validate.run(file.samples, file.decisions, file.out("validate"), SETTINGS, dataset)
    converted = convert.run(file.samples, file.decisions, file.out("convert"), SETTINGS, passed)
    return upload.run(converted, dataset, file.out("upload"), SETTINGS)


def small(root: str, name: str = "small") -> str:
    """Three versions of four WAT files; the second's captions are hostile, the third's hold an unsafe sample. Its URL."""
    dataset = Layout(root, name).dataset
    for number, uploads in enumerate(
        (
            [made(dataset, "00000", count=30)],
            [made(dataset, "00001", hostile=True)],
            [made(dataset, "00002", unsafe=True), made(dataset, "00003", count=20, late=True)],
        ),
        1,
    ):
        missing = ["CC-MAIN-2023-50.1700679099281.67.00009"] if number == 3 else []
        publish.run(uploads, dataset, SETTINGS, batch=f"CC-MAIN-2023-50.1700679099281.67.b{number:02}", missing=missing)
    return dataset


def grow(dataset: str, versions: int) -> Version:
    """Versions after the newest, until there are so many: each brings one synthetic WAT file, with manifests of its work.

    Records, lists and summaries are written by the project's own code; objects and table files are named but not there.
    """
    store, version = Store(dataset), read_version(dataset)
    template = next(iter(version.units.values()))
    layout = Layout.of(dataset)
    statistics = Statistics.from_json(store.read_json(derived.statistics_path(version.number)))
    begin = datetime.fromisoformat(version.published_at)
    for number in range(version.number + 1, versions + 1):
        unit = _synthetic(template, number)
        _manifests(layout, unit, number)
        segment = f"{unit.snapshot}.{unit.segment}"
        ours = {**version.units.segment(segment), unit.key: unit}
        kept = {name: entry for name, entry in version.units.lists.items() if name != segment}
        units = Units.stored(store, ours, kept)
        units._loaded = {segment: ours}
        version = replace(
            version,
            number=number,
            units=units,
            published_units=[unit.key],
            batch=f"{segment}.b00",
            published_at=(begin + timedelta(hours=8 * number)).isoformat(timespec="seconds"),
        )
        assert store.create(Layout.version_path(number), version.to_json())
        make_summary(store, version, lambda _: statistics, at_most=5)
    times = version.samples // statistics.samples
    counts = {name: Counter({value: rows * times for value, rows in held.items()}) for name, held in statistics.counts.items()}
    total = {"units": [], **Statistics(statistics.samples * times, counts, []).to_json()}
    store.write(derived.statistics_path(versions), json.dumps(total).encode())
    return version


def _synthetic(template: PublishedUnit, number: int) -> PublishedUnit:
    segment, wat_file = f"1700679099281.{100 + number // PER_SEGMENT}", f"{number % PER_SEGMENT:05}"
    name = Layout.unit_name(template.snapshot, segment, wat_file, f"{number:012x}")
    objects = [replace(o, path=o.path.replace(template.unit_name, name)) for o in template.objects if "outcomes/" not in o.path]
    flows = [
        {"stage": "extract", **vars(Flow("records", "pages", 90_000, 30_000, {"not_metadata": 60_000}))},
        {
            "stage": "extract",
            **vars(Flow("links", "pairs", 1_000_000, 700_000, {"short_caption": 250_000, "no_caption": 50_000})),
        },
        {"stage": "dedup", **vars(Flow("pairs", "unique", 700_000, 600_000, {"duplicate_in_dataset": 100_000}))},
        {"stage": "download", **vars(Flow("unique", "samples", 600_000, 450_000, {"http_404": 100_000, "timeout": 50_000}))},
        {"stage": "filter", **vars(Flow("samples", "kept", 450_000, 10_000 + number, {"low_similarity": 440_000 - number}))},
        {"stage": "validate", **vars(Flow("kept", "valid", 10_000 + number, 10_000 + number))},
        {"stage": "convert", **vars(Flow("kept", "converted", 10_000 + number, 10_000 + number))},
        {"stage": "upload", **vars(Flow("converted", "uploaded", 10_000 + number, 10_000 + number))},
    ]
    return replace(
        template, unit_name=name, segment=segment, wat_file=wat_file, samples=10_000 + number, objects=objects, flows=flows,
        digests=dict.fromkeys(("extract", "dedup", "download", "filter"), f"{number:012x}"),
    )  # fmt: skip


def _manifests(layout: Layout, unit: PublishedUnit, number: int) -> None:
    place = {"snapshot": unit.snapshot, "segment": unit.segment, "wat_file": unit.wat_file}
    for step, (stage, digest) in enumerate(unit.digests.items(), 1):
        flows = [Flow(**{k: v for k, v in flow.items() if k != "stage"}) for flow in unit.flows if flow["stage"] == stage]
        files = [StoredFile("rows.parquet", 1_000_000 * step, "0" * 64)]
        made = Manifest(
            stage, digest, place, [], {}, digest, files, flows, {}, seconds=60.0 * step, cpu_seconds=40.0 * step + number % 7
        )
        Store(layout.stage(unit.snapshot, unit.segment, unit.wat_file, stage)).create(f"{digest}.json", made.to_json())
