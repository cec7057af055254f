"""Small networks on CLIP's image embeddings: punsafe, pwatermark, aesthetic.

In: a safetensors file. Out: a `Head` that scores rows of embeddings, in numpy. Guaranteed: a file is loaded only if every
tensor it must hold is there with the size its header declares, and nothing else; a head refuses embeddings of another
width, and, when told which model made them, of another model.
Does not belong here: training heads (`tiny_report.py` trains the demo's), thresholds (the settings).

The file: tensors `layers.0.weight` [out, in], `layers.0.bias` [out], `layers.1.…`, with ReLU between layers; for input
`standardise` also `input.mean` and `input.std` [in]. The header's metadata, all text:
    format   wat2mds-head/1
    name     what it scores, such as safety
    clip     identity of the model whose embeddings it was trained on (`clip.model_identity`)
    kind     linear (one layer) or mlp
    widths   sizes from input to output, such as 512,64,1
    input    l2 (rows of length one), none, or standardise ((x - mean) / std)
    output   sigmoid or identity
    source, licence
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wat2mds.errors import ConfigError, nearest
from wat2mds.models.cache import cached, fetch_command, require_sizes
from wat2mds.models.catalogue import catalogue
from wat2mds.models.clip import TINY_FOLDER
from wat2mds.models.weights import put_header_in_order, sizes

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

FORMAT = "wat2mds-head/1"
_INPUTS, _OUTPUTS = ("l2", "none", "standardise"), ("sigmoid", "identity")
_KEYS = ("format", "name", "clip", "kind", "widths", "input", "output", "source", "licence")
_OWN = "tiny/"  # the heads in the tiny model's folder go by this and their name


@dataclass(frozen=True)
class Head:
    name: str
    clip: str
    """Identity of the model whose embeddings it was trained on."""
    widths: tuple[int, ...]
    input: str
    output: str
    source: str
    licence: str
    tensors: dict[str, Array] = field(repr=False)

    @property
    def kind(self) -> str:
        return "linear" if len(self.widths) == 2 else "mlp"

    def score(self, embeddings: Array) -> Array:
        """float32 [n] for float32 [n, d]."""
        import numpy as np

        if embeddings.ndim != 2 or embeddings.shape[1] != self.widths[0]:
            raise ConfigError(
                f"the head {self.name!r} takes embeddings of {self.widths[0]} numbers, not an array of shape"
                f" {embeddings.shape}: it was trained on {self.clip}; choose a head made for the model in use."
            )
        values = np.asarray(embeddings, dtype=np.float32)
        if self.input == "l2":
            values = values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
        elif self.input == "standardise":
            values = (values - self.tensors["input.mean"]) / self.tensors["input.std"]
        last = len(self.widths) - 2
        for number in range(last + 1):
            values = values @ self.tensors[f"layers.{number}.weight"].T + self.tensors[f"layers.{number}.bias"]
            if number < last:
                values = np.maximum(values, 0)
        scores = values[:, 0]
        if self.output == "sigmoid":
            scores = 1 / (1 + np.exp(-np.clip(scores, -60, 60)))
        return np.asarray(scores, dtype=np.float32)


def own_heads() -> list[str]:
    """Names of the heads that come with wat2mds: `tiny/aesthetic`, `tiny/safety`, `tiny/watermark`."""
    return sorted(_OWN + path.stem for path in TINY_FOLDER.glob("*.safetensors") if path.stem != "open_clip_model")


def head_path(name_or_path: str | Path) -> Path:
    """The file behind a setting: a name of `own_heads` or of the catalogue, or a path.

    Raises ConfigError for what is none of them, and for a catalogue's head that was not fetched.
    """
    text = str(name_or_path)
    if text in own_heads():
        return TINY_FOLDER / (text.removeprefix(_OWN) + ".safetensors")
    path = Path(text)
    if path.is_file():
        return path
    known = {name for name, entry in catalogue().items() if entry.kind != "clip"}
    if text in known:
        found = cached(text)
        if found is None:
            raise ConfigError(f"the head {text!r} is not on this machine. Fetch it once: {fetch_command(text)}")
        require_sizes(found)
        return found
    raise ConfigError(
        f"there is no head {text!r}: neither a file nor one of wat2mds's own or the catalogue's.{nearest(text, {*own_heads(), *known})}"
    )


def load_head(name_or_path: str | Path, clip: str | None = None) -> Head:
    """`clip`: identity of the model in use (`clip.model_identity`); a head that was trained on another one is refused."""
    from safetensors import SafetensorError, safe_open

    path = head_path(name_or_path)
    try:
        with safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise ConfigError(
            f"the head {path} cannot be read ({error}; {sizes(path)}): it is damaged; copy it from its source again."
        ) from error
    widths = _checked_header(path, header)
    _check_tensors(path, widths, header["input"], tensors)
    if clip is not None and clip != header["clip"]:
        raise ConfigError(
            f"the head {path} was trained on embeddings of {header['clip']}, but the model in use is {clip}:"
            " its scores would mean nothing; choose the head or the model to match."
        )
    head_tensors = {name: tensor.astype("float32") for name, tensor in tensors.items()}
    return Head(
        header["name"], header["clip"], widths, header["input"], header["output"], header["source"], header["licence"],
        head_tensors,
    )  # fmt: skip


def save_head(path: Path, head: Head) -> None:
    from safetensors.numpy import save_file

    _check_tensors(path, head.widths, head.input, head.tensors)
    header = {
        "format": FORMAT,
        "name": head.name,
        "clip": head.clip,
        "kind": head.kind,
        "widths": ",".join(str(width) for width in head.widths),
        "input": head.input,
        "output": head.output,
        "source": head.source,
        "licence": head.licence,
    }
    save_file(head.tensors, path, metadata=header)
    put_header_in_order(path)  # the file's checksum is part of what scores are known by
    path.chmod(0o644)  # safetensors writes for the owner alone


def head_identity(name_or_path: str | Path) -> str:
    """Name and content of the file, for fingerprints."""
    import hashlib

    path = head_path(name_or_path)
    return f"{path.stem}@sha256:{hashlib.sha256(path.read_bytes()).hexdigest()[:16]}"


def _checked_header(path: Path, header: dict[str, str]) -> tuple[int, ...]:
    missing = [key for key in _KEYS if key not in header]
    if missing:
        raise ConfigError(f"the head {path} lacks {', '.join(missing)} in its header: it is not a head of format {FORMAT}.")
    if header["format"] != FORMAT:
        raise ConfigError(f"the head {path} has the format {header['format']!r}; this release reads {FORMAT}.")
    for key, allowed in (("input", _INPUTS), ("output", _OUTPUTS), ("kind", ("linear", "mlp"))):
        if header[key] not in allowed:
            raise ConfigError(f"the head {path} declares {key} {header[key]!r}.{nearest(header[key], allowed)}")
    parts = header["widths"].split(",")
    widths = tuple(int(part) for part in parts if part.isdecimal())
    if len(widths) != len(parts) or len(widths) < 2 or widths[-1] != 1 or 0 in widths:
        raise ConfigError(f"the head {path} declares widths {header['widths']!r}; they look like 512,64,1 and end in 1.")
    if (header["kind"] == "linear") != (len(widths) == 2):
        raise ConfigError(f"the head {path} is of kind {header['kind']} but declares widths {header['widths']}.")
    return widths


def _check_tensors(path: Path, widths: tuple[int, ...], input_kind: str, tensors: dict[str, Array]) -> None:
    expected: dict[str, tuple[int, ...]] = {}
    for number, (before, after) in enumerate(itertools.pairwise(widths)):
        expected[f"layers.{number}.weight"] = (after, before)
        expected[f"layers.{number}.bias"] = (after,)
    if input_kind == "standardise":
        expected |= {"input.mean": (widths[0],), "input.std": (widths[0],)}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if found != expected:
        names = sorted(expected.keys() | found.keys())
        wrong = [f"{n}: expected {expected.get(n, 'none')}, found {found.get(n, 'none')}" for n in names]
        unlike = [line for n, line in zip(names, wrong, strict=True) if expected.get(n) != found.get(n)]
        raise ConfigError(f"the head {path} does not hold what its header declares: {'; '.join(unlike)}.")
