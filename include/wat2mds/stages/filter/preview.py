"""The funnel under other thresholds, from stored scores: what filter would decide, without writing or scoring anything.

In: WAT files' work folders and settings. Out: the manifests of their stages up to download as they are stored, with filter's line
decided anew. Guaranteed: the line is that of a full run of filter under these settings, because the same function decides from the
same scores; where the scores that it needs are not stored, an error says that filter must be run. What does not belong here: earlier
stages under other settings, which no stored score can tell (``unlike`` names such settings).
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from wat2mds.errors import DataError
from wat2mds.lineage import ancestry, parent
from wat2mds.manifest import Input, Manifest, read_manifest
from wat2mds.settings import Settings
from wat2mds.stage_settings import FilterSettings
from wat2mds.stages.filter.blocked import SETTINGS, find, read_lists, read_report
from wat2mds.stages.filter.decisions import READS, decide
from wat2mds.stages.filter.models import READ_BY, models
from wat2mds.stages.filter.near import Published
from wat2mds.store import Store, join

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Preview:
    """``units``: each WAT file's manifests in stage order, the last decided anew. ``unlike``: settings of earlier stages that the
    profile has otherwise than the stored samples, which a full run would therefore make anew."""

    units: list[list[Manifest]]
    unlike: list[str]


def work_folders(dataset: str) -> list[str]:
    """Every WAT file's work folder of a dataset that filter has scored."""
    store = Store(join(dataset, "work"))
    found = []
    for snapshot in store.names()[1]:
        for segment in store.names(snapshot)[1]:
            for wat_file in store.names(f"{snapshot}/{segment}")[1]:
                if "filter" in store.names(f"{snapshot}/{segment}/{wat_file}")[1]:
                    found.append(join(store.url, snapshot, segment, wat_file))
    return found


def preview(works: Sequence[str], settings: Settings) -> Preview:
    """Raises DataError where a WAT file has no stored scores of the models that the settings ask for."""
    units: list[list[Manifest]] = []
    unlike: set[str] = set()
    needed = models(_needed(settings.filter))
    for work in works:
        scores = _scores(work, settings, needed)
        with tempfile.TemporaryDirectory() as folder:
            try:
                path = scores.fetch("scores.parquet", Path(folder))
            except FileNotFoundError as error:
                raise DataError(
                    f"{error}: retention took the scores (`wat2mds clean-work`). A run of the batch under these settings makes them again"
                ) from error
            blocked = _blocked(work, scores, settings.filter, Path(folder))
            compared = settings.filter.near_duplicates == "dataset"
            published = Published.of(parent(scores, "download")).hashes() if compared else ()
            flow = decide(pq.read_table(path, columns=list(READS)), settings.filter, blocked, published).flow()
        before = [manifest for manifest in ancestry(scores) if manifest.stage != "filter"]
        unlike.update(name for manifest in before for name in _unlike(manifest, settings))
        units.append([*before, replace(scores, flows=[flow])])
    return Preview(units, sorted(unlike))


def _scores(work: str, settings: Settings, needed: list[Input]) -> Manifest:
    """The stored scores of one WAT file that serve these settings; of several, those of samples like the profile's, then the newest."""
    store = Store(join(work, "filter", "scores"))
    stored = [read_manifest(join(store.url, name)) for name in store.names()[0] if name.endswith(".json")]
    serving = [m for m in stored if _reads(m.settings, settings.filter) and all(i in m.inputs for i in needed)]
    if not serving:
        asked = ", ".join(f"{i.url} ({i.identity})" for i in needed)
        there = "; ".join(sorted({", ".join(_models_of(m)) for m in stored})) or "none"
        raise DataError(
            f"{work} holds no scores that profile {settings.profile} can decide on: it needs {asked}; stored: {there}. "
            f"Run filter with this profile first: wat2mds filter {join(work, 'download')} --out {join(work, 'filter')} "
            f"--profile {settings.profile}"
        )
    return max(serving, key=lambda m: (-sum(len(_unlike(b, settings)) for b in ancestry(m)), m.made_at, m.url))


def _blocked(work: str, scores: Manifest, given: FilterSettings, folder: Path) -> list[str]:
    """uids on block lists: from a stored report of these lists, else matched anew with the stored hashes."""
    lists = read_lists(given)
    samples = parent(scores, "download")
    sources = [samples.as_input(), Input(samples.base, samples.folder), *(entry.source for entry in lists)]
    store = Store(join(work, "filter", "blocked"))
    for stored in (read_manifest(join(store.url, name)) for name in store.names()[0] if name.endswith(".json")):
        same = all(stored.settings.get(key) == value for key, value in given.model_dump(mode="json", include=SETTINGS).items())
        if same and stored.inputs == sources:
            return sorted(read_report(stored, folder))
    found: set[str] = set()
    for name in samples.matching(".parquet"):
        try:
            found |= find(samples.fetch(name, folder), lists, given).keys()
        except FileNotFoundError as error:
            raise DataError(
                f"{error}: these block lists were not matched yet, and the samples are gone. Run filter first"
            ) from error
    return sorted(found)


def _needed(given: FilterSettings) -> FilterSettings:
    """The settings without the heads and lists whose scores no criterion reads."""
    return given.model_copy(update=dict.fromkeys(READ_BY.keys() & _unread(given)))


def _reads(stored: dict[str, Any], given: FilterSettings) -> bool:
    """Whether stored scores were made with the settings on which what is read of them depends.

    A head that is not asked for must not have been there either, where a criterion reads its score: without one the score is null.
    """
    wanted = given.fingerprint(decisions=False)
    return all(stored.get(key) == value for key, value in wanted.items() if key not in _unread(given))


def _unread(given: FilterSettings) -> set[str]:
    """Settings of scores that no criterion reads."""
    unread = {key for key, criteria in READ_BY.items() if all(getattr(given, criterion) is None for criterion in criteria)}
    return unread if given.drop_illegal else unread | {"zero_shot"}


def _models_of(scores: Manifest) -> list[str]:
    return [f"{i.url} ({i.identity})" for i in scores.inputs if i.url.startswith(("clip:", "head:", "words:"))]


def _unlike(manifest: Manifest, settings: Settings) -> list[str]:
    """Settings of a stored stage that differ from those asked for."""
    if manifest.stage not in ("extract", "dedup", "download"):
        return []
    wanted = settings.group(manifest.stage).fingerprint()
    return [f"{manifest.stage}.{key}" for key, value in manifest.settings.items() if wanted.get(key) != value]
