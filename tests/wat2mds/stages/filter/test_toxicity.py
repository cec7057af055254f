"""toxicity and word lists on real stage output: scores by hand, thresholds from both sides, the preview, absent scores."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.wat2mds.stages.filter.drawings import under
from tests.wat2mds.stages.filter.test_profiles import out_of, run
from wat2mds.cli.main import run as command
from wat2mds.drops import DropReason
from wat2mds.errors import ConfigError
from wat2mds.manifest import Manifest, read_manifest
from wat2mds.models.clip import TINY, load_clip, model_identity
from wat2mds.models.heads import Head, save_head
from wat2mds.stages.filter.words import WordLists, lists_identity
from wat2mds.store import split

CLASSES = ("one small red circle", "three large blue squares")


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two class vectors of the tiny model, in Q16's manner."""
    classes = load_clip(TINY, "", "cpu").encode_text(list(CLASSES))
    path = tmp_path_factory.mktemp("head") / "toxicity.safetensors"
    tensors = {"layers.0.weight": 10 * (classes[1:] - classes[:1]), "layers.0.bias": np.zeros(1, np.float32)}
    save_head(path, Head("toxicity", model_identity(TINY, ""), (classes.shape[1], 1), "l2", "sigmoid", "test", "none", tensors))
    return path


@pytest.fixture(scope="module")
def lists(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("words")
    (folder / "en").write_text("circle\n# a comment\nlarge blue\n")
    (folder / "de.txt").write_text("Kreise\n")
    (folder / "zh").write_text("红色\n")
    (folder / "README.md").write_text("stars\n")
    return folder


def test_scores_and_thresholds_from_both_sides(scored: Manifest, head: Path, lists: Path) -> None:
    given = (f"filter.toxicity_head={head}", f"filter.word_lists={lists}")
    _, rows = run(scored, under("demo", *given))
    limit = float(np.median([row["punsafe"] for row in rows if row["drop_reason"] is None and row["listed_word"]]))
    done, rows = run(scored, under("demo", *given, "filter.max_toxicity=0.5", f"filter.max_punsafe_with_word={limit!r}"))
    scores = read_manifest(next(i.url for i in done.inputs if "/scores/" in i.url))
    images = np.load(scores.fetch("img_emb.npy", Path())).astype(np.float64)
    logits = 10 * images @ load_clip(TINY, "", "cpu").encode_text(list(CLASSES)).astype(np.float64).T
    softmax = np.exp(logits[:, 1]) / np.exp(logits).sum(axis=1)
    assert np.allclose([row["toxicity"] for row in rows], softmax, atol=2e-3), "float16 embeddings"
    captions = {
        one["uid"]: one["caption"]
        for name in scored.matching(".parquet")
        for one in pq.read_table(scored.fetch(name, Path()), columns=["uid", "caption"]).to_pylist()
    }
    for row in rows:
        text = captions[row["uid"]].lower().replace(",", "")
        listed = "circle" in text.split(" ") or "large blue" in text or ("kreise" in text and row["detected"] == "de")
        assert row["listed_word"] == listed
    before = ["low_similarity", "unsafe"]
    judged = [row for row in rows if row["drop_reason"] not in before]
    worded = [row["listed_word"] and row["punsafe"] > limit for row in judged]
    toxic = [row["toxicity"] > 0.5 and not word for row, word in zip(judged, worded, strict=True)]
    assert any(worded)
    assert any(toxic)
    assert [row["drop_reason"] == DropReason.UNSAFE_WORD for row in judged] == worded
    assert [row["drop_reason"] == DropReason.TOXIC for row in judged] == toxic
    assert any(row["drop_reason"] is None and row["listed_word"] for row in rows), "a word alone drops nothing"


def test_the_preview_is_that_of_a_run(
    scored: Manifest, head: Path, lists: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    given = (f"filter.toxicity_head={head}", f"filter.word_lists={lists}")
    run(scored, under("demo", *given))
    limits = ("filter.max_toxicity=0.4", "filter.max_punsafe_with_word=0.02")
    done, _ = run(scored, under("demo", *given, *limits))
    work = split(out_of(scored))[0]
    capsys.readouterr()
    options = [part for text in (*given, *limits) for part in ("--set", text)]
    assert command(["funnel", work, "--profile", "demo", *options]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])["funnel"]["lines"][-1]
    assert found == {"stage": "filter", **vars(done.flows[0])}
    (lists / "fr").write_text("rouge\n")
    assert command(["funnel", work, "--profile", "demo", *options]) == 65, "other lists make other scores"
    assert "words:" in caplog.text
    (lists / "fr").unlink()


def test_without_a_head_nothing_passes_its_threshold(scored: Manifest) -> None:
    _, rows = run(scored, under("demo", "filter.max_toxicity=0.5"))
    assert {row["toxicity"] for row in rows} == {None}
    assert None not in {row["drop_reason"] for row in rows}


def test_words_are_whole_words_of_the_caption_s_language_and_english(lists: Path) -> None:
    words = WordLists(str(lists))
    texts = ["A Circle!", "circles", "drei Kreise", "drei Kreise", "大红色的圆", "大红色的圆", "stars", "CIRCLE", ""]
    codes = ["en", "en", "de", "en", "zh", None, "en", "fr", None]
    assert words.flags(texts, codes) == [True, False, True, False, True, False, False, True, False]


def test_lists_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("x")
    with pytest.raises(ConfigError, match="holds no word list"):
        lists_identity(str(tmp_path))
    with pytest.raises(ConfigError, match=r"name lists in filter\.word_lists"):
        under("demo", "filter.max_punsafe_with_word=0.5")


@pytest.mark.shared
def test_published_lists_are_read(shared: Path) -> None:
    words = WordLists(str(shared / "nsfw_words" / "LDNOOBW"))
    assert (
        words.flags(["a red bicycle by the lake", "ein rotes Fahrrad am See", "一辆红色的自行车"], ["en", "de", "zh"])
        == [False] * 3
    )
    first = (shared / "nsfw_words" / "LDNOOBW" / "ja").read_text("utf-8").splitlines()[0]
    assert words.flags([f"これは{first}です"], ["ja"]) == [True]
