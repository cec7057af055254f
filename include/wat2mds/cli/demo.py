"""The demo: a drawn web, a real Airflow, two snapshots built through its scheduler, and the result compared with what is known.

In: a folder. Out: in that folder the world, the store with the dataset, Airflow's home and a contact sheet. Guaranteed: nothing but
the loopback interface is used; a second run finds its work done and says so; whatever differs from the truth is printed and is
exit 70. What does not belong here: the world (``world/``), how Airflow is started (``deploy/``).
"""

from __future__ import annotations

import json
import logging
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from wat2mds.cli.runs import DAG
from wat2mds.deploy.follow import show_task
from wat2mds.deploy.launcher import USER, Launcher
from wat2mds.deploy.rest import AirflowClient
from wat2mds.derived.contact_sheet import write_contact_sheet
from wat2mds.errors import Wat2MdsError
from wat2mds.snapshots import Registry, Snapshot
from wat2mds.store import Layout, Store
from wat2mds.versions import Version, newest_version, open_table
from wat2mds.world.demo_world import NEWER, OLDER, World, draw_world
from wat2mds.world.expected import compare

log = logging.getLogger(__name__)
DATASET = "demo"
PROJECT = Path(__file__).parents[3]
TIMEOUT = 900  # seconds for one run; it takes about one minute


