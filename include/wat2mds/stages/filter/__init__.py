"""filter: block lists, scores for every sample, then keep or drop with a reason.

In: download's manifest. Out: a unit of scores (``scores.parquet``, ``img_emb.npy``, ``text_emb.npy``: float16, rows alike; with a model
for other languages ``img_emb_other.npy`` and ``text_emb_other.npy``, of its rows alone), a unit that names what is on a block list, and
a unit of decisions. Guaranteed: nothing on a block list, and nothing that a takedown of the dataset lists, is scored or kept, and
its image is deleted; a stored score never changes because a threshold did; another threshold makes new decisions from the stored
scores; another model makes new scores; a killed attempt is continued at the table of samples that it was at. What
does not belong here: fetching, hashes, groups of near-duplicates over WAT files (publish).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from wat2mds.drops import DropReason
from wat2mds.manifest import Input, Manifest, Unit
from wat2mds.schema import DECISIONS, table_of
from wat2mds.settings import Settings, digest
from wat2mds.stages.filter.blocked import TAKEDOWN, block, read_report
from wat2mds.stages.filter.chunks import score_in_chunks
from wat2mds.stages.filter.copies import with_copies
from wat2mds.stages.filter.decisions import READS, decide
from wat2mds.stages.filter.facts import with_facts
from wat2mds.stages.filter.further import Further
from wat2mds.stages.filter.models import models
from wat2mds.stages.filter.near import Published
from wat2mds.stages.filter.scores import Scorer, Scores
from wat2mds.store import join

log = logging.getLogger(__name__)
STAGE = "filter"


def run(samples: Manifest, out: str, settings: Settings) -> Manifest:
    """Score, then decide. Raises ConfigError for models or heads that are unknown, damaged or do not fit together."""
    # Before anything is touched: what names no model is an error.
    needed = models(settings.filter)
    blocked = block(samples, out, settings)
    scores = _score(samples, needed, out, settings)
    # The scores first: later stages take the first of filter's manifests for them.
    published = Published.of(samples) if settings.filter.near_duplicates == "dataset" else None
    compared = [] if published is None else [published.as_input()]
    with Unit(STAGE, out, [samples, scores, blocked.as_input(), *compared], settings) as unit:
        if unit.done:
            return unit.manifest
        table = pq.read_table(scores.fetch("scores.parquet", unit.scratch), columns=list(READS))
        hashes = published.hashes() if published is not None else ()
        decided = decide(table, settings.filter, sorted(read_report(blocked, unit.scratch)), hashes)
        if taken := [uid for uid, names in read_report(blocked, unit.scratch).items() if names == [TAKEDOWN]]:
            ours = pc.is_in(decided.uids, value_set=pa.array(taken))
            decided = decided._replace(reasons=pc.if_else(ours, str(DropReason.TAKEN_DOWN_IMAGE), decided.reasons))
        columns = {"uid": decided.uids, "drop_reason": decided.reasons, "language": decided.languages}
        pq.write_table(table_of(DECISIONS, columns), unit.path("decisions.parquet"), compression="zstd")
        return unit.commit([decided.flow()])


def _score(samples: Manifest, needed: list[Input], out: str, settings: Settings) -> Manifest:
    given = settings.filter
    fingerprint = given.fingerprint(decisions=False)
    with Unit(STAGE, join(out, "scores"), [samples, *needed], settings, fingerprint=fingerprint) as unit:
        if unit.done:
            return unit.manifest
        chunks = f"partial/{digest(unit.digest, [i.identity for i in unit.inputs])}"
        with Scorer(given) as scorer:
            further = Further(given)

            def scored(tables: Iterable[Path]) -> Iterator[Scores]:
                return (with_facts(further.add(table, scores), table) for table, scores in scorer.score(tables))

            result = score_in_chunks(samples, unit.scratch, unit.store, chunks, scored)
        table = with_copies(result.table, samples, unit.scratch)
        pq.write_table(table, unit.path("scores.parquet"), compression="zstd")
        np.save(unit.path("img_emb.npy"), result.image_embeddings)
        np.save(unit.path("text_emb.npy"), result.text_embeddings)
        extra = {"clip_model": scorer.clip.identity, "samples": result.table.num_rows}
        if further.clip is not None and result.others is not None:
            extra["clip_model_other"] = further.clip.identity
            for name, rows in zip(("img_emb_other", "text_emb_other"), result.others, strict=True):
                np.save(unit.path(f"{name}.npy"), rows)
        done = unit.commit([], extra)
        # Those of other settings too: what they lose can be scored again.
        unit.store.delete_tree("partial")
        return done
