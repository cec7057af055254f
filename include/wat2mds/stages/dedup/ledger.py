"""The ledger: which uids have ever been claimed, and by which WAT file; in a fixed number of bins by uid.

    ledger.json                            number of bins, error rate of the filters
    bin=0003/claims/000017.parquet         commit 17 of the bin: its claims (``claims``)
    bin=0003/filters/000001-000016.….bloom what lets most uids pass unread (``filters``)
    attempts/<attempt>/…, owners/<WAT file>/<attempt>   where a WAT file's own claims may lie (``session``)

Guaranteed: a uid has one owner, whoever claims at the same time and whoever is killed where; an owner's own claims are recognised
exactly; nothing but ``claims/`` and ``attempts/``, ``owners/`` cannot be made again.

What it costs, and how far (measured: tests/benchmarks/ledger.py). A key takes 17 bytes of claims, written once, and 4.5 bytes of filter,
written once a power of four of commits. A batch touches every bin, since uids are hashes: it reads all filters, 4.5 bytes a key of the
ledger, a layer of a bin at a time. That is the one cost that grows with the ledger, and it is shared by the batch's 24 million pairs:
at 50 billion keys 225 GB a batch, 9 KB a pair, minutes beside the hours of downloading the batch; memory is that of one bin. An exact
ledger reads the claims where a filter says "perhaps": with most pairs seen before that is nearly all of them, 17 bytes a key: right up to
some billions of keys, and a terabyte a batch at 50 billion, where an error of one pair in a million is the better bargain.

Hence the defaults. 256 bins: a batch makes 94 thousand claims in each, an object of 1.6 MB, and 10 billion keys make bins of 40 million,
under 2 GB in memory while the largest layer is merged. For 50 billion 1,024 bins keep that
size (profile laion5b). Fewer make objects larger, more make requests more: five requests a bin and batch.
What does not belong here: which pairs of a batch want which uids (``__init__``).
"""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Self

from wat2mds.errors import DataError, TransientError
from wat2mds.stage_settings import DedupSettings
from wat2mds.stages.dedup import uids as arrays
from wat2mds.stages.dedup.claims import Bin, Footer, Release, State, released
from wat2mds.stages.dedup.filters import Filters
from wat2mds.store import Store

log = logging.getLogger(__name__)
FORMAT = 2
TRIES = 100


