"""Running Great Expectations: data frames with their expectations in, outcomes out.

Guaranteed: no file, network or log line of Great Expectations' own, no progress bar, no analytics; outcomes come in the order in which
the expectations were given and hold no time and no run id. An expectation that could not be computed counts as failed. What does
not belong here: which expectations there are.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

# The import alone writes 214 INFO lines through a logger of its own; where everything is logged at INFO they would drown the task's log.
for _name in ("great_expectations", "great_expectations._docs_decorators"):
    logging.getLogger(_name).setLevel(logging.WARNING)

import great_expectations as gx  # noqa: E402 (the loggers must be quiet before it is imported)
from great_expectations.expectations.expectation import Expectation  # noqa: E402

gxe = gx.expectations
# Set by great_expectations on import: one logger of its own back to INFO, and all Python warnings into the log.
logging.getLogger("great_expectations.data_context.types.base").setLevel(logging.WARNING)
logging.captureWarnings(False)
EXAMPLES = 5


@dataclass(frozen=True)
class Checked:
    """A table and what is expected of it. Rows are named by the column ``row_id``; ``meta["name"]`` names an expectation.

    ``frame`` makes the table when its turn comes, so that memory holds one.
    """

    table: str
    row_id: str
    frame: Callable[[], pd.DataFrame]
    expectations: Sequence[Expectation]


@dataclass(frozen=True)
class Outcome:
    """One expectation's result: ``failed`` of ``rows`` rows, with examples by the table's row id."""

    name: str
    table: str
    rule: str
    severity: str
    success: bool
    rows: int
    failed: int
    examples: list[dict[str, Any]]


def judge(tables: Sequence[Checked]) -> list[Outcome]:
    return [outcome for checked in tables for outcome in _judge(checked)]


def _judge(checked: Checked) -> list[Outcome]:
    frame = checked.frame()
    suite = gx.ExpectationSuite(name=checked.table, expectations=list(checked.expectations))
    found = (
        _batch_definition()
        .get_batch(batch_parameters={"dataframe": frame})
        .validate(
            suite,
            result_format={
                "result_format": "SUMMARY",
                "unexpected_index_column_names": [checked.row_id],
                "partial_unexpected_count": EXAMPLES,
            },
        )
    )
    # Great Expectations returns results in an order of its own.
    results = {result.expectation_config.meta["name"]: result for result in found.results}
    return [
        _outcome(checked.table, len(frame), expectation, results[_name_of(expectation)]) for expectation in checked.expectations
    ]


@cache
def _batch_definition() -> Any:
    """Where data frames are given to Great Expectations. One for all tables: each one more costs it 30 ms."""
    context: Any = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    context.variables.analytics_enabled = False
    return context.data_sources.add_pandas("stages").add_dataframe_asset("table").add_batch_definition_whole_dataframe("all")


def _name_of(expectation: Expectation) -> str:
    return str((expectation.meta or {})["name"])


def _outcome(table: str, rows: int, expectation: Expectation, result: Any) -> Outcome:
    detail = result.to_json_dict()["result"]
    # Expectations on whole columns, not on rows, count no rows: all are concerned.
    failed = detail.get("unexpected_count", 0 if result.success else rows)
    examples = detail.get("partial_unexpected_index_list") or []
    if not result.success and not examples:
        examples = [{"found": detail.get("observed_value", _exception(result))}]
    return Outcome(
        name=_name_of(expectation),
        table=table,
        rule=str((expectation.meta or {}).get("rule", "")),
        severity=str(getattr(expectation.severity, "value", expectation.severity)),
        success=bool(result.success),
        rows=rows,
        failed=int(failed),
        examples=[{key: _plain(example[key]) for key in sorted(example)} for example in examples] if not result.success else [],
    )


def _plain(value: Any) -> Any:
    """numpy's scalars as Python's: a message is for people."""
    return value.item() if isinstance(value, np.generic) else value


def _exception(result: Any) -> str:
    """The message of an expectation that could not be computed."""
    info = result.exception_info or {}
    nested = [value for value in info.values() if isinstance(value, dict)]
    messages = [str(value.get("exception_message")) for value in (nested or [info])]
    return "; ".join(sorted(set(messages)))
