"""Our embeddings beside a plain open_clip loop's: the same pixels, the same vectors, whatever the order, batch and precision."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from wat2mds.models import short_text
from wat2mds.models.clip import TINY, TINY_FOLDER, Clip, load_clip
from wat2mds.models.torchvision_ops import declare_torchvision_ops

declare_torchvision_ops()
import open_clip  # noqa: E402
import torch  # noqa: E402

CAPTIONS = ["red", "a photograph of three small green circles on a red table " * 9, "", "two blue stars", "a b c d e f g h i j"]


def pictures() -> list[Image.Image]:
    """As download stores them: JPEG, of several sizes and modes."""
    rng = np.random.default_rng(5)
    found = []
    for number, size in enumerate(((256, 256), (256, 170), (91, 256), (40, 40), (224, 224))):
        coarse = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
        out = io.BytesIO()
        (coarse.convert("L") if number == 3 else coarse).save(out, "JPEG", quality=95)
        found.append(Image.open(io.BytesIO(out.getvalue())))
    return found


@pytest.fixture(scope="module", params=["ViT-B-32-quickgelu", TINY])
def plain(request: pytest.FixtureRequest) -> tuple[Any, Any, Any]:
    """open_clip's own model, transform and tokenizer; of ViT-B-32 with random weights."""
    name = f"local-dir:{TINY_FOLDER}" if request.param == TINY else request.param
    torch.manual_seed(7)
    model, _, transform = open_clip.create_model_and_transforms(name, pretrained_image=False)
    return model.eval(), transform, open_clip.get_tokenizer(name)


@pytest.fixture(scope="module")
def source(plain: tuple[Any, Any, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Name and weights of the same."""
    if plain[0].context_length < 77:
        return TINY, ""
    path = tmp_path_factory.mktemp("weights") / "model.pt"
    torch.save(plain[0].state_dict(), path)
    return "ViT-B-32-quickgelu", str(path)


@pytest.fixture(scope="module")
def clip(source: tuple[str, str]) -> Clip:
    return load_clip(*source, device="cpu")


@pytest.fixture(scope="module")
def rows(plain: tuple[Any, Any, Any]) -> tuple[np.ndarray, np.ndarray]:
    """open_clip's own, image by image and caption by caption, padded to the whole context."""
    model, transform, tokenizer = plain
    with torch.inference_mode():
        images = [model.encode_image(transform(picture)[None], normalize=True) for picture in pictures()]
        texts = [model.encode_text(tokenizer([caption]), normalize=True) for caption in CAPTIONS]
    return torch.cat(images).numpy(), torch.cat(texts).numpy()


def cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.asarray(np.einsum("nd,nd->n", one, other) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1))


def test_pixels_are_those_of_open_clip_to_the_last_bit(clip: Clip, plain: tuple[Any, Any, Any]) -> None:
    """Largest difference: 0."""
    wanted = torch.stack([plain[1](picture) for picture in pictures()])
    batch = np.stack([clip.pixels(picture) for picture in pictures()])
    assert batch.dtype == np.uint8
    assert torch.equal(clip.preprocess.normalized(torch.from_numpy(batch)), wanted)


def test_embeddings_are_those_of_a_plain_loop(clip: Clip, rows: tuple[np.ndarray, np.ndarray]) -> None:
    images = clip.encode_image([clip.pixels(picture) for picture in pictures()])
    for found, wanted in zip((images, clip.encode_text(CAPTIONS)), rows, strict=True):
        assert cosines(found, wanted).min() >= 0.9999
        assert np.abs(found - wanted).max() < 1e-5


def test_neither_order_nor_batch_matters(clip: Clip) -> None:
    pixels = [clip.pixels(picture) for picture in pictures()]
    images, texts = clip.encode_image(pixels), clip.encode_text(CAPTIONS)
    order = [3, 0, 4]
    assert np.abs(clip.encode_image([pixels[n] for n in order]) - images[order]).max() < 1e-5
    assert np.abs(clip.encode_text([CAPTIONS[n] for n in order]) - texts[order]).max() < 1e-5
    assert np.abs(clip.encode_image(pixels[1:2]) - images[1]).max() < 1e-5
    assert np.abs(clip.encode_text(CAPTIONS[1:2]) - texts[1]).max() < 1e-5


def test_half_the_bits_give_nearly_the_same(source: tuple[str, str], rows: tuple[np.ndarray, np.ndarray]) -> None:
    """bf16 towers, rows normalised in float32."""
    clip = load_clip(*source, device="cpu", precision="bf16")
    images = clip.encode_image([clip.pixels(picture) for picture in pictures()])
    for found, wanted in zip((images, clip.encode_text(CAPTIONS)), rows, strict=True):
        assert found.dtype == np.float32
        assert cosines(found, wanted).min() >= 0.999


def test_padding_is_not_embedded(clip: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    widths: list[int] = []
    encode = short_text.encode

    def counted(model: Any, tokens: torch.Tensor) -> torch.Tensor:
        widths.append(tokens.shape[1])
        return encode(model, tokens)

    monkeypatch.setattr(short_text, "encode", counted)
    for caption in ("red", CAPTIONS[1]):
        clip.encode_text([caption])
    assert widths[0] < 5 < widths[1] == clip.context_length


def test_a_tower_of_another_kind_gets_all_tokens() -> None:
    tokens = torch.tensor([[1, 2, 3, 0, 0]])
    assert short_text.lengths(torch.nn.Identity(), tokens).tolist() == [5]
