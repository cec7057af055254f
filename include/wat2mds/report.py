"""The report of a run: its funnel, what is missing, and whether it is red.

In: the manifests and quality reports that a run's WAT files left, and the dataset's newest version. Out: ``<batch>.json``, the funnel with
a row of quality for each WAT file, and ``<batch>.html``, these rows as a page, among the dataset's reports. Guaranteed: a run whose
funnel does not reconcile, or that lost more WAT files than allowed, is a DataError that says which and what to do. What does not
belong here: task states, which a retry or a clear may have changed since.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from wat2mds.errors import DataError
from wat2mds.funnel import Funnel, build_funnel
from wat2mds.manifest import Manifest, read_manifest
from wat2mds.plan import expected_digests
from wat2mds.quality import read_report, run_page, summary_of
from wat2mds.settings import Settings
from wat2mds.store import Layout, Store, join, split
from wat2mds.versions import Version, newest_version, published_flow, unit_key


@dataclass(frozen=True)
class Report:
    """``failed`` maps a WAT file to the first stage of it that is not complete."""

    batch: str
    wat_files: int
    failed: dict[str, str]
    funnel: Funnel
    version: int | None
    url: str

    @property
    def published(self) -> int:
        return next((line.flow.left for line in self.funnel.lines if line.stage == "publish"), 0)

    def text(self) -> str:
        """The report as an operator reads it in a log."""
        lines = [
            f"batch {self.batch}: {self.wat_files - len(self.failed)} of {self.wat_files} WAT files published",
            self.funnel.table(),
        ]
        lines += [f"WAT file {number}: {stage} is not complete; see that task's log" for number, stage in self.failed.items()]
        return "\n".join(lines)


def make_report(works: Sequence[str], dataset: str, batch: str, settings: Settings, first: str = "extract") -> Report:
    """Read what the WAT files in these work folders left under these settings, and store the report. ``first``: extract or import."""
    layout = Layout.of(dataset)
    digests = expected_digests(settings, first)
    version = newest_version(layout.dataset)
    units: list[list[Manifest]] = []
    failed: dict[str, str] = {}
    for work in works:
        number = split(work)[1]
        manifests, missing = _read(work, digests)
        if missing is None:
            published = _published(manifests[-1], version)
            missing = "publish" if published is None else None
            manifests += [published] if published else []
        if missing is not None:
            failed[number] = missing
        units.append(manifests)
    funnel = build_funnel(units)
    url = join(layout.reports, f"{batch}.json")
    report = Report(batch, len(works), failed, funnel, version.number if version else None, url)
    quality = {split(work)[1]: _quality(layout.dataset, work, digests["validate"]) for work in works}
    content: dict[str, Any] = {
        "batch": batch,
        "wat_files": [split(work)[1] for work in works],
        "failed": failed,
        "version": report.version,
        "profile": settings.profile,
        "funnel": funnel.to_json(),
        "quality": quality,
    }
    Store(layout.reports).write(f"{batch}.json", json.dumps(content, indent=1, sort_keys=True).encode())
    Store(layout.reports).write(f"{batch}.html", run_page(batch, quality))
    return report


def require_green(report: Report, allowed_failed_share: float) -> None:
    """Raises DataError if the run is red."""
    if not report.funnel.reconciles:
        raise DataError(f"{report.batch}: the funnel does not reconcile: {'; '.join(report.funnel.problems)}")
    share = len(report.failed) / report.wat_files
    if share > allowed_failed_share:
        named = ", ".join(f"{number} ({stage})" for number, stage in list(report.failed.items())[:5])
        raise DataError(
            f"{report.batch}: {len(report.failed)} of {report.wat_files} WAT files are not published, more than the allowed share of "
            f"{allowed_failed_share:g}: {named}. The rest is published. Clear the failed tasks once their cause is mended"
        )


def _quality(dataset: str, work: str, digest: str) -> dict[str, Any] | None:
    """What validate found in a WAT file under these settings; None where it has not ended."""
    key = ".".join(work.rsplit("/", 3)[1:])
    report = read_report(dataset, key, digest)
    return None if report is None else summary_of(report, key, digest)


def _read(work: str, digests: dict[str, str]) -> tuple[list[Manifest], str | None]:
    """The manifests that are there, in stage order, and the first stage without one."""
    found = []
    for stage in digests:
        if stage == "scores":  # a part of filter
            continue
        try:
            found.append(read_manifest(join(work, stage, f"{digests[stage]}.json")))
        except FileNotFoundError:
            return found, stage
    return found, None


def _published(upload: Manifest, version: Version | None) -> Manifest | None:
    """publish's line for this very upload, as a manifest of its own; None where the newest version does not hold it."""
    key = unit_key(upload.unit["snapshot"], upload.unit["segment"], upload.unit["wat_file"])
    if version is None or key not in version.units or version.units[key].unit_name != upload.extra["unit_name"]:
        return None
    flow = published_flow(version, key)
    return Manifest("publish", "", upload.unit, [], {}, "", [], [flow], {}, url=str(version.number))
