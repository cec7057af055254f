"""One WAT file of drawings, scored once by the real stage."""

from __future__ import annotations

import pytest

from tests.wat2mds.stages.filter.drawings import download_unit, drawings, under
from wat2mds.manifest import Manifest
from wat2mds.store import Layout


@pytest.fixture(scope="package")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """download's manifest; its filter folder holds the scores of every test here."""
    dataset = Layout((tmp_path_factory.mktemp("filter") / "root").as_uri(), "d").dataset
    return download_unit(dataset, drawings(144), under("demo"))
