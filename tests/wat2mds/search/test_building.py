"""Indices of versions: built, brought to the next version, left and removed by vacuum; two at once, one cut short."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from tests.wat2mds.search.conftest import SETTINGS, bring, stored_vectors
from wat2mds.cli.main import run as command
from wat2mds.errors import ConfigError, DataError, TransientError
from wat2mds.search import building, index_types
from wat2mds.search.building import build, update, why_train
from wat2mds.search.reading import list_indices, open_index
from wat2mds.search.recall import Measured
from wat2mds.settings import Settings
from wat2mds.stages.publish.vacuum import vacuum
from wat2mds.store import Store
from wat2mds.versions import withdraw

NOW = timedelta(0)
STRICT = Settings.model_validate({**SETTINGS.model_dump(by_alias=True), "filter": {"min_similarity": 0.3}})


def contents(dataset: str, kinds: tuple[str, ...] = ("uids", "image", "text")) -> bytes:
    """All bytes of the newest index's objects of these kinds."""
    return b"".join(Store(dataset).read(list_indices(dataset)[-1].objects[kind].path) for kind in kinds)


def packed(uid: str) -> bytes:
    """A uid as it stands in the file of uids: two numbers of 64 bits."""
    return np.array([int(uid[:16], 16), int(uid[16:], 16)], "u8").tobytes()


def test_an_update_brings_what_is_new_and_leaves_out_what_is_gone(anywhere, caplog):
    """A WAT file more, then one of the first made anew by another rule, which leaves out some of its samples."""
    caplog.set_level("INFO")
    bring(anywhere, "00000", 40, dropped=0)
    bring(anywhere, "00001", 40)
    first = build(anywhere, "small")
    bring(anywhere, "00002", 40)
    [second] = update(anywhere)
    assert (second.version, second.trained, second.count) == (3, 2, first.count + 38)
    before, _ = stored_vectors(anywhere, 3)
    bring(anywhere, "00000", 40, settings=STRICT, dropped=12)
    [third] = update(anywhere)
    assert (third.version, third.trained, third.measured) == (4, 2, 4)
    uids, vectors = stored_vectors(anywhere)
    gone = set(before) - set(uids)
    assert len(gone) == 12
    assert caplog.text.count("training IVF1,SQfp16") == 2, "one training each for images and texts"

    index = open_index(anywhere)
    assert third.count == len(uids) == len({hit.uid for hit in index.search(vectors["image"][:1], 1000, "image")[0]})
    for kind in ("image", "text"):
        own = index.search(vectors[kind], 1, kind)
        assert [hits[0].score for hits in own] == pytest.approx([1.0] * len(uids), abs=2e-3)
        assert np.mean([hits[0].uid == uid for hits, uid in zip(own, uids, strict=True)]) == 1
    everything = contents(anywhere)
    assert all(packed(uid) in everything for uid in uids)
    assert not [uid for uid in gone if packed(uid) in everything or index.vector(uid, "image") is not None]
    # The old versions' indices are as they were.
    assert list_indices(anywhere) == [first, second, third]
    assert {hit.uid for hit in open_index(anywhere, version=3).search(vectors["image"][:1], 1000, "image")[0]} == set(before)
    assert update(anywhere) == [third], "a second time changes nothing"


def test_presets_stand_side_by_side_and_are_kept_up_together(tmp_path):
    url = f"{tmp_path.as_uri()}/datasets/small"
    bring(url, "00000", 20)
    assert [record.name for record in update(url)] == ["small"], "a dataset without an index gets the default"
    build(url, "large")
    bring(url, "00001", 20)
    assert [(record.name, record.version) for record in update(url)] == [("large", 2), ("small", 2)]
    assert [(record.name, record.version) for record in update(url, ["medium"])] == [("medium", 2)]
    small, large = (open_index(url, name).record for name in ("small", "large"))
    assert (small.memory_limit, large.memory_limit) == (2 * 10**9, 128 * 10**9)
    assert small.objects["uids"] == large.objects["uids"], "objects of the same content are one"


def test_the_same_version_gives_the_same_bytes(tmp_path):
    records = []
    for name in ("one", "other"):
        url = f"{(tmp_path / name).as_uri()}/datasets/small"
        for number in range(3):
            bring(url, f"0000{number}", 20)
            if name == "other":
                update(url)
        records.append(build(url, "small") if name == "one" else build(url, "large"))
    assert records[0].objects == records[1].objects
    assert records[0] == replace(records[1], name="small", memory_limit=records[0].memory_limit)


def test_two_at_once_are_one(anywhere):
    bring(anywhere, "00000", 20)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: build(anywhere, "small"), range(2)))
    assert found[0] == found[1] == list_indices(anywhere)[0]


