"""Sorted uids, in memory and by bins."""

from __future__ import annotations

import numpy as np
import pytest

from wat2mds.subsets import uids


@pytest.mark.parametrize("at_once", [1 << 22, 100])
@pytest.mark.parametrize("most", [None, 0, 1, 700, 5000])
def test_the_least_are_written_in_order(at_once, most, tmp_path, monkeypatch):
    monkeypatch.setattr(uids, "_AT_ONCE", at_once)
    # Some differ in their second half alone; a few first bytes are missing.
    rng = np.random.default_rng(1)
    pairs = np.empty(1000, uids.DTYPE)
    pairs["f0"] = rng.integers(0, 300, 1000, dtype=np.uint64) << np.uint64(55)
    pairs["f1"] = rng.integers(0, 1 << 63, 1000, dtype=np.uint64)
    expected = sorted(pairs.tolist())[:most]
    assert uids.write_sorted([pairs[:10], pairs[10:10], pairs[10:500], pairs[500:]], tmp_path / "all", most) == len(expected)
    assert np.load(tmp_path / "all").tolist() == expected
    assert [path.name for path in tmp_path.iterdir()] == ["all"], "scratch files are gone"
    assert uids.last(tmp_path / "all") == (expected[-1] if expected else None)


def test_none_at_all(tmp_path):
    assert uids.write_sorted([], tmp_path / "none") == 0
    assert len(np.load(tmp_path / "none")) == 0


@pytest.mark.parametrize("count", [0, 1, 2, 1000])
def test_a_few_are_found_among_many(count):
    rng = np.random.default_rng(2)
    pairs = np.empty(count, uids.DTYPE)
    pairs["f0"], pairs["f1"] = rng.integers(0, 50, count), rng.permutation(count)
    pairs = uids.in_order(pairs)
    missing = np.array([(51, 0), (0, 5000), (25, 5000)], uids.DTYPE)
    wanted = np.concatenate([pairs[::-3], missing])
    assert uids.find(pairs, wanted).tolist() == uids.positions(pairs, wanted).tolist()
    assert uids.find(pairs, wanted).tolist() == [*range(count - 1, -1, -3), -1, -1, -1]
