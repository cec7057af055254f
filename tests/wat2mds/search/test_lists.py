"""Codes in lists: added and removed over twenty rounds, in one process and without a store; what faiss itself makes of the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import faiss
import numpy as np
import pytest

from tests.benchmarks.synthetic import uids_of
from wat2mds.errors import ConfigError, DataError
from wat2mds.search import index_types
from wat2mds.search.assembly import Held, assemble, train_on
from wat2mds.search.lists import Codes, fill
from wat2mds.search.recall import measure
from wat2mds.search.training import threads, train
from wat2mds.search.vectors import Modality, normalized
from wat2mds.subsets import uids

DIM, SIZE, UNITS, TOPICS = 32, 150, 20, 40
LIMIT = 10**9
# The second stands for OPQ, whose training takes minutes: vectors are turned before they come to the lists.
TYPES = ("IVF16,SQfp16", "PCAR16,IVF16,PQ4x4", "IVF16_HNSW32,SQ8")


class Clustered:
    """``Vectors`` of images and of texts near them, in units that are drawn by their name."""

    def __init__(self, units: range) -> None:
        self.unit_names = [f"{number:04d}" for number in units]
        self.dim = DIM

    def uids(self, unit: str) -> np.ndarray:
        first = int(unit) * SIZE
        return uids.of_bytes(uids_of(np.arange(first, first + SIZE, dtype=np.uint64)).tobytes())

    def blocks(self, unit: str, modality: Modality) -> Iterator[np.ndarray]:
        found = drawn(int(unit))[modality]
        for start in range(0, SIZE, 64):
            yield found[start : start + 64]


def drawn(unit: int) -> dict[Modality, np.ndarray]:
    """Vectors of one unit; those of later units are also of topics that earlier ones had not."""
    rng = np.random.default_rng([3, unit])
    centres = normalized(np.random.default_rng(4).normal(size=(2 * TOPICS, DIM)))
    image = normalized(centres[rng.integers(0, TOPICS + min(unit, TOPICS), SIZE)] + 0.15 * rng.normal(size=(SIZE, DIM)))
    return {"image": image, "text": normalized(image + 0.05 * rng.normal(size=(SIZE, DIM)))}


def texts(pairs: np.ndarray) -> list[str]:
    return [f"{int(one):016x}{int(other):016x}" for one, other in pairs.tolist()]


def made(units: range, folder: Path, index_type: str, old: Held | None = None) -> Held:
    folder.mkdir()
    vectors = Clustered(units)
    trained = (
        train_on(vectors, index_type, LIMIT)
        if old is None
        else {modality: Codes.mapped(path) for modality, path in old.files.items()}
    )
    return assemble(vectors, trained, folder, old)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with threads(1):
        yield


@pytest.mark.parametrize("index_type", ["IVF16,SQfp16", "IVF16,SQ8"])
def test_twenty_rounds_of_adding_and_removing(index_type, tmp_path):
    held = made(range(UNITS), tmp_path / "0", index_type)
    for number in range(1, 21):
        vectors = Clustered(range(number, UNITS + number))
        before, held = held, made(range(number, UNITS + number), tmp_path / str(number), index_type, held)
        assert (held.added, held.removed) == (SIZE, SIZE)
        gone = np.setdiff1d(np.asarray(before.uids), held.uids)
        assert set(texts(gone)) == set(texts(vectors.uids(before.units[0])))
        expected = np.sort(np.concatenate([vectors.uids(unit) for unit in vectors.unit_names]), order=("f0", "f1"))
        assert (held.uids == expected).all()
        for modality in ("image", "text"):
            codes = Codes.mapped(held.files[modality])
            assert codes.count == len(expected)
            # Every row stands in the index once, in the list that is said; searching all lists gives no other.
            rows = np.concatenate([codes.members(number)[0] for number in range(codes.lists)])
            assert sorted(rows.tolist()) == list(range(len(expected)))
            assert all((held.places[modality][codes.members(number)[0]] == number).all() for number in range(codes.lists))
            _, found = codes.search(drawn(number - 1)[modality], 20, codes.lists)
            assert found.min() >= 0
            assert found.max() < len(expected)
    vectors = Clustered(range(20, UNITS + 20))
    recalls = {}
    for name, one in {"updated": held, "fresh": made(range(20, UNITS + 20), tmp_path / "fresh", index_type)}.items():
        codes = {modality: Codes.mapped(path) for modality, path in one.files.items()}
        recalls[name] = measure(codes, vectors, one.rows(vectors), len(one.uids)).recall
    assert recalls["fresh"] >= 0.95
    assert recalls["updated"] >= recalls["fresh"] - 0.01


@pytest.mark.parametrize("index_type", TYPES)
def test_the_bytes_follow_from_training_and_content_alone(index_type, tmp_path):
    """Added at once, in any order of units, or with others that are removed again; by us or by faiss."""
    at_once = made(range(2, 8), tmp_path / "at-once", index_type)
    again = made(range(2, 8), tmp_path / "again", index_type)
    more = made(range(10), tmp_path / "more", index_type, at_once)
    back = made(range(2, 8), tmp_path / "back", index_type, more)
    assert back.uids.tobytes() == at_once.uids.tobytes()
    for modality, path in at_once.files.items():
        assert path.read_bytes() == again.files[modality].read_bytes() == back.files[modality].read_bytes()
        assert (back.places[modality] == at_once.places[modality]).all()
    vectors = Clustered(range(2, 8))
    sample = np.concatenate([block for unit in vectors.unit_names for block in vectors.blocks(unit, "image")])
    rows = uids.positions(at_once.uids, np.concatenate([vectors.uids(unit) for unit in vectors.unit_names]))
    ordered = np.empty_like(sample)
    ordered[rows] = sample
    own = train(ordered, index_type)
    own.add(ordered)
    faiss.write_index(own, str(tmp_path / "faiss"))
    assert (tmp_path / "faiss").read_bytes() == at_once.files["image"].read_bytes()


def test_a_removed_vector_stands_in_no_file(tmp_path):
    """SQfp16 of one list keeps a vector's deviation from the mean as it is: the bytes of what was removed are looked for."""
    held = made(range(4), tmp_path / "all", "IVF1,SQfp16")
    codes = Codes.mapped(held.files["image"])
    rows, stored = codes.members(0)
    left = {texts(held.uids[row : row + 1])[0]: bytes(code) for row, code in zip(rows, stored, strict=True)}
    gone = texts(Clustered(range(1)).uids("0000"))
    assert all(left[uid] in held.files["image"].read_bytes() for uid in gone)
    after = made(range(1, 4), tmp_path / "after", "IVF1,SQfp16", held)
    content = after.files["image"].read_bytes() + after.uids.tobytes() + "".join(after.units).encode()
    assert not [uid for uid in gone if left[uid] in content or uids.of_bytes(bytes.fromhex(uid)).tobytes() in content]


