"""The numbers of a running download: what a log line, ``wat2mds status`` and Airflow's metrics show.

In: counts as they stand. Out: a line of text, that line read back, JSON. Guaranteed: ``read_line`` of ``line`` gives the same figures, so
that whoever sees a stage's log knows them without asking the store. What does not belong here: where counts come from (the stage).
"""

from __future__ import annotations

import json
import re
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import Any

_RATE_SECONDS = 60
_LINE = re.compile(
    r"download: (?P<done>[\d,]+) of (?P<total>[\d,]+) pairs, (?P<fetched>[\d,]+) by this attempt, "
    r"(?P<images>[\d,]+) with an image[^,]*, (?P<rate>[\d.,]+) a second, (?P<size>[\d,]+) bytes, "
    r"(?P<hosts>[\d,]+) hosts in flight, (?:\d+ s|unknown) left; dropped: (?P<dropped>[^;]*)(?:; pauses: (?P<waiting>.*))?$"
)


@dataclass(frozen=True)
class Figures:
    """``done`` of ``total`` pairs are finished, ``images`` of them with an image, the others ``dropped`` for these reasons.

    ``fetched``: pairs that this attempt finished; ``rate``: such pairs a second in the last minute; ``size``: their bytes; ``hosts``:
    those that something is asked of now; ``waiting``: why nothing is fetched, or empty.
    """

    done: int = 0
    total: int = 0
    fetched: int = 0
    images: int = 0
    rate: float = 0.0
    size: int = 0
    hosts: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    waiting: str = ""

    @property
    def share(self) -> float | None:
        """Pairs with an image among those that are done; None before the first."""
        return self.images / self.done if self.done else None

    @property
    def seconds_left(self) -> int | None:
        return round((self.total - self.done) / self.rate) if self.rate else None

    def line(self) -> str:
        """For a log."""
        share = f" ({self.share:.1%})" if self.share is not None else ""
        left = "unknown" if self.seconds_left is None else f"{self.seconds_left} s"
        text = (
            f"download: {self.done:,} of {self.total:,} pairs, {self.fetched:,} by this attempt, {self.images:,} with an image{share}, "
            f"{self.rate:.1f} a second, {self.size:,} bytes, {self.hosts} hosts in flight, {left} left; "
            f"dropped: {self._reasons(len(self.dropped)) or 'none'}"
        )
        return f"{text}; pauses: {self.waiting}" if self.waiting else text

    def brief(self) -> str:
        """For a terminal, beside a bar that shows done, total and the time left."""
        if self.waiting:
            return f"pauses: {self.waiting}"
        share = f"{self.share:.1%}" if self.share is not None else "-"
        return f"{self.rate:.1f}/s, {share} with an image, {self.size / 1e6:,.1f} MB, {self.hosts} hosts; {self._reasons(3)}"

    def told(self) -> str:
        """For who asks how a run is doing."""
        left = "time left unknown" if self.seconds_left is None else f"{timedelta(seconds=self.seconds_left)} left"
        return f"{self.done:,} of {self.total:,} pairs, {left}; {self.brief()}"

    def to_json(self) -> bytes:
        return json.dumps({**asdict(self), "at": round(time.time())}).encode()

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> tuple[Figures, int]:
        """From what ``to_json`` made: the figures, and the time of writing in seconds since 1970. Raises TypeError, KeyError."""
        return cls(**{name: value for name, value in found.items() if name != "at"}), found["at"]

    def _reasons(self, most: int) -> str:
        frequent = sorted(self.dropped.items(), key=lambda item: (-item[1], item[0]))[:most]
        return ", ".join(f"{reason} {count}" for reason, count in frequent)


def read_line(text: str) -> Figures | None:
    """The figures of a log line; None where it is another line. A level and a logger's name may stand before it."""
    found = _LINE.search(text)
    if found is None:
        return None
    numbers = {name: int(found[name].replace(",", "")) for name in ("done", "total", "fetched", "images", "size", "hosts")}
    reasons = [] if found["dropped"] == "none" else [part.rpartition(" ") for part in found["dropped"].split(", ")]
    dropped = {reason: int(count) for reason, _, count in reasons}
    return Figures(**numbers, rate=float(found["rate"].replace(",", "")), dropped=dropped, waiting=found["waiting"] or "")


class Rate:
    """How many a second in the last minute."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque([(time.monotonic(), 0)])

    def after(self, count: int) -> float:
        """``count``: how many there are by now."""
        now = time.monotonic()
        self._seen.append((now, count))
        while len(self._seen) > 2 and self._seen[1][0] < now - _RATE_SECONDS:
            self._seen.popleft()
        since, before = self._seen[0]
        return round((count - before) / max(now - since, 1e-3), 1)
