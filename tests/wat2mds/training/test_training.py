"""The mechanics of train-check on a few hundred coloured squares: what is read, how accuracy is counted, that chance is what is left of
pairs whose captions are shuffled."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from wat2mds.cli.main import run as command
from wat2mds.errors import ConfigError
from wat2mds.models.torchvision_ops import declare_torchvision_ops
from wat2mds.training.accuracy import accuracy, share_right
from wat2mds.training.batches import CONTEXT, SIDE, epochs, samples_of
from wat2mds.training.fit import Limits, fit
from wat2mds.training.held_out import CLASSES, HeldOut, read_held_out, write_held_out

COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 160, 60),
    "blue": (30, 60, 210),
    "yellow": (240, 220, 40),
    "white": (245, 245, 245),
    "black": (12, 12, 12),
    "purple": (150, 40, 170),
    "grey": (128, 128, 128),
}
SAMPLES = 200  # no multiple of the batch


def square(colour: str, rng: np.random.Generator) -> bytes:
    noise = rng.normal(0, 12, (48, 48, 3)) + COLOURS[colour]
    out = io.BytesIO()
    Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(out, "JPEG")
    return out.getvalue()


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    declare_torchvision_ops()
    from streaming import MDSWriter

    folder = tmp_path_factory.mktemp("squares") / "mds"
    rng = np.random.default_rng(0)
    with MDSWriter(out=str(folder), columns={"uid": "str", "caption": "str", "jpg": "bytes"}, size_limit=1 << 16) as out:
        for number in range(SAMPLES):
            colour = list(COLOURS)[number % len(COLOURS)]
            out.write({"uid": f"{number:04d}", "caption": f"a square that is {colour}", "jpg": square(colour, rng)})
    return folder


@pytest.fixture(scope="module")
def dataset(shards: Path) -> Any:
    from streaming import StreamingDataset

    return StreamingDataset(local=str(shards), shuffle=True, shuffle_seed=3, batch_size=64, num_canonical_nodes=1)


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> HeldOut:
    folder = tmp_path_factory.mktemp("held-out")
    rng = np.random.default_rng(1)
    pictures = [(name, square(name, rng)) for name in COLOURS for _ in range(6)]
    write_held_out(folder, {name: [f"a square that is {name}", f"{name}"] for name in COLOURS}, pictures)
    return read_held_out(folder)


def test_every_sample_is_read_once_an_epoch_in_an_order_of_its_own(dataset):
    orders = []
    for _ in range(2):
        batches = list(samples_of(dataset, 64))
        assert [len(batch) for batch in batches] == [64, 64, 64, SAMPLES - 3 * 64]
        orders.append([sample["uid"] for batch in batches for sample in batch])
        assert Counter(orders[-1]) == Counter(f"{number:04d}" for number in range(SAMPLES))
    assert orders[0] != orders[1]


def test_shuffling_moves_captions_and_nothing_else(shards):
    from streaming import StreamingDataset

    def first(shuffled: bool) -> Any:
        return next(iter(epochs(StreamingDataset(local=str(shards), batch_size=64), 64, 5, shuffled=shuffled)))

    (pixels, tokens), (same, moved) = first(False), first(True)
    assert pixels.shape == (64, 3, SIDE, SIDE)
    assert tokens.shape == (64, CONTEXT)
    assert (pixels == same).all()
    assert not (tokens == moved).all()
    assert Counter(map(bytes, tokens.numpy())) == Counter(map(bytes, moved.numpy()))


def test_accuracy_of_embeddings_made_by_hand():
    # The long prompt of the first class counts no more than its other, so that its embedding is halfway between them.
    prompts = [np.array([[100.0, 0, 0], [0, 1, 0]]), np.array([[0, 0, 2.0]])]
    images = np.array([[1.0, 1, 0], [0, 3, 1], [0, 0, 0.1], [0, 1, 1.5]])
    assert share_right(images, prompts, np.array([0, 0, 1, 1])) == 1.0
    assert share_right(images, prompts, np.array([0, 1, 1, 0])) == 0.5
    # By the mean of the prompts as they are, the second picture would be nearer to the second class.
    assert share_right(images[1:2], prompts, np.array([0])) == 1.0


def test_right_captions_train_and_shuffled_ones_leave_chance(dataset, held_out):
    model, steps = fit(dataset, Limits(steps=40), seed=0)
    assert steps == 40
    assert accuracy(model, held_out) > 0.6
    model, _ = fit(dataset, Limits(steps=40), seed=0, shuffled=True)
    assert accuracy(model, held_out) < 0.4, "one in eight is chance; what is learnt from noise may hit a class or two"


def test_the_same_seed_gives_the_same_model(shards):
    from streaming import StreamingDataset

    def weights(seed: int) -> bytes:
        read = StreamingDataset(local=str(shards), shuffle=True, shuffle_seed=seed, batch_size=64, num_canonical_nodes=1)
        model, _ = fit(read, Limits(steps=3), seed)
        return b"".join(parameter.detach().numpy().tobytes() for parameter in model.parameters())

    assert weights(1) == weights(1)
    assert weights(1) != weights(2)


def test_minutes_end_a_training(dataset):
    assert fit(dataset, Limits(steps=1000, minutes=1e-9), seed=0)[1] <= 1


def test_what_is_wrong_is_said(tmp_path):
    with pytest.raises(ConfigError, match="--steps, --minutes"):
        Limits()
    with pytest.raises(ConfigError, match="must be positive"):
        Limits(steps=0)
    with pytest.raises(ConfigError, match="of two classes or more"):
        read_held_out(tmp_path)
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
    with pytest.raises(ConfigError, match="cat holds no pictures"):
        read_held_out(tmp_path)
    for name in ("cat", "dog"):
        (tmp_path / name / "1.jpg").write_bytes(b"x")
    assert not (tmp_path / CLASSES).exists()
    assert "a photo of the large dog." in read_held_out(tmp_path).prompts["dog"]
    assert command(["train-check", "--steps", "1"]) == 78, "no held-out pictures"
