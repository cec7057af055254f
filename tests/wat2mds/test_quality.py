"""The pages of quality reports: whole, escaped, and alone."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import pytest

from wat2mds.quality import run_page, summary_of, wat_file_page

EVIL = "<script>alert(1)</script>\"'&"
OUTCOME = {
    "name": "pairs.uid_true",
    "table": "pairs",
    "rule": f"uid {EVIL}",
    "severity": "critical",
    "success": False,
    "rows": 2000,
    "failed": 1234,
    "examples": [{"uid": EVIL, "score": 0.5}, {"uid": None, "score": 7}],
}
REPORT: dict[str, Any] = {
    "snapshot": "CC-MAIN-2023-50",
    "segment": "1.67",
    "wat_file": "00017",
    "passed": False,
    "expectations": [OUTCOME, OUTCOME | {"name": "pairs.license_form", "severity": "warning"}, OUTCOME | {"success": True}],
    "drift": [],
    "drift_note": f"no drift check: {EVIL}",
}


class Tags(HTMLParser):
    """Every element with its attributes; that what is opened is closed."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(page.decode())
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize(
    "page", [wat_file_page(REPORT, f"wat2mds {EVIL}"), run_page(f"batch {EVIL}", {"00017": None, EVIL: None})]
)
def test_a_page_loads_nothing_and_runs_nothing(page: bytes) -> None:
    tags = Tags(page)
    assert not {tag for tag, _ in tags.found} & {"script", "link", "img", "iframe", "object"}
    assert not [attributes for _, attributes in tags.found if "src" in attributes or "href" in attributes]
    assert b"@import" not in page
    assert b"url(" not in page
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in tags.found


def test_a_page_names_what_failed_and_where_to_look() -> None:
    page = wat_file_page(REPORT, "wat2mds validate a b").decode()
    assert "Held back: 1 critical expectation(s) failed." in page
    assert "Fails on 1,234 of 2,000 rows of pairs." in page
    assert page.index("pairs.uid_true") < page.index("pairs.license_form")
    assert "<pre>wat2mds validate a b</pre>" in page
    assert page == wat_file_page(REPORT, "wat2mds validate a b").decode()


def test_a_runs_page_leads_to_its_wat_files() -> None:
    row = summary_of(REPORT, "CC-MAIN-2023-50.1.67.00017", "0123456789ab")
    assert row["critical"] == ["pairs.uid_true"]
    assert row["warnings"] == ["pairs.license_form"]
    page = run_page("CC-MAIN-2023-50.1.67.b00", {"00017": row, "00018": None})
    links = [attributes["href"] for tag, attributes in Tags(page).found if tag == "a"]
    assert links == ["quality/CC-MAIN-2023-50.1.67.00017.0123456789ab.html"]
    assert b"2 WAT files: 1 held back, 0 with warnings, 1 not validated." in page
