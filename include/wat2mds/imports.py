"""Lists of pairs that exist, as files: which ones an import covers, what each is called, and where hf: URLs lead.

In: files, folders and patterns as a person names them. Out: (number, URL) of each file. Guaranteed: a file keeps its number for ever,
whatever is added beside it, because claims in the ledger and published units go by it. What does not belong here: reading the files.
"""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

from wat2mds.errors import ConfigError, DataError, TransientError
from wat2mds.store import Layout, Store, join, normalize, split

SUFFIX = ".parquet"
_HUB = re.compile(r"hf://(?P<kind>datasets)/(?P<name>[^/@]+/[^/@]+)(?:@(?P<revision>[^/]+))?(?:/(?P<path>.*))?")
_HUB_PAGE = 1000  # entries in one page of the hub's listing
_TRIES = 50


def hub_address(url: str, hub: str, view: str = "resolve") -> str:
    """Where an ``hf://datasets/org/name[@revision]/path`` lies on the hub. Raises ConfigError for another form."""
    match = _HUB.fullmatch(url)
    if not match:
        raise ConfigError(f"{url} is no address on the hub: write hf://datasets/org/name/path/file.parquet")
    prefix = "api/" if view == "tree" else ""
    return join(hub, f"{prefix}{match['kind']}", match["name"], view, match["revision"] or "main", match["path"] or "")


def find_files(named: Iterable[str], hub: str) -> list[str]:
    """The parquet files behind files, folders and patterns (``*`` in the last part), in order, each once.

    Raises ConfigError for one that cannot be listed, DataError for one that holds no parquet file.
    """
    found: dict[str, None] = {}
    for name in named:
        if "*" in name.rpartition("/")[2]:
            folder, pattern = name.rstrip("/").rpartition("/")[::2]
            files = [file for file in _names(folder or ".", hub) if fnmatch.fnmatchcase(file, pattern)]
        elif (urlsplit(name).path if "://" in name else name.partition("#")[0]).endswith(SUFFIX):
            path, mark, hash_ = name.partition("#sha256=")
            found[name if "://" in name else f"{normalize(path)}{mark}{hash_}"] = None
            continue
        else:
            folder = name.rstrip("/")
            files = [file for file in _names(folder, hub) if file.endswith(SUFFIX)]
        if not files:
            raise DataError(f"{name} holds no {SUFFIX} file")
        base = folder if "://" in folder else normalize(folder or ".")
        found |= dict.fromkeys(join(base, file) for file in files)
    return list(found)


def _names(folder: str, hub: str) -> list[str]:
    """Names of the files directly in a folder, sorted."""
    if folder.startswith("hf:"):
        parent, name = split(hub_address(folder, hub, "tree"))
        try:
            entries = json.loads(Store(parent).read(name))
            files = [str(entry["path"]).rpartition("/")[2] for entry in entries if entry["type"] == "file"]
        except FileNotFoundError as error:
            raise DataError(f"{folder} does not exist on {hub}") from error
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(f"{parent}/{name} is not the hub's listing of a folder: {error!r}") from error
        if len(entries) >= _HUB_PAGE:
            raise ConfigError(f"{folder} holds {len(entries)} entries or more: name its files, or a folder below it")
        return sorted(files)
    if folder.startswith(("http:", "https:")):
        raise ConfigError(f"{folder}: a web server's folder cannot be listed; name each file's URL")
    return Store(folder).names()[0]


def number_files(root: str, dataset: str, name: str, files: Sequence[str]) -> list[tuple[str, str]]:
    """(number, URL) of each file, by number: those that the dataset's import ``name`` knows keep theirs, new ones follow."""
    store = Store(join(Layout(root, dataset).dataset, "imports", name))
    for _ in range(_TRIES):
        known = {str(store.read_json(entry)["source"]): entry.removesuffix(".json") for entry in store.names()[0]}
        new = [file for file in files if file not in known]
        if not new:
            return sorted((known[file], file) for file in files)
        for number, file in enumerate(new, len(known)):
            # Creates are exclusive: of two runs at once one goes on, the other looks again.
            if not store.create(f"{number:05d}.json", json.dumps({"source": file}).encode()):
                break
    raise TransientError(f"{store.url} was changed by others {_TRIES} times in a row")
