"""Plots as SVG: bars, histograms and a grid, drawn by hand because a card wants a few kilobytes of them and no library at all.

In: numbers and labels. Out: an ``<svg>`` element. Guaranteed: every text is escaped; colours are classes, which the page (``html.py``) or
``standalone`` gives for light and dark; a picture is 420 units wide, so that its text is legible on a phone. What does not belong here:
what is plotted.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 10, 40
_LINE, _WIDEST_LABEL = 22, 200
LIGHT = {
    "ink": "#1c1d22",
    "faint": "#686b76",
    "rule": "#e3e4e8",
    "bar": "#3f6fd1",
    "less": "#c9ccd6",
    "mark": "#c2410c",
    "paper": "#ffffff",
}
DARK = {
    "ink": "#e9eaee",
    "faint": "#9ea2b0",
    "rule": "#33363f",
    "bar": "#7ba4f5",
    "less": "#474b57",
    "mark": "#fb923c",
    "paper": "#17181c",
}
STYLE = """
svg text{font:11.5px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;fill:var(--ink)}
svg .faint{fill:var(--faint)} svg .end{text-anchor:end} svg .mid{text-anchor:middle} svg .strong{font-weight:600}
svg .bar{fill:var(--bar)} svg .less{fill:var(--less)} svg .rule{stroke:var(--rule)} svg .axis{stroke:var(--faint)}
svg .mark{stroke:var(--mark);stroke-dasharray:4 3;stroke-width:1.5} svg text.marked{fill:var(--mark)}
"""


@dataclass(frozen=True)
class Bar:
    """``value`` of it is filled; ``text`` stands after it, then ``after`` more faintly, ``under`` below it in lines of its own."""

    label: str
    value: float
    text: str
    after: str = ""
    under: str = ""
    strong: bool = False


def bars(rows: Sequence[Bar], *, keep_end: bool = False) -> str:
    """Horizontal bars, one a row. A label that is too long loses its end, or with ``keep_end`` its beginning, as hosts do."""
    most = max((row.value for row in rows), default=0) or 1
    labels = min(_WIDEST_LABEL, max((text_width(row.label, row.strong) for row in rows), default=0)) + 10
    texts = max((text_width(f"{row.text}  {row.after}", row.strong) for row in rows), default=0) + 8
    room = max(60, WIDTH - labels - texts)
    parts, y = [], 4
    for row in rows:
        length = max(1.5, room * row.value / most) if row.value else 0
        style = " strong" if row.strong else ""
        label = shorter(row.label, labels - 10, row.strong, keep_end)
        parts.append(f'<text class="end{style}" x="{labels - 8:.1f}" y="{y + 13}">{label}</text>')
        parts.append(f'<rect class="bar" x="{labels:.1f}" y="{y + 2}" width="{length:.1f}" height="14" rx="2"/>')
        after = f'<tspan class="faint" dx="6">{escape(row.after)}</tspan>' if row.after else ""
        parts.append(f'<text class="{style}" x="{labels + length + 6:.1f}" y="{y + 13}">{escape(row.text)}{after}</text>')
        y += _LINE
        if row.under:
            for line in _lines(row.under, WIDTH - labels):
                parts.append(f'<text class="faint" x="{labels:.1f}" y="{y + 10}">{escape(line)}</text>')
                y += 15
            y += 9
    return drawing("".join(parts), y + 2)


def histogram(
    values: Sequence[tuple[int, int]],
    width: float,
    *,
    axis: str,
    ticks: Sequence[tuple[float, str]] | None = None,
    marks: Sequence[tuple[float, str]] = (),
    most_bins: int = 48,
) -> str:
    """(bin, rows) as upright bars; ``width`` of a bin in the axis's unit. Bins are put together until there are few enough.

    ``ticks`` are (place on the axis, label), by default round numbers; ``marks`` are thresholds, drawn as dashed lines.
    """
    low, high = min(value for value, _ in values), max(value for value, _ in values) + 1
    for place, _ in marks:
        low, high = min(low, math.floor(place / width)), max(high, math.ceil(place / width) + 1)
    step = next(size for size in _sizes() if (high - low) / size <= most_bins)
    first, last = math.floor(low / step), math.ceil(high / step)
    heights = [0] * max(1, last - first)
    for value, rows in values:
        heights[value // step - first] += rows
    begin, end = first * step * width, last * step * width
    height = 200
    bottom, across = height - _BOTTOM, WIDTH - _LEFT - _RIGHT
    tallest = max(heights)
    y_ticks = [tick for tick in round_ticks(0, tallest, 4) if tick == int(tick)]
    top = max(tallest, y_ticks[-1])

    def x(place: float) -> float:
        return _LEFT + across * (place - begin) / (end - begin)

    def y(count: float) -> float:
        return bottom - (bottom - _TOP - (4 + 13 * len(marks) if marks else 0)) * count / top

    parts = []
    for tick in y_ticks:
        parts.append(f'<line class="rule" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        parts.append(f'<text class="faint end" x="{_LEFT - 6}" y="{y(tick) + 4:.1f}">{short(tick)}</text>')
    one = across / len(heights)
    for number, count in enumerate(heights):
        if count:
            left, up = _LEFT + number * one, y(count)
            parts.append(
                f'<rect class="bar" x="{left + 0.5:.1f}" y="{up:.1f}" width="{max(1, one - 1):.1f}" height="{bottom - up:.1f}"/>'
            )
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{bottom}" y2="{bottom}"/>')
    for place, label in ticks if ticks is not None else [(t, f"{t:g}") for t in round_ticks(begin, end, 6)]:
        if begin <= place <= end:
            parts.append(f'<line class="axis" x1="{x(place):.1f}" x2="{x(place):.1f}" y1="{bottom}" y2="{bottom + 4}"/>')
            parts.append(f'<text class="mid" x="{x(place):.1f}" y="{bottom + 17}">{escape(label)}</text>')
    for row, (place, label) in enumerate(marks):
        parts.append(f'<line class="mark" x1="{x(place):.1f}" x2="{x(place):.1f}" y1="{_TOP + 6}" y2="{bottom}"/>')
        side, gap = ("end", -5) if x(place) > WIDTH / 2 else ("", 5)
        parts.append(f'<text class="marked {side}" x="{x(place) + gap:.1f}" y="{_TOP + 8 + 13 * row}">{escape(label)}</text>')
    parts.append(f'<text class="faint mid" x="{_LEFT + across / 2:.0f}" y="{height - 6}">{escape(axis)}</text>')
    return drawing("".join(parts), height)


def grid(cells: Sequence[tuple[int, int, int]], *, parts: int, marks: Sequence[int], axes: tuple[str, str]) -> str:
    """(column, row, count) as a map on logarithmic axes, ``parts`` cells an octave; darker is more. ``marks`` are sides that matter."""
    low = min(min(column, row) for column, row, _ in cells)
    high = max(max(column, row) for column, row, _ in cells) + 1
    low, high = min(low, round(parts * math.log2(min(marks)))), max(high, round(parts * math.log2(max(marks))) + 1)
    height = 300
    across = min(WIDTH - _LEFT - _RIGHT - 6, height - _TOP - _BOTTOM)
    left = _LEFT + (WIDTH - _LEFT - _RIGHT - across) / 2
    one, bottom = across / (high - low), height - _BOTTOM
    most = max(count for _, _, count in cells)
    drawn = []
    for column, row, count in cells:
        shade = 0.12 + 0.88 * math.log1p(count) / math.log1p(most)
        drawn.append(
            f'<rect class="bar" fill-opacity="{shade:.2f}" x="{left + (column - low) * one:.1f}" y="{bottom - (row - low + 1) * one:.1f}" '
            f'width="{one:.1f}" height="{one:.1f}"><title>{count:,}</title></rect>'
        )
    drawn.append(f'<line class="axis" x1="{left:.1f}" x2="{left + across:.1f}" y1="{bottom}" y2="{bottom}"/>')
    drawn.append(f'<line class="axis" x1="{left:.1f}" x2="{left:.1f}" y1="{bottom - across}" y2="{bottom}"/>')
    for octave in range(math.ceil(low / parts), math.floor(high / parts) + 1):
        at = (octave * parts - low) * one
        drawn.append(f'<text class="mid" x="{left + at:.1f}" y="{bottom + 16}">{_side(2**octave)}</text>')
        drawn.append(f'<text class="end" x="{left - 6:.1f}" y="{bottom - at + 4:.1f}">{_side(2**octave)}</text>')
    for mark in marks:
        at = (parts * math.log2(mark) - low) * one
        drawn.append(f'<line class="mark" x1="{left + at:.1f}" x2="{left + at:.1f}" y1="{bottom - across}" y2="{bottom}"/>')
        drawn.append(
            f'<line class="mark" x1="{left:.1f}" x2="{left + across:.1f}" y1="{bottom - at:.1f}" y2="{bottom - at:.1f}"/>'
        )
    drawn.append(f'<text class="faint mid" x="{left + across / 2:.0f}" y="{height - 6}">{escape(axes[0])}</text>')
    turned = f'transform="rotate(-90 {left - 38:.0f} {bottom - across / 2:.0f})"'
    drawn.append(f'<text class="faint mid" {turned} x="{left - 38:.0f}" y="{bottom - across / 2:.0f}">{escape(axes[1])}</text>')
    return drawing("".join(drawn), height)


def standalone(svg: str) -> str:
    """The picture as a file of its own, with its colours."""
    light, dark = (";".join(f"--{name}:{value}" for name, value in colours.items()) for colours in (LIGHT, DARK))
    style = f"<style>svg{{{light}}}@media(prefers-color-scheme:dark){{svg{{{dark}}}}}{STYLE}</style>"
    ground = '<rect width="100%" height="100%" style="fill:var(--paper)"/>'
    head, _, rest = svg.partition(">")
    return f'{head} width="560">{style}{ground}{rest}\n'


def short(number: float) -> str:
    """``1.2 M`` of 1234567; at most three digits."""
    for size, letter in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(number) >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:g}"


def drawing(inner: str, height: float) -> str:
    """The ``<svg>`` around a picture's parts."""
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">{inner}</svg>'


