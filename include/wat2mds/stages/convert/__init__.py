"""convert: the kept samples of one WAT file become MDS shards, their metadata table and their embeddings.

In: the manifests of download (samples) and filter (decisions). Out: ``mds/index.json`` and ``mds/shard.*.mds``, ``metadata.parquet``
(schema METADATA), ``img_emb.npy`` and ``text_emb.npy``, ``outcomes.parquet`` (what is not published, and why), and by a setting
``mds/webdataset/*.tar``, all in the order of the pairs in
``unique.parquet``; with a model for other languages its rows once more as ``*_other``. Guaranteed: kept samples
only; the same input gives the same bytes; the unit is complete only after every shard was read back and compared with the input;
memory holds a shard, a table's row group and the WAT file's metadata, never all images. With nothing kept there is an index that
names no shard. What does not belong here: which samples are kept (filter), where shards end up (upload).
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from wat2mds.errors import DataError
from wat2mds.lineage import require_made_from
from wat2mds.manifest import Flow, Manifest, Unit
from wat2mds.schema import METADATA
from wat2mds.settings import Settings, digest
from wat2mds.stages.convert.kept import Kept, read_kept
from wat2mds.stages.convert.outcomes import write_outcomes
from wat2mds.store import Layout, file_hash

log = logging.getLogger(__name__)
STAGE = "convert"
# What two equal runs may differ in, and what depends on the unit's own name.
_NOT_IN_NAME = ("fetched_at", "shard", "shard_row")


def run(samples: Manifest, decisions: Manifest, out: str, settings: Settings, validated: Manifest | None = None) -> Manifest:
    """Returns the unit's manifest; ``extra["unit_name"]`` names its folder below shards/ and embeddings/.

    ``validated`` is validate's manifest on the same samples and decisions: with it, what is published later passed exactly these rules.
    """
    require_made_from(decisions, samples)
    given = [samples, decisions]
    if validated is not None:
        for source in given:
            require_made_from(validated, source)
        given = [*given, validated]
    with Unit(STAGE, out, given, settings) as unit:
        if unit.done:
            return unit.manifest
        # Here, not above: importing streaming costs about five CPU seconds, which a unit that is complete need not pay.
        from wat2mds.stages.convert import tars
        from wat2mds.stages.convert.shards import read_back, write_shards

        with tempfile.TemporaryDirectory(dir=unit.scratch) as temporary:
            kept = read_kept(samples, decisions, Path(temporary))
            folder = unit.path("mds/index.json").parent
            index = write_shards(kept, folder, settings.convert)
            read_back(kept, folder, index)
            if settings.convert.webdataset:
                # Below mds/, which upload brings to the WAT file's folder of shards as it is.
                image_type = str(samples.settings.get("encode_format", "jpg"))
                made = tars.write_tars(kept, folder / "webdataset", image_type, settings.convert.shard_bytes)
                tars.read_tars_back(kept, made, image_type)
            for name in ("img_emb", "text_emb"):
                np.save(unit.path(f"{name}.npy"), kept.embeddings(name))
            with_other = "clip_model_other" in kept.scores.extra
            if with_other:
                for name in ("img_emb_other", "text_emb_other"):
                    np.save(unit.path(f"{name}.npy"), kept.other_embeddings(name))
            unit_name = _unit_name(unit, kept.table)
            metadata = _metadata(kept, index, unit_name)
            pq.write_table(metadata, unit.path("metadata.parquet"), compression="zstd")
            if with_other:
                theirs = metadata.take(pa.array(kept.other_rows))
                pq.write_table(theirs, unit.path("metadata_other.parquet"), compression="zstd")
            # After the unit was named: what failed does not change what the samples are.
            failures = write_outcomes(samples, decisions, unit.path("outcomes.parquet"), Path(temporary))
        return unit.commit(
            [Flow("kept", "converted", kept.table.num_rows, sum(shard["samples"] for shard in index["shards"]))],
            {"unit_name": unit_name, "samples": kept.table.num_rows, "shards": len(index["shards"]), **failures},
        )


def stored_basename(shard: dict[str, Any]) -> str:
    """Name of the file that is stored for a shard of an index: the compressed one where there is compression."""
    return str((shard["zip_data"] or shard["raw_data"])["basename"])


def _unit_name(unit: Unit, table: pa.Table) -> str:
    """Named by content: equal samples give the same name, whenever and however often they were converted."""
    missing = {"snapshot", "segment", "wat_file"} - set(unit.unit)
    if missing:
        raise DataError(f"the unit in {unit.store.url} does not say its {', '.join(sorted(missing))}: {json.dumps(unit.unit)}")
    base = unit.scratch / "files"
    files = [(p.relative_to(base).as_posix(), file_hash(p)) for p in sorted(base.rglob("*")) if p.is_file()]
    # As parquet, since that writes values only: Arrow's own buffers may differ where a value is null.
    columns = [name for name in METADATA.names() if name not in _NOT_IN_NAME]
    rows = io.BytesIO()
    pq.write_table(table.select(columns), rows, compression="none")
    name = digest(files, hashlib.sha256(rows.getbuffer()).hexdigest())
    return Layout.unit_name(unit.unit["snapshot"], unit.unit["segment"], unit.unit["wat_file"], name)


def _metadata(kept: Kept, index: dict[str, Any], unit_name: str) -> pa.Table:
    """The rows with the shard that each was written to."""
    shards: list[str] = []
    rows: list[int] = []
    for shard in index["shards"]:
        shards += [f"shards/{unit_name}/{stored_basename(shard)}"] * shard["samples"]
        rows += range(shard["samples"])
    columns = {name: kept.table[name] for name in METADATA.names() if name not in ("shard", "shard_row")}
    columns |= {"shard": pa.array(shards, pa.string()), "shard_row": pa.array(rows, pa.int32())}
    return pa.table([columns[name] for name in METADATA.names()], schema=METADATA.schema)
