"""Lists of what is to be taken down: text, CSV or parquet.

In: a local file, its name, the kind of its entries where it does not say it. Out: its entries as hashes. Guaranteed: a list is read a
part at a time; one entry that is not of its kind is an error that says which, before anything is touched. What does not belong here:
which rows they name (``entries.py``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from wat2mds.errors import ConfigError, nearest
from wat2mds.takedown.entries import HEX, KINDS, WORDS, Entries, hex_words, text_words

_BATCH = 1 << 20


def read_list(path: Path, name: str, kind: str | None) -> dict[str, np.ndarray]:
    """The entries of a list by kind: a text file, one entry a line, # before a comment; CSV or parquet with the columns kind and value.

    ``kind`` is that of a text file, or of a table without such a column. Raises ConfigError for what is no list, with the line.
    """
    if kind is not None and kind not in KINDS:
        raise ConfigError(f"{kind!r} is no kind of entry.{nearest(kind, KINDS)}")
    parts: dict[str, list[np.ndarray]] = {}
    first = 1
    for kinds, values in _batches(path, name, kind):
        for one in pc.unique(kinds).to_pylist():
            if one not in KINDS:
                raise ConfigError(f"{name}: {one!r} is no kind of entry.{nearest(str(one), KINDS)}")
            chosen = pc.equal(kinds, one)
            numbers = first + np.flatnonzero(np.asarray(chosen))
            parts.setdefault(one, []).append(_words_of_list(one, values.filter(chosen), name, numbers))
        first += len(values)
    if not parts:
        raise ConfigError(f"{name} lists nothing")
    return {one: np.concatenate(some) for one, some in parts.items()}


def unmatched(entries: Entries, path: Path, name: str, kind: str | None, most: int = 20) -> list[str]:
    """The first values of a list that named nothing since ``watch``, each with its kind."""
    found: list[str] = []
    for kinds, values in _batches(path, name, kind):
        for one in pc.unique(kinds).to_pylist():
            chosen = values.filter(pc.equal(kinds, one)).slice(0, 100_000)
            places = Entries(entries.words).places(one, _words_of_list(one, chosen, name, np.arange(len(chosen))))
            lost = np.flatnonzero(~entries.seen[one][places])
            found += [f"{one} {chosen[int(row)].as_py()}" for row in lost[: most - len(found)]]
        if len(found) >= most:
            break
    return found


def texts_of(path: Path, name: str, kind: str | None, most: int) -> list[str]:
    """The first entries of a list that are no domains, as they stand: what to search for byte by byte."""
    found: list[str] = []
    for kinds, values in _batches(path, name, kind):
        found += values.filter(pc.invert(pc.equal(kinds, "domain"))).slice(0, most - len(found)).to_pylist()
        if len(found) >= most:
            break
    return found


def _batches(path: Path, name: str, kind: str | None) -> Iterator[tuple[pa.Array, pa.Array]]:
    """(kinds, values) of a list, a part at a time."""
    suffix = Path(urlsplit(name).path).suffix.lower()
    try:
        if suffix == ".parquet":
            with pq.ParquetFile(path) as file:
                given = file.schema_arrow.names
                columns = _columns_of(name, given, kind)
                for batch in file.iter_batches(_BATCH, columns=[column for column in columns if column]):
                    yield _part(batch, kind)
        elif suffix == ".csv":
            with pa_csv.open_csv(
                path, convert_options=pa_csv.ConvertOptions(column_types=dict.fromkeys(("kind", "value"), pa.string()))
            ) as reader:
                _columns_of(name, reader.schema.names, kind)
                for batch in reader:
                    yield _part(batch, kind)
        elif kind is None:
            raise ConfigError(f"{name} is a text file: say of what kind its entries are (--kind): {', '.join(KINDS)}")
        else:
            with path.open(encoding="utf-8", errors="replace") as lines:
                yield from _lines(lines, kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ConfigError(f"{name} cannot be read: {str(error).splitlines()[0]}") from error


def _lines(lines: Iterable[str], kind: str) -> Iterator[tuple[pa.Array, pa.Array]]:
    waiting: list[str] = []
    for line in lines:
        # A URL may hold a #, so that there only a whole line is a comment.
        text = line.strip() if kind in ("url", "page") else line.partition("#")[0].strip()
        if text and not text.startswith("#"):
            waiting.append(text)
        if len(waiting) == _BATCH:
            yield pa.array([kind] * len(waiting)), pa.array(waiting)
            waiting = []
    if waiting:
        yield pa.array([kind] * len(waiting)), pa.array(waiting)


def _columns_of(name: str, given: Sequence[str], kind: str | None) -> tuple[str | None, str]:
    if "value" not in given or ("kind" not in given and kind is None):
        raise ConfigError(f"{name} has the columns {', '.join(given)}: a list has kind and value, or value alone with --kind")
    return ("kind" if "kind" in given else None), "value"


def _part(batch: pa.RecordBatch, kind: str | None) -> tuple[pa.Array, pa.Array]:
    values = pc.utf8_trim_whitespace(batch.column("value").cast(pa.string()))
    if "kind" in batch.schema.names:
        return batch.column("kind").cast(pa.string()), values
    return pa.array([kind] * len(values), pa.string()), values


def _words_of_list(kind: str, values: pa.Array, name: str, numbers: np.ndarray) -> np.ndarray:
    """``numbers``: of the entries in the list, for messages."""
    if kind in HEX:
        rows, words = hex_words(values, HEX[kind], WORDS[kind])
        if len(rows) != len(values):
            wrong = int(np.setdiff1d(np.arange(len(values)), rows)[0])
            raise ConfigError(
                f"{name}, entry {numbers[wrong]}: {str(values[wrong].as_py())[:80]!r} is no {kind}: {HEX[kind]} hex digits are expected"
            )
        return words
    found = []
    for row, value in enumerate(values.to_pylist()):
        try:
            found.append(text_words(kind, [value or ""]))
        except ValueError as error:
            raise ConfigError(f"{name}, entry {numbers[row]}: {str(value)[:80]!r} is no {kind}: {error}") from error
    return np.concatenate(found)
