"""Keras archives, read without TensorFlow.

``saved_model_nsfw_b32.zip`` was written by TensorFlow 2.21 (``tf.train.Checkpoint.write``): the variables of LAION's B/32 NSFW head by
name and size, element n of each being n % 7 / 8 + 1 / 8; the mean's count is 9.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from wat2mds.errors import ConfigError
from wat2mds.models.published_heads import read_published
from wat2mds.models.tensor_bundle import read_tensor_bundle

ARCHIVE = Path(__file__).with_name("saved_model_nsfw_b32.zip")
SUFFIX = "..ATTRIBUTES.VARIABLE_VALUE"


def pattern(*shape: int) -> np.ndarray:
    return (np.arange(np.prod(shape)) % 7 * 0.125 + 0.125).reshape(shape).astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(tmp_path)
    return tmp_path / "clip_autokeras_nsfw_b32"


def test_variables_are_those_that_tensorflow_wrote(folder: Path) -> None:
    found = read_tensor_bundle(ARCHIVE)
    assert found.pop(f"layer_with_weights-1.count{SUFFIX}") == 9
    assert {name.removeprefix("layer_with_weights-").removesuffix(SUFFIX): value.shape for name, value in found.items()} == {
        "1.mean": (512,),
        "1.variance": (512,),
        "2.kernel": (512, 32),
        "2.bias": (32,),
        "3.kernel": (32, 32),
        "3.bias": (32,),
        "4.kernel": (32, 1),
        "4.bias": (1,),
    }
    for value in found.values():
        assert value.dtype == np.float32
        np.testing.assert_array_equal(value, pattern(*value.shape))
    for same in (folder, folder / "variables" / "variables.index"):
        again = read_tensor_bundle(same)
        assert len(again) == 9
        np.testing.assert_array_equal(again[f"layer_with_weights-2.kernel{SUFFIX}"], pattern(512, 32))


def test_it_becomes_a_head() -> None:
    head = read_published("nsfw-b32", ARCHIVE)
    np.testing.assert_array_equal(head.tensors["layers.0.weight"], pattern(512, 32).T)
    np.testing.assert_allclose(head.tensors["input.std"], np.sqrt(pattern(512)))
    with pytest.raises(ConfigError, match=r"layer_with_weights-1.mean.*expected \(768,\), found \(512,\)"):
        read_published("nsfw-l14", ARCHIVE)


@pytest.mark.parametrize("member", ["variables.index", "variables.data-00000-of-00001"])
def test_every_flipped_or_missing_byte_is_found(folder: Path, member: str) -> None:
    file = folder / "variables" / member
    whole = file.read_bytes()
    rng = np.random.default_rng(1)
    refused = 0
    changed = [whole[:at] + bytes([whole[at] ^ 1 << int(rng.integers(8))]) + whole[at + 1 :] for at in rng.choice(len(whole), 60)]
    for content in [*changed, whole[:-1], whole[: len(whole) // 2], b"", whole[1:]]:
        file.write_bytes(content)
        try:
            found = read_tensor_bundle(folder)
        except ConfigError:
            refused += 1
            continue
        # What has no checksum to check holds nothing of a variable: text, the footer's padding.
        assert len(found) == 9
        for name, value in found.items():
            np.testing.assert_array_equal(value, 9 if ".count." in name else pattern(*value.shape))
    assert refused > 50


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"expected one variables\.index, found 0"):
        read_tensor_bundle(tmp_path / "empty")
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        for name in ("a/x.index", "b/x.index"):
            archive.writestr(name, b"")
    with pytest.raises(ConfigError, match="found 2"):
        read_tensor_bundle(tmp_path / "two.zip")
    (tmp_path / "page.zip").write_text("<html>")
    with pytest.raises(ConfigError, match="copy it from its source again"):
        read_tensor_bundle(tmp_path / "page.zip")
