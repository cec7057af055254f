"""What a run under given settings would make anew of a WAT file, and what it finds done.

In: what lies in a WAT file's work folder, the digests of its stages under the settings (``plan.expected_digests``). Out: the stages that
would be made. Guaranteed: a unit whose files retention took is made again exactly where something that has to be made reads them; a
WAT file that is complete to the end is never touched. What does not belong here: making anything, and publishing.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from wat2mds.plan import WatUnit
from wat2mds.settings import PAIR_STAGES
from wat2mds.store import Store

# In running order, by their folders below a WAT file's; the scores are a part of filter of their own: another threshold needs none.
STAGE_FOLDERS = {
    "extract": "extract",
    "import": "import",
    "retry": "retry",
    "dedup": "dedup",
    "download": "download",
    "scores": "filter/scores",
    "filter": "filter",
    "validate": "validate",
    "convert": "convert",
    "upload": "upload",
}
# Whose files a stage reads. Of validate convert asks only whether it passed, of upload's manifest publish takes all that it needs.
_READS = {
    "dedup": ("extract", "import"),
    "download": PAIR_STAGES,
    "scores": ("download",),
    "filter": (*PAIR_STAGES, "download", "scores"),
    "validate": (*PAIR_STAGES, "download", "scores", "filter"),
    "convert": (*PAIR_STAGES, "download", "scores", "filter"),
    "upload": ("convert",),
}
_UNIT = re.compile(r"(?P<folder>.+)/(?P<digest>[0-9a-f]{12})\.(json$|[0-9a-f]+/)")


@dataclass(frozen=True)
class Outlook:
    """``made``: stages that would be made, in order, none where all is done; ``lost``: those of them that are complete but for their
    files; ``begun``: stages that were ever complete, under any settings."""

    made: tuple[str, ...]
    lost: tuple[str, ...]
    begun: tuple[str, ...]

    @property
    def first(self) -> str | None:
        """The first stage that would be made; None where all is done."""
        return self.made[0] if self.made else None


def outlook(paths: Collection[str], digests: Mapping[str, str]) -> Outlook:
    """``paths``: of the objects in the WAT file's work folder, from there."""
    order = [stage for stage in STAGE_FOLDERS if stage in digests]
    manifests = {(m["folder"], m["digest"]) for path in paths if path.endswith(".json") and (m := _UNIT.fullmatch(path))}
    filled = {(m["folder"], m["digest"]) for path in paths if (m := _UNIT.match(path)) and m.end() < len(path)}

    def there(stage: str, units: Collection[tuple[str, str]]) -> bool:
        return (STAGE_FOLDERS[stage], digests[stage]) in units

    made = {stage for stage in order if not there(stage, manifests)}
    if "upload" not in made:  # the end is there: what lies before it is of no use
        made.clear()
    for stage in reversed(order):
        if stage in made:
            made.update(parent for parent in _READS.get(stage, ()) if parent in digests and not there(parent, filled))
    if "download" in made:  # the web may answer otherwise this time, and what follows is then made anew
        made.update(order[order.index("download") :])
    lost = tuple(stage for stage in order if stage in made and there(stage, manifests) and not there(stage, filled))
    begun = {folder for folder, _ in manifests}
    return Outlook(
        tuple(stage for stage in order if stage in made), lost, tuple(stage for stage in order if STAGE_FOLDERS[stage] in begun)
    )


def forget_lost(unit: WatUnit) -> tuple[str, ...]:
    """Delete the manifests of those units of a WAT file whose files are gone and needed, so that their stages make them again; which.

    Nobody can be reading what is gone: a run beside this one is not disturbed.
    """
    work = Store(unit["work"])
    lost = outlook([entry.path for entry in work.walk()], unit["digests"]).lost
    # validate and upload keep no files that others read.
    found = tuple(stage for stage in lost if any(stage in parents for parents in _READS.values()))
    for stage in found:
        work.delete(f"{STAGE_FOLDERS[stage]}/{unit['digests'][stage]}.json")
    return found
