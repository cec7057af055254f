"""validate: Great Expectations on one WAT file's tables, before anything of it is published.

In: the manifests of download (samples) and filter (decisions); the dataset, for what was published before. Out: ``report.json``, every
expectation with its result, and ``report.html``, the same as a page; with a dataset, copies of both below its ``reports/quality/``.
Guaranteed: the same input and history give the same bytes; where a critical expectation fails there is no unit, hence nothing to
convert: the report goes to ``<out>/failed/<digest>.*`` and a DataError names the expectations, how many rows, examples and where to
look. Failed warnings are logged and reported. What does not belong here: dropping single samples (download, filter).
"""

from __future__ import annotations

import json
import logging
import shlex
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wat2mds.errors import DataError
from wat2mds.lineage import parent, require_made_from
from wat2mds.manifest import Flow, Manifest, Unit
from wat2mds.quality import store_report, wat_file_page
from wat2mds.settings import PAIR_STAGES, Settings
from wat2mds.store import Store, join
from wat2mds.versions import unit_key

if TYPE_CHECKING:
    from wat2mds.stages.validate.gate import Outcome

log = logging.getLogger(__name__)
STAGE = "validate"
EXAMPLES = 5
_RETRY = {"min_download_success": 0.0}


def run(samples: Manifest, decisions: Manifest, out: str, settings: Settings, dataset: str | None = None) -> Manifest:
    """Returns the unit's manifest. ``dataset``: URL of the dataset that it will be part of; without it drift is not looked for.

    Raises DataError where a critical expectation fails.
    """
    require_made_from(decisions, samples)
    with Unit(STAGE, out, [samples, decisions], settings) as unit:
        if unit.done:
            done = unit.manifest
            with suppress(FileNotFoundError):  # gone with the other intermediate files: the dataset keeps its copy
                _keep(dataset, unit, *(Store(done.base).read(f"report.{suffix}") for suffix in ("json", "html")))
            return done
        # Here, not above: importing Great Expectations costs about six CPU seconds, which a unit that is complete need not pay.
        from wat2mds.stages.validate import drift, expectations, frames, gate

        pairs, scores = parent(samples, PAIR_STAGES), parent(decisions, "filter")
        if pairs.stage == "retry":
            # Of what failed once nobody knows how much can be had: its share says nothing, and is like no WAT file's.
            settings = settings.model_copy(update={"validate_": settings.validate_.model_copy(update=_RETRY)})
        report: dict[str, Any] = {**unit.unit, "drift": [], "drift_note": "", "summary": None}
        with tempfile.TemporaryDirectory(dir=unit.scratch) as temporary:
            files = frames.fetch(pairs, samples, scores, decisions, Path(temporary))
            outcomes = gate.judge([expectations.on_schemas(frames.schemas(files))])
            # Without the right columns the other expectations have nothing to look at.
            if not _blocking(outcomes):
                tables = frames.Tables(files, settings)
                outcomes += gate.judge(expectations.on_tables(tables, [*samples.flows, *decisions.flows], settings, unit.unit))
                now = drift.summarize(tables)
                history = drift.read_history(
                    dataset if pairs.stage != "retry" else None, unit.unit, decisions.digest, settings.validate_
                )
                measures, report["drift_note"] = drift.measure(now, history, settings.validate_)
                if measures:
                    outcomes += gate.judge([expectations.on_drift(measures)])
                report |= {"drift": [asdict(measure) for measure in measures], "summary": now.to_json()}
        blocking = _blocking(outcomes)
        report |= {"passed": not blocking, "expectations": [asdict(outcome) for outcome in outcomes]}
        again = ["wat2mds", "validate", samples.url, decisions.url, "--out", unit.store.url]
        command = shlex.join(again + (["--dataset", dataset] if dataset else []))
        pages = (_json(report), wat_file_page(report, command))
        page = _keep(dataset, unit, *pages)
        _log_warnings(unit.unit, outcomes)
        if blocking:
            for suffix, content in zip(("json", "html"), pages, strict=True):
                unit.store.write(f"failed/{unit.digest}.{suffix}", content)
            raise DataError(_explain(unit.unit, blocking, page or join(unit.store.url, f"failed/{unit.digest}.html"), command))
        for suffix, content in zip(("json", "html"), pages, strict=True):
            unit.path(f"report.{suffix}").write_bytes(content)
        warnings = sum(not outcome.success for outcome in outcomes)
        counts = {"expectations": len(outcomes), "warnings": warnings}
        return unit.commit([Flow("kept", "valid", tables.kept_count, tables.kept_count)], counts)


def _keep(dataset: str | None, unit: Unit, report: bytes, page: bytes) -> str | None:
    """Keep the report with the dataset; the URL of its page."""
    if dataset is None:
        return None
    where = unit_key(*(unit.unit.get(name, "") for name in ("snapshot", "segment", "wat_file")))
    return store_report(dataset, where, unit.digest, report, page)


def _json(report: dict[str, Any]) -> bytes:
    return json.dumps(report, indent=1, sort_keys=True, ensure_ascii=False).encode()


def _blocking(outcomes: Sequence[Outcome]) -> list[Outcome]:
    return [outcome for outcome in outcomes if outcome.severity == "critical" and not outcome.success]


def _log_warnings(unit: dict[str, str], outcomes: Sequence[Outcome]) -> None:
    for outcome in outcomes:
        if outcome.severity != "critical" and not outcome.success:
            log.warning("validate: WAT file %s: %s", unit.get("wat_file"), _sentence(outcome))


def _sentence(outcome: Outcome) -> str:
    text = f"{outcome.name} ({outcome.rule}) fails on {outcome.failed} of {outcome.rows} rows of {outcome.table}"
    examples = [", ".join(f"{key} {value!r}" for key, value in example.items()) for example in outcome.examples[:EXAMPLES]]
    return text + (f"; e.g. {'; '.join(examples)}" if examples else "")


def _explain(unit: dict[str, str], blocking: Sequence[Outcome], page: str, command: str) -> str:
    lines = [
        f"WAT file {unit.get('wat_file')} is held back: {len(blocking)} critical expectation(s) failed, nothing of it is published."
    ]
    lines += [f"  {_sentence(outcome)}" for outcome in blocking]
    lines.append(f"  The whole report: {page}")
    lines.append(f"  To look again, with the same settings: {command}")
    return "\n".join(lines)
