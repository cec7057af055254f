"""dedup and its ledger: one owner for each uid, whatever is retried, killed, raced or restored."""

from __future__ import annotations

import random
import shutil
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from wat2mds.identity import laion_hash, uid
from wat2mds.manifest import Input, Manifest, Unit
from wat2mds.schema import PAIRS, table_of
from wat2mds.settings import Settings, load_settings
from wat2mds.stages import dedup
from wat2mds.store import join

SETTINGS = load_settings("demo", environment={})


def pairs_of(work: str, wat_file: str, names: Sequence[str], settings: Settings = SETTINGS) -> Manifest:
    """extract's unit for made pairs; equal names are equal pairs."""
    urls = [f"http://a.example.com/{name}.jpg" for name in names]
    columns = {
        "uid": [uid(url, "caption") for url in urls],
        "laion_hash": [laion_hash(url, "caption") for url in urls],
        "url": urls,
        "url_normalized": urls,
        "caption": ["caption"] * len(urls),
        "caption_source": ["alt"] * len(urls),
        "snapshot": ["S"] * len(urls),
        "segment": ["1.0"] * len(urls),
        "wat_file": [wat_file] * len(urls),
    }
    unit = {"snapshot": "S", "segment": "1.0", "wat_file": wat_file}
    with Unit("extract", join(work, wat_file, "extract"), [Input(wat_file, ",".join(names))], settings, unit=unit) as made:
        if made.done:
            return made.manifest
        pq.write_table(table_of(PAIRS, columns), made.path("pairs.parquet"))
        return made.commit([])


def run(root: str, *pairs: Manifest, settings: Settings = SETTINGS) -> list[Manifest]:
    return dedup.run(pairs, join(root, "ledger"), join(root, "work", "{wat_file}", "dedup"), settings)


def kept(manifest: Manifest, folder: Path) -> list[str]:
    return [url.rsplit("/", 1)[1][:-4] for url in pq.read_table(manifest.fetch("unique.parquet", folder))["url"].to_pylist()]


def test_the_first_wat_file_in_order_keeps_a_pair(store_url: str, tmp_path: Path) -> None:
    work = join(store_url, "work")
    one, two = pairs_of(work, "00000", ["a", "b", "a"]), pairs_of(work, "00001", ["b", "c"])
    first, second = run(store_url, one, two)
    assert kept(first, tmp_path) == ["a", "b"]
    assert kept(second, tmp_path) == ["c"]
    assert first.flows[0].drops == {"duplicate_in_wat": 1}
    assert second.flows[0].drops == {"duplicate_in_batch": 1}
    (third,) = run(store_url, pairs_of(work, "00002", ["c", "d", "a"]))
    assert kept(third, tmp_path) == ["d"]
    assert third.flows[0].drops == {"duplicate_in_dataset": 2}


def test_an_earlier_owner_keeps_its_pair_in_a_larger_batch(tmp_path: Path) -> None:
    root = str(tmp_path)
    work = join(root, "work")
    one, two = pairs_of(work, "00000", ["a", "b"]), pairs_of(work, "00001", ["a", "c"])
    (alone,) = run(root, two)
    both = run(root, one, two)
    assert both[1].done_before
    assert kept(both[0], tmp_path) == ["b"]
    assert kept(alone, tmp_path) == ["a", "c"]


@pytest.mark.parametrize("exact", ["true", "false"])
def test_a_retry_keeps_exactly_what_was_claimed(tmp_path: Path, exact: str) -> None:
    """LAION lost pairs here: it recorded URLs as seen before they were stored (facts: crash between the two)."""
    root = str(tmp_path)
    settings = load_settings("demo", [f"dedup.exact={exact}"], environment={})
    names = [f"n{i}" for i in range(2000)]
    pairs = pairs_of(join(root, "work"), "00000", names, settings)
    (before,) = run(root, pairs, settings=settings)
    assert kept(before, tmp_path) == names
    shutil.rmtree(tmp_path / "work" / "00000" / "dedup")  # as if killed between claim and output
    (after,) = run(root, pairs, settings=settings)
    assert not after.done_before
    assert kept(after, tmp_path) == names


def test_random_orders_of_batches_retries_and_losses(tmp_path: Path) -> None:
    """The union of kept uids is the distinct set, each owned once, in any order."""
    rng = random.Random(7)
    work = join(str(tmp_path), "work")
    wats = {f"{i:05d}": [f"n{rng.randrange(60)}" for _ in range(40)] for i in range(8)}
    manifests = {name: pairs_of(work, name, names) for name, names in wats.items()}
    for _ in range(12):
        chosen = sorted(rng.sample(sorted(wats), rng.randint(1, 4)))
        run(str(tmp_path), *(manifests[name] for name in chosen))
        if rng.random() < 0.5:
            shutil.rmtree(tmp_path / "work" / rng.choice(chosen) / "dedup")
    owned = [name for m in run(str(tmp_path), *manifests.values()) for name in kept(m, tmp_path)]
    assert sorted(owned) == sorted(set().union(*wats.values()))
