"""Reports and manifests in Airflow's web UI: the pages of the store's ``reports/``, and the links from tasks to theirs.

In: the deployment's store, ``WAT2MDS_ROOT``. Out: ``/wat2mds/reports/<dataset>/<page>.html`` and
``/wat2mds/manifests/<dataset>/…/<digest>.json``, for who is signed in. Guaranteed: nothing but a dataset's pages and manifests is served,
whatever the path says; the application is made on its first request, since what it imports costs two seconds that only the api-server has
to spend. A store on S3 is read with the api-server's own AWS_ variables or role.
What does not belong here: what the pages say (``wat2mds.quality``).
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow.configuration import conf
from airflow.sdk import BaseOperatorLink

from wat2mds.errors import Wat2MdsError
from wat2mds.plan import key_of, manifest_url
from wat2mds.settings import FIRST_STAGES, STAGES, deployment
from wat2mds.store import Layout, Store, join, split
from wat2mds_dashboard import PREFIX, add_routes

if TYPE_CHECKING:
    from airflow.models.taskinstancekey import TaskInstanceKey
    from airflow.sdk import BaseOperator
    from fastapi import FastAPI

_DATASET = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_PAGE = re.compile(r"(quality/)?[A-Za-z0-9_-][A-Za-z0-9._-]{0,250}\.html")
_MANIFEST = re.compile(r"[A-Za-z0-9_-]+/\d+(\.\d+)?/\d{5}(-r\d+)?/[a-z]+/[0-9a-f]{12}\.json")
# A page is one file: whatever it holds, it loads nothing and runs nothing.
_HEADERS = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'", "X-Content-Type-Options": "nosniff"}


class QualityReport(BaseOperatorLink):
    """The button on a validate task; there once the task has ended, however it ended."""

    name = "Quality report"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        unit = operator.units  # type: ignore[attr-defined]
        page = Layout.quality_path(key_of(manifest_url(unit, "validate")), unit["digests"]["validate"], "html")
        return _address("reports", unit["dataset"], page)


class RunReport(BaseOperatorLink):
    """The button on a report task: the quality of the run's WAT files."""

    name = "Run report"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        unit = operator.units[0]  # type: ignore[attr-defined]
        return _address("reports", unit["dataset"], f"{unit['batch']}.html")


class ManifestLink(BaseOperatorLink):
    """The button on a task of one WAT file: what its stage read, made and dropped; there once the stage is complete."""

    name = "Manifest"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        unit, stage = operator.units, operator.stage  # type: ignore[attr-defined]
        return _address("manifests", unit["dataset"], "/".join(manifest_url(unit, stage).rsplit("/", 5)[1:]))


def links_of(stage: str) -> tuple[BaseOperatorLink, ...]:
    """The buttons of a stage's tasks."""
    if stage == "report":
        return (RunReport(),)
    of_one_file = stage in {*FIRST_STAGES, *STAGES} - {"dedup"}
    return (*([ManifestLink()] if of_one_file else []), *([QualityReport()] if stage == "validate" else []))


def run_address(dag_id: str, run_id: str) -> str:
    """Where a run is looked at in Airflow's UI."""
    return f"{_base()}/dags/{dag_id}/runs/{quote(run_id)}"


def _address(kind: str, dataset_url: str, path: str) -> str:
    return f"{_base()}{PREFIX}/{kind}/{split(dataset_url)[1]}/{quote(path)}"


def _base() -> str:
    return str(conf.get("api", "base_url", fallback="")).rstrip("/")


def read_manifest_of(root: str, dataset: str, path: str) -> bytes | None:
    """None for whatever is no manifest of a dataset's WAT file."""
    if not (root and _DATASET.fullmatch(dataset) and _MANIFEST.fullmatch(path)):
        return None
    try:
        return Store(join(Layout(root, dataset).dataset, "work")).read(path)
    except FileNotFoundError:
        return None


class ReportPages:
    """An ASGI application that is made when it is first asked."""

    async def __call__(self, scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]) -> None:
        await _application()(scope, receive, send)


def read_page(root: str, dataset: str, page: str) -> bytes | None:
    """None for whatever is no page of a dataset's reports."""
    if not (root and _DATASET.fullmatch(dataset) and _PAGE.fullmatch(page)):
        return None
    try:
        return Store(Layout(root, dataset).reports).read(page)
    except FileNotFoundError:
        return None


@cache
def _application() -> FastAPI:
    from airflow.api_fastapi.core_api.security import get_user
    from fastapi import Depends, FastAPI, HTTPException, Request
    from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

    app = FastAPI(title="wat2mds reports", docs_url=None, redoc_url=None, openapi_url=None, dependencies=[Depends(get_user)])

    def refuse(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if error.status_code == 401 and "text/html" in request.headers.get("accept", ""):
            return RedirectResponse(f"/api/v2/auth/login?next={quote(str(request.url), safe='')}")
        return JSONResponse({"detail": error.detail}, status_code=error.status_code)

    app.add_exception_handler(HTTPException, refuse)

    def found(read: Callable[[str, str, str], bytes | None], dataset: str, path: str, otherwise: str) -> bytes:
        try:
            content = read(deployment().root, dataset, path)
        except Wat2MdsError as error:
            raise HTTPException(502, f"the store does not answer: {error}") from error
        if content is None:
            raise HTTPException(404, otherwise)
        return content

    def show(dataset: str, page: str) -> HTMLResponse:
        content = found(read_page, dataset, page, "there is no such report; it appears when its task has ended")
        return HTMLResponse(content, headers=_HEADERS)

    def show_manifest(dataset: str, path: str) -> Response:
        content = found(read_manifest_of, dataset, path, "there is no such manifest; it appears when the stage is complete")
        return Response(content, media_type="application/json", headers=_HEADERS)

    add_routes(app)
    app.add_api_route("/reports/{dataset}/{page:path}", show, response_class=HTMLResponse)
    app.add_api_route("/manifests/{dataset}/{path:path}", show_manifest, response_class=Response)
    return app
