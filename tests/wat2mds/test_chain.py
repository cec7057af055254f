"""The chain end to end on the demo world, without Airflow: the known truth, nothing made twice, datasets that do not meet."""

from __future__ import annotations

import hashlib
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.wat2mds.chain import GROUP, Chain
from tests.wat2mds.programs import Programs
from tests.wat2mds.rebuild import rebuild
from tests.wat2mds.stages.test_validate import ALONE, TOGETHER, Break
from wat2mds.errors import DataError
from wat2mds.manifest import read_manifest
from wat2mds.plan import manifest_url
from wat2mds.reading import count_samples
from wat2mds.search.reading import open_index
from wat2mds.settings import Settings
from wat2mds.snapshots import Registry
from wat2mds.stages import validate
from wat2mds.store import Layout, Store, join, split
from wat2mds.versions import open_table, read_version
from wat2mds.world.demo_world import NEWER, World
from wat2mds.world.expected import compare
from wat2mds.world.origin import Origin


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory, world: World, origin: Origin, programs: Programs) -> Chain:
    root = (tmp_path_factory.mktemp("chain") / "store").as_uri()
    Registry(root).register(NEWER, collinfo=str(world.collinfo), source=str(world.crawl))
    return Chain(root, origin.address, programs)


def shard_bytes(chain: Chain, dataset: str) -> dict[str, str]:
    """Every published shard and embedding, by path: its hash."""
    store = Store(Layout(chain.root, dataset).dataset)
    objects = [o.path for part in ("shards", "embeddings") for o in store.walk(part) if "/metadata/" not in o.path]
    return {path: hashlib.sha256(store.read(path)).hexdigest() for path in objects}


def test_one_after_the_other(chain: Chain, world: World) -> None:
    """One WAT file after the other, and what does not happen again; a test of its own for each would build them anew."""
    dataset = Layout(chain.root, "one").dataset

    first = chain.run(chain.plan("one", "0", snapshot=NEWER))
    assert first["version"] == 1
    assert [stage for stage, _ in chain.worked()] == ["extract", "dedup", *GROUP, "publish"]

    # Its report has a row of quality for the WAT file, with a page of its own; the version says what it passed.
    report = Store(Layout(chain.root, "one").reports)
    (batch,) = [name for name in report.names()[0] if name.endswith(".json")]
    row = report.read_json(batch)["quality"]["00000"]
    assert (row["passed"], row["critical"]) == (True, [])
    assert report.exists(row["page"])
    (unit,) = read_version(dataset).units.values()
    assert row["page"] == Layout.quality_path(unit.key, unit.digests["validate"], "html")

    # The same again: no stage works, no version is made.
    again = chain.run(chain.plan("one", "0", snapshot=NEWER))
    assert (again["version"], again["done_before"]) == (1, True)
    assert chain.worked() == []

    # Its kNN index holds its samples.
    (index,) = chain.index("one", "build", "small")
    assert (index["version"], index["count"], index["trained"]) == (1, first["samples"], 1)
    assert index["recall"] >= 0.95

    # One more WAT file: only its work.
    before = shard_bytes(chain, "one")
    more = chain.run(chain.plan("one", "0-1", snapshot=NEWER))
    assert more["version"] == 2
    assert [(s, w) for s, w in chain.worked() if w] == [(s, "00001") for s in ("extract", *GROUP)]
    assert before.items() < shard_bytes(chain, "one").items()

    # The truth, by construction of the world.
    version = read_version(dataset)
    uids = open_table(dataset, version).to_pyarrow_table(columns=["uid"])["uid"].to_pylist()
    expected = {name: wat for name, wat in world.expected.of(NEWER).items() if name in ("00000", "00001")}
    assert compare(expected, {unit.wat_file: _drops(unit.flows) for unit in version.units.values()}, uids) == []
    assert count_samples(dataset, version) == version.samples == len(uids)
    # The version before it is still whole.
    assert count_samples(dataset, 1) == len(expected["00000"].uids)

    # The index follows, without training, and finds each of its images by itself and by its caption among the best of its kind.
    (index,) = chain.index("one", "update")
    assert (index["version"], index["count"], index["trained"]) == (2, version.samples, 1)
    assert index["recall"] >= 0.95
    opened = open_index(dataset)
    vectors = {kind: np.stack([opened.vector(uid, kind) for uid in uids]) for kind in ("image", "text")}
    for by, searched in product(vectors, vectors):
        best = np.sort(vectors[by] @ vectors[searched].T, axis=1)[:, ::-1][:, :10]
        found = [[hit.score for hit in hits] for hits in opened.search(vectors[by], 10, searched)]
        assert np.abs(np.array(found) - best).max() < 5e-3

    # Another dataset under the same root, from the same WAT file: all its samples, and the same bytes.
    chain.run(chain.plan("two", "0", snapshot=NEWER))
    assert shard_bytes(chain, "two") == before

    # Another threshold: decisions and what follows; no image is fetched, no embedding computed.
    asked = [s["manifest"] for s in chain.summaries if s["stage"] == "download"]
    scores = list(_folder(chain, "two").rglob("filter/scores/*.json"))
    strict = chain.run(chain.plan("two", "0", "filter.min_similarity=0.75", "filter.min_similarity_other=0.75", snapshot=NEWER))
    assert [stage for stage, _ in chain.worked()] == ["filter", "validate", "convert", "upload", "publish"]
    assert [s["manifest"] for s in chain.summaries if s["stage"] == "download"] == asked
    assert list(_folder(chain, "two").rglob("filter/scores/*.json")) == scores
    assert 0 < strict["samples"] < first["samples"]


