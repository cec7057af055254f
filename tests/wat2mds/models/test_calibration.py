"""Calibration: equal rank on known similarities, and on what filter stored of drawings."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.wat2mds.stages.filter.drawings import download_unit, drawings, under
from tests.wat2mds.stages.filter.test_profiles import out_of
from wat2mds.cli.main import run as command
from wat2mds.errors import DataError
from wat2mds.manifest import read_manifest
from wat2mds.models.calibration import Rows, calibrate
from wat2mds.stages import filter as stage
from wat2mds.store import Layout, split


def known(count: int = 1000) -> Rows:
    """Pairs whose cosine is 0.001, 0.002 … 1, and nothing in common with others' captions but the first axis."""
    cosines = np.arange(1, count + 1) / count
    images = np.tile([1.0, 0.0], (count, 1))
    return Rows("known", images, np.stack([cosines, np.sqrt(1 - cosines**2)], axis=1) * 7)


def test_the_threshold_keeps_the_share() -> None:
    (found,) = calibrate([known()])
    assert found.threshold(0.117) == pytest.approx(0.884, abs=1e-6)
    assert (found.matched >= found.threshold(0.117)).sum() == 117
    assert found.threshold(1) == pytest.approx(0.001, abs=1e-6)
    figures = found.figures(0.117)
    assert figures["matched_at_or_above"] == 0.117
    assert figures["matched"]["0.5"] == pytest.approx(0.5005, abs=1e-4)


def test_histogram_shares_add_up() -> None:
    (found,) = calibrate([known()])
    lines = found.histogram()
    for kind in (lines[::2], lines[1::2]):
        assert sum(float(line.split()[-1].removesuffix("%")) for line in kind) == pytest.approx(100, abs=3)
    assert max(line.count("#") for line in lines) <= 40


def test_one_calibration_a_model_and_none_without_pairs() -> None:
    rows = known()
    found = calibrate([rows._replace(model="b"), rows._replace(model="a"), rows._replace(model="b")])
    assert [(one.model, len(one.matched)) for one in found] == [("a", 1000), ("b", 2000)]
    with pytest.raises(DataError, match="no pairs to calibrate with: few"):
        calibrate([Rows("few", rows.images[:1], rows.texts[:1])])
    with pytest.raises(DataError, match="do not belong together"):
        calibrate([Rows("odd", rows.images[:5], rows.texts[:4])])


def test_on_what_filter_stored(tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    root = tmp_path / "root"
    settings = under("demo")
    samples = download_unit(Layout(root.as_uri(), "d").dataset, drawings(48), settings)
    done = stage.run(samples, out_of(samples), settings)
    capsys.readouterr()
    assert command(["models", "calibrate", "--root", str(root), "--dataset", "d", "--share", "0.5"]) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out.splitlines()[-1])
    (figures,) = found["models"].values()
    assert figures["pairs"] == 48
    assert figures["matched_at_or_above"] == 0.5
    assert figures["mismatched"]["0.5"] < figures["matched"]["0.5"]
    assert "threshold of equal rank" in printed.err
    # The same embeddings in clip-retrieval's layout.
    scores, folder = read_manifest(next(i.url for i in done.inputs if "/scores/" in i.url)), tmp_path / "embeddings"
    for kind in ("img_emb", "text_emb"):
        (folder / kind).mkdir(parents=True)
        (folder / kind / f"{kind}_0.npy").write_bytes(scores.fetch(f"{kind}.npy", tmp_path).read_bytes())
    assert command(["models", "calibrate", str(folder), "--share", "0.5"]) == 0
    again = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert again["only_kept_pairs"]
    assert again["models"]["unnamed model"]["threshold_of_equal_rank"] == figures["threshold_of_equal_rank"]
    assert command(["models", "calibrate", split(split(samples.url)[0])[0]]) == 0
    assert command(["models", "calibrate", str(tmp_path / "nothing")]) == 65
    assert "holds no embeddings" in caplog.text
