"""The ledger as it grows to 100 million keys: CPU seconds a million keys, memory of the process, errors of the filters.

    PYTHONPATH=include nice .venv/bin/python -m tests.benchmarks.ledger --keys 100 [--inexact]

Batches of 4 million uids in 10 WAT files, a fifth of them claimed before, go through dedup's own decisions (all but its tables). A line
is the mean of four batches from a size of the ledger on, since every fourth commit merges filters.

Measured so far, exact, batches of 5 million (2 cores under a load of 9, so CPU seconds only; the 100 million line is not measured yet):

    keys before | CPU s/M keys | peak memory MB | filter's false positives of new uids | wrongly dropped
      1,000,000 |         1.73 |            418 | 2 of 16,000,000                      | 0
     17,000,000 |         2.21 |            418 | 1 of 16,000,000                      | 0

To 50 billion keys (calculated, not measured): a ledger of 1,024 bins holds 49 million keys a bin: 0.8 GB of uids, about 2 GB of memory
while its largest layer is merged, and 0.2 GB of filter. A batch of 24 million pairs reads 4.5 bytes of filter a key, 225 GB, and, where
the ledger is exact, 16 bytes a key more, 0.8 TB. About 2,500 commits a bin make at most 18 layers, at 0.3 µs a look-up 5 CPU s a
million keys. Claims take 0.85 TB.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from collections import Counter

import numpy as np

from tests.benchmarks.synthetic import batch, uids_of
from wat2mds.settings import DedupSettings
from wat2mds.stages.dedup import _decide
from wat2mds.stages.dedup.ledger import Ledger
from wat2mds.stages.dedup.session import Session

MILLION = 1_000_000


def cpu() -> float:
    times = os.times()
    return times.user + times.system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, default=100, help="millions of keys")
    parser.add_argument("--batch", type=float, default=4, help="millions of uids a batch")
    parser.add_argument("--bins", type=int, default=DedupSettings().bins)
    parser.add_argument("--inexact", action="store_true")
    given = parser.parse_args()
    size, rng, first, number = int(given.batch * MILLION), np.random.default_rng(1), 0, 0
    totals: Counter[str] = Counter()
    spent = 0.0
    print("keys before | CPU s/M keys | wall s/M | peak memory MB | false/positives asked | wrongly dropped of new", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger.open(folder, DedupSettings(bins=given.bins, exact=not given.inexact))
        for target in sorted({1, 10, given.keys}):
            while first < target * MILLION:
                seconds, first, number = run(ledger, rng, first, min(size, target * MILLION - first), number, totals)
                spent += seconds[0]
            before, sums, counts = first, np.zeros(2), Counter()
            for _ in range(4):
                seconds, first, number = run(ledger, rng, first, size, number, counts)
                sums += seconds
            totals += counts
            spent += sums[0]
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            rate = sums / (4 * size / MILLION)
            errors = (
                f"{counts['false_positives']}/{counts['new']}" if ledger.exact else f"{counts['probe_hits']}/{counts['probes']}"
            )
            print(f"{before:>11,} | {rate[0]:6.2f} | {rate[1]:6.2f} | {peak:6.0f} | {errors} | {counts['lost']}", flush=True)
        asked = totals["asked"] / MILLION
        print(f"all {asked:.0f} M uids in {number} batches: {spent / asked:.2f} CPU s/M; {dict(totals)}")
        print(ledger.status())


def run(
    ledger: Ledger, rng: np.random.Generator, first: int, size: int, number: int, counts: Counter[str]
) -> tuple[np.ndarray, int, int]:
    numbers, after = batch(rng, first, size, 0.2)
    parts = [uids_of(part) for part in np.array_split(numbers, 10)]
    started = np.array([cpu(), time.monotonic()])
    session = Session(ledger, [f"S.1.{number:05d}{wat}" for wat in range(10)])
    verdicts = _decide(parts, session)
    seconds = np.array([cpu(), time.monotonic()]) - started
    kept = sum(int((verdict == 0).sum()) for verdict in verdicts)
    counts.update(session.counts)
    counts["lost"] += (after - first) - kept
    return seconds, after, number + 1


if __name__ == "__main__":
    main()
