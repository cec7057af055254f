"""The parts of a dataset's page: figures, bars and tables of one summary.

In: a ``Dataset`` and where things are linked to. Out: HTML of one part, empty where there is nothing to show. Guaranteed: every text is
escaped; numbers are those of the summary, the statistics and the record, none is computed from samples here. What does not belong
here: the frame around the parts (``pages.py``).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Any
from urllib.parse import quote

from wat2mds.dashboard.pictures import Column, growth, layers, shares
from wat2mds.dashboard.reading import Dataset
from wat2mds.dashboard.style import FETCHED, PUBLISHED
from wat2mds.derived.card import Figure, distribution_figures, funnel_figures, in_bytes, ranking_figures
from wat2mds.derived.html import plots_of, section
from wat2mds.derived.plots import Bar, bars
from wat2mds.derived.statistics import ranking
from wat2mds.derived.summaries import STAGES, Row, Summary
from wat2mds.derived.work import Work
from wat2mds.failures import FAILED
from wat2mds.manifest import Flow

_THINGS = {"extract": "records", "import": "rows", "dedup": "pairs", "retry": "failures", "download": "pairs"}
_ORDER = ("extract", "import", "retry", "dedup", "download", "filter", "validate", "convert", "upload")
_TOP = 15
_SHOWN_STATISTICS = ("similarity", "caption_chars", "sizes", "bytes", "language", "host", "license_type", "punsafe", "aesthetic")


class Addresses:
    """Where the pages lie; ``airflow`` is the path that Airflow's own pages stand below, ``base`` the plugin's."""

    def __init__(self, airflow: str, base: str, search: str = "") -> None:
        self.airflow, self.base, self.search = airflow.rstrip("/"), base.rstrip("/"), search

    @property
    def script(self) -> str:
        return f"{self.base}/dashboard/page.js"

    @property
    def start(self) -> str:
        return f"{self.base}/dashboard/"

    def dataset(self, name: str) -> str:
        return f"{self.base}/dashboard/{quote(name)}"

    def versions(self, name: str, before: int | None = None) -> str:
        return f"{self.dataset(name)}/versions" + (f"?before={before}" if before else "")

    def version(self, name: str, number: int, part: str = "") -> str:
        return f"{self.dataset(name)}/versions/{number}" + (f"/{part}" if part else "")

    def gallery(self, name: str, number: int, seed: int = 0) -> str:
        return self.version(name, number, "gallery") + (f"?seed={seed}" if seed else "")

    def image(self, name: str, number: int, unit: str, shard: str, row: int) -> str:
        return self.version(name, number, f"images/{quote(unit)}/{quote(shard)}/{row}")

    def report(self, name: str, page: str) -> str:
        return f"{self.base}/reports/{quote(name)}/{quote(page)}"

    def dag(self, dag_id: str) -> str:
        return f"{self.airflow}/dags/{quote(dag_id)}"


def link(address: str, text: str, *, leaves: bool = False) -> str:
    """``leaves``: to a page of Airflow's own or of another service, for which a frame is left."""
    return f'<a href="{escape(address)}"{" data-leaves" if leaves else ""}>{escape(text)}</a>'


