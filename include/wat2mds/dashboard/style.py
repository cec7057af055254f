"""How the pages look: the card's style and colours, with what a dashboard has more.

Out: CSS and a whole page around its parts. Guaranteed: no request goes to another host; light and dark by the reader's setting, or
by Airflow's inside its frame; a phone's width. What does not belong here: what a page says.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from wat2mds.derived.html import PAGE
from wat2mds.derived.plots import DARK, LIGHT, STYLE

# Layers of plots: what is published, then what extract, dedup, download and filter drop; then what is fetched, and what failed.
_PARTS_LIGHT = ("#3f6fd1", "#b9bdc9", "#868b9a", "#d97706", "#9333ea", "#3f6fd1", "#d97706")
_PARTS_DARK = ("#7ba4f5", "#4d5160", "#8b90a0", "#f59e0b", "#c084fc", "#7ba4f5", "#f59e0b")
PUBLISHED, FETCHED = 0, 5
_MORE = """
main{padding-top:20px}
.numbers{display:flex;flex-wrap:wrap} .numbers div{flex:1 0 132px} .numbers b{white-space:nowrap;font-size:1.35rem}
.plots+.scroll,.plots+p,.plots+h3,.scroll+p{margin-top:14px}
a{color:var(--bar);text-underline-offset:2px}
a:focus-visible,summary:focus-visible{outline:2px solid var(--bar);outline-offset:2px;border-radius:3px}
.skip{position:absolute;left:-999em}.skip:focus{left:12px;top:12px;background:var(--paper);padding:8px}
nav.top{display:flex;flex-wrap:wrap;gap:4px 18px;align-items:baseline;margin:0 0 18px;padding:0 0 10px;border-bottom:1px solid var(--rule)}
nav.top a{padding:6px 0} nav.top a[aria-current]{color:var(--ink);font-weight:600;text-decoration:none}
.links{display:flex;flex-wrap:wrap;gap:6px 18px;margin:14px 0 0;padding:0;list-style:none}
.links li{max-width:100%} .links a{display:inline-block;padding:4px 0}
.plots{margin-bottom:4px} svg{max-width:560px;height:auto}
svg .area{fill:var(--bar);fill-opacity:.16} svg .line{fill:none;stroke:var(--bar);stroke-width:2} svg .dot{fill:var(--bar)}
.datasets{display:grid;grid-template-columns:repeat(auto-fill,minmax(300px,1fr));gap:18px;padding:0;margin:0;list-style:none}
.datasets li{border:1px solid var(--rule);border-radius:10px;padding:16px 18px;overflow:hidden}
.datasets h2{margin:0 0 2px;font-size:1.15rem;overflow-wrap:anywhere}
.datasets svg{display:block;width:100%;margin-top:10px}
.note{border-left:3px solid var(--mark);padding:8px 14px;margin:18px 0;overflow-wrap:anywhere}
table.list td{white-space:nowrap} table.list td.wrap{white-space:normal;min-width:180px;overflow-wrap:anywhere}
table.list td.number,table.list th.number{text-align:right} td:last-child,th:last-child{padding-right:0}
table.list:not(.counts) td:last-child:not(.wrap){min-width:0}
.good{color:var(--good)}.warn{color:var(--mark)}.bad{color:var(--bad);font-weight:600}
.pager{display:flex;gap:18px;margin:12px 0 0}
.sheet figure{min-width:0} .sheet details{height:150px;background:var(--rule);border-radius:6px;overflow:hidden}
.sheet summary{padding:60px 10px;text-align:center;font-size:.85rem} .sheet details[open] summary{padding:4px 8px}
.sheet details img{filter:blur(14px);height:118px} .sheet details img:hover,.sheet details img:focus{filter:none}
"""
_NOTES = {"light": "--good:#2e7d32;--bad:#c62828", "dark": "--good:#81c784;--bad:#ff8a80"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; img-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'self'"
)


def whole(title: str, links: Sequence[tuple[str, str]], here: str, body: str, script: str) -> str:
    """A page; ``links`` are (text, address) of the navigation, ``here`` the text of the one that is shown."""
    top = "".join(
        f'<a href="{escape(address)}"{" aria-current=page" if text == here else ""}>{escape(text)}</a>' for text, address in links
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title><style>{_colours()}{PAGE}{STYLE}{_MORE}</style>"
        f'<script src="{escape(script)}" defer></script></head>'
        f'<body><a class="skip" href="#content">To the content</a><main id="content"><nav class="top" aria-label="Dashboard">{top}</nav>'
        f"{body}</main></body></html>\n"
    )


def _colours() -> str:
    def of(colours: dict[str, str], notes: str) -> str:
        return ";".join(f"--{name}:{value}" for name, value in colours.items()) + f";{_NOTES[notes]};color-scheme:{notes}"

    def parts(colours: Sequence[str], before: str) -> str:
        return "".join(f"{before} svg .part{number}{{fill:{colour}}}" for number, colour in enumerate(colours))

    dark = ":root:not([data-theme=light])"
    return (
        f":root{{{of(LIGHT, 'light')}}}{parts(_PARTS_LIGHT, ':root')}"
        f"@media(prefers-color-scheme:dark){{{dark}{{{of(DARK, 'dark')}}}{parts(_PARTS_DARK, dark)}}}"
        f":root[data-theme=dark]{{{of(DARK, 'dark')}}}{parts(_PARTS_DARK, ':root[data-theme=dark]')}"
    )
