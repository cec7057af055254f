"""Predicates: which published samples a subset takes, as SQL over the metadata table's columns, evaluated by DuckDB.

In: the text of a condition, as after WHERE. Out: a ``Predicate`` that selects rows of a table. Guaranteed: whether a row is taken
depends on that row alone and is the same every time, so that a subset can be made WAT file by WAT file; the text reads no file, no
other table and no setting, and changes nothing; a row for which the condition is null is not taken. What does not belong here: where rows
come from.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache, lru_cache
from typing import Any

import duckdb
import pyarrow as pa

from wat2mds.errors import ConfigError, nearest
from wat2mds.schema import LAION_VIEW, METADATA

# What a condition over one row consists of (DuckDB's expression classes); not: subqueries, windows, parameters, stars, lambdas.
_CLASSES = {
    "BETWEEN",
    "CASE",
    "CAST",
    "COLLATE",
    "COLUMN_REF",
    "COMPARISON",
    "CONJUNCTION",
    "CONSTANT",
    "FUNCTION",
    "OPERATOR",
    "TYPE",
}
MOST_CHARS = 50_000  # a thousand uids, as the search service saves them
# Enough for a million rows of text; ``repeat('x', 1e12)`` must not take the machine's.
_MEMORY = "2GB"
# LAION's names of columns that are called otherwise here. In SQL they would be ours in capitals, which mean the stored image.
_LAION_SIDES = {name: ours for name, ours in LAION_VIEW.items() if name.lower() in METADATA.names() and name.lower() != ours}


class Predicate:
    """A checked condition. Raises ConfigError for one that is not as the module's text says, with the columns that exist."""

    def __init__(self, text: str) -> None:
        self.text = text.strip()
        self.columns = _checked(self.text)

    def select(self, rows: pa.Table) -> pa.Array:
        """The positions of the rows that are taken, int64, ascending. ``rows`` holds ``columns`` at least, as METADATA has them."""
        with _connection() as connection:
            samples = rows.select(list(self.columns)).append_column("_position", pa.array(range(rows.num_rows), pa.int64()))
            connection.register("samples", samples)
            return (
                _taken(connection, f"SELECT _position FROM samples WHERE (\n{self.text}\n) ORDER BY _position")
                .column(0)
                .combine_chunks()
            )

    def count(self, samples: Any) -> int:
        """How many rows of an Arrow dataset are taken; only the columns that are asked for are read."""
        with _connection() as connection:
            connection.register("samples", samples)
            return int(_taken(connection, f"SELECT count(*) FROM samples WHERE (\n{self.text}\n)").column(0)[0].as_py())

    def first(self, samples: Any, most: int, columns: list[str]) -> pa.Table:
        """The ``most`` rows with the least uids of an Arrow dataset that are taken."""
        names = ", ".join(columns)
        with _connection() as connection:
            connection.register("samples", samples)
            return _taken(connection, f"SELECT {names} FROM samples WHERE (\n{self.text}\n) ORDER BY uid LIMIT {int(most)}")


def _connection() -> duckdb.DuckDBPyConnection:
    """A connection of its own, which sees no other's tables, to the process's one database: making that takes 20 ms."""
    return _database().cursor()


@cache
def _database() -> duckdb.DuckDBPyConnection:
    # Crawl dates are UTC, so must be what they are compared with.
    database = duckdb.connect(
        config={"enable_external_access": "false", "memory_limit": _MEMORY, "python_enable_replacements": "false"}
    )
    database.execute("SET GLOBAL TimeZone='UTC'; SET lock_configuration=true")
    return database


def _taken(connection: duckdb.DuckDBPyConnection, query: str) -> pa.Table:
    try:
        return connection.sql(query).to_arrow_table()
    except duckdb.Error as error:
        raise ConfigError(f"the condition fails on the dataset's rows: {_first_line(error)}") from error


@lru_cache(100)
def _checked(text: str) -> tuple[str, ...]:
    """The columns that the condition reads."""
    if not text or len(text) > MOST_CHARS:
        raise ConfigError(f"a condition of {len(text):,} characters: write one of 1 to {MOST_CHARS:,}, e.g. similarity > 0.3")
    where = _parsed(text)
    columns: set[str] = set()
    for node in _nodes(where):
        kind = node["class"]
        if kind == "COLUMN_REF":
            columns.add(_column(".".join(node["column_names"])))
        elif kind == "FUNCTION" and not node.get("is_operator") and node["function_name"].lower() not in _functions():
            raise ConfigError(
                f"the function {node['function_name']} cannot be used: a condition takes functions of one row's values that "
                "give the same every time"
            )
        elif kind not in _CLASSES:
            raise ConfigError(
                f"a condition is an expression over one row's columns; this one has a {kind.lower().replace('_', ' ')}"
            )
    used = sorted(columns) or ["uid"]
    with _connection() as connection:
        connection.register("samples", METADATA.schema.empty_table())
        try:
            kind = connection.execute(f"DESCRIBE SELECT (\n{text}\n) FROM samples").fetchall()[0][1]
        except duckdb.Error as error:
            raise ConfigError(f"the condition does not fit the columns: {_first_line(error)}. {_known()}") from error
    if kind != "BOOLEAN":
        raise ConfigError(f"the condition is no condition: it gives {kind}, not true or false")
    return tuple(used)


def _parsed(text: str) -> dict[str, Any]:
    """The tree of the condition, which is all of the statement's WHERE and nothing beside it."""
    with _connection() as connection:
        whole = f"SELECT * FROM samples WHERE (\n{text}\n)"
        tree, plain = (
            json.loads(connection.execute("SELECT json_serialize_sql(?::VARCHAR)", [sql]).fetchall()[0][0])
            for sql in (whole, "SELECT * FROM samples WHERE (\ntrue\n)")
        )
    if tree["error"]:
        raise ConfigError(f"the condition is not SQL: {tree['error_message']}. {_known()}")
    node, expected = tree["statements"][0]["node"], plain["statements"][0]["node"]
    where = node.pop("where_clause", None)
    expected.pop("where_clause")
    if len(tree["statements"]) != 1 or node != expected or not isinstance(where, dict):
        raise ConfigError(
            "a condition is what follows WHERE, e.g. language = 'en' AND similarity > 0.3; this one says more than that"
        )
    if where.get("function_name") == "row":  # what "()" is
        raise ConfigError("the condition is a list of values, or a comment only")
    return where


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Every expression of a tree; also one whose class we do not know."""
    if isinstance(tree, dict):
        if "class" in tree:
            yield tree
        for value in tree.values():
            yield from _nodes(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _nodes(value)


def _column(name: str) -> str:
    if name in _LAION_SIDES:
        raise ConfigError(
            f"LAION's {name} is {_LAION_SIDES[name]} here; {name.lower()} is the stored image's. Write the one you mean"
        )
    if name.lower() not in METADATA.names():
        raise ConfigError(f"there is no column {name!r}.{nearest(name.lower(), METADATA.names())} {_known()}")
    return name.lower()


@cache
def _functions() -> frozenset[str]:
    """Scalar functions that give the same for the same arguments."""
    with _connection() as connection:
        rows = connection.execute(
            "SELECT function_name FROM duckdb_functions() WHERE function_type = 'scalar' GROUP BY function_name "
            "HAVING bool_and(stability = 'CONSISTENT' AND NOT has_side_effects)"
        ).fetchall()
    return frozenset(name.lower() for (name,) in rows)


def _known() -> str:
    return f"Columns: {', '.join(METADATA.names())}"


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
