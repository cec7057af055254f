"""What orchestration costs: the DAG build_dataset over a segment of 900 WAT files, whose stages do nothing.

    python -m tests.benchmarks.scheduler [--batches 15] [--wat-files 900] [--databases sqlite,postgresql] [--option SECTION.KEY=VALUE ...]

A real Airflow with the LocalExecutor, set as the demo sets it, runs the real DAG for batches of 60 WAT files; in place of a stage's
program, plan's apart, runs a shell script that prints an empty summary. Printed for each database: task instances a minute of wall time;
CPU seconds a task instance of the scheduler itself, of the two API servers, of the dag-processor, and of the task's own processes
(Airflow's task runner, imports included); the scheduler's peak memory; and what all of it is beside STAGE_SECONDS of CPU for a WAT file's
stages, where a GPU scores and where none does. ``--option`` sets a value of airflow.cfg, to choose it by. Speed is read, not asserted.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import itertools
import json
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

from tests.airflow_env import DAGS, INCLUDE, PLUGINS
from tests.own_servers import Postgres
from wat2mds.deploy.launcher import Launcher
from wat2mds.snapshots import BATCH_SIZE, Registry, Snapshot

DAG, SNAPSHOT = "build_dataset", "CC-MAIN-2023-50"
# CPU s of a WAT file's stages by ``tests.benchmarks.projection``: extracted in 10.7; of its 17,600 candidates each asked for in 0.0066, and
# the 68 % that arrive scored in 0.0887 each, or prepared for a GPU in 0.006.
STAGE_SECONDS = {"a GPU scores": 200, "no GPU": 1_190}
# Slots beside the default pool's, which has as many as there are cores.
SLOTS = {"downloads": 2, "scoring": 2}
NOTHING = '#!/bin/sh\ncase "$1" in\nplan) exec "{python}" -m wat2mds "$@" ;;\n*) echo \'{{"rows": 0}}\' ;;\nesac\n'


def register(root: Path, wat_files: int) -> Snapshot:
    """A snapshot of one segment of so many WAT files, as Common Crawl lists it."""
    source = root.parent / "source"
    listing = source / "crawl-data" / SNAPSHOT / "wat.paths.gz"
    listing.parent.mkdir(parents=True)
    name = f"crawl-data/{SNAPSHOT}/segments/1700679099281.67/wat/CC-MAIN-20231128083443-20231128113443"
    listing.write_bytes(gzip.compress("\n".join(f"{name}-{n:05d}.warc.wat.gz" for n in range(wat_files)).encode()))
    entry = {"id": SNAPSHOT, "from": "2023-11-28T08:34:43", "to": "2023-12-12T01:12:43"}
    (source / "collinfo.json").write_text(json.dumps([entry]))
    return Registry(root.as_uri()).register(SNAPSHOT, collinfo=str(source / "collinfo.json"), source=str(source))


class Watch:
    """CPU seconds of Airflow's programs, and the scheduler's peak memory in bytes, once a second."""

    def __init__(self, launcher: Launcher) -> None:
        self._programs = {name: psutil.Process(pid) for name, pid in launcher.running().items()}
        self._begun = self.cpu()
        self.peak = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def cpu(self) -> dict[str, float]:
        """By program, with its processes, ended and live; the scheduler alone, and its processes apart as ``tasks``."""
        found = {}
        for name, process in self._programs.items():
            itself = process.cpu_times()
            alone, below = sum(itself[:2]), sum(itself[2:4])
            with contextlib.suppress(psutil.NoSuchProcess):  # one that ends meanwhile is counted next time
                for child in process.children(recursive=True):
                    below += sum(child.cpu_times()[:4])
            found |= {"scheduler": alone, "tasks": below} if name == "scheduler" else {name: alone + below}
        return found

    def _sample(self) -> None:
        while not self._over.wait(1):
            self.peak = max(self.peak, self._programs["scheduler"].memory_info().rss)

    def end(self) -> dict[str, float]:
        self._over.set()
        self._thread.join()
        return {name: seconds - self._begun[name] for name, seconds in self.cpu().items()}


def measure(database: str, batches: int, wat_files: int, options: dict[str, dict[str, str]]) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="wat2mds-scheduler-") as folder, contextlib.ExitStack() as running:
        base = Path(folder)
        plugins = shutil.copytree(PLUGINS, base / "plugins")
        script = base / "nothing.sh"
        script.write_text(NOTHING.format(python=sys.executable))
        operator = plugins / "wat2mds_operator.py"
        operator.write_text(operator.read_text("utf-8") + f"\nStageOperator.program = ('/bin/sh', {str(script)!r})\n", "utf-8")
        chosen = list(itertools.islice(register(base / "root", wat_files).batches(), batches))
        airflow = dict(options)
        if database == "postgresql":
            airflow["database"] = airflow.get("database", {}) | {"sql_alchemy_conn": running.enter_context(Postgres()).url}
        settings = {"WAT2MDS_CONTACT": "bench@example.com", "PYTHONPATH": str(INCLUDE)}
        root = (base / "root").as_uri()
        launcher = Launcher(base / "home", root, dags=DAGS, plugins=plugins, pools=SLOTS, settings=settings, airflow=airflow)
        running.enter_context(launcher)
        client = running.enter_context(launcher.client())
        client.wait_for_dag(DAG)
        client.set_paused(DAG, False)
        watch, began = Watch(launcher), time.monotonic()
        runs = [client.trigger(DAG, partition_key=batch.partition_key) for batch in chosen]
        for run in runs:
            ended = client.wait(DAG, run, check=launcher.check, timeout=7200, interval=5)
            assert ended["state"] == "success", ended
        wall, cpu = time.monotonic() - began, watch.end()
        tasks = sum(len(client.tasks(DAG, run)) for run in runs)
        files = sum(min(BATCH_SIZE, wat_files - batch.index * BATCH_SIZE) for batch in chosen)
        of_a_file = sum(cpu.values()) / files
        found = {
            "batches": len(chosen),
            "task instances": tasks,
            "a minute": 60 * tasks / wall,
            "scheduler, CPU s each": cpu["scheduler"] / tasks,
            "API servers, CPU s each": (cpu["api-server"] + cpu["execution-api"]) / tasks,
            "dag-processor, CPU s each": cpu["dag-processor"] / tasks,
            "task runner, CPU s each": cpu["tasks"] / tasks,
            "cores busy": sum(cpu.values()) / wall,
            "scheduler's peak, MB": watch.peak / 1e6,
            "wall s a WAT file": wall / files,
            "CPU s a WAT file": of_a_file,
        }
        return found | {f"% of its stages' CPU, {how}": 100 * of_a_file / seconds for how, seconds in STAGE_SECONDS.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=15)
    parser.add_argument("--wat-files", type=int, default=900)
    parser.add_argument("--databases", default="sqlite,postgresql")
    parser.add_argument("--option", action="append", default=[], metavar="SECTION.KEY=VALUE")
    given = parser.parse_args()
    options: dict[str, dict[str, str]] = {}
    for option in given.option:
        name, _, value = option.partition("=")
        section, _, key = name.partition(".")
        options.setdefault(section, {})[key] = value
    found = {}
    for database in given.databases.split(","):
        found[database] = measure(database, given.batches, given.wat_files, options)
        print(f"{database}: {json.dumps(found[database])}", file=sys.stderr, flush=True)
    print("| | " + " | ".join(found) + " |\n| --- |" + " --- |" * len(found))
    for name in next(iter(found.values())):
        print(f"| {name} | " + " | ".join(f"{column[name]:.4g}" for column in found.values()) + " |")


if __name__ == "__main__":
    main()
