"""A full-size batch through dedup.run: 60 WAT files of 400,000 synthetic pairs, peak memory and CPU seconds.

    PYTHONPATH=include nice .venv/bin/python -m tests.benchmarks.dedup [--wat-files 60] [--pairs 400000]

A quarter of each WAT file's pairs stands in an earlier one, a twentieth twice in its own. The tables are made in a process of their own,
so that the peak is dedup's alone. Bar: 4 GB.

Measured 2026-11-21, 2 cores shared with other work: 60 WAT files, 24,000,000 pairs, 17,195,000 unique.

    a new ledger                        peak   995 MB, 50 CPU s, 81 s
    a retry after the outputs were lost peak 1,000 MB, 46 CPU s, 71 s
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tests.benchmarks.synthetic import batch, hex_column, uids_of
from wat2mds.manifest import Flow, Input, Manifest, Unit, read_manifest
from wat2mds.schema import PAIRS, table_of
from wat2mds.settings import Settings
from wat2mds.store import join

SNAPSHOT, SEGMENT = "CC-MAIN-2023-50", "1700679099281.67"


def pairs_table(numbers: np.ndarray, wat_file: str) -> pa.Table:
    """Pairs whose URLs and captions are as long as real ones are on average: 90 and 60 characters."""
    size = len(numbers)
    uid = hex_column(uids_of(numbers))
    url = pc.binary_join_element_wise("https://images.example.org/wp-content/uploads/2023/", uid, ".jpg", "")
    caption = pc.binary_join_element_wise("a picture of something, number", uid, " ")
    same = {"snapshot": SNAPSHOT, "segment": SEGMENT, "wat_file": wat_file, "caption_source": "alt"}
    columns = {
        "uid": uid,
        "laion_hash": pa.array(numbers.astype(np.int64)),
        "url": url,
        "url_normalized": url,
        "caption": caption,
    }
    columns |= {name: pa.repeat(pa.scalar(value), size) for name, value in same.items()}
    return table_of(PAIRS, columns | {"page_url": url, "record_offset": pa.array(np.arange(size))})


def make_pairs(root: str, wat_files: int, size: int) -> list[str]:
    rng, first, urls = np.random.default_rng(2), 0, []
    for number in range(wat_files):
        numbers, first = batch(rng, first, size - size // 20, 0.25)
        numbers = np.concatenate([numbers, rng.choice(numbers, size // 20)])
        unit = {"snapshot": SNAPSHOT, "segment": SEGMENT, "wat_file": f"{number:05d}"}
        with Unit("extract", join(root, unit["wat_file"], "extract"), [Input(f"{number}", "1")], Settings(), unit=unit) as made:
            pq.write_table(pairs_table(numbers, unit["wat_file"]), made.path("pairs.parquet"), compression="lz4")
            urls.append(made.commit([Flow("links", "pairs", size, size)]).url)
    return urls


def deduplicate(root: str, urls: list[str]) -> list[Manifest]:
    from wat2mds.stages import dedup

    return dedup.run([read_manifest(url) for url in urls], join(root, "ledger"), join(root, "{wat_file}", "dedup"), Settings())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wat-files", type=int, default=60)
    parser.add_argument("--pairs", type=int, default=400_000)
    parser.add_argument("--made", help="root and manifests, as the parent process made them")
    given = parser.parse_args()
    if given.made:
        made = json.loads(given.made)
        wall = time.monotonic()
        found = deduplicate(made["root"], made["urls"])
        used = resource.getrusage(resource.RUSAGE_SELF)
        pairs, unique = sum(m.flows[0].entered for m in found), sum(m.flows[0].left for m in found)
        print(f"{len(found)} WAT files, {pairs:,} pairs, {unique:,} unique: peak {used.ru_maxrss / 1024:,.0f} MB, ", end="")
        print(f"{used.ru_utime + used.ru_stime:.0f} CPU s, {time.monotonic() - wall:.0f} s; ledger {found[0].extra['ledger']}")
        return
    with tempfile.TemporaryDirectory() as root:
        made = json.dumps({"root": root, "urls": make_pairs(root, given.wat_files, given.pairs)})
        for _ in ("a new ledger", "a retry after the outputs were lost"):
            subprocess.run([sys.executable, "-m", "tests.benchmarks.dedup", "--made", made], check=True)
            subprocess.run(["/bin/sh", "-c", f"rm -r {root}/0*/dedup"], check=True)


if __name__ == "__main__":
    main()
