"""Runs as a person follows them on a terminal: one line for each task that ends."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, TextIO

MARKS = {"success": "done", "failed": "FAILED", "upstream_failed": "not run", "skipped": "skipped", "removed": "removed"}


def show_task(task: Mapping[str, Any], stream: TextIO) -> None:
    """One ended task instance, in a line: state, name, WAT file, seconds, tries."""
    name = task["task_id"].rpartition(".")[2]
    label = task.get("rendered_map_index") or ""
    seconds = _seconds(task.get("start_date"), task.get("end_date"))
    tries = f", try {task['try_number']}" if (task.get("try_number") or 1) > 1 else ""
    print(
        f"  {MARKS.get(task['state'], task['state']):<8} {name:<10} {label:<8} {seconds:6.1f} s{tries}", file=stream, flush=True
    )


def _seconds(start: str | None, end: str | None) -> float:
    if not start or not end:
        return 0.0
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()
