"""The tiny CLIP through open_clip's own path: loads, knows held-out drawings, refuses what is wrong."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from wat2mds.errors import ConfigError
from wat2mds.models.clip import TINY, TINY_FOLDER, Clip, known_models, load_clip, model_identity
from wat2mds.models.tiny_data import split_pictures, token_rows, vocabulary
from wat2mds.models.tiny_report import auc, image_vectors, measure_pairs
from wat2mds.world.draw import caption

METRICS = json.loads((TINY_FOLDER / "metrics.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def clip() -> Clip:
    return load_clip(TINY, "", device="cpu")


def test_held_out_pairs_are_told_apart(clip: Clip) -> None:
    pictures = split_pictures().test[::10]
    pairs = measure_pairs(clip, pictures, seed=77, mode="border")
    assert auc(pairs.matched, pairs.mismatched) >= 0.98
    threshold = METRICS["threshold"]
    assert (pairs.matched >= threshold).mean() > 0.97
    assert (pairs.mismatched < threshold).mean() > 0.97
    assert (pairs.foreign < threshold).mean() > 0.97


def test_committed_figures_meet_the_bar() -> None:
    assert METRICS["test"]["auc"] >= 0.98
    assert METRICS["identity"] == model_identity(TINY, "")
    size = (TINY_FOLDER / "open_clip_model.safetensors").stat().st_size
    assert size <= 10_000_000


def test_embeddings_are_unit_float32_rows_and_repeatable(clip: Clip) -> None:
    pictures = split_pictures().validation[:3]
    first, second = (image_vectors(clip, pictures, first_seed=5) for _ in range(2))
    texts = clip.encode_text([caption(picture) for picture in pictures])
    for rows in (first, texts):
        assert rows.dtype == np.float32
        assert rows.shape == (3, clip.dim)
        assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert np.array_equal(first, second)


def test_tokenizer_is_the_one_that_was_trained_with(clip: Clip) -> None:
    texts = [caption(picture) for picture in split_pictures().test[:50]]
    words = vocabulary(split_pictures().train)
    assert np.array_equal(clip.tokenize(texts).numpy(), token_rows(texts, words))
    assert np.array_equal(clip.tokenize([texts[0].upper()]).numpy(), clip.tokenize([texts[0]]).numpy())


@pytest.mark.parametrize("text", ["", "три маленьких красных круга", "赤い円", "a" * 5000, "red " * 500, "\x00\ud83d\ude00"])
def test_any_text_is_embedded(clip: Clip, text: str) -> None:
    tokens = clip.tokenize([text.encode("utf-8", "replace").decode()])
    assert tokens.shape == (1, clip.context_length)
    assert np.isfinite(clip.encode_text(tokens)).all()


def test_needs_no_network() -> None:
    script = (
        "import socket\n"
        "def refuse(*a, **k): raise OSError('network used')\n"
        "socket.socket.connect = refuse; socket.getaddrinfo = refuse\n"
        "from wat2mds.models.clip import load_clip\n"
        "print(load_clip('wat2mds-tiny', '', 'cpu').encode_text(['one small red circle']).shape)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"(1, {METRICS['dim']})"


def test_identity_is_known_without_torch() -> None:
    script = (
        "import sys\n"
        "from wat2mds.models.clip import model_identity\n"
        "print(model_identity('wat2mds-tiny', ''), model_identity('ViT-B-32', 'openai'))\n"
        "assert not {'torch', 'numpy', 'open_clip'} & set(sys.modules), sorted(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [METRICS["identity"], "ViT-B-32/openai"]


def test_identity_follows_the_weights(tmp_path: Path) -> None:
    folder = _copy(tmp_path)
    before = model_identity(f"local-dir:{folder}", "")
    assert before.removeprefix("local-dir") == METRICS["identity"].removeprefix(TINY)
    weights = folder / "open_clip_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert model_identity(f"local-dir:{folder}", "") != before


def test_describe_names_model_and_checksums(clip: Clip) -> None:
    description = clip.describe()
    assert description["identity"] == METRICS["identity"]
    assert description["sha256"] == METRICS["sha256"]
    json.dumps(description)


def test_unknown_model_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'ViT-B-32'"):
        model_identity("VitB-32", "openai")
    with pytest.raises(ConfigError, match=f"Did you mean '{TINY}'"):
        load_clip("wat2mds-tiney", "")
    assert {TINY, "ViT-B-32", "ViT-L-14"} <= set(known_models())


def test_unknown_weights_and_device_name_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'openai'"):
        load_clip("ViT-B-32", "openia")
    with pytest.raises(ConfigError, match="Did you mean 'cuda'"):
        load_clip(TINY, "", device="cudda")


@pytest.mark.parametrize("harm", ["cut", "garbage", "empty"])
def test_damaged_weights_are_a_config_error_with_path_and_remedy(tmp_path: Path, harm: str) -> None:
    folder = _copy(tmp_path)
    weights = folder / "open_clip_model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes({"cut": content[:-1000], "garbage": b"\x00" * 4000, "empty": b""}[harm])
    with pytest.raises(ConfigError, match="copy it here again") as caught:
        load_clip(f"local-dir:{folder}", "", device="cpu")
    assert str(weights) in str(caught.value)
    size, expected = len(weights.read_bytes()), f"{len(content):,} bytes by its header" if harm == "cut" else "a header"
    assert f"expected {expected}" in str(caught.value)
    assert f"found {size:,} bytes" in str(caught.value)


def test_weights_of_another_size_are_a_config_error(tmp_path: Path) -> None:
    folder = _copy(tmp_path)
    path = folder / "open_clip_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["model_cfg"]["embed_dim"] = 64
    path.write_text(json.dumps(config), encoding="utf-8")
    # Found in the file, then expected by the model.
    sizes = r"size mismatch for text_projection: .*torch\.Size\(\[64, 96\]\).*torch\.Size\(\[64, 64\]\)"
    with pytest.raises(ConfigError, match=sizes) as caught:
        load_clip(f"local-dir:{folder}", "", device="cpu")
    assert caught.value.exit_code == 78


def test_a_folder_without_weights_never_loads_a_head_instead(tmp_path: Path) -> None:
    folder = _copy(tmp_path)
    (folder / "open_clip_model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"has no open_clip_model\.safetensors"):
        load_clip(f"local-dir:{folder}", "", device="cpu")


def _copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TINY_FOLDER, tmp_path / "model"))
