"""Drift: how far one WAT file's data lies from that of the dataset's WAT files before it.

In: one WAT file's tables, and the summaries that validate left of the published ones. Out: measures, each a difference with its bounds.
Guaranteed: compared are only WAT files of the newest version that were made by the same settings up to the filter, since others differ
by design, and never the WAT file itself; with too few rows on either side there is no measure, and ``History.note`` says so.
What does not belong here: whether a difference blocks (``expectations``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from wat2mds.quality import read_report
from wat2mds.stage_settings import ValidateSettings
from wat2mds.stages.validate.frames import Tables
from wat2mds.versions import newest_version, unit_key

# LAION-400M's statistics call a sample unsafe above it.
_UNSAFE = 0.5
# Bounds of the shorter side, as in Table 1 of LAION-400M (arXiv 2111.02114).
_SIDES = (256, 512, 1024)


@dataclass(frozen=True)
class Summary:
    """Counts of one or more WAT files: they add up. ``languages`` and ``sizes`` count samples with an image; ``judged`` those that an
    NSFW model looked at."""

    pairs: int = 0
    images: int = 0
    kept: int = 0
    similarity: float = 0.0
    judged: int = 0
    unsafe: int = 0
    languages: dict[str, int] | None = None
    sizes: dict[str, int] | None = None

    def __add__(self, other: Summary) -> Summary:
        def both(one: dict[str, int] | None, more: dict[str, int] | None) -> dict[str, int]:
            return dict(Counter(one or {}) + Counter(more or {}))

        return Summary(
            self.pairs + other.pairs,
            self.images + other.images,
            self.kept + other.kept,
            self.similarity + other.similarity,
            self.judged + other.judged,
            self.unsafe + other.unsafe,
            both(self.languages, other.languages),
            both(self.sizes, other.sizes),
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class History:
    """What was published before: the sum over ``wat_files`` of them. ``note`` says why there is no comparison, where there is none."""

    summary: Summary
    wat_files: int
    note: str = ""


@dataclass(frozen=True)
class Measure:
    """``difference`` between ``now`` and ``before``; ``warn`` and ``block`` are the largest that each lets pass, None: none is asked."""

    name: str
    meaning: str
    now: float
    before: float
    difference: float
    wat_files: int
    warn: float | None
    block: float | None

    @property
    def sentence(self) -> str:
        return f"{self.meaning} is {self.now:.4g}, was {self.before:.4g} in {self.wat_files} published WAT files"


def summarize(tables: Tables) -> Summary:
    scores = pq.read_table(tables.files.scores, columns=["similarity", "punsafe", "nsfw"])
    decisions = pq.read_table(tables.files.decisions, columns=["language"])
    samples = tables.all_samples.filter(tables.all_samples["has_image"])
    sides = pc.min_element_wise(samples["original_width"], samples["original_height"])
    unsafe = pc.or_kleene(pc.greater(scores["punsafe"], _UNSAFE), pc.equal(scores["nsfw"], "NSFW"))
    judged = pc.or_(pc.is_valid(scores["punsafe"]), pc.is_valid(scores["nsfw"]))
    return Summary(
        pairs=len(tables.pair_uids),
        images=tables.image_count,
        kept=tables.kept_count,
        similarity=round(pc.sum(scores["similarity"].cast(pa.float64())).as_py() or 0.0, 3),
        judged=pc.sum(judged).as_py() or 0,
        unsafe=pc.sum(unsafe).as_py() or 0,
        languages=_counts(pc.fill_null(decisions["language"], "none").to_pylist()),
        sizes=_counts([_side(side) for side in sides.to_pylist() if side is not None]),
    )


def read_history(dataset_url: str | None, unit: dict[str, str], decisions_digest: str, settings: ValidateSettings) -> History:
    """Of the newest version's WAT files, made as this one is, the last ``drift_wat_files`` by name."""
    if dataset_url is None:
        return History(Summary(), 0, "no drift check: validate was not told of a dataset (--dataset)")
    version = newest_version(dataset_url)
    if version is None:
        return History(Summary(), 0, "no drift check: nothing is published in this dataset yet")
    own = unit_key(unit.get("snapshot", ""), unit.get("segment", ""), unit.get("wat_file", ""))
    alike = [
        (key, found.digests["validate"])
        for key, found in sorted(version.units.items())
        if key != own and found.digests.get("filter") == decisions_digest and "validate" in found.digests
    ]
    reports = [read_report(dataset_url, *place) for place in alike[-settings.drift_wat_files :]] if alike else []
    summaries = [Summary(**report["summary"]) for report in reports if report and report.get("summary")]
    if not summaries:
        return History(Summary(), 0, f"no drift check: version {version.number} holds no other WAT file made by these settings")
    return History(sum(summaries, Summary()), len(summaries))


def measure(now: Summary, history: History, settings: ValidateSettings) -> tuple[list[Measure], str]:
    """The measures, and a note where there are none."""
    before, least = history.summary, settings.drift_min_rows
    if history.note:
        return [], history.note
    if min(now.images, before.images) < least:
        few = f"{now.images} samples here and {before.images} before"
        return [], f"no drift check: {few}; it takes {least} of each (validate.drift_min_rows)"
    found = [
        ("download_success", "share of pairs that gave an image", now.images / now.pairs, before.images / before.pairs),
        ("kept_share", "share of samples that are kept", now.kept / now.images, before.kept / before.images),
        ("similarity", "mean similarity", now.similarity / now.images, before.similarity / before.images),
    ]
    if now.judged and before.judged:
        found.append(("nsfw_rate", "share of unsafe samples", now.unsafe / now.judged, before.unsafe / before.judged))
    measures = [_measure(name, meaning, one, other, abs(one - other), history, settings) for name, meaning, one, other in found]
    for name, meaning, one, other in (
        ("languages", "share of the commonest language", now.languages, before.languages),
        ("sizes", "share of the commonest size class", now.sizes, before.sizes),
    ):
        top, shares, earlier = _shares(one or {}, other or {})
        measures.append(
            _measure(name, f"{meaning} ({top})", shares[top], earlier[top], _distance(shares, earlier), history, settings)
        )
    return measures, ""


def _measure(
    name: str, meaning: str, now: float, before: float, difference: float, history: History, settings: ValidateSettings
) -> Measure:
    warn, block = getattr(settings, f"warn_{name}"), getattr(settings, f"block_{name}")
    return Measure(name, meaning, round(now, 6), round(before, 6), round(difference, 6), history.wat_files, warn, block)


def _shares(one: dict[str, int], other: dict[str, int]) -> tuple[str, dict[str, float], dict[str, float]]:
    """The commonest class before, and both as shares over the same classes."""
    names = sorted({*one, *other})
    top = max(names, key=lambda name: (other.get(name, 0), name), default="none")
    first, second = (
        {name: counts.get(name, 0) / max(1, sum(counts.values())) for name in names or [top]} for counts in (one, other)
    )
    return top, first, second


def _distance(one: dict[str, float], other: dict[str, float]) -> float:
    """Total variation: the share of samples that would have to change class; 0 to 1."""
    return sum(abs(one[name] - other[name]) for name in one) / 2


def _side(side: int) -> str:
    return next((f"below {bound}" for bound in _SIDES if side < bound), f"{_SIDES[-1]} and more")


def _counts(values: Sequence[str]) -> dict[str, int]:
    return dict(sorted(Counter(values).items()))
