"""A real browser for the tests of pages: Debian's Chromium, driven by Playwright.

In: ``chromium`` on the path. Out: a browser that is closed in the end. Where there is none the test is skipped, visibly, but in CI,
which must have one.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
SCREENSHOTS = ROOT / ".wat2mds" / "screenshots"
_PATIENCE_MS = 120_000  # a loaded machine's; a test waits for what it expects, and no longer


@contextmanager
def chromium() -> Iterator[Browser]:
    """Without a sandbox: it shows pages of this project alone, and root may not have one."""
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        reason = "no Chromium here: apt-get install chromium"
        if os.environ.get("REQUIRE_SHARED") == "1":
            pytest.fail(f"{reason} (CI requires it)")
        pytest.skip(reason)
    expect.set_options(timeout=_PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        )
        yield browser
        browser.close()


def open_page(browser: Browser, width: int = 1280, height: int = 1000, **options: Any) -> Page:
    """A page in a context of its own: no cookies of another test's."""
    page = browser.new_context(viewport={"width": width, "height": height}, **options).new_page()
    page.set_default_timeout(_PATIENCE_MS)
    return page


def keep_screenshot(page: Page, name: str) -> None:
    """For people to look at, under .wat2mds/screenshots."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)
