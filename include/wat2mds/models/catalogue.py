"""Which weights and heads there are to fetch, and which of them a profile needs.

In: ``catalogue.toml``, and a file of the deployment's own (WAT2MDS_CATALOGUE) whose entries come before it: mirrors, further heads. Out:
entries. Guaranteed: an entry that is written wrong is a ConfigError that names it; sizes and checksums are those that a publisher
states, or None. What does not belong here: fetching and keeping (``cache.py``). Imports nothing heavy.
"""

from __future__ import annotations

import tomllib
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from wat2mds.errors import ConfigError, nearest
from wat2mds.settings import deployment
from wat2mds.stage_settings import HEAD_SETTINGS, FilterSettings


class Entry(BaseModel):
    """One model or head. ``name`` is what settings call it: of a CLIP model ``model/weights``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?$")
    kind: Literal["clip", "head", "pixels"]
    url: str
    form: str
    licence: str
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    size: int | None = Field(None, ge=1)
    beside: tuple[str, ...] = ()

    @property
    def file(self) -> str:
        """Name of the converted file in the cache."""
        return "open_clip_model.safetensors" if self.kind == "clip" else "head.safetensors"


def catalogue() -> dict[str, Entry]:
    """Every entry by name. Raises ConfigError for a deployment's file that does not read."""
    own = (resources.files("wat2mds") / "models" / "catalogue.toml").read_text("utf-8")
    path = deployment().catalogue
    if not path:
        return dict(_entries(own, "catalogue.toml"))
    try:
        more = Path(path).read_text("utf-8")
    except OSError as error:
        raise ConfigError(f"WAT2MDS_CATALOGUE: {path} cannot be read: {error}") from error
    return _entries(own, "catalogue.toml") | _entries(more, path)


@cache
def _entries(text: str, where: str) -> dict[str, Entry]:
    try:
        return {name: Entry(name=name, **values) for name, values in tomllib.loads(text).items()}
    except (tomllib.TOMLDecodeError, ValidationError, TypeError) as error:
        raise ConfigError(f"{where} is no catalogue of models: {error}") from error


def entry_of(name: str) -> Entry:
    """Raises ConfigError for a name that is not in the catalogue."""
    known = catalogue()
    if name not in known:
        raise ConfigError(f"the catalogue has no model {name!r}.{nearest(name, known)}")
    return known[name]


def needed(given: FilterSettings) -> list[Entry]:
    """The entries that these settings name; what is no entry is the project's own, a file, or open_clip's to fetch."""
    known = catalogue()
    models = [(given.clip_model, given.clip_pretrained), (given.clip_model_other, given.clip_pretrained_other)]
    names = [*(f"{model}/{weights}" for model, weights in models), *(getattr(given, key) for key in HEAD_SETTINGS)]
    return [known[name] for name in dict.fromkeys(names) if name in known]
