"""A hostile origin, a small disk, and the manifests of pairs that the stage starts from."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.wat2mds.stages.download.hostile_origin import HostileOrigin
from wat2mds.identity import normalize_url, uid
from wat2mds.manifest import Flow, Input, Manifest, Unit
from wat2mds.schema import PAIRS, table_of
from wat2mds.settings import Settings


@pytest.fixture
def hostile() -> Iterator[HostileOrigin]:
    origin = HostileOrigin()
    yield origin
    origin.close()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 40 MB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(folder)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a disk of its own cannot be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def dedup_unit(folder: Path, urls: Sequence[str]) -> Manifest:
    """A unit of dedup's with one pair for each URL."""
    n = len(urls)
    captions = [f"caption {i}" for i in range(n)]
    normal = [normalize_url(url) for url in urls]
    columns = {
        "uid": [uid(url, caption) for url, caption in zip(normal, captions, strict=True)],
        "laion_hash": list(range(n)),
        "url": list(urls),
        "url_normalized": normal,
        "caption": captions,
        "caption_source": ["alt"] * n,
        "snapshot": ["CC-MAIN-2023-50"] * n,
        "segment": ["1700679099281.67"] * n,
        "wat_file": ["00000"] * n,
    }
    with Unit("dedup", str(folder / "dedup"), [Input("file:///pairs", str(n))], Settings()) as unit:
        pq.write_table(table_of(PAIRS, columns), unit.path("unique.parquet"))
        return unit.commit([Flow("pairs", "unique", n, n)])


@pytest.fixture
def unique_pairs(tmp_path: Path) -> Callable[[Sequence[str]], Manifest]:
    return partial(dedup_unit, tmp_path)