class Demo:
    """One demo in one folder."""

    def __init__(self, home: Path) -> None:
        self.home = home.absolute()
        self.root = (self.home / "store").as_uri()
        self.layout = Layout(self.root, DATASET)
        # What a person reads goes to stderr with the logs: the last line of stdout is the summary.
        self.console = Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else 110)

    def run(self, *, keep_up: bool) -> dict[str, Any]:
        """Build, check, show. Raises Wat2MdsError if the result is not the known truth."""
        for chatty in ("httpx", "streaming"):
            logging.getLogger(chatty).setLevel(logging.WARNING)
        began = time.monotonic()
        self._say(f"[bold]wat2mds demo[/bold] in {self.home}")
        world = draw_world(self.home / "world")
        counts = world.expected.counts()
        self._say(
            f"A small web of {counts['pages']} pages with {counts['links']} image links, crawled twice: {OLDER} and {NEWER}."
        )
        registry = Registry(self.root)
        snapshots = {
            name: registry.register(name, collinfo=str(world.collinfo), source=str(world.crawl)) for name in (OLDER, NEWER)
        }
        with world.origin(self._origin_port()) as origin, self._launcher(snapshots[NEWER], origin.address) as airflow:
            self._say(f"Airflow is up at {airflow.url} (user {USER}, password {airflow.password}).")
            with airflow.client() as client:
                self._build(client, airflow, snapshots)
            version = self._check(world)
            self._show(version, airflow)
            self._say(f"Done in {time.monotonic() - began:.0f} s.")
            if keep_up:
                self._say("The web UI stays up. Ctrl-C ends it.")
                self._wait(airflow)
        return {
            "dataset": self.layout.dataset,
            "version": version.number,
            "samples": version.samples,
            "contact_sheet": str(self.home / "contact_sheet.png"),
            "card": f"{self.layout.dataset}/card.html",
        }

    # -- building

    def _launcher(self, newer: Snapshot, resolver: str) -> Launcher:
        return Launcher(
            self.home / "airflow",
            self.root,
            dags=PROJECT / "dags",
            plugins=PROJECT / "plugins",
            settings={
                "WAT2MDS_DATASET": DATASET,
                "WAT2MDS_PROFILE": "demo",
                # The newer snapshot runs by itself; the older one lies before this and waits for a person.
                "WAT2MDS_SCHEDULE_FROM": newer.start.isoformat(),
                "WAT2MDS_DOWNLOAD__RESOLVER": resolver,
            },
        )

    def _build(self, client: AirflowClient, airflow: Launcher, snapshots: Mapping[str, Snapshot]) -> None:
        client.wait_for_dag(DAG)
        client.set_paused(DAG, False)
        self._say(f"\n[bold]{NEWER}[/bold]: its batch starts by itself, because its snapshot is registered.")
        self._finish(client, airflow, self._scheduled_run(client, airflow, snapshots[NEWER]))
        files = snapshots[OLDER].segments[0].wat_file_count
        self._say(
            f"\n[bold]{OLDER}[/bold]: lies before the schedule's start; triggered through the REST API with the form's fields."
        )
        if self._is_published(snapshots[OLDER]):
            self._say("  found done: every WAT file of it is published")
            return
        conf = {"snapshot": OLDER, "segment": str(snapshots[OLDER].segments[0].number), "wat_files": f"0-{files - 1}"}
        unfinished = [r for r in client.runs(DAG, run_type=["manual"]) if r["state"] in ("queued", "running")]
        run_id = unfinished[-1]["dag_run_id"] if unfinished else client.trigger(DAG, conf)
        self._finish(client, airflow, run_id)

    def _scheduled_run(self, client: AirflowClient, airflow: Launcher, snapshot: Snapshot) -> str:
        key = next(snapshot.batches()).partition_key
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            airflow.check()
            for run in client.runs(DAG, run_type=["scheduled"]):
                if run.get("partition_key") == key:
                    return str(run["dag_run_id"])
            time.sleep(1)
        raise Wat2MdsError(f"Airflow did not schedule {key} within two minutes; see {airflow.home / 'logs' / 'scheduler.log'}")

    def _finish(self, client: AirflowClient, airflow: Launcher, run_id: str) -> None:
        """Follow a run to its end; one that ended in an earlier demo is done already, one that failed is continued."""
        state = client.run(DAG, run_id)["state"]
        if state == "success":
            self._say(f"  found done: {run_id}")
            return
        if state == "failed":
            self._say(f"  {run_id} failed before: its failed tasks are cleared")
            client.clear(DAG, run_id, only_failed=True)
        ended = client.wait(DAG, run_id, on_task=lambda task: show_task(task, sys.stderr), check=airflow.check, timeout=TIMEOUT)
        if ended["state"] != "success":
            self._explain_failure(client, run_id)

    def _explain_failure(self, client: AirflowClient, run_id: str) -> None:
        failed = [task for task in client.tasks(DAG, run_id) if task["state"] == "failed"]
        for task in failed[:1]:
            text = client.log(DAG, run_id, task["task_id"], map_index=task["map_index"], try_number=task["try_number"])
            self._say(f"The end of the log of {task['task_id']}:")
            self.console.print("\n".join(text.splitlines()[-25:]), markup=False)
        names = ", ".join(task["task_id"] for task in failed)
        raise Wat2MdsError(f"the run {run_id} is red: {names} failed. See {client.link(DAG, run_id)}")

    def _is_published(self, snapshot: Snapshot) -> bool:
        version = newest_version(self.layout.dataset)
        if version is None:
            return False
        segment = snapshot.segments[0]
        built = [u for u in version.units.values() if (u.snapshot, u.segment) == (snapshot.id, segment.name)]
        return len(built) == segment.wat_file_count

    # -- checking

    def _check(self, world: World) -> Version:
        """Compare the newest version with the truth, and the shards with the version."""
        from wat2mds.reading import count_samples

        version = newest_version(self.layout.dataset)
        if version is None:
            raise Wat2MdsError(f"{self.layout.dataset} holds no version although both runs ended well")
        self._print_funnel()
        table = open_table(self.layout.dataset, version).to_pyarrow_table(columns=["uid", "snapshot"])
        problems: list[str] = []
        self._say("\n[bold]Checks against the known truth[/bold]")
        for name in (NEWER, OLDER):
            units = [unit for unit in version.units.values() if unit.snapshot == name]
            drops: dict[str, dict[str, dict[str, int]]] = {}
            counts: dict[str, dict[str, int]] = {}
            for unit in units:
                for flow in unit.flows:
                    stage = drops.setdefault(unit.wat_file, {}).setdefault(flow["stage"], {})
                    for reason, count in flow["drops"].items():
                        stage[reason] = stage.get(reason, 0) + count
                    counts.setdefault(unit.wat_file, {}).update({flow["source"]: flow["entered"], flow["target"]: flow["left"]})
            uids = [row["uid"] for row in table.to_pylist() if row["snapshot"] == name]
            differences = compare(world.expected.of(name), drops, uids, counts)
            self._verdict(
                f"{name}: the {len(world.expected.uids(name))} samples that must be published, and no other", differences
            )
            problems += differences
        read = count_samples(self.layout.dataset, version)
        wrong = [] if read == version.samples else [f"{read} samples read, {version.samples} published"]
        self._verdict(f"StreamingDataset reads all {version.samples} samples, each uid once, each shard by its hash", wrong)
        problems += wrong
        for report in self._reports():
            self._verdict(f"the funnel of {report['batch']} reconciles", report["funnel"]["problems"])
            problems += report["funnel"]["problems"]
        if problems:
            raise Wat2MdsError(f"the result differs from the known truth in {len(problems)} points; the first: {problems[0]}")
        return version

    def _verdict(self, what: str, problems: list[str]) -> None:
        self._say(f"  {'[green]passed[/green]' if not problems else '[red]FAILED[/red]'}  {what}")
        for problem in problems[:10]:
            self._say(f"          {problem}")

    def _reports(self) -> list[dict[str, Any]]:
        store = Store(self.layout.reports)
        return [json.loads(store.read(name)) for name in store.names()[0] if name.endswith(".json")]

    def _print_funnel(self) -> None:
        for report in self._reports():
            table = Table(title=f"\nFunnel of {report['batch']}", title_justify="left", show_edge=False, pad_edge=False)
            table.add_column("stage")
            table.add_column("what")
            for name in ("in", "out", "dropped"):
                table.add_column(name, justify="right")
            table.add_column("drop reasons")
            for line in report["funnel"]["lines"]:
                reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(line["drops"].items()))
                dropped = sum(line["drops"].values())
                what = f"{line['source']} → {line['target']}"
                table.add_row(line["stage"], what, str(line["entered"]), str(line["left"]), str(dropped or ""), reasons)
            self.console.print(table)

    # -- showing

    def _show(self, version: Version, airflow: Launcher) -> None:
        from torch.utils.data import DataLoader

        from wat2mds.reading import temporary_dataset

        with temporary_dataset(self.layout.dataset, version, batch_size=8) as dataset:
            step = max(1, len(dataset) // 24)
            chosen = [dataset[position] for position in range(0, len(dataset), step)][:24]
            sheet = write_contact_sheet(
                self.home / "contact_sheet.png",
                [(sample["jpg"], sample["caption"], float(sample["similarity"])) for sample in chosen],
                f"wat2mds demo: {len(chosen)} of {version.samples} published samples",
            )
            self._say("\n[bold]Read back through StreamingDataset in a DataLoader with 2 workers[/bold]")
            seen = 0
            for batch in DataLoader(dataset, batch_size=8, num_workers=2, collate_fn=list):
                if seen == 0:
                    for sample in batch[:3]:
                        size = f"{sample['width']}x{sample['height']}"
                        self._say(f"  {sample['uid'][:8]}  {size}  {sample['similarity']:.2f}  {sample['caption']}")
                seen += len(batch)
            self._say(f"  {seen} samples in all")
        self._say(f"\nDataset        {self.layout.dataset} (version {version.number})")
        self._say(f"Contact sheet  {sheet}")
        self._say(f"Dataset card   {self.layout.dataset}/card.html")
        self._say(f"Web UI         {airflow.url}   user {USER}   password {airflow.password}")

    def _say(self, text: str) -> None:
        self.console.print(text, soft_wrap=True)

    def _wait(self, airflow: Launcher) -> None:
        try:
            while True:
                airflow.check()
                time.sleep(1)
        except KeyboardInterrupt:
            self._say("Stopping.")

    def _origin_port(self) -> int:
        """The same port each time where it is free: runs that an earlier demo left unfinished know it by number."""
        self.home.mkdir(parents=True, exist_ok=True)
        remembered = self.home / "origin-port"
        if remembered.exists():
            port = int(remembered.read_text())
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) != 0:
                    return port
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        remembered.write_text(str(port))
        return port
