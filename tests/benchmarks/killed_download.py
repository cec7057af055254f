"""A download of many URLs on many hosts with a mixed fault profile, killed at three random points, beside one that is not.

    PYTHONPATH=include nice .venv/bin/python -m tests.benchmarks.killed_download [--urls 20000] [--hosts 200] [--seed 1]

Checks what ``tests/wat2mds/stages/download/killed.py`` states: each URL has exactly one row, none is fetched again after its row was
written, no host has more requests at a time than its limit (both from the origin's log), and the result is the undisturbed one's.
Exits with a traceback where that is not so.

Measured 2026-11-21, 2 cores shared with much other work: 20,000 URLs on 200 hosts, of which the largest has a sixth of the URLs, killed at
3,411 requests (the group; 2,189 rows written), 11,487 (one worker; 8,008) and 17,059 (the group; 11,851): 173 s, all as stated, the
largest host asked four times at once and never more.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from tests.wat2mds.stages.download.conftest import dedup_unit
from tests.wat2mds.stages.download.faulty_origin import web
from tests.wat2mds.stages.download.killed import run_killed

SETTINGS = {"processes": 2, "threads": 32, "samples_per_shard": 1000, "retries": 1}
SETTINGS |= {"host_connections": 4, "host_delay": 0, "host_rest": 0.05}  # the origin needs no time to recover


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--urls", type=int, default=20_000)
    parser.add_argument("--hosts", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    urls = web(given.urls, given.hosts, given.seed)
    with tempfile.TemporaryDirectory() as folder:
        unique = dedup_unit(Path(folder), urls)
        story = run_killed(unique, urls, Path(folder), SETTINGS, given.seed)
    for kill in story.kills:
        print(f"killed {kill.of} after {kill.requests} requests: exit code {kill.exit_code}, {len(kill.written)} rows written")
    print(f"{story.rows} rows, one a URL; no URL asked again after its row was written; equal to the undisturbed download's")
    print(f"killed and continued {story.seconds:.0f} s, undisturbed {story.undisturbed_seconds:.0f} s")


if __name__ == "__main__":
    main()
