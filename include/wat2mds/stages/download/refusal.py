"""Why one image was not fetched or not accepted: the stage's only exception for one pair; it ends as a row, never as a failure.

What does not belong here: failures of the unit (``errors.py``).
"""

from __future__ import annotations

from wat2mds.drops import DropReason, FailureClass


class Refused(Exception):
    """``reason`` counts in the funnel, the message stands in the row; ``later``: of a transient reason, but not to be tried again at
    once; ``mime``: the type that the bytes had, where they were looked at."""

    def __init__(
        self, reason: DropReason, message: str, *, status: int | None = None, later: bool = False, mime: str | None = None
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.status = status
        self.later = later
        self.mime = mime

    @property
    def at_once(self) -> bool:
        """Whether another try within the task may succeed."""
        return self.reason.failure is FailureClass.TRANSIENT and not self.later
