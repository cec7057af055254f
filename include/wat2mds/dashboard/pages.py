"""The pages: the list of datasets, a dataset, its versions, one version, its gallery.

In: what ``reading.py`` found, and where things are linked to. Out: HTML. Guaranteed: every text is escaped, captions above all. What does
not belong here: which objects are read.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from wat2mds.dashboard import sections
from wat2mds.dashboard.gallery import Sample
from wat2mds.dashboard.pictures import spark
from wat2mds.dashboard.reading import PAGE_ROWS, Dataset, Listed, VersionView
from wat2mds.dashboard.sections import Addresses, link, numbers, span, table, when
from wat2mds.dashboard.style import whole
from wat2mds.derived.card import in_bytes
from wat2mds.derived.html import section
from wat2mds.derived.summaries import Row

BUILD = "build_dataset"


def start(root: str, found: Sequence[Listed], at: Addresses) -> str:
    """All datasets of a store."""
    cells = []
    for listed in found:
        head = f"<h2>{link(at.dataset(listed.name), listed.name)}</h2>"
        if (summary := listed.summary) is None:
            note = escape(listed.error) if listed.error else "Nothing is published yet."
            cells.append(f'<li>{head}<p class="{"note" if listed.error else "faint"}">{note}</p></li>')
            continue
        picture = _named(spark([row.samples for row in summary.history]), f"Samples of {listed.name} over its versions")
        cells.append(
            f"<li>{head}<p><b>{summary.samples:,}</b> samples of {summary.wat_files:,} WAT files</p>"
            f'<p class="small faint">Version {summary.number}, published {when(summary.published_at)} UTC, profile '
            f"{escape(summary.profile)}</p>{picture}</li>"
        )
    body = f'<h1>Datasets</h1><p class="faint small">{escape(root)}</p>'
    if cells:
        body += f'<ul class="datasets">{"".join(cells)}</ul>'
    else:
        body += f"<p>There is none yet. {link(at.dag(BUILD), 'Trigger the DAG build_dataset', leaves=True)}: its form works untouched.</p>"
    return whole("Datasets", [("Datasets", at.start)], "Datasets", body, at.script)


def dataset(found: Dataset, at: Addresses) -> str:
    """One dataset at its newest version."""
    summary, name = found.summary, found.name
    size = sum(summary.size().values())
    due = sum(pairs for _, pairs in summary.due().values())
    figures = [
        (f"{summary.samples:,}", "samples"),
        (f"{summary.number:,}", "versions"),
        (f"{summary.wat_files:,}", "WAT files"),
        (f"{summary.shards:,}", "MDS shards"),
        *([] if summary.of_record else [(in_bytes(size), "in the store"), (f"{due:,}", "failures to ask for again")]),
        *([(f"{summary.missing_count:,}", "WAT files missing")] if summary.missing_count else []),
    ]
    body = [
        f"<header><h1>{escape(name)}</h1>",
        f'<p class="faint">Version {summary.number}, published {when(summary.published_at)} UTC, profile '
        f"<b>{escape(summary.profile)}</b>{f', batch {escape(summary.batch)}' if summary.batch else ''}.</p>",
        numbers(figures),
        _links(found, at),
        "</header>",
    ]
    if summary.of_record:
        body.append(_unsummed(name, summary.number))
    else:
        body.append(sections.history(summary))
    body += [
        sections.funnel(summary.flows),
        sections.downloads(summary.total),
        sections.throughput(summary.total),
        sections.distributions(found),
        sections.quality(summary, name, at),
        "" if summary.of_record else sections.store(found),
        sections.costs(summary),
        sections.retries(summary, at),
    ]
    return whole(f"{name}: dashboard", _nav(name, summary.number, at), name, "".join(body), at.script)


def versions(
    found: Dataset, shown: Sequence[Row], withdrawn: set[int], older: int | None, newer: int | None, at: Addresses
) -> str:
    """``shown`` rows of history, newest first; ``older`` and ``newer`` are where the neighbouring pages begin."""
    name, rows = found.name, []
    for row in shown:
        state = '<span class="warn">withdrawn</span>' if row.number in withdrawn else "stands"
        rows.append(
            [
                link(at.version(name, row.number), span(row)),
                when(row.published_at),
                f"{row.samples:,}",
                f"{row.published:,}",
                f"{row.entered:,}",
                sections.hours(row.cpu_seconds),
                in_bytes(row.size),
                state,
                escape(row.batch),
            ]
        )
    head = ("version", "published (UTC)", "samples", "brought", "of links", "CPU", "size", "state", "batch")
    pager = [link(at.versions(name, newer), "Newer")] if newer is not None else []
    pager += [link(at.versions(name, older), "Older")] if older is not None else []
    body = f"<h1>Versions of {escape(name)}</h1>{_unsummed(name, found.summary.number) if found.summary.of_record else ''}"
    body += table(head, rows, count=(2, 3, 4, 5, 6))
    body += f'<nav class="pager" aria-label="Pages">{"".join(pager)}</nav>' if pager else ""
    return whole(f"{name}: versions", _nav(name, found.summary.number, at), "Versions", body, at.script)


def version(view: VersionView, at: Addresses) -> str:
    """One version, or that it is withdrawn."""
    name, summary = view.dataset, view.summary
    title = f"{name}, version {view.number}"
    own = f"Version {view.number}"
    crumbs = _nav(name, view.newest, at, (own, at.version(name, view.number)))
    if summary is None:
        assert view.withdrawal is not None
        counted = (
            f"<p>It held {view.row.samples:,} samples.</p>" if view.row is not None and view.row.first == view.row.number else ""
        )
        body = (
            f'<h1>{escape(title)}</h1><p class="note">Withdrawn on {escape(when(view.withdrawal.withdrawn_at))} UTC: '
            f"{escape(view.withdrawal.reason)}. Its samples cannot be opened, and are shown nowhere.</p>{counted}"
        )
        return whole(title, crumbs, own, body, at.script)
    brought = sum(unit["samples"] for unit in summary.units)
    links = [
        link(at.version(name, view.number, "run"), "Airflow run", leaves=True),
        link(at.version(name, view.number, "card"), "Dataset card"),
        link(at.gallery(name, view.number), "Gallery"),
    ]
    if view.report is not None:
        links.append(link(at.report(name, f"{summary.batch}.html"), "Run report"))
    parts = [
        f'<header><h1>{escape(title)}</h1><p class="faint">Published {when(summary.published_at)} UTC, profile '
        f"<b>{escape(summary.profile)}</b>{f', batch {escape(summary.batch)}' if summary.batch else ''}.</p>",
        numbers(
            [
                (f"{summary.samples:,}", "samples in all"),
                (f"{brought:,}", "of them in its own WAT files"),
                (f"{summary.brought:,}", "WAT files brought"),
                (sections.hours(sum(stage["cpu_seconds"] for stage in summary.work.stages.values())), "of CPU"),
            ]
        ),
        _list(links),
        "</header>",
        _unsummed(name, view.number) if summary.of_record else "",
        _failed(view),
        sections.funnel(summary.brought_flows, "Funnel of this batch"),
        sections.downloads(summary.work),
        sections.throughput(summary.work),
        sections.wat_files(summary, name, at),
    ]
    return whole(title, crumbs, own, "".join(parts), at.script)


def gallery(name: str, number: int, newest: int, samples: Sequence[Sample], seed: int, at: Addresses) -> str:
    """Random samples of a version that stands."""
    cells = []
    for sample in samples:
        source = escape(at.image(name, number, sample.unit, sample.shard, sample.row))
        image = (
            f'<img src="{source}" alt="{escape(sample.caption[:120])}" loading="lazy"{" tabindex=0" if sample.unsafe else ""}>'
        )
        if sample.unsafe:
            image = f"<details><summary>Likely unsafe. Show it, blurred</summary>{image}</details>"
        similarity = "" if sample.similarity is None else f"CLIP {sample.similarity:.3f} · "
        size = f"{sample.width}×{sample.height}" if sample.width else ""
        language = f" · {sample.language}" if sample.language else ""
        cells.append(
            f'<figure id="{escape(sample.uid)}">{image}<figcaption><span class="clamp" dir="auto">{escape(sample.caption)}</span>'
            f'<span class="under faint">{escape(similarity + size + language)}</span>'
            f'<span class="under faint" title="{escape(sample.host)}">{escape(sample.host)}</span></figcaption></figure>'
        )
    body = f"<h1>Samples of {escape(name)}, version {number}</h1>"
    if cells:
        body += (
            f'<p class="faint small">{len(cells)} drawn at random; what is likely unsafe is hidden.</p>'
            f"<p>{link(at.gallery(name, number, seed + 1), 'Draw others')}</p><div class='sheet'>{''.join(cells)}</div>"
        )
    else:
        body += "<p>This version holds no sample.</p>"
    own = [] if number == newest else [(f"Gallery of version {number}", at.gallery(name, number))]
    here = own[0][0] if own else "Gallery"
    return whole(f"{name}: samples", _nav(name, newest, at, *own), here, body, at.script)


def notice(title: str, text: str, at: Addresses) -> str:
    """A page that says what is the matter, and nothing else."""
    body = f'<h1>{escape(title)}</h1><p class="note">{escape(text)}</p>'
    return whole(title, [("Datasets", at.start)], "", body, at.script)


def page_of_rows(rows: Sequence[Row], before: int | None) -> tuple[list[Row], int | None, int | None]:
    """Rows of one page, newest first, those below version ``before``; where the next older and newer pages begin."""
    ordered = sorted(rows, key=lambda row: -row.number)
    first = next((place for place, row in enumerate(ordered) if before is None or row.number < before), len(ordered))
    shown = ordered[first : first + PAGE_ROWS]
    older = shown[-1].number if shown and first + PAGE_ROWS < len(ordered) else None
    newer = ordered[max(0, first - PAGE_ROWS)].number + 1 if first else None
    return shown, older, newer


def _nav(name: str, newest: int, at: Addresses, *more: tuple[str, str]) -> list[tuple[str, str]]:
    return [
        ("Datasets", at.start),
        (name, at.dataset(name)),
        ("Versions", at.versions(name)),
        ("Gallery", at.gallery(name, newest)),
        *more,
    ]


def _links(found: Dataset, at: Addresses) -> str:
    name, number, batch = found.name, found.summary.number, found.summary.batch
    links = [
        link(at.version(name, number, "run"), "Newest run", leaves=True),
        link(at.dag(BUILD), "All runs", leaves=True),
        link(at.version(name, number, "card"), "Dataset card"),
        link(at.gallery(name, number), "Gallery"),
        link(at.versions(name), "Versions"),
        *([link(at.report(name, f"{batch}.html"), "Run report")] if batch else []),
    ]
    if at.search:
        links.append(link(at.search, "Search", leaves=True))
    elif found.indices:
        held = f"kNN index {', '.join(found.indices)}; wat2mds serve serves it, WAT2MDS_SEARCH_URL says where"
        links.append(f'<span class="faint">Search: {escape(held)}</span>')
    else:
        links.append(link(at.dag("build_search_index"), "Search: build its index first", leaves=True))
    return _list(links)


def _list(links: Sequence[str]) -> str:
    return f'<ul class="links">{"".join(f"<li>{one}</li>" for one in links)}</ul>'


def _unsummed(name: str, number: int) -> str:
    return (
        f'<p class="note">Version {number} has no summary: it was published by an older wat2mds, or its publish was cut short after the '
        f"commit. Shown is what its record says. History, work, hosts, quality and costs come with "
        f"<code>wat2mds derive --dataset {escape(name)}</code>.</p>"
    )


def _failed(view: VersionView) -> str:
    failed = (view.report or {}).get("failed") or {}
    if not failed:
        return ""
    rows = [[escape(number), escape(stage)] for number, stage in failed.items()]
    return section("Not published", table(("WAT file", "stage that is not complete"), rows))


def _named(svg: str, label: str) -> str:
    return svg.replace("<svg ", f'<svg aria-label="{escape(label)}" ', 1)
