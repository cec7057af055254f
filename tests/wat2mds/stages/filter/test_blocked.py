"""Block lists: listed images, and near copies of them, are never published, and nothing of them stays but the uid and the list's name."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.wat2mds.stages.filter.drawings import Drawn, download_unit, drawings, under
from tests.wat2mds.stages.filter.test_profiles import out_of
from wat2mds.errors import ConfigError
from wat2mds.identity import uid
from wat2mds.manifest import Manifest, read_manifest
from wat2mds.mds_rows import Layout as RowLayout
from wat2mds.mds_rows import bounds
from wat2mds.models.pictures import PDQ_MATCH
from wat2mds.schema import SAMPLES, table_of
from wat2mds.settings import Settings, load_settings
from wat2mds.stages import convert, publish, upload, validate
from wat2mds.stages import filter as stage
from wat2mds.stages.download.images import pdq
from wat2mds.stages.filter.blocked import block, find, read_lists, read_report
from wat2mds.stages.filter.preview import preview
from wat2mds.store import Layout, Store, split
from wat2mds.versions import read_index, read_version

ALL = ("filter.min_similarity=-1", "filter.min_similarity_other=-1", "filter.max_punsafe=", "filter.max_pwatermark=")
DIGESTS = {"md5": hashlib.md5, "sha1": hashlib.sha1, "sha256": hashlib.sha256}


def altered(photo: bytes, share: float, quality: int) -> bytes:
    """A copy, resized and compressed again."""
    with Image.open(io.BytesIO(photo)) as image:
        copy = image.convert("RGB").resize((int(image.width * share), int(image.height * share)), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    copy.save(out, "JPEG", quality=quality)
    return out.getvalue()


def written(folder: Path, kind: str, *entries: str) -> str:
    path = folder / f"{kind}.txt"
    path.write_text("# a list\n\n" + "\n".join(entries) + "\n")
    return f"{kind}:{path}"


def run(samples: Manifest, settings: Settings) -> tuple[Manifest, Manifest, dict[str, Any]]:
    """filter's manifest, that of the blocked ones, and their report."""
    done = stage.run(samples, out_of(samples), settings)
    blocked = read_manifest(next(i.url for i in done.inputs if "/blocked/" in i.url))
    return done, blocked, json.loads(blocked.fetch("blocked.json", Path()).read_text())


def reasons(done: Manifest) -> dict[str, str | None]:
    table = pq.read_table(done.fetch("decisions.parquet", Path())).to_pylist()
    return {row["uid"]: row["drop_reason"] for row in table}


def objects_below(dataset: str) -> dict[str, bytes]:
    """Every object of a dataset by its path; of tables also each value, since they may be compressed."""
    found = {entry.path: Store(dataset).read(entry.path) for entry in Store(dataset).walk()}
    for path in [path for path in found if path.endswith(".parquet")]:
        columns = pq.read_table(pa.BufferReader(found[path])).to_pydict().values()
        values = [v if isinstance(v, bytes) else str(v).encode() for column in columns for v in column if v is not None]
        found[path] += b"".join(values)
    return found


def published_images(dataset: str) -> Iterator[bytes]:
    """From the shards that the newest version names."""
    for shard in json.loads(read_index(dataset, read_version(dataset)))["shards"]:
        content = Store(dataset).read(shard["raw_data"]["basename"])
        at = bounds(content, shard)
        yield from (RowLayout(shard).value(content[start:end], "jpg") for start, end in pairwise(at))


def apart(one: str, other: str) -> int:
    return (int(one, 16) ^ int(other, 16)).bit_count()


