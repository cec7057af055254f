"""The tables of a card: drop reasons, image sizes as in LAION-400M's Table 1, deciles, the profile with its sources.

In: a version's record and its statistics. Out: ``Rows`` of plain text. What does not belong here: plots (``card.py``).
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass
from importlib import resources
from typing import Any

from wat2mds.derived.deviations import download_size, file_name
from wat2mds.derived.statistics import SIDES, SIMILARITY, Statistics, ranking
from wat2mds.drops import DropReason
from wat2mds.errors import ConfigError
from wat2mds.manifest import Flow
from wat2mds.settings import Settings, profile_names, read_profile
from wat2mds.stage_settings import HEAD_SETTINGS
from wat2mds.versions import Version

# laion.ai/blog/laion-400-open-dataset, of 413 million: what share of them is as large.
LAION_400M = {"either": (0.649, 0.271, 0.063), "both": (0.511, 0.162, 0.023)}


@dataclass(frozen=True)
class Rows:
    """A small table; ``head`` names its columns."""

    title: str
    head: tuple[str, ...]
    rows: list[tuple[str, ...]]
    note: str = ""


def summed_flows(version: Version) -> list[tuple[str, Flow]]:
    """(stage, flow) over all WAT files, in the order in which a WAT file goes through them."""
    totals: dict[tuple[str, str, str], Flow] = {}
    for unit in version.units.values():
        for found in unit.flows:
            key = (found["stage"], found["source"], found["target"])
            old = totals.get(key, Flow(key[1], key[2], 0, 0))
            drops = Counter(old.drops) + Counter(found["drops"])
            totals[key] = Flow(key[1], key[2], old.entered + found["entered"], old.left + found["left"], dict(drops))
    return [(stage, flow) for (stage, _, _), flow in totals.items()]


def drops_table(version: Version) -> Rows:
    """Every reason that occurred, by stage."""
    drops: Counter[str] = Counter()
    for _, flow in summed_flows(version):
        drops.update(flow.drops)
    rows: list[tuple[str, ...]] = [(str(r), f"{drops[r]:,}", r.stage, r.description) for r in DropReason if drops[r]]
    return Rows("All drop reasons", ("reason", "dropped", "stage", "meaning"), rows)


def size_table(statistics: Statistics) -> Rows:
    counts = statistics.count("table1")
    rows = []
    for place, side in enumerate(SIDES):
        cells = []
        for which in ("either", "both"):
            count = counts[f"{which} {side}"]
            share = count / statistics.samples if statistics.samples else 0.0
            cells += [f"{count:,}", f"{share:.1%}", f"{LAION_400M[which][place]:.1%}"]
        rows.append((f"≥ {side:,} px", *cells))
    head = ("", "width or height", "share", "LAION-400M", "width and height", "share", "LAION-400M")
    return Rows(
        "Table 1: image sizes", head, rows, "As in LAION-400M's announcement, whose shares of 413 million stand beside ours."
    )


def deciles_table(statistics: Statistics) -> Rows:
    shares = [n / 10 for n in range(1, 10)]
    rows = []
    for name, title, width, form in (
        ("similarity", "similarity", SIMILARITY, "{:.3f}"),
        ("caption_chars", "caption length", 1, "{:.0f}"),
    ):
        found = [statistics.quantile(name, share) for share in shares]
        rows.append((title, *(("–" if bin_ is None else form.format(bin_ * width)) for bin_ in found)))
    head = ("share of samples below", *(f"{share:.0%}" for share in shares))
    return Rows("Deciles", head, rows, "LAION-400M: similarity 0.307 to 0.355, caption length 25 to 73.")


def profile_table(version: Version, settings: Settings) -> Rows:
    """The profile's rules with the source that stands beside each, and what this version was built with."""
    try:
        groups, sources = read_profile(settings.profile), profile_sources(settings.profile)
    except ConfigError:
        groups, sources = {}, {}
    values = version.settings
    rows: list[tuple[str, ...]] = []
    keys = [f"{group}.{key}" for group, entries in groups.items() for key in entries]
    thresholds = (
        "min_similarity",
        "min_similarity_other",
        "max_punsafe",
        "max_punsafe_with_word",
        "max_toxicity",
        "max_pwatermark",
        "min_aesthetic",
        "languages",
    )
    keys += [key for name in thresholds if (key := f"filter.{name}") not in keys and values["filter"].get(name) is not None]
    for key in keys:
        group, _, name = key.partition(".")
        value, said = values.get(group, {}).get(name), groups.get(group, {}).get(name)
        changed = said is not None and value != said
        note = f"set for this version; the profile says {_shown(said)}" if changed else sources.get(key, "")
        rows.append((key, _shown(value), note))
    heads = [file_name(h) for h in (getattr(settings.filter, key) for key in HEAD_SETTINGS) if h]
    note = (
        f"{profile_about(settings.profile)} Images are stored at {download_size(settings)}. Models: CLIP {settings.filter.clip_model}, "
        f"{file_name(settings.filter.clip_pretrained)}; heads: {', '.join(heads) or 'none'}; "
        "language: lingua; perceptual hash: PDQ."
    )
    others = Counter(unit.profile for unit in version.units.values() if unit.settings not in ("", version.settings_digest))
    if others:
        named = ", ".join(f"{count:,} under {profile}" for profile, count in ranking(others))
        note += f" {sum(others.values()):,} WAT files were built with other settings before ({named})."
    return Rows(f"Profile {settings.profile}", ("setting", "value", "source"), rows, note)


def profile_about(name: str) -> str:
    """What a profile says of itself: the comment that its file begins with. Empty for a profile that this release lacks."""
    if name not in profile_names():
        return ""
    lines = (resources.files("wat2mds") / "profiles" / f"{name}.toml").read_text("utf-8").splitlines()
    return " ".join(line.lstrip("# ") for line in itertools.takewhile(lambda line: line.startswith("#"), lines))


def profile_sources(name: str) -> dict[str, str]:
    """The comment beside each setting in a profile's file."""
    text = (resources.files("wat2mds") / "profiles" / f"{name}.toml").read_text("utf-8")
    found, group = {}, ""
    for line in text.splitlines():
        if line.startswith("["):
            group = line.strip("[] ")
        elif "=" in line and " # " in line and not line.startswith("#"):
            setting, _, comment = line.partition(" # ")
            found[f"{group}.{setting.partition('=')[0].strip()}"] = comment.strip()
    return found


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "none" if value is None else file_name(str(value))
