"""LAION's heads: the known scores of aesthetic v1, finite and repeatable scores of the others, and refusal of what is not them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wat2mds.cli.main import run as command
from wat2mds.errors import ConfigError
from wat2mds.models.heads import Head, load_head, save_head
from wat2mds.models.published_heads import CATEGORICAL, PUBLISHED, read_published

FILES = {
    "aesthetic-v1-b16": "aesthetic_v1/sa_0_4_vit_b_16_linear.npz",
    "aesthetic-v1-b32": "aesthetic_v1/sa_0_4_vit_b_32_linear.npz",
    "aesthetic-v1-l14": "aesthetic_v1/sa_0_4_vit_l_14_linear.npz",
    "aesthetic-v2-l14": "aesthetic_v2/sac+logos+ava1-l14-linearMSE.npz",
    "nsfw-b32": "nsfw/clip_autokeras_nsfw_b32.npz",
    "nsfw-l14": "nsfw/clip_autokeras_binary_nsfw.npz",
    "violence-b32": "nsfw/violence_detection_vit_b_32.npy",
    "violence-l14": "nsfw/violence_detection_vit_l_14.npy",
}
KNOWN = {
    "l_14": [-2.46, -0.14, 1.90, 3.58, 5.10, 6.47, 7.79, 9.05, 10.23, 11.30],
    # Of B/32 the first and the last are known; those between are only known to rise.
    "b_32": [-1.47, *[None] * 8, 11.01],
}


def loaded(shared: Path, tmp_path: Path, kind: str) -> Head:
    """Through the file that filter takes."""
    save_head(tmp_path / "head.safetensors", read_published(kind, shared / "heads" / FILES[kind]))
    return load_head(tmp_path / "head.safetensors", clip=PUBLISHED[kind].clip)


def embeddings(size: int, rows: int = 64) -> np.ndarray:
    found = np.random.default_rng(0).normal(size=(rows, size)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


@pytest.mark.shared
@pytest.mark.parametrize("model", ["l_14", "b_32"])
def test_aesthetic_v1_gives_the_known_scores(shared: Path, tmp_path: Path, model: str) -> None:
    head = loaded(shared, tmp_path, f"aesthetic-v1-{model.replace('_', '')}")
    folder = shared / "heads" / "aesthetic_v1" / f"vit_{model}_embeddings"
    rows = np.concatenate([np.load(folder / f"rating{n}.npy", allow_pickle=False).reshape(1, -1) for n in range(10)])
    scores = head.score(rows)
    for found, known in zip(scores, KNOWN[model], strict=True):
        assert known is None or abs(found - known) <= 0.02
    assert (np.diff(scores) > 0.9).all()


@pytest.mark.shared
@pytest.mark.parametrize("kind", FILES)
def test_scores_are_finite_and_repeatable(shared: Path, tmp_path: Path, kind: str) -> None:
    first, second = (loaded(shared, tmp_path, kind) for _ in range(2))
    rows = embeddings(first.widths[0])
    scores = first.score(rows)
    assert np.isfinite(scores).all()
    assert np.array_equal(scores, second.score(rows))
    # Another batch multiplies in another order: equal to rounding.
    assert np.allclose(scores, np.concatenate([second.score(rows[i : i + 7]) for i in range(0, len(rows), 7)]), atol=1e-5)
    if not kind.startswith("aesthetic"):
        assert ((scores >= 0) & (scores <= 1)).all()


@pytest.mark.shared
def test_aesthetic_v2_is_its_layers_one_after_another(shared: Path, tmp_path: Path) -> None:
    rows = embeddings(768)
    with np.load(shared / "heads" / FILES["aesthetic-v2-l14"], allow_pickle=False) as file:
        values = rows.astype(np.float64)
        for layer in (0, 2, 4, 6, 7):
            values = values @ file[f"layers.{layer}.weight"].T + file[f"layers.{layer}.bias"]
    assert np.allclose(loaded(shared, tmp_path, "aesthetic-v2-l14").score(rows), values[:, 0], atol=1e-4)


@pytest.mark.shared
@pytest.mark.parametrize("kind", ["nsfw-b32", "nsfw-l14"])
def test_nsfw_heads_follow_the_published_normalisation(shared: Path, tmp_path: Path, kind: str) -> None:
    """By hand from the archive; and that the inputs which were categories hardly matter, with empty tables."""
    rows = embeddings(PUBLISHED[kind].widths[0])
    end = "..ATTRIBUTES.VARIABLE_VALUE"
    with np.load(shared / "heads" / FILES[kind], allow_pickle=False) as file:
        part = {name.removesuffix(end): file[name].astype(np.float64) for name in file.files if name.endswith(end)}
        tables = [name for name in file.files if "table" in name]
        assert all(file[name].size == 0 for name in tables)
    assert {int(name.split(".")[2]) for name in tables} == set(CATEGORICAL[kind])
    values = (rows - part["layer_with_weights-1.mean"]) / np.sqrt(part["layer_with_weights-1.variance"])
    last = len(PUBLISHED[kind].widths)
    for layer in range(2, last + 1):
        values = values @ part[f"layer_with_weights-{layer}.kernel"] + part[f"layer_with_weights-{layer}.bias"]
        values = np.maximum(values, 0) if layer < last else values
    head = loaded(shared, tmp_path, kind)
    assert np.allclose(head.score(rows), 1 / (1 + np.exp(-values[:, 0])), atol=1e-4)
    looked_up = rows.copy()
    looked_up[:, CATEGORICAL[kind]] = 1
    assert np.abs(head.score(looked_up) - head.score(rows)).max() < 0.05


@pytest.mark.shared
@pytest.mark.parametrize("kind", ["violence-b32", "violence-l14"])
def test_violence_is_the_softmax_of_two_cosines(shared: Path, tmp_path: Path, kind: str) -> None:
    rows = embeddings(PUBLISHED[kind].widths[0])
    classes = np.load(shared / "heads" / FILES[kind], allow_pickle=False).astype(np.float64)
    cosines = rows @ (classes / np.linalg.norm(classes, axis=1, keepdims=True)).T
    softmax = np.exp(100 * cosines) / np.exp(100 * cosines).sum(axis=1, keepdims=True)
    scores = loaded(shared, tmp_path, kind).score(rows)
    assert np.allclose(scores, softmax[:, 1], atol=1e-4)
    assert np.array_equal(scores > 0.5, cosines.argmax(axis=1) == 1), "as clip-retrieval decides"


@pytest.mark.shared
@pytest.mark.parametrize("kind", ["nsfw-b32", "nsfw-l14"])
def test_the_authors_port_gives_the_same_head_as_their_archive(shared: Path, tmp_path: Path, kind: str) -> None:
    """The archive's arrays under the names and in the form of the .pth that the catalogue names."""
    import torch

    end, port = "..ATTRIBUTES.VARIABLE_VALUE", {}
    with np.load(shared / "heads" / FILES[kind], allow_pickle=False) as file:
        for name in ("mean", "variance"):
            port[f"norm.{name}"] = torch.from_numpy(file[f"layer_with_weights-1.{name}{end}"])
        for number in range(1, len(PUBLISHED[kind].widths)):
            port[f"linear_{number}.weight"] = torch.from_numpy(file[f"layer_with_weights-{number + 1}.kernel{end}"]).T
            port[f"linear_{number}.bias"] = torch.from_numpy(file[f"layer_with_weights-{number + 1}.bias{end}"])
    torch.save(port, tmp_path / "head.pth")
    one, other = read_published(kind, tmp_path / "head.pth"), read_published(kind, shared / "heads" / FILES[kind])
    assert one.tensors.keys() == other.tensors.keys()
    assert all(np.array_equal(one.tensors[name], other.tensors[name]) for name in one.tensors)