@pytest.mark.shared
def test_listed_images_and_near_copies_are_never_published(shared: Path, tmp_path: Path) -> None:
    photos = [p.read_bytes() for p in sorted((shared / "photos" / "flickr8k-1000").glob("*.jpg"))[:15]]
    exact, near, others = dict(zip(DIGESTS, photos[:3], strict=True)), photos[3:8], photos[8:]
    # At 200 pixels this one's copies lie 32 and 34 bits away, which is not near.
    del near[3]
    copies = [altered(p, s, q) for p in near for s, q in ((1, 40), (0.8, 75), (1.25, 90))]
    hidden = [("hash", photo) for photo in exact.values()] + [("copy", copy) for copy in [*near, *copies]]
    drawn = [Drawn(f"https://pictures.example.com/{n}.jpg", f"{what} {n}", jpg) for n, (what, jpg) in enumerate(hidden)]
    drawn += [Drawn(f"https://other.example.com/{n}.jpg", f"a photo {n}", jpg) for n, jpg in enumerate(others)]
    drawn[-1] = Drawn("https://Bad.example.com:443/a%7eb.jpg#x", "by its URL", others[-1])
    drawn[-2] = Drawn("https://deep.unwanted.example.org/a.jpg", "by its domain", others[-2])
    uids = {one.url: uid(one.url, one.caption) for one in drawn}
    listed = [written(tmp_path, kind, DIGESTS[kind](photo).hexdigest().upper() + " # why") for kind, photo in exact.items()]
    listed.append(written(tmp_path, "pdq", *(pdq(photo, None)[0] for photo in near)))
    listed.append(written(tmp_path, "url", "https://bad.example.com/a~b.jpg"))
    listed.append(written(tmp_path, "domain", "unwanted.EXAMPLE.org"))
    settings = under("demo", *ALL, f"filter.block_lists={','.join(listed)}")
    dataset = Layout((tmp_path / "root").as_uri(), "d").dataset
    samples = download_unit(dataset, drawn, settings, shard=8)

    done, blocked, report = run(samples, settings)
    free = {uids[one.url] for one in drawn[len(hidden) : -2]}
    assert len(free) == 5
    assert {name for name, reason in reasons(done).items() if reason is None} == free
    assert {name for name, reason in reasons(done).items() if reason == "blocked"} == set(uids.values()) - free
    assert done.flows[0].drops == {"blocked": len(drawn) - 5}
    scores = read_manifest(done.inputs[1].url)
    assert set(pq.read_table(scores.fetch("scores.parquet", tmp_path))["uid"].to_pylist()) == free, "matched before scoring"
    # The report: uid and list, of every kind.
    assert set(report) == set(uids.values()) - free
    assert {name for lists in report.values() for name in lists} == {
        f"{kind}:{kind}.txt" for kind in (*DIGESTS, "pdq", "url", "domain")
    }
    # No later stage can reach the pixels: not in any file of the dataset.
    for _, photo in hidden:
        assert not [path for path, content in objects_below(dataset).items() if photo[-4000:-200] in content]

    # Later stages agree, and what is published is the rest.
    base = split(split(samples.url)[0])[0]
    valid = validate.run(samples, done, f"{base}/validate", settings, dataset)
    assert valid.flows[0].left == 5
    converted = convert.run(samples, done, f"{base}/convert", settings, valid)
    publish.run([upload.run(converted, dataset, f"{base}/upload", settings)], dataset, settings)
    everything = objects_below(dataset)
    assert {path.split("/")[0] for path in everything} >= {
        *("work", "shards", "embeddings", "outcomes", "metadata", "versions", "reports")
    }
    for _, photo in hidden:
        assert not [path for path, content in everything.items() if photo[-4000:-200] in content]
        # Hashes stay in download's table, in the work area, alone.
        told = [DIGESTS[kind](photo).hexdigest().encode() for kind in DIGESTS] + [pdq(photo, None)[0].encode()]
        told += [bytes.fromhex(text.decode()) for text in told]
        telling = [path for path, content in everything.items() if any(text in content for text in told)]
        assert telling
        assert all(path.startswith("work/") and "/download/" in path for path in telling)
    shown = list(published_images(dataset))
    assert sorted(shown) == sorted(others[:5])
    assert {path.split("/")[0] for path, content in everything.items() if others[0][-4000:-200] in content} == {"work", "shards"}
    assert all(apart(pdq(one, None)[0], pdq(photo, None)[0]) > PDQ_MATCH for one in shown for _, photo in hidden)

    def holding(*texts: str) -> set[str]:
        return {path.split("/")[0] for path, content in everything.items() if any(text.encode() in content for text in texts)}

    assert holding(*report) == {"work", "outcomes"}
    assert holding("https://pictures.example.com/") == {"work"}
    assert holding(*free) >= {"work", "shards", "embeddings", "metadata", "versions"}

    # Twice, and after a kill between deleting and the report: the same. Without the lists: still blocked.
    assert run(samples, settings)[0].done_before
    Path(blocked.url.removeprefix("file://")).unlink()
    assert run(samples, settings)[2] == report
    forgiving = under("demo", *ALL)
    again, _, earlier = run(samples, forgiving)
    assert earlier == {name: ["earlier"] for name in report}
    assert reasons(again) == reasons(done)


