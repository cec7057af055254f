"""The figures of a download: a log line gives them back, whatever stands before it."""

from __future__ import annotations

import json
import time

import pytest

from wat2mds import figures
from wat2mds.figures import Figures, Rate, read_line

FULL = Figures(
    done=12_345,
    total=400_000,
    fetched=2_345,
    images=9_999,
    rate=1_234.5,
    size=23_456_789,
    hosts=45,
    dropped={"timeout": 346, "http_404": 2000},
    waiting="12 bytes are free in /disk, fewer than download.min_free_bytes; it goes on when there are 1,100",
)


@pytest.mark.parametrize("given", [Figures(), FULL, Figures(done=3, total=3, images=3, dropped={})])
def test_a_log_line_gives_the_figures_back(given: Figures) -> None:
    assert read_line(given.line()) == given
    assert read_line(f"wat2mds.progress: {given.line()}") == given
    assert Figures.of(json.loads(given.to_json()))[0] == given


@pytest.mark.parametrize("line", ["", "download: 3 of 4 pairs, 1.0 a second", "download: fetching pauses: no space"])
def test_other_lines_are_not_figures(line: str) -> None:
    assert read_line(line) is None


def test_what_people_are_told() -> None:
    quiet = Figures(done=50, total=200, images=40, rate=2.5, size=1_500_000, hosts=7, dropped={"connect": 3, "http_404": 7})
    assert quiet.told() == "50 of 200 pairs, 0:01:00 left; 2.5/s, 80.0% with an image, 1.5 MB, 7 hosts; http_404 7, connect 3"
    assert "pauses: 12 bytes" in FULL.told()
    assert Figures(total=9).told().startswith("0 of 9 pairs, time left unknown; 0.0/s, - with")


def test_the_rate_is_that_of_the_last_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(figures.time, "monotonic", lambda: now)
    rate = Rate()
    for second in range(1, 301):
        now = 1000.0 + second
        found = rate.after(10 * second if second <= 200 else 2000 + second - 200)
    assert found == pytest.approx(1, abs=0.1)
    assert time.monotonic() == now
