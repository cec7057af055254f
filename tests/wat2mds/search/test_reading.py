"""An index, opened: what it finds is what brute force over the stored embeddings finds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.wat2mds.search.conftest import bring, stored_vectors
from wat2mds.errors import ConfigError, DataError, TransientError
from wat2mds.search.building import build
from wat2mds.search.reading import Hit, list_indices, open_index
from wat2mds.search.vectors import normalized
from wat2mds.store import Store
from wat2mds.versions import withdraw


def test_an_index_finds_what_brute_force_finds(anywhere):
    bring(anywhere, "00000", 40)
    bring(anywhere, "00001", 30)
    record = build(anywhere, "small")
    uids, vectors = stored_vectors(anywhere)
    assert (record.count, record.dim, record.version) == (len(uids), 16, 2)
    assert list_indices(anywhere) == [record]
    index = open_index(anywhere)
    for by in ("image", "text"):
        for searched in ("image", "text"):
            found = index.search(vectors[by] * 3, 10, searched)  # the length of a query says nothing
            scores = vectors[by] @ vectors[searched].T
            for row, hits in enumerate(found):
                best = np.sort(scores[row])[::-1][:10]
                assert [hit.score for hit in hits] == pytest.approx(best.tolist(), abs=2e-3)
                assert [hit.score for hit in hits] == pytest.approx([scores[row][uids.index(hit.uid)] for hit in hits], abs=2e-3)
                assert hits == sorted(hits, key=lambda hit: (-hit.score, hit.uid))
    for number, uid in enumerate(uids):
        for kind in ("image", "text"):
            assert index.vector(uid, kind) == pytest.approx(vectors[kind][number], abs=2e-3)
            assert np.linalg.norm(index.vector(uid, kind)) == pytest.approx(1, abs=1e-5)


def test_odd_queries(tmp_path):
    url = f"{tmp_path.as_uri()}/datasets/small"
    bring(url, "00000", 12)
    build(url, "small")
    index = open_index(url, "small", 1)
    one = np.ones(16, np.float32)
    assert index.search(np.empty((0, 16), np.float32), 3, "image") == []
    assert index.search(one[None], 0, "image") == [[]]
    assert index.search(np.stack([one, 0 * one, one * np.nan]), 3, "image")[1:] == [[], []]
    [hits] = index.search(one[None].astype(np.float64), 100, "image")
    assert len(hits) == 10 == len({hit.uid for hit in hits})
    assert all(isinstance(hit, Hit) for hit in hits)
    with pytest.raises(ConfigError, match="16 floats, not of 15"):
        index.search(one[None, :15], 3, "image")
    for wrong in ("", "00", "zz" * 16, "0" * 32, "f" * 32, "../" + "0" * 29):
        assert index.vector(wrong, "image") is None
    assert index.vector(hits[0].uid.upper(), "image") is not None


def test_no_index_is_an_error_that_names_those_there_are(tmp_path):
    url = f"{tmp_path.as_uri()}/datasets/small"
    bring(url, "00000", 12)
    with pytest.raises(ConfigError, match=r"has no index\. There are: none"):
        open_index(url)
    build(url, "small")
    with pytest.raises(ConfigError, match=r"no index 'large'\. There are: small of version 1"):
        open_index(url, "large")
    with pytest.raises(ConfigError, match=r"no index of version 2\. There are: small of version 1"):
        open_index(url, version=2)
    with pytest.raises(ConfigError, match=r"'smal'\. Did you mean 'small'"):
        build(url, "smal")


def test_an_index_of_a_withdrawn_version_is_none(anywhere, tmp_path):
    bring(anywhere, "00000", 12)
    first = build(anywhere, "small")
    open_index(anywhere)
    bring(anywhere, "00001", 12)
    second = build(anywhere, "small")
    withdraw(anywhere, [1], "asked to")
    assert list_indices(anywhere) == [second]
    with pytest.raises(ConfigError):
        open_index(anywhere, version=1)
    with pytest.raises(DataError, match="withdrawn"):
        build(anywhere, "small", 1)
    open_index(anywhere)
    # Nor does a cache keep what belongs to no index any more.
    cached = {path.name for path in Path(tmp_path / "cache").rglob("*") if path.is_file()}
    names = {entry.path.rpartition("/")[2] for entry in second.objects.values()}
    assert cached == (set() if Store(anywhere).local else names)
    assert not names & {entry.path.rpartition("/")[2] for kind, entry in first.objects.items() if kind != "units"}


def test_a_damaged_index_is_found(anywhere):
    bring(anywhere, "00000", 12)
    record = build(anywhere, "small")
    store, path = Store(anywhere), record.objects["image"].path
    sound = store.read(path)
    store.write(path, sound[:-1])
    with pytest.raises((DataError, TransientError)):
        open_index(anywhere)
    store.delete(path)
    with pytest.raises(DataError):
        open_index(anywhere)


def test_vectors_that_are_none_become_zeros():
    given = np.array([[3, 4], [0, 0], [np.nan, 1], [np.inf, 1]], np.float16)
    assert normalized(given).tolist() == [pytest.approx([0.6, 0.8]), [0, 0], [0, 0], [0, 0]]


def test_a_search_among_some(tmp_path):
    url = f"{tmp_path.as_uri()}/datasets/small"
    bring(url, "00000", 40)
    build(url, "small")
    uids, vectors = stored_vectors(url)
    index = open_index(url)
    [every] = index.search(vectors["image"][:1], 100, "image")
    far = [hit.uid for hit in every[-3:]]
    [found] = index.search(vectors["image"][:1], 100, "image", [far[2], "0" * 32, "rubbish", far[0], far[1], far[0]])
    assert [hit.uid for hit in found] == far
    assert [hit.score for hit in found] == pytest.approx([hit.score for hit in every[-3:]], abs=1e-5)
    assert index.search(vectors["image"][:2], 100, "image", ["f" * 32]) == [[], []]
    assert index.search(vectors["image"][:2], 100, "image", []) == [[], []]
    assert {hit.uid for hit in every} == set(uids)
