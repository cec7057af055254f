"""The dashboard's routes, and its pages in a real browser: for whoever is signed in, fast with a thousand versions, legible on a phone."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI
from playwright.sync_api import Page, expect
from starlette.routing import Route
from starlette.testclient import TestClient

import wat2mds_reports
from tests.browser import chromium, keep_screenshot, open_page
from tests.wat2mds.dashboard.datasets import grow, small
from wat2mds.store import Layout, Store
from wat2mds.versions import withdraw

VERSIONS = 1_000
UNIT = "CC-MAIN-2023-50.1700679099281.67.00000"
PICTURES = (
    *("Versions over time", "Funnel by batch", "From links to published samples", "Drop reasons", "Download success"),
    *("Failures by reason", "Hosts asked most", "Throughput by stage", "CLIP similarity", "Image sizes", "Languages"),
    *("WAT files by result", "Store size", "Disk", "CPU seconds by stage", "Failed downloads to ask for again"),
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store with a small dataset and one of a thousand versions."""
    root = (tmp_path_factory.mktemp("dashboard") / "store").as_uri()
    small(root)
    grow(small(root, "thousand"), VERSIONS)
    return root


@pytest.fixture
def store(root: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("WAT2MDS_ROOT", root)
    return root


def signed_in(app: FastAPI) -> Any:
    from airflow.api_fastapi.core_api.security import get_user

    @contextmanager
    def inside() -> Iterator[None]:
        app.dependency_overrides[get_user] = lambda: "somebody"
        try:
            yield
        finally:
            app.dependency_overrides.clear()

    return inside()


def routes(app: FastAPI) -> list[str]:
    return [route.path for route in app.routes if isinstance(route, Route)]


def address(route: str) -> str:
    """An address that the route answers to whoever is signed in."""
    given = {"{dataset}": "small", "{number:int}": "3", "{unit}": UNIT, "{shard}": "shard.00000.mds", "{row:int}": "0"}
    for name, value in given.items():
        route = route.replace(name, value)
    return route


def test_a_stranger_is_refused_on_every_route(store: str) -> None:
    app = wat2mds_reports._application()
    client = TestClient(app, follow_redirects=False)
    found = routes(app)
    assert len([path for path in found if path.startswith("/dashboard/")]) >= 9
    for path in found:
        for method in ("GET", "HEAD", "POST"):
            answer = client.request(method, address(path))
            assert answer.status_code in (401, 405), f"{method} {path} answers a stranger: {answer.status_code}"
        sent = client.get(address(path), headers={"accept": "text/html"})
        assert sent.status_code == 307, path
        assert sent.headers["location"].startswith("/api/v2/auth/login?next="), path
    with signed_in(app):
        for path in [p for p in found if p.startswith("/dashboard/") and not p.endswith("/run")]:
            answer = client.get(address(path))
            assert answer.status_code == 200, f"{path}: {answer.text[:300]}"
            assert answer.headers["x-content-type-options"] == "nosniff", path
            if path != "/dashboard/page.js":
                assert answer.headers["cache-control"] == "no-store", path
        page = client.get("/dashboard/small")
        assert page.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self';")


@pytest.mark.parametrize(
    "path",
    [
        *(
            "/dashboard/nothing",
            "/dashboard/..",
            "/dashboard/%2e%2e",
            "/dashboard/%2e%2e%2fsmall",
            "/dashboard/small/versions/99",
        ),
        *("/dashboard/%2e%2e/versions", "/dashboard/..%2fsmall/versions/1/card", "/dashboard/small/versions/99/gallery"),
        f"/dashboard/small/versions/3/images/{UNIT}/..%2f..%2fversion.json/0",
        "/dashboard/small/versions/3/images/..%2f../shard.00000.mds/0",
    ],
)
def test_what_is_not_there_is_not_found(store: str, path: str) -> None:
    app = wat2mds_reports._application()
    with signed_in(app):
        answer = TestClient(app, follow_redirects=False).get(path)
        assert answer.status_code == 404
        assert "Traceback" not in answer.text


def test_a_withdrawn_version_is_no_longer_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WAT2MDS_ROOT", tmp_path.as_uri())
    url = small(tmp_path.as_uri())
    app = wat2mds_reports._application()
    image = f"/dashboard/small/versions/1/images/{UNIT}/shard.00000.mds/0"
    with signed_in(app):
        client = TestClient(app, follow_redirects=False)
        assert client.get(image).status_code == 200
        withdraw(url, [1], "removal")
        assert client.get(image).status_code == 404
        for part in ("/card", "/gallery", "/run"):
            assert client.get(f"/dashboard/small/versions/1{part}").status_code == 404
        assert "Withdrawn on" in client.get("/dashboard/small/versions/1").text
        assert '<span class="warn">withdrawn</span>' in client.get("/dashboard/small/versions").text


def test_a_store_that_cannot_be_read_is_a_page_that_says_so(
    s3_root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = wat2mds_reports._application()
    with signed_in(app):
        client = TestClient(app)
        monkeypatch.delenv("WAT2MDS_ROOT", raising=False)
        unset = client.get("/dashboard/")
        assert unset.status_code == 500
        assert "set WAT2MDS_ROOT" in unset.text
        monkeypatch.setenv("WAT2MDS_ROOT", s3_root)
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        for path in ("/dashboard/", "/dashboard/small", "/dashboard/small/versions/1/gallery"):
            down = client.get(path)
            assert down.status_code == 502, path
            assert "The store cannot be read" in down.text
            assert "Traceback" not in down.text
        monkeypatch.setenv("WAT2MDS_ROOT", tmp_path.as_uri())
        Store(Layout(tmp_path.as_uri(), "broken").dataset).write("versions/000001/version.json", b"[]")
        broken = client.get("/dashboard/broken")
        assert broken.status_code == 502
        assert "is not a version record" in broken.text


@contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """Mounted as Airflow mounts it: its address."""
    outer = FastAPI()
    outer.mount("/wat2mds", app)
    server = uvicorn.Server(uvicorn.Config(outer, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/wat2mds/dashboard/"
    server.should_exit = True
    thread.join()


def opened(page: Page) -> float:
    """Seconds from the beginning of the navigation until the page was drawn, by the browser's own clock."""
    page.wait_for_load_state("load")
    milliseconds = page.evaluate(
        """() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now()))))"""
    )
    return float(milliseconds) / 1000


def test_the_pages_in_a_browser(store: str) -> None:
    """Among them the issue's own figure: a dataset with a thousand versions opens in under two seconds."""
    app = wat2mds_reports._application()
    with signed_in(app), served(app) as url, chromium() as browser:
        for width, theme in ((1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")):
            page = open_page(browser, width, 900, color_scheme=theme)
            elsewhere: list[str] = []
            page.on("request", lambda request, to=elsewhere: to.append(request.url))
            errors: list[str] = []
            page.on("pageerror", lambda error, to=errors: to.append(str(error)))
            for name, path in {
                "start": "",
                "dataset": "small",
                "thousand": "thousand",
                "versions": "thousand/versions",
                "version": "small/versions/3",
                "gallery": "small/versions/3/gallery",
            }.items():
                page.goto(url + path)
                wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
                assert wide <= 0, f"{name} at {width} pixels is {wide} pixels too wide"
                if name == "gallery":
                    for image in page.locator(".sheet figure > img").all():
                        image.scroll_into_view_if_needed()
                        expect(image).to_have_js_property("complete", True)
                        assert image.evaluate("image => image.naturalWidth") > 0
                    assert page.title() == "small: samples", "a caption's script ran"
                    assert page.locator("details img").count() == page.locator("details").count()
                keep_screenshot(page, f"dashboard-{name}-{width}-{theme}")
            paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (paper == "rgb(255, 255, 255)") == (theme == "light")
            assert not errors
            assert not [asked for asked in elsewhere if not asked.startswith(url)], "another host was asked"

        page = open_page(browser)
        page.goto(url)  # what is loaded with the first page is loaded once for all
        times = []
        for _ in range(5):  # the quickest: other work on the machine only delays
            page.goto(url + "thousand")
            times.append(opened(page))
        taken = min(times)
        for picture in PICTURES:
            expect(page.get_by_role("img", name=picture, exact=True)).to_be_visible()
        assert taken < 2, f"a dataset of {VERSIONS} versions opened in {taken:.2f} s"

        page.get_by_role("navigation", name="Dashboard").get_by_role("link", name="Versions").click()
        expect(page.get_by_role("row")).to_have_count(21)
        page.get_by_role("link", name="Older").click()
        expect(page.get_by_role("link", name="980", exact=True)).to_be_visible()
        page.get_by_role("link", name="980", exact=True).press("Enter")
        expect(page.get_by_role("heading", name="thousand, version 980")).to_be_visible()
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="To the content")).to_be_focused()

        page.goto(url + "small/versions/3/gallery")
        first = page.locator("figure").first.get_attribute("id")
        page.get_by_role("link", name="Draw others").click()
        expect(page.locator("figure").first).not_to_have_id(str(first))
