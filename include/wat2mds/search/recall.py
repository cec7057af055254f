"""Recall of an index against brute force, and how many of its lists must be searched for it.

In: an index, all vectors, a sample of queries. Out: ``Measured``. Guaranteed: the truth is computed from the stored embeddings, not from
codes; a query does not find itself; samples that are as like the query as the tenth count as found whichever of them is.
What does not belong here: how fast a search is.

The number of lists searched is the least power of two that gives GOOD, or what is asked for above it, or all but MARGIN of what more lists
give. autofaiss takes the most
that can be searched in 10 ms, which would differ from run to run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import faiss
import numpy as np

from wat2mds.search.lists import Codes
from wat2mds.search.training import drawn, take
from wat2mds.search.vectors import Modality, Vectors

K = 10
QUERIES = 400  # of each modality
GOOD = 0.99
MARGIN = 0.002
# So many of the best are kept as truth: where even the last of them is as good as the tenth, the query says nothing.
_KEPT = 100
_EQUAL = 1e-5  # two scores of the same vectors, summed in another order


@dataclass(frozen=True)
class Measured:
    """``nprobe`` by what is searched; ``recalls`` by "image by text" and the like; ``queries``: of each kind, drawn."""

    nprobe: dict[str, int]
    recalls: dict[str, float]
    queries: int

    @property
    def recall(self) -> float:
        return min(self.recalls.values())


def measure(
    codes: Mapping[Modality, Codes], vectors: Vectors, rows: Mapping[str, np.ndarray], total: int, good: float = GOOD
) -> Measured:
    """Images and texts of a sample search the indices ``codes``; ``rows``: the rows of each unit, in its own order; ``good``: the recall
    that is enough."""
    own = drawn(total, QUERIES)
    queries = {modality: take(vectors, rows, own, modality) for modality in codes}
    nprobe: dict[str, int] = {}
    recalls: dict[str, float] = {}
    for searched in codes:
        best = _Truth(np.concatenate([queries[by] for by in codes]), np.tile(own, len(codes)))
        for unit, theirs in rows.items():
            start = 0
            for block in vectors.blocks(unit, searched):
                best.see(block, theirs[start : start + len(block)])
                start += len(block)
        found = _tune(codes[searched], best, len(codes), good)
        nprobe[searched] = found[0]
        recalls |= {f"{searched} by {by}": round(value, 4) for by, value in zip(codes, found[1], strict=True)}
    return Measured(nprobe, recalls, len(own))


class _Truth:
    """The best of all vectors for each query [n, dim], by brute force; ``own``: its own row, which does not count."""

    def __init__(self, queries: np.ndarray, own: np.ndarray) -> None:
        self.queries = queries
        self.own = own
        self.scores = np.full((len(queries), _KEPT), -np.inf, np.float32)
        self.rows = np.full((len(queries), _KEPT), -1, np.int64)

    def see(self, block: np.ndarray, rows: np.ndarray) -> None:
        scores, at = faiss.knn(self.queries, block, min(_KEPT + 1, len(block)), faiss.METRIC_INNER_PRODUCT)
        found = rows[at]
        scores = np.where(found == self.own[:, None], -np.inf, scores)
        all_scores, all_rows = np.hstack([self.scores, scores]), np.hstack([self.rows, found])
        order = np.argsort(-all_scores, axis=1, kind="stable")[:, :_KEPT]
        self.scores = np.take_along_axis(all_scores, order, 1)
        self.rows = np.take_along_axis(all_rows, order, 1)

    def recall(self, rows: np.ndarray) -> np.ndarray:
        """Of each query: the share of the K best that ``rows`` [n, ≥ K + 1] has, in its order; NaN where that cannot be said."""
        there = np.isfinite(self.scores).sum(axis=1)
        wanted = np.minimum(K, there)
        found = np.full(len(rows), np.nan)
        for number in range(len(rows)):
            if not wanted[number]:
                continue
            least = self.scores[number][wanted[number] - 1] - _EQUAL
            if there[number] == _KEPT and self.scores[number][-1] >= least:
                continue
            good = self.rows[number][self.scores[number] >= least]
            returned = [row for row in rows[number] if row >= 0 and row != self.own[number]][: wanted[number]]
            found[number] = np.isin(returned, good).sum() / wanted[number]
        return found


def _tune(codes: Codes, truth: _Truth, kinds: int, good: float) -> tuple[int, list[float]]:
    """(lists searched, recall of each kind of queries)."""
    tried: list[tuple[int, list[float]]] = []
    wide = 1
    while True:
        _, rows = codes.search(truth.queries, min(K + 1, codes.count), wide)
        by_kind = np.split(truth.recall(rows), kinds)
        tried.append((wide, [1.0 if np.isnan(part).all() else float(np.nanmean(part)) for part in by_kind]))
        lowest = [min(values) for _, values in tried]
        if lowest[-1] >= good or wide >= codes.lists or (len(lowest) > 3 and lowest[-1] - lowest[-3] < MARGIN / 2):
            break
        wide = min(2 * wide, codes.lists)
    enough = min(good, max(lowest) - MARGIN)
    return next(entry for entry, low in zip(tried, lowest, strict=True) if low >= enough)
