"""One attempt at claiming for the WAT files of a batch.

In: distinct uids of a bin, each with the WAT file that wants it. Out: who holds each. Guaranteed: what an earlier or a concurrent attempt
claimed for the same WAT files is theirs, exactly, at the cost of those commits alone.

How own claims are found. Before its first claim an attempt writes, in this order, ``attempts/<attempt>/first.json``, the commit that it
is going to try in each bin, and an empty object ``owners/<WAT file>/<attempt>`` for each WAT file; before it tries another commit of a
bin, because somebody was faster, the empty object ``attempts/<attempt>/<bin>.<commit>``. So whoever sees a claim finds where it is
announced. An announcement proves nothing (the attempt may have died): the commit's own footer, which names its attempt, does. An
attempt looks at every bin's newest commit first and at the announcements after: of what is committed up to there it misses none; what
is committed later makes its own commit fail, and it then looks at the new commits themselves.
"""

from __future__ import annotations

import json
import logging
import secrets
from collections import Counter
from collections.abc import Sequence

import numpy as np

from wat2mds.stages.dedup import uids as arrays
from wat2mds.stages.dedup.claims import Bin, Footer, State
from wat2mds.stages.dedup.ledger import TRIES, Ledger, pause

log = logging.getLogger(__name__)
OTHERS, NOBODY = -1, -2
# Random uids that each bin's filters are asked for, where an error cannot be seen otherwise: 256 bins make a million a batch.
_PROBES = 4096


class Session:
    """``owners``: the WAT files that claim here, and others of the batch whose earlier claims are to be told from foreign ones.

    ``counts`` adds up what was asked: ``asked`` = ``own`` + ``held`` + ``new`` uids; ``positives`` of the filters among those that are not
    own; of these ``false_positives``, where the ledger is exact; else ``probes`` with random uids and the ``probe_hits`` among them.
    """

    def __init__(self, ledger: Ledger, owners: Sequence[str]) -> None:
        self.ledger = ledger
        self.owners = list(owners)
        self.name = secrets.token_hex(8)
        self.counts: Counter[str] = Counter()
        self._index = {owner: number for number, owner in enumerate(owners)}
        self._states = [ledger.bin(number).state() for number in range(ledger.bins)]
        self._earlier = ledger.attempts_of(owners)
        first = [state.newest + 1 for state in self._states]
        ledger.store.write(f"attempts/{self.name}/first.json", json.dumps(first).encode())
        for owner in owners:
            ledger.store.write(f"owners/{owner}/{self.name}", b"")

    def claim(self, number: int, uids: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        """Claim sorted, distinct uids of one bin, each for the owner of that index. Returns the index of the owner of each, OTHERS
        where it is none of the session's. Raises TransientError if other writers win too many times in a row."""
        if not len(uids):
            return np.empty(0, np.int32)
        place, state = self.ledger.bin(number), self._states[number]
        own = self.ledger.committed(number, self._earlier, state.newest)
        for again in range(TRIES):
            counts: Counter[str] = Counter(asked=len(uids))
            holder = self._own(place, own, state, uids)
            counts["own"] = int((holder != NOBODY).sum())
            rest = np.flatnonzero(holder == NOBODY)
            held = self._held(number, state, uids[rest], counts)
            holder[rest[held]] = OTHERS
            new = rest[~held]
            holder[new] = wanted[new]
            counts["held"], counts["new"] = int(held.sum()), len(new)
            if not len(new) or self._commit(place, state, uids[new], wanted[new]):
                self.counts += counts
                return holder
            pause(again)
            seen, state = state.newest, place.state(at_least=state.newest)
            ours = set(self.owners)
            own += [later for later in range(seen + 1, state.newest + 1) if ours.intersection(place.footer(later).owners)]
        raise self.ledger.too_busy(number)

    def _own(self, place: Bin, commits: Sequence[int], state: State, uids: np.ndarray) -> np.ndarray:
        """The index of the owner for uids that one of the session's owners holds, else NOBODY."""
        holder = np.full(len(uids), NOBODY, np.int32)
        for sequence in commits:
            found = place.read(sequence, state.footer.releases, among=uids)
            index = np.array([self._index.get(name, NOBODY) for name in found.names], np.int32)
            places = arrays.places_in(found.uids, uids)
            hit = np.flatnonzero(places >= 0)
            who = index[found.codes[places[hit]]]
            holder[hit[who != NOBODY]] = who[who != NOBODY]
        return holder

    def _held(self, number: int, state: State, uids: np.ndarray, counts: Counter[str]) -> np.ndarray:
        """Which uids somebody else has claimed: certainly so in an exact ledger, else as the filters say."""
        positive, held = np.zeros(len(uids), np.bool_), np.zeros(len(uids), np.bool_)
        exact = self.ledger.exact
        if not exact:
            probes = np.frombuffer(secrets.token_bytes(16 * _PROBES), arrays.KIND)
            probed = np.zeros(_PROBES, np.bool_)
            uids = np.concatenate([uids, probes])
        filters = self.ledger.filters(number)
        for part, hits in filters.perhaps(state, uids):
            if not exact:
                hits, more = hits[:-_PROBES], hits[-_PROBES:]
                probed |= more
            positive |= hits
            if exact and len(open_ := np.flatnonzero(hits & ~held)):
                held[open_] = filters.holds(part, state, uids[open_])
        counts["positives"] = int(positive.sum())
        if exact:
            counts["false_positives"] = int((positive & ~held).sum())
            return held
        if state.newest:
            counts["probes"], counts["probe_hits"] = _PROBES, int(probed.sum())
        return positive

    def _commit(self, place: Bin, state: State, uids: np.ndarray, codes: np.ndarray) -> bool:
        sequence = state.newest + 1
        if sequence != self._states[place.number].newest + 1:
            self.ledger.store.write(f"attempts/{self.name}/{place.number:04d}.{sequence:06d}", b"")
        names, codes = np.unique(codes, return_inverse=True)
        owners = [self.owners[name] for name in names]
        footer = Footer(self.name, owners, state.footer.keys + len(uids), state.footer.releases)
        if not place.create(sequence, uids, codes, owners, footer):
            return False
        self.ledger.filters(place.number).extend(State(sequence, footer))
        return True
