"""What wants the token: a result saved as a subset, an image reported.

In: requests with ``Authorization: Bearer TOKEN``. Out: a subset (``subsets/``); a report, ``reports/takedown/<uid>-<reason>.json``
in the dataset's folder, which who decides on takedowns reads. Guaranteed: nothing that is there is changed or removed; a report
holds the uid, the reason, the version and the time, and nothing of the sample's content or of the person; the same report twice is
one. What does not belong here: taking down.
"""

from __future__ import annotations

import hmac
import json
import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, HTTPException
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, ConfigDict, Field

from wat2mds import subsets
from wat2mds.errors import ConfigError, TransientError
from wat2mds.serve.answers import Problem
from wat2mds.serve.asked import BAD, collection_of, found_of
from wat2mds.serve.collection import Collection, Collections
from wat2mds.serve.filters import Uid, uids_predicate
from wat2mds.serve.metrics import Metrics
from wat2mds.serve.options import Options
from wat2mds.serve.queries import VectorQuery
from wat2mds.store import Store
from wat2mds.subsets import Definition

MOST_SAVED = 1_000
REASONS = {
    "person": "shows me, or somebody who has not agreed",
    "rights": "is mine, or somebody's who has not agreed",
    "illegal": "may be against the law",
    "unsafe": "is unsafe, and not marked so",
    "other": "should go for another reason",
}
Reason = Literal["person", "rights", "illegal", "unsafe", "other"]
_FORMAT = 1
_bearer = HTTPBearer(auto_error=False, description="the token that the service was started with")


class SubsetWish(BaseModel):
    """A result to keep: of a search its nearest samples, else all samples for which the conditions hold."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$", description="lower case letters, digits, - and _")
    query: VectorQuery = Field(VectorQuery(), description="its page and page_size are not looked at")
    count: int = Field(MOST_SAVED, ge=1, le=MOST_SAVED, description="of a search: at most so many samples, the nearest")


class Saved(BaseModel):
    name: str
    version: int
    samples: int
    folder: str = Field(description="from the dataset's folder")


class ReportWish(BaseModel):
    model_config = ConfigDict(extra="forbid")

    uid: Uid
    reason: Reason
    index: str | None = Field(None, max_length=64)


class Reported(BaseModel):
    report: str = Field(description="from the dataset's folder")
    new: bool = Field(description="whether it had not been reported for this reason before")


def changes_router(collections: Collections, options: Options, metrics: Metrics) -> APIRouter:
    def holder(given: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]) -> None:
        if not options.token:
            raise HTTPException(403, "this service takes no changes: it was started without a token")
        if given is None or not hmac.compare_digest(given.credentials.encode(), options.token.encode()):
            raise HTTPException(401, "this wants the service's token", headers={"WWW-Authenticate": "Bearer"})

    refused: dict[int | str, dict[str, Any]] = {401: {"model": Problem}, 409: {"model": Problem}}
    router = APIRouter(responses=BAD | refused, dependencies=[Depends(holder)])

    @router.post("/api/subsets", status_code=201)
    def save_subset(wish: SubsetWish) -> Saved:
        """Save a result as a subset of the version that was searched."""
        collection = collection_of(collections, wish.query.index)
        searched = bool(wish.query.text or wish.query.uid or wish.query.embedding)
        if searched:
            found = found_of(collection, wish.query, metrics, 0, wish.count, facets=False)
            where = uids_predicate(sorted(sample.row["uid"] for sample in found.samples))
        else:
            where = wish.query.condition().predicate()
        try:
            built = subsets.build(
                collections.dataset_url, wish.name, Definition(where, source=_source(wish, collection)), collection.version.number
            )
        except ConfigError as error:
            raise HTTPException(409, str(error)) from error
        except TransientError as error:
            raise HTTPException(503, "the store does not answer: try again") from error
        return Saved(
            name=built.name, version=built.version, samples=built.samples, folder=f"subsets/{built.name}/{built.version:06d}"
        )

    @router.post("/api/reports", status_code=201)
    def report_image(wish: ReportWish) -> Reported:
        """Report an image: somebody will decide whether it is taken down."""
        collection = collection_of(collections, wish.index)
        if collection.rows.by_uid(wish.uid) is None:
            raise HTTPException(404, f"version {collection.version.number} has no sample {wish.uid}")
        path = f"reports/takedown/{wish.uid}-{wish.reason}.json"
        content = {
            "uid": wish.uid,
            "reason": wish.reason,
            "version": collection.version.number,
            "reported_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "format": _FORMAT,
        }
        try:
            new = Store(collections.dataset_url).create(path, json.dumps(content, indent=1, sort_keys=True).encode())
        except TransientError as error:
            raise HTTPException(503, "the store does not answer: try again") from error
        return Reported(report=path, new=new)

    return router


def _source(wish: SubsetWish, collection: Collection) -> str:
    """For the subset's card, in which no markup of a stranger's may stand."""
    if wish.query.text:
        words = " ".join(re.sub(r"[^\w ]+", " ", wish.query.text)[:100].split())
        what = f"the nearest to the words: {words}"
    elif wish.query.uid:
        what = f"the nearest to the sample {wish.query.uid}"
    elif wish.query.embedding:
        what = "the nearest to an image"
    else:
        what = "conditions set on the search page"
    return f"saved from a search of version {collection.version.number}, {what}"
