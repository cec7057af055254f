"""Chunks of a WAT file's scores, kept until the unit is complete, so that a killed attempt loses one of them at most.

In: download's tables and what scores them. Out: the scores of all, in order. Guaranteed: a chunk is stored whole or not at all;
a chunk is used again only for the same table, models and settings; chunks put together are byte for byte what one attempt makes. What
does not belong here: how a chunk is scored.
"""

from __future__ import annotations

import io
import logging
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
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
_OTHERS = ("img_emb_other", "text_emb_other")


def score_in_chunks(
    samples: Manifest, folder: Path, store: Store, prefix: str, score: Callable[[Iterable[Path]], Iterator[Scores]]
) -> Scores:
    """Score each of download's tables, or take its chunk from below ``prefix`` in ``store``. ``folder`` takes fetched files."""
    tables = {entry.name: entry for entry in samples.files if entry.name.endswith(".parquet")}
    total = next((flow.left for flow in samples.flows if flow.target == "samples"), 0)
    paths = {name: f"{prefix}/{digest(name, tables[name].sha256)}.npz" for name in sorted(tables)}
    chunks = {name: chunk for name, path in paths.items() if (chunk := _read(store, path)) is not None}
    if chunks:
        log.info("filter: %d of %d chunks were scored by an earlier attempt", len(chunks), len(tables))
    missing = [name for name in paths if name not in chunks]
    done = sum(chunk.table.num_rows for chunk in chunks.values())
    # One chunk is stored while the next is scored.
    with Progress("filter", total, "samples") as progress, ThreadPoolExecutor(1) as storing:
        stored: Future[None] | None = None
        for name, chunk in zip(missing, score(samples.fetch(name, folder) for name in missing), strict=True):
            if stored is not None:
                stored.result()
            stored = storing.submit(_write, store, paths[name], chunk)
            chunks[name] = chunk
            done += chunk.table.num_rows
            progress.update(done)
        if stored is not None:
            stored.result()
    return Scores(
        pa.concat_tables([chunks[name].table for name in paths]).combine_chunks(),
        np.concatenate([chunks[name].image_embeddings for name in paths]),
        np.concatenate([chunks[name].text_embeddings for name in paths]),
        _others([chunks[name] for name in paths]),
    )


def _others(chunks: Sequence[Scores]) -> tuple[np.ndarray, np.ndarray] | None:
    found = [chunk.others for chunk in chunks if chunk.others is not None]
    return (np.concatenate([one for one, _ in found]), np.concatenate([one for _, one in found])) if found else None


def _write(store: Store, path: str, chunk: Scores) -> None:
    store.write(path, _packed(chunk))


def _packed(chunk: Scores) -> bytes:
    table, out = io.BytesIO(), io.BytesIO()
    pq.write_table(chunk.table, table, compression="zstd")
    rows = np.frombuffer(table.getvalue(), np.uint8)
    others = {} if chunk.others is None else dict(zip(_OTHERS, chunk.others, strict=True))
    np.savez(out, table=rows, img_emb=chunk.image_embeddings, text_emb=chunk.text_embeddings, **others)
    return out.getvalue()


def _read(store: Store, path: str) -> Scores | None:
    """A stored chunk; None where there is none, or where it does not read: it is then scored again."""
    try:
        with np.load(io.BytesIO(store.read(path)), allow_pickle=False) as file:
            table = pq.read_table(io.BytesIO(file["table"].tobytes()))
            others = (file[_OTHERS[0]], file[_OTHERS[1]]) if _OTHERS[0] in file.files else None
            return Scores(table, file["img_emb"], file["text_emb"], others)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, pa.ArrowException) as error:
        log.warning("filter: the chunk %s does not read and is scored again: %s", path, error)
        return None
