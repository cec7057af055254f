"""Commands about worlds and the project itself: a web archive replayed, the demo, the README's tables."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from wat2mds.cli.options import emit
from wat2mds.errors import DataError

log = logging.getLogger(__name__)


def register(app: typer.Typer) -> None:
    app.command()(replay)
    app.command()(demo)
    app.command()(docs)


def replay(
    archives: Annotated[list[Path], typer.Argument(help="WARC files, plain or gzipped.", metavar="FILE")],
    port: Annotated[int, typer.Option(help="Port on the loopback interface; 0: a free one.", min=0, max=65535)] = 8099,
) -> None:
    """Serve every URL archived in WARC files, for offline runs: set download.resolver=127.0.0.1:PORT."""
    from wat2mds.world.replay import serve_replay

    server = serve_replay(archives, port)
    log.info("replaying on %s; run stages with --set download.resolver=%s; Ctrl-C ends it", server.url, server.address)
    server.serve_forever()
    emit({"replayed": [str(path) for path in archives]})


def demo(
    home: Annotated[Path, typer.Option(help="Folder of everything that the demo makes.", metavar="DIR")] = Path(".wat2mds/demo"),
    keep_up: Annotated[bool, typer.Option("--keep-up/--no-keep-up", help="Leave the web UI up until Ctrl-C.")] = True,
) -> None:
    """Draw a small web, build a dataset from it through a real Airflow, offline, and show the result."""
    from wat2mds.cli.demo import Demo

    emit(Demo(home).run(keep_up=keep_up))


def docs(
    readme: Annotated[Path, typer.Argument(help="The README to bring up to date.", metavar="FILE")] = Path("README.md"),
    check: Annotated[bool, typer.Option("--check", help="Change nothing; exit 65 if it is stale.")] = False,
) -> None:
    """Make the README's tables of commands, DAGs, columns and settings from the code."""
    from wat2mds.cli.docs import refresh
    from wat2mds.cli.main import app

    text = readme.read_text("utf-8")
    fresh = refresh(text, readme.parent / "dags", typer.main.get_command(app))
    if check and fresh != text:
        raise DataError(f"{readme} is stale: run `wat2mds docs` and commit the result")
    if not check:
        readme.write_text(fresh, "utf-8")
    emit({"readme": str(readme), "changed": fresh != text})
