"""open_clip's preprocessing in two steps: what one image needs, in any thread, and what a batch needs, where the model is.

In: open_clip's own transform. Out: pixels, uint8 [height, width, 3], and from a batch of them the towers' input. Guaranteed: both steps
together give bit for bit what the transform gives (the same operations in the same order); between them an image is a quarter of
its size in float32, in memory and on the way to a GPU. What does not belong here: decoding, the model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wat2mds.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch
    from PIL import Image


class Preprocess:
    """A model's transform. Raises ConfigError for one that does not end in conversion to a tensor and normalisation."""

    def __init__(self, transform: Any) -> None:
        from torchvision.transforms import Normalize, ToTensor

        *self._on_images, to_tensor, normalize = transform.transforms
        if not (isinstance(to_tensor, ToTensor) and isinstance(normalize, Normalize)):
            raise ConfigError(
                f"the model preprocesses images in a way that is not known here: {transform}; choose another model."
            )
        self._mean, self._std = normalize.mean, normalize.std

    def pixels(self, image: Image.Image) -> npt.NDArray[np.uint8]:
        """uint8 [height, width, 3]: resized and cropped. Modes other than RGB are converted first: Pillow resizes palettes badly."""
        import numpy as np

        image = image.convert("RGB")
        for step in self._on_images:
            image = step(image)
        return np.asarray(image)

    def normalized(self, batch: torch.Tensor) -> torch.Tensor:
        """float32 [n, 3, height, width] of uint8 [n, height, width, 3], on the same device."""
        import torch

        mean, std = (torch.tensor(values, device=batch.device).view(3, 1, 1) for values in (self._mean, self._std))
        pixels = batch.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
        return pixels.div_(255).sub_(mean).div_(std)
