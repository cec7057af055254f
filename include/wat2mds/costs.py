"""What WAT files cost, from the records of past runs.

In: the manifests below a dataset's ``work/``. Out: by stage, what one WAT file took on average; of a number of WAT files, hours and
terabytes in words. Guaranteed: where nothing ran yet, published rates stand in (``plan.py``), and the words say so. What does not belong
here: ``dedup``, whose manifests each record the time of their whole batch, and which takes seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from wat2mds.errors import DataError
from wat2mds.manifest import Manifest, read_manifest
from wat2mds.plan import BYTES_PER_IMAGE, IMAGES_PER_CORE_SECOND, PAIRS_PER_WAT
from wat2mds.reprocess import STAGE_FOLDERS
from wat2mds.store import Store, join

_MOST = 20  # WAT files that are looked at


@dataclass(frozen=True)
class Cost:
    """Means of one WAT file at one stage: seconds by the clock, CPU seconds, bytes of the files that it left."""

    wat_files: int
    seconds: float
    cpu_seconds: float
    size: float


def past_costs(dataset_url: str) -> dict[str, Cost]:
    """By stage; a stage that never ran is not there. At most the last 20 WAT files in order are looked at."""
    store = Store(join(dataset_url, "work"))
    found: dict[str, list[Manifest]] = {}
    for place in _works(store):
        for stage, folder in STAGE_FOLDERS.items():
            if stage == "dedup":
                continue
            for name in store.names(f"{place}/{folder}")[0]:
                try:
                    manifest = read_manifest(join(store.url, place, folder, name))
                except (FileNotFoundError, DataError):  # retention was quicker, or it is no manifest
                    continue
                found.setdefault(stage, []).append(manifest)
    return {stage: _mean(manifests) for stage, manifests in found.items()}


def in_words(wat_files: Mapping[str, int], costs: Mapping[str, Cost], cores: int) -> str:
    """Hours and bytes of so many WAT files by stage; without records of download it is estimated by published rates."""
    known = {stage: count for stage, count in wat_files.items() if stage in costs and count}
    parts = []
    if "download" in wat_files and "download" not in costs and (count := wat_files["download"]):
        pairs = count * PAIRS_PER_WAT
        hours = pairs / IMAGES_PER_CORE_SECOND / cores / 3600
        parts.append(
            f"no WAT file of this dataset was built yet; at published rates, if they are of full size: about {pairs:,} pairs, "
            f"{hours:,.1f} hours of download on {cores} cores, {pairs * BYTES_PER_IMAGE / 1e12:,.3f} TB of images before filtering"
        )
    if known:
        seconds = sum(count * costs[stage].seconds for stage, count in known.items())
        cpu = sum(count * costs[stage].cpu_seconds for stage, count in known.items())
        images = known.get("download", 0) * (costs["download"].size if "download" in known else 0)
        looked = max(costs[stage].wat_files for stage in known)
        parts.append(
            f"from the records of {looked} WAT files: {seconds / 3600:,.1f} hours one after the other, {cpu / 3600:,.1f} CPU hours "
            f"({cpu / 3600 / cores:,.1f} hours on {cores} cores), {images / 1e12:,.3f} TB of downloaded images"
        )
    return "; ".join(parts) or "nothing to do"


def _works(store: Store) -> list[str]:
    """Work folders of the last WAT files, ``<snapshot>/<segment>/<WAT file>``."""
    found: list[str] = []
    for place in _descending(store):
        found.append(place)
        if len(found) == _MOST:
            break
    return found


def _descending(store: Store) -> Iterator[str]:
    for snapshot in reversed(store.names()[1]):
        for segment in reversed(store.names(snapshot)[1]):
            for wat_file in reversed(store.names(f"{snapshot}/{segment}")[1]):
                yield f"{snapshot}/{segment}/{wat_file}"


def _mean(manifests: list[Manifest]) -> Cost:
    count = len(manifests)
    return Cost(
        count,
        sum(manifest.seconds for manifest in manifests) / count,
        sum(manifest.cpu_seconds for manifest in manifests) / count,
        sum(file.size for manifest in manifests for file in manifest.files) / count,
    )
