"""From what a request says to what it means: the index that it names, what its query finds, the picture that it sends.

In: a request's fields. Out: what was asked for, or HTTPException with a reason that says what to do. What does not belong here:
routes.
"""

from __future__ import annotations

from typing import Any

from fastapi import HTTPException
from PIL import Image

from wat2mds.serve.answers import Problem
from wat2mds.serve.collection import Collection, Collections
from wat2mds.serve.metrics import Metrics
from wat2mds.serve.options import Options
from wat2mds.serve.pictures import BadPicture, decode_picture
from wat2mds.serve.queries import BadQuery, Found, Query, search, vector_of

# What any request may be answered, for the OpenAPI description.
BAD: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem} for status in (400, 403, 404, 408, 413, 415, 421, 422, 429, 503)
}


def collection_of(collections: Collections, index: str | None) -> Collection:
    """Raises HTTPException 404 for an index that is not served."""
    try:
        return collections.get(index)
    except KeyError as error:
        raise HTTPException(404, f"there is no such index; there are: {', '.join(collections.names)}") from error


def found_of(collection: Collection, query: Query, metrics: Metrics, offset: int, limit: int, facets: bool = True) -> Found:
    """What a query finds. Raises HTTPException for one that cannot be looked for."""
    try:
        with metrics.seconds("embed text"):
            vector = vector_of(collection, query)
    except KeyError as error:
        raise HTTPException(404, f"version {collection.version.number} has no sample {query.uid}") from error
    except BadQuery as error:
        raise HTTPException(400, str(error)) from error
    with metrics.seconds("search"):
        return search(collection, query, vector, offset=offset, limit=limit, facets=facets)


def picture_of(data: bytes, options: Options) -> Image.Image:
    """Raises HTTPException for what is no image, or too large a one."""
    try:
        return decode_picture(data, options.max_pixels)
    except BadPicture as error:
        raise HTTPException(413 if error.too_large else 400, str(error)) from error
