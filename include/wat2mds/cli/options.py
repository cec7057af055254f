"""Options that several commands share, and how a command ends."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from wat2mds.errors import ConfigError
from wat2mds.settings import Settings, deployment, load_settings
from wat2mds.store import Store, split

SettingsFile = Annotated[
    str | None,
    typer.Option("--settings", help="File or URL of resolved settings; stands for profile and environment.", metavar="FILE"),
]
Profile = Annotated[
    str | None, typer.Option(help="Named thresholds: laion400m, laion5b, relaion_safe, datacomp_basic, demo. Default: laion400m.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="One setting, e.g. download.image_size=384; may be repeated.", metavar="GROUP.KEY=VALUE"),
]
Out = Annotated[str, typer.Option(help="Folder or URL where the result and its manifest are put.", metavar="DIR")]
Root = Annotated[str | None, typer.Option(help="Root of the store, file:///… or s3://…. Default: WAT2MDS_ROOT.", metavar="URL")]
Dataset = Annotated[str | None, typer.Option(help="Name of the dataset. Default: WAT2MDS_DATASET, else laion.")]


def resolve_settings(file: str | None, profile: str | None, overrides: list[str] | None) -> Settings:
    """Settings from a command's options. Raises ConfigError."""
    resolved = None
    if file is not None:
        folder, name = split(file)
        try:
            resolved = Settings.from_json(Store(folder).read(name), file)
        except FileNotFoundError as error:
            raise ConfigError(f"the settings file {file} does not exist") from error
    return load_settings(profile, overrides or (), resolved=resolved)


def store_root(root: str | None) -> str:
    """The store's root from the option or the deployment. Raises ConfigError where neither names one."""
    found = root or deployment().root
    if not found:
        raise ConfigError("no store is named: give --root, or set WAT2MDS_ROOT to file:///a/folder or s3://bucket/prefix")
    return found


def emit(summary: Mapping[str, Any]) -> None:
    """The last line of stdout: one JSON object."""
    sys.stdout.flush()
    print(json.dumps(summary, separators=(",", ":"), default=str), flush=True)


def quiet_libraries() -> None:
    """Libraries that print to stdout must not reach the line that the caller reads: their stdout goes to stderr."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = os.fdopen(kept, "w", encoding="utf-8", closefd=False)
