"""The funnel: sums, and every way in which it may fail to reconcile."""

from __future__ import annotations

from wat2mds.funnel import build_funnel
from wat2mds.manifest import Flow, Manifest


def made(stage: str, wat_file: str, *flows: Flow) -> Manifest:
    return Manifest(stage, "d", {"wat_file": wat_file}, [], {}, "", [], list(flows), {})


def wat(number: str, pairs: int = 8, entered: int = 8, drops: int = 3) -> list[Manifest]:
    return [
        made(
            "extract",
            number,
            Flow("records", "pages", 10, 4, {"not_metadata": 6}),
            Flow("links", "pairs", 9, pairs, {"no_url": 9 - pairs}),
        ),
        made("dedup", number, Flow("pairs", "unique", entered, entered - drops, {"duplicate_in_wat": drops})),
    ]


def test_wat_files_are_summed_by_stage_and_reason() -> None:
    funnel = build_funnel([wat("00000"), wat("00001", drops=1), wat("00002")[:1]])
    assert funnel.reconciles
    found = {(line.stage, line.flow.source): line.flow for line in funnel.lines}
    assert found["extract", "records"] == Flow("records", "pages", 30, 12, {"not_metadata": 18})
    assert found["dedup", "pairs"] == Flow("pairs", "unique", 16, 12, {"duplicate_in_wat": 4})
    assert "the funnel reconciles" in funnel.table()


def test_what_is_lost_between_stages_is_said() -> None:
    funnel = build_funnel([wat("00000", pairs=8, entered=7)])
    assert funnel.problems == ("00000 dedup: 8 pairs left the stage before, 7 entered",)
    assert "DOES NOT RECONCILE" in funnel.table()


def test_what_is_lost_inside_a_stage_is_said() -> None:
    funnel = build_funnel([[made("dedup", "00000", Flow("pairs", "unique", 5, 3, {"duplicate_in_wat": 1}))]])
    assert "5 pairs are not 3 unique" in funnel.problems[0]


def test_a_reason_that_nobody_declared_is_said() -> None:
    funnel = build_funnel([[made("dedup", "00000", Flow("pairs", "unique", 2, 1, {"mislaid": 1}))]])
    assert "unknown drop reasons ['mislaid']" in funnel.problems[0]