def test_few_in_the_lists_searched(tmp_path):
    """More lists than asked for are searched where these hold fewer than k."""
    sample = normalized(np.eye(8, DIM))
    codes = Codes(train(sample, "IVF8,SQfp16"))
    fill(codes, None, np.empty(0, np.int64), [(np.arange(8), sample)], 8, tmp_path / "codes")
    mapped = Codes.mapped(tmp_path / "codes")
    scores, rows = mapped.search(sample, 8, 1)
    assert [sorted(some) for some in rows.tolist()] == [list(range(8))] * 8
    assert rows[:, 0].tolist() == list(range(8))
    assert (np.diff(scores, axis=1) <= 0).all()


def test_a_uid_in_two_units_is_refused(tmp_path):
    class Twice(Clustered):
        def uids(self, unit: str) -> np.ndarray:
            return super().uids("0000")

    with pytest.raises(DataError, match="150 uids stand in more than one unit"):
        train_on(Twice(range(2)), "IVF1,SQfp16", LIMIT)


@pytest.mark.parametrize(
    ("count", "dim", "memory", "wanted"),
    [
        (999, 512, 2 * 10**9, "IVF1,SQfp16"),
        (1_000, 512, 2 * 10**9, "IVF128,SQfp16"),
        (1_000_000, 512, 2 * 10**9, "IVF4096,SQfp16"),
        (1_000_000, 512, 10**9, "IVF4096,SQ8"),
        (5_000_000, 512, 2 * 10**9, "OPQ256_768,IVF8192,PQ256x8"),
        (5_000_000, 512, 16 * 10**9, "IVF8192,SQfp16"),
        (400_000_000, 512, 128 * 10**9, "OPQ256_768,IVF131072_HNSW32,PQ256x8"),
        (400_000_000, 768, 16 * 10**9, "OPQ24_168,IVF131072_HNSW32,PQ24x8"),
    ],
)
def test_the_type_follows_from_count_and_memory(count, dim, memory, wanted):
    assert index_types.choose(count, dim, memory) == wanted
    size = index_types.training_size(count, dim, memory, wanted)
    lists = index_types.lists_of(wanted)
    assert min(count, 31 * lists) <= size <= max(100 * lists, 10_000)
    assert size == count or size * dim * 4 <= memory // 2 or size <= max(31 * lists, 10_000)


