"""One search: the nearest samples, filtered, near-duplicates folded, counted, a page of them.

In: a collection and a query. Out: ``Found``. Guaranteed: the same query gives the same samples, so that pages fit together; a
sample is in the result once; memory is bounded by the largest pool. What does not belong here: HTTP.

An index knows nothing of conditions. So a pool of the nearest is taken and filtered, and a larger one where that leaves too few. Where
the largest does too, and the conditions hold for no more samples than it has, all of these are compared with the query, however far away
they are. What is beyond the largest pool of a wider condition is not found, and the answer says so. Without text, image, embedding or
uid the pool is all samples, by uid, which is a hash: any sample is as likely to come first.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from wat2mds.serve.collection import Collection
from wat2mds.serve.filters import FACETS, Filters, Modality, Uid
from wat2mds.serve.rows import Row

POOLS = (1_000, 4_000, 16_000)
MOST_TEXT = 2_000  # characters; a model reads some 77 tokens
_MOST_VALUES = 15  # of a facet


class Query(Filters):
    """What is searched for, at most one of text and uid; nothing: samples by uid."""

    text: str | None = Field(None, max_length=MOST_TEXT, description="what the images should show")
    uid: Uid | None = Field(None, description="a sample whose like are wanted")
    modality: Modality = Field("image", description="whether images or captions are compared")
    fold: bool = Field(True, description="of near-duplicates (phash_group) show the nearest only")
    index: str | None = Field(None, max_length=64, description="one of the service's indices; the first by default")
    page: int = Field(1, ge=1, le=400)
    page_size: int = Field(40, ge=1, le=100)


class VectorQuery(Query):
    """A query with an embedding, as ``/api/embedding`` gives for an image."""

    embedding: list[float] | None = Field(None, max_length=8192, description="a vector of the index's model")


@dataclass(frozen=True)
class Sample:
    """A sample that was found. ``score``: cosine with the query, None without one; ``folded``: near-duplicates that it stands for."""

    row: Row
    score: float | None
    folded: list[str]


@dataclass(frozen=True)
class Found:
    """``samples``: the page's. ``total``: of all pages; ``considered``: samples that were compared with the conditions, all there are where
    ``complete``; ``hidden``: unsafe ones that were left out. ``facets``: of each field its values and how many samples each leaves.
    All count what is shown: near-duplicates once where they are folded, but for ``considered``."""

    samples: list[Sample]
    total: int
    considered: int
    complete: bool
    hidden: int
    facets: dict[str, list[tuple[Any, int]]] = field(default_factory=dict)


class BadQuery(ValueError):
    """What is asked for cannot be looked for; says why."""


def vector_of(collection: Collection, query: Query) -> NDArray[np.float32] | None:
    """The query's vector, float32 [dim]; None where nothing is searched for. Raises BadQuery, and KeyError for a uid that is not there."""
    embedding = query.embedding if isinstance(query, VectorQuery) else None
    given = [name for name, value in (("text", query.text), ("uid", query.uid), ("embedding", embedding)) if value]
    if len(given) > 1:
        raise BadQuery(f"give one of text, uid and embedding, not {' and '.join(given)}")
    if embedding:
        return checked_vector(collection, embedding)
    if query.uid:
        found = collection.index.vector(query.uid, query.modality)
        if found is None:
            raise KeyError(query.uid)
        return found
    return collection.encoder.text(query.text) if query.text and query.text.strip() else None


def checked_vector(collection: Collection, values: list[float]) -> NDArray[np.float32]:
    """An embedding of a client's. Raises BadQuery where it is not of the index's kind."""
    dim = collection.index.record.dim
    vector = np.asarray(values, np.float64)
    if vector.shape != (dim,):
        raise BadQuery(f"the embedding has {vector.size} numbers, the index's have {dim}")
    norm = float(np.linalg.norm(vector))
    if not np.isfinite(norm) or norm < 1e-12:
        raise BadQuery("the embedding has no direction: it is zero or not finite")
    unit: NDArray[np.float32] = (vector / norm).astype(np.float32)
    return unit


def search(
    collection: Collection, query: Query, vector: NDArray[np.float32] | None, *, offset: int, limit: int, facets: bool = True
) -> Found:
    """``limit`` samples from the ``offset``-th on."""
    pools = [size for size in POOLS if size < collection.rows.count] + [min(POOLS[-1], collection.rows.count)]
    exact = None
    for size in pools:
        scores = _nearest(collection, query, vector, size)
        among = None if scores is None else list(scores)
        condition = query.condition()
        rows = collection.rows.take(condition, among, size)
        samples = _ordered(rows, scores, fold=query.fold)
        if len(samples) > offset + limit:
            break
    else:
        exact = _selected(collection, query, vector, size) if vector is not None and size < collection.rows.count else None
    if exact is not None:
        samples, among, considered, complete = exact, None, collection.rows.count, True
    else:
        considered = len(among) if among is not None else min(size, collection.rows.count)
        # Without a vector the database itself finds what fits: the pool is full only where there may be more.
        complete = size >= collection.rows.count or (among is None and len(rows) < size)
    return Found(
        samples[offset : offset + limit],
        len(samples),
        considered,
        complete,
        _hidden(collection, query, among, size),
        _facets(collection, query, among, size) if facets else {},
    )


def _nearest(collection: Collection, query: Query, vector: NDArray[np.float32] | None, size: int) -> dict[str, float] | None:
    """Scores by uid, the nearest first."""
    if vector is None:
        return None
    [hits] = collection.index.search(vector[np.newaxis, :], size, query.modality)
    return {hit.uid: hit.score for hit in hits if hit.uid != query.uid}


def _selected(collection: Collection, query: Query, vector: NDArray[np.float32], most: int) -> list[Sample] | None:
    """All samples for which the conditions hold, the nearest first; None where these are more than ``most``."""
    if collection.rows.size(query.condition(), None, most + 1, fold=False) > most:
        return None
    rows = collection.rows.take(query.condition(), None, most)
    [hits] = collection.index.search(vector[np.newaxis, :], most, query.modality, [row["uid"] for row in rows])
    scores = {hit.uid: hit.score for hit in hits if hit.uid != query.uid}
    return _ordered([row for row in rows if row["uid"] in scores], scores, fold=query.fold)


def _ordered(rows: list[Row], scores: dict[str, float] | None, *, fold: bool) -> list[Sample]:
    if scores is not None:
        rows = sorted(rows, key=lambda row: (-scores[row["uid"]], row["uid"]))
    samples: list[Sample] = []
    leaders: dict[str, Sample] = {}
    for row in rows:
        group = row["phash_group"]
        if fold and group is not None and group in leaders:
            leaders[group].folded.append(row["uid"])
            continue
        sample = Sample(row, None if scores is None else scores[row["uid"]], [])
        samples.append(sample)
        if group is not None:
            leaders[group] = sample
    return samples


def _hidden(collection: Collection, query: Query, among: list[str] | None, size: int) -> int:
    if query.unsafe:
        return 0
    every, shown = (
        collection.rows.size(condition, among, size, fold=query.fold)
        for condition in (query.condition(without="unsafe"), query.condition())
    )
    return every - shown


def _facets(collection: Collection, query: Query, among: list[str] | None, size: int) -> dict[str, list[tuple[Any, int]]]:
    rows = collection.rows
    found = {
        name: rows.counts(column, query.condition(without=name), among, size, _MOST_VALUES, fold=query.fold)
        for name, column in FACETS.items()
    }
    return found | {"min_side": rows.side_counts(query.condition(without="short_side"), among, size, fold=query.fold)}
