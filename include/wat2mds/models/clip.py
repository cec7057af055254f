"""Loads a CLIP model through open_clip: a published one by name and weights, or the project's own tiny one.

In: the settings' model name, weights tag (or file) and device. Out: a `Clip` that preprocesses, tokenises and embeds.
Guaranteed: embeddings are float32, of length one, in input order; `model_identity` names exactly what was loaded, without
importing torch, so that it can go into fingerprints; a wrong name or a damaged file is a `ConfigError` before work starts.
Does not belong here: what is done with embeddings (the filter stage), heads on them (`heads.py`).
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wat2mds.errors import ConfigError, TransientError, nearest
from wat2mds.models import short_text
from wat2mds.models.cache import cached, fetch_command, require_sizes
from wat2mds.models.preprocess import Preprocess
from wat2mds.models.torchvision_ops import declare_torchvision_ops
from wat2mds.models.weights import sizes

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch
    from PIL import Image

    Vectors = npt.NDArray[Any]

log = logging.getLogger(__name__)

TINY = "wat2mds-tiny"
TINY_FOLDER = Path(__file__).parent / "tiny"
_LOCAL, _HUB = "local-dir:", "hf-hub:"
_CONFIG, _WEIGHTS, _TOKENIZER = "open_clip_config.json", "open_clip_model.safetensors", "tokenizer.json"


@dataclass(frozen=True)
class Clip:
    """A loaded model."""

    name: str
    pretrained: str
    identity: str
    dim: int
    context_length: int
    device: str
    precision: str
    model: Any
    preprocess: Preprocess
    tokenizer: Callable[[list[str]], torch.Tensor]

    def pixels(self, image: Image.Image) -> npt.NDArray[np.uint8]:
        """From a PIL image to one row of `encode_image`'s batch, uint8 [height, width, 3]; may run in any thread."""
        return self.preprocess.pixels(image)

    def tokenize(self, captions: Sequence[str]) -> torch.Tensor:
        """int64 [n, context_length]; longer captions are cut, unknown words become the unknown token."""
        return self.tokenizer(list(captions))

    def image_rows(self, batch: torch.Tensor) -> torch.Tensor:
        """float32 [n, dim] on the model's device, each row of length one, of uint8 [n, height, width, 3] (`pixels`).

        On a GPU the rows are still being computed when this returns; the batch is copied to it meanwhile if its memory is pinned.
        """
        import open_clip
        import torch

        with torch.inference_mode():
            pixels = self.preprocess.normalized(batch.to(self.device, non_blocking=True))
            return _unit_rows(self.model.encode_image(pixels.to(open_clip.get_input_dtype(self.precision))))

    def text_rows(self, tokens: torch.Tensor) -> torch.Tensor:
        """As `image_rows`, of what `tokenize` made of captions. Padding that all of them share costs nothing."""
        import torch

        with torch.inference_mode():
            cut = tokens[:, : int(self.token_lengths(tokens).max())]
            return _unit_rows(short_text.encode(self.model, cut.to(self.device, non_blocking=True)))

    def token_lengths(self, tokens: torch.Tensor) -> torch.Tensor:
        """int64 [n]: how many tokens of each row cost anything. Rows of like length are quickest together."""
        return short_text.lengths(self.model, tokens)

    def encode_image(self, batch: Sequence[npt.NDArray[np.uint8]]) -> Vectors:
        """float32 [n, dim], each row of length one, of `pixels`; the cosine of two rows is their dot product."""
        import numpy as np
        import torch

        return self.image_rows(torch.from_numpy(np.stack(batch))).cpu().numpy()

    def encode_text(self, captions: Sequence[str] | torch.Tensor) -> Vectors:
        """Captions, or what `tokenize` made of them; float32 [n, dim], each row of length one."""
        import torch

        tokens = captions if isinstance(captions, torch.Tensor) else self.tokenize(captions)
        return self.text_rows(tokens).cpu().numpy()

    def describe(self) -> dict[str, Any]:
        """For manifests, version files and `wat2mds models`."""
        local = _local_files(self.name, self.pretrained)
        return {
            "name": self.name,
            "pretrained": self.pretrained,
            "identity": self.identity,
            "dim": self.dim,
            "precision": self.precision,
            "sha256": {path.name: _sha256(path) for path in local},
        }


