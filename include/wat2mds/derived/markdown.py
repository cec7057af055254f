"""A card as Markdown, with front matter as dataset hubs read it; the pictures are files beside it.

In: a Card, and where its pictures lie. Out: Markdown. Guaranteed: no text of the web stands in it but names of languages, models and the
like, escaped: captions and hosts are in the pictures. What does not belong here: the pictures.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from wat2mds.derived.card import Card
from wat2mds.derived.deviations import Point
from wat2mds.derived.tables import Rows

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~!$])")
_SIZES = ((1e3, "n<1K"), (1e4, "1K<n<10K"), (1e5, "10K<n<100K"), (1e6, "100K<n<1M"), (1e7, "1M<n<10M"), (1e8, "10M<n<100M"))


def render(card: Card, pictures: str) -> str:
    """``pictures`` is the folder of the pictures, from where the text lies: empty, or ending in a slash."""
    version = card.version
    numbers = " · ".join(f"**{plain(number)}** {plain(what)}" for number, what in card.numbers)
    parts = [
        _front_matter(card),
        f"# {plain(card.name)}",
        f"Version {version.number}, published {plain(card.published)} by {plain(version.code)}. Image-text pairs from Common Crawl, "
        f"profile **{plain(card.settings.profile)}**, CLIP model {plain(card.model)}.",
        numbers,
    ]
    if card.pictures:
        parts += ["## Samples", f"![Samples with their captions]({pictures}samples.jpg)"]
    for heading, wanted in (("## Funnel", True), ("## What is in it", False)):
        parts.append(heading)
        for figure in card.figures:
            if figure.name.startswith(("funnel", "drops")) == wanted:
                parts += [f"### {figure.title}", f"![{figure.title}]({pictures}{figure.name}.svg)"]
                parts += [plain(figure.note.strip())] if figure.note.strip() else []
    for rows in (card.drops, card.table1, card.deciles, card.profile):
        parts += [f"## {plain(rows.title)}", plain(rows.note), _table(rows)]
    parts += ["## Where it differs from LAION on purpose", _points(card.deviations), "## Known limits", _points(card.limits)]
    parts += ["## Loading it", "Exactly this version, checked against its record:", f"```python\n{card.snippet}```"]
    parts += ["The newest version, with streaming alone:", f"```python\n{card.newest_snippet}```"]
    parts += [
        "LAION's columns as parquet, for img2dataset and the like:",
        f"```\nwat2mds release --version {version.number} --to laion/\n```",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def plain(text: str) -> str:
    """Text that Markdown leaves as it is, on one line."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def _front_matter(card: Card) -> str:
    size = next((name for most, name in _SIZES if card.version.samples < most), "n>100M")
    lines = [
        f"pretty_name: {json.dumps(card.title)}",
        "license: other",
        f"language: {json.dumps(card.languages)}",
        'task_categories: ["text-to-image", "image-to-text"]',
        f"size_categories: {json.dumps([size])}",
        'tags: ["laion", "common-crawl", "mosaicml-streaming", "wat2mds"]',
    ]
    return "\n".join(["---", *lines, "---"])


def _table(rows: Rows) -> str:
    lines = [rows.head, tuple("---" for _ in rows.head), *rows.rows]
    shown = [lines[0], lines[1], *(tuple(plain(cell) for cell in line) for line in lines[2:])]
    return "\n".join("| " + " | ".join(line) + " |" for line in shown)


def _points(points: Sequence[Point]) -> str:
    return "\n".join(f"- **{plain(what)}.** {plain(why)}" for what, why in points)
