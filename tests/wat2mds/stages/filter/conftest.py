"""One WAT file of drawings, scored once by the real stage."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from PIL import Image

from tests.wat2mds.stages.filter.drawings import download_unit, drawings, under
from wat2mds.manifest import Manifest
from wat2mds.store import Layout

# Sides of originals, on both sides of DataComp's limits.
SIDES = [(400, 300), (200, 200), (199, 400), (600, 200), (601, 200), (320, 1000), (5000, 199)]


@pytest.fixture(scope="package")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """download's manifest; its filter folder holds the scores of every test here."""
    dataset = Layout((tmp_path_factory.mktemp("filter") / "root").as_uri(), "d").dataset
    drawn = [replace(one, original=SIDES[n % len(SIDES)]) for n, one in enumerate(drawings(144))]
    # English captions too short for DataComp, by characters and by words.
    drawn[1:3] = [replace(drawn[1], caption="house"), replace(drawn[2], caption="the house")]
    # Near-duplicates: another size of the same drawing, smaller or larger than the first.
    for n in (0, 7, 14, 21):
        drawn[n + 1] = replace(drawn[n + 1], jpg=copied(drawn[n].jpg))
    return download_unit(dataset, drawn, under("demo"))


def copied(jpg: bytes) -> bytes:
    """A stored image, compressed again."""
    out = io.BytesIO()
    Image.open(io.BytesIO(jpg)).save(out, "JPEG", quality=60)
    return out.getvalue()
