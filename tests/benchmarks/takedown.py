"""A list of 16 million hashes against 10 million published rows: reading the list, recording it, finding what it names.

    PYTHONPATH=include nice .venv/bin/python -m tests.benchmarks.takedown [--entries 16] [--rows 10] [--planted 1000]

The list is parquet with the columns kind and value: a quarter each of md5, sha1, sha256 and PDQ. The rows are metadata objects of 50,000,
as publish leaves them, with real lengths of URLs and captions. So many of the entries are of rows, others of nothing; exactly these must
be found. Everything is random, so that nothing is compared sooner than in a real list. Each step is a process of its own.

Measured 2026-11-21, 2 cores under a load of about 20:

    read and record    7.1 min,   24.9 CPU s, peak   2,019 MB: entries 16,000,000
    look               7.1 min,   38.7 CPU s, peak   1,276 MB: rows 10,000,000, found 1,000
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.benchmarks.publish import peak
from wat2mds.schema import METADATA, table_of
from wat2mds.settings import child_environment
from wat2mds.store import Layout, Store
from wat2mds.takedown.entries import entries_of
from wat2mds.takedown.finding import find
from wat2mds.takedown.lists import read_list
from wat2mds.takedown.records import read_entries, record, takedowns
from wat2mds.units import PublishedUnit, StoredObject

MILLION, ROWS = 1_000_000, 50_000
DIGITS = {"md5": 32, "sha1": 40, "sha256": 64, "pdq": 64}
SNAPSHOT, SEGMENT = "CC-MAIN-2023-50", "1700679099281.67"


def hashes(rng: np.random.Generator, count: int, digits: int) -> pa.Array:
    """Random hashes in hex."""
    return pa.array([row.tobytes().hex() for row in rng.integers(0, 256, (count, digits // 2), np.uint8)])


def make(folder: Path, entries: int, rows: int, planted: int) -> None:
    """Metadata objects, and a list that names ``planted`` of their rows."""
    rng = np.random.default_rng(16)
    dataset = Layout(folder.as_uri(), "synthetic").dataset
    store, named = Store(dataset), {kind: list[str]() for kind in DIGITS}
    units = rows // ROWS
    for number in range(units):
        texts = {kind: hashes(rng, ROWS, digits) for kind, digits in DIGITS.items()}
        uid = hashes(rng, ROWS, 32)
        url = pa.array(
            [f"https://images{n % 997}.example.org/wp-content/uploads/2023/{u}.jpg" for n, u in enumerate(uid.to_pylist())]
        )
        same = {
            "snapshot": SNAPSHOT,
            "segment": SEGMENT,
            "wat_file": f"{number:05d}",
            "caption_source": "alt",
            "shard": "shards/u/shard.00000.mds",
        }
        columns: dict[str, Any] = {name: pa.repeat(pa.scalar(value), ROWS) for name, value in same.items()}
        columns |= {"uid": uid, "url": url, "url_normalized": url, "page_url": url, "caption": uid, **texts}
        columns |= {
            "laion_hash": pa.array(np.arange(ROWS)),
            "shard_row": pa.array(np.arange(ROWS), pa.int32()),
            "pdq_quality": pa.repeat(pa.scalar(90, pa.int32()), ROWS),
        }
        path = store.local / f"embeddings/u{number:05d}/metadata/metadata_0.parquet"  # type: ignore[operator]
        path.parent.mkdir(parents=True)
        pq.write_table(table_of(METADATA, columns), path, compression="zstd")
        share = planted * (number + 1) // units - planted * number // units
        for row, kind in zip(rng.choice(ROWS, share, replace=False), np.resize(list(DIGITS), share), strict=True):
            named[str(kind)].append(texts[str(kind)][int(row)].as_py())
    with pq.ParquetWriter(folder / "list.parquet", pa.schema([("kind", pa.string()), ("value", pa.string())])) as writer:
        for kind, digits in DIGITS.items():
            left = entries // len(DIGITS) - len(named[kind])
            for start in range(0, left, MILLION):
                some = hashes(rng, min(MILLION, left - start), digits)
                writer.write_table(pa.table({"kind": [kind] * len(some), "value": some}))
            writer.write_table(
                pa.table({"kind": pa.repeat(pa.scalar(kind), len(named[kind])), "value": pa.array(named[kind], pa.string())})
            )


def read_and_record(folder: Path) -> dict[str, Any]:
    entries = entries_of(read_list(folder / "list.parquet", "list.parquet", None))
    made = record(Store(Layout(folder.as_uri(), "synthetic").dataset), entries, ["list.parquet"], "benchmark", 0)
    return {"entries": sum(made.counts.values())}


def look(folder: Path) -> dict[str, Any]:
    dataset = Store(Layout(folder.as_uri(), "synthetic").dataset)
    entries = read_entries(dataset, takedowns(dataset)[0])
    units = [
        PublishedUnit(
            name,
            SNAPSHOT,
            SEGMENT,
            name,
            ROWS,
            0,
            {},
            [],
            [StoredObject(f"embeddings/{name}/metadata/metadata_0.parquet", 0, "")],
        )
        for name in dataset.names("embeddings")[1]
    ]
    return {"rows": len(units) * ROWS, "found": sum(len(found.samples) for found in find(dataset, units, entries))}


STEPS = {"read and record": read_and_record, "look": look}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=float, default=16, help="millions of hashes in the list")
    parser.add_argument("--rows", type=float, default=10, help="millions of published rows")
    parser.add_argument("--planted", type=int, default=1_000, help="entries that name a row")
    parser.add_argument("--step", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.step:
        started, (name, folder) = time.monotonic(), given.step
        done = STEPS[name](Path(folder))
        cpu = os.times()
        print(json.dumps(done | {"wall": time.monotonic() - started, "cpu": cpu.user + cpu.system, "peak": peak()}))
        return
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        make(Path(temporary), int(given.entries * MILLION), int(given.rows * MILLION), given.planted)
        for step in STEPS:
            command = [sys.executable, "-m", __spec__.name, "--step", step, temporary]
            done = json.loads(subprocess.run(command, check=True, capture_output=True, text=True, env=child_environment()).stdout)
            said = ", ".join(f"{name} {done[name]:,}" for name in done if name in ("entries", "rows", "found"))
            print(
                f"{step:16}{done['wall'] / 60:6.1f} min, {done['cpu']:6.1f} CPU s, peak {done['peak']:7,.0f} MB: {said}",
                flush=True,
            )
            if "found" in done and done["found"] != given.planted:
                sys.exit(f"{given.planted} entries name a row, {done['found']} were found")


if __name__ == "__main__":
    main()
