"""LAION's published heads, from the files of their authors to the project's own head files.

In: a head's tensors under the names of its own framework: the .pth or the Keras archive that its authors published, read without
running pickles or TensorFlow, or an .npz. Out: a ``Head`` and its file. Guaranteed: exactly the tensors that the head must have, each
of its size and finite, else ConfigError with what was expected and found. What does not belong here: fetching them, scoring (``heads.py``).

What is verified: aesthetic v1 gives its repository's known scores. What is not: aesthetic v2 and the NSFW heads were not compared with
their original frameworks. Aesthetic v2 has no activation between its layers (its code comments them out), so that the five layers are
one, which is what is stored, multiplied in double precision. The NSFW heads standardise their input by the stored mean and variance, as
Keras's Normalization layer does; their framework looked a few inputs up as categories (``CATEGORICAL``) in tables that are empty in
the published archive, so the number itself stands in their place: their standard deviations of 100 to 1,400 make the difference from an
empty table's index of 0 or 1 at most 0.01 deviations. The authors' own PyTorch port of the NSFW heads leaves those tables out too.

The violence detectors are two class vectors, of appropriate and of inappropriate images, in the manner of Q16 (arXiv 2202.06675): the
cosines with them times 100, as CLIP's own temperature and in Q16's code (main/models/clip.py), through a softmax. The softmax of two
numbers is the sigmoid of their difference, so that it is a linear head. LAION's use of them took the larger of the two, which is a
score above 0.5. How they were trained is not published beside them, and no known scores are at hand to compare with.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wat2mds.errors import ConfigError, nearest
from wat2mds.models.heads import Head
from wat2mds.models.weights import read_arrays

_V1 = "https://github.com/LAION-AI/aesthetic-predictor"
_V2 = "https://github.com/christophschuhmann/improved-aesthetic-predictor"
_NSFW = "https://github.com/LAION-AI/CLIP-based-NSFW-Detector"
_V2_LAYERS = (0, 2, 4, 6, 7)  # the numbers between are dropout, which does nothing after training
_SUFFIX = "..ATTRIBUTES.VARIABLE_VALUE"
# Q16's and CLIP's: what cosines are multiplied by before the softmax.
_TEMPERATURE = 100
# Inputs that the original framework looked up as categories.
CATEGORICAL = {"nsfw-b32": (92, 133, 312), "nsfw-l14": (180, 316, 413, 440, 644)}


@dataclass(frozen=True)
class Published:
    """One published head: what it scores, for which model, its layers' sizes, where it comes from, how its file names tensors."""

    name: str
    clip: str
    widths: tuple[int, ...]
    layout: str
    source: str
    licence: str


PUBLISHED = {
    "aesthetic-v1-b16": Published("aesthetic", "ViT-B-16/openai", (512, 1), "linear", _V1, "MIT"),
    "aesthetic-v1-b32": Published("aesthetic", "ViT-B-32/openai", (512, 1), "linear", _V1, "MIT"),
    "aesthetic-v1-l14": Published("aesthetic", "ViT-L-14/openai", (768, 1), "linear", _V1, "MIT"),
    "aesthetic-v2-l14": Published("aesthetic", "ViT-L-14/openai", (768, 1024, 128, 64, 16, 1), "stack", _V2, "Apache-2.0"),
    "nsfw-b32": Published("safety", "ViT-B-32/openai", (512, 32, 32, 1), "keras", _NSFW, "MIT"),
    "nsfw-l14": Published("safety", "ViT-L-14/openai", (768, 64, 512, 256, 1), "keras", _NSFW, "MIT"),
    "violence-b32": Published("toxicity", "ViT-B-32/openai", (512, 1), "classes", _NSFW, "MIT"),
    "violence-l14": Published("toxicity", "ViT-L-14/openai", (768, 1), "classes", _NSFW, "MIT"),
}


