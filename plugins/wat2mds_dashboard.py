"""The dashboard in Airflow's web UI: its entry in the navigation, its routes, and the way from a version to its run.

In: the deployment's store, ``WAT2MDS_ROOT``; Airflow's own records of asset events. Out: ``/wat2mds/dashboard/…``, part of the
application of ``wat2mds_reports``, behind its authentication. Guaranteed: what is not a dataset's name or a version's number is looked
for nowhere; a store that does not answer is a page that says so; what the pages import is loaded with the first of them, by the api-server
alone. What does not belong here: what the pages say, and what they read (``wat2mds.dashboard``).
"""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from airflow.configuration import conf

from wat2mds.errors import ConfigError, Wat2MdsError
from wat2mds.settings import deployment

if TYPE_CHECKING:
    from fastapi import FastAPI, Request, Response

PREFIX = "/wat2mds"
# How long after a version its publish task may have ended, which is when Airflow records the event.
_LATE = timedelta(days=1)
_MOST_EVENTS = 1_000


def airflow_path() -> str:
    """Where Airflow lies on its host: empty, or a path that a proxy put before it."""
    return urlsplit(conf.get("api", "base_url", fallback="")).path.rstrip("/")


VIEW = {
    "name": "Datasets",
    "href": f"{airflow_path()}{PREFIX}/dashboard/",
    "destination": "nav",
    "url_route": "wat2mds",
    "nav_top_level": True,
}


def find_run(dataset_url: str, number: int, published_at: datetime) -> tuple[str, str] | None:
    """DAG and run that published a version; None where Airflow's records do not say: published by hand, or cleaned."""
    from airflow.models.asset import AssetEvent, AssetModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    from wat2mds_group import PUBLISHED

    asked = (
        select(AssetEvent.source_dag_id, AssetEvent.source_run_id, AssetEvent.extra)
        .join(AssetModel, AssetModel.id == AssetEvent.asset_id)
        .where(AssetModel.name == PUBLISHED.name)
        .where(AssetEvent.timestamp >= published_at - timedelta(minutes=5), AssetEvent.timestamp <= published_at + _LATE)
        .order_by(AssetEvent.timestamp)
        .limit(_MOST_EVENTS)
    )
    with create_session() as session:
        for dag_id, run_id, extra in session.execute(asked):
            if (extra or {}).get("version") == number and extra.get("dataset") == dataset_url and dag_id and run_id:
                return dag_id, run_id
    return None


def add_routes(app: FastAPI) -> None:
    """The dashboard's routes; whoever asks is signed in, as the application demands."""
    from fastapi.responses import HTMLResponse, RedirectResponse, Response

    from wat2mds.dashboard import gallery, pages, reading
    from wat2mds.dashboard.sections import Addresses
    from wat2mds.dashboard.style import POLICY

    headers = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}

    def addresses() -> Addresses:
        return Addresses(airflow_path(), f"{airflow_path()}{PREFIX}", deployment().search_url)

    def page(text: str, status: int = 200) -> HTMLResponse:
        return HTMLResponse(text.encode("utf-8", "replace"), status, headers)

    def absent(what: str) -> HTMLResponse:
        return page(pages.notice("Not found", what, Addresses(airflow_path(), f"{airflow_path()}{PREFIX}")), 404)

    def failed(request: Request, error: Exception) -> Response:
        status = 500 if isinstance(error, ConfigError) else 502
        at = Addresses(airflow_path(), f"{airflow_path()}{PREFIX}")
        return page(pages.notice("The store cannot be read", str(error), at), status)

    app.add_exception_handler(Wat2MdsError, failed)

    def store() -> str:
        root = deployment().root
        if not root:
            raise ConfigError("no store is named: set WAT2MDS_ROOT of the api-server to file:///a/folder or s3://bucket/prefix")
        reading.require_store(root)
        return root

    def named(dataset: str) -> str:
        """The store's root, or empty for what is no dataset's name."""
        return store() if reading.is_name(dataset) else ""

    def show_start() -> HTMLResponse:
        root = store()
        return page(pages.start(root, reading.list_datasets(root), addresses()))

    def show_dataset(dataset: str) -> HTMLResponse:
        root = named(dataset)
        found = reading.read_dataset(root, dataset) if root else None
        return page(pages.dataset(found, addresses())) if found else absent("Nothing is published under this name.")

    def show_versions(dataset: str, before: int | None = None) -> HTMLResponse:
        root = named(dataset)
        found = reading.read_dataset(root, dataset) if root else None
        if found is None:
            return absent("Nothing is published under this name.")
        shown, older, newer = pages.page_of_rows(found.summary.history, before)
        withdrawn = reading.withdrawn_among(found.url, [row.number for row in shown])
        return page(pages.versions(found, shown, withdrawn, older, newer, addresses()))

    def show_version(dataset: str, number: int) -> HTMLResponse:
        root = named(dataset)
        view = reading.read_version_view(root, dataset, number) if root else None
        return page(pages.version(view, addresses())) if view else absent("There is no version of this number.")

    def show_card(dataset: str, number: int) -> HTMLResponse:
        root = named(dataset)
        card = reading.read_card(root, dataset, number) if root else None
        if card is None:
            return absent("There is no card: the version is withdrawn, or `wat2mds derive` has yet to make it.")
        # A card is one file, with its own policy in it.
        return HTMLResponse(card, headers={"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"})

    def show_gallery(dataset: str, number: int, seed: int = 0) -> HTMLResponse:
        root = named(dataset)
        view = reading.read_version_view(root, dataset, number) if root else None
        if view is None:
            return absent("There is no version of this number.")
        if view.withdrawal is not None:
            return page(pages.version(view, addresses()), 404)
        samples = gallery.draw_samples(reading.dataset_url(root, dataset), number, seed)
        return page(pages.gallery(dataset, number, view.newest, samples, seed, addresses()))

    def show_image(dataset: str, number: int, unit: str, shard: str, row: int) -> Response:
        found = None
        if reading.is_name(dataset) and (root := deployment().root):
            found = gallery.read_image(reading.dataset_url(root, dataset), number, unit, shard, row)
        if found is None:
            return absent("There is no such image.")
        image, kind = found
        return Response(image, media_type=kind, headers={**headers, "Content-Security-Policy": "default-src 'none'"})

    def to_run(dataset: str, number: int) -> Response:
        root = named(dataset)
        view = reading.read_version_view(root, dataset, number) if root else None
        if view is None or view.summary is None:
            return absent("There is no version of this number that stands.")
        found = find_run(reading.dataset_url(root, dataset), number, datetime.fromisoformat(view.summary.published_at))
        if found is None:
            return absent(f"Airflow's records name no run that published version {number}: by hand, or the records were cleaned.")
        return RedirectResponse(f"{airflow_path()}/dags/{quote(found[0])}/runs/{quote(found[1], safe='')}", 302)

    def script() -> Response:
        content = Path(pages.__file__).with_name("page.js").read_bytes()
        return Response(content, media_type="text/javascript", headers={"X-Content-Type-Options": "nosniff"})

    one = "/dashboard/{dataset}/versions/{number:int}"
    for path, route in {
        "/dashboard/": show_start,
        "/dashboard/page.js": script,
        "/dashboard/{dataset}": show_dataset,
        "/dashboard/{dataset}/versions": show_versions,
        one: show_version,
        f"{one}/card": show_card,
        f"{one}/gallery": show_gallery,
        f"{one}/images/{{unit}}/{{shard}}/{{row:int}}": show_image,
        f"{one}/run": to_run,
    }.items():
        app.add_api_route(path, route, response_class=Response)
