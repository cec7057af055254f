"""The whole chain without Airflow: what the DAG's tasks run, in their order, by the same command lines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.wat2mds.programs import Programs
from wat2mds.plan import WatUnit, choose_wat_files, first_stage, plan_run, stage_arguments
from wat2mds.settings import load_settings
from wat2mds.snapshots import Registry

GROUP = ("download", "filter", "validate", "convert", "upload")


@dataclass
class Chain:
    """Runs of one store. ``summaries``: the last lines of the stages of the last run, in order."""

    root: str
    resolver: str
    programs: Programs
    summaries: list[dict[str, Any]] = field(default_factory=list)

    def plan(
        self, dataset: str, wat_files: str, *overrides: str, snapshot: str | None = None, profile: str = "demo"
    ) -> list[WatUnit]:
        given = [f"download.resolver={self.resolver}", "download.processes=1", "upload.keep_images=true", *overrides]
        settings = load_settings(profile, given, environment={})
        chosen = choose_wat_files(Registry(self.root), partition_key=None, snapshot=snapshot, segment="0", wat_files=wat_files)
        return plan_run(self.root, dataset, settings, chosen)

    def run(self, units: Sequence[WatUnit]) -> dict[str, Any]:
        """All stages of some WAT files; publish's summary."""
        self.summaries = []
        for unit in units:
            self.stage(first_stage(unit), unit)
        if first_stage(units[0]) != "retry":  # the WAT file holds the claims of what it asks for again
            self.stage("dedup", units)
        for unit in units:
            for stage in GROUP:
                self.stage(stage, unit)
        published = self.stage("publish", units)
        self.stage("report", units)
        return published

    def stage(self, stage: str, units: WatUnit | Sequence[WatUnit]) -> dict[str, Any]:
        arguments = stage_arguments(stage, units)
        done = self.programs.run(arguments)
        assert done.code == 0, f"wat2mds {' '.join(arguments)}\nended {done.code}\n{done.stderr[-4000:]}"
        summary: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        self.summaries.append(summary)
        return summary

    def index(self, dataset: str, *words: str) -> list[dict[str, Any]]:
        """``wat2mds index``'s summary of the kNN indices of one dataset."""
        done = self.programs.run(["index", *words, f"--root={self.root}", f"--dataset={dataset}"])
        assert done.code == 0, done.stderr[-4000:]
        summary: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        found: list[dict[str, Any]] = summary["indices"] if "indices" in summary else next(iter(summary["datasets"].values()))
        return found

    def worked(self) -> list[tuple[str, str]]:
        """(stage, WAT file) of what the last run did anew."""
        return [(s["stage"], s.get("wat_file", "")) for s in self.summaries if s.get("done_before") is False]
