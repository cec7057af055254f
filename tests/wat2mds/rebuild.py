"""A WAT file's output of the real stages, made again in another dataset with some of its tables altered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from wat2mds.lineage import parent
from wat2mds.manifest import Manifest, Unit
from wat2mds.settings import Settings
from wat2mds.store import Layout, join

Changes = Mapping[str, Callable[[Any], Any]]


def rebuild(
    samples: Manifest, decisions: Manifest, dataset: str, settings: Settings, changes: Changes, folder: Path
) -> tuple[Manifest, Manifest]:
    """download's and filter's manifests of the altered WAT file. ``changes`` are by table: pairs, samples, scores, img_emb, text_emb,
    decisions, flow; the samples are altered as one table."""
    place = samples.unit
    out = {
        stage: Layout.of(dataset).stage(place["snapshot"], place["segment"], place["wat_file"], stage)
        for stage in ("dedup", "download", "filter")
    }
    unique, scores = parent(samples, "dedup"), parent(decisions, "filter")

    def table(manifest: Manifest, *names: str) -> pa.Table:
        return pa.concat_tables(pq.read_table(manifest.fetch(name, folder)) for name in names)

    def altered(name: str, value: Any) -> Any:
        return changes[name](value) if name in changes else value

    with Unit("dedup", out["dedup"], unique.inputs, settings, unit=place) as unit:
        pq.write_table(altered("pairs", table(unique, "unique.parquet")), unit.path("unique.parquet"))
        unique = unit.commit(unique.flows)
    with Unit("download", out["download"], [unique], settings) as unit:
        pq.write_table(altered("samples", table(samples, *samples.matching(".parquet"))), unit.path("00000.parquet"))
        samples = unit.commit([altered("flow", flow) for flow in samples.flows])
    fingerprint = settings.filter.fingerprint(decisions=False)
    with Unit("filter", join(out["filter"], "scores"), [samples], settings, fingerprint=fingerprint) as unit:
        pq.write_table(altered("scores", table(scores, "scores.parquet")), unit.path("scores.parquet"))
        for name in ("img_emb", "text_emb"):
            np.save(unit.path(f"{name}.npy"), altered(name, np.load(scores.fetch(f"{name}.npy", folder))))
        scores = unit.commit(scores.flows)
    with Unit("filter", out["filter"], [samples, scores], settings) as unit:
        pq.write_table(altered("decisions", table(decisions, "decisions.parquet")), unit.path("decisions.parquet"))
        decisions = unit.commit(decisions.flows)
    return samples, decisions