def test_a_list_that_comes_later_takes_what_was_scored(scored_copy: Manifest, tmp_path: Path) -> None:
    before, _, _ = run(scored_copy, under("demo"))
    kept = sorted(name for name, reason in reasons(before).items() if reason is None)
    rows = pq.read_table(scored_copy.fetch("00000.parquet", tmp_path)).to_pylist()
    gone = next(row for row in rows if row["uid"] in kept)
    settings = under("demo", f"filter.block_lists={written(tmp_path, 'sha256', gone['sha256'])}")
    work = split(out_of(scored_copy))[0]
    seen = preview([work], settings).units[0][-1].flows
    assert pq.read_table(scored_copy.fetch("00000.parquet", tmp_path)).to_pylist() == rows, "looking deletes nothing"
    after, _, report = run(scored_copy, settings)
    assert seen == after.flows == preview([work], settings).units[0][-1].flows
    assert after.flows[0].drops["blocked"] == 1
    assert report == {gone["uid"]: ["sha256:sha256.txt"]}
    assert after.inputs[1] == before.inputs[1], "no sample is scored again"
    assert reasons(after) == reasons(before) | {gone["uid"]: "blocked"}
    left = pq.read_table(scored_copy.fetch("00000.parquet", tmp_path)).to_pylist()
    changed = {"jpg": None, "exif": None, "error_message": "blocked: the image was deleted"}
    assert left == [row | changed if row["uid"] == gone["uid"] else row for row in rows]
    base = split(split(scored_copy.url)[0])[0]
    validate.run(scored_copy, after, f"{base}/validate", settings)


@pytest.fixture
def scored_copy(tmp_path: Path) -> Manifest:
    return download_unit(Layout((tmp_path / "root").as_uri(), "d").dataset, drawings(12), under("demo"))


@pytest.mark.parametrize(
    ("bits", "quality", "found"), [(31, 50, True), (32, 50, False), (0, 49, False), (0, 50, True), (31, 100, True)]
)
def test_pdq_from_both_sides(tmp_path: Path, bits: int, quality: int, found: bool) -> None:
    rng = np.random.default_rng(bits)
    wanted = rng.bytes(32)
    flipped = bytearray(wanted)
    for bit in rng.choice(256, bits, replace=False):
        flipped[bit // 8] ^= 1 << (bit % 8)
    noise = [rng.bytes(32).hex() for _ in range(1000)]
    settings = load_settings("demo", [f"filter.block_lists={written(tmp_path, 'pdq', wanted.hex(), *noise)}"], environment={})
    row = {
        "uid": "0" * 32,
        "key": "0",
        "url": "u",
        "caption": "c",
        "status": "success",
        "pdq": flipped.hex(),
        "pdq_quality": quality,
    }
    pq.write_table(table_of(SAMPLES, {key: [value] for key, value in row.items()}), tmp_path / "samples.parquet")
    assert bool(find(tmp_path / "samples.parquet", read_lists(settings.filter), settings.filter)) == found


@pytest.mark.parametrize(
    ("kind", "entry", "said"),
    [
        ("md5", "xyz", "line 3: 'xyz' is no md5: 32 hex digits are expected"),
        ("pdq", "0" * 40, "64 hex digits"),
        ("url", "not a url", "is no url"),
    ],
)
def test_an_entry_that_is_not_of_its_kind(tmp_path: Path, kind: str, entry: str, said: str) -> None:
    settings = load_settings("demo", [f"filter.block_lists={written(tmp_path, kind, entry)}"], environment={})
    with pytest.raises(ConfigError, match=said):
        read_lists(settings.filter)


def test_lists_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        read_lists(load_settings("demo", [f"filter.block_lists=md5:{tmp_path}/none"], environment={}).filter)
    with pytest.raises(ConfigError, match=r"filter\.block_lists"):
        load_settings("demo", ["filter.block_lists=md4:x"], environment={})


def test_pixels_are_deleted_on_s3_too(s3_root: str, tmp_path: Path) -> None:
    """Tables and the list lie in the store; nothing but the report and the image changes."""
    drawn = drawings(3)
    Store(s3_root).write("lists/md5.txt", hashlib.md5(drawn[1].jpg).hexdigest().encode())
    settings = under("demo", f"filter.block_lists=md5:{s3_root}/lists/md5.txt")
    samples = download_unit(Layout(s3_root, "d").dataset, drawn, settings)
    before = pq.read_table(samples.fetch("00000.parquet", tmp_path)).to_pylist()
    blocked = block(samples, out_of(samples), settings)
    (tmp_path / "again").mkdir()
    after = pq.read_table(samples.fetch("00000.parquet", tmp_path / "again")).to_pylist()
    assert read_report(blocked, tmp_path) == {uid(drawn[1].url, drawn[1].caption): ["md5:md5.txt"]}
    changed = {"jpg": None, "exif": None, "error_message": "blocked: the image was deleted"}
    assert after == [before[0], before[1] | changed, before[2]]
    assert block(samples, out_of(samples), settings).done_before
