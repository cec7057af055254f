"""Lets torchvision be imported beside a torch that its compiled part was not built for.

In: nothing. Out: nothing. Guaranteed: after `declare_torchvision_ops()`, `import torchvision` works, and so do open_clip,
timm and streaming, which import it. Where torchvision's extension loads (a CUDA torch, or a matching CPU build), nothing
is declared. Importing this module imports no torch.

Why: torchvision from the package index is built for CUDA torch. Beside a CPU-only torch its extension does not load, and
`torchvision/_meta_registrations.py` then fails with "operator torchvision::nms does not exist", because it registers
shape functions for operators that nobody declared. Only the declaration is missing: wat2mds computes neither operator,
and a call of one still fails with torch's own message.
Does not belong here: any other repair of a foreign package.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from functools import cache
from pathlib import Path
from typing import Any

# As in torchvision 0.28's csrc/ops/nms.cpp and csrc/ops/quantized/cpu/qnms_kernel.cpp.
_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
# A torch.library.Library withdraws what it declared when it is collected, so it is kept for the life of the process.
_kept: list[Any] = []


@cache
def declare_torchvision_ops() -> bool:
    """Call before open_clip, torchvision or streaming is imported. True if the operators had to be declared."""
    if "torchvision" in sys.modules:
        return False
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return False

    import torch

    if _extension_loads(Path(spec.origin).parent):
        return False
    make_library: Any = torch.library.Library
    library = make_library("torchvision", "FRAGMENT")
    for schema in _SCHEMAS:
        if not hasattr(torch.ops.torchvision, schema.partition("(")[0]):
            library.define(schema)
    _kept.append(library)
    return True


def _extension_loads(folder: Path) -> bool:
    """Tries what torchvision itself tries first; loading the same file a second time is harmless."""
    import torch

    operators: Any = torch.ops
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        path = folder / f"_C{suffix}"
        if path.is_file():
            try:
                operators.load_library(str(path))
            except OSError:
                return False
            return True
    return False
