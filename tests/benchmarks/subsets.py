"""A subset's MDS by resharding beside converting the same samples anew.

    python -m tests.benchmarks.subsets

Input: the 6,000 samples of ``tests/benchmarks/convert.py``, published. *convert* is the stage, from the tables that download and filter
left, to local shards; *convert and upload* brings them to the store too, which is where a subset ends: what it would cost without
resharding, download and filter not counted; *with one hash* the same with xxh64 alone, which is what a subset's own shards have, where
the default is SHA-1 too. *all*, *half* and *tenth* build subsets of such shares of the uids, with their uids, parts, metadata and shards,
nothing compressed, as in convert. *copy* reads all shards into memory, hashes them once (xxh64) and writes them. CPU µs a row of
24 KB, in one process, rounds alternating, the first not counted, medians; times are beside *convert and upload*. Before each a file
is written and removed, so that all find memory that the machine has used before: in a virtual machine the first use of a page can cost
ten times what a copy of it does, and falls on whoever comes first. Speed is read, not asserted. Goal: 5 times.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import xxhash

from tests.benchmarks.convert import ROWS, SETTINGS, make
from wat2mds import subsets
from wat2mds.manifest import read_manifest
from wat2mds.settings import Settings
from wat2mds.stages import convert, publish, upload
from wat2mds.store import Layout, Store
from wat2mds.subsets import Definition

ROUNDS = 3
FRACTIONS = {"all": None, "half": 0.5, "tenth": 0.1}
MEMORY = 1 << 29  # bytes; more than a contender writes
ONE_HASH = Settings.model_validate({"convert": {"hashes": ["xxh64"]}})
CONTENDERS = ("convert", "convert and upload", "with one hash", *FRACTIONS, "copy")


def prepare(base: Path) -> dict[str, str]:
    made = make(base)
    dataset = Layout((base / "root").as_uri(), "bench").dataset
    converted = convert.run(read_manifest(made["samples"]), read_manifest(made["decisions"]), str(base / "first"), SETTINGS)
    publish.run([upload.run(converted, dataset, str(base / "upload"), SETTINGS)], dataset, SETTINGS)
    return made | {"dataset": dataset}


def contend(contender: str, made: dict[str, str], folder: Path, attempt: str) -> dict[str, float]:
    started = time.process_time()
    rows = ROWS
    if contender in ("convert", "convert and upload", "with one hash"):
        settings = ONE_HASH if contender == "with one hash" else SETTINGS
        done = convert.run(read_manifest(made["samples"]), read_manifest(made["decisions"]), str(folder / "mds"), settings)
        if contender != "convert":
            upload.run(done, Layout(folder.as_uri(), "anew").dataset, str(folder / "upload"), settings)
    elif contender == "copy":
        dataset, anew = Store(made["dataset"]), Store(folder.as_uri())
        for entry in dataset.walk("shards"):
            data = dataset.read(entry.path)
            anew.write(entry.path, data)
            xxhash.xxh64(data)
    else:
        fraction = FRACTIONS[contender]
        rows = subsets.build(made["dataset"], f"{contender}-{attempt}", Definition("true", fraction), mds=True).samples
    return {"us": (time.process_time() - started) / rows * 1e6, "rows": rows}


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        made = prepare(Path(scratch))
        found: dict[str, list[dict[str, float]]] = {name: [] for name in CONTENDERS}
        for attempt in range(1 + ROUNDS):
            for name in CONTENDERS:
                used = Path(scratch, "used")
                with used.open("wb") as file:
                    for _ in range(MEMORY >> 20):
                        file.write(bytes(1 << 20))
                used.unlink()
                with tempfile.TemporaryDirectory(dir=scratch) as folder:
                    run = contend(name, made, Path(folder), str(attempt))
                if attempt:
                    found[name].append(run)
    for name, runs in found.items():
        ratio = statistics.median(one["us"] / other["us"] for one, other in zip(found["convert and upload"], runs, strict=True))
        print(
            f"{name:18} {statistics.median(run['us'] for run in runs):7.1f} µs a row, {ratio:5.2f} times ({runs[0]['rows']:.0f} rows)"
        )


if __name__ == "__main__":
    main()
