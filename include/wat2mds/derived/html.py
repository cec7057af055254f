"""A card as one HTML file that needs nothing else.

In: a Card. Out: HTML. Guaranteed: no request leaves the page (its policy forbids all, scripts too), every text is escaped, the images are
in it; light and dark by the reader's own setting, and a phone's width. What does not belong here: what the card says.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from wat2mds.derived.card import Card, Figure
from wat2mds.derived.deviations import Point
from wat2mds.derived.pictures import thumbnail
from wat2mds.derived.plots import DARK, LIGHT, STYLE
from wat2mds.derived.tables import Rows

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
PAGE = """
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1080px;margin:0 auto;padding:40px 20px 72px}
h1{font-size:2rem;line-height:1.2;margin:0 0 4px;overflow-wrap:anywhere}
h2{font-size:1.3rem;margin:56px 0 14px}
h3{font-size:1rem;margin:0 0 10px}
p{margin:0 0 12px;max-width:72ch}
.faint{color:var(--faint)}
.small{font-size:.875rem}
.numbers{display:grid;grid-template-columns:repeat(auto-fit,minmax(130px,1fr));gap:1px;margin:28px 0 0;background:var(--rule);
  border:1px solid var(--rule);border-radius:10px;overflow:hidden}
.numbers div{background:var(--paper);padding:14px 16px}
.numbers b{display:block;font-size:1.45rem;line-height:1.25;font-variant-numeric:tabular-nums}
.plots{columns:430px 2;column-gap:20px}
figure{margin:0}
.plot{break-inside:avoid;margin-bottom:20px;border:1px solid var(--rule);border-radius:10px;padding:16px 18px}
.plot svg{display:block;width:100%;max-width:560px;height:auto}
figcaption{font-size:.875rem;color:var(--faint);margin-top:8px}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:6px 18px 6px 0;border-bottom:1px solid var(--rule);vertical-align:top}
th{font-weight:600;white-space:nowrap}
table:not(.counts) td:last-child{min-width:200px}
table.counts td:first-child,table.counts th:first-child{white-space:nowrap}
table.counts td:not(:first-child),table.counts th:not(:first-child){text-align:right;white-space:nowrap}
td.code{font-family:ui-monospace,Menlo,Consolas,monospace;font-size:.85rem}
dl{margin:0;display:grid;grid-template-columns:minmax(120px,180px) 1fr;gap:10px 20px}
dt{font-weight:600}
dd{margin:0;max-width:72ch}
details{margin-top:8px} summary{cursor:pointer;padding:6px 0}
pre{margin:0 0 14px;padding:14px 16px;border:1px solid var(--rule);border-radius:10px;overflow-x:auto;
  font:.85rem/1.5 ui-monospace,Menlo,Consolas,monospace}