class Ledger:
    """The claims of one dataset."""

    def __init__(self, store: Store, bins: int, rate: float, exact: bool) -> None:
        self.store = store
        self.bins = bins
        self.rate = rate
        self.exact = exact

    @classmethod
    def open(cls, url: str, settings: DedupSettings) -> Self:
        """The dataset's ledger; a new one gets the settings' bins and error rate, which then stay."""
        store = Store(url)
        wanted = {"format": FORMAT, "bins": settings.bins, "false_positive_rate": settings.false_positive_rate}
        store.create("ledger.json", json.dumps(wanted).encode())
        return cls._read(store, settings.exact)

    @classmethod
    def open_existing(cls, url: str) -> Self:
        """Raises DataError where there is none."""
        return cls._read(Store(url), exact=True)

    @classmethod
    def _read(cls, store: Store, exact: bool) -> Self:
        try:
            found = store.read_json("ledger.json")
            if found["format"] != FORMAT:
                raise DataError(f"{store.url}/ledger.json has format {found['format']}, this wat2mds writes {FORMAT}")
            return cls(store, found["bins"], found["false_positive_rate"], exact)
        except FileNotFoundError as error:
            raise DataError(f"{store.url} holds no ledger: no batch of this dataset has been deduplicated yet") from error
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{store.url}/ledger.json is damaged: {error!r}. Restore it; its number of bins must not change"
            ) from error

    def bin(self, number: int) -> Bin:
        return Bin(self.store, number)

    def filters(self, number: int) -> Filters:
        return Filters(self.bin(number), self.rate, self.exact)

    def attempts_of(self, owners: Collection[str]) -> dict[str, list[set[int]]]:
        """Every attempt that may have claimed for one of these owners: for each bin the commits where its claims may lie."""
        names = sorted({attempt for owner in owners for attempt in self.store.names(f"owners/{owner}")[0]})
        return {name: self._places(name) for name in names}

    def _places(self, attempt: str) -> list[set[int]]:
        folder = f"attempts/{attempt}"
        try:
            first: Sequence[int] = self.store.read_json(f"{folder}/first.json")
        except FileNotFoundError as error:
            raise DataError(f"{self.store.url}/{folder}/first.json is gone: restore it, it says where claims lie") from error
        places = [{sequence} for sequence in first]
        for name in self.store.names(folder)[0]:
            if name != "first.json":
                number, sequence = name.split(".")
                places[int(number)].add(int(sequence))
        return places

    def committed(self, number: int, attempts: dict[str, list[set[int]]], newest: int) -> list[int]:
        """Which of these places the attempts did commit in: the bin's own footers say."""
        places: dict[int, set[str]] = {}
        for name, found in attempts.items():
            for sequence in found[number]:
                if sequence <= newest:
                    places.setdefault(sequence, set()).add(name)
        owner = self.bin(number)
        return [sequence for sequence in sorted(places) if owner.footer(sequence).attempt in places[sequence]]

    def release(self, owners: Sequence[str]) -> int:
        """Void all claims of these WAT files, as a commit of each bin that holds some. Returns how many claims."""
        attempts = self.attempts_of(owners)
        return sum(self._release_in(number, owners, attempts) for number in range(self.bins)) if attempts else 0

    def _release_in(self, number: int, owners: Sequence[str], attempts: dict[str, list[set[int]]]) -> int:
        owner = self.bin(number)
        for again in range(TRIES):
            state = owner.state()
            places: list[int] = []
            claims = 0
            for sequence in self.committed(number, attempts, state.newest):
                void = released(state.footer.releases, sequence)
                concerned = set(owner.footer(sequence).owners).intersection(owners) - void
                if concerned:
                    found = owner.read(sequence, state.footer.releases)
                    held = sum(int((found.codes == found.names.index(name)).sum()) for name in concerned if name in found.names)
                    places.append(sequence)
                    claims += held
            if not places:
                self.filters(number).rebuild(state, only_missing=True)  # what a release that was killed had left to do
                return 0
            releases = [*state.footer.releases, Release(state.newest + 1, sorted(owners), places)]
            footer = Footer(keys=state.footer.keys - claims, releases=releases)
            if owner.create(state.newest + 1, arrays.none(), arrays.none().view("u1"), [], footer):
                self.filters(number).rebuild(State(state.newest + 1, footer), only_missing=True)
                return claims
            pause(again)
        raise self.too_busy(number)

    def rebuild(self) -> Iterator[tuple[int, int]]:
        """Make every filter again from the claims alone, a bin at a time: (bin, filters made)."""
        for number in range(self.bins):
            yield number, self.filters(number).rebuild(self.bin(number).state())

    def status(self, looked_at: int = 16) -> dict[str, Any]:
        """Keys, sizes, and fill and error rate of the filters of some bins, spread evenly over all."""
        sizes = {"parquet": 0, "bloom": 0, "uids": 0}
        for entry in self.store.walk():
            kind = entry.path.rpartition(".")[2]
            if kind in sizes:
                sizes[kind] += entry.size
        states = [self.bin(number).state() for number in range(self.bins)]
        chosen = sorted({number * self.bins // looked_at for number in range(looked_at)})
        fills = [self.filters(number).fill(states[number]) for number in chosen]
        commits = [state.newest for state in states]
        return {
            "bins": self.bins,
            "keys": sum(state.footer.keys for state in states),
            "largest_bin": max(state.footer.keys for state in states),
            "commits": {"fewest": min(commits), "most": max(commits)},
            "bytes": {"claims": sizes["parquet"], "filters": sizes["bloom"], "merged_claims": sizes["uids"]},
            "filters": {
                "bins_looked_at": len(chosen),
                "fill": round(sum(fill for _, fill, _ in fills) / len(fills), 4),
                "false_positive_rate": sum(rate for _, _, rate in fills) / len(fills),
                "configured_rate": self.rate,
            },
        }

    def too_busy(self, number: int) -> TransientError:
        return TransientError(f"bin {number} of the ledger {self.store.url} was changed by others {TRIES} times in a row")


def pause(attempt: int) -> None:
    """Between tries, longer as they fail."""
    time.sleep(random.uniform(0, 0.05 * min(attempt + 1, 20)))
