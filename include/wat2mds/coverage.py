"""How much of each snapshot runs by itself: the deployment's ``schedule_from`` and ``schedule_covers``.

In: registered snapshots. Out: the batches that the schedule covers, in running order. Guaranteed: a larger share holds the smaller one;
two snapshots alike are covered alike. Light: the timetable asks. What does not belong here: when a batch's turn comes (the timetable
in ``plugins/``), what it costs (``costs.py``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime

from wat2mds.errors import ConfigError
from wat2mds.plan import parse_ranges
from wat2mds.snapshots import Batch, Snapshot


@dataclass(frozen=True)
class Coverage:
    """``share`` of a snapshot's batches, the first in running order, 0 to 1; or the batches of ``segments``, by their own numbers."""

    share: float = 1.0
    segments: frozenset[int] | None = None

    @classmethod
    def parse(cls, text: str) -> Coverage:
        """``all``, ``10%`` or ``segments:0-9,17``. Raises ConfigError."""
        if text == "all":
            return cls()
        if text.startswith("segments:"):
            return cls(segments=frozenset(parse_ranges(text.removeprefix("segments:"), "segments")))
        try:
            share = float(text.removesuffix("%")) / 100 if text.endswith("%") else math.nan
        except ValueError:
            share = math.nan
        if not 0 < share <= 1:
            raise ConfigError(f"{text!r} is no part of a snapshot: write all, a share above 0% up to 100%, or segments:0-9,17")
        return cls(share)

    def batches(self, snapshot: Snapshot, since: datetime | None = None) -> list[Batch]:
        """Those of a snapshot that run by themselves, in running order; ``since``: the earliest partition date."""
        found = list(snapshot.batches())
        if self.segments is not None:
            wanted = {segment.name for segment in snapshot.segments if segment.number in self.segments}
            found = [batch for batch in found if batch.segment in wanted]
        else:
            found = found[: math.ceil(len(found) * self.share)]
        return [batch for batch in found if since is None or batch.partition_date >= since]