.sheet{display:grid;grid-template-columns:repeat(auto-fill,minmax(150px,1fr));gap:20px 16px}
.sheet img{display:block;width:100%;height:150px;object-fit:contain;background:var(--rule);border-radius:6px}
.sheet figcaption{line-height:1.35;color:var(--ink);overflow-wrap:anywhere}
.sheet .under{display:block;font-size:.78rem;white-space:nowrap;overflow:hidden;text-overflow:ellipsis}
.sheet .clamp{display:-webkit-box;-webkit-line-clamp:4;-webkit-box-orient:vertical;overflow:hidden;margin-bottom:4px}
@media(max-width:560px){
main{padding:24px 16px 48px}
h1{font-size:1.6rem}
dl{grid-template-columns:1fr;gap:2px}
dd{margin-bottom:10px}
.plot{padding:12px}
.sheet{grid-template-columns:repeat(2,minmax(0,1fr))}
}
"""


def render(card: Card) -> str:
    """The whole page."""
    version = card.version
    funnels = [figure for figure in card.figures if figure.name.startswith(("funnel", "drops"))]
    others = [figure for figure in card.figures if figure not in funnels]
    body = [
        f"<header><h1>{escape(card.name)}</h1>",
        f'<p class="faint">Version {version.number}, published {escape(card.published)} by {escape(version.code)}. '
        f"Image-text pairs from Common Crawl, profile <b>{escape(card.settings.profile)}</b>, "
        f"CLIP model {escape(card.model)}.</p>",
        '<div class="numbers">'
        + "".join(
            f'<div><b>{escape(number)}</b><span class="faint small">{escape(what)}</span></div>' for number, what in card.numbers
        ),
        "</div></header>",
        section("Samples", _sheet(card)) if card.pictures else "",
        section("Funnel", plots_of(funnels) + _folded(card.drops)),
        section("What is in it", plots_of(others)),
        section(card.table1.title, table_of(card.table1, counts=True)),
        section(card.deciles.title, table_of(card.deciles, counts=True)),
        section(card.profile.title, table_of(card.profile)),
        section("Where it differs from LAION on purpose", _points(card.deviations)),
        section("Known limits", _points(card.limits)),
        section("Loading it", _loading(card)),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><meta name="color-scheme" content="light dark">'
        f"<title>{escape(card.title)}</title><style>{colours()}{PAGE}{STYLE}</style></head>"
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )


def colours() -> str:
    """The colours of plots and pages, light and dark."""
    light, dark = (";".join(f"--{name}:{value}" for name, value in colours.items()) for colours in (LIGHT, DARK))
    return f":root{{{light}}}@media(prefers-color-scheme:dark){{:root{{{dark}}}}}"


def section(title: str, inner: str) -> str:
    """``inner`` is HTML, ``title`` text."""
    return f"<section><h2>{escape(title)}</h2>{inner}</section>"


def plots_of(figures: Sequence[Figure]) -> str:
    """Pictures in columns, each named for who cannot see it."""
    parts = []
    for figure in figures:
        svg = figure.svg.replace("<svg ", f'<svg aria-label="{escape(figure.title)}" ', 1)
        note = f"<figcaption>{escape(figure.note.strip())}</figcaption>" if figure.note.strip() else ""
        parts.append(f'<figure class="plot"><h3>{escape(figure.title)}</h3>{svg}{note}</figure>')
    return f'<div class="plots">{"".join(parts)}</div>'


def table_of(rows: Rows, *, counts: bool = False) -> str:
    """A table in a box that scrolls by itself; ``counts``: numbers, to the right."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in rows.head)
    lines = []
    for row in rows.rows:
        first = f'<td class="{"" if counts else "code"}">{escape(row[0])}</td>'
        lines.append(f"<tr>{first}{''.join(f'<td>{escape(cell)}</td>' for cell in row[1:])}</tr>")
    note = f'<p class="small faint">{escape(rows.note)}</p>' if rows.note else ""
    style = ' class="counts"' if counts else ""
    return f'{note}<div class="scroll"><table{style}><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def _folded(rows: Rows) -> str:
    return f"<details><summary>{escape(rows.title)}</summary>{table_of(rows)}</details>" if rows.rows else ""


def _points(points: Sequence[Point]) -> str:
    return "<dl>" + "".join(f"<dt>{escape(what)}</dt><dd>{escape(why)}</dd>" for what, why in points) + "</dl>"


def _sheet(card: Card) -> str:
    cells = []
    for sample, image in card.pictures:
        url, width, height = thumbnail(image)
        similarity = "" if sample["similarity"] is None else f"CLIP {sample['similarity']:.3f} · "
        size = f"{sample['original_width']}×{sample['original_height']}"
        cells.append(
            f'<figure><img alt="" src="{url}" width="{width}" height="{height}"><figcaption><span class="clamp" dir="auto">'
            f'{escape(sample["caption"])}</span><span class="under faint">{escape(similarity + size)}</span>'
            f'<span class="under faint" title="{escape(sample["host"])}">{escape(sample["host"])}</span>'
            "</figcaption></figure>"
        )
    note = (
        "Drawn at random (the smallest uids), without those that are tagged or scored unsafe; "
        "each with its caption, similarity, original size and host."
    )
    return f'<p class="small faint">{note}</p><div class="sheet">{"".join(cells)}</div>'


def _loading(card: Card) -> str:
    number = card.version.number
    return (
        f"<p>Exactly this version, checked against its record:</p><pre>{escape(card.snippet)}</pre>"
        f"<p>The newest version, with streaming alone:</p><pre>{escape(card.newest_snippet)}</pre>"
        "<p>LAION's columns as parquet, for img2dataset and the like:</p>"
        f"<pre>wat2mds release --version {number} --to laion/</pre>"
    )
