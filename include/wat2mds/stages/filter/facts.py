"""Facts about samples on which decisions are made as they are on scores: words and characters of the caption, size and hash of the image.

In: the scores of one of download's tables, and that table. Out: the scores with the facts beside them. Guaranteed: facts are stored with
the scores, so that decisions can be made anew when the samples are gone. What does not belong here: thresholds.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from wat2mds.stages.filter.scores import Scores

_READ = ("original_width", "original_height", "pdq", "pdq_quality")


def with_facts(scores: Scores, samples: Path) -> Scores:
    """Words are what white space divides, as in DataComp's basic filter (mlfoundations/datacomp, baselines/apply_filter.py)."""
    table = pq.read_table(samples, columns=["uid", "caption", *_READ])
    rows = table.take(pc.index_in(scores.table["uid"], value_set=table["uid"].combine_chunks()))
    captions = rows["caption"].to_pylist()
    facts = {name: rows[name] for name in _READ}
    facts["caption_words"] = pa.array([len(caption.split()) for caption in captions], pa.int32())
    facts["caption_chars"] = pa.array([len(caption) for caption in captions], pa.int32())
    found = scores.table
    for name, values in facts.items():
        at = found.schema.get_field_index(name)
        found = found.set_column(at, found.schema.field(at), values)
    return scores._replace(table=found.combine_chunks())