def model_identity(name: str, pretrained: str) -> str:
    """One short string for fingerprints, and for heads to say what they were trained on. Imports no torch.

    `ViT-B-32/openai` for published weights, `wat2mds-tiny@sha256:…` where files of this machine decide, by their content.
    """
    _check_name(name)
    files = _local_files(name, pretrained)
    if not files:
        return name if name.startswith(_HUB) else f"{name}/{pretrained}"
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.name}\0{_sha256(path)}\n".encode())
    # A folder's or file's place says nothing about its content, so it is left out.
    label = "local-dir" if name.startswith(_LOCAL) else name
    return f"{label}@sha256:{digest.hexdigest()[:16]}"


def load_clip(name: str, pretrained: str, device: str = "auto", precision: str = "fp32") -> Clip:
    """`name` is open_clip's (`ViT-B-32`, `local-dir:FOLDER`, `hf-hub:…`) or `wat2mds-tiny`; `pretrained` a tag or a file.

    `pretrained` is not looked at where the name holds the weights itself. `device` is auto, cpu, cuda or cuda:N.
    """
    identity = model_identity(name, pretrained)
    declare_torchvision_ops()
    import open_clip
    import torch

    chosen = device_of(device)
    source = _LOCAL + str(TINY_FOLDER) if name == TINY else name
    by_schema = source.startswith((_LOCAL, _HUB))
    tag = None if by_schema else pretrained
    options: dict[str, Any] = {}
    if tag is not None and not Path(tag).is_file():
        known = open_clip.list_pretrained_tags_by_model(name)
        if tag not in known:
            raise ConfigError(
                f"{tag!r} is neither a file nor weights that open_clip knows for the model {name!r}.{nearest(tag, known)}"
            )
        # open_clip 3.3 only warns where weights were trained with QuickGELU and the model's config lacks it, as with
        # ViT-B-32 and OpenAI's weights; LAION's thresholds were chosen on the model with it.
        published = open_clip.get_pretrained_cfg(name, tag)
        options["force_quick_gelu"] = bool(published.get("quick_gelu", False))
        kept = cached(f"{name}/{tag}")
        if kept is not None:
            require_sizes(kept)
            tag = str(kept)
            options |= _as_published(name, published, kept.parent)
    try:
        model, _, preprocess = open_clip.create_model_and_transforms(
            source,
            pretrained=tag,
            precision=precision,
            device=chosen,
            pretrained_image=False,
            **options,
        )
        tokenizer = _tokenizer(source, options)
        config = open_clip.get_model_config(source)
    except Exception as error:
        raise _load_error(error, name, pretrained) from error
    model.eval()
    if not by_schema and pretrained and Path(pretrained).is_file():
        log.info("model %s with the weights of %s", name, pretrained)
    return Clip(
        name=name,
        pretrained=pretrained,
        identity=identity,
        dim=int(config["embed_dim"]),
        context_length=int(config["text_cfg"].get("context_length", 77)),
        device=str(torch.device(chosen)),
        precision=precision,
        model=model,
        preprocess=Preprocess(preprocess),
        tokenizer=tokenizer,
    )


def _as_published(name: str, published: dict[str, Any], folder: Path) -> dict[str, Any]:
    """open_clip's options for weights given as a file: what it knows of the tag, and a text tower's config from beside the weights."""
    import open_clip

    options: dict[str, Any] = {
        "image_mean": published["mean"],
        "image_std": published["std"],
        "image_interpolation": published["interpolation"],
        "image_resize_mode": published["resize_mode"],
    }
    text = open_clip.get_model_config(name)["text_cfg"]
    if "hf_model_name" in text:
        options["text_cfg"] = text | {
            "hf_model_name": str(folder),
            "hf_tokenizer_name": str(folder),
            "hf_model_pretrained": False,
        }
    return options


