"""The README: its made parts are fresh, every command and DAG stands in it, its two commands exist."""

from __future__ import annotations

import re
from pathlib import Path

import typer

from tests.wat2mds.cli.test_main import commands
from wat2mds.cli.docs import refresh
from wat2mds.cli.main import app

PROJECT = Path(__file__).parents[1]
TEXT = (PROJECT / "README.md").read_text("utf-8")


def test_what_is_made_from_the_code_is_fresh() -> None:
    fresh = refresh(TEXT, PROJECT / "dags", typer.main.get_command(app))
    assert fresh == TEXT, "README.md is stale: run `wat2mds docs` and commit the result"


def test_every_command_is_in_it() -> None:
    for names in commands():
        assert f"`wat2mds {' '.join(names)}`" in TEXT


def test_every_option_that_it_shows_exists() -> None:
    root = typer.main.get_command(app)
    blocks = "\n".join(re.findall(r"^```\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL))
    for line in re.findall(r"^wat2mds (.+?)(?:\s+#.*)?$", blocks, re.MULTILINE):
        words = line.split()
        command = root
        while hasattr(command, "commands"):
            command = command.commands[words.pop(0)]
        known = {name for parameter in command.params for name in parameter.opts}
        unknown = {word for word in words if word.startswith("--")} - known
        assert not unknown, f"README shows `wat2mds {line}`, but {unknown} are no options of it"


def test_the_two_commands_exist_and_the_first_paragraph_is_one_sentence() -> None:
    targets = re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text("utf-8"), re.MULTILINE)
    for command in re.findall(r"^make ([a-z-]+)", TEXT, re.MULTILINE):
        assert command in targets
    first = TEXT.split("\n\n")[1]
    assert first.count(". ") == 0


def test_every_folder_is_explained() -> None:
    listed = set(re.findall(r"^\| `([a-z0-9_/]+)/` \|", TEXT, re.MULTILINE))
    inner = {f"include/wat2mds/{p.parent.name}" for p in (PROJECT / "include" / "wat2mds").glob("*/*.py")}
    there = {"dags", "plugins", "tests", "docker", "include/wat2mds", *inner}
    assert there <= listed, f"the README's folder table lacks {sorted(there - listed)}"
