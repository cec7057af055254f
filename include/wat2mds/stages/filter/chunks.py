"""Chunks of a WAT file's scores, kept until the unit is complete, so that a killed attempt loses one of them at most.

In: download's tables and what scores one. Out: the scores of all, in order. Guaranteed: a chunk is stored whole or not at all;
a chunk is used again only for the same table, models and settings; chunks put together are byte for byte what one attempt makes. What
does not belong here: how a chunk is scored.
"""

from __future__ import annotations

import io
import logging
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from wat2mds.manifest import Manifest
from wat2mds.progress import Progress
from wat2mds.settings import digest
from wat2mds.stages.filter.scores import Scores
from wat2mds.store import Store

log = logging.getLogger(__name__)


def score_in_chunks(samples: Manifest, folder: Path, store: Store, prefix: str, score: Callable[[Path], Scores]) -> Scores:
    """Score each of download's tables, or take its chunk from below ``prefix`` in ``store``. ``folder`` takes fetched files."""
    tables = {entry.name: entry for entry in samples.files if entry.name.endswith(".parquet")}
    total = next((flow.left for flow in samples.flows if flow.target == "samples"), 0)
    chunks: list[Scores] = []
    done = taken = 0
    with Progress("filter", total, "samples") as progress:
        for name in sorted(tables):
            path = f"{prefix}/{digest(name, tables[name].sha256)}.npz"
            chunk = _read(store, path)
            if chunk is None:
                chunk = score(samples.fetch(name, folder))
                store.write(path, _packed(chunk))
            else:
                taken += 1
            chunks.append(chunk)
            done += chunk.table.num_rows
            progress.update(done)
    if taken:
        log.info("filter: %d of %d chunks were scored by an earlier attempt", taken, len(tables))
    return Scores(
        pa.concat_tables([chunk.table for chunk in chunks]).combine_chunks(),
        np.concatenate([chunk.image_embeddings for chunk in chunks]),
        np.concatenate([chunk.text_embeddings for chunk in chunks]),
    )


def _packed(chunk: Scores) -> bytes:
    table, out = io.BytesIO(), io.BytesIO()
    pq.write_table(chunk.table, table, compression="zstd")
    rows = np.frombuffer(table.getvalue(), np.uint8)
    np.savez(out, table=rows, img_emb=chunk.image_embeddings, text_emb=chunk.text_embeddings)
    return out.getvalue()


def _read(store: Store, path: str) -> Scores | None:
    """A stored chunk; None where there is none, or where it does not read: it is then scored again."""
    try:
        with np.load(io.BytesIO(store.read(path)), allow_pickle=False) as file:
            table = pq.read_table(io.BytesIO(file["table"].tobytes()))
            return Scores(table, file["img_emb"], file["text_emb"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, pa.ArrowException) as error:
        log.warning("filter: the chunk %s does not read and is scored again: %s", path, error)
        return None
