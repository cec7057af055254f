"""The page in a real Chromium: what a person does with it, on a wide screen and on a phone, by mouse and by keyboard."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser import chromium
from tests.wat2mds.serve.conftest import TOKEN, Served
from wat2mds import subsets
from wat2mds.store import Store


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def opened(browser: Browser, served: Served) -> Iterator[Callable[..., Page]]:
    """Opens the page; at the end nothing was asked of anybody else, and the page said nothing went wrong."""
    contexts = []
    asked: list[str] = []
    wrong: list[str] = []

    def open_page(path: str = "/", **options: Any) -> Page:
        context = browser.new_context(**({"viewport": {"width": 1280, "height": 900}} | options))
        context.set_default_timeout(60_000)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text) if "Content Security Policy" in message.text else None)
        page.goto(served.url + path)
        expect(page.locator("#gallery .tile").first).to_be_visible()
        return page

    expect.set_options(timeout=60_000)
    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []
    assert [url for url in asked if not url.startswith((served.url, "blob:"))] == []


def found(page: Page) -> list[str]:
    """uids that are shown, when the search is done."""
    expect(page.locator("#gallery")).to_have_attribute("aria-busy", "false")
    return [str(tile.get_attribute("data-uid")) for tile in page.locator("#gallery .tile").all()]


def search(page: Page, text: str) -> list[str]:
    page.fill("#text", text)
    with page.expect_response("**/api/search"):
        page.press("#text", "Enter")
    return found(page)


def test_a_search_by_words_and_back(opened: Callable[..., Page], served: Served) -> None:
    page = opened()
    before = found(page)
    assert len(before) == 40
    shown = search(page, "red circle")
    expected = served.client().get("/api/search", params={"text": "red circle"}).json()["samples"]
    assert shown == [one["uid"] for one in expected]
    assert "text=red+circle" in page.url
    assert page.title() == "red circle – drawn"
    with page.expect_response("**/api/search"):
        page.go_back()
    assert found(page) == before
    # The address alone gives the same search.
    assert found(opened("/?text=red+circle")) == shown


def test_pictures_keep_their_sides(opened: Callable[..., Page]) -> None:
    page = opened()
    found(page)
    page.wait_for_function(
        "[...document.querySelectorAll('.tile img')].slice(0, 12).every((image) => image.complete && image.naturalWidth)"
    )
    shown = page.eval_on_selector_all(
        ".tile img", "images => images.slice(0, 12).map(i => [i.clientWidth / i.clientHeight, i.naturalWidth / i.naturalHeight])"
    )
    for box, image in shown:
        assert abs(box / image - 1) < 0.03
    assert len({round(image, 1) for _, image in shown}) > 1


def test_details_on_click_and_through_them(opened: Callable[..., Page], served: Served) -> None:
    page = opened("/?text=red+circle")
    uids = found(page)
    page.click("#gallery .tile button >> nth=0")
    dialog = page.locator("#details")
    row = served.collections.default.rows.by_uid(uids[0])
    assert row is not None
    for text in (row["caption"], row["page_url"], f"{row['similarity']:.3f}", "Version", "Licence", uids[0]):
        expect(dialog).to_contain_text(text)
    link = dialog.get_by_role("link", name=row["page_url"])
    assert link.get_attribute("rel") == "noopener noreferrer nofollow"
    page.keyboard.press("ArrowRight")
    expect(dialog).to_contain_text(uids[1])
    page.keyboard.press("ArrowLeft")
    expect(dialog).to_contain_text(uids[0])
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()


def test_more_like_this(opened: Callable[..., Page], served: Served) -> None:
    page = opened()
    first = found(page)[0]
    page.click("#gallery .tile button >> nth=0")
    with page.expect_response("**/api/search"):
        page.click("#like")
    assert found(page) == [one["uid"] for one in served.client().get("/api/search", params={"uid": first}).json()["samples"]]
    expect(page.locator("#sent")).to_contain_text("more like this")
    with page.expect_response("**/api/search"):
        page.click("#unsend")
    expect(page.locator("#sent")).to_be_hidden()


def test_an_image_is_chosen_and_dropped(opened: Callable[..., Page], served: Served, tmp_path: Path) -> None:
    with served.client() as client:
        uid = sorted(served.pictures)[3]
        content = client.get(f"/images/{uid}").content
        embedding = client.post("/api/embedding", content=content).json()["embedding"]
        expected = [one["uid"] for one in client.post("/api/search", json={"embedding": embedding}).json()["samples"]]
    image = tmp_path / "picture.jpg"
    image.write_bytes(content)
    page = opened()
    with page.expect_response("**/api/search"):
        page.set_input_files("#file", image)
    assert found(page) == expected
    expect(page.locator("#sent")).to_contain_text("your image")
    other = opened()
    with other.expect_response("**/api/search"):
        other.evaluate(
            """async (uid) => {
                const blob = await (await fetch(`images/${uid}`)).blob();
                const data = new DataTransfer();
                data.items.add(new File([blob], "picture.jpg", { type: "image/jpeg" }));
                for (const kind of ["dragenter", "dragover", "drop"])
                    window.dispatchEvent(new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true }));
            }""",
            uid,
        )
    assert found(other) == expected


def test_filters_with_counts(opened: Callable[..., Page]) -> None:
    page = opened()
    expect(page.locator("#status")).to_contain_text("unsafe hidden")
    choice = page.locator("label.choice", has_text="by-sa")
    count = choice.locator(".count").inner_text()
    with page.expect_response("**/api/search"):
        choice.locator("input").check()
    expect(page.locator("#status")).to_contain_text(re.compile(rf"^{count} samples"))
    assert "license=by-sa" in page.url
    with page.expect_response("**/api/search"):
        page.check("#unsafe")
    expect(page.locator("#status")).not_to_contain_text("hidden")
    page.fill("#min_similarity", "0.9")
    with page.expect_response("**/api/search"):
        page.press("#min_similarity", "Tab")
    with page.expect_response("**/api/search"):
        page.click("#clear")
    assert page.url.endswith("/")


def test_pages_and_keys(opened: Callable[..., Page]) -> None:
    page = opened()
    first = found(page)
    with page.expect_response("**/api/search"):
        page.click("#next")
    second = found(page)
    assert not set(first) & set(second)
    with page.expect_response("**/api/search"):
        page.keyboard.press("p")
    assert found(page) == first
    page.keyboard.press("/")
    expect(page.locator("#text")).to_be_focused()
    page.keyboard.press("ArrowDown")
    expect(page.locator("#gallery .tile button").nth(0)).to_be_focused()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#gallery .tile button").nth(1)).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#details")).to_contain_text(first[1])
    page.keyboard.press("Escape")
    with page.expect_response("**/api/search"):
        page.keyboard.press("m")
    assert f"uid={first[1]}" in page.url


def test_a_result_is_saved(opened: Callable[..., Page], served: Served) -> None:
    """Without a token it is asked for; the address that the service prints brings it, and loses it at once."""
    page = opened("/?text=blue+star")
    found(page)
    page.click("#save")
    page.fill("#subset-name", "blue-stars")
    page.fill("#subset-count", "7")
    page.fill("#saving .token", "wrong")
    page.click("#save-now")
    expect(page.locator("#saving .said")).to_contain_text("token")
    page.fill("#saving .token", TOKEN)
    page.click("#save-now")
    expect(page.locator("#saving .said")).to_contain_text("Saved 7 samples of version 1")
    assert subsets.read_subset(served.dataset, "blue-stars").samples == 7


def test_an_image_is_reported(opened: Callable[..., Page], served: Served) -> None:
    page = opened(f"/#token={TOKEN}")
    assert TOKEN not in page.url
    uid = found(page)[2]
    page.click("#gallery .tile button >> nth=2")
    page.click("#details .report summary")
    page.select_option("#reason", "rights")
    page.click("#send-report")
    expect(page.locator("#details .said")).to_contain_text("Reported")
    assert Store(served.dataset).exists(f"reports/takedown/{uid}-rights.json")


def test_a_phone(opened: Callable[..., Page]) -> None:
    page = opened(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    found(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    expect(page.locator("#filters")).to_be_hidden()
    page.tap("#show-filters")
    expect(page.locator("#filters")).to_be_visible()
    with page.expect_response("**/api/search"):
        page.locator("label.choice", has_text="by-sa").tap()
    expect(page.locator("#show-filters")).to_contain_text("(1)")
    page.tap("#show-filters")
    page.tap("#gallery .tile button >> nth=0")
    expect(page.locator("#details")).to_contain_text("More like this")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_dark_and_light(opened: Callable[..., Page]) -> None:
    dark, light = (
        opened(color_scheme=scheme).evaluate("getComputedStyle(document.body).backgroundColor") for scheme in ("dark", "light")
    )
    assert sum(map(int, re.findall(r"\d+", dark)[:3])) < 150
    assert sum(map(int, re.findall(r"\d+", light)[:3])) > 600


def test_captions_are_text(opened: Callable[..., Page]) -> None:
    """Words that are markup stay words, in the box, the title and the status."""
    page = opened()
    search(page, "<img src=x onerror=alert(1)>")
    assert page.title().startswith("<img")
    assert page.locator("img[src=x]").count() == 0
