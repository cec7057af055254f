"""``wat2mds``: puts the commands together and turns every ending into an exit code.

Guaranteed: logs go to stderr; the last line on stdout is one JSON object; the exit code says what to do next (``errors.py``).
"""

from __future__ import annotations

import logging
import sys
import tempfile
from typing import NoReturn

import typer

from wat2mds.cli import (
    backfill,
    datasets,
    derived,
    failures,
    heads,
    ledger,
    models,
    runs,
    schedule,
    search,
    serve,
    stages,
    subsets,
    takedowns,
    training,
    versions,
    worlds,
)
from wat2mds.errors import ConfigError, DiskFullError, Wat2MdsError, nearest

log = logging.getLogger("wat2mds")

app = typer.Typer(
    name="wat2mds",
    help="Rebuild LAION-style image-text datasets from Common Crawl.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for module in (
    stages,
    runs,
    backfill,
    schedule,
    failures,
    datasets,
    derived,
    heads,
    models,
    versions,
    subsets,
    takedowns,
    training,
    search,
    serve,
    ledger,
    worlds,
):
    module.register(app)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run one command and exit."""
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s", datefmt="%H:%M:%S"
    )
    logging.captureWarnings(True)
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: list[str]) -> int:
    """One command's exit code."""
    command = typer.main.get_command(app)
    try:
        # Not standalone: a mistyped option is exit 78 like every wrong setting, not click's 2.
        result = command.main(args=arguments, prog_name="wat2mds", standalone_mode=False)
        return int(result or 0)
    except Wat2MdsError as error:
        _say(error)
        return error.exit_code
    except KeyboardInterrupt:
        log.error("interrupted")
        return 130
    except Exception as error:
        usage = _as_usage(error, command, arguments)
        if usage is not None:
            _say(usage)
            return usage.exit_code
        if DiskFullError.caused(error):
            full = DiskFullError(f"the disk is full: {error}; temporary files are in {tempfile.gettempdir()}")
            _say(full)
            return full.exit_code
        log.exception("unforeseen: %s", error)
        return Wat2MdsError.exit_code


def _say(error: Wat2MdsError) -> None:
    log.error("%s: %s", type(error).__name__, error)
    log.warning("what to do: %s", error.next_action)  # an error would be taken for the reason, as the last one


def _as_usage(error: Exception, command: object, arguments: list[str]) -> ConfigError | None:
    """Click's errors as ours: they carry ``format_message``; an unknown command or option names the nearest."""
    message = getattr(error, "format_message", None)
    if message is None:
        return ConfigError("stopped") if type(error).__name__ == "Abort" else None
    text = str(message())
    known = getattr(command, "commands", {})
    if "No such command" in text and arguments:
        text = f"there is no command {arguments[0]!r}.{nearest(arguments[0], known)}"
    elif getattr(error, "option_name", None) and getattr(error, "ctx", None) is not None:
        options = [name for parameter in error.ctx.command.params for name in parameter.opts if name.startswith("--")]  # type: ignore[attr-defined]
        text = f"there is no option {error.option_name}.{nearest(error.option_name, options)}"  # type: ignore[attr-defined]
    where = getattr(getattr(error, "ctx", None), "command_path", "wat2mds")
    return ConfigError(f"{text} See `{where} --help`.")
