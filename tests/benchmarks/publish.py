"""One more batch into a dataset of up to 150,000 shards and 100 million rows: time and memory of its publish, and how they grow.

    PYTHONPATH=include nice .venv/bin/python -m tests.benchmarks.publish [--shards 1500 15000 50000 150000] [--profile]

The dataset is synthetic: a WAT file of it is a copy, under another name, of one that was really made and published; five shards and 3,333
rows each, 700 WAT files a segment. Its lists, index, record and Delta log are written by the project's own code; its shards and table
files are named but not there, so that a publish which opened one of them would fail. The batch is real: ten WAT files through
convert and upload, published into a segment that is there. Each publish is a process of its own.

Measured on 2 cores under a load of 8, with the files on a local disk (peak: of the process before the publish, then in it):

     shards |        rows | lists MB | index MB | wall s | CPU s | peak MB
      1,501 |     999,907 |        1 |        2 |   0.75 |  0.29 | 118 -> 237
     15,001 |   9,999,007 |        9 |       17 |   0.69 |  0.44 | 118 -> 287
     50,001 |  33,330,007 |       30 |       55 |   1.15 |  0.82 | 118 -> 401
    150,001 |  99,990,007 |       91 |      166 |   4.53 |  2.21 | 118 -> 683

What grows is the merged index, 1.1 KB a shard, which StreamingDataset wants as one file: read once, written twice and read back, never
parsed; and the table's files, of which Delta's log names one a WAT file. Rows and shards that do not change are not read, nor are
the lists of other segments: one list of at most 900 WAT files, 3 KB each, is written for each segment that changes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from deltalake import DeltaTable
from deltalake.transaction import AddAction

from tests.wat2mds.stages.conftest import SEGMENT, SNAPSHOT, build_wat_file
from wat2mds.manifest import Manifest, read_manifest
from wat2mds.settings import Settings, child_environment
from wat2mds.stages import convert, publish, upload
from wat2mds.stages.publish.index import BETWEEN, HEAD, TAIL, unit_shards
from wat2mds.stages.publish.table import PARTITION, SCHEMA
from wat2mds.store import Layout, Store
from wat2mds.units import PublishedUnit, StoredObject, TableFile, Units
from wat2mds.versions import Version, open_table, read_version, table_location

SETTINGS = Settings()
SHARDS, ROWS, PER_SEGMENT, BATCH = 5, 3333, 700, 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, nargs="+", default=[1_500, 15_000, 50_000, 150_000])
    parser.add_argument("--profile", action="store_true", help="print where the time of each publish goes")
    parser.add_argument("--publish", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.publish:
        publish_once(*given.publish, profile=given.profile)
        return
    print("shards | rows | lists MB | index MB | wall s | CPU s | peak MB", flush=True)
    for shards in given.shards:
        with tempfile.TemporaryDirectory() as folder:
            dataset = Layout(Path(folder).as_uri(), "demo").dataset
            first, *batch = [made(dataset, number) for number in range(BATCH + 1)]
            version = grow(dataset, publish.run([first], dataset, SETTINGS).version, shards // SHARDS)
            urls = [manifest.url for manifest in batch]
            arguments = ["--profile"] if given.profile else []
            command = [sys.executable, "-m", "tests.benchmarks.publish", *arguments, "--publish", dataset, *urls]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=child_environment())
            *profile, spent = done.stdout.splitlines()
            print("\n".join(profile), end="\n" if profile else "")
            lists = sum(entry.stored.size for entry in version.units.lists.values())
            assert len(read_version(dataset).units) == shards // SHARDS + 1 + BATCH
            print(
                f"{version.units.shards:>7,} | {version.samples:>11,} | {lists / 1e6:.0f} | {version.index.size / 1e6:.0f} | {spent}"
            )


def publish_once(dataset: str, *urls: str, profile: bool) -> None:
    """In a process of its own: what the publish alone adds to it."""
    import cProfile
    import pstats

    uploads = [read_manifest(url) for url in urls]
    wall, before, loaded = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF), peak()
    profiler = cProfile.Profile()
    if profile:
        profiler.enable()
    publish.run(uploads, dataset, SETTINGS)
    profiler.disable()
    after = resource.getrusage(resource.RUSAGE_SELF)
    if profile:
        pstats.Stats(profiler).sort_stats("cumulative").print_stats(28)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{time.monotonic() - wall:.2f} | {cpu:.2f} | {loaded} -> {peak()}")


def peak() -> int:
    """MB. Not getrusage's, which a process inherits from the one that started it."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) // 1024


