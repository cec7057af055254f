"""The models' cache: what was fetched once, converted, and is used offline afterwards.

In: an entry of the catalogue. Out: a folder of its own below WAT2MDS_MODELS with the converted file, what is needed beside it, and
``lock.json``. Guaranteed: an entry's folder appears whole or not at all, also of two fetches at once; the bytes at the source are those
whose SHA-256 the catalogue states, or, where it states none, those that the first fetch recorded; nothing is unpickled unchecked
(``weights.py``). What does not belong here: loading models.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wat2mds.errors import ConfigError, DataError
from wat2mds.models.catalogue import Entry, catalogue
from wat2mds.settings import deployment
from wat2mds.source import Source, bring, look_up
from wat2mds.store import file_hash, join

log = logging.getLogger(__name__)
LOCK = "lock.json"
_HUB = re.compile(r"hf://(?P<name>[^/@]+/[^/@]+)(?:@(?P<revision>[^/]+))?/(?P<path>.+)")


@dataclass(frozen=True)
class Locked:
    """One file as it was fetched and as it is kept. ``trusted``: nobody stated the source's SHA-256 before it was fetched."""

    url: str
    source_size: int
    source_sha256: str
    trusted: bool
    file: str
    size: int
    sha256: str


def root() -> Path:
    """The cache's folder: WAT2MDS_MODELS, else .cache/wat2mds/models in the user's home."""
    set_ = deployment().models
    return Path(set_) if set_ else Path.home() / ".cache" / "wat2mds" / "models"


def place(entry: Entry) -> Path:
    return root() / entry.name.replace("/", "--")


def cached(name: str) -> Path | None:
    """The converted file of a catalogue's name; None where it was not fetched, or the name is no entry's."""
    entry = catalogue().get(name)
    if entry is None or not (place(entry) / LOCK).is_file():
        return None
    return place(entry) / entry.file


def require_sizes(path: Path) -> None:
    """Raises ConfigError where a cached file is not as large as its lock says: it was cut, or never written whole."""
    for locked in read_lock(path.parent):
        file = path.parent / locked.file
        found = file.stat().st_size if file.is_file() else 0
        if found != locked.size:
            raise ConfigError(
                f"the cached model {file} is damaged: expected {locked.size:,} bytes, found {found:,}. Fetch it again: "
                f"wat2mds models fetch {path.parent.name.replace('--', '/')}"
            )


def fetch_command(name: str) -> str:
    return f"wat2mds models fetch {name} (or, for all that a profile needs: wat2mds models fetch --profile PROFILE)"


def read_lock(folder: Path) -> list[Locked]:
    """What a folder of the cache holds; nothing where it was not fetched. Raises ConfigError for a lock that does not read."""
    try:
        return [Locked(**entry) for entry in json.loads((folder / LOCK).read_bytes())["files"]]
    except FileNotFoundError:
        return []
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"{folder / LOCK} does not read ({error}): remove the folder and fetch the model again") from error


def problems(entry: Entry) -> list[str]:
    """What is wrong with an entry's files, each with what was expected and found. Reads every byte."""
    folder = place(entry)
    found = []
    for locked in read_lock(folder):
        path = folder / locked.file
        if not path.is_file():
            found.append(f"{path} is gone")
        elif path.stat().st_size != locked.size:
            found.append(f"{path}: expected {locked.size:,} bytes, found {path.stat().st_size:,}")
        elif (sha256 := file_hash(path)) != locked.sha256:
            found.append(f"{path}: expected SHA-256 {locked.sha256}, found {sha256}")
        if locked.url == entry.url and entry.sha256 not in (None, locked.source_sha256):
            found.append(
                f"{path} was made from a source with the SHA-256 {locked.source_sha256}; the catalogue states {entry.sha256}"
            )
    return found


def fetch(entry: Entry, hub: str) -> list[Locked]:
    """Bring an entry into the cache, unless it is there and whole. ``hub``: where hf: addresses lead.

    Raises DataError where the source has other bytes than are stated, or recorded; ConfigError for what is no such model; TransientError.
    """
    folder, before = place(entry), read_lock(place(entry))
    if before and not problems(entry):
        return before
    recorded = {locked.url: locked for locked in before}
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder.parent) as scratch:
        made = Path(scratch) / "made"
        made.mkdir()
        files = []
        for url in (entry.url, *entry.beside):
            main = url == entry.url
            source, path = _bring(url, hub, Path(scratch))
            sha256 = file_hash(path)
            _require(entry, url, path.stat().st_size, sha256, recorded.get(url))
            kept = made / (entry.file if main else path.name)
            if main:
                _convert(entry, path, kept)
            else:
                shutil.copyfile(path, kept)
            stated = (main and entry.sha256 is not None) or source.sha256 is not None
            size = path.stat().st_size
            files.append(Locked(url, size, sha256, not stated, kept.name, kept.stat().st_size, file_hash(kept)))
        content = {"name": entry.name, "kind": entry.kind, "licence": entry.licence, "files": [asdict(file) for file in files]}
        (made / LOCK).write_text(json.dumps(content, indent=1), encoding="utf-8")
        if folder.exists():
            folder.rename(Path(scratch) / "before")
        try:
            made.rename(folder)
        except OSError:
            if not (folder / LOCK).is_file():  # else another fetch was first
                raise
    return read_lock(folder)


def _bring(url: str, hub: str, scratch: Path) -> tuple[Source, Path]:
    """The file under its own name, whose ending says what it is."""
    if url.startswith("hf:"):
        match = _HUB.fullmatch(url)
        if not match:
            raise ConfigError(f"{url} is no address of a model's file on the hub: write hf://organisation/repository/file")
        address = join(hub, match["name"], "resolve", match["revision"] or "main", match["path"])
        source = look_up(
            address, token=deployment().hub_token, access="A gated model on the hub wants a token: WAT2MDS_HUB_TOKEN"
        )
    else:
        source = look_up(url)
    path = bring(source, scratch)
    if not source.remote:
        return source, path
    return source, path.rename(scratch / url.rpartition("/")[2].partition("?")[0])


def _require(entry: Entry, url: str, size: int, sha256: str, recorded: Locked | None) -> None:
    main = url == entry.url
    expected = entry.sha256 if main else None
    by = "the catalogue states"
    if expected is None and recorded is not None:
        expected, by = recorded.source_sha256, "the first fetch recorded"
    if main and entry.size is not None and size != entry.size:
        raise DataError(f"{entry.name}: {url} has {size:,} bytes; expected {entry.size:,}, which the catalogue states")
    if expected is not None and sha256 != expected:
        raise DataError(
            f"{entry.name}: {url} has the SHA-256 {sha256}; expected {expected}, which {by}. Nothing was kept. If its publisher replaced "
            f"it on purpose, and you trust the new one, remove {place(entry)} and fetch again"
        )


def _convert(entry: Entry, source: Path, out: Path) -> None:
    """Raises ConfigError for a source that does not hold what the entry says."""
    if entry.kind == "head":
        from wat2mds.models.heads import save_head
        from wat2mds.models.published_heads import read_published

        return save_head(out, read_published(entry.form, source))
    if entry.kind == "pixels":
        from wat2mds.models.image_models import convert_watermark

        return convert_watermark(source, out)
    if source.suffix == ".safetensors":
        shutil.copyfile(source, out)
        return None
    from safetensors.torch import save_file

    from wat2mds.models.weights import read_checkpoint

    tensors: dict[str, Any] = read_checkpoint(source, known=entry.form == "torchscript" and entry.sha256 is not None)
    save_file(tensors, out)
    out.chmod(0o644)  # safetensors writes for the owner alone
    return None
