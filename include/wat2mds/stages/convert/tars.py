"""WebDataset: the kept samples as tar files in img2dataset's layout, then read back.

In: the kept samples. Out: ``00000.tar`` … in a folder; a sample is ``<key>.<image type>``, ``<key>.txt`` (the caption), ``<key>.json``
(the columns of METADATA that do not depend on when or where it was written). Guaranteed: bytes do not depend on anything but the samples
and the size limit: members have no time, owner or varying mode (tar's ustar headers), and JSON has sorted keys. What does not belong
here: which samples (``kept``), MDS (``shards``).
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from wat2mds.errors import TransientError
from wat2mds.schema import METADATA
from wat2mds.stages.convert.kept import Kept, image_hash

_ROWS = 1024
_LEFT_OUT = ("fetched_at", "shard", "shard_row")
_COLUMNS = [name for name in METADATA.names() if name not in _LEFT_OUT]
# A member's header and what its content is padded to (POSIX.1-1988, ustar).
_BLOCK = 512


def write_tars(kept: Kept, folder: Path, image_type: str, size_limit: int) -> list[Path]:
    """Tar files of at most ``size_limit`` bytes, or of one sample, in the order of the table; none where nothing is kept."""
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    tar: tarfile.TarFile | None = None
    try:
        for key, members in _samples(kept, image_type):
            size = sum(_BLOCK + -(-len(data) // _BLOCK) * _BLOCK for _, data in members)
            if tar is None or tar.offset + size + tarfile.RECORDSIZE > size_limit:
                if tar is not None:
                    tar.close()
                written.append(folder / f"{len(written):05d}.tar")
                tar = tarfile.open(written[-1], "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115 (closed when the next is begun)
            for suffix, data in members:
                info = tarfile.TarInfo(f"{key}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    finally:
        if tar is not None:
            tar.close()
    return written


def read_tars_back(kept: Kept, tars: list[Path], image_type: str) -> None:
    """Compare every member with the input. Raises TransientError: a disk or memory fault is likely."""
    hashes = kept.image_hashes()
    uids, captions = (kept.table[name].to_pylist() for name in ("uid", "caption"))
    row = 0
    for path in tars:
        with tarfile.open(path) as tar:
            members = iter(tar)
            for info in members:
                key = info.name.split(".")[0]
                contents = [_content(tar, one) for one in (info, next(members, None), next(members, None))]
                image, caption, columns = contents
                same = row < len(uids) and (image_hash(image), caption.decode()) == (hashes[row], captions[row])
                if not same or info.name != f"{key}.{image_type}" or json.loads(columns)["uid"] != uids[row]:
                    raise TransientError(f"{path}, {key}: reads back as another sample than was written")
                row += 1
    if row != len(uids):
        raise TransientError(f"{len(tars)} tar files hold {row} samples, {len(uids)} were written")


def _content(tar: tarfile.TarFile, info: tarfile.TarInfo | None) -> bytes:
    file = tar.extractfile(info) if info is not None else None
    return file.read() if file is not None else b""


def _samples(kept: Kept, image_type: str) -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    images = kept.images()
    for start in range(0, kept.table.num_rows, _ROWS):
        part = kept.table.slice(start, _ROWS)
        keys, rows = part["key"].to_pylist(), part.select(_COLUMNS).to_pylist()
        # The iterator of the images comes last: zip stops at the first that ends, and must not have taken an image then.
        for key, row, image in zip(keys, rows, images, strict=False):
            row["key"] = key
            text = json.dumps(row, sort_keys=True, ensure_ascii=False, default=_text)
            yield key, [(image_type, image), ("txt", row["caption"].encode()), ("json", text.encode())]


def _text(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"no JSON for {type(value).__name__}")
