"""What was built before a takedown and is published after it: looked through at the last moment.

In: the manifest of upload. Out: the manifest of what may be published. Guaranteed: the manifest in the store says the same, so that a
publish that is repeated, or was killed, publishes the same. What does not belong here: WAT files that are published (``applying.py``).
"""

from __future__ import annotations

import logging
from dataclasses import asdict, replace
from typing import Any

from wat2mds.errors import TransientError
from wat2mds.manifest import Flow, Manifest
from wat2mds.store import Store, split
from wat2mds.takedown.entries import Entries
from wat2mds.takedown.finding import find_in
from wat2mds.takedown.records import doom
from wat2mds.takedown.rewriting import without
from wat2mds.units import PublishedUnit, StoredObject

log = logging.getLogger(__name__)
_SAID = ("retriable", "retriable_uids", "retriable_until")


def cleaned(upload: Manifest, dataset: Store, entries: Entries) -> Manifest:
    """Raises TransientError where what was uploaded is gone."""
    before = _unit(upload)
    found = find_in(dataset, before, entries)
    if found.lost:
        raise TransientError(f"objects of {before.unit_name} are gone from {dataset.url}: clear the upload task of {before.key}")
    if not found:
        return upload
    after = without(dataset, found)
    doom(dataset, before, after)
    log.warning("%s: %d samples are taken down and not published", before.key, len(found.samples))
    return rewrite(upload, after)


def rewrite(upload: Manifest, unit: PublishedUnit) -> Manifest:
    """Say in upload's manifest what there is of the WAT file now."""
    said = {name: getattr(unit, name) for name in ("unit_name", "samples", "shards", "built", *_SAID)}
    flow = next(flow for flow in unit.flows if flow["stage"] == "upload")
    made = replace(
        upload,
        unit=upload.unit | ({"retry_of": unit.retry_of} if unit.retry_of else {}),
        flows=[Flow(**{name: value for name, value in flow.items() if name != "stage"})],
        extra=upload.extra | said | {"objects": [asdict(entry) for entry in unit.objects]},
    )
    folder, name = split(upload.url)
    Store(folder).write(name, made.to_json())
    return made


def _unit(upload: Manifest) -> PublishedUnit:
    extra: dict[str, Any] = upload.extra
    return PublishedUnit(
        unit_name=extra["unit_name"],
        snapshot=upload.unit["snapshot"],
        segment=upload.unit["segment"],
        wat_file=upload.unit["wat_file"],
        samples=extra["samples"],
        shards=extra["shards"],
        digests={},
        flows=[{"stage": "upload", **asdict(flow)} for flow in upload.flows],
        objects=[StoredObject(**entry) for entry in extra["objects"]],
        **{name: extra[name] for name in _SAID},
        retry_of=upload.unit.get("retry_of", ""),
        built=extra.get("built", ""),
    )
