"""The ledger's parts: claims, filters, sessions, releases, on both kinds of store."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from wat2mds.errors import DataError
from wat2mds.stage_settings import DedupSettings
from wat2mds.stages.dedup.filters import ranges
from wat2mds.stages.dedup.ledger import Ledger
from wat2mds.stages.dedup.session import OTHERS, Session
from wat2mds.stages.dedup.uids import KIND

ONE_BIN = DedupSettings(bins=1)
INEXACT = DedupSettings(bins=1, exact=False)


def uids(*seeds: int) -> np.ndarray:
    """A uid for each seed, sorted as a session wants them."""
    return np.array(sorted(random.Random(seed).randbytes(16) for seed in seeds), KIND)


def claim(url: str, owner: str, *seeds: int, settings: DedupSettings = ONE_BIN) -> int:
    """Claim for one WAT file in an attempt of its own; how many of the uids it holds then."""
    wanted = uids(*seeds)
    session = Session(Ledger.open(url, settings), [owner])
    return int((session.claim(0, wanted, np.zeros(len(wanted), np.int32)) == 0).sum())


def files(url: Path, kind: str) -> list[str]:
    return sorted(path.name for path in (url / "bin=0000" / kind).iterdir())


def test_layers_cover_all_commits_once_and_stay_few() -> None:
    assert ranges(39) == [(1, 16), (17, 32), (33, 36), (37, 37), (38, 38), (39, 39)]
    for newest in range(2000):
        covered = [commit for first, last in ranges(newest) for commit in range(first, last + 1)]
        assert covered == list(range(1, newest + 1))
        assert len(ranges(newest)) <= 3 * 6


def test_claims_and_their_owner(store_url: str) -> None:
    assert claim(store_url, "a", 1, 2, 3) == 3
    assert claim(store_url, "b", 3, 4) == 1
    assert claim(store_url, "a", 1, 2, 3, 5) == 4
    assert claim(store_url, "b", 1, 3, 4, 5) == 1


def test_filters_follow_the_commits_and_replaced_ones_go(tmp_path: Path) -> None:
    for commit in range(1, 23):
        assert claim(str(tmp_path), f"wat{commit}", *range(100 * commit, 100 * commit + 50)) == 50
        merged = [f"{first:06d}-{last:06d}.000000.uids" for first, last in ranges(commit) if first < last]
        blooms = [f"{first:06d}-{last:06d}.000000.bloom" for first, last in ranges(commit)]
        assert files(tmp_path, "filters") == sorted(blooms + merged)
    ledger = Ledger.open(str(tmp_path), ONE_BIN)
    assert claim(str(tmp_path), "late", *range(100, 2250)) == 2150 - 22 * 50
    assert ledger.bin(0).state().footer.keys == 2150


@pytest.mark.parametrize("settings", [ONE_BIN, INEXACT], ids=["exact", "inexact"])
def test_own_claims_are_known_through_any_loss_of_filters(tmp_path: Path, settings: DedupSettings) -> None:
    url = str(tmp_path)
    for part in range(6):
        assert claim(url, "a" if part % 2 else "b", *range(10 * part, 10 * part + 10), settings=settings) == 10
    for derived in tmp_path.rglob("filters/*"):
        derived.unlink()
    assert claim(url, "a", *range(60), settings=settings) == 30
    assert claim(url, "b", *range(60), settings=settings) == 30
    assert claim(url, "c", *range(60), settings=settings) == 0
    assert [name for name in files(tmp_path, "filters") if name.endswith("bloom")] == [
        f"{a:06d}-{b:06d}.000000.bloom" for a, b in ranges(6)
    ]


def test_false_positives_are_counted_and_harmless_where_exact(tmp_path: Path) -> None:
    """With filters that err for one key in 40, an exact ledger loses nothing and says how often they erred; another reports a rate."""
    rough = DedupSettings(bins=1, false_positive_rate=0.09)
    exact, inexact = str(tmp_path / "exact"), str(tmp_path / "inexact")
    for url, settings in ((exact, rough), (inexact, rough.model_copy(update={"exact": False}))):
        for wat in range(15):  # six layers: 1-4 … 13, 14, 15
            claim(url, f"wat{wat}", *range(1000 * wat, 1000 * wat + 1000), settings=settings)
        session = Session(Ledger.open(url, settings), ["new"])
        wanted = uids(*range(14_000, 24_000))
        holder = session.claim(0, wanted, np.zeros(len(wanted), np.int32))
        counts = session.counts
        assert counts["asked"] == 10_000 == counts["own"] + counts["held"] + counts["new"]
        assert (holder == OTHERS).sum() == counts["held"]
        if settings.exact:
            assert counts["held"] == 1000
            assert counts["positives"] == 1000 + counts["false_positives"]
            assert 20 < counts["false_positives"] < 9000 * 0.09
        else:
            assert counts["held"] == counts["positives"] > 1020
            assert 0 < counts["probe_hits"] / counts["probes"] < 0.09


def test_a_false_positive_is_never_the_owners_own(tmp_path: Path) -> None:
    """A filter's error at the first attempt must be the same at the second: what was claimed stays, nothing else appears."""
    rough = DedupSettings(bins=1, false_positive_rate=0.09, exact=False)
    claim(str(tmp_path), "other", *range(5000), settings=rough)
    first = claim(str(tmp_path), "a", *range(5000, 10_000), settings=rough)
    assert first < 5000
    assert claim(str(tmp_path), "a", *range(5000, 10_000), settings=rough) == first


