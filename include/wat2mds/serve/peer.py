"""clip-retrieval's protocol (2.45, clip_back.py), so that its ``ClipClient`` and what is written for it can ask this service.

In: ``/knn-service``, ``/metadata``, ``/indices-list``. Out: its JSON. Guaranteed: nothing is fetched for a client: ``image_url`` is
refused, since this service asks no other host. What does not belong here: the page's protocol (``api.py``).

What differs: ids are numbers of one version's rows, not for keeping (``uid`` is, and is there too); near-duplicates
are those of ``phash_group``, not of the embeddings; unsafe samples are hidden by their stored score; ``aesthetic_score`` and
``use_mclip`` have no effect, as with a clip-retrieval that has neither model.
"""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from wat2mds.serve.asked import BAD, collection_of, found_of, picture_of
from wat2mds.serve.collection import Collection, Collections
from wat2mds.serve.filters import Modality
from wat2mds.serve.metrics import Metrics
from wat2mds.serve.options import Options
from wat2mds.serve.queries import MOST_TEXT, Query, VectorQuery
from wat2mds.serve.rows import Row

MOST_IDS = 10_000
_MOST_METADATA = 1_000
_MOST_SAMPLES = 1 << 40  # of a version
Model = TypeVar("Model", bound=BaseModel)


class KnnQuery(BaseModel):
    """What ``ClipClient`` sends; anything more is not looked at."""

    model_config = ConfigDict(extra="ignore")

    text: str | None = Field(None, max_length=MOST_TEXT)
    image: str | None = Field(None, description="base64")
    image_url: str | None = None
    embedding_input: list[float] | None = Field(None, max_length=8192)
    modality: Modality = "image"
    num_images: int = Field(40, ge=1, le=_MOST_METADATA)
    num_result_ids: int | None = Field(None, ge=1, le=MOST_IDS)
    indice_name: str | None = Field(None, max_length=64)
    deduplicate: bool = True
    use_safety_model: bool = True


class MetadataQuery(BaseModel):
    ids: list[int] = Field(max_length=_MOST_METADATA)
    indice_name: str | None = Field(None, max_length=64)


def peer_router(collections: Collections, options: Options, metrics: Metrics) -> APIRouter:
    router = APIRouter(responses=BAD)

    @router.get("/indices-list")
    def indices_list() -> list[str]:
        """Names of the indices."""
        return collections.names

    @router.post("/knn-service", openapi_extra=_described(KnnQuery))
    def knn_service(asked: Annotated[KnnQuery, Depends(_parsed(KnnQuery))]) -> list[dict[str, Any]]:
        """The nearest samples; the first ``num_images`` with metadata, up to ``num_result_ids`` in all."""
        collection = collection_of(collections, asked.indice_name)
        if asked.image_url:
            raise HTTPException(
                400, "image_url is not fetched: this service asks no other host; send the image itself, as base64"
            )
        query = _query(asked, collection.encoder, options)
        limit = max(asked.num_images, asked.num_result_ids or 0)
        found = found_of(collection, query, metrics, 0, limit, facets=False)
        first = _first_id(collection)
        return [
            (_metadata(sample.row) if place < asked.num_images else {})
            | {"id": first + sample.row["number"], "similarity": sample.score}
            for place, sample in enumerate(found.samples)
        ]

    @router.post("/metadata", openapi_extra=_described(MetadataQuery))
    def metadata(asked: Annotated[MetadataQuery, Depends(_parsed(MetadataQuery))]) -> list[dict[str, Any]]:
        """Metadata of samples by id; ids that are nobody's are left out."""
        collection = collection_of(collections, asked.indice_name)
        first = _first_id(collection)
        rows = collection.rows.by_numbers([n - first for n in asked.ids if first <= n < first + _MOST_SAMPLES])
        return [{"id": n, "metadata": _metadata(rows[n - first])} for n in asked.ids if n - first in rows]

    return router


def _first_id(collection: Collection) -> int:
    """Ids are a version's own: one that a client still has from before a newer version is served is nobody's, never another sample's."""
    return collection.version.number * _MOST_SAMPLES


def _query(asked: KnnQuery, encoder: Any, options: Options) -> Query:
    embedding = asked.embedding_input
    if asked.image and not asked.text:
        try:
            data = base64.b64decode(asked.image, validate=True)
        except (binascii.Error, ValueError) as error:
            raise HTTPException(400, "image is not base64") from error
        embedding = encoder.image(picture_of(data, options)).tolist()
    if not (asked.text and asked.text.strip()) and not embedding:
        raise HTTPException(400, "give one of text, image and embedding_input")
    return VectorQuery(
        text=asked.text or None,
        embedding=None if asked.text else embedding,
        modality=asked.modality,
        fold=asked.deduplicate,
        unsafe=not asked.use_safety_model,
    )


def _metadata(row: Row) -> dict[str, Any]:
    names = {"uid": "uid", "url": "url", "caption": "caption", "NSFW": "nsfw", "punsafe": "punsafe", "LICENSE": "license"}
    names |= {"LANGUAGE": "language", "WIDTH": "original_width", "HEIGHT": "original_height", "aesthetic": "aesthetic"}
    return {theirs: row[ours] for theirs, ours in names.items()}


def _parsed(model: type[Model]) -> Any:
    """Of the body, whatever type the client says that it has: ``ClipClient`` says none."""

    async def parse(request: Request) -> Model:
        try:
            return model.model_validate_json(await request.body())
        except ValidationError as error:
            raise RequestValidationError([{**problem, "loc": ("body", *problem["loc"])} for problem in error.errors()]) from error

    return parse


def _described(model: type[BaseModel]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": model.model_json_schema()}}}}
