"""validate: Great Expectations on one WAT file's tables, before anything of it is published.

In: the manifests of download (samples) and filter (decisions). Out: ``report.json``, every expectation with its result; the same input
gives the same bytes. Guaranteed: where a critical expectation fails there is no unit, hence nothing to convert: the report goes to
``<out>/failed/<digest>.json`` and a DataError names the expectations, how many rows, examples and where to look. Failed warnings are
logged and reported. What does not belong here: dropping single samples (download, filter).
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wat2mds.errors import DataError
from wat2mds.lineage import parent, require_made_from
from wat2mds.manifest import Flow, Manifest, Unit
from wat2mds.settings import Settings
from wat2mds.store import join

if TYPE_CHECKING:
    from wat2mds.stages.validate.gate import Outcome

log = logging.getLogger(__name__)
STAGE = "validate"
EXAMPLES = 5


def run(samples: Manifest, decisions: Manifest, out: str, settings: Settings) -> Manifest:
    """Returns the unit's manifest. Raises DataError where a critical expectation fails."""
    require_made_from(decisions, samples)
    with Unit(STAGE, out, [samples, decisions], settings) as unit:
        if unit.done:
            return unit.manifest
        # Here, not above: importing Great Expectations costs about six CPU seconds, which a unit that is complete need not pay.
        from wat2mds.stages.validate import expectations, frames, gate

        pairs, scores = parent(samples, "dedup"), parent(decisions, "filter")
        with tempfile.TemporaryDirectory(dir=unit.scratch) as temporary:
            files = frames.fetch(pairs, samples, scores, decisions, Path(temporary))
            outcomes = gate.judge([expectations.on_schemas(frames.schemas(files))])
            # Without the right columns the other expectations have nothing to look at.
            if not _blocking(outcomes):
                tables = frames.read(files, settings)
                flows = [*samples.flows, *decisions.flows]
                outcomes += gate.judge(
                    expectations.on_tables(tables, frames.counts(tables, flows, settings), settings, unit.unit)
                )
        report = _report(unit.unit, outcomes)
        _log_warnings(unit.unit, outcomes)
        blocking = _blocking(outcomes)
        if blocking:
            name = f"failed/{unit.digest}.json"
            unit.store.write(name, report)
            raise DataError(_explain(unit.unit, blocking, join(unit.store.url, name), (samples, decisions), unit.store.url))
        unit.path("report.json").write_bytes(report)
        kept = tables.kept_count
        warnings = sum(not outcome.success for outcome in outcomes)
        return unit.commit([Flow("kept", "valid", kept, kept)], {"expectations": len(outcomes), "warnings": warnings})


def _blocking(outcomes: Sequence[Outcome]) -> list[Outcome]:
    return [outcome for outcome in outcomes if outcome.severity == "critical" and not outcome.success]


def _report(unit: dict[str, str], outcomes: Sequence[Outcome]) -> bytes:
    content: dict[str, Any] = {
        **unit,
        "passed": not _blocking(outcomes),
        "expectations": [asdict(outcome) for outcome in outcomes],
    }
    return json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False).encode()


def _log_warnings(unit: dict[str, str], outcomes: Sequence[Outcome]) -> None:
    for outcome in outcomes:
        if outcome.severity != "critical" and not outcome.success:
            log.warning("validate: WAT file %s: %s", unit.get("wat_file"), _sentence(outcome))


def _sentence(outcome: Outcome) -> str:
    text = f"{outcome.name} ({outcome.rule}) fails on {outcome.failed} of {outcome.rows} rows of {outcome.table}"
    examples = [", ".join(f"{key} {value!r}" for key, value in example.items()) for example in outcome.examples[:EXAMPLES]]
    return text + (f"; e.g. {'; '.join(examples)}" if examples else "")


def _explain(unit: dict[str, str], blocking: Sequence[Outcome], report: str, given: tuple[Manifest, Manifest], out: str) -> str:
    lines = [
        f"WAT file {unit.get('wat_file')} is held back: {len(blocking)} critical expectation(s) failed, nothing of it is published."
    ]
    lines += [f"  {_sentence(outcome)}" for outcome in blocking]
    lines.append(f"  The whole report: {report}")
    lines.append(f"  To look again: wat2mds validate {given[0].url} {given[1].url} --out {out}")
    return "\n".join(lines)