def _tokenizer(source: str, options: dict[str, Any]) -> Any:
    """The tokenizer that belongs to a model; that of a text tower of transformers from beside cached weights, without asking a hub."""
    import open_clip

    text = options.get("text_cfg")
    if text is None:
        return open_clip.get_tokenizer(source)
    from open_clip.tokenizer import DEFAULT_CONTEXT_LENGTH, HFTokenizer

    return HFTokenizer(
        text["hf_tokenizer_name"],
        context_length=text.get("context_length", DEFAULT_CONTEXT_LENGTH),
        tokenizer_mode=text.get("tokenizer_mode"),
        **text.get("tokenizer_kwargs", {}),
    )


def known_models() -> list[str]:
    """Names that `load_clip` takes, besides `local-dir:` and `hf-hub:` ones; found without importing open_clip."""
    spec = importlib.util.find_spec("open_clip")
    folder = Path(spec.origin).parent / "model_configs" if spec and spec.origin else Path()
    return [TINY, *sorted(path.stem for path in folder.glob("*.json"))]


def _check_name(name: str) -> None:
    if name.startswith(_HUB):
        return
    if name.startswith(_LOCAL):
        folder = Path(name.removeprefix(_LOCAL))
        if not (folder / _CONFIG).is_file():
            raise ConfigError(f"{folder} is not a model folder: it has no {_CONFIG}.")
        return
    known = known_models()
    if name not in known:
        raise ConfigError(f"there is no CLIP model {name!r}.{nearest(name, known)}")


def _local_files(name: str, pretrained: str) -> list[Path]:
    """The files of this machine that decide what the model computes; none for published weights."""
    if name == TINY or name.startswith(_LOCAL):
        folder = TINY_FOLDER if name == TINY else Path(name.removeprefix(_LOCAL))
        weights = folder / _WEIGHTS
        if not weights.is_file():
            # open_clip would take any other safetensors file of the folder, such as a head, for the model's.
            raise ConfigError(f"the model folder {folder} has no {_WEIGHTS}; {_remedy(name)}")
        return [path for path in (folder / _CONFIG, weights, folder / _TOKENIZER) if path.is_file()]
    weights = Path(pretrained)
    return [weights] if pretrained and weights.is_file() else []


def _load_error(error: Exception, name: str, pretrained: str) -> Exception:
    """What open_clip, safetensors or transformers raised, as an error that says what to do."""
    files = _local_files(name, pretrained)
    if files:
        listed = ", ".join(f"{path} ({sizes(path)})" if path.suffix != ".json" else str(path) for path in files)
        return ConfigError(f"the CLIP model {name!r} does not load: {error}. Its files: {listed}; {_remedy(name)}")
    if "download" in str(error).lower() or isinstance(error, OSError):
        return TransientError(
            f"the weights of {name}/{pretrained} are not on this machine and could not be fetched: {error}. Fetch them once where there"
            f" is a network: {fetch_command(f'{name}/{pretrained}')}. WAT2MDS_MODELS names the folder, which may be copied."
        )
    return ConfigError(f"the CLIP model {name}/{pretrained} does not load: {error}.")


def _remedy(name: str) -> str:
    if name == TINY:
        return "take the folder from the repository again, or train it: python -m wat2mds.models.train_tiny --out FOLDER."
    return "copy it here again and compare its checksum with its source."


def device_of(setting: str) -> str:
    """The device that a setting means here: auto is the GPU where there is one. Raises ConfigError for one that is not there."""
    import torch

    if setting == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if setting.partition(":")[0] not in ("cpu", "cuda"):
        raise ConfigError(f"there is no device {setting!r}.{nearest(setting, ('auto', 'cpu', 'cuda'))}")
    if setting.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"device {setting!r} was asked for, but torch finds no GPU here: set filter.device to auto or cpu.")
    return setting


def _unit_rows(features: torch.Tensor) -> torch.Tensor:
    """Normalised in float32, whatever the towers' precision."""
    import torch

    return torch.nn.functional.normalize(features.float(), dim=-1)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
