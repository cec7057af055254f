"""Decisions: every threshold from both sides, and what a missing score means."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from wat2mds.drops import DropReason
from wat2mds.schema import SCORES, table_of
from wat2mds.settings import load_settings
from wat2mds.stages.filter.decisions import decide

GOOD: dict[str, Any] = {
    "language": "en", "language_probability": 0.9, "similarity": 0.5, "punsafe": 0.1, "pwatermark": 0.1, "aesthetic": 6.0,
    "nsfw": "UNLIKELY",
}  # fmt: skip
ALL = ("filter.max_punsafe=0.45", "filter.max_pwatermark=0.8", "filter.min_aesthetic=5", "filter.languages=en,de")


def verdict(*overrides: str, **changes: Any) -> tuple[str | None, str | None]:
    row = GOOD | changes
    table: pa.Table = table_of(SCORES, {"uid": ["0" * 32], **{key: [value] for key, value in row.items()}})
    _, reasons, languages = decide(table, load_settings("laion5b", overrides, environment={}).filter)
    return reasons[0].as_py(), languages[0].as_py()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"similarity": 0.2801}, None),
        ({"similarity": 0.2799}, DropReason.LOW_SIMILARITY),
        ({"language": "de", "similarity": 0.2601}, None),
        ({"language": "de", "similarity": 0.2599}, DropReason.LOW_SIMILARITY),
        ({"language_probability": 0.69, "similarity": 0.27}, None),
        ({"language_probability": 0.71, "similarity": 0.27}, DropReason.LOW_SIMILARITY),
        ({"similarity": None}, DropReason.LOW_SIMILARITY),
    ],
)
def test_laion5b(changes: dict[str, Any], reason: DropReason | None) -> None:
    assert verdict(**changes)[0] == reason


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"punsafe": 0.4499}, None),
        ({"punsafe": 0.4501}, DropReason.UNSAFE),
        ({"punsafe": None}, DropReason.UNSAFE),
        ({"pwatermark": 0.7999}, None),
        ({"pwatermark": 0.8001}, DropReason.WATERMARKED),
        ({"aesthetic": 5.0}, None),
        ({"aesthetic": 4.99}, DropReason.LOW_AESTHETIC),
        ({"language": "fr"}, DropReason.LANGUAGE),
        ({"language": "de"}, None),
        ({"language": None, "language_probability": None}, DropReason.LANGUAGE),
    ],
)
def test_further_criteria(changes: dict[str, Any], reason: DropReason | None) -> None:
    assert verdict(*ALL, **changes)[0] == reason


def test_an_unreliable_language_is_published_as_none() -> None:
    assert verdict(language_probability=0.69)[1] is None
    assert verdict(language_probability=0.7001)[1] == "en"


def test_a_block_list_comes_before_any_score() -> None:
    table = table_of(SCORES, {"uid": ["a", "b"], "similarity": [0.5, -1.0], "nsfw": ["UNLIKELY"] * 2})
    decided = decide(table, load_settings("laion5b", environment={}).filter, ["z", "b", "c"])
    assert decided.uids.to_pylist() == ["a", "b", "c", "z"]
    assert decided.reasons.to_pylist() == [None, "blocked", "blocked", "blocked"]
    assert (decided.flow().entered, decided.flow().left, decided.flow().drops) == (4, 1, {"blocked": 3})
