"""The search service's app.

In: collections and options. Out: a FastAPI app, with its OpenAPI description at ``/openapi.json``. Guaranteed: an answer to a wrong
request does not repeat what was sent. What does not belong here: the process that serves it (``cli/serve.py``).
"""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel

from wat2mds import __version__
from wat2mds.serve.api import api_router
from wat2mds.serve.changes import changes_router
from wat2mds.serve.collection import Collections
from wat2mds.serve.guard import Guard
from wat2mds.serve.metrics import Metrics, metrics_router
from wat2mds.serve.options import Options
from wat2mds.serve.peer import peer_router

PAGE = Path(__file__).parent / "page"


class Health(BaseModel):
    status: str
    version: int
    samples: int


def create_app(collections: Collections, options: Options) -> FastAPI:
    """The whole service. Its documentation pages are left out: they load scripts from elsewhere."""
    metrics = Metrics(collections)
    app = FastAPI(title="wat2mds search", version=__version__, docs_url=None, redoc_url=None)
    for router in (
        api_router(collections, options, metrics),
        changes_router(collections, options, metrics),
        peer_router(collections, options, metrics),
        metrics_router(metrics),
    ):
        app.include_router(router)

    @app.get("/health")
    def health() -> Health:
        """Whether the service can answer."""
        collection = collections.default
        return Health(status="ok", version=collection.version.number, samples=collection.rows.count)

    @app.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(PAGE / "index.html", headers={"Cache-Control": "no-cache"})

    app.mount("/page", StaticFiles(directory=PAGE), name="page")
    app.add_exception_handler(RequestValidationError, _not_understood)
    app.add_middleware(Guard, options=options, metrics=metrics)
    return app


async def _not_understood(request: Request, error: Exception) -> JSONResponse:
    """FastAPI's own says what was sent, which may be NaN, and then fails."""
    assert isinstance(error, RequestValidationError)
    problems = [{"where": [str(part) for part in p["loc"]], "problem": p["msg"]} for p in error.errors()]
    return JSONResponse({"detail": problems}, 422)