def test_one_that_was_cut_short_is_none_and_is_begun_anew(tmp_path, monkeypatch):
    url = f"{tmp_path.as_uri()}/datasets/small"
    bring(url, "00000", 20)
    put, calls = Store.put_file, []

    def dies(self: Store, source: Any, path: str, *rest: Any) -> None:
        calls.append(path)
        if len(calls) == 3:
            raise TransientError("the store went away")
        put(self, source, path, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(Store, "put_file", dies)
        with pytest.raises(TransientError):
            build(url, "small")
    assert list_indices(url) == []
    assert build(url, "small") == list_indices(url)[0]


def test_vacuum_leaves_what_stands_and_removes_the_rest(anywhere):
    bring(anywhere, "00000", 20)
    first = build(anywhere, "small")
    bring(anywhere, "00001", 20)
    [second] = update(anywhere)
    store = Store(anywhere)
    store.write("search/objects/left.image", b"left by one that was killed")
    assert [entry.path for entry in vacuum(anywhere, NOW, alone=True).removed] == ["search/objects/left.image"]
    assert vacuum(anywhere).removed == []
    withdraw(anywhere, [1], "asked to")
    removed = {entry.path for entry in vacuum(anywhere, NOW, alone=True).removed if entry.path.startswith("search/")}
    kept = {stored.path for stored in second.objects.values()}
    assert removed == {stored.path for stored in first.objects.values()} - kept | {"search/000001/small.json"}
    assert {entry.path for entry in store.walk("search")} == kept | {"search/000002/small.json"}
    assert open_index(anywhere).record == second


def test_when_an_index_is_trained_anew(tmp_path, monkeypatch, caplog):
    url = f"{tmp_path.as_uri()}/datasets/small"
    bring(url, "00000", 20)
    record = build(url, "small")
    clip = (record.clip_model, record.clip_pretrained)
    limit = record.memory_limit
    assert not why_train(record, 900, 16, limit, clip)
    assert "want IVF128,SQfp16, it is IVF1,SQfp16" in why_train(record, 1000, 16, limit, clip)
    grown = replace(record, type="IVF128,SQfp16")
    assert not why_train(grown, 3000, 16, limit, clip)  # IVF256: near enough
    assert "IVF512" in why_train(grown, 20_000, 16, limit, clip)
    assert "want IVF128,SQ8" in why_train(grown, 1000, 16, 36_000, clip)
    assert "vectors are of" in why_train(record, 20, 16, limit, ("ViT-L-14", "openai"))
    assert "vectors are of" in why_train(record, 20, 8, limit, clip)
    low = Measured({}, {"image by image": record.recall - 0.006}, 18)
    assert "recall fell" in why_train(record, 20, 16, limit, clip, low)
    assert not why_train(record, 20, 16, limit, clip, replace(low, recalls={"image by image": record.recall - 0.004}))

    # And it is then done: the rule says that 20 samples are one list's, 40 many's.
    caplog.set_level("INFO")
    monkeypatch.setattr(index_types, "_FLAT_BELOW", 30)
    bring(url, "00001", 20)
    [second] = update(url)
    assert "is trained anew: 36 vectors want IVF32,SQfp16, it is IVF1,SQfp16" in caplog.text
    assert (second.type, second.trained, second.count) == ("IVF32,SQfp16", 2, 36)


def test_recall_is_measured_when_enough_has_changed(tmp_path, monkeypatch):
    url = f"{tmp_path.as_uri()}/datasets/small"
    bring(url, "00000", 40)
    first = build(url, "small")
    monkeypatch.setattr(building, "MEASURE_AFTER", 0.5)
    bring(url, "00001", 20)
    [second] = update(url)
    assert (second.measured, second.changed, second.recalls) == (1, 18, first.recalls)
    bring(url, "00002", 30)
    [third] = update(url)
    assert (third.measured, third.changed, third.trained) == (3, 0, 1)


def test_embeddings_of_two_models_are_not_put_together(tmp_path):
    url = f"{tmp_path.as_uri()}/datasets/small"
    other = Settings.model_validate({**SETTINGS.model_dump(by_alias=True), "filter": {"clip_pretrained": "laion2b_s34b_b79k"}})
    bring(url, "00000", 12)
    for settings in (SETTINGS, other):
        Store(url).write(f"settings/{settings.digest}.json", settings.to_json().encode())
    bring(url, "00001", 12, settings=other)
    with pytest.raises(DataError, match=r"several models.*laion2b_s34b_b79k"):
        build(url, "small")
    bring(url, "00000", 12, settings=other)
    assert build(url, "small").clip_pretrained == "laion2b_s34b_b79k"


def test_nothing_to_index(tmp_path):
    url = f"{tmp_path.as_uri()}/datasets/small"
    with pytest.raises(DataError, match="holds no version"):
        build(url, "small")
    with pytest.raises(ConfigError, match="no index preset"):
        build(url, "tiny")


def test_the_commands(tmp_path, capsys):
    url = f"{tmp_path.as_uri()}/datasets/small"
    bring(url, "00000", 20)
    place = ["--root", tmp_path.as_uri(), "--dataset", "small"]

    def said(*arguments: str, code: int = 0) -> Any:
        assert command(["index", *arguments, *place]) == code
        return json.loads(capsys.readouterr().out.splitlines()[-1]) if code == 0 else None

    assert said("list") == {"datasets": {url: []}}
    [built] = said("build", "medium")["indices"]
    assert (built["name"], built["version"], built["count"], built["recall"] > 0.9) == ("medium", 1, 18, True)
    assert said("list") == {"datasets": {url: [built]}}
    bring(url, "00001", 20)
    [updated] = said("update")["datasets"][url]
    assert (updated["name"], updated["version"], updated["trained"]) == ("medium", 2, 1)
    assert [entry["name"] for entry in said("update", "small", "medium", "--threads", "2")["datasets"][url]] == [
        "small",
        "medium",
    ]
    said("build", "huge", code=78)
    said("build", "small", "--version", "7", code=65)
