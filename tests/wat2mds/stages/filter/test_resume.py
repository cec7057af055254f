"""Interrupted scoring: killed in the middle and resumed, the same bytes; out of memory, a smaller batch and the same scores."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from tests.wat2mds.stages.filter.drawings import download_unit, drawings, under
from tests.wat2mds.stages.filter.test_profiles import out_of
from wat2mds.errors import ConfigError
from wat2mds.manifest import Manifest, read_manifest
from wat2mds.models.clip import Clip
from wat2mds.settings import Settings, child_environment
from wat2mds.stages import filter as stage
from wat2mds.stages.filter.scores import Scorer
from wat2mds.store import Layout

BATCH = ("filter.batch_size=4",)
# The stage in a process of its own, which is killed as it begins its fourth batch: the first table is done and stored, the second is not.
KILLED = """
import os, pathlib, signal, sys, time
from wat2mds.models.clip import Clip
from wat2mds.manifest import read_manifest
from wat2mds.settings import Settings
from wat2mds.stages import filter as stage
embed, begun = Clip.image_rows, []
def counted(self, batch):
    begun.append(1)
    if len(begun) == 4:
        while not list(pathlib.Path(sys.argv[2].removeprefix("file://")).rglob("partial/*/*.npz")):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGKILL)
    return embed(self, batch)
Clip.image_rows = counted
stage.run(read_manifest(sys.argv[1]), sys.argv[2], Settings.from_json(sys.stdin.read(), "stdin"))
"""


@pytest.fixture
def samples(tmp_path: Path) -> Manifest:
    """24 samples in three tables."""
    return download_unit(Layout((tmp_path / "root").as_uri(), "d").dataset, drawings(24), under("demo", *BATCH), shard=8)


class Counted:
    """What is embedded, and a model that fits only so many images at once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, most: int = 1000) -> None:
        self.sizes: list[int] = []
        embed = Clip.image_rows

        def counted(clip: Clip, batch: torch.Tensor) -> Any:
            if len(batch) > most:
                raise torch.OutOfMemoryError("simulated")
            self.sizes.append(len(batch))
            return embed(clip, batch)

        monkeypatch.setattr(Clip, "image_rows", counted)


def scores_of(done: Manifest) -> Manifest:
    return read_manifest(done.inputs[1].url)


def files_of(manifest: Manifest) -> dict[str, str]:
    return {file.name: file.sha256 for file in manifest.files}


def partial(samples: Manifest) -> list[Path]:
    return sorted(Path(out_of(samples).removeprefix("file://")).rglob("partial/*/*.npz"))


def test_killed_in_the_middle_and_resumed(samples: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings: Settings = under("demo", *BATCH)
    arguments = [sys.executable, "-c", KILLED, samples.url, out_of(samples)]
    ended = subprocess.run(
        arguments, input=settings.to_json(), text=True, capture_output=True, timeout=250, check=False, env=child_environment()
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert len(partial(samples)) == 1
    counted = Counted(monkeypatch)
    resumed = stage.run(samples, out_of(samples), settings)
    assert counted.sizes == [4, 4, 4, 4], "only the two tables that were not done"
    assert partial(samples) == []
    whole = stage.run(samples, str(tmp_path / "elsewhere"), settings)
    assert len(counted.sizes) == 4 + 6
    assert files_of(scores_of(resumed)) == files_of(scores_of(whole))
    assert files_of(resumed) == files_of(whole)


def test_a_damaged_chunk_is_scored_again(samples: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = under("demo", *BATCH)
    whole = stage.run(samples, str(tmp_path / "elsewhere"), settings)
    finish = Scorer._finish
    seen: list[int] = []

    def failing(scorer: Scorer, uids: list[str], *rest: Any) -> Any:
        seen.append(len(uids))
        if len(seen) == 3:
            raise OSError("the machine goes down")
        return finish(scorer, uids, *rest)

    monkeypatch.setattr(Scorer, "_finish", failing)
    with pytest.raises(OSError, match="goes down"):
        stage.run(samples, out_of(samples), settings)
    first, second = partial(samples)
    first.write_bytes(first.read_bytes()[:1000])
    second.write_bytes(b"")
    assert files_of(scores_of(stage.run(samples, out_of(samples), settings))) == files_of(scores_of(whole))
    assert len(seen) == 3 + 3


def test_out_of_memory_halves_the_batch(samples: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = under("demo", "filter.batch_size=8")
    plain = stage.run(samples, str(tmp_path / "plain"), settings)
    counted = Counted(monkeypatch, most=3)
    halved = stage.run(samples, out_of(samples), settings)
    assert counted.sizes == [2] * 12, "8, 4, then 2 from there on"
    one, other = scores_of(plain), scores_of(halved)
    before, after = (pq.read_table(m.fetch("scores.parquet", tmp_path)) for m in (one, other))
    assert before["uid"].equals(after["uid"])
    assert np.allclose(before["similarity"], after["similarity"], atol=1e-5)
    vectors = [np.load(m.fetch("img_emb.npy", tmp_path)).astype(np.float32) for m in (one, other)]
    assert np.einsum("nd,nd->n", *vectors).min() > 0.999


def test_not_even_one_image_fits(samples: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    Counted(monkeypatch, most=0)
    with pytest.raises(ConfigError, match=r"even for one image: choose a smaller model, filter\.precision=bf16"):
        stage.run(samples, out_of(samples), under("demo", *BATCH))


@pytest.mark.parametrize(
    ("harm", "said"),
    [("cut", "damaged"), ("another", "trained on embeddings of ViT-B-32/openai"), ("none", "there is no head")],
)
def test_a_wrong_head_is_exit_78_before_anything_is_written(samples: Manifest, tmp_path: Path, harm: str, said: str) -> None:
    from wat2mds.models.heads import head_path, load_head, save_head

    path = tmp_path / "head.safetensors"
    if harm == "cut":
        path.write_bytes(head_path("tiny/safety").read_bytes()[:-100])
    elif harm == "another":
        head = load_head("tiny/safety")
        save_head(path, type(head)(**(vars(head) | {"clip": "ViT-B-32/openai"})))
    with pytest.raises(ConfigError, match=said) as caught:
        stage.run(samples, out_of(samples), under("demo", f"filter.safety_head={path}"))
    assert caught.value.exit_code == 78
    assert not list(Path(out_of(samples).removeprefix("file://")).rglob("*.parquet"))