def _sizes() -> list[int]:
    return [digit * 10**power for power in range(9) for digit in (1, 2, 5)]


def round_ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers from ``low`` to ``high``, some ``about`` of them."""
    raw = (high - low) / about or 1
    scale = 10.0 ** math.floor(math.log10(raw))
    step = next(digit * scale for digit in (1, 2, 2.5, 5, 10) if digit * scale >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(number * step, 10) for number in range(first, math.floor(high / step + 1e-9) + 1)] or [low]


def _side(pixels: int) -> str:
    return f"{pixels // 1024}k" if pixels >= 1024 else str(pixels)


def text_width(text: str, strong: bool = False) -> float:
    """Units that a text takes at most, in the widest of the usual fonts: scripts written in squares take more."""
    return sum(11.8 if unicodedata.east_asian_width(letter) in "WF" else 7.6 if strong else 7.1 for letter in text)


def shorter(text: str, room: float, strong: bool, keep_end: bool) -> str:
    """The label as far as it fits, escaped; ``keep_end`` keeps its end."""
    if text_width(text, strong) > room:
        while text and text_width(text + "…", strong) > room:
            text = text[1:] if keep_end else text[:-1]
        text = "…" + text if keep_end else text + "…"
    return escape(text)


def _lines(text: str, room: float) -> list[str]:
    """Broken at ", "."""
    lines = [""]
    for word in text.split(", "):
        longer = f"{lines[-1]}, {word}" if lines[-1] else word
        if text_width(longer) > room and lines[-1]:
            lines[-1] += ","
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
