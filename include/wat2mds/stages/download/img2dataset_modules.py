"""img2dataset's modules, imported in the one way in which they ask nothing of the network.

In: nothing. Out: the modules ``downloader`` and ``resizer``. What does not belong here: their use (``engine.py``, ``decode.py``).
Importing costs 3 to 8 CPU seconds: the fork server alone does it.
"""

from __future__ import annotations

import os

# albumentations, imported by img2dataset, asks the package index for a newer version of itself unless this is set before. It is
# the one variable written outside of settings.py, and only worker processes see it.
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

import img2dataset.downloader as downloader
import img2dataset.resizer as resizer

__all__ = ["downloader", "resizer"]