def made(dataset: str, number: int) -> Manifest:
    """The upload of one real WAT file."""
    wat_file = build_wat_file(dataset, f"{90_000 + number:05}", first=number * 1000, settings=SETTINGS)
    converted = convert.run(wat_file.samples, wat_file.decisions, wat_file.out("convert"), SETTINGS)
    return upload.run(converted, dataset, wat_file.out("upload"), SETTINGS)


def grow(dataset: str, version: Version, wat_files: int) -> Version:
    """A second version with so many synthetic WAT files more."""
    store = Store(dataset)
    (template,) = version.units.values()
    (shard,) = unit_shards(store, template)
    units, texts = {template.key: template}, []
    for unit in synthetic(template, wat_files):
        text = BETWEEN.join(shard_text(shard, unit, place) for place in range(SHARDS))
        units[unit.key] = replace(unit, index_bytes=len(text))
        texts.append((unit.key, text))
    add(dataset, version, list(units.values())[1:])
    texts.append((template.key, json.dumps(shard, sort_keys=True).encode()))
    order = {key: place for place, key in enumerate(Units.stored(store, units))}
    content = b"".join([HEAD, BETWEEN.join(text for _, text in sorted(texts, key=lambda entry: order[entry[0]])), TAIL])
    store.write("versions/000002/index.json", content)
    index = StoredObject("versions/000002/index.json", len(content), hashlib.sha256(content).hexdigest())
    delta_version = DeltaTable(table_location(dataset)[0]).version()
    grown = replace(version, number=2, delta_version=delta_version, index=index, units=Units.stored(store, units))
    assert store.create(Layout.version_path(2), grown.to_json())
    return grown


def synthetic(template: PublishedUnit, wat_files: int) -> Iterator[PublishedUnit]:
    """In the segment that the batch belongs to, then in others."""
    for number in range(wat_files):
        segment = SEGMENT if number < PER_SEGMENT else f"1700679099281.{100 + number // PER_SEGMENT}"
        wat_file = f"{number % PER_SEGMENT:05}"
        name = Layout.unit_name(SNAPSHOT, segment, wat_file, f"{number:012x}")
        renamed = [replace(entry, path=entry.path.replace(template.unit_name, name)) for entry in template.objects]
        objects = [entry for entry in renamed if not entry.path.endswith(".mds")]
        objects += [StoredObject(f"shards/{name}/shard.{place:05}.mds", 64 << 20, "0" * 64) for place in range(SHARDS)]
        path = f"snapshot={SNAPSHOT}/segment={segment}/wat_file={wat_file}/part-00000-{number:036x}-c000.snappy.parquet"
        yield replace(
            template, unit_name=name, segment=segment, wat_file=wat_file, samples=ROWS, shards=SHARDS, objects=objects,
            table_files=[TableFile(path, ROWS)],
        )  # fmt: skip


def shard_text(template: dict, unit: PublishedUnit, place: int) -> bytes:
    raw = template["raw_data"] | {"basename": f"shards/{unit.unit_name}/shard.{place:05}.mds"}
    return json.dumps(template | {"raw_data": raw, "samples": ROWS // SHARDS}, sort_keys=True).encode()


def add(dataset: str, version: Version, units: list[PublishedUnit]) -> None:
    """Name their files in the Delta log, with the statistics of the real one."""
    table = open_table(dataset, version)
    (log,) = Path(table_location(dataset)[0], "_delta_log").glob("*1.json")
    (stats,) = [json.loads(line)["add"]["stats"] for line in log.read_text().splitlines() if "add" in json.loads(line)]
    described = json.dumps(json.loads(stats) | {"numRecords": ROWS})
    for start in range(0, len(units), 5000):
        actions = [
            AddAction(unit.table_files[0].path, 1 << 20, {name: getattr(unit, name) for name in PARTITION}, 0, True, described)
            for unit in units[start : start + 5000]
        ]
        table.create_write_transaction(actions, "append", SCHEMA, list(PARTITION))
        table.update_incremental()
    table.create_checkpoint()


if __name__ == "__main__":
    main()
