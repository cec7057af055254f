"""The operator that runs one stage's program, exactly as a person would run it from a terminal.

In: a stage and its units (or explicit arguments). Out: the small summary that the program prints last, as XCom. Guaranteed: exit
code 75 and a kill by a signal are retried with the task's backoff, any other failure is final; the command is in the log, ready to
be pasted; store credentials are in the program's environment and nowhere else. What does not belong here: how a stage works, and
which command line it wants (``wat2mds.plan.stage_arguments``).
"""

from __future__ import annotations

import json
import logging
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from wat2mds.errors import ConfigError, DataError, TransientError, Wat2MdsError
from wat2mds.plan import stage_arguments
from wat2mds.settings import child_environment, deployment
from wat2mds_metrics import DownloadMetrics
from wat2mds_process import StageProcess
from wat2mds_reports import links_of
from wat2mds_store import store_environment

if TYPE_CHECKING:
    from airflow.sdk import Context

Units = dict[str, Any] | Sequence[dict[str, Any]]
_MEANING = {error.exit_code: error.next_action for error in (DataError, ConfigError, Wat2MdsError, TransientError)}


def pasteable(arguments: Sequence[str]) -> str:
    """The command as a person types it."""
    return shlex.join(["wat2mds", *arguments])


def failure(code: int, last_error: str, arguments: Sequence[str]) -> AirflowException:
    """What a program's end means: an exception that Airflow retries, or one that it does not."""
    said = f" Its last error: {last_error}" if last_error else ""
    again = f"\nTo reproduce it without Airflow: {pasteable(arguments)}"
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        hint = " Nobody here sent it: the machine may have run out of memory." if code == -signal.SIGKILL else ""
        return AirflowException(f"killed by {name}: will be tried again.{hint}{said}{again}")
    meaning = _MEANING.get(code, "not one of wat2mds's exit codes; 2 is a command line that it did not understand")
    message = f"exit code {code}: {meaning}.{said}{again}"
    return AirflowException(message) if code == TransientError.exit_code else AirflowFailException(message)


def stage_environment() -> dict[str, str]:
    """The program's environment: ours, without Airflow's own (its keys are no business of a program that decodes strangers'
    images), with the store's credentials."""
    ours = {name: value for name, value in child_environment().items() if not name.lstrip("_").startswith("AIRFLOW")}
    place = deployment()
    return {**ours, **store_environment(place.root, place.source, place.collinfo), "PYTHONUNBUFFERED": "1"}


class StageOperator(BaseOperator):
    """Runs ``wat2mds <stage> …`` as a process group of its own.

    ``units``: one unit or several, as ``plan`` hands them out; mappable. ``arguments``: the whole command line instead, as a list
    or as a function of the task's context. ``returns``: the key of the summary that becomes the XCom; default the whole summary. Where
    that is empty, the task fails, or is skipped with what follows it if ``may_be_empty``.
    An asset among ``outlets`` gets its event's extra from the summary's ``asset``.
    """

    # Rendering is what resolves XComs and mapped values; templates inside them are not rendered.
    template_fields = ("units",)
    program: Sequence[str] = (sys.executable, "-m", "wat2mds")
    ui_color = "#e8f0e4"

    def __init__(
        self,
        *,
        stage: str,
        units: Any = None,
        arguments: Sequence[str] | Callable[[Context], Sequence[str]] | None = None,
        returns: str | None = None,
        may_be_empty: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.stage = stage
        self.units = units
        self.arguments = arguments
        self.returns = returns
        self.may_be_empty = may_be_empty
        self._process: StageProcess | None = None
        self.operator_extra_links = links_of(stage)

    @property
    def wat_file(self) -> str:
        """What a mapped task is labelled with: ``map_index_template="{{ task.wat_file }}"``."""
        return str(self.units["wat_file"]) if isinstance(self.units, dict) else ""

    def execute(self, context: Context) -> Any:
        arguments = self.command(context)
        logger = logging.getLogger(f"wat2mds.{self.stage}")
        logger.info("Running: %s", pasteable(arguments))
        process = self._process = StageProcess([*self.program, *arguments], stage_environment())
        code = process.run(self._heard(logger))
        if code != 0:
            raise failure(code, process.last_error, arguments)
        summary = self._summary(process.last_line, arguments)
        for outlet in self.outlets:
            context["outlet_events"][outlet].extra = summary.get("asset", {})
        if self.returns is None:
            return summary
        if not summary.get(self.returns) and self.may_be_empty:
            raise AirflowSkipException(f"{self.stage} found nothing to do")
        if not summary.get(self.returns):
            # Mapping over nothing would skip all that follows and leave the run green.
            raise AirflowFailException(f"{self.stage} found nothing to do: its summary has no {self.returns!r}")
        return summary[self.returns]

    def _heard(self, logger: logging.Logger) -> Callable[[int, str], object]:
        """What is done with a line of the program's log; download's figures become Airflow's metrics too."""
        if self.stage != "download":
            return logger.log
        metrics = DownloadMetrics(self.wat_file)

        def heard(level: int, message: str) -> None:
            logger.log(level, message)
            metrics.hear(message)

        return heard

    def on_kill(self) -> None:
        """Marked failed, cleared, timed out, or the worker is going down: nothing of the stage may go on."""
        if self._process is not None:
            self._process.end()

    def command(self, context: Context) -> list[str]:
        """The command line after ``wat2mds``."""
        if callable(self.arguments):
            return list(self.arguments(context))
        if self.arguments is not None:
            return list(self.arguments)
        return stage_arguments(self.stage, self.units)

    def _summary(self, line: str, arguments: Sequence[str]) -> dict[str, Any]:
        try:
            summary = json.loads(line)
        except ValueError:
            summary = None
        if not isinstance(summary, dict):
            raise AirflowFailException(
                f"{self.stage} ended with exit code 0 but its last line is not its JSON summary: {line[:200]!r}. This is a bug "
                f"in wat2mds.\nTo reproduce it without Airflow: {pasteable(arguments)}"
            )
        return summary
