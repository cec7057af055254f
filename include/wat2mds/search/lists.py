"""Codes of vectors in the lists of a faiss index: put in, left out, searched.

In: a trained index, vectors with their rows (the places of their uids in order). Out: an index file, which any faiss reads.
Guaranteed: each list holds its codes by ascending row, so that a file depends on the training and on what it holds, not on when that
was added; an index that leaves rows out has neither their codes nor their numbers; memory does not grow with the index but by 20 bytes
a row, since lists are read, joined and written one by one. What does not belong here: which rows.

Layout of the lists, with which a faiss file ends (faiss 1.15, impl/index_write.cpp, write_InvertedLists): "ilar", uint64 lists, uint64
bytes of a code; "full" and each list's size, or, where at most half hold anything, "sprs" and pairs of list and size, as a vector of
uint64 after its length; then list by list the codes and the int64 rows.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import faiss
import numpy as np

_GONE = -1
_RUN = 64 << 20  # bytes of codes that wait in memory


class Codes:
    """One faiss index with inverted lists, of one modality."""

    def __init__(self, index: Any, path: Path | None = None) -> None:
        """``path``: the file that it is mapped from."""
        self.index = index
        self.path = path
        self.ivf = faiss.extract_index_ivf(index)
        self._lists = faiss.downcast_InvertedLists(self.ivf.invlists)

    @classmethod
    def mapped(cls, path: Path) -> Codes:
        """Memory-mapped from its file."""
        found = cls(faiss.read_index(str(path), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY), path)
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

    def search_among(self, queries: np.ndarray, k: int, rows: np.ndarray, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As ``search``, of some rows alone, and all of them; ``numbers``: the lists that these stand in. No other list is read."""
        for transform in _transforms(self.index):
            queries = transform.apply(queries)
        queries = np.ascontiguousarray(queries, np.float32)
        lists = np.unique(numbers).astype(np.int64)
        # What is searched otherwise comes with its scores from the quantizer: lists hold what vectors differ by from their centres.
        centres = np.stack([self.ivf.quantizer.reconstruct(int(number)) for number in lists])
        chosen = np.ascontiguousarray(np.broadcast_to(lists, (len(queries), len(lists))))
        scores = np.ascontiguousarray(queries @ centres.T, np.float32)
        selected = faiss.IDSelectorBatch(rows)
        parameters = faiss.SearchParametersIVF(sel=selected, nprobe=len(lists))
        found_scores, found = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
        # faiss's own wrapper takes no parameters.
        pointers = map(faiss.swig_ptr, (chosen, scores, found_scores, found))
        self.ivf.search_preassigned_c(len(queries), faiss.swig_ptr(queries), k, *pointers, False, parameters)
        return found_scores, found

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

    ``trained``: an index of the same training, whose own lists are let go. ``old``: one that is mapped. ``moved``: for each row of the
    old index its row in the new one, -1 for one that is left out. ``new``: (rows, vectors) by blocks; their codes wait in a scratch file.
    """
    place = np.full(total, _GONE, np.int32)
    with ExitStack() as closing:
        spool = closing.enter_context(_Spool(target.with_name(f"{target.name}.codes"), trained))
        before = closing.enter_context(_Stored(old)) if old is not None else None
        for rows, vectors in new:
            numbers, codes = trained.encode(vectors)
            spool.add(rows, numbers, codes)
        sizes = spool.sizes()
        if before is not None:
            sizes += [int((moved[before.rows(number)] >= 0).sum()) for number in range(trained.lists)]
        _write_empty(trained, total, target)
        file = closing.enter_context(target.open("r+b"))
        file.seek(-_EMPTY, os.SEEK_END)
        file.write(_sizes(sizes))
        for number in np.flatnonzero(sizes):
            rows, codes = spool.members(number)
            if before is not None:
                now = moved[before.rows(number)]
                stays = now >= 0
                rows, codes = np.concatenate([now[stays], rows]), np.concatenate([before.codes(number)[stays], codes])
            order = np.argsort(rows, kind="stable")
            rows = rows[order]
            place[rows] = number
            file.write(codes[order].data)
            file.write(rows.astype(np.int64).data)
    if (place == _GONE).any():
        raise AssertionError(f"{int((place == _GONE).sum())} of {total} rows are in no list")
    return place


_EMPTY = 4 + 8  # bytes of "sprs" and the length of no pairs


def _write_empty(trained: Codes, total: int, target: Path) -> None:
    """The index as it will be before its lists' sizes: all but these are written by faiss."""
    lists = faiss.ArrayInvertedLists(trained.lists, trained.ivf.code_size)
    trained.ivf.replace_invlists(lists, True)
    lists.this.disown()
    trained.ivf.ntotal = trained.index.ntotal = total
    faiss.write_index(trained.index, str(target))
    end = b"ilar" + struct.pack("<QQ4sQ", trained.lists, trained.ivf.code_size, b"sprs", 0)
    with target.open("rb") as file:
        file.seek(-len(end), os.SEEK_END)
        if file.read() != end:
            raise AssertionError(f"faiss {faiss.__version__} ends an index otherwise than this module knows")


