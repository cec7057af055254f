"""From a list's rows to pairs: what its columns say, and which rows break the list's own rules.

rom1504's statistics of LAION-400M show similarities of 0.0 and 6016, sides of 0, texts of 61,192 characters: nobody checked. In: record
batches. Out: columns of schema.PAIRS, IMPORTED and REJECTS, and counts. Guaranteed: each row is a pair or counted under one reason.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from wat2mds.drops import DropReason
from wat2mds.errors import DataError
from wat2mds.identity import laion_hash
from wat2mds.pairs.captions import clean_caption
from wat2mds.pairs.licenses import find_license
from wat2mds.pairs.rules import Pair, make_pair
from wat2mds.pairs.urls import Base
from wat2mds.schema import IMPORTED, PAIRS, REJECTS, table_of
from wat2mds.settings import Settings

NUMBERS = {"similarity", "similarity_l14", "width", "height", "punsafe", "pwatermark", "aesthetic"}
# Kept for inspection; the other reasons are everyday ones, and counted only.
_KEPT_REJECTS = {DropReason.BAD_ROW, DropReason.BAD_SIMILARITY, DropReason.BAD_SIZE, DropReason.BAD_SCORE}
_ROUNDING = 1e-6
_MAX_SIDE = 2**31 - 1
_LICENSE_TYPE = re.compile(r"(?:by|by-(?:nc|nd|sa)|by-nc-(?:nd|sa)|nc|nd|sa|cc0|pdm)")
_TYPE_NAMES = {"zero": "cc0", "publicdomain": "pdm", "mark": "pdm"}
_BAD = object()


def texts(column: pa.Array, name: str) -> list[Any]:
    """Text values; None for null, a mark of its own for bytes that are no UTF-8: one bad value must not cost the file."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_null(kind):
        return [None] * len(column)
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        column = column.cast(pa.large_binary())
    elif not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        if name in ("url", "text"):
            raise DataError(f"the column that should hold the {name} holds {kind}")
        return [None if value is None else _written(value) for value in column.to_pylist()]
    return [_decoded(value) for value in column.to_pylist()]


