"""Retries beside the WAT files that they belong to: what keeps a pair from being published twice.

In: units to be published, and the newest version. Out: those that fit onto it. Guaranteed: a retry is published only beside the very
failures that it asked for, which no other unit of the version holds then; a WAT file that is published anew takes the place of its retries
too, since it may have got what they had, and by other settings: what it failed to get is due again, and a retry that is asked for
in vain costs no request while its own download is still there. What does not belong here: which failures are due (``retries.py``).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, MutableMapping

from wat2mds.errors import DataError
from wat2mds.units import PublishedUnit, round_key, round_of
from wat2mds.versions import Version

log = logging.getLogger(__name__)


def fitting(newest: Version | None, asked: Mapping[str, PublishedUnit]) -> dict[str, PublishedUnit]:
    """Without retries of failures that are no more. Raises DataError where nothing is left."""
    fits = {}
    for key, unit in asked.items():
        number = round_of(key)
        before = newest.units.get(round_key(key, number - 1)) if newest is not None and number else None
        if number and (before is None or not unit.retry_of or before.retriable_uids != unit.retry_of):
            log.warning("%s is left out: its WAT file was published anew since these failures were listed", key)
        else:
            fits[key] = unit
    if not fits:
        raise DataError(
            f"nothing to publish: the WAT files of all {len(asked)} retries were published anew since their failures were listed. "
            f"The next run of retry_downloads takes what they failed to get"
        )
    return fits


def drop_later_rounds(members: MutableMapping[str, PublishedUnit], unit: PublishedUnit) -> None:
    """Take from a segment's units the retries that followed what ``unit`` replaces; none where it is there already."""
    held = members.get(unit.key)
    if held is not None and held.same_as(unit):
        return
    later = round_of(unit.key) + 1
    while (gone := members.pop(round_key(unit.key, later), None)) is not None:
        log.info("%s goes, with %d samples: what it retried is published anew", gone.key, gone.samples)
        later += 1
