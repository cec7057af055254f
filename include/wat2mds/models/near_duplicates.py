"""Which PDQ hashes lie near each other: multi-index hashing, so that a hash is compared with few others, not with all.

In: hashes. Out: for each the first one that is near it, or the leader of its group. Guaranteed: exact, whatever the distance; the
same hashes in the same order give the same answer; memory holds an index and, beside it, 64 MB for comparing. What does not belong
here: which images are compared, what is done with them.

The rule (Norouzi, Punjani, Fleet 2012, "Fast search in Hamming space with multi-index hashing"): of two hashes that differ in at
most d of 256 bits, one of the eight 32-bit words differs in at most d // 8 bits, and one half of that word in at most half as many.
With ThreatExchange's 31 bits that is one bit of 16: a hash is compared with those that share one of its 16 half words but for a
bit, 0.4 % of all, and of these word by word with one 32-bit exclusive-or; what is left is compared in full.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from wat2mds.models.pictures import PDQ_MATCH

NONE = -1
# Candidates compared at once: 64 MB of places, words and their differences.
_CANDIDATES = 2_000_000
# So many hashes are compared each with each: the tables of an index would cost more. More are divided into so many parts.
_FEW, _PARTS = 2048, 16
_ALL = np.arange(1 << 16, dtype=np.uint16)


def hash_rows(hashes: Sequence[str]) -> np.ndarray:
    """uint8 [n, 32] of hashes in hex."""
    return np.frombuffer(bytes.fromhex("".join(hashes)), np.uint8).reshape(-1, 32)


class Index:
    """Hashes, uint8 [n, 32], to look others up in. About 170 bytes a hash."""

    def __init__(self, hashes: np.ndarray) -> None:
        # A picture that is on a thousand pages is compared once. First places, so that an answer is the smallest row.
        self._rows = np.sort(_distinct(hashes)[1]) if len(hashes) else np.empty(0, np.int64)
        self._words = _words(hashes[self._rows])
        self._tables = [(word, _Table(self._words[:, word], shift)) for word in range(8) for shift in (0, 16)]

    def first(self, queries: np.ndarray, distance: int = PDQ_MATCH) -> np.ndarray:
        """For each query, uint8 [q, 32], the smallest row that differs from it in at most ``distance`` bits; NONE where there is none.
        int64 [q]."""
        if not len(queries) or not len(self._rows):
            return np.full(len(queries), NONE, np.int64)
        _, places, back = _distinct(queries)
        words = _words(queries[places])
        in_word = distance // 8
        flips = _ALL[np.bitwise_count(_ALL) <= in_word // 2]
        none = len(self._words)
        found = np.full(len(words), none, np.int64)
        for word, table in self._tables:
            for asked, rows in table.candidates(words[:, word], flips, in_word):
                apart = np.bitwise_count(words[asked] ^ self._words[rows]).sum(axis=1, dtype=np.uint16)
                near = apart <= distance
                np.minimum.at(found, asked[near], rows[near])
        return np.asarray(np.append(self._rows, NONE)[found][back], np.int64)


def leaders(hashes: np.ndarray, distance: int = PDQ_MATCH) -> np.ndarray:
    """Groups of hashes, uint8 [n, 32], in their order: a hash that is near no leader before it is a leader itself, any other belongs to
    the first such leader. Returns the leader's row for each, int64 [n]."""
    if not len(hashes):
        return np.empty(0, np.int64)
    _, places, back = _distinct(hashes)
    order = np.argsort(places)
    first = places[order]
    of_place = np.empty(len(places), np.int64)
    of_place[order] = first[_leaders(hashes[first], distance)]
    return np.asarray(of_place[back], np.int64)


def _leaders(hashes: np.ndarray, distance: int) -> np.ndarray:
    if len(hashes) <= _FEW:
        return _leaders_of_few(hashes, distance)
    # What is near a leader of the parts before leads nothing, so that a part's leaders are those of its rest.
    found = np.full(len(hashes), NONE, np.int64)
    heads = np.empty(0, np.int64)
    for part in np.array_split(np.arange(len(hashes)), _PARTS):
        near = Index(hashes[heads]).first(hashes[part], distance)
        found[part] = np.append(heads, NONE)[near]
        rest = part[near == NONE]
        found[rest] = rest[_leaders(hashes[rest], distance)]
        heads = np.concatenate([heads, np.unique(found[rest])])
    return found


def _leaders_of_few(hashes: np.ndarray, distance: int) -> np.ndarray:
    wide = np.ascontiguousarray(hashes).view(np.uint64)
    apart = np.zeros((len(wide), len(wide)), np.uint16)
    for word in range(4):
        apart += np.bitwise_count(wide[:, word, None] ^ wide[None, :, word])
    near = apart <= distance
    found = np.full(len(wide), NONE, np.int64)
    for row in range(len(wide)):
        if found[row] == NONE:
            found[(found == NONE) & near[row]] = row
    return found


class _Table:
    """One 32-bit word of every hash, sorted by one of its halves."""

    def __init__(self, words: np.ndarray, shift: int) -> None:
        self.shift = shift
        halves = (words >> np.uint32(shift)).astype(np.uint16)
        self.order = np.argsort(halves, kind="stable").astype(np.int32)
        self.words = words[self.order]
        self.starts = np.zeros((1 << 16) + 1, np.int64)
        np.cumsum(np.bincount(halves, minlength=1 << 16), out=self.starts[1:])

    def candidates(self, queries: np.ndarray, flips: np.ndarray, in_word: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(queries, rows) whose half words differ by a flip and whose words differ in at most ``in_word`` bits, a part at a time."""
        halves = (queries >> np.uint32(self.shift)).astype(np.uint16)
        order = np.argsort(halves, kind="stable")
        for start in range(0, len(order), _CANDIDATES // len(flips)):
            part = order[start : start + _CANDIDATES // len(flips)]
            keys = (halves[part, None] ^ flips).astype(np.int64)
            first = self.starts[keys]
            counts = self.starts[keys + 1] - first
            # So many queries at a time that their candidates fit; at least one.
            total = np.cumsum(counts.sum(axis=1))
            bounds = np.unique(np.searchsorted(total, np.arange(0, total[-1] + _CANDIDATES, _CANDIDATES), side="right"))
            for left, right in pairwise([0, *bounds[(bounds > 0) & (bounds < len(part))], len(part)]):
                within = self._within(queries[part[left:right]], first[left:right], counts[left:right], in_word)
                if len(within[0]):
                    yield part[left:right][within[0]], within[1]

    def _within(self, queries: np.ndarray, first: np.ndarray, counts: np.ndarray, in_word: int) -> tuple[np.ndarray, np.ndarray]:
        """Of the places ``first`` … ``first + counts`` [q, flips] of each query those whose words are near enough: (queries, rows)."""
        flips = first.shape[1]
        first, counts = first.ravel(), counts.ravel()
        ends = np.cumsum(counts)
        places = np.repeat(first - (ends - counts), counts)
        places += np.arange(len(places))
        asked = np.repeat(queries, np.add.reduceat(counts, np.arange(0, len(counts), flips)))
        near = np.flatnonzero(np.bitwise_count(self.words[places] ^ asked) <= in_word)
        return np.searchsorted(ends, near, side="right") // flips, self.order[places[near]]


def _words(hashes: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(hashes).view(np.uint32)


def _distinct(hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.unique(np.ascontiguousarray(hashes).view("V32").ravel(), return_index=True, return_inverse=True)
