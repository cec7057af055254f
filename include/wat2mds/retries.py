"""What a run of retry_downloads covers: due failures of published WAT files, a unit of their own for each WAT file.

In: a dataset's newest version, and settings. Out: one unit a WAT file, as a plan of WAT files gives them, named ``00017-r1`` for the
first retry of 00017. Guaranteed: which failures a retry asks for follows from the version alone, the clock only says from when, so that
retries planned twice are the same units; a WAT file's failures are asked for with the settings that the rest of it was published
with, but for how stages run. What does not belong here: taking up the pairs (``stages/retry.py``), publishing them.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime

from wat2mds.failures import chains, due_at, outcomes_of
from wat2mds.plan import WatUnit, expected_digests, store_settings
from wat2mds.settings import Settings
from wat2mds.snapshots import BATCH_SIZE
from wat2mds.store import Layout, Store, join, split
from wat2mds.units import PublishedUnit, round_key
from wat2mds.versions import Version, newest_version

log = logging.getLogger(__name__)


def plan_retries(dataset_url: str, settings: Settings, *, early: bool = False, now: datetime | None = None) -> list[WatUnit]:
    """The due retries of one run, those due longest first; empty where none is. ``early``: also those that still have to wait.

    ``settings`` say how stages run, and the pauses (``download.retry_days``). WAT files of one run share their settings: others wait
    for the next one. Raises ConfigError where stored settings are not of this wat2mds.
    """
    version = newest_version(dataset_url)
    if version is None:
        log.info("%s holds no version: there is nothing to ask for again", dataset_url)
        return []
    layout = Layout.of(dataset_url)
    due = _due(version, settings.download.retry_days, None if early else now or datetime.now(UTC))
    stored = {name: _settings_of(layout, name) for name in {chain[0].settings for _, chain in due}}
    used = {name: found.run_as(settings) for name, found in stored.items() if found is not None}
    due = [(time, chain) for time, chain in due if chain[0].settings in used]
    counts = Counter(used[chain[0].settings].digest for _, chain in due)
    if not counts:
        return []
    chosen = counts.most_common(1)[0][0]
    given = next(found for found in used.values() if found.digest == chosen)
    ours = [chain for _, chain in due if used[chain[0].settings].digest == chosen][:BATCH_SIZE]
    log.info(
        "%d WAT files have failures that are due; this run asks for %d pairs of %d of them",
        len(due), sum(chain[-1].retriable for chain in ours), len(ours),
    )  # fmt: skip
    url, digests = store_settings(layout, given), expected_digests(given, "retry")
    return [_unit(layout, chain, f"retry.{version.number:06d}", url, digests) for chain in ours]


def _due(version: Version, retry_days: Sequence[float], now: datetime | None) -> list[tuple[datetime, list[PublishedUnit]]]:
    found = [(due, chain) for chain in chains(version) if (due := due_at(chain, retry_days)) is not None]
    return sorted(
        ((due, chain) for due, chain in found if now is None or due <= now), key=lambda entry: (entry[0], entry[1][0].key)
    )


def _unit(layout: Layout, chain: Sequence[PublishedUnit], batch: str, settings: str, digests: dict[str, str]) -> WatUnit:
    first, last = chain[0], chain[-1]
    name = round_key(first.wat_file, len(chain))
    outcomes = outcomes_of(last)
    assert outcomes is not None  # else it is not due
    return WatUnit(
        wat_file=name,
        snapshot=first.snapshot,
        segment=first.segment,
        batch=batch,
        source=join(layout.dataset, outcomes.path),
        work=layout.work(first.snapshot, first.segment, name),
        dataset=layout.dataset,
        settings=settings,
        digests=digests,
    )


def _settings_of(layout: Layout, digest: str) -> Settings | None:
    """None where no plan left them: the WAT files were published by hand, with options of their own."""
    url = layout.settings(digest)
    folder, name = split(url)
    try:
        return Settings.from_json(Store(folder).read(name), url)
    except FileNotFoundError:
        log.warning("%s is not there, with which some WAT files were published: their failures are not asked for again", url)
        return None
