"""validate's report in Airflow's web UI: the pages of the store's ``reports/``, and the link from a task to its own.

In: the deployment's store, ``WAT2MDS_ROOT``. Out: ``/wat2mds/reports/<dataset>/<page>.html``, for signed-in users only. Guaranteed: nothing
but a dataset's pages is served, whatever the path says; the application is made on its first request, since what it imports costs
two seconds that only the api-server has to spend. A store on S3 is read with the api-server's own AWS_ variables or role.
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
from wat2mds.settings import deployment
from wat2mds.store import Layout, Store, split

if TYPE_CHECKING:
    from airflow.models.taskinstancekey import TaskInstanceKey
    from airflow.sdk import BaseOperator
    from fastapi import FastAPI

PREFIX = "/wat2mds"
_DATASET = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_PAGE = re.compile(r"(quality/)?[A-Za-z0-9_-][A-Za-z0-9._-]{0,250}\.html")
# A page is one file: whatever it holds, it loads nothing and runs nothing.
_HEADERS = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'", "X-Content-Type-Options": "nosniff"}


class QualityReport(BaseOperatorLink):
    """The button on a validate task; there once the task has ended, however it ended."""

    name = "Quality report"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        unit = operator.units  # type: ignore[attr-defined]
        page = Layout.quality_path(key_of(manifest_url(unit, "validate")), unit["digests"]["validate"], "html")
        base = conf.get("api", "base_url", fallback="").rstrip("/")
        return f"{base}{PREFIX}/reports/{split(unit['dataset'])[1]}/{quote(page)}"


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

    def show(dataset: str, page: str) -> HTMLResponse:
        try:
            content = read_page(deployment().root, dataset, page)
        except Wat2MdsError as error:
            raise HTTPException(502, f"the store does not answer: {error}") from error
        if content is None:
            raise HTTPException(404, "there is no such report; it appears when validate has ended")
        return HTMLResponse(content, headers=_HEADERS)

    app.add_api_route("/reports/{dataset}/{page:path}", show, response_class=HTMLResponse)
    return app
