"""Image models: scored as by hand, refused when they are not what they declare; LAION's published layout converts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from wat2mds.errors import ConfigError
from wat2mds.models.image_models import FORMAT, WATERMARK, convert_watermark, is_image_model, load_image_model, save_image_model
from wat2mds.models.torchvision_ops import declare_torchvision_ops

declare_torchvision_ops()
import timm  # noqa: E402

HEADER = WATERMARK | {"network": "test_efficientnet", "classifier": "256,8,2", "class": "0", "size": "64"}


def network() -> Any:
    """Random weights; the same each time."""
    torch.manual_seed(0)
    made = timm.create_model("test_efficientnet", pretrained=False, num_classes=2)
    made.classifier = torch.nn.Sequential(torch.nn.Linear(256, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    return made.eval()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_image_model(tmp_path / "model.safetensors", HEADER, network().state_dict())
    return tmp_path / "model.safetensors"


def test_scores_as_timm_and_torchvision_do(path: Path) -> None:
    from torchvision import transforms

    before = transforms.Compose(
        [
            transforms.Resize((64, 64)),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (h, w, 3), np.uint8)) for h, w in ((64, 64), (200, 90), (31, 80))]
    model = load_image_model(str(path), "cpu")
    assert is_image_model(str(path))
    prepared = [model.prepared(image) for image in images]
    batch = torch.stack([before(image) for image in images])
    assert np.allclose(np.stack(prepared), batch.numpy(), atol=1e-5)
    with torch.inference_mode():
        expected = network()(batch).softmax(dim=1)[:, 0].numpy()
    assert np.allclose(model.score(prepared), expected, atol=1e-5)


def test_a_cut_file_is_refused_with_both_sizes(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[:-1000])
    with pytest.raises(
        ConfigError, match=f"expected {len(whole):,} bytes by its header, found {len(whole) - 1000:,} bytes"
    ) as caught:
        load_image_model(str(path), "cpu")
    assert caught.value.exit_code == 78


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ({"classifier": "256,9,2"}, r"classifier\.0\.bias: expected \(9,\), found \(8,\)"),
        ({"network": "test_efficientnt"}, "declares what cannot be built"),
        ({"class": "2"}, "out of range"),
        ({"mean": "0.5"}, "mean and std have three numbers"),
        ({"format": "wat2mds-head/1"}, f"no image model of format {FORMAT}"),
    ],
)
def test_what_does_not_fit_its_header_is_refused(path: Path, header: dict[str, str], said: str) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(path)
    save_file(tensors, path, metadata=HEADER | header)
    with pytest.raises(ConfigError, match=said):
        load_image_model(str(path), "cpu")


def test_the_published_layout_converts(tmp_path: Path) -> None:
    """Random weights under the names that LAION's example gives them."""
    torch.manual_seed(0)
    layers = torch.nn.Linear(1536, 625), torch.nn.ReLU(), torch.nn.Dropout(0.3), torch.nn.Linear(625, 256), torch.nn.ReLU()
    published = timm.create_model("efficientnet_b3", pretrained=False, num_classes=2)
    published.classifier = torch.nn.Sequential(*layers, torch.nn.Linear(256, 2))
    torch.save(published.state_dict(), tmp_path / "published.pt")
    convert_watermark(tmp_path / "published.pt", tmp_path / "made.safetensors")
    model = load_image_model(str(tmp_path / "made.safetensors"), "cpu")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8))
    rows = [model.prepared(image)]
    with torch.inference_mode():
        expected = published.eval()(torch.from_numpy(np.stack(rows))).softmax(dim=1)[0, 0].item()
    assert model.score(rows)[0] == pytest.approx(expected, abs=1e-5)
    torch.save({"classifier.0.weight": torch.zeros(2, 2)}, tmp_path / "other.pt")
    with pytest.raises(ConfigError, match=r"expected none, found|found none"):
        convert_watermark(tmp_path / "other.pt", tmp_path / "none.safetensors")
    assert not (tmp_path / "none.safetensors").exists()
