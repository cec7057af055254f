"""Airflow's web UI as a data engineer uses it, in a real browser: log in, trigger with a changed field, watch it go green, read a mapped
task's log, open its quality report."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from tests.browser import chromium, keep_screenshot, open_page
from tests.dags.live import DAG, Live
from wat2mds.deploy.launcher import USER

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
