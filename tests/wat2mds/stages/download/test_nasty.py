"""Some 190 real hostile or odd images through the real stage: each ends as a success or under a typed reason, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import quote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.wat2mds.stages.download.memory import peak_memory
from wat2mds.drops import DropReason
from wat2mds.manifest import Manifest
from wat2mds.settings import Settings
from wat2mds.stages import download
from wat2mds.world.origin import Answer, AnswerTable, Origin

MEMORY = 1_000_000_000  # download.decode_memory here
# A process that has imported the engine holds some 130 MB; a worker also holds the images on their way.
BESIDE = 600_000_000
EXPECTED = {
    "lovell-sharp/65536-uint32-limit.png": DropReason.TOO_MANY_PIXELS,
    "bigcat88-pillow_heif/arrow.heic": DropReason.NOT_IMAGE,
    "libvips-libvips/truncated.svgz": DropReason.NOT_IMAGE,
    "pillow/decompression_bomb.gif": DropReason.TOO_MANY_PIXELS,
    "pillow/decompression_bomb.ico": DropReason.NOT_IMAGE,
    "libvips-libvips/truncated.gif": DropReason.DECODE,
    "pillow/background_outside_palette.gif": None,
    "pillow/broken_data_stream.png": DropReason.DECODE,
    "pillow/app13-multiple.jpg": None,
    "fdintino-pillow-avif-plugin/exif.avif": None,
    "image-rs-image/anim.webp": None,
    "lovell-sharp/Landscape_6.jpg": None,
}


@pytest.mark.shared
def test_each_nasty_image_is_a_success_or_has_a_typed_reason(
    shared: Path, unique_pairs: Callable[[Sequence[str]], Manifest], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = sorted(path for path in (shared / "nasty").rglob("*") if path.is_file() and path.suffix != ".tsv")
    names = [str(path.relative_to(shared / "nasty")) for path in files]
    assert len(names) > 180
    world = AnswerTable()
    urls = [f"http://nasty.example/{quote(name)}" for name in names]
    for url, path in zip(urls, files, strict=True):
        world.add(url, Answer(path))
    with Origin(world) as origin, peak_memory() as peak:
        wanted = {
            "resolver": origin.address,
            "processes": 1,
            "threads": 8,
            "min_bytes": 0,
            "formats": ["JPEG", "PNG", "WEBP", "GIF", "AVIF"],
            "decode_memory": MEMORY,
            "decode_timeout": 60,
        }
        made = download.run(unique_pairs(urls), str(tmp_path / "download"), Settings.model_validate({"download": wanted}), "")
        most = peak()
    table = pa.concat_tables([pq.read_table(Path(urlsplit(made.file(name)).path)) for name in made.matching(".parquet")])
    rows = dict(zip(names, table.to_pylist(), strict=True))
    with capsys.disabled():
        print(f"\n{'file':<62} {'outcome':<24} reason")
        for name, row in rows.items():
            size = f"{row['original_width']} x {row['original_height']}"
            print(f"{name:<62} {row['drop_reason'] or size:<24} {row['error_message'] or ''}")
        print(f"{made.flows[0].left} of {len(names)} with an image; {made.flows[0].drops}; peak {most / 1e6:.0f} MB a process")
    assert made.flows[0].reconciles
    for name, row in rows.items():
        assert (row["jpg"] is None) == (row["drop_reason"] is not None), name
        assert row["drop_reason"] is None or row["drop_reason"] in DropReason.of_stage("download"), name
        assert row["drop_reason"] not in ("http_error", "connect", "timeout"), name
        assert row["http_status"] == 200, name
    assert {name: rows[name]["drop_reason"] for name in EXPECTED} == EXPECTED
    assert most < MEMORY + BESIDE
    assert made.flows[0].left >= len(names) // 3
