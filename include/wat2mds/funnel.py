"""The funnel: counts from records to published samples, by stage and drop reason; it always reconciles.

In: the flows of manifests. Out: their sum, in the order of the stages. Guaranteed: ``problems`` is empty exactly when, in every
WAT file and in sum, entered = left + Σ drops and what left one stage entered the next.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from wat2mds.drops import DropReason
from wat2mds.manifest import Flow, Manifest


@dataclass(frozen=True)
class Line:
    """One flow of one stage, summed over WAT files."""

    stage: str
    flow: Flow


@dataclass(frozen=True)
class Funnel:
    """Lines in flow order, and what does not reconcile."""

    lines: tuple[Line, ...]
    problems: tuple[str, ...]

    @property
    def reconciles(self) -> bool:
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        return {
            "lines": [{"stage": line.stage, **asdict(line.flow)} for line in self.lines],
            "problems": list(self.problems),
        }

    def table(self) -> str:
        """The funnel as aligned text, for logs."""
        rows = [("stage", "what", "count", "dropped")]
        for line in self.lines:
            rows.append((line.stage, line.flow.source, f"{line.flow.entered:,}", ""))
            rows += [("", f"  - {reason}", "", f"{count:,}") for reason, count in sorted(line.flow.drops.items())]
            rows.append(("", f"= {line.flow.target}", f"{line.flow.left:,}", ""))
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        text = [
            f"{stage:<{widths[0]}}  {what:<{widths[1]}}  {count:>{widths[2]}}  {dropped:>{widths[3]}}".rstrip()
            for stage, what, count, dropped in rows
        ]
        verdict = "the funnel reconciles" if self.reconciles else "THE FUNNEL DOES NOT RECONCILE:"
        return "\n".join([*text, verdict, *self.problems])


def build_funnel(units: Iterable[Sequence[Manifest]]) -> Funnel:
    """Sum the manifests of several WAT files; each item holds one WAT file's manifests in stage order.

    A WAT file may stop at any stage (its task failed): what it did is counted, and the missing stages are a problem only if
    a later one is there.
    """
    totals: dict[tuple[str, str, str], Flow] = {}
    problems: list[str] = []
    known = {str(reason) for reason in DropReason}
    for manifests in units:
        left: dict[str, int] = {}
        for manifest in manifests:
            where = f"{manifest.unit.get('wat_file', '?')} {manifest.stage}"
            for flow in manifest.flows:
                if not flow.reconciles:
                    problems.append(f"{where}: {flow.entered} {flow.source} are not {flow.left} {flow.target} + {flow.drops}")
                if flow.source in left and left[flow.source] != flow.entered:
                    problems.append(f"{where}: {left[flow.source]} {flow.source} left the stage before, {flow.entered} entered")
                if unknown := set(flow.drops) - known:
                    problems.append(f"{where}: unknown drop reasons {sorted(unknown)}")
                left[flow.target] = flow.left
                key = (manifest.stage, flow.source, flow.target)
                totals[key] = _add(totals[key], flow) if key in totals else flow
    lines = tuple(Line(stage, flow) for (stage, _, _), flow in totals.items())
    return Funnel(lines, tuple(problems))


def _add(one: Flow, other: Flow) -> Flow:
    drops = dict(one.drops)
    for reason, count in other.drops.items():
        drops[reason] = drops.get(reason, 0) + count
    return Flow(one.source, one.target, one.entered + other.entered, one.left + other.left, drops)
