"""Looks for samples in every object below a folder, by bytes, without a line of what takes them down.

In: what is known of a sample. Out: where it was found: in which object, in which form. Objects are searched as they are stored and as what
they hold: parquet's values, MDS shards' bytes, what is compressed. What does not belong here: whether it may be there.
"""

from __future__ import annotations

import gzip
import html
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq


@dataclass(frozen=True)
class Sample:
    """``image``: as stored; ``hashes``: of the image as fetched, and PDQ, in hex."""

    uid: str
    url: str
    caption: str
    image: bytes
    hashes: tuple[str, ...]

    def forms(self) -> dict[str, bytes]:
        """What of it must be nowhere at all."""
        found = {"image": self.image[-150:]}  # headers and tables are alike in all JPEGs
        texts = {"url": self.url, "caption": self.caption, **{f"hash {text[:6]}": text for text in self.hashes}}
        for name, text in texts.items():
            found |= {
                name: text.encode(),
                f"{name} as JSON": json.dumps(text)[1:-1].encode(),
                f"{name} as HTML": html.escape(text).encode(),
                f"{name} in UTF-16": text.encode("utf-16-le"),
            }
        return found | {f"raw hash {text[:6]}": bytes.fromhex(text) for text in self.hashes}

    def identities(self) -> dict[str, bytes]:
        """What the ledger and tombstones may hold."""
        halves = int(self.uid[:16], 16).to_bytes(8, "little") + int(self.uid[16:], 16).to_bytes(8, "little")
        return {"uid": self.uid.encode(), "raw uid": bytes.fromhex(self.uid), "uid as numbers": halves}


def contents(path: Path) -> Iterator[bytes]:
    """A file's bytes, and what they hold."""
    data = path.read_bytes()
    yield data
    if data[:4] == b"PAR1":
        with pq.ParquetFile(path) as file:
            yield "\n".join(map(str, file.read().to_pylist())).encode("utf-8", "replace")
            yield b"".join(value for column in file.read().columns for value in _binary(column))
    if data[:2] == b"\x1f\x8b":
        yield gzip.decompress(data)


def _binary(column: Any) -> list[bytes]:
    return [value for value in column.to_pylist() if isinstance(value, bytes)]


def found_below(folder: Path, samples: list[Sample], *, identities: bool = True) -> list[str]:
    """``object: form of uid``; identities are not looked for below ledger/ and takedowns/."""
    hits = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        place = path.relative_to(folder)
        for data in contents(path):
            for sample in samples:
                forms = dict(sample.forms())
                if place.parts[0] == "takedowns":  # tombstones are hashes
                    forms = {name: form for name, form in forms.items() if not name.startswith("raw hash")}
                if identities and place.parts[0] not in ("ledger", "takedowns"):
                    forms |= sample.identities()
                hits += [f"{place}: {name} of {sample.uid}" for name, form in forms.items() if form in data]
    return sorted(set(hits))
