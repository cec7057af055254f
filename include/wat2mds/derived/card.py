"""What a dataset card says: figures, tables and lists about one version, before they are a page or a text.

In: a version's record, its statistics, sample images. Out: ``Card``. Guaranteed: the same version gives the same card; texts are plain,
each renderer (``html.py``, ``markdown.py``) escapes them for itself: captions, hosts and licences come from the web. What does not
belong here: how it looks.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from wat2mds.derived import plots, tables
from wat2mds.derived.deviations import Point, deviations, file_name, limits
from wat2mds.derived.plots import Bar
from wat2mds.derived.statistics import AESTHETIC, SHARE, SIDES, SIMILARITY, Statistics, ranking
from wat2mds.derived.tables import Rows
from wat2mds.drops import DropReason
from wat2mds.manifest import Flow
from wat2mds.settings import Settings
from wat2mds.store import Store
from wat2mds.versions import Version

_TOP = 12
_PAGE_UNITS = {"records", "pages"}


@dataclass(frozen=True)
class Figure:
    """``name`` is its file's; ``note`` stands below it."""

    name: str
    title: str
    svg: str
    note: str = ""


@dataclass(frozen=True)
class Card:
    """``numbers`` are (figure, what it counts); ``pictures`` samples with their stored images."""

    name: str
    url: str
    version: Version
    settings: Settings
    numbers: list[tuple[str, str]]
    figures: list[Figure]
    drops: Rows
    table1: Rows
    deciles: Rows
    profile: Rows
    deviations: list[Point]
    limits: list[Point]
    pictures: list[tuple[dict[str, Any], bytes]]
    languages: list[str]

    @property
    def title(self) -> str:
        return f"{self.name}, version {self.version.number}"

    @property
    def model(self) -> str:
        """CLIP model and weights."""
        return f"{self.settings.filter.clip_model}, {file_name(self.settings.filter.clip_pretrained)}"

    @property
    def published(self) -> str:
        """When, in UTC."""
        return self.version.published_at[:16].replace("T", " ") + " UTC"

    @property
    def snippet(self) -> str:
        """Python that opens exactly this version."""
        return (
            "from wat2mds.reading import open_dataset\n\n"
            f"dataset = open_dataset({self.url!r}, version={self.version.number})\n"
            "sample = dataset[0]\n"
            'print(len(dataset), sample["caption"], sample["url"], len(sample["jpg"]))\n'
        )

    @property
    def newest_snippet(self) -> str:
        """The newest version with streaming alone."""
        remote = str(Store(self.url).local or self.url)
        return (
            "from streaming import StreamingDataset\n\n"
            f'dataset = StreamingDataset(remote={remote!r}, local="/tmp/cache", shuffle=True, batch_size=64)\n'
        )


def build_card(
    name: str, url: str, version: Version, statistics: Statistics, pictures: Sequence[tuple[dict[str, Any], bytes]]
) -> Card:
    """``url`` is the dataset's folder."""
    settings = Settings.model_validate(version.settings)
    return Card(
        name=name,
        url=url,
        version=version,
        settings=settings,
        numbers=_numbers(version, statistics),
        figures=[
            *funnel_figures(tables.summed_flows(version)),
            *distribution_figures(settings, statistics),
            *ranking_figures(statistics),
        ],
        drops=tables.drops_table(version),
        table1=tables.size_table(statistics),
        deciles=tables.deciles_table(statistics),
        profile=tables.profile_table(version, settings),
        deviations=deviations(settings, statistics),
        limits=limits(settings, statistics),
        pictures=list(pictures),
        languages=[language for language, _ in ranking(statistics.count("language"))],
    )


def _numbers(version: Version, statistics: Statistics) -> list[tuple[str, str]]:
    stored = sum(entry.size for unit in version.units.values() for entry in unit.objects if entry.path.startswith("shards/"))
    hosts = statistics.count("host")
    found = [
        (f"{version.samples:,}", "samples"),
        (f"{len(version.units):,}", "WAT files"),
        (f"{sum(unit.shards for unit in version.units.values()):,}", "MDS shards"),
        (in_bytes(stored), "in shards"),
        (f"{'over ' if hosts[''] else ''}{len(ranking(hosts)):,}", "hosts"),
        (f"{len(ranking(statistics.count('language'))):,}", "languages"),
    ]
    if version.missing:
        found.append((f"{len(version.missing):,}", "WAT files missing"))
    return found


