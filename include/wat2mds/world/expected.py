"""What a run over a world must come to, known from how the world was made; and the comparison with what it came to.

In: counts that ``layout.py`` kept while pages were laid out. Out: differences in words, none if all is as it must be. Guaranteed:
nothing here asks a stage; in every WAT file in = out + Σ drops. What does not belong here: how a result is read from a store.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wat2mds.drops import DropReason

# Stage, what enters, what leaves: the flows that drop anything (manifest.Flow's names).
FLOWS = (
    ("extract", "records", "pages"),
    ("extract", "links", "pairs"),
    ("dedup", "pairs", "unique"),
    ("download", "unique", "samples"),
    ("filter", "samples", "kept"),
)
RECORD_REASONS = (DropReason.NOT_METADATA, DropReason.BAD_RECORD, DropReason.NO_IMAGE_LINK)


@dataclass(frozen=True)
class ExpectedWat:
    """One WAT file's truth. ``counts`` by the names of what flows; ``drops`` by stage and reason; ``uids`` are published."""

    snapshot: str
    segment: str
    wat_file: str
    counts: dict[str, int]
    drops: dict[str, dict[str, int]]
    uids: frozenset[str]

    def problems(self) -> list[str]:
        """Where the truth itself does not reconcile."""
        found = []
        for stage, source, target in FLOWS:
            dropped = sum(n for reason, n in self.drops.get(stage, {}).items() if _flows(reason, source))
            if self.counts[source] != self.counts[target] + dropped:
                found.append(
                    f"{self.wat_file}: {self.counts[source]} {source} are not {self.counts[target]} {target} + {dropped}"
                )
        if len(self.uids) != self.counts["kept"]:
            found.append(f"{self.wat_file}: {len(self.uids)} uids for {self.counts['kept']} samples")
        return found


@dataclass(frozen=True)
class Expected:
    """All WAT files' truths, in the order in which batches are built: the newer snapshot first."""

    wat_files: tuple[ExpectedWat, ...]

    def of(self, snapshot: str) -> dict[str, ExpectedWat]:
        return {wat.wat_file: wat for wat in self.wat_files if wat.snapshot == snapshot}

    def uids(self, snapshot: str | None = None) -> set[str]:
        return {uid for wat in self.wat_files if snapshot in (None, wat.snapshot) for uid in wat.uids}

    def drops(self, snapshot: str | None = None) -> dict[str, int]:
        """Drops by reason, summed."""
        total: dict[str, int] = {}
        for wat in self.wat_files:
            if snapshot in (None, wat.snapshot):
                for reasons in wat.drops.values():
                    for reason, count in reasons.items():
                        total[reason] = total.get(reason, 0) + count
        return total

    def counts(self, snapshot: str | None = None) -> dict[str, int]:
        """Records, pages, links, pairs, unique, samples and kept, summed."""
        total: dict[str, int] = {}
        for wat in self.wat_files:
            if snapshot in (None, wat.snapshot):
                for name, count in wat.counts.items():
                    total[name] = total.get(name, 0) + count
        return total

    def save(self, path: Path) -> None:
        content = [asdict(wat) | {"uids": sorted(wat.uids)} for wat in self.wat_files]
        path.write_text(json.dumps(content, indent=1, sort_keys=True), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Expected:
        entries: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        return cls(tuple(ExpectedWat(**entry | {"uids": frozenset(entry["uids"])}) for entry in entries))


def compare(
    expected: Mapping[str, ExpectedWat],
    drops: Mapping[str, Mapping[str, Mapping[str, int]]],
    uids: Iterable[str],
    counts: Mapping[str, Mapping[str, int]] | None = None,
) -> list[str]:
    """Differences between one snapshot's truth (``Expected.of``) and what was built; empty: all is as it must be.

    ``drops``: by WAT file, stage and reason. ``uids``: all published. ``counts``: by WAT file and what flows, where known.
    """
    found = []
    for name in sorted(set(expected) | set(drops)):
        if name not in expected:
            found.append(f"WAT file {name} is not in the world")
            continue
        if name not in drops:
            found.append(f"WAT file {name} was not built")
            continue
        for stage in dict.fromkeys(stage for stage, _, _ in FLOWS):
            found += _differences(f"{name} {stage}", expected[name].drops.get(stage, {}), drops[name].get(stage, {}))
        for stage in set(drops[name]) - {stage for stage, _, _ in FLOWS}:
            found += _differences(f"{name} {stage}", {}, drops[name][stage])
        for what, count in (counts or {}).get(name, {}).items():
            if what in expected[name].counts and expected[name].counts[what] != count:
                found.append(f"{name}: {count} {what}, expected {expected[name].counts[what]}")
    published = list(uids)
    if len(published) != len(set(published)):
        found.append(f"{len(published) - len(set(published))} uids are published more than once")
    owner = {uid: name for name, wat in expected.items() for uid in wat.uids}
    found += [f"uid {uid} of WAT file {owner[uid]} is not published" for uid in sorted(set(owner) - set(published))]
    found += [f"uid {uid} is published and must not be" for uid in sorted(set(published) - set(owner))]
    return found


def _differences(where: str, expected: Mapping[str, int], found: Mapping[str, int]) -> list[str]:
    reasons = sorted({str(reason) for reason in (*expected, *found)})
    return [
        f"{where}: {found.get(reason, 0)} dropped as {reason}, expected {expected.get(reason, 0)}"
        for reason in reasons
        if expected.get(reason, 0) != found.get(reason, 0)
    ]


def _flows(reason: str, source: str) -> bool:
    """Whether a reason belongs to the flow that begins with ``source``; extract has two."""
    if source in ("records", "links"):
        return (reason in RECORD_REASONS) == (source == "records")
    return True