def test_what_fits_nowhere_is_refused():
    with pytest.raises(ConfigError, match="do not fit"):
        index_types.choose(10**9, 512, 10**9)


@pytest.mark.parametrize("index_type", TYPES)
def test_some_rows_are_searched_wherever_they_stand(index_type, tmp_path):
    held = made(range(6), tmp_path / "all", index_type)
    codes = Codes.mapped(held.files["image"])
    queries = drawn(3)["image"][:5]
    scores, rows = codes.search(queries, codes.count, codes.lists)
    few = np.sort(np.random.default_rng(5).choice(codes.count, 40, replace=False))
    some_scores, some_rows = codes.search_among(queries, 40, few, held.places["image"][few])
    for query in range(len(queries)):
        expected = np.isin(rows[query], few)
        assert some_rows[query].tolist() == rows[query][expected].tolist()
        assert some_scores[query] == pytest.approx(scores[query][expected], abs=1e-5)


def test_an_index_of_which_most_lists_are_empty(tmp_path):
    """faiss writes the sizes of such lists in another way; it grows like any other."""
    sample = normalized(np.eye(8, DIM))
    nothing = np.empty(0, np.int64)
    fill(Codes(train(sample, "IVF8,SQfp16")), None, nothing, [(np.arange(2), sample[:2])], 2, tmp_path / "two")
    own = train(sample, "IVF8,SQfp16")
    own.add(sample[:2])
    faiss.write_index(own, str(tmp_path / "faiss"))
    assert (tmp_path / "two").read_bytes() == (tmp_path / "faiss").read_bytes()
    two = Codes.mapped(tmp_path / "two")
    assert two.search(sample[:2], 1, 8)[1].tolist() == [[0], [1]]
    fill(Codes.mapped(tmp_path / "two"), two, np.array([0, 2]), [(np.array([3, 1]), sample[[3, 2]])], 4, tmp_path / "four")
    own = train(sample, "IVF8,SQfp16")
    own.add(sample[[0, 2, 1, 3]])
    faiss.write_index(own, str(tmp_path / "faiss"))
    assert (tmp_path / "four").read_bytes() == (tmp_path / "faiss").read_bytes()
    fill(Codes.mapped(tmp_path / "two"), two, np.array([-1, -1]), [], 0, tmp_path / "none")
    assert Codes.mapped(tmp_path / "none").count == 0
