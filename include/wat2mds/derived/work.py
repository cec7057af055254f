"""The work behind WAT files: what their stages took, how their downloads ended, what validate said.

In: published units, with what stood in their place before. Out: ``Work``, which adds up. Guaranteed: a stage that a WAT file takes
over from what it was before is not counted again; what is gone (retention) is counted as unrecorded, and no error. What does not belong
here: how work is carried on from version to version (``summaries.py``).
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pyarrow.parquet as pq

from wat2mds.derived.statistics import Statistics, ranking
from wat2mds.errors import DataError
from wat2mds.failures import FAILED, outcomes_of
from wat2mds.manifest import Manifest, read_manifest
from wat2mds.quality import read_report, summary_of
from wat2mds.store import Layout, Store, join
from wat2mds.units import PublishedUnit

HOSTS = 300  # that are named
_THREADS = 8


@dataclass
class Work:
    """What was done for a version, or for all so far. A stage that a WAT file takes over from what it was before is not counted again.

    ``stages``: by stage its ``wat_files``, ``seconds``, ``cpu_seconds``, ``bytes`` of the files it left, and what ``entered`` and ``left``
    it; ``unrecorded``: WAT files whose manifests are gone. Of ``asked`` pairs of download ``fetched`` gave an image, the others failed
    for ``reasons``; ``hosts``: by host what was ``fetched`` and what ``failed``. ``quality``: WAT files that ``passed``, passed with
    warnings (``warned``), or have no report (``unknown``); ``expectations``: those that warned, by name."""

    stages: dict[str, dict[str, float]] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    hosts: dict[str, dict[str, int]] = field(default_factory=dict)
    quality: dict[str, int] = field(default_factory=dict)
    expectations: dict[str, int] = field(default_factory=dict)
    asked: int = 0
    fetched: int = 0
    unrecorded: int = 0

    def add(self, other: Work) -> None:
        for name in ("reasons", "quality", "expectations"):
            setattr(self, name, dict(Counter(getattr(self, name)) + Counter(getattr(other, name))))
        for ours, theirs in ((self.stages, other.stages), (self.hosts, other.hosts)):
            for key, values in theirs.items():
                held: Any = ours.setdefault(key, {})
                for what, value in values.items():
                    held[what] = round(held.get(what, 0) + value, 3)
        self.asked += other.asked
        self.fetched += other.fetched
        self.unrecorded += other.unrecorded

    def bounded(self) -> Work:
        """Of the hosts those that were asked for most; the others together, under no name."""
        ranked = ranking(Counter({host: sum(counts.values()) for host, counts in self.hosts.items()}))
        hosts = {host: self.hosts[host] for host, _ in ranked[:HOSTS]}
        rest = Counter(self.hosts.get("", {}))
        for host, _ in ranked[HOSTS:]:
            rest.update(self.hosts[host])
        return Work(**(vars(self) | {"hosts": hosts | ({"": dict(rest)} if rest else {})}))


def work_of(
    dataset: Store,
    units: Sequence[PublishedUnit],
    held: Mapping[str, PublishedUnit],
    statistics_of: Callable[[PublishedUnit], Statistics],
) -> Work:
    """Of these units; ``held`` is what stood under their keys before, ``statistics_of`` counts the published samples of one."""
    with ThreadPoolExecutor(_THREADS) as pool:
        parts = list(pool.map(lambda unit: _work_of_unit(dataset, unit, held.get(unit.key), statistics_of), units))
    total = Work()
    for part in parts:
        total.add(part)
    if "dedup" in total.stages:  # each of its manifests records the time of the whole batch so far
        for what in ("seconds", "cpu_seconds"):
            total.stages["dedup"][what] = max(part.stages.get("dedup", {}).get(what, 0) for part in parts)
    return total


def _work_of_unit(
    dataset: Store, unit: PublishedUnit, old: PublishedUnit | None, statistics_of: Callable[[PublishedUnit], Statistics]
) -> Work:
    made = _manifests(dataset.url, unit)
    if old is not None:
        known = {manifest.url for manifest in _manifests(dataset.url, old)}
        made = [manifest for manifest in made if manifest.url not in known]
    work = Work(unrecorded=int(not made and old is None))
    for manifest in made:
        stage = work.stages.setdefault(manifest.stage, dict.fromkeys(("seconds", "cpu_seconds", "bytes", "entered", "left"), 0))
        stage["wat_files"] = 1
        stage["seconds"] += manifest.seconds
        stage["cpu_seconds"] += manifest.cpu_seconds
        stage["bytes"] += sum(file.size for file in manifest.files)
        if manifest.flows and manifest.digest == unit.digests.get(manifest.stage):
            stage["entered"], stage["left"] = manifest.flows[0].entered, manifest.flows[-1].left
    if old is None or old.digests.get("download") != unit.digests.get("download"):
        flows = [flow for flow in unit.flows if flow["stage"] == "download"]
        work.asked, work.fetched = (sum(flow[name] for flow in flows) for name in ("entered", "left"))
        for flow in flows:
            work.reasons = dict(Counter(work.reasons) + Counter(flow["drops"]))
        work.hosts = _hosts(dataset, unit, statistics_of)
    if old is None or old.digests.get("validate") != unit.digests.get("validate"):
        quality = quality_of(dataset, unit)
        verdict = "unknown" if quality is None else "warned" if quality["warnings"] else "passed"
        work.quality = {verdict: 1}
        work.expectations = dict(Counter(quality["warnings"] if quality else []))
    return work


def _manifests(dataset_url: str, unit: PublishedUnit) -> list[Manifest]:
    """Those of its stages that are there, with that of filter's scores, which stands before the decisions."""
    layout = Layout.of(dataset_url)
    found = []
    for stage, digest in unit.digests.items():
        folder = layout.stage(unit.snapshot, unit.segment, unit.wat_file, stage)
        try:
            manifest = read_manifest(join(folder, f"{digest}.json"))
            found.append(manifest)
            scores = [given.url for given in manifest.inputs if given.url.startswith(f"{folder}/")]
            found += [read_manifest(url) for url in scores]
        except (FileNotFoundError, DataError):  # retention was quicker, or the work lies elsewhere
            continue
    return found


def _hosts(
    dataset: Store, unit: PublishedUnit, statistics_of: Callable[[PublishedUnit], Statistics]
) -> dict[str, dict[str, int]]:
    fetched, failed = Counter(statistics_of(unit).count("host")), Counter[str]()
    entry = outcomes_of(unit)
    if entry is not None:
        try:
            content = dataset.read(entry.path)
        except FileNotFoundError:  # of a version that was withdrawn since
            entry = None
    if entry is not None:
        rows = pq.read_table(io.BytesIO(content), columns=["url_normalized", "drop_reason"])
        for url, reason in zip(rows["url_normalized"].to_pylist(), rows["drop_reason"].to_pylist(), strict=True):
            host = url.split("/", 3)[2] if url else ""  # of what stands on a block list there is no URL
            (failed if reason in FAILED else fetched)[host] += 1
    return {host: {"fetched": fetched[host], "failed": failed[host]} for host in {*fetched, *failed}}


def quality_of(dataset: Store, unit: PublishedUnit) -> dict[str, Any] | None:
    """What validate said of a WAT file, as in a run's report; None without its report."""
    digest = unit.digests.get("validate", "")
    report = read_report(dataset.url, unit.key, digest)
    return None if report is None else summary_of(report, unit.key, digest)
