"""Heads: they separate marked from unmarked drawings, and a file that is not what it declares is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from wat2mds.errors import ConfigError
from wat2mds.models.clip import TINY, Clip, load_clip, model_identity
from wat2mds.models.heads import Head, head_identity, head_path, load_head, own_heads, save_head
from wat2mds.models.tiny_data import split_pictures
from wat2mds.models.tiny_report import image_vectors
from wat2mds.world.draw import MARKS, Mark, appeal, marked

IDENTITY = "ViT-B-32/openai"


@pytest.fixture(scope="module")
def clip() -> Clip:
    return load_clip(TINY, "", device="cpu")


@pytest.fixture(scope="module")
def vectors(clip: Clip) -> dict[str, np.ndarray]:
    pictures = split_pictures().test[::18]
    marks: tuple[Mark, ...] = ("", *MARKS)
    return {mark: image_vectors(clip, [marked(p, mark) for p in pictures], 4_000, "border") for mark in marks}


@pytest.fixture
def head() -> Head:
    rng = np.random.default_rng(0)
    tensors = {
        "layers.0.weight": rng.normal(size=(4, 8)).astype(np.float32),
        "layers.0.bias": rng.normal(size=4).astype(np.float32),
        "layers.1.weight": rng.normal(size=(1, 4)).astype(np.float32),
        "layers.1.bias": rng.normal(size=1).astype(np.float32),
    }
    return Head("safety", IDENTITY, (8, 4, 1), "l2", "sigmoid", "test", "none", tensors)


@pytest.mark.parametrize(("name", "sign"), [("tiny/safety", "warning"), ("tiny/watermark", "watermark")])
def test_marked_pictures_score_above_unmarked_ones(vectors: dict[str, np.ndarray], name: str, sign: str) -> None:
    head = load_head(name, clip=model_identity(TINY, ""))
    for mark, rows in vectors.items():
        scores = head.score(rows)
        assert scores.dtype == np.float32
        assert scores.shape == (len(rows),)
        right = scores > 0.5 if mark == sign else scores < 0.5
        assert right.mean() >= 0.97, (mark, scores)


def test_aesthetic_follows_the_drawings_appeal(vectors: dict[str, np.ndarray]) -> None:
    head = load_head("tiny/aesthetic")
    scores = np.concatenate([head.score(rows) for rows in vectors.values()])
    truth = [appeal(marked(picture, mark)) for mark in ("", *MARKS) for picture in split_pictures().test[::18]]
    assert np.corrcoef(scores, truth)[0, 1] > 0.6
    assert 0 < scores.min() < scores.max() < 11


def test_own_heads_declare_the_committed_model() -> None:
    assert own_heads() == ["tiny/aesthetic", "tiny/safety", "tiny/watermark"]
    for name in own_heads():
        head = load_head(name, clip=model_identity(TINY, ""))
        assert head.kind == "mlp"
        assert f"tiny/{head.name}" == name
        assert head_identity(name).startswith(f"{head.name}@sha256:")


def test_saved_head_comes_back_and_scores_as_written_by_hand(head: Head, tmp_path: Path) -> None:
    path = tmp_path / "head.safetensors"
    save_head(path, head)
    loaded = load_head(path, clip=IDENTITY)
    rows = np.random.default_rng(1).normal(size=(5, 8)).astype(np.float32)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    hidden = np.maximum(unit @ head.tensors["layers.0.weight"].T + head.tensors["layers.0.bias"], 0)
    logit = (hidden @ head.tensors["layers.1.weight"].T + head.tensors["layers.1.bias"])[:, 0]
    assert np.allclose(loaded.score(rows), 1 / (1 + np.exp(-logit)), atol=1e-6)
    assert loaded.kind == "mlp"


def test_the_same_head_is_the_same_bytes(head: Head, tmp_path: Path) -> None:
    made = set()
    for number in range(8):
        save_head(tmp_path / f"{number}.safetensors", head)
        made.add((tmp_path / f"{number}.safetensors").read_bytes())
    assert len(made) == 1


def test_linear_and_standardised_heads(tmp_path: Path) -> None:
    tensors = {
        "layers.0.weight": np.full((1, 2), 2, np.float32),
        "layers.0.bias": np.ones(1, np.float32),
        "input.mean": np.array([1, 2], np.float32),
        "input.std": np.array([1, 4], np.float32),
    }
    path = tmp_path / "linear.safetensors"
    save_head(path, Head("aesthetic", IDENTITY, (2, 1), "standardise", "identity", "test", "none", tensors))
    loaded = load_head(path)
    assert loaded.kind == "linear"
    assert loaded.score(np.array([[2, 6]], np.float32)).tolist() == [5.0]


def test_no_rows_give_no_scores(head: Head) -> None:
    assert head.score(np.empty((0, 8), np.float32)).shape == (0,)


def test_extreme_embeddings_give_finite_scores(head: Head) -> None:
    rows = np.array([[0] * 8, [1e6] * 8, [-1e6] * 8], np.float32)
    assert np.isfinite(replace(head, input="none").score(rows)).all()
    assert np.isfinite(head.score(rows)).all()


def test_embeddings_of_another_width_are_refused(head: Head) -> None:
    with pytest.raises(ConfigError, match=r"takes embeddings of 8 numbers, not an array of shape \(3, 9\)"):
        head.score(np.zeros((3, 9), np.float32))


def test_another_models_head_is_refused(head: Head, tmp_path: Path) -> None:
    path = tmp_path / "head.safetensors"
    save_head(path, head)
    with pytest.raises(ConfigError, match="trained on embeddings of ViT-B-32/openai, but the model in use is ViT-L-14/openai"):
        load_head(path, clip="ViT-L-14/openai")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers.0.weight": np.zeros((4, 9), np.float32)}, r"expected \(4, 8\), found \(4, 9\)"),
        ({"layers.1.bias": None}, r"layers.1.bias: expected \(1,\), found none"),
        ({"extra": np.zeros(3, np.float32)}, r"extra: expected none, found \(3,\)"),
    ],
)
def test_tensors_that_are_not_declared_so_are_refused(
    head: Head, tmp_path: Path, change: dict[str, np.ndarray | None], message: str
) -> None:
    path = tmp_path / "head.safetensors"
    save_head(path, head)
    tensors = {name: tensor for name, tensor in {**head.tensors, **change}.items() if tensor is not None}
    save_file(tensors, path, metadata=_header(head))
    with pytest.raises(ConfigError, match=message):
        load_head(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "wat2mds-head/9"}, "this release reads"),
        ({"output": "sigmiod"}, "Did you mean 'sigmoid'"),
        ({"widths": "8,x,1"}, "declares widths"),
        ({"widths": "8,4,2"}, "declares widths"),
        ({"kind": "linear"}, "of kind linear"),
        ({"clip": None}, "lacks clip"),
    ],
)
def test_wrong_headers_are_refused(head: Head, tmp_path: Path, change: dict[str, str | None], message: str) -> None:
    header = {key: value for key, value in {**_header(head), **change}.items() if value is not None}
    path = tmp_path / "head.safetensors"
    save_file(head.tensors, path, metadata=header)
    with pytest.raises(ConfigError, match=message):
        load_head(path)


@pytest.mark.parametrize("content", [b"", b"no tensors here", b"\xff" * 64])
def test_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "head.safetensors"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=f"expected a header that states its size, found {len(content)} bytes.*damaged"):
        load_head(path)


def test_a_cut_file_is_refused_with_both_sizes(head: Head, tmp_path: Path) -> None:
    path = tmp_path / "head.safetensors"
    save_head(path, head)
    whole = path.read_bytes()
    for size in (len(whole) - 1, len(whole) - 100):
        path.write_bytes(whole[:size])
        with pytest.raises(ConfigError, match=f"expected {len(whole):,} bytes by its header, found {size:,} bytes"):
            load_head(path)


def test_unknown_head_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'tiny/safety'"):
        head_path("tiny/safty")


def _header(head: Head) -> dict[str, str]:
    return {
        "format": "wat2mds-head/1",
        "name": head.name,
        "clip": head.clip,
        "kind": head.kind,
        "widths": "8,4,1",
        "input": head.input,
        "output": head.output,
        "source": head.source,
        "licence": head.licence,
    }