# -- the funnels


def funnel_figures(flows: Sequence[tuple[str, Flow]]) -> list[Figure]:
    """Of (stage, flow) in flow order: records to pages, links to samples, and the drop reasons."""
    pages = [flow for _, flow in flows if flow.source in _PAGE_UNITS]
    # Pairs that were asked for again come from no earlier line: they are counted again from download on.
    pairs = _one_beginning([flow for stage, flow in flows if flow.source not in _PAGE_UNITS and stage != "retry"])
    figures = []
    if pages:
        note = "Every record of the WAT files. Request and response records, which say nothing of links, are most of them."
        figures.append(Figure("funnel-pages", "From records to pages with images", _funnel(pages), note))
    if pairs:
        note = (
            "Every image link (or row of an imported list) is published or counted under a drop reason: left + dropped = entered."
        )
        figures.append(Figure("funnel", "From links to published samples", _funnel(pairs), note))
    drops: Counter[str] = Counter()
    for flow in pairs:
        drops.update(flow.drops)
    ranked = ranking(drops)
    if ranked:
        rows = [Bar(reason, count, f"{count:,}", _stage_of(reason)) for reason, count in ranked[:_TOP]]
        rest = len(ranked) - _TOP
        note = "Each with the stage that drops for it." + (f" {rest} rarer reasons stand in the table below." if rest > 0 else "")
        figures.append(Figure("drops", "Drop reasons", plots.bars(rows), note))
    return figures


def _one_beginning(flows: Sequence[Flow]) -> list[Flow]:
    """A dataset may be built of WAT files, whose pairs begin as links, and of imported lists, whose pairs begin as rows: summed."""
    begin = [flow for flow in flows if flow.target == "pairs"]
    if len(begin) < 2:
        return list(flows)
    drops: Counter[str] = Counter()
    for flow in begin:
        drops.update(flow.drops)
    source = " and ".join(flow.source for flow in begin)
    first = Flow(source, "pairs", sum(flow.entered for flow in begin), sum(flow.left for flow in begin), dict(drops))
    return [first, *(flow for flow in flows if flow not in begin)]


def _funnel(flows: Sequence[Flow]) -> str:
    first = flows[0].entered
    rows = [Bar(flows[0].source, first, f"{first:,}", strong=True)]
    for flow in flows:
        if flow.entered == flow.left and flow is not flows[-1] and not flow.drops:
            continue  # kept → converted: nothing to see
        lost = [f"−{count:,} {reason}" for reason, count in ranking(Counter(flow.drops))]
        under = ", ".join([*lost[:3], f"{len(lost) - 3} other reasons"] if len(lost) > 4 else lost)
        share = f"{flow.left:,} ({flow.left / first:.1%})" if first else "0"
        rows.append(Bar("published" if flow.target == "uploaded" else flow.target, flow.left, share, under=under, strong=True))
    return plots.bars(rows)


def _stage_of(reason: str) -> str:
    return next((known.stage for known in DropReason if known == reason), "")


# -- distributions


