"""How a running download is doing can be read in the store, until it is complete."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest

from tests.wat2mds.stages.download.hostile_origin import picture
from wat2mds.figures import Figures, read_line
from wat2mds.layout import progress_path
from wat2mds.manifest import Manifest, Unit
from wat2mds.settings import Settings
from wat2mds.stages import download
from wat2mds.stages.download.report import Report
from wat2mds.world.origin import Answer, Origin

JPEG = picture(320, 240)


def test_the_figures_of_a_running_download(
    unique_pairs: Callable[[Sequence[str]], Manifest],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(download, "Report", partial(Report, seconds=0.1))
    unique = unique_pairs([f"http://h{i}.example/{'image' if i % 3 else 'missing'}/{i}.jpg" for i in range(30)])
    held = threading.Event()

    def answers(host: str, target: str) -> Answer | None:
        if "/image/" not in target:
            return None
        if host in ("h1.example", "h2.example"):
            held.wait(60)
        return Answer(JPEG)

    with Origin(answers) as origin:
        given = {"resolver": origin.address, "processes": 1, "threads": 8, "timeout": 60, "deadline": 120}
        settings = Settings.model_validate({"download": given})
        path = tmp_path / "out" / progress_path(Unit("download", str(tmp_path / "out"), [unique], settings).digest)
        seen: list[Figures] = []

        def watch() -> None:
            while not held.is_set():
                if path.exists():
                    seen.append(Figures.of(json.loads(path.read_bytes()))[0])
                    if seen[-1].done == 28:
                        held.set()
                held.wait(0.05)

        thread = threading.Thread(target=watch)
        thread.start()
        made = download.run(unique, str(tmp_path / "out"), settings, "")
        thread.join()
    last = seen[-1]
    assert (last.done, last.total, last.fetched, last.images, last.hosts) == (28, 30, 28, 18, 2)
    assert last.dropped == {"http_404": 10}
    assert last.size == 18 * len(JPEG)
    assert not path.exists()
    (flow,) = made.flows
    logged = [figures for record in caplog.records if (figures := read_line(record.getMessage())) is not None]
    assert (logged[-1].done, logged[-1].images, logged[-1].dropped) == (flow.entered, flow.left, flow.drops)
