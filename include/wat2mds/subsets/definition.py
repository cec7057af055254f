"""What a subset's name means: a condition, and which share or number of what it selects.

In: a preset's name or a condition. Out: a ``Definition``, fixed under a name in the dataset. Guaranteed: of two that define one name at the
same time one wins, the other is told. What does not belong here: how rows are selected.
"""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files

from wat2mds.errors import ConfigError, nearest
from wat2mds.store import Store
from wat2mds.subsets.predicate import Predicate

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_UID_VALUES = 1 << 64  # of a uid's first 16 hex digits


@dataclass(frozen=True)
class Definition:
    """``where``: SQL over the metadata's columns. ``fraction``: the samples whose uid, read as a number, lies in the first such share of
    all uids; a uid is a hash, so that this is a sample, the same at each build, and a smaller fraction is part of a larger.
    ``count``: at most so many, those with the least uids."""

    where: str
    fraction: float | None = None
    count: int | None = None
    source: str = ""

    def __post_init__(self) -> None:
        if self.fraction is not None and not 0 < self.fraction <= 1:
            raise ConfigError(f"fraction {self.fraction} is not above 0 and up to 1")
        if self.count is not None and self.count < 1:
            raise ConfigError(f"count {self.count} is not positive")

    def predicate(self) -> Predicate:
        """The condition with the fraction's. Raises ConfigError."""
        own = Predicate(self.where)
        end = self.uid_end()
        return own if end is None else Predicate(f"(\n{own.text}\n) AND uid < '{end:016x}'")

    def uid_end(self) -> int | None:
        """First 64 bits of the uids that are not in the fraction any more; None where all are."""
        end = round(self.fraction * _UID_VALUES) if self.fraction is not None else _UID_VALUES
        return end if end < _UID_VALUES else None

    def kept_of(self, selected: int) -> int:
        """How many of the selected samples are kept."""
        return selected if self.count is None else min(selected, self.count)


def folder(name: str) -> str:
    """A subset's folder, from the dataset's. Raises ConfigError for a name that is none."""
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{name!r} is no name for a subset: lower case letters, digits, - and _, at most 64, e.g. art-en")
    return f"subsets/{name}"


@cache
def presets() -> dict[str, Definition]:
    """The definitions of presets.toml by name."""
    found = tomllib.loads(files("wat2mds.subsets").joinpath("presets.toml").read_text("utf-8"))
    return {name: Definition(entry["where"].strip(), source=entry["source"]) for name, entry in found.items()}


def preset(name: str) -> Definition:
    """Raises ConfigError for one that there is not."""
    if name not in presets():
        raise ConfigError(f"there is no preset {name!r}.{nearest(name, presets())} Presets: {', '.join(presets())}")
    return presets()[name]


def define(dataset: Store, name: str, definition: Definition) -> Definition:
    """Fix what a name means. Raises ConfigError where it means something else already."""
    path = f"{folder(name)}/definition.json"
    definition.predicate()
    if not dataset.create(path, json.dumps(asdict(definition), indent=1, sort_keys=True).encode()):
        known = read_definition(dataset, name)
        if known != definition:
            raise ConfigError(
                f"the subset {name!r} is defined already, as {known.where!r}, fraction {known.fraction}, count {known.count}: "
                "choose another name"
            )
    return definition


def read_definition(dataset: Store, name: str) -> Definition:
    """Raises ConfigError where the name has none."""
    try:
        return Definition(**dataset.read_json(f"{folder(name)}/definition.json"))
    except FileNotFoundError as error:
        known = dataset.names("subsets")[1]
        raise ConfigError(
            f"{dataset.url} has no subset {name!r}.{nearest(name, known)} A new one wants a preset or a condition"
        ) from error