def _sizes(sizes: np.ndarray) -> bytes:
    full = np.flatnonzero(sizes)
    if len(full) > len(sizes) // 2:
        kind, numbers = b"full", sizes
    else:
        kind, numbers = b"sprs", np.stack([full, sizes[full]], axis=1).ravel()
    return kind + struct.pack("<Q", len(numbers)) + numbers.astype("<u8").tobytes()


class _Stored:
    """The lists of a mapped index, read from its file: of mapped pages, all that were seen would stay in memory."""

    def __init__(self, codes: Codes) -> None:
        assert codes.path is not None, "only a mapped index has a file"
        self._codes = codes  # whose lists say where each begins
        self._lists = faiss.downcast_InvertedLists(codes.ivf.invlists).lists
        self._code_size = codes.ivf.code_size
        self._file = codes.path.open("rb")

    def __enter__(self) -> _Stored:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def rows(self, number: int) -> np.ndarray:
        """Ascending, [n]."""
        one = self._lists.at(int(number))
        return self._read(one.offset + one.capacity * self._code_size, one.size, np.dtype(np.int64))

    def codes(self, number: int) -> np.ndarray:
        """[n, bytes]"""
        one = self._lists.at(int(number))
        return self._read(one.offset, one.size * self._code_size, np.dtype(np.uint8)).reshape(-1, self._code_size)

    def _read(self, offset: int, count: int, kind: np.dtype[Any]) -> np.ndarray:
        found = np.frombuffer(os.pread(self._file.fileno(), count * kind.itemsize, offset), kind)
        if len(found) != count:
            raise OSError(f"{self._file.name} ends early")
        return found


class _Spool:
    """Codes as they arrive, in a scratch file, in runs that are each in the order of the lists."""

    def __init__(self, path: Path, trained: Codes) -> None:
        self._path = path
        self._lists, self._code_size = trained.lists, trained.ivf.code_size
        self._waiting: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        # Of each run: its rows, and where each list begins in it and the last ends.
        self._runs: list[tuple[np.ndarray, np.ndarray]] = []

    def __enter__(self) -> _Spool:
        self._file = self._path.open("w+b")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._path.unlink()

    def add(self, rows: np.ndarray, numbers: np.ndarray, codes: np.ndarray) -> None:
        self._waiting.append((rows, numbers, codes))
        if sum(codes.nbytes for _, _, codes in self._waiting) >= _RUN:
            self._write()

    def sizes(self) -> np.ndarray:
        """How many codes of each list have arrived; no more may come."""
        if self._waiting:
            self._write()
        self._file.flush()
        return sum((np.diff(bounds) for _, bounds in self._runs), np.zeros(self._lists, np.int64))

    def members(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """(rows, codes) of a list."""
        rows, codes, before = [np.empty(0, np.int64)], [b""], 0
        for some, bounds in self._runs:
            start, end = int(bounds[number]), int(bounds[number + 1])
            rows.append(some[start:end])
            codes.append(os.pread(self._file.fileno(), (end - start) * self._code_size, (before + start) * self._code_size))
            before += len(some)
        return np.concatenate(rows), np.frombuffer(b"".join(codes), np.uint8).reshape(-1, self._code_size)

    def _write(self) -> None:
        rows, numbers, codes = (np.concatenate(parts) for parts in zip(*self._waiting, strict=True))
        self._waiting = []
        order = np.argsort(numbers, kind="stable")
        self._file.write(codes[order].data)
        self._runs.append((rows[order], np.cumsum([0, *np.bincount(numbers, minlength=self._lists)])))


def _transforms(index: Any) -> list[Any]:
    """What is done to vectors before they come to the lists, such as OPQ's rotation."""
    if not isinstance(index, faiss.IndexPreTransform):
        return []
    return [faiss.downcast_VectorTransform(index.chain.at(number)) for number in range(index.chain.size())]
