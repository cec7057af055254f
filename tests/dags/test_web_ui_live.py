"""Airflow's web UI as a data engineer uses it, in a real browser: log in, trigger with a changed field, watch it go green, read a mapped
task's log, open its quality report; the dashboard, from the navigation to a run."""

from __future__ import annotations

import re

import httpx
import pytest
from playwright.sync_api import Page, expect

import wat2mds_reports
from tests.browser import chromium, keep_screenshot, open_page
from tests.dags.live import DAG, Live
from tests.plugins.test_dashboard import PICTURES, address, routes
from wat2mds.deploy.launcher import USER
from wat2mds.derived.summaries import read_summary
from wat2mds.store import Store
from wat2mds.versions import read_version
from wat2mds_dashboard import PREFIX

pytestmark = [pytest.mark.live, pytest.mark.timeout(900)]
_PATIENCE_MS = 120_000
_RUN_MS = 600_000


def log_in(page: Page, live: Live) -> None:
    page.goto(live.airflow.url)
    page.fill("input[name=username]", USER)
    page.fill("input[name=password]", live.airflow.password)
    page.keyboard.press("Enter")
    expect(page.get_by_role("link", name="Dags").first).to_be_visible(timeout=_PATIENCE_MS)


def test_a_run_from_the_form_to_the_quality_report(live: Live) -> None:
    """Of a WAT file that other tests have built, when they ran before: then its tasks find their work done."""
    live.client.set_paused(DAG, False)
    with chromium() as browser:
        page = open_page(browser)
        log_in(page, live)
        page.goto(f"{live.airflow.url}/dags/{DAG}")
        page.get_by_role("button", name="Trigger").first.click()
        form = page.get_by_role("dialog")
        form.get_by_text("What to build").click()
        expect(form.get_by_text("The dataset's name in the store")).to_be_visible(timeout=_PATIENCE_MS)
        form.get_by_text("Limits").click()
        form.locator("input[name=element_allowed_failed_share]").fill("0.25")
        keep_screenshot(page, "airflow-form")
        form.get_by_role("button", name="Trigger").click()
        page.wait_for_url(re.compile("/runs/manual"))
        run_id = page.url.rpartition("/")[2]
        # The page follows the run by itself; its last task is the report.
        expect(page.get_by_role("row").filter(has_text="report").first).to_contain_text("Success", timeout=_RUN_MS)
        assert live.finish(run_id) == "success"
        row = page.get_by_role("row").filter(has_text="build_wat_file.validate")
        expect(row).to_contain_text("00000", timeout=_PATIENCE_MS)
        keep_screenshot(page, "airflow-run")
        assert live.client.run(DAG, run_id)["conf"]["allowed_failed_share"] == 0.25

        row.get_by_role("link").first.click()
        page.wait_for_url(re.compile("/tasks/build_wat_file.validate"))
        expect(page.get_by_text("Running: wat2mds validate")).to_be_visible(timeout=_PATIENCE_MS)
        keep_screenshot(page, "airflow-log")

        page.get_by_role("link", name="Details").click()
        link = page.get_by_role("link", name="Quality report")
        expect(link).to_be_visible(timeout=_PATIENCE_MS)
        link.click()
        page.wait_for_url(re.compile("/wat2mds/reports/demo/quality/"))
        expect(page.get_by_role("heading").first).to_be_visible(timeout=_PATIENCE_MS)
        keep_screenshot(page, "quality-report")

        stranger = open_page(browser)
        stranger.goto(page.url)
        expect(stranger.locator("input[name=password]")).to_be_visible(timeout=_PATIENCE_MS)


def test_the_dashboard_from_the_navigation_to_a_run(live: Live) -> None:
    """Of a dataset that nobody else publishes in."""
    live.build(dataset="board")
    url = live.layout("board").dataset
    version = read_version(url)
    summary = read_summary(Store(url), version.number)
    assert summary is not None, "publish made it"
    asked = sum(flow["entered"] for flow in version.funnel if flow["stage"] == "download")
    with chromium() as browser:
        for width, theme in ((1280, "dark"), (390, "light")):
            page = open_page(browser, width, 900, color_scheme=theme)
            log_in(page, live)
            page.goto(f"{live.airflow.url}/plugin/wat2mds")
            frame = page.frame_locator("iframe")
            expect(frame.get_by_role("link", name="board")).to_be_visible()
            keep_screenshot(page, f"airflow-datasets-{width}-{theme}")
            frame.get_by_role("link", name="board").click()
            expect(frame.get_by_role("heading", name="board", exact=True)).to_be_visible()
            keep_screenshot(page, f"airflow-dashboard-{width}-{theme}")

        page = open_page(browser, 1280, 1000)
        log_in(page, live)
        page.get_by_role("link", name="Datasets").click()
        frame = page.frame_locator("iframe")
        frame.get_by_role("link", name="board").click()
        expect(frame.locator("html")).to_have_attribute("data-theme", re.compile("light|dark"))
        absent = set() if summary.due() else {"Failed downloads to ask for again"}
        absent |= set() if summary.total.reasons else {"Failures by reason"}
        for picture in set(PICTURES) - absent:
            expect(frame.get_by_role("img", name=picture, exact=True)).to_be_visible()
        expect(frame.locator(".numbers")).to_contain_text(f"{version.samples:,}")
        expect(frame.get_by_role("img", name="Download success")).to_contain_text(f"({summary.total.fetched / asked:.1%})")
        for stage in ("extract", "dedup", "download", "filter", "validate", "convert", "upload"):
            expect(frame.get_by_role("img", name="CPU seconds by stage")).to_contain_text(stage)
        for flow in version.funnel:
            for reason, count in flow["drops"].items():
                row = frame.locator("details tr", has=frame.locator("code", has_text=re.compile(f"^{reason}$")))
                expect(row.first).to_contain_text(f"{count:,}")
        assert summary.total.quality["passed"] + summary.total.quality.get("warned", 0) >= len(summary.units)

        frame.get_by_role("link", name=re.compile("^passed")).first.click()
        expect(frame.get_by_role("heading", name=re.compile("Quality of WAT file"))).to_be_visible()
        page.go_back()
        frame.get_by_role("link", name="Dataset card").click()
        expect(frame.get_by_role("heading", name="Loading it")).to_be_visible()
        page.go_back()
        frame.get_by_role("link", name="Run report", exact=True).click()
        expect(frame.get_by_role("heading", name=re.compile("Quality of batch"))).to_be_visible()
        page.go_back()
        frame.locator("nav").get_by_role("link", name="Gallery").click()
        image = frame.locator(".sheet figure > img").first
        expect(image).to_have_js_property("complete", True)
        assert image.evaluate("image => image.naturalWidth") > 0
        keep_screenshot(page, "airflow-gallery")
        frame.get_by_role("link", name="board").click()
        frame.get_by_role("link", name="Newest run", exact=True).click()
        page.wait_for_url(re.compile(f"/dags/{DAG}/runs/"))
        run = live.client.run(DAG, page.url.split("/runs/")[1].split("?")[0].strip("/"))
        assert run["state"] == "success"
        expect(page.locator("iframe")).to_have_count(0)

    with httpx.Client(base_url=live.airflow.url + PREFIX) as stranger:
        found = routes(wat2mds_reports._application())
        assert len(found) >= 11
        for path in found:
            assert stranger.get(address(path).replace("small", "board")).status_code == 401, path
