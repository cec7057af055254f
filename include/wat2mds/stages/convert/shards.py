"""MDS shards: written through streaming's MDSWriter, then read back.

In: the kept samples. Out: shard files and ``index.json`` in a folder. Guaranteed: an index exists only when every shard before it was
written without an error, since ``finish`` is called on success alone (the writer's context manager publishes an index even after an
exception: streaming 0.13, Writer.__exit__); bytes do not depend on anything but the samples and the settings. What does not belong
here: which samples (``kept``).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from wat2mds.errors import TransientError, Wat2MdsError
from wat2mds.models.torchvision_ops import declare_torchvision_ops
from wat2mds.schema import MDS_COLUMNS, Column
from wat2mds.stage_settings import ConvertSettings
from wat2mds.stages.convert.kept import Kept, image_hash

declare_torchvision_ops()

from streaming import MDSWriter  # noqa: E402 (streaming imports torchvision, which needs the declaration above)
from streaming.base.compression import decompress  # noqa: E402
from streaming.base.format.mds.reader import MDSReader  # noqa: E402
from streaming.base.hashing import get_hash  # noqa: E402

log = logging.getLogger(__name__)
# Rows whose columns are encoded at a time: enough to spread the cost of a column, a few megabytes of text.
_ROWS = 1024
COLUMNS: dict[str, str] = {name: column.mds for name, column in MDS_COLUMNS.items() if column.mds is not None}


class _Writer(MDSWriter):  # type: ignore[misc]  # streaming has no types
    """MDSWriter that takes a sample as the parts of its bytes, and joins a shard once, not twice.

    It also leaves out MDSWriter's empty shard: that flushes before a sample that alone exceeds the size limit, even with nothing to flush.
    """

    def encode_sample(self, sample: Sequence[bytes]) -> bytes:
        return b"".join(sample)

    def encode_joint_shard(self) -> bytes:
        """The number of samples, where each begins and the last ends, the columns, the samples (base/format/mds/writer.py)."""
        offsets = np.cumsum([0, *map(len, self.new_samples)], dtype=np.int64)
        offsets += 4 + 4 * len(offsets) + len(self.config_data)
        head = (np.uint32(len(self.new_samples)).tobytes(), offsets.astype(np.uint32).tobytes(), self.config_data)
        return b"".join([*head, *self.new_samples])

    def flush_shard(self) -> None:
        if self.new_samples:
            super().flush_shard()


def write_shards(kept: Kept, folder: Path, settings: ConvertSettings) -> dict[str, Any]:
    """Returns the index."""
    writer = _Writer(
        columns=COLUMNS,
        out=str(folder),
        compression=settings.compression,
        hashes=sorted(set(settings.hashes)),
        size_limit=settings.shard_bytes,
        max_workers=1,
    )
    try:
        for sample in _encoded_samples(kept, writer.column_names):
            writer.write(sample)
    except BaseException:
        writer.cancel_future_jobs()
        raise
    writer.finish()
    index: dict[str, Any] = json.loads((folder / "index.json").read_bytes())
    return index


def read_back(kept: Kept, folder: Path, index: dict[str, Any]) -> None:
    """Compare every shard with its hashes, and every row's uid and image with the input. Raises TransientError: a disk or memory
    fault is likely, and another attempt may succeed."""
    uids = kept.table["uid"].combine_chunks()
    hashes = kept.image_hashes()
    seen = 0
    for shard in index["shards"]:
        name = shard["raw_data"]["basename"]
        rows = list(_rows(folder, shard))
        if len(rows) != shard["samples"]:
            raise TransientError(f"{folder / name} holds {len(rows)} rows, its index says {shard['samples']}")
        for row, (uid, image) in enumerate(rows, start=seen):
            if row >= len(uids) or uid != uids[row].as_py() or image != hashes[row]:
                raise TransientError(f"{folder / name}, row {row - seen}: reads back as another sample than was written")
        seen += len(rows)
    if seen != len(uids):
        raise TransientError(f"{folder} holds {seen} rows, {len(uids)} were written")


def _encoded_samples(kept: Kept, names: Sequence[str]) -> Iterator[tuple[bytes, ...]]:
    """A sample's bytes, in parts: the sizes of its values that have no fixed one, then its values in the order of ``names``.

    A column of a thousand rows is encoded at once: that costs a fraction of a thousand calls.
    """
    images, image_sizes = kept.images(), kept.image_sizes()
    for start in range(0, kept.table.num_rows, _ROWS):
        part = kept.table.slice(start, _ROWS)
        values = {name: _encode(part[name].combine_chunks(), MDS_COLUMNS[name]) for name in names if name != "jpg"}
        sizes = [
            image_sizes[start : start + _ROWS] if name == "jpg" else np.fromiter(map(len, values[name]), np.int64, part.num_rows)
            for name in names
            if MDS_COLUMNS[name].mds in ("str", "bytes")
        ]
        heads = np.stack(sizes, axis=1).astype(np.uint32).tobytes()
        width = 4 * len(sizes)
        at = names.index("jpg")
        before, after = ([values[name] for name in some] for some in (names[:at], names[at + 1 :]))
        rows = zip(zip(*before, strict=True), zip(*after, strict=True), strict=True)
        for row, (first, last) in enumerate(rows):
            yield heads[row * width : (row + 1) * width], *first, next(images), *last


def _encode(array: pa.Array, column: Column) -> list[bytes]:
    """A column's values as streaming encodes them (base/format/mds/encodings.py): UTF-8, or the number's bytes."""
    if column.mds == "str":
        encoded: list[bytes] = pc.fill_null(array, column.mds_null).cast(pa.binary()).to_pylist()
        return encoded
    numbers = pc.fill_null(array, pa.scalar(column.mds_null, array.type)).to_numpy(zero_copy_only=False)
    kind = np.dtype(str(column.mds))
    data = numbers.astype(kind).tobytes()
    return [data[i : i + kind.itemsize] for i in range(0, len(data), kind.itemsize)]


def _rows(folder: Path, shard: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
    """uid and image hash of every row of a shard, from its bytes on disk."""
    raw = _checked(folder, shard)
    reader = MDSReader.from_json(str(folder), None, shard)
    count = int.from_bytes(raw[:4], "little")
    bounds = np.frombuffer(raw, np.uint32, count + 1, offset=4).astype(np.int64)
    fixed = np.array([size or 0 for size in reader.column_sizes], np.int64)
    variable = np.flatnonzero(fixed == 0)
    uid, jpg = reader.column_names.index("uid"), reader.column_names.index("jpg")
    for begin, end in pairwise(bounds):
        sizes = fixed.copy()
        sizes[variable] = np.frombuffer(raw, np.uint32, len(variable), offset=begin)
        ends = begin + 4 * len(variable) + np.cumsum(sizes)
        if ends[-1] != end:
            raise TransientError(f"{folder / shard['raw_data']['basename']}: a row's sizes do not add up")
        found = bytes(raw[ends[uid] - sizes[uid] : ends[uid]]).decode()
        image = raw[ends[jpg] - sizes[jpg] : ends[jpg]]
        if begin == bounds[0]:
            _compare_with_reader(reader.decode_sample(bytes(raw[begin:end])), found, image)
        yield found, image_hash(image)


def _checked(folder: Path, shard: dict[str, Any]) -> memoryview:
    """A shard's uncompressed bytes, once those stored and those inside have the size and hashes of the index."""
    data = b""
    for info, packed in ((shard["zip_data"], False), (shard["raw_data"], shard["zip_data"] is not None)):
        if info is None:
            continue
        data = decompress(shard["compression"], data) if packed else (folder / info["basename"]).read_bytes()
        wrong = [algorithm for algorithm, value in info["hashes"].items() if get_hash(algorithm, data) != value]
        if wrong or len(data) != info["bytes"]:
            raise TransientError(
                f"{folder / info['basename']} does not read back as written: {', '.join(wrong) or 'size'} differs"
            )
    return memoryview(data)


def _compare_with_reader(sample: dict[str, Any], uid: str, image: memoryview) -> None:
    """That our reading of a row is streaming's own."""
    if sample["uid"] != uid or sample["jpg"] != image:
        raise Wat2MdsError(f"streaming's reader sees another row than was read back: uid {sample['uid']} for {uid}")
