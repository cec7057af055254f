"""Image models: networks on pixels that give one probability, such as LAION's watermark detector.

In: a safetensors file that declares its network and preprocessing. Out: an ``ImageModel`` that scores images. Guaranteed: a file is loaded
only if every tensor that its network has is there with its size, and nothing else; what is not so is a ConfigError with the sizes
expected and found. What does not belong here: heads on embeddings (``heads.py``), reading stored images (the filter stage).

The file: the state dict of a timm network whose classifier is a stack of linear layers with ReLU between them (``classifier.0.…``,
``classifier.2.…``). The header's metadata, all text:
    format      wat2mds-image-model/1
    name        what it scores, such as watermark
    network     timm's name, such as efficientnet_b3
    classifier  sizes from features to classes, such as 1536,625,256,2
    class       which class's softmax is the score, from 0
    size        side of the square that images are resized to, whatever their shape, pixels; bilinear
    mean, std   of each channel of [0, 1], such as 0.485,0.456,0.406
    source, licence

LAION's detector (``WATERMARK``): network, classifier, preprocessing and class as its repository's example_use.py has them. It was not
run with its published weights here; its example's timm name efficientnet_b3a is an older name of efficientnet_b3.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from wat2mds.errors import ConfigError
from wat2mds.models.heads import head_path
from wat2mds.models.torchvision_ops import declare_torchvision_ops
from wat2mds.models.weights import put_header_in_order, read_checkpoint, sizes

FORMAT = "wat2mds-image-model/1"
_KEYS = ("format", "name", "network", "classifier", "class", "size", "mean", "std", "source", "licence")
WATERMARK = {
    "format": FORMAT,
    "name": "watermark",
    "network": "efficientnet_b3",
    "classifier": "1536,625,256,2",
    "class": "0",
    "size": "256",
    "mean": "0.485,0.456,0.406",
    "std": "0.229,0.224,0.225",
    "source": "https://github.com/LAION-AI/LAION-5B-WatermarkDetection",
    "licence": "none stated",
}
# In the published state dict a dropout layer stands third: the linear layers are 0, 3 and 5.
_PUBLISHED_LAYERS = {"classifier.0": "classifier.0", "classifier.3": "classifier.2", "classifier.5": "classifier.4"}


@dataclass(frozen=True)
class ImageModel:
    """A loaded network."""

    header: Mapping[str, str]
    device: str
    network: Any

    def prepared(self, image: Image.Image) -> np.ndarray:
        """float32 [3, size, size] of an RGB image."""
        size = int(self.header["size"])
        pixels = np.asarray(image.resize((size, size), Image.Resampling.BILINEAR), np.float32) / 255
        mean, std = (_numbers(self.header[key]) for key in ("mean", "std"))
        return np.ascontiguousarray(((pixels - mean) / std).transpose(2, 0, 1))

    def score(self, prepared: Sequence[np.ndarray]) -> np.ndarray:
        """float32 [n]: the probability of the class."""
        import torch

        with torch.inference_mode():
            logits = self.network(torch.from_numpy(np.stack(prepared)).to(self.device))
            chosen = logits.float().softmax(dim=1)[:, int(self.header["class"])]
        return np.asarray(chosen.cpu().numpy(), np.float32)


def is_image_model(name_or_path: str) -> bool:
    """Whether a setting names an image model rather than a head on embeddings. Raises ConfigError for what is neither."""
    return _header(head_path(name_or_path)).get("format") == FORMAT


def load_image_model(name_or_path: str, device: str) -> ImageModel:
    """Raises ConfigError for a file that is damaged, or not what it declares."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = head_path(name_or_path)
    header = _header(path)
    network = _network(path, header)
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ConfigError(
            f"the image model {path} cannot be read ({error}; {sizes(path)}): it is damaged; copy it from its source again."
        ) from error
    _require_sizes(path, network, tensors)
    network.load_state_dict(tensors)
    return ImageModel(header, device, network.eval().to(device))


def save_image_model(path: Path, header: Mapping[str, str], tensors: Mapping[str, Any]) -> None:
    """Raises ConfigError for tensors that are not those of the network that the header declares."""
    from safetensors.torch import save_file

    _require_sizes(path, _network(path, header), tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata=dict(header))
    put_header_in_order(path)
    path.chmod(0o644)


def convert_watermark(source: Path, out: Path) -> None:
    """LAION's published checkpoint as a file of this form. Raises ConfigError for one that is not it."""
    tensors = {}
    for name, tensor in read_checkpoint(source).items():
        layer, _, part = name.rpartition(".")
        tensors[f"{_PUBLISHED_LAYERS.get(layer, layer)}.{part}"] = tensor
    save_image_model(out, WATERMARK, tensors)


def _header(path: Path) -> dict[str, str]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise ConfigError(f"the head {path} cannot be read ({error}; {sizes(path)}): it is damaged; copy it again.") from error


def _network(path: Path, header: Mapping[str, str]) -> Any:
    """The declared network with random weights, on the CPU."""
    declare_torchvision_ops()
    import timm
    from torch import nn

    missing = [key for key in _KEYS if key not in header]
    if missing or header["format"] != FORMAT:
        raise ConfigError(f"{path} is no image model of format {FORMAT}: its header lacks {', '.join(missing) or 'that format'}.")
    try:
        widths = [int(width) for width in header["classifier"].split(",")]
        if not (0 <= int(header["class"]) < widths[-1]) or int(header["size"]) < 1 or len(widths) < 2:
            raise ValueError("class, size or classifier out of range")
        if any(len(_numbers(header[key])) != 3 for key in ("mean", "std")):
            raise ValueError("mean and std have three numbers")
        network = timm.create_model(header["network"], pretrained=False, num_classes=widths[-1])
    except (ValueError, RuntimeError) as error:
        raise ConfigError(f"the image model {path} declares what cannot be built: {error}.") from error
    layers: list[Any] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.ReLU(), nn.Linear(before, after)] if layers else [nn.Linear(before, after)]
    head: Any = network.pretrained_cfg
    setattr(network, str(head["classifier"]), nn.Sequential(*layers))
    return network


def _require_sizes(path: Path, network: Any, tensors: Mapping[str, Any]) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    unlike = [name for name in sorted(expected.keys() | found.keys()) if expected.get(name) != found.get(name)]
    if unlike:
        shown = [f"{name}: expected {expected.get(name, 'none')}, found {found.get(name, 'none')}" for name in unlike[:10]]
        more = f"; and {len(unlike) - 10} more" if len(unlike) > 10 else ""
        raise ConfigError(f"the image model {path} does not hold what its header declares: {'; '.join(shown)}{more}.")


def _numbers(text: str) -> np.ndarray:
    return np.array([float(number) for number in text.split(",")], np.float32)
