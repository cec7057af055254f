"""img2dataset's engine, imported without what never runs here.

In: nothing. Out: the module ``downloader``. What does not belong here: its use (``engine.py``).

The package's own import brings in its command line, all of its readers and writers, and wandb: torch, pandas, albumentations (which asks
the package index for its newest version), folders in the temporary folder, some 400 MB and 3 to 8 CPU seconds. Its Downloader needs
none of that. So the package is entered by its folder, without its ``__init__``, and wandb, which ``img2dataset.logger`` names for a class
that reports to it, is an empty module meanwhile. What remains costs half a CPU second.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Any

_PACKAGE = "img2dataset"


def _downloader() -> Any:
    """``img2dataset.downloader``, of which nobody else knows: whoever imports the package in this process has another, whole one."""
    found = importlib.util.find_spec(_PACKAGE)
    if found is None:
        raise ModuleNotFoundError(f"No module named {_PACKAGE!r}", name=_PACKAGE)
    package = ModuleType(_PACKAGE)
    package.__path__ = list(found.submodule_search_locations or ())
    theirs = {name: module for name, module in sys.modules.items() if _is_swapped(name)}
    for name in theirs:
        del sys.modules[name]
    sys.modules.update({_PACKAGE: package, "wandb": ModuleType("wandb")})
    try:
        return importlib.import_module(f"{_PACKAGE}.downloader")
    finally:
        for name in filter(_is_swapped, list(sys.modules)):
            del sys.modules[name]
        sys.modules.update(theirs)


def _is_swapped(name: str) -> bool:
    return name == "wandb" or name.partition(".")[0] == _PACKAGE


downloader = _downloader()

__all__ = ["downloader"]
