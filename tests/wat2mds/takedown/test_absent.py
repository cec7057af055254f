"""The proof finds what is there, in whatever form and wherever it lies."""

from __future__ import annotations

import gzip
import html
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from wat2mds.store import Layout, Store
from wat2mds.takedown.absent import search
from wat2mds.takedown.entries import Entries, entries_of, text_words

UID, MD5, PDQ, URL = "00ab" * 8, "cd" * 16, "0123456789abcdef" * 4, "https://example.org/a%20b.jpg?x=1&y=2"
IMAGE = b"\xff\xd8 the bytes of an image"


def listed() -> Entries:
    import hashlib

    texts = {"uid": UID, "md5": MD5, "pdq": PDQ, "url": URL, "domain": "gone.example", "sha1": hashlib.sha1(IMAGE).hexdigest()}
    return entries_of({kind: text_words(kind, [text]) for kind, text in texts.items()})


def parquet(**columns: object) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table({name: pa.array(values) for name, values in columns.items()}), out, compression="zstd")
    return out.getvalue()


def array(values: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, values)
    return out.getvalue()


def tar(name: str, content: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as made:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        made.addfile(info, io.BytesIO(content))
    return out.getvalue()


HALVES = np.array([(int(UID[:16], 16), int(UID[16:], 16)), (1, 2)], "u8,u8")
FORMS = {
    "a table's uid": ("a.parquet", parquet(uid=["0" * 32, UID])),
    "a table's URL": ("a.parquet", parquet(url=["https://EXAMPLE.org/a b.jpg?x=1&y=2#z"])),
    "a page of a domain": ("a.parquet", parquet(page_url=["http://www.gone.example/"])),
    "a URL in a caption": ("a.parquet", parquet(caption=[f"see {URL} there"])),
    "a group's hash": ("a.parquet", parquet(pdq=pa.array([bytes.fromhex(PDQ)], pa.binary(32)))),
    "a struct": ("a.checkpoint.parquet", parquet(add=[{"stats": json.dumps({"minValues": {"uid": UID}})}])),
    "an image in a table": ("a.parquet", parquet(jpg=[b"another", IMAGE])),
    "JSON": ("a.json", json.dumps({"uid": UID}).encode()),
    "a URL in HTML": ("a.html", f'<a href="{html.escape(URL)}">x</a>'.encode()),
    "capitals": ("a.txt", MD5.upper().encode()),
    "zipped": ("a.json.gz", gzip.compress(json.dumps({"md5": MD5}).encode())),
    "zstd": ("a.json.zstd", pa.compress(f"pdq {PDQ}".encode(), "zstd", asbytes=True)),
    "uids of a subset": ("uids.npy", array(HALVES)),
    "uids of an index": ("search/objects/0a.uids", array(HALVES)),
    "raw uids": ("subsets/a/mds/shards/b.uids", bytes.fromhex("11" * 16 + UID)),
    "a WebDataset's columns": ("00000.tar", tar("1.json", json.dumps({"uid": UID}).encode())),
    "a WebDataset's image": ("00000.tar", tar("1.jpg", IMAGE)),
    "a loose image": ("a.jpg", IMAGE),
}


@pytest.mark.parametrize("form", FORMS)
def test_each_form_is_found(tmp_path: Path, form: str) -> None:
    dataset = Layout(tmp_path.as_uri(), "d").dataset
    name, content = FORMS[form]
    Store(dataset).write(f"some/place/{name}", content)
    Store(dataset).write("some/other.json", json.dumps({"uid": "1" * 32, "url": "https://example.org/other.jpg"}).encode())
    found = search(dataset, listed())
    assert {line.partition(":")[0] for line in found.found} == {f"some/place/{name}"}
    assert found.objects == 2


def test_texts_are_searched_for_byte_by_byte_and_tombstones_are_left_out(tmp_path: Path) -> None:
    dataset = Layout(tmp_path.as_uri(), "d").dataset
    store = Store(dataset)
    store.write("a.bin", b"\x00" + bytes.fromhex(UID) + b"\x01")
    store.write("takedowns/entries/a.uid.npy", bytes.fromhex(UID))
    store.write("ledger/bin=0000/a.parquet", parquet(uid=[UID]))
    assert search(dataset, listed()).found == [], "as a hash it does not stand alone"
    found = search(dataset, listed(), [UID])
    assert [line.partition(":")[0] for line in found.found] == ["a.bin"]
    assert (found.objects, found.left_out) == (1, 2)
