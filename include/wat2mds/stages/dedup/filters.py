"""The bloom filters of one bin (rbloom): layers that each cover a range of commits, made from their claims and from nothing else.

Which ranges follows from the number of the newest commit alone, in base 4: after commit 39 there are 1-16, 17-32, 33-36, 37, 38, 39.
So each commit writes one new filter, and every fourth replaces four by one, as a log-structured merge tree does: a key is written
to a filter once for each power of four of commits (6 times within 4,096 commits), not once for each later batch, and at most 3
layers a power are asked. Each filter is made for exactly the keys it holds, so there is no capacity to choose and none to outgrow.

An exact ledger keeps beside each merged filter the sorted uids themselves, 16 bytes each, so that a look-up reads one object a layer.

Guaranteed: a filter says "perhaps" to every claim of its commits that holds; a filter's name (range, and the newest release that
took claims out of the range) names its content, so that two writers write the same and a missing one is made again from the claims,
whoever was killed before writing it. What does not belong here: the claims, and what is decided from them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np
from rbloom import Bloom

from wat2mds.stages.dedup import uids as arrays
from wat2mds.stages.dedup.claims import Bin, State

log = logging.getLogger(__name__)
FAN_OUT = 4
# The layers' errors add up. Three layers a power of four are 30 within a million commits: each gets a 32nd of the rate asked for,
# which costs 7.2 bits a key (36 in place of 28.8 at one in a million).
_LAYERS = 32
_CHUNK = 1 << 18
# rbloom wants a function from key to number; the keys are numbers already, and `int` is the quickest that leaves them so.
_HASH = int
_KINDS = ("bloom", "uids")
Range = tuple[int, int]


def ranges(newest: int) -> list[Range]:
    """The ranges of commits that the layers cover after a commit, the largest first."""
    found: list[Range] = []
    done, size = 0, 1
    while size * FAN_OUT <= newest:
        size *= FAN_OUT
    while done < newest:
        while size > newest - done:
            size //= FAN_OUT
        found.append((done + 1, done + size))
        done += size
    return found


class Filters:
    """The filters of one bin. ``rate``: the error rate of all layers together; ``exact``: with the merged uids beside them."""

    def __init__(self, owner: Bin, rate: float, exact: bool) -> None:
        self.bin = owner
        self.folder = f"{owner.folder}/filters"
        self._rate = rate / _LAYERS
        self._exact = exact

    def perhaps(self, state: State, wanted: np.ndarray) -> Iterator[tuple[Range, np.ndarray]]:
        """For each layer which of the uids it perhaps holds; one layer in memory at a time."""
        keys = arrays.filter_keys(wanted)
        for part in ranges(state.newest):
            bloom = self._load(part, state)
            yield part, np.fromiter(map(bloom.__contains__, keys), np.bool_, len(keys))

    def holds(self, part: Range, state: State, wanted: np.ndarray) -> np.ndarray:
        """Which of the uids (sorted) are claimed in these commits; exact."""
        if part[0] == part[1]:
            found = self.bin.read(part[0], state.footer.releases, among=wanted).uids
        else:
            try:
                found = np.frombuffer(self.bin.store.read(self._path(part, state, "uids")), arrays.KIND)
            except FileNotFoundError:
                found = self._merge(part, state)
                if self._is_newest(state):
                    self.bin.store.write(self._path(part, state, "uids"), found.tobytes())
        held: np.ndarray = arrays.places_in(found, wanted) >= 0
        return held

    def extend(self, state: State) -> None:
        """Write the filter that the newest commit adds, and remove those it replaces. Readers that still want one make it again."""
        if not state.newest:
            return
        self._make(ranges(state.newest)[-1], state)
        for part in set(ranges(state.newest - 1)) - set(ranges(state.newest)):
            for kind in _KINDS:
                self.bin.store.delete(self._path(part, state, kind))

    def rebuild(self, state: State, *, only_missing: bool = False) -> int:
        """Make all layers from the claims and remove every other filter. Returns how many were made."""
        names = self.bin.store.names(self.folder)[0]
        wanted = {self._path(part, state, kind).rpartition("/")[2]: part for part in ranges(state.newest) for kind in _KINDS}
        made = 0
        for part in ranges(state.newest):
            if not (only_missing and self._path(part, state, "bloom").rpartition("/")[2] in names):
                self._make(part, state)
                made += 1
        for name in names:
            # Those of later commits, by another writer meanwhile, are not ours to judge.
            if name not in wanted and int(name.split(".")[0].split("-")[1]) <= state.newest:
                self.bin.store.delete(f"{self.folder}/{name}")
        return made

    def fill(self, state: State) -> tuple[int, float, float]:
        """Bytes of the layers, share of their bits that are set, and the error rate that follows from it."""
        size, bits, fresh = 0, 0, 1.0
        for part in ranges(state.newest):
            data = self._load(part, state).save_bytes()
            # rbloom's format: the number of hashes as 8 bytes, then the bits.
            hashes, body = int.from_bytes(data[:8], "little"), np.frombuffer(data, np.uint8, offset=8)
            found = int(np.bitwise_count(body).sum(dtype=np.int64))
            size, bits = size + len(body), bits + found
            fresh *= 1 - (found / (8 * len(body))) ** hashes
        return size, bits / (8 * size) if size else 0.0, 1 - fresh

    def _load(self, part: Range, state: State) -> Bloom:
        path = self._path(part, state, "bloom")
        try:
            return Bloom.load_bytes(self.bin.store.read(path), _HASH)
        except FileNotFoundError:
            log.info("%s/%s is not there: it is made from the claims", self.bin.store.url, path)
        # Replaced by a later commit's: not to be put there again.
        return self._make(part, state) if self._is_newest(state) else self._build(self._merge(part, state))

    def _make(self, part: Range, state: State) -> Bloom:
        uids = self._merge(part, state)
        if self._exact and part[0] < part[1]:
            self.bin.store.write(self._path(part, state, "uids"), uids.tobytes())
        bloom = self._build(uids)
        self.bin.store.write(self._path(part, state, "bloom"), bloom.save_bytes())
        return bloom

    def _is_newest(self, state: State) -> bool:
        return not self.bin.store.exists(self.bin.path(state.newest + 1))

    def _merge(self, part: Range, state: State) -> np.ndarray:
        """The uids that hold in these commits, sorted."""
        uids: np.ndarray = np.concatenate(
            [self.bin.read(commit, state.footer.releases).uids for commit in range(part[0], part[1] + 1)]
        )
        if part[0] < part[1]:
            uids.sort(kind="stable")  # the parts are sorted: a merge
        return uids

    def _build(self, uids: np.ndarray) -> Bloom:
        bloom = Bloom(max(1, len(uids)), self._rate, _HASH)
        for start in range(0, len(uids), _CHUNK):
            bloom.update(arrays.filter_keys(uids[start : start + _CHUNK]))
        return bloom

    def _path(self, part: Range, state: State, kind: str) -> str:
        first, last = part
        taken = (r.sequence for r in state.footer.releases if any(first <= commit <= last for commit in r.commits))
        return f"{self.folder}/{first:06d}-{last:06d}.{max(taken, default=0):06d}.{kind}"
