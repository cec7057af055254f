"""A subset's MDS by resharding beside converting the same samples anew.

    python -m tests.benchmarks.subsets

Input: the 6,000 samples of ``tests/benchmarks/convert.py``, published. *convert* is the stage, from the tables that download and filter
left: what a subset would cost without resharding, download and filter not counted; *reshard* copies all samples, *tenth* those of a
tenth of the uids, both with their uids, parts and metadata. CPU µs a row of 24 KB, each contender in a process of its own, rounds
alternating, medians. Speed is read, not asserted. Goal: 5 times.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.benchmarks.convert import ROWS, SETTINGS, make
from wat2mds.manifest import read_manifest
from wat2mds.store import Layout

ROUNDS = 5
CONTENDERS = ("convert", "reshard", "tenth")


def prepare(base: Path) -> dict[str, str]:
    from wat2mds.stages import convert, publish, upload

    made = make(base)
    dataset = Layout((base / "root").as_uri(), "bench").dataset
    converted = convert.run(read_manifest(made["samples"]), read_manifest(made["decisions"]), str(base / "first"), SETTINGS)
    publish.run([upload.run(converted, dataset, str(base / "upload"), SETTINGS)], dataset, SETTINGS)
    return made | {"dataset": dataset}


def contend(contender: str, made: dict[str, str], folder: Path, attempt: str) -> dict[str, float]:
    from wat2mds import subsets
    from wat2mds.stages import convert
    from wat2mds.subsets import Definition

    started = time.process_time()
    if contender == "convert":
        convert.run(read_manifest(made["samples"]), read_manifest(made["decisions"]), str(folder / "mds"), SETTINGS)
        rows = ROWS
    else:
        fraction = 0.1 if contender == "tenth" else None
        rows = subsets.build(made["dataset"], f"{contender}-{attempt}", Definition("true", fraction), mds=True).samples
    return {"us": (time.process_time() - started) / rows * 1e6, "rows": rows}


def main() -> None:
    if len(sys.argv) > 1:
        contender, made, folder, attempt = sys.argv[1:]
        print(json.dumps(contend(contender, json.loads(made), Path(folder), attempt)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        made = prepare(Path(scratch))
        found: dict[str, list[dict[str, float]]] = {name: [] for name in CONTENDERS}
        for attempt in range(ROUNDS):
            for name in CONTENDERS:
                with tempfile.TemporaryDirectory(dir=scratch) as folder:
                    command = [sys.executable, "-m", __spec__.name, name, json.dumps(made), folder, str(attempt)]
                    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
                    found[name].append(json.loads(done.stdout.splitlines()[-1]))
    for name, runs in found.items():
        ratio = statistics.median(one["us"] / other["us"] for one, other in zip(found["convert"], runs, strict=True))
        print(
            f"{name:8} {statistics.median(run['us'] for run in runs):7.1f} µs a row, {ratio:5.2f} times ({runs[0]['rows']:.0f} rows)"
        )


if __name__ == "__main__":
    main()