def numbers(found: Sequence[tuple[str, str]]) -> str:
    cells = "".join(f'<div><b>{escape(value)}</b><span class="faint small">{escape(what)}</span></div>' for value, what in found)
    return f'<div class="numbers">{cells}</div>'


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, wrap: Sequence[int] = (), count: Sequence[int] = ()) -> str:
    """``rows`` are HTML; ``wrap`` and ``count`` are columns of long text and of numbers."""

    def cell(tag: str, number: int, inner: str) -> str:
        kind = "wrap" if number in wrap else "number" if number in count else ""
        return f"<{tag}{f' class={kind}' if kind else ''}>{inner}</{tag}>"

    top = "".join(cell("th", number, escape(text)) for number, text in enumerate(head))
    body = "".join("<tr>" + "".join(cell("td", number, inner) for number, inner in enumerate(row)) + "</tr>" for row in rows)
    return (
        f'<div class="scroll" tabindex="0"><table class="list"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def when(text: str) -> str:
    """A time of a record, in UTC, to the minute."""
    return text[:16].replace("T", " ")


def span(row: Row) -> str:
    return str(row.number) if row.first == row.number else f"{row.first}–{row.number}"


def hours(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:,.1f} s"
    return f"{seconds / 60:,.1f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def history(summary: Summary) -> str:
    """Versions over time, and where the links of each batch went."""
    rows = summary.history
    times = [(_time(row.published_at), float(row.samples)) for row in rows]
    columns = [Column(span(row), [row.published, *(getattr(row, stage) for stage in STAGES)]) for row in rows]
    sizes = [(time, float(row.size)) for (time, _), row in zip(times, rows, strict=True)]
    unit = 1024.0 ** (int(math.log2(max(size for _, size in sizes) or 1)) // 10)
    grown = "Shards, embeddings and outcomes of each version."
    note = "Links (or rows of a list) of the WAT files that each version brought: published, or dropped by a stage."
    axis = "published at, UTC"
    figures = [
        Figure("history", "Versions over time", growth(times, axis=axis), "Samples of each version."),
        Figure("size", "Size over time", growth(sizes, axis=axis, form=in_bytes, unit=unit), grown),
        Figure("batches", "Funnel by batch", layers(columns, ("published", *STAGES), axis="version", first=PUBLISHED), note),
    ]
    return section("Versions", plots_of(figures))


def funnel(flows: Sequence[Mapping[str, Any]], title: str = "Funnel in sum") -> str:
    given = [(str(f["stage"]), Flow(*(f[name] for name in ("source", "target", "entered", "left", "drops")))) for f in flows]
    given.sort(key=lambda entry: _ORDER.index(entry[0]) if entry[0] in _ORDER else len(_ORDER))
    figures = funnel_figures(given)
    every: Counter[str] = Counter()
    for _, flow in given:
        every.update(flow.drops)
    rows = [[f"<code>{escape(reason)}</code>", f"{count:,}"] for reason, count in ranking(every)]
    folded = (
        f"<details><summary>All drop reasons</summary>{table(('reason', 'dropped'), rows, count=(1,))}</details>" if rows else ""
    )
    return section(title, plots_of(figures) + folded) if figures else ""


def downloads(work: Work) -> str:
    asked = work.asked
    if not asked:
        return ""
    figures = []
    outcome = [Bar("with an image", work.fetched, _share(work.fetched, asked), strong=True)]
    classes: Counter[str] = Counter()
    for reason, count in work.reasons.items():
        classes[FAILED.get(reason, "other")] += count
    outcome += [Bar(name, count, _share(count, asked)) for name, count in ranking(classes)]
    note = "Transient failures may be asked for again; policy: the site does not want it, or the address is not allowed."
    figures.append(Figure("downloads", "Download success", bars(outcome), note))
    reasons = [
        Bar(reason, count, _share(count, asked), FAILED.get(reason, "")) for reason, count in ranking(Counter(work.reasons))
    ]
    if reasons:
        figures.append(Figure("reasons", "Failures by reason", bars(reasons[:_TOP])))
    named = {host: counts for host, counts in work.hosts.items() if host}
    for name, title, size in (("hosts", "Hosts asked most", _asked), ("failing", "Hosts failing most", lambda c: c["failed"])):
        ranked = ranking(Counter({host: size(counts) for host, counts in named.items()}))[:_TOP]
        rows = [
            (h, (named[h]["fetched"], named[h]["failed"]), _share(named[h]["fetched"], _asked(named[h])))
            for h, size in ranked
            if size
        ]
        if rows:
            note = f"Percent with an image. {len(named):,} hosts are kept of all that were asked." if name == "hosts" else ""
            figures.append(Figure(name, title, shares(rows, ("with an image", "failed"), first=FETCHED), note))
    return section("Downloads", plots_of(figures))


def throughput(work: Work) -> str:
    rows = []
    for stage, spent in _in_order(work.stages):
        if not (spent["seconds"] and spent["entered"]):
            continue
        rate = spent["entered"] / spent["seconds"]
        per_cpu = spent["entered"] / spent["cpu_seconds"] if spent["cpu_seconds"] else 0
        text = f"{rate:,.1f} {_THINGS.get(stage, 'samples')}/s"
        under = f"{per_cpu:,.1f} a CPU second, {_files(int(spent['wat_files']))}"
        rows.append(Bar(stage, math.log10(1 + rate), text, under=under))
    if not rows:
        return ""
    note = "Of one task, by the clock; bars are logarithmic. Tasks of several WAT files run at a time."
    return section("Throughput", plots_of([Figure("throughput", "Throughput by stage", bars(rows), note)]))


def distributions(dataset: Dataset) -> str:
    if dataset.statistics is None or dataset.settings is None:
        return ""
    drawn = [*distribution_figures(dataset.settings, dataset.statistics), *ranking_figures(dataset.statistics)]
    figures = [figure for figure in drawn if figure.name in _SHOWN_STATISTICS]
    return section("What is in it", plots_of(sorted(figures, key=lambda figure: _SHOWN_STATISTICS.index(figure.name))))


def quality(summary: Summary, name: str, at: Addresses) -> str:
    found, total = summary.total, sum(summary.total.quality.values())
    if not total and not summary.missing_count:
        return ""
    words = {"passed": "passed", "warned": "passed with warnings", "unknown": "no report"}
    rows = [Bar(words[kind], found.quality[kind], f"{found.quality[kind]:,}") for kind in words if found.quality.get(kind)]
    if summary.missing_count:
        rows.append(Bar("not published", summary.missing_count, f"{summary.missing_count:,}", "held back or failed"))
    figures = [
        Figure("quality", "WAT files by result", bars(rows), "A WAT file that fails a critical expectation is not published.")
    ]
    if found.expectations:
        warned = [Bar(expectation, count, _files(count)) for expectation, count in ranking(Counter(found.expectations))]
        figures.append(Figure("expectations", "Expectations that warned", bars(warned[:_TOP])))
    report = f"<p>{link(at.report(name, f'{summary.batch}.html'), 'Quality of the newest run')}</p>" if summary.batch else ""
    return section("Data quality", plots_of(figures) + report + wat_files(summary, name, at))


def wat_files(summary: Summary, name: str, at: Addresses) -> str:
    """The WAT files that a version brought, each with its validation report."""
    rows = []
    for unit in summary.units:
        result, failing = '<span class="faint">no report</span>', ""
        if (checked := unit["quality"]) is not None:
            word, kind = ("passed with warnings", "warn") if checked["warnings"] else ("passed", "good")
            if not checked["passed"]:
                word, kind = "held back", "bad"
            result = f'<a class="{kind}" href="{escape(at.report(name, checked["page"]))}">{word}</a>'
            failing = ", ".join([*checked["critical"], *checked["warnings"]])
        rows.append([escape(unit["key"]), result, f"{unit['entered']:,}", f"{unit['samples']:,}", escape(failing)])
    if not rows:
        return ""
    more = f"<p class='small faint'>The first {len(rows):,} of {summary.brought:,}.</p>" if summary.brought > len(rows) else ""
    head = ("WAT file", "validation report", "links", "samples", "failed expectations")
    return f"<h3>WAT files of version {summary.number}</h3>{table(head, rows, count=(2, 3), wrap=(4,))}{more}"


def store(dataset: Dataset) -> str:
    size = {kind: count for kind, count in dataset.summary.size().items() if count}
    rows = [Bar(kind, count, in_bytes(count), f"{count / max(1, sum(size.values())):.1%}") for kind, count in size.items()]
    per = sum(size.values()) / dataset.summary.samples if dataset.summary.samples else 0
    note = f"Of version {dataset.summary.number}: {in_bytes(sum(size.values()))}, {in_bytes(per)} a sample."
    figures = [Figure("store", "Store size", bars(rows), note)]
    if dataset.disk is not None:
        total, used, free = dataset.disk
        disk = [
            Bar("used", used, in_bytes(used), f"{used / (used + free):.0%}"),
            Bar("free", free, in_bytes(free), f"{free / (used + free):.0%}"),
        ]
        figures.append(
            Figure(
                "disk",
                "Disk",
                bars(disk),
                f"The disk that holds the store: {in_bytes(total)}.",
            )
        )
    return section("Store", plots_of(figures))


def costs(summary: Summary) -> str:
    stages = dict(_in_order(summary.total.stages))
    if not stages:
        return ""
    pairs = next((stages[name]["entered"] for name in ("dedup", "download") if name in stages), 0)
    spent = {what: sum(stage[what] for stage in stages.values()) for what in ("cpu_seconds", "seconds", "bytes")}

    def per_million(value: float, form: Any = hours) -> str:
        return form(value / pairs * 1e6) if pairs else "–"

    cpu = [
        Bar(name, stage["cpu_seconds"], hours(stage["cpu_seconds"]), f"{stage['cpu_seconds'] / (spent['cpu_seconds'] or 1):.1%}")
        for name, stage in stages.items()
    ]
    columns = [Column(span(row), [row.cpu_seconds]) for row in summary.history]
    figures = [
        Figure("cost", "CPU seconds by stage", bars(cpu), f"{hours(spent['cpu_seconds'])} in all versions so far."),
        Figure(
            "cost-history",
            "CPU seconds by version",
            layers(columns, ("CPU seconds",), axis="version"),
            "Of the work behind each.",
        ),
    ]
    rows = [
        [escape(name), *_spent(stage), per_million(stage["cpu_seconds"]), per_million(stage["bytes"], in_bytes)]
        for name, stage in [*stages.items(), ("all", spent)]
    ]
    head = ("stage", "CPU", "by the clock", "bytes left", "CPU per million pairs", "bytes per million pairs")
    note = f'<p class="small faint">{int(pairs):,} pairs. What a WAT file took over from an earlier version is not counted again.'
    if summary.total.unrecorded:
        note += f" {summary.total.unrecorded:,} WAT files left no records of their work."
    return section("Costs", plots_of(figures) + table(head, rows, count=(1, 2, 3, 4, 5)) + note + "</p>")


def retries(summary: Summary, at: Addresses, now: datetime | None = None) -> str:
    if summary.of_record:
        return ""
    today = (now or datetime.now(UTC)).date().isoformat()
    due = summary.due()
    if not due:
        return section("Retries", "<p>No failed download waits to be asked for again.</p>")
    late = [counts for day, counts in due.items() if day <= today]
    files, pairs = (sum(counts[place] for counts in late) for place in (0, 1))
    rows = [Bar("due now", pairs, f"{pairs:,}", _files(files), strong=True)] if late else []
    rows += [Bar(day, count, f"{count:,}", _files(held)) for day, (held, count) in due.items() if day > today][:_TOP]
    figure = Figure("due", "Failed downloads to ask for again", bars(rows), "Pairs, by the day from which they are due (UTC).")
    started = link(at.dag("retry_downloads"), "The DAG retry_downloads asks for them", leaves=True)
    return section("Retries", plots_of([figure]) + f"<p>{started}</p>")


def _in_order(stages: Mapping[str, dict[str, float]]) -> list[tuple[str, dict[str, float]]]:
    return sorted(stages.items(), key=lambda entry: _ORDER.index(entry[0]) if entry[0] in _ORDER else len(_ORDER))


def _spent(stage: Mapping[str, float]) -> list[str]:
    return [hours(stage["cpu_seconds"]), hours(stage["seconds"]), in_bytes(stage["bytes"])]


def _files(count: int) -> str:
    return f"{count:,} WAT file{'' if count == 1 else 's'}"


def _asked(counts: Mapping[str, int]) -> int:
    return counts["fetched"] + counts["failed"]


def _share(part: float, whole: float) -> str:
    return f"{part:,.0f} ({part / whole:.1%})" if whole else "0"


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
