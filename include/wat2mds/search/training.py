"""A trained, empty faiss index: how vectors are dealt to lists, and how they become codes.

In: vectors and an index type. Out: the index. Guaranteed: the sample is drawn by a fixed seed, each unit once; on one thread the same
vectors give the same index, byte for byte, on machines with the same instruction set (products of matrices round differently on others;
OPQ does with the number of threads). What does not belong here: the vectors' codes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import faiss
import numpy as np

from wat2mds.search.vectors import Modality, Vectors

log = logging.getLogger(__name__)
SEED = 20260101


@contextmanager
def threads(count: int) -> Iterator[None]:
    """faiss works on so many threads inside."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(count)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def drawn(total: int, count: int) -> np.ndarray:
    """``count`` of ``total`` row numbers, sorted."""
    return np.sort(np.random.default_rng(SEED).choice(total, min(count, total), replace=False))


def take(vectors: Vectors, rows: Mapping[str, np.ndarray], wanted: np.ndarray, modality: Modality) -> np.ndarray:
    """The vectors [wanted, dim] of some rows, which are sorted; ``rows``: the rows of each unit, in its own order."""
    found = np.zeros((len(wanted), vectors.dim), np.float32)
    for unit, theirs in rows.items():
        at = np.searchsorted(wanted, theirs)
        inside = np.minimum(at, len(wanted) - 1)
        hit = wanted[inside] == theirs
        if not hit.any():
            continue
        start = 0
        for block in vectors.blocks(unit, modality):
            chosen = hit[start : start + len(block)]
            found[inside[start : start + len(block)][chosen]] = block[chosen]
            start += len(block)
    return found


def train(sample: np.ndarray, index_type: str) -> Any:
    """An empty index of that type, for inner products, trained on vectors [n, dim] of norm 1."""
    index = faiss.index_factory(sample.shape[1], index_type, faiss.METRIC_INNER_PRODUCT)
    ivf = faiss.extract_index_ivf(index)
    # faiss would take a sample of its own from a larger one; ours is drawn already.
    ivf.cp.max_points_per_centroid = max(1, -(-len(sample) // ivf.nlist))
    ivf.cp.min_points_per_centroid = 1
    ivf.cp.seed = SEED % (1 << 31)
    log.info("training %s on %d vectors of %d floats", index_type, len(sample), sample.shape[1])
    index.train(sample)
    return index