@pytest.mark.parametrize("breaks", [*TOGETHER.values(), *([one] for one in ALONE)], ids=lambda breaks: breaks[0].expectation)
def test_what_is_broken_in_real_output_is_held_back(chain: Chain, tmp_path: Path, breaks: list[Break]) -> None:
    """The real stages' output, broken as tests/wat2mds/stages/test_validate.py breaks drawn tables: each critical expectation finds it."""
    (unit,) = chain.plan("one", "0", snapshot=NEWER)
    if not Store(unit["work"]).exists(f"filter/{unit['digests']['filter']}.json"):
        for stage in ("extract", "dedup", "download", "filter"):
            chain.stage(stage, unit)
    samples, decisions = (read_manifest(manifest_url(unit, stage)) for stage in ("download", "filter"))
    settings = Settings.from_json(Store(split(unit["settings"])[0]).read(split(unit["settings"])[1]), "settings")
    dataset = Layout(tmp_path.as_uri(), "broken").dataset
    changes: dict[str, Any] = {}
    for one in breaks:
        before = changes.get(one.table, lambda value: value)
        changes[one.table] = lambda value, before=before, one=one: one.change(before(value))
    broken = rebuild(samples, decisions, dataset, settings, changes, tmp_path)
    with pytest.raises(DataError) as failure:
        validate.run(*broken, join(dataset, "work", *samples.unit.values(), "validate"), settings, dataset)
    names = {line.split()[0] for line in str(failure.value).splitlines() if line.startswith("  ")}
    assert {name for one in breaks for name in one.expectation.split()} <= names
    assert {entry.path.split("/")[0] for entry in Store(dataset).walk()} == {"work", "reports"}


def test_a_store_on_s3_gives_the_same_bytes(
    tmp_path: Path, s3_root: str, world: World, origin: Origin, chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No stage relies on a local disk between tasks: all that is handed on lies in the store."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    Registry(s3_root).register(NEWER, collinfo=str(world.collinfo), source=str(world.crawl))
    remote = Chain(s3_root, origin.address, chain.programs)
    remote.run(remote.plan("one", "2", snapshot=NEWER))
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [], "a stage leaves nothing behind on its machine"
    chain.run(chain.plan("local", "2", snapshot=NEWER))
    assert shard_bytes(remote, "one") == shard_bytes(chain, "local")
    assert remote.index("one", "build", "large") == chain.index("local", "build", "large")
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []
    dataset = Layout(s3_root, "one").dataset
    assert count_samples(dataset) == read_version(dataset).samples > 0


def _folder(chain: Chain, dataset: str) -> Path:
    return Path(Layout(chain.root, dataset).dataset.removeprefix("file://"))


def _drops(flows: list[dict[str, object]]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for flow in flows:
        stage = found.setdefault(str(flow["stage"]), {})
        for reason, count in flow["drops"].items():  # type: ignore[attr-defined]
            stage[reason] = stage.get(reason, 0) + count
    return found
