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

_PACKAGE = "img2dataset"


def _downloader() -> ModuleType:
    """``img2dataset.downloader``. Whoever imports the whole package in this process later has it whole, but for reports to wandb."""
    found = importlib.util.find_spec(_PACKAGE)
    if found is None:
        raise ModuleNotFoundError(f"No module named {_PACKAGE!r}", name=_PACKAGE)
    package = ModuleType(_PACKAGE)
    package.__path__ = list(found.submodule_search_locations or ())
    stand_ins = {_PACKAGE: package, "wandb": ModuleType("wandb")}
    missing = {name: module for name, module in stand_ins.items() if name not in sys.modules}
    sys.modules.update(missing)
    try:
        return importlib.import_module(f"{_PACKAGE}.downloader")
    finally:
        for name in missing:
            del sys.modules[name]


downloader = _downloader()

__all__ = ["downloader"]
