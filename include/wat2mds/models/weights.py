"""Files of weights, read without running what they hold.

In: a safetensors file, a PyTorch checkpoint, a TorchScript archive, a Keras archive, or arrays of numpy. Out: tensors by name.
Guaranteed: a pickle is read by torch's restricted reader alone, which builds tensors and plain containers and refuses the rest; a
TorchScript archive, whose code may run while it is read, only for a caller who knows its checksum; what does not read is a ConfigError
with the sizes expected and found. What does not belong here: which tensors a model must have (``heads.py``, open_clip).
"""

from __future__ import annotations

import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

from wat2mds.errors import ConfigError

CHECKPOINTS = (".pth", ".pt", ".bin")
_HEADER = 8  # bytes of a safetensors file that say how long its header is
_MOST_HEADER = 100_000_000  # safetensors' own limit
_TORCHSCRIPT = "constants.pkl"  # a member that only TorchScript archives have


def sizes(path: Path) -> str:
    """Bytes expected and found of a safetensors file, for messages; of another file the bytes found."""
    found = path.stat().st_size
    if path.suffix != ".safetensors":
        return f"it has {found:,} bytes"
    stated = _stated_size(path, found)
    expected = f"{stated:,} bytes by its header" if stated is not None else "a header that states its size"
    return f"expected {expected}, found {found:,} bytes"


def _stated_size(path: Path, found: int) -> int | None:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_HEADER), "little")
        if found < _HEADER or length > min(found - _HEADER, _MOST_HEADER):
            return None
        try:
            header = json.loads(file.read(length))
            ends = [int(entry["data_offsets"][1]) for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, TypeError, KeyError, IndexError, AttributeError):
            return None
    return _HEADER + length + max(ends, default=0)


def put_header_in_order(path: Path) -> None:
    """Sort a safetensors file's header in place: safetensors writes what it says of the file in random order."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(_HEADER), "little")
        header = json.loads(file.read(length))
        ordered = json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode().ljust(length)
        assert len(ordered) == length, "the header's numbers and names are the same"
        file.seek(_HEADER)
        file.write(ordered)


def is_torchscript(path: Path) -> bool:
    """Whether a file is an archive of TorchScript, such as OpenAI published CLIP in."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.rpartition("/")[2] == _TORCHSCRIPT for name in archive.namelist())


def read_checkpoint(path: Path, *, known: bool = False) -> dict[str, Any]:
    """The tensors of a model's PyTorch checkpoint, on the CPU. ``known``: its checksum is the published one.

    Raises ConfigError for a file that is damaged, holds something else than tensors, or is TorchScript and not known.
    """
    import torch

    try:
        if is_torchscript(path):
            if not known:
                raise ConfigError(
                    f"{path} is a TorchScript archive, whose code would run while it is read: it is read only where the catalogue "
                    f"states its SHA-256"
                )
            found: Any = torch.jit.load(path, map_location="cpu").state_dict()  # type: ignore[no-untyped-call]
            # What OpenAI's archives hold beside the weights; open_clip leaves them out too.
            found = {name: t for name, t in found.items() if name not in ("input_resolution", "context_length", "vocab_size")}
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except ConfigError:
        raise
    except Exception as error:  # torch raises what its readers in C++ and pickle do
        raise ConfigError(
            f"{path} is no checkpoint of plain tensors, or damaged ({sizes(path)}): {str(error).partition(chr(10))[0]}"
        ) from error
    if isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
        found = found["state_dict"]
    if not isinstance(found, dict) or not found or not all(isinstance(tensor, torch.Tensor) for tensor in found.values()):
        raise ConfigError(f"{path} holds something else than tensors by name")
    # Contiguous and apart, as safetensors wants them.
    return {str(name).removeprefix("module."): tensor.detach().clone().contiguous() for name, tensor in found.items()}


def read_arrays(path: Path) -> dict[str, Any]:
    """The tensors of a small file, as arrays of numpy: an .npz, a single array (``array``), a PyTorch checkpoint, or a SavedModel.

    Raises ConfigError for what is damaged or would have to be unpickled.
    """
    import numpy as np

    from wat2mds.models.tensor_bundle import is_tensor_bundle, read_tensor_bundle

    if not path.exists():
        raise ConfigError(f"the head {path} does not exist")
    if is_tensor_bundle(path):
        return read_tensor_bundle(path)
    if path.suffix in CHECKPOINTS:
        return {name: tensor.numpy() for name, tensor in read_checkpoint(path).items()}
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"array": loaded}
        with loaded as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise ConfigError(
            f"the head {path} cannot be read ({error}; {sizes(path)}): it is damaged or no .npz of plain arrays; copy it from its "
            f"source again."
        ) from error
