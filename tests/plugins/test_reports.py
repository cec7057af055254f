"""The report pages: what is served, to whom, and the link that leads there."""

from __future__ import annotations

from pathlib import Path

import pytest

import wat2mds_reports
from wat2mds.quality import store_report
from wat2mds.store import Layout, Store
from wat2mds_operator import StageOperator
from wat2mds_reports import QualityReport, read_manifest_of, read_page

UNIT = {
    "snapshot": "CC-MAIN-2023-50",
    "segment": "1.67",
    "wat_file": "00017",
    "digests": {"validate": "0123456789ab"},
}


@pytest.fixture
def root(tmp_path: Path) -> str:
    return (tmp_path / "store").as_uri()


def test_the_link_leads_to_the_page_that_validate_stores(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "http://airflow.example:8080/")
    layout = Layout(root, "demo")
    unit = UNIT | {"dataset": layout.dataset, "work": layout.work("CC-MAIN-2023-50", "1.67", "00017")}
    operator = StageOperator(task_id="validate", stage="validate", units=unit)
    _, link = operator.operator_extra_links
    found = link.get_link(operator, ti_key=None)
    store_report(layout.dataset, "CC-MAIN-2023-50.1.67.00017", "0123456789ab", b"{}", b"<p>page</p>")
    prefix = "http://airflow.example:8080/wat2mds/reports/demo/"
    assert found.startswith(prefix)
    assert read_page(root, "demo", found.removeprefix(prefix)) == b"<p>page</p>"
    assert isinstance(link, QualityReport)
    assert not StageOperator(task_id="publish", stage="publish", units=[unit]).operator_extra_links


def test_every_task_of_a_wat_file_leads_to_its_manifest_and_report_to_the_runs(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "")
    layout = Layout(root, "demo")
    digests = {"convert": "0123456789ab"}
    work = layout.work("CC-MAIN-2023-50", "1.67", "00017")
    unit = UNIT | {"dataset": layout.dataset, "work": work, "digests": digests, "batch": "CC-MAIN-2023-50.1.67.b00"}
    Store(work).write("convert/0123456789ab.json", b"{}")
    Store(work).write("convert/0123456789ab.ab/secret.json", b"{}")
    operator = StageOperator(task_id="convert", stage="convert", units=unit)
    (link,) = operator.operator_extra_links
    path = link.get_link(operator, ti_key=None).removeprefix("/wat2mds/manifests/demo/")
    assert read_manifest_of(root, "demo", path) == b"{}"
    assert read_manifest_of(root, "demo", path.replace("convert", "upload")) is None
    for wrong in (path.replace(".json", ".ab/secret.json"), f"../work/{path}", "settings/0123456789ab.json", ""):
        assert read_manifest_of(root, "demo", wrong) is None
    report = StageOperator(task_id="report", stage="report", units=[unit])
    (link,) = report.operator_extra_links
    assert link.get_link(report, ti_key=None) == "/wat2mds/reports/demo/CC-MAIN-2023-50.1.67.b00.html"


@pytest.mark.parametrize(
    "page",
    [
        "../secret.html",
        "quality/../../secret.html",
        "quality/x.json",
        "/etc/passwd",
        "other/x.html",
        ".html",
        "quality/..html",
        "",
    ],
)
def test_nothing_but_pages_is_served(root: str, tmp_path: Path, page: str) -> None:
    store_report(Layout(root, "demo").dataset, "x", "y", b"{}", b"page")
    (tmp_path / "store" / "datasets" / "demo" / "secret.html").write_text("secret")
    assert read_page(root, "demo", page) is None
    assert read_page(root, "..", "quality/x.y.html") is None
    assert read_page("", "demo", "quality/x.y.html") is None


def test_pages_are_for_those_who_are_signed_in(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.api_fastapi.core_api.security import get_user
    from starlette.testclient import TestClient

    monkeypatch.setenv("WAT2MDS_ROOT", root)
    store_report(Layout(root, "demo").dataset, "x", "y", b"{}", b"<p>page</p>")
    app = wat2mds_reports._application()
    client = TestClient(app, follow_redirects=False)
    where = "/reports/demo/quality/x.y.html"
    assert client.get(where).status_code == 401
    sent = client.get(where, headers={"accept": "text/html"})
    assert sent.status_code == 307
    assert sent.headers["location"].startswith("/api/v2/auth/login?next=")
    app.dependency_overrides[get_user] = lambda: "somebody"
    try:
        shown = client.get(where)
        assert (shown.status_code, shown.content) == (200, b"<p>page</p>")
        assert shown.headers["content-security-policy"].startswith("default-src 'none'")
        assert client.get("/reports/demo/quality/z.y.html").status_code == 404
        assert client.get("/reports/demo/%2e%2e/%2e%2e/secret.html").status_code == 404
    finally:
        app.dependency_overrides.clear()
