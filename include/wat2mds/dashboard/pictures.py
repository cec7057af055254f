"""Plots of work and history: what grows, and of what it is made.

In: numbers and labels. Out: an ``<svg>`` element as of ``derived/plots.py``, with more colours (``style.py``). Guaranteed: every text is
escaped; a picture has at most ``MOST_COLUMNS`` columns, however many versions there are: neighbours are then put together. What does
not belong here: what is plotted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from html import escape

from wat2mds.derived.plots import WIDTH, drawing, round_ticks, short, shorter, text_width

MOST_COLUMNS = 60
_MOST_POINTS = 300
_LEFT, _RIGHT, _TOP, _BOTTOM, _HEIGHT = 62, 12, 12, 40, 220
_LABEL = 150
Format = Callable[[float], str]


@dataclass(frozen=True)
class Column:
    """One of a row of columns: ``label`` says where it stands, ``values`` are its layers from the ground up."""

    label: str
    values: Sequence[float]


def growth(points: list[tuple[datetime, float]], *, axis: str, form: Format = short, unit: float = 1) -> str:
    """A value over time, as steps: it stays until the next point. Times are in UTC; the numbers beside it are round in ``unit``."""
    points = sorted({*points[:: -(-len(points) // _MOST_POINTS)], points[-1]})
    begin, end = points[0][0], points[-1][0]
    span = max((end - begin).total_seconds(), 1.0)
    top, parts = _ground(max(value for _, value in points), form, unit=unit)
    across, bottom = WIDTH - _LEFT - _RIGHT, _HEIGHT - _BOTTOM

    def place(time: datetime, value: float) -> tuple[float, float]:
        return _LEFT + across * (time - begin).total_seconds() / span, bottom - (bottom - _TOP) * value / top

    drawn = [place(*point) for point in points]
    if len(points) == 1:
        drawn = [(_LEFT, drawn[0][1]), (_LEFT + across, drawn[0][1])]
    line = f"M{drawn[0][0]:.1f} {drawn[0][1]:.1f}" + "".join(f"H{x:.1f}V{y:.1f}" for x, y in drawn[1:])
    parts.append(f'<path class="area" d="{line}V{bottom}H{drawn[0][0]:.1f}Z"/><path class="line" d="{line}"/>')
    if len(points) <= MOST_COLUMNS:
        for (x, y), (time, value) in zip(drawn, points, strict=False):
            parts.append(
                f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="3"><title>{time:%Y-%m-%d %H:%M}: {value:,.0f}</title></circle>'
            )
    days = end - begin > timedelta(days=2)
    said = ""
    for share, side in ((0.0, ""), (0.5, " mid"), (1.0, " end")):
        time = begin + timedelta(seconds=span * share)
        text = f"{time:%Y-%m-%d}" if days else f"{time:%m-%d %H:%M}"
        if text != said:
            parts.append(f'<text class="faint{side}" x="{_LEFT + across * share:.1f}" y="{bottom + 17}">{text}</text>')
        said = text
    parts.append(f'<text class="faint mid" x="{_LEFT + across / 2:.0f}" y="{_HEIGHT - 6}">{escape(axis)}</text>')
    return drawing("".join(parts), _HEIGHT)


def spark(values: Sequence[float]) -> str:
    """A small curve without an axis."""
    values = values[:: -(-len(values) // _MOST_POINTS) or 1]
    top, count = max(values, default=0) or 1, max(1, len(values) - 1)
    points = [(4 + (WIDTH - 8) * place / count, 76 - 68 * value / top) for place, value in enumerate(values)]
    if len(points) == 1:
        points.append((WIDTH - 4, points[0][1]))
    line = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return drawing(f'<path class="area" d="{line}V78H4Z"/><path class="line" d="{line}"/>', 80)


def layers(columns: Sequence[Column], names: Sequence[str], *, axis: str, form: Format = short, first: int = 0) -> str:
    """Columns of several layers, with a legend; ``first`` numbers the first layer's colour. Many columns are drawn as means."""
    columns, together = _fewer(columns)
    axis += f"; each column is the mean of {together}" if together > 1 else ""
    legend, high = _legend(names, first)
    top, parts = _ground(max((sum(column.values) for column in columns), default=0), form, high)
    across, bottom, up = WIDTH - _LEFT - _RIGHT, _HEIGHT - _BOTTOM + high, _TOP + high
    one = across / max(1, len(columns))
    wide = min(one - (1 if one > 4 else 0.2), 48)
    for number, column in enumerate(columns):
        x, y = _LEFT + number * one + (one - wide) / 2, float(bottom)
        title = f"{column.label}: " + ", ".join(f"{value:,.6g} {name}" for value, name in zip(column.values, names, strict=True))
        parts.append(f"<g><title>{escape(title)}</title>")
        for layer, value in enumerate(column.values, first):
            if value:
                tall = (bottom - up) * value / top
                y -= tall
                parts.append(f'<rect class="part{layer}" x="{x:.1f}" y="{y:.1f}" width="{wide:.1f}" height="{tall:.1f}"/>')
        parts.append("</g>")
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{bottom}" y2="{bottom}"/>')
    shown = sorted({0, len(columns) // 2, len(columns) - 1}) if len(columns) > 6 else range(len(columns))
    for number in shown:
        place, side = _LEFT + (number + 0.5) * one, "mid"
        if len(columns) > 6 and number in (0, len(columns) - 1):
            place, side = (_LEFT, "") if number == 0 else (WIDTH - _RIGHT, "end")
        label = escape(columns[number].label)
        parts.append(f'<text class="faint {side}" x="{place:.1f}" y="{bottom + 17}">{label}</text>')
    parts.append(f'<text class="faint mid" x="{_LEFT + across / 2:.0f}" y="{_HEIGHT + high - 6}">{escape(axis)}</text>')
    return drawing(legend + "".join(parts), _HEIGHT + high)


def shares(rows: Sequence[tuple[str, Sequence[float], str]], names: Sequence[str], *, first: int = 0) -> str:
    """(label, values, text) as horizontal bars of several layers, the longest as long as there is room; a legend above."""
    legend, y = _legend(names, first)
    most = max((sum(values) for _, values, _ in rows), default=0) or 1
    labels = min(_LABEL, max((text_width(label) for label, _, _ in rows), default=0) + 12)
    room = max(60, WIDTH - labels - 10 - max((text_width(text) for _, _, text in rows), default=0))
    parts: list[str] = []
    for label, values, text in rows:
        x = float(labels)
        parts.append(f'<text class="end" x="{labels - 8:.1f}" y="{y + 13}">{shorter(label, labels - 10, False, True)}</text>')
        said = ", ".join(f"{value:,.6g} {name}" for value, name in zip(values, names, strict=True))
        parts.append(f"<g><title>{escape(f'{label}: {said}')}</title>")
        for layer, value in enumerate(values, first):
            if value:
                length = max(1.0, room * value / most)
                parts.append(f'<rect class="part{layer}" x="{x:.1f}" y="{y + 2}" width="{length:.1f}" height="14"/>')
                x += length
        parts.append(f'</g><text class="faint" x="{x + 6:.1f}" y="{y + 13}">{escape(text)}</text>')
        y += 22
    return drawing(legend + "".join(parts), y + 4)


def _fewer(columns: Sequence[Column]) -> tuple[Sequence[Column], int]:
    """At most as many as are drawn, and how many each of them is the mean of."""
    step = -(-len(columns) // MOST_COLUMNS)
    if step <= 1:
        return columns, 1
    found = []
    for start in range(0, len(columns), step):
        some = columns[start : start + step]
        label = some[0].label if len(some) == 1 else f"{some[0].label.split('–')[0]}–{some[-1].label.split('–')[-1]}"
        found.append(Column(label, [sum(values) / len(some) for values in zip(*(column.values for column in some), strict=True)]))
    return found, step


def _ground(most: float, form: Format, high: int = 0, unit: float = 1) -> tuple[float, list[str]]:
    """The value at the top, and lines with their numbers."""
    ticks = [tick * unit for tick in round_ticks(0, (most or 1) / unit, 4)]
    top, bottom, up = max(most, ticks[-1]) or 1, _HEIGHT - _BOTTOM + high, _TOP + high
    parts = []
    for tick in ticks:
        y = bottom - (bottom - up) * tick / top
        parts.append(f'<line class="rule" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="faint end" x="{_LEFT - 6}" y="{y + 4:.1f}">{escape(form(tick))}</text>')
    return top, parts


def _legend(names: Sequence[str], first: int) -> tuple[str, int]:
    """The legend, and its height."""
    parts, x, y = [], 6.0, 4
    for layer, name in enumerate(names, first):
        length = 20 + 7.0 * len(name) + 10
        if x + length > WIDTH:
            x, y = 6.0, y + 18
        parts.append(f'<rect class="part{layer}" x="{x:.1f}" y="{y}" width="12" height="12" rx="2"/>')
        parts.append(f'<text x="{x + 17:.1f}" y="{y + 10}">{escape(name)}</text>')
        x += length
    return "".join(parts), y + 20
