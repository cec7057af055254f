"""What the service answers: the models that its OpenAPI description shows.

In: what was found. Out: pydantic models. Guaranteed: every sample that is shown names the version that it is of. What does not
belong here: finding.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from wat2mds.serve.collection import Collection
from wat2mds.serve.queries import Found, Sample
from wat2mds.serve.rows import Row


class Shown(BaseModel):
    """One sample. Values that it has not are null."""

    uid: str
    number: int = Field(description="its place in this service's table: clip-retrieval's id")
    image: str = Field(description="where the stored image is, from this service's root")
    score: float | None = Field(None, description="cosine with what was searched for")
    folded: int = Field(0, description="near-duplicates that it stands for")
    ratio: float = Field(description="width by height of the picture; a border that was stored around it does not count")
    caption: str
    url: str
    host: str | None
    page_url: str | None
    license: str | None
    license_type: str | None
    license_version: str | None
    language: str | None
    similarity: float | None
    clip_model: str | None
    nsfw: str | None
    punsafe: float | None
    pwatermark: float | None
    aesthetic: float | None
    width: int | None
    height: int | None
    original_width: int | None
    original_height: int | None
    mime: str | None
    original_bytes: int | None
    sha256: str | None
    phash_group: str | None
    crawl_date: str | None
    snapshot: str
    segment: str
    wat_file: str
    version: int

    @classmethod
    def of(cls, collection: Collection, row: Row, score: float | None = None, folded: int = 0) -> Shown:
        own = {name: row[name] for name in cls.model_fields if name in row}
        ratio = _ratio(row, bordered=collection.bordered)
        return cls(
            **own, image=f"images/{row['uid']}", score=score, folded=folded, ratio=ratio, version=collection.version.number
        )

    @classmethod
    def sample(cls, collection: Collection, sample: Sample) -> Shown:
        return cls.of(collection, sample.row, sample.score, len(sample.folded))


class Count(BaseModel):
    """A value that a filter may have, and how many samples it would leave; null: samples without a value."""

    value: str | int | None
    count: int


class Answer(BaseModel):
    """A page of a result."""

    samples: list[Shown]
    page: int
    pages: int
    total: int = Field(description="samples on all pages")
    considered: int = Field(description="samples that were compared with the conditions")
    complete: bool = Field(description="whether that is all that there are; else what is further away was not looked at")
    hidden: int = Field(description="likely unsafe ones that were left out")
    facets: dict[str, list[Count]]
    index: str
    version: int

    @classmethod
    def of(cls, collection: Collection, found: Found, page: int, page_size: int) -> Answer:
        return cls(
            samples=[Shown.sample(collection, sample) for sample in found.samples],
            page=page,
            pages=-(-found.total // page_size),
            total=found.total,
            considered=found.considered,
            complete=found.complete,
            hidden=found.hidden,
            facets={name: [Count(value=v, count=n) for v, n in counts] for name, counts in found.facets.items()},
            index=collection.name,
            version=collection.version.number,
        )


class Index(BaseModel):
    """One kNN index."""

    name: str
    version: int
    samples: int
    recall: float
    clip_model: str
    dim: int


class About(BaseModel):
    """What is served."""

    dataset: str
    indices: list[Index]
    writable: bool = Field(description="whether the service takes changes from who has its token")
    reasons: dict[str, str] = Field(description="for which an image may be reported")
    most_saved: int = Field(description="samples of a search that can be saved as a subset")


class Embedding(BaseModel):
    """The vector of an image."""

    embedding: list[float]
    index: str


class Problem(BaseModel):
    """Why a request was not answered."""

    detail: Any


def _ratio(row: Row, *, bordered: bool) -> float:
    """The original's where it was stored in a square with a border (resize_mode border), else the stored image's; for a page, 1/4 to 4."""
    names = ("original_width", "original_height") if bordered and row["width"] == row["height"] else ("width", "height")
    width, height = (row[name] or 1 for name in names)
    return float(min(4.0, max(0.25, width / height)))
