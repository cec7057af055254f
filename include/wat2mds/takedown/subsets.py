"""Subsets whose conditions name what is taken down: those of a search result list its uids.

In: entries. Out: definitions in which such a uid is one that nothing has. Guaranteed: what the condition selects of what stays is the
same; a definition that names nothing of it is not touched. What does not belong here: the rows that a subset selects, which follow from
the version.
"""

from __future__ import annotations

import json
import logging
import re
from dataclasses import asdict
from urllib.parse import urlsplit

from wat2mds.store import Store
from wat2mds.subsets import build, built_versions, names
from wat2mds.subsets.definition import folder, read_definition
from wat2mds.takedown.entries import Entries
from wat2mds.versions import newest_number

log = logging.getLogger(__name__)
NOBODY = "0" * 32
_UID = re.compile(r"(?<![0-9a-fA-F])[0-9a-fA-F]{32}(?![0-9a-fA-F])")
_URL = re.compile(r"https?://[^\s'\"\\]+")


def clear_definitions(dataset: Store, entries: Entries) -> list[str]:
    """Names of the subsets whose definitions changed."""
    changed = []
    for name in dataset.names("subsets")[1]:
        path = f"{folder(name)}/definition.json"
        if not dataset.exists(path):
            continue
        definition = dataset.read_json(path)
        cleared = {key: _cleared(value, entries) if isinstance(value, str) else value for key, value in definition.items()}
        if cleared == definition:
            continue
        log.info("subset %s: its condition named what is taken down", name)
        dataset.write(path, json.dumps(cleared, indent=1, sort_keys=True).encode())
        changed.append(name)
    return changed


def drop_stale(dataset: Store) -> None:
    """What was built by a definition that has changed; of the newest version it is built anew."""
    newest = newest_number(dataset.url)
    for name in names(dataset):
        definition = asdict(read_definition(dataset, name))
        for number in built_versions(dataset, name):
            place = f"{folder(name)}/{number:06d}"
            if dataset.read_json(f"{place}/subset.json")["definition"] == definition:
                continue
            had_mds = dataset.exists(f"{place}/mds.json")
            dataset.delete_tree(place)
            if number == newest:
                build(dataset.url, name, mds=had_mds)


def _cleared(text: str, entries: Entries) -> str:
    text = _UID.sub(lambda m: NOBODY if entries.holds("uid", m[0]) else m[0], text)
    return _URL.sub(
        lambda m: f"https://{NOBODY}.invalid/" if entries.holds("url", m[0]) or _of_domain(m[0], entries) else m[0], text
    )


def _of_domain(url: str, entries: Entries) -> bool:
    try:
        return entries.holds("domain", urlsplit(url).hostname or "")
    except ValueError:
        return False
