"""Near hashes, against a comparison of all with all."""

from __future__ import annotations

import numpy as np
import pytest

from wat2mds.models import near_duplicates
from wat2mds.models.near_duplicates import NONE, Index, leaders


def scattered(rng: np.random.Generator, count: int, centres: int, most: int) -> np.ndarray:
    """Hashes around few centres, each up to ``most`` bits away, some of them equal, in any order; and as many without a neighbour."""
    bits = rng.integers(0, 2, (centres, 256), dtype=np.uint8)[rng.integers(0, centres, count)]
    for row in bits:
        row[rng.choice(256, rng.integers(0, most + 1), replace=False)] ^= 1
    hashes = np.concatenate([np.packbits(bits, axis=1), rng.integers(0, 256, (count, 32), dtype=np.uint8)])
    hashes[: count // 4] = hashes[count // 4 : count // 4 * 2]
    return np.asarray(rng.permutation(hashes))


def all_pairs(queries: np.ndarray, hashes: np.ndarray) -> np.ndarray:
    """Bits by which each differs from each, counted in Python's integers."""
    numbers = [int.from_bytes(h.tobytes()) for h in hashes]
    return np.array([[(int.from_bytes(q.tobytes()) ^ n).bit_count() for n in numbers] for q in queries])


@pytest.mark.parametrize("distance", [0, 7, 16, 31, 40])
@pytest.mark.parametrize("seed", range(3))
def test_first_is_what_a_comparison_of_all_with_all_finds(distance: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    everything = scattered(rng, 300, 12, distance)
    queries, hashes = everything[:200], everything[200:]
    near = all_pairs(queries, hashes) <= distance
    expected = np.where(near.any(axis=1), near.argmax(axis=1), NONE)
    assert 20 < (expected != NONE).sum() < 180
    assert np.array_equal(Index(hashes).first(queries, distance), expected)


@pytest.mark.parametrize("few", [60, 4096])
@pytest.mark.parametrize("seed", range(3))
def test_leaders_are_those_of_one_walk_through_all(few: int, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_duplicates, "_FEW", few)
    hashes = scattered(np.random.default_rng(seed), 250, 9, 31)
    apart = all_pairs(hashes, hashes)
    heads: list[int] = []
    expected = []
    for row in range(len(hashes)):
        found = next((head for head in heads if apart[row, head] <= 31), None)
        if found is None:
            heads.append(row)
        expected.append(row if found is None else found)
    assert 9 <= len(heads) - 250 < 200, "more groups than centres: what lies on either side of one is no group"
    assert leaders(hashes).tolist() == expected


@pytest.mark.parametrize("word", range(16))
@pytest.mark.parametrize(("bits", "found"), [(31, True), (32, False)])
def test_each_half_word_can_be_the_one_that_is_shared(word: int, bits: int, found: bool) -> None:
    """All other half words differ in two bits at least, so that this one alone leads to the hash."""
    rng = np.random.default_rng(word)
    one = rng.integers(0, 2, (16, 16), dtype=np.uint8)
    other = one.copy()
    for half in range(16):
        differing = bits - 30 if half == word else 2
        other[half, rng.choice(16, differing, replace=False)] ^= 1
    noise = rng.integers(0, 256, (500, 32), dtype=np.uint8)
    hashes = np.concatenate([noise, np.packbits(one).reshape(1, 32)])
    assert Index(hashes).first(np.packbits(other).reshape(1, 32)).tolist() == [500 if found else NONE]


def test_many_candidates_are_compared_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashes that all share a half word, as flat pictures' do."""
    rng = np.random.default_rng(5)
    hashes = scattered(rng, 400, 5, 20)
    hashes[:, :2] = 0
    expected = Index(hashes[200:]).first(hashes[:200])
    monkeypatch.setattr(near_duplicates, "_CANDIDATES", 300)
    assert np.array_equal(Index(hashes[200:]).first(hashes[:200]), expected)


def test_nothing_to_compare() -> None:
    none, some = np.empty((0, 32), np.uint8), np.zeros((3, 32), np.uint8)
    assert Index(none).first(some).tolist() == [NONE] * 3
    assert Index(some).first(none).tolist() == []
    assert leaders(none).tolist() == []
    assert leaders(some).tolist() == [0, 0, 0]