def distribution_figures(settings: Settings, statistics: Statistics) -> list[Figure]:
    """Numbers of the samples, with the thresholds of these settings as marks."""
    chosen = settings.filter
    figures = []

    def add(
        name: str, title: str, width: float, axis: str, marks: list[tuple[float, str]], note: str = "", **options: Any
    ) -> None:
        values = statistics.numbers(name)
        if values:
            figures.append(
                Figure(
                    name,
                    title,
                    plots.histogram(values, width, axis=axis, marks=marks, **options),
                    note + _nulls(statistics, name),
                )
            )

    marks = [(chosen.min_similarity, f"≥ {chosen.min_similarity:g}")] if chosen.min_similarity > -1 else []
    if chosen.min_similarity_other != chosen.min_similarity and chosen.min_similarity_other > -1:
        marks.append((chosen.min_similarity_other, f"not English: ≥ {chosen.min_similarity_other:g}"))
    note = "Cosine of image and caption embedding"
    models = ", ".join(model for model, _ in ranking(statistics.count("clip_model")))
    add("similarity", "CLIP similarity", SIMILARITY, "cosine", marks, f"{note} ({models})." if models else f"{note}.")
    add("caption_chars", "Caption length", 1, "characters", [], _middle(statistics, "caption_chars", "characters"), most_bins=60)
    cells = [(*map(int, cell.split(",")), rows) for cell, rows in sorted(statistics.count("side").items())]
    if cells:
        note = "Original sizes, before resizing. Dashed: 256, 512 and 1,024 pixels, as in Table 1. Darker is more."
        svg = plots.grid(cells, parts=2, marks=SIDES, axes=("width, pixels", "height, pixels"))  # type: ignore[arg-type]
        figures.append(Figure("sizes", "Image sizes", svg, note))
    add("bytes", "File sizes", 1, "bytes as fetched", [], ticks=_octaves([quarter for quarter, _ in statistics.numbers("bytes")]))
    unsafe = [(chosen.max_punsafe, f"≤ {chosen.max_punsafe:g}")] if chosen.max_punsafe is not None else []
    add("punsafe", "Probability of unsafe content", SHARE, "punsafe", unsafe)
    marked = [(chosen.max_pwatermark, f"≤ {chosen.max_pwatermark:g}")] if chosen.max_pwatermark is not None else []
    add("pwatermark", "Probability of a watermark", SHARE, "pwatermark", marked)
    pleasing = [(chosen.min_aesthetic, f"≥ {chosen.min_aesthetic:g}")] if chosen.min_aesthetic is not None else []
    add("aesthetic", "Aesthetic score", AESTHETIC, "score", pleasing)
    add("toxicity", "Inappropriate content", SHARE, "toxicity", [])
    return figures


def _octaves(quarters: Sequence[int]) -> list[tuple[float, str]]:
    """About five powers of two to label an axis of quarter octaves with."""
    if not quarters:
        return []
    low, high = min(quarters) // 4, max(quarters) // 4 + 1
    return [(4 * power, in_bytes(2**power)) for power in range(low, high + 1, max(1, math.ceil((high - low) / 5)))]


def _nulls(statistics: Statistics, name: str) -> str:
    missing = statistics.count(name)[""]
    return f" {missing:,} samples have none." if missing else ""


def _middle(statistics: Statistics, name: str, unit: str) -> str:
    low, middle, high = (statistics.quantile(name, share) for share in (0.1, 0.5, 0.9))
    return f"Median {middle} {unit}; 80 % between {low} and {high}."


def ranking_figures(statistics: Statistics) -> list[Figure]:
    """Languages, licences, hosts and the like, most frequent first."""
    figures = []
    for name, title, nothing, note in (
        ("language", "Languages", "none", "Of the caption; none: the detector was less sure than the profile asks."),
        ("license_type", "Licences", "none stated", "Creative Commons links of the page, not of the image."),
        ("nsfw", "NSFW tags", "no tag", ""),
        ("host", "Hosts", "", ""),
        ("mime", "Formats", "unknown", "As fetched, found from the bytes."),
        ("snapshot", "Snapshots", "", ""),
    ):
        counts = statistics.count(name)
        ranked = ranking(counts)
        if name == "nsfw" and not ranked:
            continue
        rows = [Bar(value, count, _counted(count, statistics)) for value, count in ranked[:_TOP]]
        others = sum(count for _, count in ranked[_TOP:]) + (counts[""] if name == "host" else 0)
        if nothing and counts[""]:
            rows.append(Bar(nothing, counts[""], _counted(counts[""], statistics)))
        rest = f"{len(ranked) - _TOP:,} others: {_counted(others, statistics)}." if len(ranked) > _TOP else ""
        if rows:
            figures.append(Figure(name, title, plots.bars(rows, keep_end=name == "host"), " ".join(filter(None, (rest, note)))))
    return figures


def _counted(count: int, statistics: Statistics) -> str:
    return f"{count:,} ({count / statistics.samples:.1%})" if statistics.samples else "0"


def in_bytes(size: float) -> str:
    """``1.5 GiB``."""
    if size < 1024:
        return f"{size:.0f} B"
    power = min(4, int(math.log2(size) // 10))
    return f"{size / 1024**power:.3g} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"
