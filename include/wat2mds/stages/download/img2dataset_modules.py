"""img2dataset's engine, imported in the one way in which it asks nothing of the network.

In: nothing. Out: the module ``downloader``. What does not belong here: its use (``engine.py``).
Importing costs 3 to 8 CPU seconds: the fork server alone does it.
"""

from __future__ import annotations

import os

# albumentations, imported by img2dataset, asks the package index for a newer version of itself unless this is set before. It is
# the one variable written outside of settings.py, and only worker processes see it.
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

import img2dataset.downloader as downloader

__all__ = ["downloader"]