@pytest.mark.shared
def test_the_command_makes_a_head_that_another_model_refuses(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "heads" / "nsfw.safetensors"
    capsys.readouterr()
    assert command(["convert-head", "nsfw-b32", str(shared / "heads" / FILES["nsfw-b32"]), "--out", str(out)]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["clip"] == "ViT-B-32/openai"
    with pytest.raises(ConfigError, match="trained on embeddings of ViT-B-32/openai, but the model in use is ViT-L-14/openai"):
        load_head(out, clip="ViT-L-14/openai")


def linear(**changes: Any) -> dict[str, Any]:
    return {"weight": np.ones((1, 512), np.float32), "bias": np.ones(1, np.float32)} | changes


@pytest.mark.parametrize(
    ("kind", "tensors", "said"),
    [
        ("aesthetic-v1-l14", linear(), "weight: expected (1, 768), found (1, 512)"),
        ("aesthetic-v1-b32", linear(bias=np.ones(2, np.float32)), "bias: expected (1,), found (2,)"),
        ("aesthetic-v1-b32", linear(more=np.ones(3)), "more: expected none, found (3,)"),
        ("aesthetic-v1-b32", {"weight": np.ones((1, 512))}, "bias: expected (1,), found none"),
        ("aesthetic-v1-b32", linear(bias=np.array([np.nan])), "something else than finite numbers"),
        ("aesthetic-v1-b32", linear(bias=np.array([object()])), "no .npz of plain arrays"),
        ("nsfw-b32", linear(), "layer_with_weights-1.mean..ATTRIBUTES.VARIABLE_VALUE: expected (512,), found none"),
        ("aesthetic-v2-l14", linear(), "layers.0.weight: expected (1024, 768), found none"),
        ("violence-b32", linear(), "array: expected (2, 512), found none"),
        ("aesthetic-v1-b33", linear(), "Did you mean 'aesthetic-v1-b32'"),
        ("aesthetic-v1-b32", b"PK\x03\x04 cut short", "damaged"),
        ("aesthetic-v1-b32", b"", "damaged"),
        ("aesthetic-v1-b32", None, "does not exist"),
    ],
)
def test_what_is_not_that_head_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str, tensors: Any, said: str
) -> None:
    source = tmp_path / "head.npz"
    if isinstance(tensors, bytes):
        source.write_bytes(tensors)
    elif tensors is not None:
        np.savez(source, **tensors)
    assert command(["convert-head", kind, str(source), "--out", str(tmp_path / "out" / "head.safetensors")]) == 78
    assert said in caplog.text
    assert not (tmp_path / "out").exists()
