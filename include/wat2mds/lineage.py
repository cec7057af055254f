"""What a unit was made from: the manifests behind a manifest.

In: a manifest. Out: the manifests among its inputs, read from where they are recorded. Guaranteed: a manifest that has changed since
it was used is refused, not silently taken for the one that was. What does not belong here: what the stages' files hold.
"""

from __future__ import annotations

import logging

from wat2mds.errors import DataError
from wat2mds.manifest import Manifest, read_manifest

log = logging.getLogger(__name__)


def parent(manifest: Manifest, stage: str | tuple[str, ...]) -> Manifest:
    """The input that ``stage``, or one of several, made. Raises DataError where there is none, or where it is not the one that was used."""
    stages = (stage,) if isinstance(stage, str) else stage
    stage = " or ".join(stages)
    for given in manifest.inputs:
        if not given.url.endswith(".json"):
            continue
        try:
            found = read_manifest(given.url)
        except FileNotFoundError as error:
            raise DataError(f"{manifest.url} was made from {given.url}, which is gone: run {stage} again first") from error
        if found.stage not in stages:
            continue
        if found.identity != given.identity:
            raise DataError(f"{given.url} has changed since {manifest.url} was made from it: run {manifest.stage} again first")
        return found
    raise DataError(f"{manifest.url} names no {stage} among its inputs: {', '.join(i.url for i in manifest.inputs) or 'none'}")


def require_made_from(manifest: Manifest, source: Manifest) -> None:
    """Raises DataError unless ``source``, as it is now, is among the manifest's inputs."""
    if source.as_input() not in manifest.inputs:
        raise DataError(
            f"{manifest.url} was not made from {source.url} as it is now: give the {source.stage} that belongs to it, "
            f"or run {manifest.stage} again first"
        )


def ancestry(manifest: Manifest) -> list[Manifest]:
    """The manifest and all before it of the same WAT file, in the order of the flow.

    Intermediate files have a retention: what is gone is left out, with a log line.
    """
    found: dict[str, Manifest] = {}
    _collect(manifest, manifest.unit, found)
    return list(found.values())


def _collect(manifest: Manifest, unit: dict[str, str], found: dict[str, Manifest]) -> None:
    for given in manifest.inputs:
        # A unit's manifest lies below its WAT file's folder; sources, the ledger and other WAT files of the batch do not.
        if not given.url.endswith(".json") or f"/{unit.get('wat_file')}/" not in given.url:
            continue
        try:
            before = read_manifest(given.url)
        except FileNotFoundError:
            log.info("%s is gone: the funnel in the version record begins after it", given.url)
            continue
        if before.unit == unit and before.stage not in found:
            _collect(before, unit, found)
    found[manifest.stage] = manifest
