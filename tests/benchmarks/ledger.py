"""The ledger as it grows to 100 million keys: CPU seconds a million keys, memory of the process, errors of the filters.

    PYTHONPATH=include nice .venv/bin/python -m tests.benchmarks.ledger --keys 100 [--batch 5] [--inexact] [--bins 1024]

Batches of a few million uids in 10 WAT files, a fifth of them claimed before, go through dedup's own decisions (all but its tables), in
one process. A line is the mean of four batches from a size of the ledger on, beside it the mean of all batches so far: every fourth
commit merges filters, commit 64 merges 64, and whether such a one falls into the four decides their mean.

Measured 2026-11-21, 2 cores shared with other work (load 3 to 8, so wall seconds say little), local disk.
Exact, 256 bins (the default), batches of 5 million; the measured lines begin at 1, 17 (four batches lead there) and 100 million:

    keys before | CPU s/M keys | peak memory MB | filter's false positives of new uids | wrongly dropped
      1,000,000 |         0.95 |            416 | 2 of 16,000,000                      | 0
     17,000,000 |         1.13 |            416 | 1 of 16,000,000                      | 0
    100,000,000 |         1.48 |            431 | 2 of 16,000,000                      | 0
    all 39 batches, 144 M uids asked, 116 M claimed: 1.41 CPU s/M, 8 false positives (7e-8), none dropped;
    a key takes 16.6 bytes of claims, 4.5 of filters, 15.2 of merged claims

Exact, batches of 2.5 million (commit 64 is in the last line):

      1,000,000 |         0.95 |            302 | 1 of 8,000,000                       | 0
     10,000,000 |         1.40 |            306 | 0 of 8,000,000                       | 0
    100,000,000 |         4.70 |            362 | 4 of 8,000,000                       | 0
    all 72 batches, 134 M uids asked, 108 M claimed: 1.96 CPU s/M, 19 false positives (2e-7), none dropped

Not exact, 1,024 bins (profile laion5b), batches of 5 million; errors are those of random probes:

      1,000,000 |         1.28 |            391 | 0 of 16,777,216 probes               | 2 of 16,000,000
     17,000,000 |         1.47 |            391 | 0 of 16,777,216 probes               | 1 of 16,000,000
    100,000,000 |         2.47 |            396 | 2 of 16,777,216 probes               | 3 of 16,000,000
    all 39 batches, 144 M uids asked, 116 M claimed: 2.08 CPU s/M, 14 of 141.8 M probes (1e-7), 11 of 116 M dropped (9e-8);
    a key takes 16.9 bytes of claims, 4.5 of filters

On to 50 billion keys with the profile laion5b (calculated from these lines, not measured). Batches of 24 million pairs, four fifths of
them new, are 19.2 million claims: 50 billion / 19.2 million = 2,600 batches, so 2,600 commits a bin. Layers: log4(2,600) = 5.7, so at
most 6 x 3 = 18 of a bin. CPU: 1.28 s a million in the first power of four of commits, 2.08 on the mean of 36 commits (log4 = 2.6), so
0.5 a power: 1.28 + 4.7 x 0.5 = 3.6 s a million on the mean, 87 CPU seconds a batch, 2.7 CPU days for all 62 billion pairs. Filters:
50 billion x 4.5 bytes = 225 GB, read by every batch, 9 KB a pair, four minutes at 1 GB/s; a terabyte where the ledger is exact (17 bytes
of claims more a key), which is why the profile is not. Memory: 50 billion / 1,024 = 49 million keys a bin; the largest layer holds at
most those, 0.8 GB of uids and 0.2 GB of filter, about 2 GB while it is merged; 400 MB of today's are numpy, pyarrow and the batch.
Store: 50 billion x 16.9 bytes = 0.85 TB of claims. Errors: each layer is made for 1e-6 / 32, so 18 layers stay below 6e-7, and 1e-7 was
measured with 6 to 9 layers: at most 1 pair in 1.7 million is dropped that nobody has, 28,000 of 50 billion.
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
from wat2mds.stage_settings import DedupSettings
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
    parser.add_argument("--batch", type=float, default=5, help="millions of uids a batch")
    parser.add_argument("--bins", type=int, default=DedupSettings().bins)
    parser.add_argument("--inexact", action="store_true")
    given = parser.parse_args()
    size, rng, first, number = int(given.batch * MILLION), np.random.default_rng(1), 0, 0
    totals: Counter[str] = Counter()
    spent = 0.0
    print(
        "keys before | CPU s/M keys | all so far | wall s/M | peak memory MB | false/positives asked | wrongly dropped of new",
        flush=True,
    )
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
            rate, mean = sums / (4 * size / MILLION), spent / (totals["asked"] / MILLION)
            errors = (
                f"{counts['false_positives']}/{counts['new']}" if ledger.exact else f"{counts['probe_hits']}/{counts['probes']}"
            )
            print(
                f"{before:>11,} | {rate[0]:6.2f} | {mean:6.2f} | {rate[1]:6.2f} | {peak:6.0f} | {errors} | {counts['lost']}",
                flush=True,
            )
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
