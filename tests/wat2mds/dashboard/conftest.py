"""One small dataset for all tests that only read it."""

from __future__ import annotations

import pytest

from tests.wat2mds.dashboard.datasets import small


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store with the dataset ``small`` (``datasets.small``)."""
    root = (tmp_path_factory.mktemp("dashboard") / "store").as_uri()
    small(root)
    return root
