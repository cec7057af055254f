"""Codes of vectors in the lists of a faiss index: put in, left out, searched.

In: a trained index, vectors with their rows (the places of their uids in order). Out: an index file, which any faiss reads.
Guaranteed: each list holds its codes by ascending row, so that a file depends on the training and on what it holds, not on when that
was added; an index that leaves rows out has neither their codes nor their numbers. What does not belong here: which rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np

_GONE = -1


class Codes:
    """One faiss index with inverted lists, of one modality."""

    def __init__(self, index: Any) -> None:
        self.index = index
        self.ivf = faiss.extract_index_ivf(index)
        self._lists = faiss.downcast_InvertedLists(self.ivf.invlists)

    @classmethod
    def mapped(cls, path: Path) -> Codes:
        """Memory-mapped from its file."""
        found = cls(faiss.read_index(str(path), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY))
        # faiss would start 32 threads for each search to read ahead, which cost seventeen times the search of what is in memory.
        found._lists.prefetch_nthread = 0
        return found

    @property
    def count(self) -> int:
        return int(self.index.ntotal)

    @property
    def lists(self) -> int:
        return int(self.ivf.nlist)

    def members(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """(rows [n] ascending, codes [n, bytes]) of a list, as views."""
        size = self._lists.list_size(number)
        if not size:
            return np.empty(0, np.int64), np.empty((0, self.ivf.code_size), np.uint8)
        codes = faiss.rev_swig_ptr(self._lists.get_codes(number), size * self.ivf.code_size)
        return faiss.rev_swig_ptr(self._lists.get_ids(number), size), codes.reshape(size, -1)

    def search(self, queries: np.ndarray, k: int, nprobe: int) -> tuple[np.ndarray, np.ndarray]:
        """(scores, rows) [n, k], the best first. More than ``nprobe`` lists are searched where these hold fewer than ``k``; where all
        lists do, rows end with -1."""
        scores, rows = self._search(queries, k, nprobe)
        while nprobe < self.lists and (short := np.flatnonzero((rows < 0).any(axis=1))).size:
            nprobe *= 2
            scores[short], rows[short] = self._search(queries[short], k, nprobe)
        return scores, rows

    def _search(self, queries: np.ndarray, k: int, nprobe: int) -> tuple[np.ndarray, np.ndarray]:
        wide = min(nprobe, self.lists)
        given: dict[str, Any] = {"nprobe": wide}
        if isinstance(faiss.downcast_index(self.ivf.quantizer), faiss.IndexHNSW):
            given["quantizer_params"] = faiss.SearchParametersHNSW(efSearch=2 * wide)  # autofaiss's ratio
        parameters = faiss.SearchParametersIVF(**given)
        if isinstance(self.index, faiss.IndexPreTransform):
            parameters = faiss.SearchParametersPreTransform(index_params=parameters)
        scores, rows = self.index.search(queries, k, params=parameters)
        return scores, rows

    def vector(self, row: int, number: int) -> np.ndarray:
        """A row's vector [dim] from its code; ``number``: the list that it stands in."""
        rows, _ = self.members(number)
        at = int(np.searchsorted(rows, row))
        inner = np.empty((1, self.ivf.d), np.float32)
        self.ivf.reconstruct_from_offset(number, at, faiss.swig_ptr(inner))
        for transform in reversed(_transforms(self.index)):
            inner = transform.reverse_transform(inner)
        return np.asarray(inner[0])

    def encode(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(list of each vector [n], codes [n, bytes]) of vectors [n, dim] of norm 1."""
        for transform in _transforms(self.index):
            vectors = transform.apply(vectors)
        vectors = np.ascontiguousarray(vectors, np.float32)
        numbers = np.ascontiguousarray(self.ivf.quantizer.search(vectors, 1)[1][:, 0])
        codes = np.empty((len(vectors), self.ivf.code_size), np.uint8)
        self.ivf.encode_vectors(len(vectors), *map(faiss.swig_ptr, (vectors, numbers, codes)), False)
        return numbers, codes


def fill(
    trained: Codes, old: Codes | None, moved: np.ndarray, new: Iterable[tuple[np.ndarray, np.ndarray]], total: int, target: Path
) -> np.ndarray:
    """Write the index that holds what is kept of ``old`` and what is ``new``; returns the list of each row [total], int32.

    ``trained``: an index of the same training, whose own lists are let go. ``moved``: for each row of the old index its row in the new
    one, -1 for one that is left out. ``new``: (rows, vectors) by blocks. Memory holds the new index; codes wait in a scratch file.
    """
    place = np.full(total, _GONE, np.int32)
    with _Spool(target.with_name(f"{target.name}.codes"), trained.ivf.code_size) as spool:
        for rows, vectors in new:
            numbers, codes = trained.encode(vectors)
            spool.add(rows, numbers, codes)
        arrived = spool.by_list(trained.lists)
        lists = faiss.ArrayInvertedLists(trained.lists, trained.ivf.code_size)
        for number in range(trained.lists):
            rows, codes = next(arrived)
            if old is not None:
                held, held_codes = old.members(number)
                now = moved[held]
                stays = now >= 0
                rows, codes = np.concatenate([now[stays], rows]), np.concatenate([held_codes[stays], codes])
            if not len(rows):
                continue
            order = np.argsort(rows, kind="stable")
            rows, codes = np.ascontiguousarray(rows[order], np.int64), np.ascontiguousarray(codes[order])
            lists.add_entries(number, len(rows), faiss.swig_ptr(rows), faiss.swig_ptr(codes))
            place[rows] = number
    if (place == _GONE).any():
        raise AssertionError(f"{int((place == _GONE).sum())} of {total} rows are in no list")
    trained.ivf.replace_invlists(lists, True)
    lists.this.disown()
    trained.ivf.ntotal = trained.index.ntotal = total
    faiss.write_index(trained.index, str(target))
    return place


class _Spool:
    """Codes in the order of their arrival, in a scratch file, given back list by list."""

    def __init__(self, path: Path, code_size: int) -> None:
        self._path = path
        self._code_size = code_size
        self._rows: list[np.ndarray] = []
        self._numbers: list[np.ndarray] = []

    def __enter__(self) -> _Spool:
        self._file = self._path.open("w+b")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._path.unlink()

    def add(self, rows: np.ndarray, numbers: np.ndarray, codes: np.ndarray) -> None:
        self._rows.append(rows)
        self._numbers.append(numbers.astype(np.int32))
        self._file.write(codes.data)

    def by_list(self, lists: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(rows, codes) of each list in turn, empty ones too."""
        self._file.flush()
        rows = np.concatenate([np.empty(0, np.int64), *self._rows])
        numbers = np.concatenate([np.empty(0, np.int32), *self._numbers])
        codes = np.memmap(self._file, np.uint8, "r", shape=(len(rows), self._code_size)) if len(rows) else None
        order = np.argsort(numbers, kind="stable")
        ends = np.cumsum(np.bincount(numbers, minlength=lists))
        for number in range(lists):
            some = order[ends[number - 1] if number else 0 : ends[number]]
            yield rows[some], np.empty((0, self._code_size), np.uint8) if codes is None else np.asarray(codes[some])


def _transforms(index: Any) -> list[Any]:
    """What is done to vectors before they come to the lists, such as OPQ's rotation."""
    if not isinstance(index, faiss.IndexPreTransform):
        return []
    return [faiss.downcast_VectorTransform(index.chain.at(number)) for number in range(index.chain.size())]
