"""A takedown of the demo world's dataset by the commands that people use, and everything by which it might come back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.wat2mds.chain import Chain
from tests.wat2mds.programs import Programs
from tests.wat2mds.takedown.searching import found_below
from tests.wat2mds.takedown.test_takedown import folder_of, samples_of
from wat2mds import subsets
from wat2mds.manifest import read_manifest
from wat2mds.plan import manifest_url
from wat2mds.reprocess import forget_lost
from wat2mds.snapshots import Registry
from wat2mds.store import Layout, Store
from wat2mds.subsets import Definition
from wat2mds.takedown.records import takedowns
from wat2mds.versions import read_version
from wat2mds.world.demo_world import NEWER, OLDER, World
from wat2mds.world.origin import Origin


@pytest.fixture
def chain(tmp_path: Path, world: World, origin: Origin, programs: Programs, monkeypatch: pytest.MonkeyPatch) -> Chain:
    monkeypatch.setenv("WAT2MDS_SEARCH_CACHE", str(tmp_path / "cache"))
    root = (tmp_path / "store").as_uri()
    for snapshot in (NEWER, OLDER):
        Registry(root).register(snapshot, collinfo=str(world.collinfo), source=str(world.crawl))
    return Chain(root, origin.address, programs)


def command(chain: Chain, *arguments: str, code: int = 0) -> dict[str, Any]:
    done = chain.programs.run([arguments[0], "demo", *arguments[1:], f"--root={chain.root}"])
    assert done.code == code, done.stderr[-4000:]
    summary: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return summary


@pytest.mark.timeout(900)
def test_taken_down_for_good(chain: Chain, tmp_path: Path) -> None:
    dataset = Layout(chain.root, "demo").dataset
    chain.run(chain.plan("demo", "0-1", snapshot=NEWER))
    chain.index("demo", "build", "small")
    before = samples_of(dataset)
    first, second, third, fourth = (before[uid] for uid in sorted(before)[:4])
    subsets.build(dataset, "found", Definition(f"uid IN ('{first.uid}', '{sorted(before)[9]}')"), mds=True)
    urls, table = tmp_path / "urls.txt", tmp_path / "list.csv"
    urls.write_text(f"# asked for by mail\n{second.url}#top\nhttps://nobody.example/1.jpg\n")
    table.write_text(f"kind,value\nmd5,{third.hashes[0].upper()}\npdq,{fourth.hashes[3]}\n")
    Store(dataset).write(f"reports/takedown/{first.uid}-person.json", b"{}")
    lists = [f"--list={urls}", "--kind=url", f"--list={table}"]
    same_image = {
        uid
        for uid, s in before.items()
        if s.url == second.url or s.hashes[0] == third.hashes[0] or s.hashes[3] == fourth.hashes[3]
    }
    gone = same_image | {first.uid}

    # A dry run says what would go, and writes nothing.
    there = [(entry.path, entry.modified) for entry in Store(dataset).walk()]
    dry = command(chain, "takedown", *lists, "--reports", "--dry-run")
    assert (dry["samples"], dry["unmatched"], dry["subsets"], dry["indices"]) == (len(gone), {"url": 1}, ["found"], ["small"])
    assert [(entry.path, entry.modified) for entry in Store(dataset).walk()] == there
    assert command(chain, "verify", f"--absent={table}", code=65)["found"]

    done = command(chain, "takedown", *lists, "--reports", "--reason=asked by mail", "--alone")
    (report,) = done["takedowns"]
    assert report["found"]["samples"] == len(gone)
    assert found_below(folder_of(dataset), [before[uid] for uid in gone]) == []
    left = before.keys() - gone
    assert samples_of(dataset).keys() == left
    assert command(chain, "verify")["problems"] == []
    assert command(chain, "verify", f"--absent={table}")["found"] == []
    assert command(chain, "verify", f"--absent={urls}", "--kind=url")["found"] == []
    assert subsets.read_subset(dataset, "found").samples == 1
    assert command(chain, "takedown") == {"dataset": dataset, "takedowns": []}

    # The same batch again: nothing is made, no version, and the funnel reconciles.
    number = read_version(dataset).number
    again = chain.run(chain.plan("demo", "0-1", snapshot=NEWER))
    assert (again["version"], again["done_before"]) == (number, True)
    assert chain.worked() == []

    # Another setting makes the WAT files anew, from the crawl: what is listed is dropped with its reason.
    units = chain.plan("demo", "0-1", "filter.min_similarity=0.001", snapshot=NEWER)
    for unit in units:
        forget_lost(unit)
    chain.run(units)
    assert read_version(dataset).number == number + 1
    flows = [flow for unit in units for flow in read_manifest(manifest_url(unit, "dedup")).flows]
    assert sum(flow.drops.get("taken_down", 0) for flow in flows) >= 2
    assert not samples_of(dataset).keys() & gone
    # So does a later crawl of the same pages.
    chain.run(chain.plan("demo", "0", snapshot=OLDER))
    now = samples_of(dataset)
    assert not now.keys() & gone
    assert not {s.hashes[0] for s in now.values()} & {third.hashes[0]}
    command(chain, "takedown", "--alone")
    assert command(chain, "verify", f"--absent={table}")["found"] == []
    assert [
        entry for entry in found_below(folder_of(dataset), [first, second], identities=False) if not entry.startswith("work/")
    ] == []
    assert len(takedowns(Store(dataset))) == 1
