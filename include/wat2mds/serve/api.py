"""The page's protocol, which is anybody's who reads: search, one sample, its image, an image's embedding.

In: requests. Out: JSON (``answers.py``) and stored images. Guaranteed: nothing is written; a uid is 32 hex digits before it is
looked up. What does not belong here: clip-retrieval's protocol (``peer.py``), changes (``changes.py``).
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Path, Request, Response
from fastapi import Query as FromQuery

from wat2mds.errors import DataError, TransientError
from wat2mds.serve.answers import About, Answer, Embedding, Index, Shown
from wat2mds.serve.asked import BAD, collection_of, found_of, picture_of
from wat2mds.serve.changes import MOST_SAVED, REASONS
from wat2mds.serve.collection import Collection, Collections
from wat2mds.serve.metrics import Metrics
from wat2mds.serve.options import Options
from wat2mds.serve.queries import Query, VectorQuery

UidInPath = Annotated[str, Path(pattern=r"^[0-9a-f]{32}$", description="a sample's uid")]
IndexName = Annotated[str | None, FromQuery(max_length=64, description="one of the service's indices; the first by default")]
# An image of a uid never changes, but may be taken down: a browser keeps it for an hour.
_KEPT = "private, max-age=3600"


def api_router(collections: Collections, options: Options, metrics: Metrics) -> APIRouter:
    router = APIRouter(responses=BAD)

    @router.get("/api/about")
    def about() -> About:
        """What is served."""
        return About(
            dataset=collections.dataset_url.rpartition("/")[2],
            indices=[_index(one) for one in collections.every],
            writable=bool(options.token),
            reasons=REASONS,
            most_saved=MOST_SAVED,
        )

    @router.get("/api/search")
    def search_by_words(query: Annotated[Query, FromQuery()]) -> Answer:
        """Samples near a text or a sample, or any, under conditions."""
        return answer(query)

    @router.post("/api/search")
    def search_by_anything(query: VectorQuery) -> Answer:
        """The same, and by an embedding."""
        return answer(query)

    @router.post("/api/embedding", openapi_extra={"requestBody": _IMAGE_BODY})
    def embed_image(sent: Annotated[bytes, Depends(_body)], index: IndexName = None) -> Embedding:
        """The embedding of an image, to search by: its bytes are the body."""
        collection = collection_of(collections, index)
        with metrics.seconds("embed image"):
            vector = collection.encoder.image(picture_of(sent, options))
        return Embedding(embedding=vector.tolist(), index=collection.name)

    @router.get("/api/samples/{uid}")
    def one_sample(uid: UidInPath, index: IndexName = None) -> Shown:
        """What is known of one sample."""
        collection = collection_of(collections, index)
        row = collection.rows.by_uid(uid)
        if row is None:
            raise HTTPException(404, f"version {collection.version.number} has no sample {uid}")
        return Shown.of(collection, row)

    @router.get("/images/{uid}", response_class=Response, responses={200: {"content": {"image/jpeg": {}}}})
    def image(uid: UidInPath, index: IndexName = None) -> Response:
        """A stored image."""
        collection = collection_of(collections, index)
        row = collection.rows.by_uid(uid)
        if row is None:
            raise HTTPException(404, f"version {collection.version.number} has no sample {uid}")
        try:
            with metrics.seconds("read image"):
                data, kind = collection.images.read(uid, row["shard"], row["shard_row"])
        except DataError as error:  # the version was withdrawn meanwhile, or a shard is damaged: the log says which
            metrics.log.error("image of %s: %s", uid, error)
            raise HTTPException(404, "the stored image cannot be read") from error
        except TransientError as error:
            raise HTTPException(503, "the store does not answer: try again") from error
        return Response(data, media_type=kind, headers={"Cache-Control": _KEPT})

    def answer(query: Query) -> Answer:
        collection = collection_of(collections, query.index)
        found = found_of(collection, query, metrics, (query.page - 1) * query.page_size, query.page_size)
        return Answer.of(collection, found, query.page, query.page_size)

    return router


async def _body(request: Request) -> bytes:
    return await request.body()


def _index(collection: Collection) -> Index:
    record = collection.index.record
    return Index(
        name=collection.name,
        version=collection.version.number,
        samples=record.count,
        recall=record.recall,
        clip_model=record.clip_model,
        dim=record.dim,
    )


_IMAGE_BODY = {
    "required": True,
    "content": {
        kind: {"schema": {"type": "string", "format": "binary"}}
        for kind in ("image/jpeg", "image/png", "image/webp", "image/gif")
    },
}