def read_published(kind: str, source: Path) -> Head:
    """A head of a kind in ``PUBLISHED``. Raises ConfigError for another kind, or a file that does not hold exactly that head."""
    if kind not in PUBLISHED:
        raise ConfigError(f"there is no published head {kind!r}.{nearest(kind, PUBLISHED)}")
    entry = PUBLISHED[kind]
    tensors = read_arrays(source)
    if entry.layout == "keras" and "norm.mean" in tensors:
        tensors = _as_keras(tensors)
    if entry.layout == "keras":
        tensors = {name: tensor for name, tensor in tensors.items() if not _bookkeeping(kind, name)}
    _require(source, kind, _expected(entry), tensors)
    widths, made = entry.widths, {}
    if entry.layout == "linear":
        made = {"layers.0.weight": tensors["weight"], "layers.0.bias": tensors["bias"]}
    elif entry.layout == "stack":
        made, widths = _multiplied(tensors), (entry.widths[0], 1)
    elif entry.layout == "classes":
        classes = tensors["array"].astype(np.float64)
        classes = classes / np.linalg.norm(classes, axis=1, keepdims=True)
        made = {"layers.0.weight": _TEMPERATURE * (classes[1:] - classes[:1]), "layers.0.bias": np.zeros(1)}
    else:
        variance = tensors[f"layer_with_weights-1.variance{_SUFFIX}"].astype(np.float64)
        made["input.mean"] = tensors[f"layer_with_weights-1.mean{_SUFFIX}"]
        # Keras divides by the root of the variance, at least 1e-7.
        made["input.std"] = np.maximum(np.sqrt(variance), 1e-7)
        for number in range(len(widths) - 1):
            made[f"layers.{number}.weight"] = tensors[f"layer_with_weights-{number + 2}.kernel{_SUFFIX}"].T
            made[f"layers.{number}.bias"] = tensors[f"layer_with_weights-{number + 2}.bias{_SUFFIX}"]
    given = "standardise" if entry.layout == "keras" else "l2"
    output = "sigmoid" if entry.layout in ("keras", "classes") else "identity"
    arrays = {name: np.ascontiguousarray(tensor, np.float32) for name, tensor in made.items()}
    return Head(entry.name, entry.clip, widths, given, output, entry.source, entry.licence, arrays)


def _expected(entry: Published) -> dict[str, tuple[int, ...]]:
    sizes = list(zip(entry.widths, entry.widths[1:], strict=False))
    if entry.layout == "linear":
        return {"weight": (1, entry.widths[0]), "bias": (1,)}
    if entry.layout == "classes":
        return {"array": (2, entry.widths[0])}
    if entry.layout == "stack":
        found: dict[str, tuple[int, ...]] = {}
        for layer, (before, after) in zip(_V2_LAYERS, sizes, strict=True):
            found |= {f"layers.{layer}.weight": (after, before), f"layers.{layer}.bias": (after,)}
        return found
    found = {f"layer_with_weights-1.{name}{_SUFFIX}": (entry.widths[0],) for name in ("mean", "variance")}
    for number, (before, after) in enumerate(sizes, start=2):
        found[f"layer_with_weights-{number}.kernel{_SUFFIX}"] = (before, after)
        found[f"layer_with_weights-{number}.bias{_SUFFIX}"] = (after,)
    return found


def _as_keras(tensors: dict[str, Any]) -> dict[str, Any]:
    """The tensors of the authors' PyTorch port (src/models.py of their repository) under the names of the archive it was made from."""
    named = {}
    for name, tensor in tensors.items():
        module, _, part = name.partition(".")
        number = module.removeprefix("linear_")
        if module == "norm":
            named[f"layer_with_weights-1.{part}{_SUFFIX}"] = tensor
        elif number.isdecimal() and part in ("weight", "bias"):
            kernel = part == "weight"
            named[f"layer_with_weights-{int(number) + 1}.{'kernel' if kernel else part}{_SUFFIX}"] = (
                tensor.T if kernel else tensor
            )
        else:
            named[name] = tensor
    return named


def _bookkeeping(kind: str, name: str) -> bool:
    """What Keras stores beside the weights: metrics of the training, counts, the tables of categories."""
    tables = {
        f"layer_with_weights-0.encoding_layers.{n}.token_counts..ATTRIBUTES.table-{part}"
        for n in CATEGORICAL[kind]
        for part in ("keys", "values")
    }
    return name.startswith("keras_api.metrics.") or name == f"layer_with_weights-1.count{_SUFFIX}" or name in tables


def _require(source: Path, kind: str, expected: dict[str, tuple[int, ...]], tensors: dict[str, Any]) -> None:
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    unlike = [n for n in sorted(expected.keys() | found.keys()) if expected.get(n) != found.get(n)]
    if unlike:
        lines = [f"{n}: expected {expected.get(n, 'none')}, found {found.get(n, 'none')}" for n in unlike]
        raise ConfigError(f"{source} is not the head {kind}: {'; '.join(lines)}.")
    for name, tensor in tensors.items():
        if not np.issubdtype(tensor.dtype, np.floating) or not np.isfinite(tensor).all():
            raise ConfigError(f"{source}: {name} holds something else than finite numbers: it is damaged; copy it again.")


def _multiplied(tensors: dict[str, Any]) -> dict[str, np.ndarray]:
    """Layers without an activation between them as one."""
    weight, bias = np.eye(tensors["layers.0.weight"].shape[1]), np.zeros(tensors["layers.0.weight"].shape[1])
    for layer in _V2_LAYERS:
        one = tensors[f"layers.{layer}.weight"].astype(np.float64)
        weight, bias = one @ weight, one @ bias + tensors[f"layers.{layer}.bias"]
    return {"layers.0.weight": weight, "layers.0.bias": bias}