def _written(value: Any) -> str:
    """Numbers too: pandas makes floats of integers beside nulls, such as LAION's SAMPLE_ID."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _decoded(value: bytes | None) -> Any:
    if value is None:
        return None
    try:
        return value.decode()
    except UnicodeDecodeError:
        return _BAD


def numbers(column: pa.Array) -> list[float | None]:
    """Numbers; None for null, NaN for what is none."""
    if pa.types.is_null(column.type):
        return [None] * len(column)
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        found: list[float | None] = column.cast(pa.float64(), safe=False).to_pylist()
        return found
    return [None if value is None else _number(value) for value in column.to_pylist()]


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


class RowReader:
    """Takes record batches of one file and counts what it drops."""

    def __init__(self, settings: Settings, columns: Mapping[str, str], place: dict[str, str], swapped: bool) -> None:
        self._rules, self._settings = settings.extract, settings.import_
        self._columns, self._place = columns, place
        if swapped:
            self._columns = {**columns, "width": columns["height"], "height": columns["width"]}
        self.rows = 0
        self.pairs = 0
        self.drops: Counter[str] = Counter()

    def take(self, batch: pa.RecordBatch) -> tuple[pa.Table, pa.Table, pa.Table]:
        """Tables of the batch's pairs, of what their list states, and of the rows kept for inspection."""
        columns = {
            ours: numbers(batch.column(name)) if ours in NUMBERS else texts(batch.column(name), ours)
            for ours, name in self._columns.items()
        }
        made: list[tuple[Pair, int, dict[str, Any]]] = []
        rejects: list[dict[str, Any]] = []
        for i in range(len(batch)):
            row = {name: values[i] for name, values in columns.items()}
            number = self.rows + i
            found = self._judge(row)
            if isinstance(found, Pair):
                made.append((found, number, row))
                continue
            self.drops[found] += 1
            if found in _KEPT_REJECTS:
                said = json.dumps(row, default=lambda value: "not UTF-8", ensure_ascii=False)
                head = said.encode("utf-8", "replace")[:1000]
                rejects.append({"record_offset": number, "drop_reason": str(found), "detail": found.description, "head": head})
        self.rows += len(batch)
        self.pairs += len(made)
        return self._pairs(made), _imported(made), pa.Table.from_pylist(rejects, schema=REJECTS.schema)

    def _judge(self, row: dict[str, Any]) -> Pair | DropReason:
        if row["url"] is _BAD or row["text"] is _BAD:
            return DropReason.BAD_ROW
        for name in ("similarity", "similarity_l14"):
            value = row.get(name)
            if value is not None and not abs(value) <= 1 + _ROUNDING:  # NaN too
                return DropReason.BAD_SIMILARITY
        for name in ("width", "height"):
            value = row.get(name)
            if value is not None and not math.isnan(value) and not 0 < value <= _MAX_SIDE:
                return DropReason.BAD_SIZE
        for name in ("punsafe", "pwatermark"):
            value = row.get(name)
            if value is not None and not math.isnan(value) and not -_ROUNDING <= value <= 1 + _ROUNDING:
                return DropReason.BAD_SCORE
        base = Base(_text(row.get("page_url")) or "", None)
        made = make_pair(row["url"], base, clean_caption(row["text"] or ""), self._rules)
        least, similarity = self._settings.min_similarity, row.get("similarity")
        if isinstance(made, Pair) and least is not None and similarity is not None and similarity < least:
            return DropReason.LOW_SOURCE_SIMILARITY
        return made

    def _pairs(self, made: list[tuple[Pair, int, dict[str, Any]]]) -> pa.Table:
        columns: dict[str, Any] = {name: [getattr(pair, name) for pair, _, _ in made] for name in Pair._fields}
        columns |= {name: [value] * len(made) for name, value in self._place.items()}
        columns["caption_source"] = ["import"] * len(made)
        columns["record_offset"] = [number for _, number, _ in made]
        columns["page_url"] = [_text(row.get("page_url")) for _, _, row in made]
        licenses = [license_of(row) for _, _, row in made]
        for i, name in enumerate(("license", "license_type", "license_version")):
            columns[name] = [found[i] for found in licenses]
        return table_of(PAIRS, columns)


def _imported(made: list[tuple[Pair, int, dict[str, Any]]]) -> pa.Table:
    columns: dict[str, Any] = {
        "uid": [pair.uid for pair, _, _ in made],
        "row": [number for _, number, _ in made],
        "source_hash": [_source_hash(row) for _, _, row in made],
    }
    for name in IMPORTED.names():
        if name not in columns:
            values = [row.get(name) for _, _, row in made]
            if name in ("width", "height"):
                columns[name] = [None if v is None or math.isnan(v) else int(v) for v in values]
            elif name in NUMBERS:
                columns[name] = [None if v is None or math.isnan(v) else v for v in values]
            else:
                columns[name] = [_text(v) for v in values]
    return table_of(IMPORTED, columns)


def _source_hash(row: dict[str, Any]) -> int:
    """The list's own where it has one, else computed as LAION did."""
    given = _text(row.get("source_hash"))
    if given is not None and re.fullmatch(r"-?\d{1,19}", given) and -(2**63) <= int(given) < 2**63:
        return int(given)
    return laion_hash(row["url"], row["text"])


def _text(value: Any) -> str | None:
    """None for what is null, empty, or stands for nothing: LAION writes ``?`` for no licence."""
    return None if value is None or value is _BAD or value in ("", "?") else str(value)


def license_of(row: dict[str, Any]) -> tuple[str | None, str | None, str | None]:
    """(URL, canonical type, version) from a Creative Commons link, else from a bare type such as ``by-nc-nd``."""
    link = _text(row.get("license"))
    if link and (found := find_license([(link, None)])):
        return found.url, found.type, found.version
    kind = (_text(row.get("license_type")) or "").lower().removeprefix("cc-")
    kind = _TYPE_NAMES.get(kind, kind)
    return None, kind if _LICENSE_TYPE.fullmatch(kind) else None, None