def test_released_claims_are_free_for_others(store_url: str) -> None:
    for part, owner in enumerate("abcab"):
        assert claim(store_url, owner, *range(10 * part, 10 * part + 10)) == 10
    ledger = Ledger.open(store_url, ONE_BIN)
    assert ledger.release(["a", "unheard-of"]) == 20
    assert ledger.release(["a"]) == 0
    assert ledger.bin(0).state().footer.keys == 30
    assert claim(store_url, "d", *range(50)) == 20
    assert claim(store_url, "a", *range(50)) == 0
    assert claim(store_url, "b", *range(50)) == 20
    assert ledger.release(["d"]) == 20
    assert claim(store_url, "a", *range(50)) == 20
    assert claim(store_url, "a", *range(50)) == 20


def test_rebuilt_filters_are_the_same_bytes(tmp_path: Path) -> None:
    for part in range(7):
        claim(str(tmp_path), f"wat{part % 3}", *range(10 * part, 10 * part + 10))
    ledger = Ledger.open(str(tmp_path), ONE_BIN)
    ledger.release(["wat1"])
    folder = tmp_path / "bin=0000" / "filters"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert {name.split(".")[1] for name in before} == {"000008"}
    for path in folder.iterdir():
        path.unlink()
    (folder / "000002-000002.000000.bloom").write_bytes(b"left by a reader that was late")
    assert dict(ledger.rebuild()) == {0: 2}
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_status(tmp_path: Path) -> None:
    settings = DedupSettings(bins=4)
    session = Session(Ledger.open(str(tmp_path), settings), ["a"])
    for number in range(4):
        wanted = np.sort(np.frombuffer(random.Random(number).randbytes(16 * 5000), KIND))
        session.claim(number, wanted, np.zeros(5000, np.int32))
    status = Ledger.open_existing(str(tmp_path)).status()
    assert (status["keys"], status["bins"], status["commits"]) == (20_000, 4, {"fewest": 1, "most": 1})
    assert 16 <= status["bytes"]["claims"] / 20_000 < 18
    assert 4.4 < status["bytes"]["filters"] / 20_000 < 4.6
    assert 0.45 < status["filters"]["fill"] < 0.55
    assert 0 < status["filters"]["false_positive_rate"] <= 1e-6


def test_no_ledger_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no ledger"):
        Ledger.open_existing(str(tmp_path))


RACER = """
import random, sys
import numpy as np
from wat2mds.stage_settings import DedupSettings
from wat2mds.stages.dedup.ledger import Ledger
from wat2mds.stages.dedup.session import Session
from wat2mds.stages.dedup.uids import KIND
url, owner, seed = sys.argv[1], sys.argv[2], int(sys.argv[3])
keys = np.array([random.Random(key).randbytes(16) for key in range(300)], KIND)
random.Random(seed).shuffle(keys)
mine = set()
ledger = Ledger.open(url, DedupSettings(bins=1))
for start in range(0, 300, 100):
    wanted = np.sort(keys[start:start + 100])
    holder = Session(ledger, [owner]).claim(0, wanted, np.zeros(100, np.int32))
    mine.update(wanted[holder == 0].tolist())
print(len(mine))
"""


def race(url: str, owners: list[str]) -> list[int]:
    Ledger.open(url, ONE_BIN)
    racers = [
        subprocess.Popen([sys.executable, "-c", RACER, url, owner, str(seed)], stdout=subprocess.PIPE, text=True)
        for seed, owner in enumerate(owners)
    ]
    return [int(racer.communicate(timeout=120)[0]) for racer in racers]


def test_of_racing_processes_one_owns_each_uid(store_url: str) -> None:
    assert sum(race(store_url, ["wat0", "wat1", "wat2"])) == 300
    assert Ledger.open(store_url, ONE_BIN).bin(0).state().footer.keys == 300


def test_racing_attempts_of_one_wat_file_both_own_everything(store_url: str) -> None:
    """Neither takes the other's claims for a stranger's, though neither could see them when it began."""
    assert race(store_url, ["wat0", "wat0"]) == [300, 300]
    assert Ledger.open(store_url, ONE_BIN).bin(0).state().footer.keys == 300
