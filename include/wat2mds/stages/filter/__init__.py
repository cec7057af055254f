"""filter: block lists, scores for every sample, then keep or drop with a reason.

In: download's manifest. Out: a unit of scores (``scores.parquet``, ``img_emb.npy``, ``text_emb.npy``: float16, rows alike) a unit
that names what is on a block list, and a unit of decisions. Guaranteed: nothing on a block list is scored or kept, and its image is
deleted; a stored score never changes because a threshold did; another threshold makes new decisions from the stored
scores; another model makes new scores. What does not belong here: fetching, hashes, near-duplicates.
"""

from __future__ import annotations

import logging

import numpy as np
import pyarrow.parquet as pq

from wat2mds.manifest import Manifest, Unit
from wat2mds.schema import DECISIONS, SCORES, table_of
from wat2mds.settings import Settings
from wat2mds.stages.filter.blocked import block, read_report
from wat2mds.stages.filter.decisions import READS, decide
from wat2mds.stages.filter.models import models
from wat2mds.stages.filter.scores import score_samples
from wat2mds.store import join

log = logging.getLogger(__name__)
STAGE = "filter"


def run(samples: Manifest, out: str, settings: Settings) -> Manifest:
    """Score, then decide. Raises ConfigError for models or heads that are unknown, damaged or do not fit together."""
    blocked = block(samples, out, settings)
    scores = _score(samples, out, settings)
    # The scores first: later stages take the first of filter's manifests for them.
    with Unit(STAGE, out, [samples, scores, blocked.as_input()], settings) as unit:
        if unit.done:
            return unit.manifest
        table = pq.read_table(scores.fetch("scores.parquet", unit.scratch), columns=list(READS))
        decided = decide(table, settings.filter, sorted(read_report(blocked, unit.scratch)))
        columns = {"uid": decided.uids, "drop_reason": decided.reasons, "language": decided.languages}
        pq.write_table(table_of(DECISIONS, columns), unit.path("decisions.parquet"), compression="zstd")
        return unit.commit([decided.flow()])


def _score(samples: Manifest, out: str, settings: Settings) -> Manifest:
    given = settings.filter
    fingerprint = given.fingerprint(decisions=False)
    with Unit(STAGE, join(out, "scores"), [samples, *models(given)], settings, fingerprint=fingerprint) as unit:
        if unit.done:
            return unit.manifest
        shards = [samples.fetch(name, unit.scratch) for name in samples.matching(".parquet")]
        result = score_samples(shards, given)
        pq.write_table(table_of(SCORES, result.columns), unit.path("scores.parquet"), compression="zstd")
        np.save(unit.path("img_emb.npy"), result.image_embeddings)
        np.save(unit.path("text_emb.npy"), result.text_embeddings)
        return unit.commit([], {"clip_model": result.clip_model, "samples": len(result.image_embeddings)})
