"""Near-duplicates and PDQ block lists among millions of synthetic hashes: CPU seconds and bytes.

    PYTHONPATH=include nice .venv/bin/python -m tests.benchmarks.near_duplicates [--index 1 10] [--published 1 10] [--new 100000 1000000]

Of the new hashes a tenth lies up to 31 bits from one of the first million published, a tenth up to 31 bits from another new one.
Published ones come a million at a time, as publish and filter read them. Each measurement is a process of its own.

Measured 2026-11-21, 2 cores under a load of 3 to 7, one process; MB beside the hashes themselves:

    an index of 1 million:  1.2 CPU s, 208 MB a million (peak   382 MB); a thousand samples 0.05 CPU s
    an index of 10 million: 18.8 CPU s, 168 MB a million (peak 2,150 MB); a thousand samples 0.41 CPU s
      100,000 new against  1 million published:  6.2 CPU s, a million published 1.6 for its index and  4.6 for looking; peak 459 MB
      100,000 new against 10 million published: 47.7 CPU s, a million published 1.2 for its index and  3.6 for looking; peak 609 MB
    1,000,000 new against  1 million published: 37.9 CPU s, a million published 1.3 for its index and 36.6 for looking; peak 603 MB
      100,000 new among themselves:  4.5 CPU s; peak 175 MB
    1,000,000 new among themselves: 79.4 CPU s; peak 551 MB

All copies were found each time. Carried on to 5 billion, not measured: a batch of 60 WAT files with 3,333 images each has 200,000 new
ones, 1.2 + 0.2 * 37 = 8.6 CPU s a million published, or 14 minutes at 100 million and 12 hours at 5 billion, where the objects of groups
(70 bytes an image) that each publish reads are 350 GB. Memory stays as it is: a million published are held at a time; one index of 5
billion would be 840 GB. To get there takes 25,000 batches, each against half of it on average: 150,000 CPU hours, of which 20,000 build
indexes, which larger batches would save; the rest grows with the square of the dataset whatever the batches. The comparison is one
thread's. So publish.groups is for datasets up to some hundred million images; beyond, it is to be turned off.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from tests.benchmarks.publish import peak
from wat2mds.models.near_duplicates import NONE, Index, leaders
from wat2mds.settings import child_environment

MILLION = 1_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--index", type=int, nargs="*", default=[1, 10], help="millions in one index, as a block list's are")
    parser.add_argument("--published", type=int, nargs="*", default=[1, 10], help="millions of published hashes")
    parser.add_argument(
        "--new", type=int, nargs="*", default=[100_000, MILLION], help="new hashes; more than 100,000: against the least"
    )
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        what, *numbers = given.measure
        MEASURES[what](*map(int, numbers))
        return
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores", flush=True)
    jobs: list[tuple[str | int, ...]] = [("one", millions) for millions in given.index]
    jobs += [("against", new, millions) for new in given.new for millions in given.published if new <= 100_000 or millions == 1]
    jobs += [("themselves", new) for new in given.new]
    for job in jobs:
        command = [sys.executable, "-m", "tests.benchmarks.near_duplicates", "--measure", *map(str, job)]
        subprocess.run(command, check=True, env=child_environment())


def one_index(millions: int) -> None:
    """Built at once, and asked for a thousand samples: one of download's tables against a block list."""
    hashes = np.concatenate([block(number) for number in range(millions)])
    queries = with_copies(10_000)
    loaded, started = resident(), cpu()
    index = Index(hashes)
    built, held = cpu() - started, resident() - loaded
    started = cpu()
    found = sum(int((index.first(queries[start : start + 1000]) != NONE).sum()) for start in range(0, len(queries), 1000))
    asked = (cpu() - started) / 10
    print(
        f"an index of {millions} million: {built:.1f} CPU s, {held / millions:.0f} MB a million (peak {peak():,} MB); "
        f"a thousand samples {asked:.2f} CPU s, {found:,} of 1,000 copies found",
        flush=True,
    )


def against(new: int, millions: int) -> None:
    hashes = with_copies(new)
    rest, building, looking = hashes, 0.0, 0.0
    for number in range(millions):
        there = block(number)
        started = cpu()
        index = Index(there)
        building += cpu() - started
        started = cpu()
        rest = rest[index.first(rest) == NONE]
        looking += cpu() - started
    print(
        f"{new:,} new against {millions} million published: {building + looking:.1f} CPU s, a million published {building / millions:.1f} "
        f"for its index and {looking / millions:.1f} for looking; {new - len(rest):,} of {new // 10:,} copies found; peak {peak():,} MB",
        flush=True,
    )


def among_themselves(new: int) -> None:
    hashes = with_copies(new)
    started = cpu()
    joining = int((leaders(hashes) != np.arange(new)).sum())
    print(
        f"{new:,} new among themselves: {cpu() - started:.1f} CPU s, {joining:,} join another; peak {peak():,} MB",
        flush=True,
    )


MEASURES = {"one": one_index, "against": against, "themselves": among_themselves}


def block(number: int) -> np.ndarray:
    """A million published hashes, the same each time."""
    return np.random.default_rng(number).integers(0, 256, (MILLION, 32), dtype=np.uint8)


def with_copies(new: int) -> np.ndarray:
    rng, tenth = np.random.default_rng(1 << 40), new // 10
    hashes = rng.integers(0, 256, (new, 32), dtype=np.uint8)
    hashes[:tenth] = nearby(block(0)[rng.integers(0, MILLION, tenth)], rng)
    hashes[-tenth:] = nearby(hashes[tenth : 2 * tenth], rng)
    return hashes


def nearby(hashes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each up to 31 bits away."""
    bits = np.unpackbits(hashes, axis=1)
    for row in bits:
        row[rng.choice(256, rng.integers(32), replace=False)] ^= 1
    return np.packbits(bits, axis=1)


def cpu() -> float:
    times = os.times()
    return times.user + times.system


def resident() -> float:
    """MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    main()
